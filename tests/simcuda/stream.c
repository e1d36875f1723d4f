/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams: a queue and a thread each. A thread waits until the head of its queue may run, waits a little more if the seed
 * says so, runs it without the lock, and takes it off the queue only then: what is in a queue is not done. */
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "tests/simcuda/sim.h"

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Something that was queued before `seq` is not done. */
static bool busy_before(const struct sim_stream *stream, uint64_t seq)
{
    return stream->first && stream->first->seq < seq;
}

/* Stream 0 waits for what was queued before in every blocking stream of its context, and they for it. */
static bool behind_barrier(const struct sim_stream *stream, uint64_t seq)
{
    for (const struct sim_stream *other = sim.streams; other && stream->blocking; other = other->next) {
        bool between = other != stream && other->blocking && (other->legacy || stream->legacy) &&
                       other->object.context == stream->object.context;
        if (between && busy_before(other, seq))
            return true;
    }
    return false;
}

static bool ready(const struct sim_stream *stream)
{
    const struct sim_op *op = stream->first;
    if (!op || sim.lost != CUDA_SUCCESS || sim.holds || stream->holds)
        return false;
    if (op->kind == SIM_OP_WAIT && !op->record->done)
        return false;
    return !behind_barrier(stream, op->seq);
}

static void run_first(struct sim_stream *stream)
{
    struct sim_op *op = stream->first;
    if (!stream->delay_state)
        stream->delay_state = sim.settings.seed + (stream->number << 32);
    unsigned delay_us = sim_delay_us(&stream->delay_state);
    uint64_t address = 0;
    sim_unlock();
    if (delay_us)
        usleep(delay_us);
    bool finished = sim_guard_run(sim_op_run, op, &address);
    sim_lock();
    if (!finished) {
        const char *trouble = sim_span_trouble(address, 1, false);
        sim_violation("%s touched device address %#llx: %s", op->name, (unsigned long long)address,
                      trouble ? trouble : "it may be read, not written; or the address was not translated");
        sim.lost = CUDA_ERROR_ILLEGAL_ADDRESS;
        pthread_cond_broadcast(&sim.changed);
    }
    while (sim.lost != CUDA_SUCCESS)
        pthread_cond_wait(&sim.changed, &sim.lock);
    if (op->kind == SIM_OP_RECORD) {
        op->record->done = true;
        op->record->done_ns = now_ns();
    }
    stream->first = op->next;
    if (!stream->first)
        stream->last = NULL;
    sim_op_free(op);
    pthread_cond_broadcast(&sim.changed);
}

static void *work(void *arg)
{
    struct sim_stream *stream = arg;
    sim_lock();
    while (stream->first || !stream->dying) {
        if (ready(stream))
            run_first(stream);
        else
            pthread_cond_wait(&sim.changed, &sim.lock);
    }
    struct sim_stream **link = &sim.streams;
    while (*link != stream)
        link = &(*link)->next;
    *link = stream->next;
    if (stream->orphan)
        free(stream);
    pthread_cond_broadcast(&sim.changed);
    sim_unlock();
    return NULL;
}

static bool start_thread(struct sim_stream *stream)
{
    sigset_t all, old;
    sigfillset(&all); /* signals are for the program's own threads; but faults are ours */
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    bool started = pthread_create(&stream->thread, NULL, work, stream) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return started;
}

static struct sim_stream *start_stream(bool blocking, bool legacy, bool orphan)
{
    struct sim_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return NULL;
    sim_guard_install();
    stream->object.context = sim_current_context();
    stream->blocking = blocking;
    stream->legacy = legacy;
    stream->orphan = orphan;
    stream->joinable = true;
    stream->number = ++sim.n_streams;
    if (!start_thread(stream)) { /* it waits for the lock, which is held */
        free(stream);
        return NULL;
    }
    stream->next = sim.streams;
    sim.streams = stream;
    return stream;
}

/* A thread's own streams, one for each device. */
struct own_stream {
    struct sim_stream *stream;
    uint64_t context; /* if it is dead, so is the stream */
};
static _Thread_local struct own_stream own[SIM_MAX_DEVICES];
static pthread_key_t own_key;
static bool own_key_made; /* under sim.lock */

static void end_own(void *arg)
{
    struct own_stream *streams = arg;
    sim_lock();
    for (int i = 0; i < SIM_MAX_DEVICES; i++) {
        if (!streams[i].stream || !sim_context_alive(streams[i].context))
            continue;
        streams[i].stream->dying = true;
        if (streams[i].stream->joinable)
            pthread_detach(streams[i].stream->thread);
        streams[i].stream->joinable = false;
    }
    pthread_cond_broadcast(&sim.changed);
    sim_unlock();
}

static struct sim_stream *own_stream(uint64_t context)
{
    struct own_stream *mine = &own[sim_device_number(sim_context_device(context))];
    if (mine->stream && mine->context == context)
        return mine->stream;
    if (!own_key_made)
        own_key_made = pthread_key_create(&own_key, end_own) == 0;
    if (!own_key_made || pthread_setspecific(own_key, own))
        return NULL;
    *mine = (struct own_stream){start_stream(true, false, true), context};
    return mine->stream;
}

CUresult sim_stream_find(CUstream handle, struct sim_stream **stream)
{
    uint64_t context = sim_current_context();
    if (!handle || handle == CU_STREAM_LEGACY) {
        struct sim_device *device = sim_context_device(context);
        if (!device->legacy)
            device->legacy = start_stream(true, true, true);
        *stream = device->legacy;
        return *stream ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (handle == CU_STREAM_PER_THREAD) {
        *stream = own_stream(context);
        return *stream ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    }
    struct sim_object *object;
    CUresult rc = sim_object_find(SIM_STREAM, (uintptr_t)handle, &object);
    if (rc == CUDA_SUCCESS)
        *stream = (struct sim_stream *)object;
    return rc;
}

CUresult sim_stream_put(struct sim_stream *stream, struct sim_op *op)
{
    if (!op)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult rc = sim_op_check(op);
    if (rc == CUDA_SUCCESS && stream->capture)
        return sim_capture_put(stream, op);
    if (rc == CUDA_SUCCESS && stream->legacy)
        rc = sim_capture_forbids_legacy(stream->object.context);
    if (rc) {
        sim_op_free(op);
        return rc;
    }
    op->seq = sim.next_seq++;
    if (stream->last)
        stream->last->next = op;
    else
        stream->first = op;
    stream->last = op;
    pthread_cond_broadcast(&sim.changed);
    return CUDA_SUCCESS;
}

static bool idle_before(const struct sim_stream *stream, uint64_t seq)
{
    return !busy_before(stream, seq) && !(stream->legacy && behind_barrier(stream, seq));
}

CUresult sim_stream_drain(struct sim_stream *stream)
{
    uint64_t seq = sim.next_seq;
    while (sim.lost == CUDA_SUCCESS && !idle_before(stream, seq))
        pthread_cond_wait(&sim.changed, &sim.lock);
    return sim.lost;
}

static bool context_busy(uint64_t context, uint64_t seq)
{
    for (const struct sim_stream *stream = sim.streams; stream; stream = stream->next)
        if (stream->object.context == context && busy_before(stream, seq))
            return true;
    return false;
}

CUresult sim_streams_drain(uint64_t context)
{
    uint64_t seq = sim.next_seq;
    while (sim.lost == CUDA_SUCCESS && context_busy(context, seq))
        pthread_cond_wait(&sim.changed, &sim.lock);
    return sim.lost;
}

static struct sim_stream *first_of(uint64_t context)
{
    struct sim_stream *stream = sim.streams;
    while (stream && stream->object.context != context)
        stream = stream->next;
    return stream;
}

void sim_streams_end(uint64_t context)
{
    struct sim_stream *stream;
    while ((stream = first_of(context))) {
        stream->dying = true;
        pthread_cond_broadcast(&sim.changed);
        if (!stream->joinable) { /* its end is seen, though not waited for to the last instruction */
            pthread_cond_wait(&sim.changed, &sim.lock);
            continue;
        }
        stream->joinable = false;
        pthread_t thread = stream->thread;
        sim_unlock();
        pthread_join(thread, NULL);
        sim_lock();
    }
}

const char *sim_streams_any(bool (*uses)(const struct sim_op *, uint64_t, uint64_t), uint64_t a, uint64_t b)
{
    for (const struct sim_stream *stream = sim.streams; stream; stream = stream->next)
        for (const struct sim_op *op = stream->first; op; op = op->next)
            if (uses(op, a, b))
                return op->name;
    return NULL;
}

static CUresult create(CUstream *stream, unsigned flags)
{
    if (!stream || flags > CU_STREAM_NON_BLOCKING)
        return CUDA_ERROR_INVALID_VALUE;
    struct sim_stream *new_stream = start_stream(!(flags & CU_STREAM_NON_BLOCKING), false, false);
    if (!new_stream)
        return CUDA_ERROR_OUT_OF_MEMORY;
    sim_object_add(&new_stream->object, SIM_STREAM, new_stream->object.context);
    sim.usage.streams++;
    *stream = (CUstream)(uintptr_t)new_stream->object.id; /* NOLINT(performance-no-int-to-ptr): a number */
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    CUresult rc = sim_enter(SIM_StreamCreate);
    return rc ? rc : sim_leave(create(stream, flags));
}

/* Priorities are clamped to what a device has; here they make no difference. */
CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority)
{
    CUresult rc = sim_enter(SIM_StreamCreateWithPriority);
    return rc ? rc : sim_leave(create(stream, flags));
}

/* Queued work still runs; the thread then ends on its own. */
CUresult cuStreamDestroy_v2(CUstream handle)
{
    CUresult rc = sim_enter(SIM_StreamDestroy);
    if (rc)
        return rc;
    struct sim_object *object;
    if (!handle || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    rc = sim_object_find(SIM_STREAM, (uintptr_t)handle, &object);
    if (rc)
        return sim_leave(rc);
    struct sim_stream *stream = (struct sim_stream *)object;
    sim_capture_drop(stream);
    sim_object_remove(object);
    sim.usage.streams--;
    pthread_t thread = stream->thread;
    bool idle = !stream->first;
    stream->joinable = false;
    stream->holds = 0;
    stream->orphan = true;
    stream->dying = true;
    pthread_cond_broadcast(&sim.changed);
    sim_unlock();
    if (idle)
        pthread_join(thread, NULL);
    else
        pthread_detach(thread);
    return CUDA_SUCCESS;
}

/* Of a stream that can be asked: not while it is captured. */
static CUresult find_idle_or_not(CUstream handle, struct sim_stream **stream)
{
    CUresult rc = sim_stream_find(handle, stream);
    if (rc == CUDA_SUCCESS && (*stream)->capture) {
        sim_capture_spoil((*stream)->capture->number);
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if (rc == CUDA_SUCCESS && (*stream)->legacy)
        rc = sim_capture_forbids_legacy((*stream)->object.context);
    return rc;
}

CUresult cuStreamQuery(CUstream handle)
{
    CUresult rc = sim_enter(SIM_StreamQuery);
    if (rc)
        return rc;
    struct sim_stream *stream;
    rc = find_idle_or_not(handle, &stream);
    if (rc == CUDA_SUCCESS && !idle_before(stream, sim.next_seq))
        rc = CUDA_ERROR_NOT_READY;
    return sim_leave(rc);
}

CUresult cuStreamSynchronize(CUstream handle)
{
    CUresult rc = sim_enter(SIM_StreamSynchronize);
    if (rc)
        return rc;
    struct sim_stream *stream;
    rc = find_idle_or_not(handle, &stream);
    return sim_leave(rc ? rc : sim_stream_drain(stream));
}

/* NULL is all streams; a handle that is none is a violation. */
static void change_holds(CUstream handle, int change)
{
    struct sim_object *object = NULL;
    sim_lock();
    if (!handle)
        sim.holds += (unsigned)change;
    else if (sim_object_find(SIM_STREAM, (uintptr_t)handle, &object) == CUDA_SUCCESS)
        ((struct sim_stream *)object)->holds += (unsigned)change;
    pthread_cond_broadcast(&sim.changed);
    sim_unlock();
}

void simcuda_hold(CUstream stream)
{
    change_holds(stream, 1);
}

void simcuda_release(CUstream stream)
{
    change_holds(stream, -1);
}
