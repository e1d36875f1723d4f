/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/cuda/calls.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

#include "shim/cuda/gate.h"
#include "shim/log.h"
#include "swap/thread.h"

#define MAX_CONTEXTS 64

int shim_cuda_place_enter(struct shim_cuda_place *place, CUcontext context)
{
    const struct cuda_driver *cu = shim_cuda.cu;
    place->mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    place->has_mode = SHIM_CUDA_TWICE(cu->ThreadExchangeStreamCaptureMode(&place->mode)) == CUDA_SUCCESS;
    CUresult rc = context ? SHIM_CUDA_TWICE(cu->CtxPushCurrent(context)) : CUDA_SUCCESS;
    place->has_context = context && rc == CUDA_SUCCESS;
    if (rc == CUDA_SUCCESS)
        return 0;
    shim_cuda_place_leave(place);
    return shim_cuda_refused(rc, "cuCtxPushCurrent");
}

void shim_cuda_place_leave(const struct shim_cuda_place *place)
{
    const struct cuda_driver *cu = shim_cuda.cu;
    CUcontext popped;
    CUstreamCaptureMode mode = place->mode;
    if (place->has_context)
        (void)SHIM_CUDA_TWICE(cu->CtxPopCurrent(&popped));
    if (place->has_mode)
        (void)SHIM_CUDA_TWICE(cu->ThreadExchangeStreamCaptureMode(&mode));
}

CUmemAllocationProp shim_cuda_memory_of(CUdevice device)
{
    return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .location = {CU_MEM_LOCATION_TYPE_DEVICE, device}};
}

int shim_cuda_frame_make(CUdevice device, CUmemGenericAllocationHandle *handle)
{
    CUmemAllocationProp prop = shim_cuda_memory_of(device);
    CUresult rc = shim_cuda.cu->MemCreate(handle, shim_cuda.frame_bytes, &prop, 0);
    return rc == CUDA_SUCCESS ? 0 : shim_cuda_refused(rc, "cuMemCreate");
}

bool shim_cuda_unback(CUdeviceptr at, CUmemGenericAllocationHandle handle)
{
    CUresult rc = SHIM_CUDA_TWICE(shim_cuda.cu->MemUnmap(at, shim_cuda.frame_bytes));
    if (rc != CUDA_SUCCESS) {
        shim_log("device memory can't be unmapped: cuMemUnmap: %s", cuda_error_name(shim_cuda.cu, rc));
        return false;
    }
    rc = SHIM_CUDA_TWICE(shim_cuda.cu->MemRelease(handle));
    if (rc != CUDA_SUCCESS)
        shim_log("device memory can't be given back: cuMemRelease: %s", cuda_error_name(shim_cuda.cu, rc));
    return true;
}

/* ---- contexts and draining ---- */

/* One drain at a time, each on a thread of its own, because the driver's wait has no time limit: who has waited long enough
 * leaves the thread behind, and the next drain waits for that one first. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static CUcontext contexts[MAX_CONTEXTS]; /* under lock */
static unsigned n_contexts;
static bool draining;
static CUresult drained; /* what the last drain ended with */

static void set_up(void)
{
    swap_cond_init(&changed);
}

void shim_cuda_context_came(CUcontext context)
{
    static bool said;
    bool full = false;
    pthread_mutex_lock(&lock);
    unsigned i = 0;
    while (i < n_contexts && contexts[i] != context)
        i++;
    if (i == n_contexts && n_contexts < MAX_CONTEXTS)
        contexts[n_contexts++] = context;
    else
        full = i == MAX_CONTEXTS;
    pthread_mutex_unlock(&lock);
    if (full)
        shim_log_once(&said, "more than %d CUDA contexts: work in the others is not waited for at a suspend",
                      MAX_CONTEXTS);
}

void shim_cuda_context_went(CUcontext context)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < n_contexts; i++) {
        if (contexts[i] == context)
            contexts[i--] = contexts[--n_contexts];
    }
    pthread_mutex_unlock(&lock);
}

#define CONTEXT_IS_DESTROYED 709 /* CUDA_ERROR_CONTEXT_IS_DESTROYED of cuda.h */

static CUresult synchronize(CUcontext context)
{
    const struct cuda_driver *cu = shim_cuda.cu;
    CUcontext popped;
    CUresult rc = SHIM_CUDA_TWICE(cu->CtxPushCurrent(context));
    if ((int)rc == CONTEXT_IS_DESTROYED || rc == CUDA_ERROR_INVALID_CONTEXT)
        return CUDA_SUCCESS; /* it went in a way that nobody has seen, and its work with it */
    if (rc != CUDA_SUCCESS)
        return rc;
    rc = SHIM_CUDA_TWICE(cu->CtxSynchronize());
    (void)SHIM_CUDA_TWICE(cu->CtxPopCurrent(&popped));
    return rc;
}

static void *drain_main(void *arg)
{
    CUcontext all[MAX_CONTEXTS];
    CUresult rc = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    unsigned n = n_contexts;
    for (unsigned i = 0; i < n; i++)
        all[i] = contexts[i];
    pthread_mutex_unlock(&lock);
    for (unsigned i = 0; i < n && rc == CUDA_SUCCESS; i++)
        rc = synchronize(all[i]);
    pthread_mutex_lock(&lock);
    drained = rc;
    draining = false;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return arg;
}

static bool start_drain(void)
{
    sigset_t all, old;
    pthread_t thread;
    sigfillset(&all); /* signals are for the engine's threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    bool started = pthread_create(&thread, NULL, drain_main, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (started)
        pthread_detach(thread);
    return started;
}

/* Under lock. False: the deadline has passed. */
static bool wait_for_drain(uint64_t deadline_ns)
{
    while (draining) {
        if (!swap_cond_wait_until(&changed, &lock, deadline_ns))
            return !draining;
    }
    return true;
}

int shim_cuda_drain(uint64_t deadline_ns, CUresult *rc, char *reason, size_t size)
{
    int result = 0;
    *rc = CUDA_SUCCESS;
    pthread_once(&once, set_up);
    pthread_mutex_lock(&lock);
    if (!wait_for_drain(deadline_ns)) {
        result = -ETIMEDOUT;
    } else {
        draining = true;
        draining = start_drain();
        if (!draining)
            result = -EIO;
        else if (!wait_for_drain(deadline_ns))
            result = -ETIMEDOUT;
        else
            *rc = drained;
    }
    pthread_mutex_unlock(&lock);
    if (result == -ETIMEDOUT)
        snprintf(reason, size, "the work that is queued on the GPU did not end in time");
    else if (result)
        snprintf(reason, size, "no thread that waits for the GPU can be started");
    else if (*rc != CUDA_SUCCESS)
        snprintf(reason, size, "cuCtxSynchronize: %s", cuda_error_name(shim_cuda.cu, *rc));
    return *rc == CUDA_SUCCESS ? result : -EIO;
}
