/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/device/cuda_lane.h"

#include <pthread.h>
#include <stdlib.h>

#include "kvmm/kvmm.h"
#include "vmm/error.h"

#define TRIES 2

struct queue {
    struct vmm_copy *first, **end;
};

/* A copy on the stream, or refused by the driver: then `queued` says why. */
struct flight {
    struct vmm_copy *copy;
    CUevent event;
    CUresult queued;
    const char *call;
};

struct cuda_lane {
    const struct cuda_driver *cu;
    CUcontext context;
    CUdeviceptr window;
    size_t frame_bytes;
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t work; /* a copy was given, or closing was set */
    struct queue urgent, others;
    bool closing;

    /* The thread's own. */
    CUstream stream;
    struct flight flights[LANE_DEPTH]; /* a ring */
    unsigned first, n;
};

static void push(struct queue *queue, struct vmm_copy *copy)
{
    copy->next = NULL;
    *queue->end = copy;
    queue->end = &copy->next;
}

static struct vmm_copy *pop(struct queue *queue)
{
    struct vmm_copy *copy = queue->first;
    if (copy) {
        queue->first = copy->next;
        if (!queue->first)
            queue->end = &queue->first;
    }
    return copy;
}

/* Queues the copy's work and its event on the stream. The first call that fails names itself. */
static CUresult submit(struct cuda_lane *lane, const struct vmm_copy *copy, CUevent event, const char **call)
{
    const struct cuda_driver *cu = lane->cu;
    CUdeviceptr frame = lane->window + (CUdeviceptr)copy->frame * lane->frame_bytes;
    CUresult rc = CUDA_ERROR_INVALID_VALUE;
    switch (copy->kind) {
    case VMM_COPY_OUT:
        *call = "cuMemcpyDtoHAsync";
        rc = cu->MemcpyDtoHAsync(copy->memory, frame, lane->frame_bytes, lane->stream);
        break;
    case VMM_COPY_IN:
        *call = "cuMemcpyHtoDAsync";
        rc = cu->MemcpyHtoDAsync(frame, copy->memory, lane->frame_bytes, lane->stream);
        break;
    case VMM_COPY_ZERO:
        *call = "cuMemsetD8Async";
        rc = cu->MemsetD8Async(frame, 0, lane->frame_bytes, lane->stream);
        break;
    }
    if (rc != CUDA_SUCCESS)
        return rc;
    *call = "cuEventRecord";
    return cu->EventRecord(event, lane->stream);
}

/* After a failure the copy may be under way all the same, as when only its event was refused: nobody may have its memory
 * before it has ended. The lane's own stream, on its own thread: no step waits here. */
static void settle(struct cuda_lane *lane)
{
    for (int tries = 0; tries < TRIES; tries++) {
        if (lane->cu->StreamSynchronize(lane->stream) == CUDA_SUCCESS)
            return;
    }
}

static CUresult run_once(struct cuda_lane *lane, struct flight *flight)
{
    CUresult rc = flight->queued;
    if (rc == CUDA_SUCCESS) {
        flight->call = "cuEventSynchronize";
        rc = lane->cu->EventSynchronize(flight->event);
    }
    return rc;
}

/* Waits for the oldest flight and ends its copy. */
static void land(struct cuda_lane *lane)
{
    struct flight *flight = &lane->flights[lane->first];
    struct vmm_copy *copy = flight->copy;
    CUresult rc = run_once(lane, flight);
    for (int tries = 1; rc != CUDA_SUCCESS && tries < TRIES; tries++) {
        settle(lane);
        flight->queued = submit(lane, copy, flight->event, &flight->call);
        rc = run_once(lane, flight);
    }
    copy->status = KVMM_OK;
    if (rc != CUDA_SUCCESS) {
        settle(lane);
        copy->status =
            vmm_fail(KVMM_ERR_DEVICE, "the device failed: %s: %s", flight->call, cuda_error_name(lane->cu, rc));
    }
    lane->first = (lane->first + 1) % LANE_DEPTH;
    lane->n--;
    copy->done(copy);
}

static void *lane_main(void *arg)
{
    struct cuda_lane *lane = arg;
    for (;;) {
        struct vmm_copy *copy = NULL;
        pthread_mutex_lock(&lane->lock);
        while (lane->n < LANE_DEPTH && !copy) {
            copy = pop(&lane->urgent);
            copy = copy ? copy : pop(&lane->others);
            if (copy || lane->n > 0 || lane->closing)
                break;
            pthread_cond_wait(&lane->work, &lane->lock);
        }
        bool end = !copy && lane->n == 0;
        pthread_mutex_unlock(&lane->lock);
        if (end)
            return NULL;
        if (!copy) {
            land(lane);
            continue;
        }
        struct flight *flight = &lane->flights[(lane->first + lane->n++) % LANE_DEPTH];
        flight->copy = copy;
        flight->queued = submit(lane, copy, flight->event, &flight->call);
    }
}

static void *lane_thread(void *arg)
{
    struct cuda_lane *lane = arg;
    /* Refused once, it may be granted the second time; without it every copy fails, and says so. */
    for (int tries = 0; tries < TRIES && lane->cu->CtxSetCurrent(lane->context) != CUDA_SUCCESS;)
        tries++;
    /* Nor does a capture that another thread has begun forbid what is done here, or is it spoiled by it: this thread touches
     * no stream but its own. */
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    for (int tries = 0; tries < TRIES && lane->cu->ThreadExchangeStreamCaptureMode(&mode) != CUDA_SUCCESS;)
        tries++;
    lane_main(lane);
    lane->cu->CtxSetCurrent(NULL);
    return NULL;
}

static void destroy(struct cuda_lane *lane)
{
    for (int i = 0; i < LANE_DEPTH; i++) {
        for (int tries = 0; lane->flights[i].event && tries < TRIES; tries++) {
            if (lane->cu->EventDestroy(lane->flights[i].event) == CUDA_SUCCESS)
                break;
        }
    }
    for (int tries = 0; lane->stream && tries < TRIES; tries++) {
        if (lane->cu->StreamDestroy(lane->stream) == CUDA_SUCCESS)
            break;
    }
    free(lane);
}

int cuda_lane_open(const struct cuda_driver *cu, CUcontext context, CUdeviceptr window, size_t frame_bytes,
                   struct cuda_lane **out)
{
    struct cuda_lane *lane = calloc(1, sizeof *lane);
    if (!lane)
        return vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "no memory for a copy lane");
    lane->cu = cu;
    lane->context = context;
    lane->window = window;
    lane->frame_bytes = frame_bytes;
    lane->urgent.end = &lane->urgent.first;
    lane->others.end = &lane->others.first;
    const char *call = "cuStreamCreateWithPriority";
    /* Non-blocking: it never waits for what an engine does on the default stream. */
    CUresult rc = cu->StreamCreateWithPriority(&lane->stream, CU_STREAM_NON_BLOCKING, 0);
    for (int i = 0; rc == CUDA_SUCCESS && i < LANE_DEPTH; i++) {
        call = "cuEventCreate";
        rc = cu->EventCreate(&lane->flights[i].event, CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC);
    }
    if (rc != CUDA_SUCCESS) {
        int status = vmm_fail(KVMM_ERR_DEVICE, "a copy stream can't be made: %s: %s", call, cuda_error_name(cu, rc));
        destroy(lane);
        return status;
    }
    pthread_mutex_init(&lane->lock, NULL);
    pthread_cond_init(&lane->work, NULL);
    if (pthread_create(&lane->thread, NULL, lane_thread, lane)) {
        pthread_cond_destroy(&lane->work);
        pthread_mutex_destroy(&lane->lock);
        destroy(lane);
        return vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "a thread for a copy lane can't be started");
    }
    *out = lane;
    return KVMM_OK;
}

void cuda_lane_close(struct cuda_lane **handle)
{
    struct cuda_lane *lane = *handle;
    if (!lane)
        return;
    pthread_mutex_lock(&lane->lock);
    lane->closing = true;
    pthread_cond_signal(&lane->work);
    pthread_mutex_unlock(&lane->lock);
    pthread_join(lane->thread, NULL);
    pthread_cond_destroy(&lane->work);
    pthread_mutex_destroy(&lane->lock);
    destroy(lane);
    *handle = NULL;
}

void cuda_lane_give(struct cuda_lane *lane, struct vmm_copy *copy)
{
    pthread_mutex_lock(&lane->lock);
    push(copy->urgent ? &lane->urgent : &lane->others, copy);
    pthread_cond_signal(&lane->work);
    pthread_mutex_unlock(&lane->lock);
}
