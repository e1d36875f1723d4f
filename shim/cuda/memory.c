/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocating and freeing, how much memory is free, and what is at an address. */
#include "shim/cuda/memory.h"

#include <errno.h>

#include "shim/cuda/calls.h"
#include "shim/cuda/find.h"
#include "shim/cuda/gate.h"
#include "shim/cuda/touch.h"
#include "shim/log.h"
#include "shim/select.h"
#include "shim/start.h"
#include "swap/thread.h"

#define LONG_NS    (3600u * 1000000000ull)
#define CAPTURE_NS 1000000000ull /* that the end of a context waits for captures */

/* ---- making ---- */

/* Under the lock. */
static int need_driver(void)
{
    char reason[CUDA_DRIVER_REASON];
    CUdevice device = 0;
    int can = 0;
    if (!shim_cuda.cu)
        shim_cuda.cu = shim_cuda_driver(reason);
    if (!shim_cuda.cu)
        return shim_cuda_why(-ENOTSUP, "%s", reason);
    CUresult rc = shim_cuda.cu->CtxGetDevice(&device);
    if (rc == CUDA_SUCCESS)
        rc = shim_cuda.cu->DeviceGetAttribute(&can, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device);
    if (rc != CUDA_SUCCESS)
        return shim_cuda_refused(rc, "cuDeviceGetAttribute");
    return can ? 0 : shim_cuda_why(-ENOTSUP, "device %d has no virtual memory management (cuMemMap)", device);
}

#define SMALLEST ((uint64_t)2 << 20)

/* Physical memory comes later, and an engine that asks for more than there is must be told now, as by the driver. With a
 * budget, the user has said that more than fits may be asked for. */
static int check_room(size_t bytes)
{
    static bool said;
    uint64_t budget = shim_cuda.config.device_memory;
    size_t free_bytes = 0, total = 0;
    CUdevice device = 0;
    if (budget && budget < SMALLEST)
        return shim_cuda_why(-EINVAL,
                             "the budget of %llu bytes is less than the smallest piece of device memory, 2 MiB",
                             (unsigned long long)budget);
    if (budget) {
        if (bytes > budget)
            shim_log_once(&said,
                          "the cache has %zu bytes and the budget %llu: kernels can run only if the engine says "
                          "what it needs (kvmm_advise)",
                          bytes, (unsigned long long)budget);
        return 0;
    }
    CUresult rc = shim_cuda.cu->MemGetInfo(&free_bytes, &total);
    if (rc == CUDA_SUCCESS)
        rc = shim_cuda.cu->CtxGetDevice(&device);
    if (rc != CUDA_SUCCESS)
        return shim_cuda_refused(rc, "cuMemGetInfo");
    uint64_t owed = shim_cuda_owed(device);
    if (owed > free_bytes || bytes > free_bytes - owed)
        return shim_cuda_why(-ENOMEM, "%zu bytes are asked for, and %zu are free, of which %llu are spoken for", bytes,
                             free_bytes, (unsigned long long)owed);
    return 0;
}

int shim_cuda_allocate(size_t bytes, bool tentative, CUdeviceptr *ptr)
{
    static bool said; /* under the lock */
    struct shim_cuda_range *range = NULL;
    shim_cuda_lock();
    int result = need_driver();
    if (result == 0)
        result = check_room(bytes);
    if (result == 0)
        result = shim_cuda_range_make(bytes, tentative, &range);
    if (result == 0)
        *ptr = shim_cuda_base(range);
    else if (result != -ENOMEM)
        shim_log_once(&said, "%zu bytes of the cache stay with the CUDA driver: %s", bytes, shim_cuda.why);
    CUcontext context = range ? range->context : NULL;
    shim_cuda_unlock();
    if (context) {
        shim_cuda_context_came(context);
        shim_control_start();
    }
    return result;
}

CUresult cuMemAlloc_v2(CUdeviceptr *ptr, size_t bytes)
{
    __typeof__(&cuMemAlloc_v2) real = SHIM_CUDA_REAL(cuMemAlloc_v2);
    if (!real)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (!shim_cuda.open || !ptr || bytes < SHIM_THRESHOLD)
        return real(ptr, bytes);
    enum shim_verdict verdict = shim_ask("cuMemAlloc", bytes);
    if (verdict == SHIM_PASS)
        return real(ptr, bytes);
    /* While all is suspended the device's memory is somebody else's: an engine that asks for more waits. */
    CUresult rc = shim_cuda_gate_enter();
    if (rc != CUDA_SUCCESS)
        return rc;
    int result = shim_cuda_allocate(bytes, verdict == SHIM_TENTATIVE, ptr);
    shim_cuda_gate_leave();
    if (result == -ENOMEM)
        return CUDA_ERROR_OUT_OF_MEMORY;
    return result ? real(ptr, bytes) : CUDA_SUCCESS;
}

/* ---- freeing ---- */

CUresult shim_cuda_free(CUdeviceptr ptr)
{
    char reason[CUDA_DRIVER_REASON] = "";
    static bool said;
    CUresult rc = CUDA_SUCCESS;
    struct shim_cuda_place place;
    struct shim_cuda_range *range = shim_cuda_range_at(ptr);
    if (!range || shim_cuda_base(range) != ptr)
        return CUDA_ERROR_INVALID_VALUE;
    if (!shim_cuda_gate_drain_begin(0))
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED; /* the driver's own cuMemFree says so, too */
    if (shim_cuda_drain(swap_now_ns() + LONG_NS, &rc, reason, sizeof reason)) {
        rc = rc == CUDA_SUCCESS ? CUDA_ERROR_UNKNOWN : rc;
        if (rc != CUDA_ERROR_DEINITIALIZED) /* the process ends, and CUDA is gone already */
            shim_log_once(&said, "a cache can't be freed: %s", reason);
    } else {
        shim_cuda_lock();
        if (shim_cuda_base(range) != ptr)
            rc = CUDA_ERROR_INVALID_VALUE; /* freed twice at once */
        else if (shim_cuda_place_enter(&place, range->context))
            rc = CUDA_ERROR_UNKNOWN;
        else {
            shim_cuda_range_drop(range);
            shim_cuda_place_leave(&place);
        }
        shim_cuda_unlock();
    }
    shim_cuda_gate_drain_end();
    return rc;
}

void shim_cuda_free_context(CUcontext context)
{
    struct shim_cuda_place place;
    char reason[CUDA_DRIVER_REASON];
    CUresult rc;
    if (shim_cuda.n_ranges == 0)
        return;
    /* A capture that goes on now goes with a context, and nothing of it runs. */
    bool drains = shim_cuda_gate_drain_begin(swap_now_ns() + CAPTURE_NS);
    if (drains)
        (void)shim_cuda_drain(swap_now_ns() + LONG_NS, &rc, reason, sizeof reason);
    shim_cuda_lock();
    if (shim_cuda_place_enter(&place, context) == 0) {
        for (size_t i = 0; i < shim_cuda.n_slots; i++) {
            if (shim_cuda.ranges[i].end && shim_cuda.ranges[i].context == context)
                shim_cuda_range_drop(&shim_cuda.ranges[i]);
        }
        shim_cuda_tiers_leave_context(context);
        shim_cuda_place_leave(&place);
    }
    shim_cuda_unlock();
    if (drains)
        shim_cuda_gate_drain_end();
}

CUresult cuMemFree_v2(CUdeviceptr ptr)
{
    __typeof__(&cuMemFree_v2) real = SHIM_CUDA_REAL(cuMemFree_v2);
    if (!real)
        return CUDA_ERROR_NOT_INITIALIZED;
    return shim_cuda_range_at(ptr) ? shim_cuda_free(ptr) : real(ptr);
}

/* Freeing in a stream's order what was not allocated so: the driver allows it. Waiting for the stream is later than asked
 * for, and never too early. */
#define FREE_ASYNC(symbol)                                                                                             \
    CUresult symbol(CUdeviceptr ptr, CUstream stream)                                                                  \
    {                                                                                                                  \
        __typeof__(&symbol) real = SHIM_CUDA_REAL(symbol);                                                             \
        if (!real)                                                                                                     \
            return CUDA_ERROR_NOT_INITIALIZED;                                                                         \
        return shim_cuda_range_at(ptr) ? shim_cuda_free(ptr) : real(ptr, stream);                                      \
    }
FREE_ASYNC(cuMemFreeAsync)
FREE_ASYNC(cuMemFreeAsync_ptsz)

/* ---- asking ---- */

/* What the cache does not hold yet, or not now, is no less the engine's: it sees what it would see without the shim. */
CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    __typeof__(&cuMemGetInfo_v2) real = SHIM_CUDA_REAL(cuMemGetInfo_v2);
    CUdevice device = 0;
    if (!real)
        return CUDA_ERROR_NOT_INITIALIZED;
    CUresult rc = real(free_bytes, total);
    if (rc == CUDA_SUCCESS && shim_cuda.n_ranges)
        rc = shim_cuda.cu->CtxGetDevice(&device);
    if (rc == CUDA_SUCCESS && shim_cuda.n_ranges) {
        uint64_t owed = shim_cuda_owed(device);
        *free_bytes = *free_bytes > owed ? *free_bytes - owed : 0;
    }
    return rc;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr ptr)
{
    __typeof__(&cuMemGetAddressRange_v2) real = SHIM_CUDA_REAL(cuMemGetAddressRange_v2);
    const struct shim_cuda_range *range = shim_cuda_range_at(ptr);
    if (!real)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (!range)
        return real(base, bytes, ptr);
    if (base)
        *base = shim_cuda_base(range);
    if (bytes)
        *bytes = range->bytes;
    return CUDA_SUCCESS;
}

/* What is the same for all of a range and would be different, or unknown, for a frame of it. False: the driver knows it. */
static bool answer(const struct shim_cuda_range *range, CUpointer_attribute attribute, CUdeviceptr ptr, void *data)
{
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)data = range->context;
        return true;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)data = CU_MEMORYTYPE_DEVICE;
        return true;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)data = ptr;
        return true;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = range->device;
        return true;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)data = shim_cuda_base(range);
        return true;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)data = range->bytes;
        return true;
    default:
        return false;
    }
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
    __typeof__(&cuPointerGetAttribute) real = SHIM_CUDA_REAL(cuPointerGetAttribute);
    const struct shim_cuda_range *range = shim_cuda_range_at(ptr);
    bool inside;
    if (!real)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (!range || !data)
        return real(data, attribute, ptr);
    if (answer(range, attribute, ptr, data))
        return CUDA_SUCCESS;
    CUresult rc =
        shim_cuda_enter_spans(&inside, &(struct shim_cuda_span){ptr, 1}, 1); /* the driver knows what is there */
    if (rc != CUDA_SUCCESS)
        return rc;
    rc = real(data, attribute, ptr);
    shim_cuda_leave(inside);
    return rc;
}

CUresult cuPointerGetAttributes(unsigned n, CUpointer_attribute *attributes, void **data, CUdeviceptr ptr)
{
    __typeof__(&cuPointerGetAttributes) real = SHIM_CUDA_REAL(cuPointerGetAttributes);
    const struct shim_cuda_range *range = shim_cuda_range_at(ptr);
    bool inside;
    if (!real)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (!range || !attributes || !data)
        return real(n, attributes, data, ptr);
    CUresult rc = shim_cuda_enter_spans(&inside, &(struct shim_cuda_span){ptr, 1}, 1);
    if (rc != CUDA_SUCCESS)
        return rc;
    rc = real(n, attributes, data, ptr);
    shim_cuda_leave(inside);
    for (unsigned i = 0; rc == CUDA_SUCCESS && i < n; i++) {
        if (data[i])
            (void)answer(range, attributes[i], ptr, data[i]);
    }
    return rc;
}
