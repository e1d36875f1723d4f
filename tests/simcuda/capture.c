/* SPDX-License-Identifier: Apache-2.0
 *
 * Capture: what is put on a capturing stream is kept instead of run. A call that the mode forbids fails and spoils the
 * capture, whose end then says so. One stream a capture: forks into a second stream are not supported.
 * Source: CUDA Driver API reference, cuStreamBeginCapture and cuThreadExchangeStreamCaptureMode. */
#include <stdlib.h>

#include "tests/simcuda/sim.h"

struct graph { /* a graph, or an executable one */
    struct sim_object object;
    struct sim_op *first;
    struct sim_record *last_launch; /* executable: launches of one follow each other */
};

static uint64_t n_captures; /* under sim.lock */
static _Thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

CUresult sim_capture_put(struct sim_stream *stream, struct sim_op *op)
{
    struct sim_capture *capture = stream->capture;
    if (capture->spoiled) {
        sim_op_free(op);
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    if (capture->last)
        capture->last->next = op;
    else
        capture->first = op;
    capture->last = op;
    return CUDA_SUCCESS;
}

CUresult sim_capture_forbids_unsafe(void)
{
    CUresult rc = CUDA_SUCCESS;
    if (thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
        return rc;
    for (struct sim_stream *stream = sim.streams; stream; stream = stream->next) {
        struct sim_capture *capture = stream->capture;
        if (!capture || capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED)
            continue;
        bool all = thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL && capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (!all && !pthread_equal(capture->owner, pthread_self()))
            continue;
        capture->spoiled = true;
        rc = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return rc;
}

/* Spoils the captures of a context's streams, or of its blocking ones only. Whether there were any. */
static bool spoil_all(uint64_t context, bool blocking_only)
{
    bool any = false;
    for (struct sim_stream *stream = sim.streams; stream; stream = stream->next) {
        if (!stream->capture || stream->object.context != context || (blocking_only && !stream->blocking))
            continue;
        stream->capture->spoiled = true;
        any = true;
    }
    return any;
}

CUresult sim_capture_forbids_legacy(uint64_t context)
{
    return spoil_all(context, true) ? CUDA_ERROR_STREAM_CAPTURE_IMPLICIT : CUDA_SUCCESS;
}

CUresult sim_capture_forbids_context(uint64_t context)
{
    return spoil_all(context, false) ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

void sim_capture_spoil(uint64_t number)
{
    for (struct sim_stream *stream = sim.streams; stream; stream = stream->next)
        if (stream->capture && stream->capture->number == number)
            stream->capture->spoiled = true;
}

void sim_capture_drop(struct sim_stream *stream)
{
    if (!stream->capture)
        return;
    sim_ops_free(stream->capture->first);
    free(stream->capture);
    stream->capture = NULL;
    sim.usage.captures--;
}

void sim_captures_end(uint64_t context)
{
    for (struct sim_stream *stream = sim.streams; stream; stream = stream->next)
        if (stream->object.context == context)
            sim_capture_drop(stream);
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    CUresult rc = sim_enter(SIM_ThreadExchangeStreamCaptureMode);
    if (rc)
        return rc;
    if (!mode || (unsigned)*mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    CUstreamCaptureMode old = thread_mode;
    thread_mode = *mode;
    *mode = old;
    return sim_leave(CUDA_SUCCESS);
}

static CUresult begin(CUstream handle, CUstreamCaptureMode mode)
{
    struct sim_stream *stream;
    CUresult rc =
        (unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED ? CUDA_ERROR_INVALID_VALUE : sim_stream_find(handle, &stream);
    if (rc)
        return rc;
    if (stream->legacy)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture)
        return SIM_ERROR_ILLEGAL_STATE;
    struct sim_capture *capture = calloc(1, sizeof *capture);
    if (!capture)
        return CUDA_ERROR_OUT_OF_MEMORY;
    capture->number = ++n_captures;
    capture->mode = mode;
    capture->owner = pthread_self();
    stream->capture = capture;
    sim.usage.captures++;
    return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode)
{
    CUresult rc = sim_enter(SIM_StreamBeginCapture);
    return rc ? rc : sim_leave(begin(stream, mode));
}

static CUresult end(CUstream handle, CUgraph *graph)
{
    struct sim_stream *stream;
    CUresult rc = graph ? sim_stream_find(handle, &stream) : CUDA_ERROR_INVALID_VALUE;
    if (rc)
        return rc;
    struct sim_capture *capture = stream->capture;
    if (!capture)
        return SIM_ERROR_ILLEGAL_STATE;
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(capture->owner, pthread_self()))
        return SIM_ERROR_CAPTURE_WRONG_THREAD;
    struct graph *made = capture->spoiled ? NULL : calloc(1, sizeof *made);
    if (!made) {
        rc = capture->spoiled ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_ERROR_OUT_OF_MEMORY;
        sim_capture_drop(stream);
        *graph = NULL; /* so says the reference, of a spoiled capture */
        return rc;
    }
    made->first = capture->first;
    capture->first = NULL;
    sim_capture_drop(stream);
    sim_object_add(&made->object, SIM_GRAPH, 0);
    sim.usage.graphs++;
    *graph = (CUgraph)(uintptr_t)made->object.id; /* NOLINT(performance-no-int-to-ptr): a number */
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    CUresult rc = sim_enter(SIM_StreamEndCapture);
    return rc ? rc : sim_leave(end(stream, graph));
}

CUresult cuStreamIsCapturing(CUstream handle, sim_capture_status *status)
{
    CUresult rc = sim_enter(SIM_StreamIsCapturing);
    if (rc)
        return rc;
    struct sim_stream *stream;
    rc = status ? sim_stream_find(handle, &stream) : CUDA_ERROR_INVALID_VALUE;
    if (rc == CUDA_SUCCESS)
        *status = !stream->capture ? 0 : stream->capture->spoiled ? 2 : 1;
    return sim_leave(rc);
}

/* Copies of all operations, in their order. False: there is no memory for them. */
static bool clone_all(const struct sim_op *from, struct sim_op **copies)
{
    struct sim_op *first = NULL, **link = &first;
    for (; from; from = from->next) {
        *link = sim_op_clone(from);
        if (!*link) {
            sim_ops_free(first);
            return false;
        }
        link = &(*link)->next;
    }
    *copies = first;
    return true;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph handle, unsigned long long flags)
{
    CUresult rc = sim_enter(SIM_GraphInstantiateWithFlags);
    if (rc)
        return rc;
    struct sim_object *graph;
    rc = exec ? sim_object_find(SIM_GRAPH, (uintptr_t)handle, &graph) : CUDA_ERROR_INVALID_VALUE;
    if (rc)
        return sim_leave(rc);
    struct graph *made = calloc(1, sizeof *made);
    if (!made || !clone_all(((struct graph *)graph)->first, &made->first)) {
        free(made);
        return sim_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    sim_object_add(&made->object, SIM_EXEC, sim_current_context());
    sim.usage.graph_execs++;
    *exec = (CUgraphExec)(uintptr_t)made->object.id; /* NOLINT(performance-no-int-to-ptr): a number */
    return sim_leave(CUDA_SUCCESS);
}

static struct sim_op *ordering(enum sim_op_kind kind, struct sim_record *record)
{
    struct sim_op *op = sim_op_new(kind, "graph launch");
    if (op)
        op->record = sim_record_keep(record);
    return op;
}

/* All operations of one launch: after the launch before, and with a mark at the end that the next waits for. NULL: no
 * memory. */
static struct sim_op *launch_ops(const struct graph *exec, struct sim_record *launched)
{
    struct sim_op *ops, *wait = NULL, *mark = ordering(SIM_OP_RECORD, launched);
    if (!mark || !clone_all(exec->first, &ops))
        goto err_mark;
    if (exec->last_launch && !(wait = ordering(SIM_OP_WAIT, exec->last_launch)))
        goto err_ops;
    struct sim_op **link = &ops;
    while (*link)
        link = &(*link)->next;
    *link = mark;
    if (!wait)
        return ops;
    wait->next = ops;
    return wait;

err_ops:
    sim_ops_free(ops);
err_mark:
    sim_op_free(mark);
    return NULL;
}

static CUresult put_all(struct sim_stream *stream, struct sim_op *ops)
{
    while (ops) {
        struct sim_op *op = ops;
        ops = op->next;
        op->next = NULL;
        CUresult rc = sim_stream_put(stream, op);
        if (rc) {
            sim_ops_free(ops);
            return rc;
        }
    }
    return CUDA_SUCCESS;
}

static CUresult launch(struct graph *exec, struct sim_stream *stream)
{
    for (const struct sim_op *op = exec->first; op; op = op->next) {
        CUresult rc = sim_op_check(op); /* all of it or nothing */
        if (rc)
            return rc;
    }
    struct sim_op *ops = NULL;
    if (stream->capture) /* a graph within a graph */
        return clone_all(exec->first, &ops) ? put_all(stream, ops) : CUDA_ERROR_OUT_OF_MEMORY;
    struct sim_record *launched = sim_record_new();
    ops = launched ? launch_ops(exec, launched) : NULL;
    CUresult rc = ops ? put_all(stream, ops) : CUDA_ERROR_OUT_OF_MEMORY;
    if (rc) {
        sim_record_drop(launched);
        return rc;
    }
    sim_record_drop(exec->last_launch);
    exec->last_launch = launched;
    return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec handle, CUstream stream_handle)
{
    CUresult rc = sim_enter(SIM_GraphLaunch);
    if (rc)
        return rc;
    struct sim_object *exec;
    struct sim_stream *stream;
    rc = sim_object_find(SIM_EXEC, (uintptr_t)handle, &exec);
    if (rc == CUDA_SUCCESS)
        rc = sim_stream_find(stream_handle, &stream);
    return sim_leave(rc ? rc : launch((struct graph *)exec, stream));
}

static CUresult destroy(enum sim_kind kind, uint64_t id, uint64_t *count)
{
    struct sim_object *object;
    CUresult rc = sim_object_find(kind, id, &object);
    if (rc)
        return rc;
    struct graph *graph = (struct graph *)object;
    sim_object_remove(object);
    sim_ops_free(graph->first);
    sim_record_drop(graph->last_launch);
    free(graph);
    --*count;
    return CUDA_SUCCESS;
}

/* What was launched still runs: each launch has copies of its own. */
CUresult cuGraphExecDestroy(CUgraphExec exec)
{
    CUresult rc = sim_enter(SIM_GraphExecDestroy);
    return rc ? rc : sim_leave(destroy(SIM_EXEC, (uintptr_t)exec, &sim.usage.graph_execs));
}

CUresult cuGraphDestroy(CUgraph graph)
{
    CUresult rc = sim_enter(SIM_GraphDestroy);
    return rc ? rc : sim_leave(destroy(SIM_GRAPH, (uintptr_t)graph, &sim.usage.graphs));
}
