/* SPDX-License-Identifier: Apache-2.0
 *
 * Events: each recording is an object of its own (struct sim_record), so that a wait stays with the recording that was the
 * latest when the wait was called, whatever is recorded later. */
#include <stdlib.h>

#include "tests/simcuda/sim.h"

static CUresult find(CUevent handle, struct sim_event **event)
{
    struct sim_object *object;
    CUresult rc = sim_object_find(SIM_EVENT, (uintptr_t)handle, &object);
    if (rc == CUDA_SUCCESS)
        *event = (struct sim_event *)object;
    return rc;
}

CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    CUresult rc = sim_enter(SIM_EventCreate);
    if (rc)
        return rc;
    if (!event || flags > (CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING))
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    struct sim_event *new_event = calloc(1, sizeof *new_event);
    if (!new_event)
        return sim_leave(CUDA_ERROR_OUT_OF_MEMORY);
    new_event->flags = flags;
    sim_object_add(&new_event->object, SIM_EVENT, sim_current_context());
    sim.usage.events++;
    *event = (CUevent)(uintptr_t)new_event->object.id; /* NOLINT(performance-no-int-to-ptr): a number */
    return sim_leave(CUDA_SUCCESS);
}

CUresult cuEventDestroy_v2(CUevent handle)
{
    CUresult rc = sim_enter(SIM_EventDestroy);
    if (rc)
        return rc;
    struct sim_event *event;
    rc = find(handle, &event);
    if (rc)
        return sim_leave(rc);
    sim_object_remove(&event->object);
    sim_record_drop(event->record);
    free(event);
    sim.usage.events--;
    return sim_leave(CUDA_SUCCESS);
}

/* In a capture only the order is kept: a replay does not record the event. */
static void record_in_capture(struct sim_event *event, const struct sim_stream *stream)
{
    sim_record_drop(event->record);
    event->record = NULL;
    event->captured_in = stream->capture->number;
}

static CUresult record(struct sim_event *event, struct sim_stream *stream)
{
    if (event->object.context != stream->object.context)
        return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture && !stream->capture->spoiled) {
        record_in_capture(event, stream);
        return CUDA_SUCCESS;
    }
    struct sim_record *latest = sim_record_new();
    struct sim_op *op = latest ? sim_op_new(SIM_OP_RECORD, "event record") : NULL;
    if (!op) {
        sim_record_drop(latest);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    op->record = sim_record_keep(latest);
    CUresult rc = sim_stream_put(stream, op);
    if (rc) {
        sim_record_drop(latest);
        return rc;
    }
    sim_record_drop(event->record);
    event->record = latest;
    event->captured_in = 0;
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent handle, CUstream stream_handle)
{
    CUresult rc = sim_enter(SIM_EventRecord);
    if (rc)
        return rc;
    struct sim_event *event;
    struct sim_stream *stream;
    rc = find(handle, &event);
    if (rc == CUDA_SUCCESS)
        rc = sim_stream_find(stream_handle, &stream);
    return sim_leave(rc ? rc : record(event, stream));
}

/* Waits between a capture and anything outside it: simcuda captures one stream, without forks. */
static CUresult wait_across_captures(const struct sim_stream *stream, const struct sim_event *event)
{
    if (event->captured_in) {
        sim_violation("a wait for a captured event on another stream: simcuda captures no forks");
        sim_capture_spoil(event->captured_in);
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    sim_capture_spoil(stream->capture->number);
    return SIM_ERROR_CAPTURE_ISOLATION;
}

static CUresult wait(struct sim_stream *stream, struct sim_event *event)
{
    if (stream->capture && stream->capture->spoiled)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (stream->capture && event->captured_in == stream->capture->number)
        return CUDA_SUCCESS;
    if (event->captured_in || (stream->capture && event->record))
        return wait_across_captures(stream, event);
    if (!event->record)
        return CUDA_SUCCESS; /* never recorded: nothing to wait for */
    struct sim_op *op = sim_op_new(SIM_OP_WAIT, "event wait");
    if (op)
        op->record = sim_record_keep(event->record);
    return sim_stream_put(stream, op);
}

CUresult cuStreamWaitEvent(CUstream stream_handle, CUevent handle, unsigned flags)
{
    CUresult rc = sim_enter(SIM_StreamWaitEvent);
    if (rc)
        return rc;
    struct sim_event *event;
    struct sim_stream *stream;
    rc = flags ? CUDA_ERROR_INVALID_VALUE : find(handle, &event);
    if (rc == CUDA_SUCCESS)
        rc = sim_stream_find(stream_handle, &stream);
    return sim_leave(rc ? rc : wait(stream, event));
}

static CUresult find_recorded(CUevent handle, struct sim_event **event)
{
    CUresult rc = find(handle, event);
    if (rc == CUDA_SUCCESS && (*event)->captured_in) {
        sim_capture_spoil((*event)->captured_in);
        return CUDA_ERROR_CAPTURED_EVENT;
    }
    return rc;
}

CUresult cuEventQuery(CUevent handle)
{
    CUresult rc = sim_enter(SIM_EventQuery);
    if (rc)
        return rc;
    struct sim_event *event;
    rc = find_recorded(handle, &event);
    if (rc == CUDA_SUCCESS && event->record && !event->record->done)
        rc = CUDA_ERROR_NOT_READY;
    return sim_leave(rc);
}

CUresult cuEventSynchronize(CUevent handle)
{
    CUresult rc = sim_enter(SIM_EventSynchronize);
    if (rc)
        return rc;
    struct sim_event *event;
    rc = find_recorded(handle, &event);
    if (rc || !event->record)
        return sim_leave(rc);
    struct sim_record *latest = sim_record_keep(event->record);
    while (sim.lost == CUDA_SUCCESS && !latest->done)
        pthread_cond_wait(&sim.changed, &sim.lock);
    sim_record_drop(latest);
    return sim_leave(sim.lost);
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    CUresult rc = sim_enter(SIM_EventElapsedTime);
    if (rc)
        return rc;
    struct sim_event *a, *b;
    rc = find(start, &a);
    if (rc == CUDA_SUCCESS)
        rc = find(end, &b);
    if (rc)
        return sim_leave(rc);
    if (!milliseconds)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    if (!a->record || !b->record || (a->flags | b->flags) & CU_EVENT_DISABLE_TIMING)
        return sim_leave(CUDA_ERROR_INVALID_HANDLE);
    if (!a->record->done || !b->record->done)
        return sim_leave(CUDA_ERROR_NOT_READY);
    *milliseconds = (float)((double)(int64_t)(b->record->done_ns - a->record->done_ns) / 1e6);
    return sim_leave(CUDA_SUCCESS);
}
