/* SPDX-License-Identifier: Apache-2.0
 *
 * The CUDA device. A frame is one physical allocation (cuMemCreate), mapped for its life at its place in the *window*, a
 * range of this device's own, where copies and clears reach it; a sequence's range has it mapped a second time while it is
 * resident. Two mappings of one allocation are coherent between operations on the device, and a copy never runs beside a
 * kernel that could touch the same frame (CUDA C++ programming guide, virtual memory management, virtual aliasing).
 *
 * The driver is called with the device's primary context pushed on the calling thread and popped again, so an engine's
 * own current context stays what it was. A call whose work is to give something back is tried once more if it is refused:
 * a refusal would be a leak. Sticky errors, after which CUDA refuses everything, mark the device lost: then there is nothing
 * to give back, and what frees things succeeds. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvmm/kvmm.h"
#include "vmm/device/cuda_lane.h"
#include "vmm/device/device.h"
#include "vmm/device/numbers.h"
#include "vmm/error.h"

#define TRIES     2
#define MAX_FRAME ((size_t)64 << 20)

struct cuda_fence {
    CUevent event;
    struct cuda_fence *next; /* in free_fences */
};

struct cuda_device {
    struct vmm_device base;
    const struct cuda_driver *cu;
    CUdevice device;
    CUcontext context;
    size_t granularity;
    CUmemAllocationProp prop;
    CUmemAccessDesc access;
    CUdeviceptr window;                    /* max_frames frames, and one for the zeros */
    CUmemGenericAllocationHandle *handles; /* of the frames that are made */
    struct cuda_lane *out, *in;
    bool has_zeros; /* frame max_frames is made, and reads as zero; under the manager's lock */
    atomic_bool lost;

    struct vmm_numbers numbers;

    pthread_mutex_t lock; /* of what follows */
    struct cuda_fence *free_fences;
};

static struct cuda_device *cuda_of(struct vmm_device *dev)
{
    return (struct cuda_device *)dev;
}

/* Errors that CUDA returns for every later call too (CUDA driver API, CUresult: "leaves the process in an inconsistent
 * state"). */
static bool is_sticky(CUresult rc)
{
    return rc == CUDA_ERROR_ECC_UNCORRECTABLE || rc == CUDA_ERROR_DEINITIALIZED ||
           (rc >= CUDA_ERROR_ILLEGAL_ADDRESS && rc <= CUDA_ERROR_LAUNCH_FAILED &&
            rc != CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES && rc != CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED &&
            rc != CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

static bool is_lost(struct cuda_device *cuda)
{
    return atomic_load_explicit(&cuda->lost, memory_order_relaxed);
}

static int fail(struct cuda_device *cuda, CUresult rc, int status, const char *what)
{
    if (is_sticky(rc))
        atomic_store_explicit(&cuda->lost, true, memory_order_relaxed);
    return vmm_fail(status, "%s: %s: %s%s", cuda->base.name, what, cuda_error_name(cuda->cu, rc),
                    is_lost(cuda) ? " (the device is lost)" : "");
}

/* Makes the primary context current; leave() undoes it. */
static int enter(struct cuda_device *cuda)
{
    CUresult rc = cuda->cu->CtxPushCurrent(cuda->context);
    return rc == CUDA_SUCCESS ? KVMM_OK : fail(cuda, rc, KVMM_ERR_DEVICE, "cuCtxPushCurrent");
}

static void leave(struct cuda_device *cuda)
{
    CUcontext popped;
    for (int tries = 0; tries < TRIES && cuda->cu->CtxPopCurrent(&popped) != CUDA_SUCCESS;)
        tries++;
}

/* enter() for what gives something back. */
static bool insist(struct cuda_device *cuda)
{
    struct vmm_message message;
    vmm_message_save(&message);
    bool in = enter(cuda) == KVMM_OK;
    if (!in)
        in = enter(cuda) == KVMM_OK;
    vmm_message_restore(&message);
    return in;
}

/* Makes the call, and once more if it is refused; true if it was granted. */
#define TWICE(call)                                                                                                    \
    ({                                                                                                                 \
        CUresult rc_ = (call);                                                                                         \
        if (rc_ != CUDA_SUCCESS)                                                                                       \
            rc_ = (call);                                                                                              \
        rc_ == CUDA_SUCCESS;                                                                                           \
    })

/* ---- addresses ---- */

static int reserve(struct cuda_device *cuda, size_t bytes, CUdeviceptr *base)
{
    CUresult rc = cuda->cu->MemAddressReserve(base, bytes, cuda->base.frame_bytes, 0, 0);
    if (rc == CUDA_SUCCESS)
        return KVMM_OK;
    char what[96];
    snprintf(what, sizeof what, "a range of %zu bytes can't be reserved: cuMemAddressReserve", bytes);
    return fail(cuda, rc, is_sticky(rc) ? KVMM_ERR_DEVICE : KVMM_ERR_NO_ADDRESS_SPACE, what);
}

static int cuda_reserve(struct vmm_device *dev, size_t bytes, void **base)
{
    struct cuda_device *cuda = cuda_of(dev);
    CUdeviceptr ptr;
    int rc = enter(cuda);
    if (rc)
        return rc;
    rc = reserve(cuda, bytes, &ptr);
    leave(cuda);
    if (rc == KVMM_OK)
        *base = (void *)(uintptr_t)ptr;
    return rc;
}

static void unreserve(struct cuda_device *cuda, CUdeviceptr base, size_t bytes)
{
    (void)TWICE(cuda->cu->MemAddressFree(base, bytes));
}

static void cuda_unreserve(struct vmm_device *dev, void *base, size_t bytes)
{
    struct cuda_device *cuda = cuda_of(dev);
    if (!insist(cuda))
        return;
    unreserve(cuda, (uintptr_t)base, bytes);
    leave(cuda);
}

/* ---- frames ---- */

static size_t window_bytes(const struct cuda_device *cuda)
{
    return ((size_t)cuda->base.max_frames + 1) * cuda->base.frame_bytes;
}

static CUdeviceptr place_of(const struct cuda_device *cuda, uint32_t frame)
{
    return cuda->window + (CUdeviceptr)frame * cuda->base.frame_bytes;
}

/* Physical memory at the frame's place in the window. */
static int make(struct cuda_device *cuda, uint32_t id)
{
    const struct cuda_driver *cu = cuda->cu;
    size_t bytes = cuda->base.frame_bytes;
    CUmemGenericAllocationHandle handle;
    CUresult rc = cu->MemCreate(&handle, bytes, &cuda->prop, 0);
    if (rc != CUDA_SUCCESS)
        return fail(cuda, rc, rc == CUDA_ERROR_OUT_OF_MEMORY ? KVMM_ERR_NO_DEVICE_MEMORY : KVMM_ERR_DEVICE,
                    "no memory for a frame: cuMemCreate");
    int status;
    rc = cu->MemMap(place_of(cuda, id), bytes, 0, handle, 0);
    if (rc != CUDA_SUCCESS) {
        status = fail(cuda, rc, KVMM_ERR_DEVICE, "a frame can't be mapped: cuMemMap");
        goto err_release;
    }
    rc = cu->MemSetAccess(place_of(cuda, id), bytes, &cuda->access, 1);
    if (rc != CUDA_SUCCESS) {
        status = fail(cuda, rc, KVMM_ERR_DEVICE, "a frame can't be mapped: cuMemSetAccess");
        goto err_unmap;
    }
    cuda->handles[id] = handle;
    return KVMM_OK;

err_unmap:
    (void)TWICE(cu->MemUnmap(place_of(cuda, id), bytes));
err_release:
    (void)TWICE(cu->MemRelease(handle));
    return status;
}

static void unmake(struct cuda_device *cuda, uint32_t id)
{
    (void)TWICE(cuda->cu->MemUnmap(place_of(cuda, id), cuda->base.frame_bytes));
    (void)TWICE(cuda->cu->MemRelease(cuda->handles[id]));
}

static int cuda_frame_create(struct vmm_device *dev, uint32_t *frame)
{
    struct cuda_device *cuda = cuda_of(dev);
    uint32_t id = vmm_numbers_take(&cuda->numbers);
    if (id == UINT32_MAX)
        return vmm_fail(KVMM_ERR_NO_DEVICE_MEMORY, "all %u frames of %s are made", dev->max_frames, dev->name);
    int rc = enter(cuda);
    if (rc == KVMM_OK) {
        rc = make(cuda, id);
        leave(cuda);
    }
    if (rc == KVMM_OK)
        *frame = id;
    else
        vmm_numbers_give(&cuda->numbers, id);
    return rc;
}

static void cuda_frame_release(struct vmm_device *dev, uint32_t frame)
{
    struct cuda_device *cuda = cuda_of(dev);
    if (insist(cuda)) {
        unmake(cuda, frame);
        leave(cuda);
    }
    vmm_numbers_give(&cuda->numbers, frame);
}

/* ---- mappings ---- */

static CUresult map_frames(struct cuda_device *cuda, CUdeviceptr base, const uint32_t *frames, size_t n, size_t *done,
                           const char **call)
{
    size_t bytes = cuda->base.frame_bytes;
    *call = "cuMemMap";
    for (*done = 0; *done < n; (*done)++) {
        CUresult rc = cuda->cu->MemMap(base + *done * bytes, bytes, 0, cuda->handles[frames[*done]], 0);
        if (rc != CUDA_SUCCESS)
            return rc;
    }
    *call = "cuMemSetAccess"; /* one call for the span: it costs 25 times as much as a map */
    return cuda->cu->MemSetAccess(base, n * bytes, &cuda->access, 1);
}

static int cuda_map(struct vmm_device *dev, void *at, const uint32_t *frames, size_t n)
{
    struct cuda_device *cuda = cuda_of(dev);
    CUdeviceptr base = (uintptr_t)at;
    int status = enter(cuda);
    if (status)
        return status;
    size_t done;
    const char *call;
    CUresult rc = map_frames(cuda, base, frames, n, &done, &call);
    if (rc != CUDA_SUCCESS) {
        bool undone = done == 0 || TWICE(cuda->cu->MemUnmap(base, done * dev->frame_bytes));
        char what[64];
        snprintf(what, sizeof what, "%zu frames can't be mapped: %s", n, call);
        status = fail(cuda, rc, undone && !is_sticky(rc) ? KVMM_ERR_NO_ADDRESS_SPACE : KVMM_ERR_DEVICE, what);
    }
    leave(cuda);
    return status;
}

/* Makes the frame of zeros: once, for the first sequence that wants it. */
static int make_zeros(struct cuda_device *cuda)
{
    const struct cuda_driver *cu = cuda->cu;
    uint32_t id = cuda->base.max_frames;
    CUstream stream;
    int status = make(cuda, id);
    if (status)
        return status;
    const char *call = "cuStreamCreateWithPriority";
    CUresult rc = cu->StreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0);
    if (rc == CUDA_SUCCESS) {
        call = "cuMemsetD8Async";
        rc = cu->MemsetD8Async(place_of(cuda, id), 0, cuda->base.frame_bytes, stream);
        if (rc == CUDA_SUCCESS) {
            call = "cuStreamSynchronize";
            rc = cu->StreamSynchronize(stream);
        }
        if (rc != CUDA_SUCCESS)
            (void)cu->StreamSynchronize(stream);
        (void)TWICE(cu->StreamDestroy(stream));
    }
    cuda->has_zeros = rc == CUDA_SUCCESS;
    if (rc == CUDA_SUCCESS)
        return KVMM_OK;
    status = fail(cuda, rc, KVMM_ERR_DEVICE, call);
    unmake(cuda, id);
    return status;
}

static int cuda_map_zeros(struct vmm_device *dev, void *at)
{
    struct cuda_device *cuda = cuda_of(dev);
    int status = enter(cuda);
    if (status)
        return status;
    if (!cuda->has_zeros)
        status = make_zeros(cuda);
    if (status == KVMM_OK) {
        CUmemAccessDesc reading = {cuda->prop.location, CU_MEM_ACCESS_FLAGS_PROT_READ};
        CUdeviceptr base = (uintptr_t)at;
        CUresult rc = cuda->cu->MemMap(base, dev->frame_bytes, 0, cuda->handles[dev->max_frames], 0);
        bool mapped = rc == CUDA_SUCCESS;
        if (mapped)
            rc = cuda->cu->MemSetAccess(base, dev->frame_bytes, &reading, 1);
        if (rc != CUDA_SUCCESS) {
            bool undone = !mapped || TWICE(cuda->cu->MemUnmap(base, dev->frame_bytes));
            status = fail(cuda, rc, undone && !is_sticky(rc) ? KVMM_ERR_NO_ADDRESS_SPACE : KVMM_ERR_DEVICE,
                          mapped ? "a frame of zeros can't be mapped: cuMemSetAccess"
                                 : "a frame of zeros can't be mapped: cuMemMap");
        }
    }
    leave(cuda);
    return status;
}

static int cuda_unmap(struct vmm_device *dev, void *base, size_t n)
{
    struct cuda_device *cuda = cuda_of(dev);
    int status = enter(cuda);
    if (status == KVMM_OK) {
        CUresult rc = cuda->cu->MemUnmap((uintptr_t)base, n * dev->frame_bytes);
        if (rc != CUDA_SUCCESS) {
            char what[64];
            snprintf(what, sizeof what, "%zu frames can't be unmapped: cuMemUnmap", n);
            status = fail(cuda, rc, KVMM_ERR_DEVICE, what);
        }
        leave(cuda);
    }
    return is_lost(cuda) ? KVMM_OK : status;
}

/* ---- copies ---- */

static void cuda_copy(struct vmm_device *dev, struct vmm_copy *copy)
{
    struct cuda_device *cuda = cuda_of(dev);
    cuda_lane_give(copy->kind == VMM_COPY_OUT ? cuda->out : cuda->in, copy);
}

static int cuda_memory_register(struct vmm_device *dev, void *base, size_t bytes)
{
    struct cuda_device *cuda = cuda_of(dev);
    int status = enter(cuda);
    if (status)
        return status;
    CUresult rc = cuda->cu->MemHostRegister(base, bytes, CU_MEMHOSTREGISTER_PORTABLE);
    if (rc != CUDA_SUCCESS) {
        char what[96];
        snprintf(what, sizeof what, "%zu bytes of memory can't be pinned: cuMemHostRegister", bytes);
        status = fail(cuda, rc, rc == CUDA_ERROR_OUT_OF_MEMORY ? KVMM_ERR_NO_HOST_MEMORY : KVMM_ERR_DEVICE, what);
    }
    leave(cuda);
    return status;
}

static void cuda_memory_unregister(struct vmm_device *dev, void *base)
{
    struct cuda_device *cuda = cuda_of(dev);
    if (!insist(cuda))
        return;
    (void)TWICE(cuda->cu->MemHostUnregister(base));
    leave(cuda);
}

/* ---- fences ---- */

/* A fence with its event, from those that have passed; NULL: none is to be had. The context is current. */
static struct cuda_fence *take_fence(struct cuda_device *cuda)
{
    pthread_mutex_lock(&cuda->lock);
    struct cuda_fence *fence = cuda->free_fences;
    if (fence)
        cuda->free_fences = fence->next;
    pthread_mutex_unlock(&cuda->lock);
    if (fence)
        return fence;
    fence = malloc(sizeof *fence);
    if (fence && cuda->cu->EventCreate(&fence->event, CU_EVENT_DISABLE_TIMING) == CUDA_SUCCESS)
        return fence;
    free(fence);
    return NULL;
}

static void give_fence(struct cuda_device *cuda, struct cuda_fence *fence)
{
    pthread_mutex_lock(&cuda->lock);
    fence->next = cuda->free_fences;
    cuda->free_fences = fence;
    pthread_mutex_unlock(&cuda->lock);
}

/* Without an event nobody would know when the kernels have ended, so the stream itself is waited for: dear, and only where
 * the driver refuses an event. */
static int drain(struct cuda_device *cuda, CUstream stream)
{
    CUresult rc = cuda->cu->StreamSynchronize(stream);
    if (rc != CUDA_SUCCESS && !is_sticky(rc) && rc != CUDA_ERROR_INVALID_HANDLE)
        rc = cuda->cu->StreamSynchronize(stream);
    if (rc == CUDA_SUCCESS)
        return KVMM_OK;
    return fail(cuda, rc, rc == CUDA_ERROR_INVALID_HANDLE ? KVMM_ERR_INVALID : KVMM_ERR_DEVICE,
                "a fence can't be set on the stream: cuStreamSynchronize");
}

static int cuda_fence_record(struct vmm_device *dev, void *stream, struct vmm_fence *out)
{
    struct cuda_device *cuda = cuda_of(dev);
    int status = insist(cuda) ? KVMM_OK : enter(cuda);
    if (status)
        return status;
    struct cuda_fence *fence = take_fence(cuda);
    if (fence && cuda->cu->EventRecord(fence->event, stream) == CUDA_SUCCESS) {
        out->value = (uintptr_t)fence;
    } else {
        if (fence)
            give_fence(cuda, fence);
        status = drain(cuda, stream);
        if (status == KVMM_OK)
            out->value = 0;
    }
    leave(cuda);
    return status;
}

static bool cuda_fence_passed(struct vmm_device *dev, struct vmm_fence value)
{
    struct cuda_device *cuda = cuda_of(dev);
    struct cuda_fence *fence = (struct cuda_fence *)(uintptr_t)value.value;
    if (!fence)
        return true;
    bool passed = is_lost(cuda);
    if (!passed && insist(cuda)) {
        CUresult rc = cuda->cu->EventQuery(fence->event);
        if (is_sticky(rc))
            atomic_store_explicit(&cuda->lost, true, memory_order_relaxed);
        passed = rc == CUDA_SUCCESS || is_lost(cuda); /* what else failed is asked again */
        leave(cuda);
    }
    if (passed)
        give_fence(cuda, fence);
    return passed;
}

/* ---- open and close ---- */

static void cuda_close(struct vmm_device *dev)
{
    struct cuda_device *cuda = cuda_of(dev);
    bool in = cuda->context && insist(cuda);
    cuda_lane_close(&cuda->out);
    cuda_lane_close(&cuda->in);
    while (cuda->free_fences) {
        struct cuda_fence *fence = cuda->free_fences;
        cuda->free_fences = fence->next;
        (void)TWICE(cuda->cu->EventDestroy(fence->event));
        free(fence);
    }
    if (cuda->has_zeros)
        unmake(cuda, dev->max_frames);
    if (cuda->window)
        unreserve(cuda, cuda->window, window_bytes(cuda));
    if (in)
        leave(cuda);
    if (cuda->context)
        (void)TWICE(cuda->cu->DevicePrimaryCtxRelease(cuda->device));
    pthread_mutex_destroy(&cuda->lock);
    free(cuda->handles);
    vmm_numbers_close(&cuda->numbers);
    free(cuda);
}

static const struct vmm_device_ops cuda_ops = {
    .reserve = cuda_reserve,
    .unreserve = cuda_unreserve,
    .frame_create = cuda_frame_create,
    .frame_release = cuda_frame_release,
    .map = cuda_map,
    .map_zeros = cuda_map_zeros,
    .unmap = cuda_unmap,
    .copy = cuda_copy,
    .memory_register = cuda_memory_register,
    .memory_unregister = cuda_memory_unregister,
    .fence_record = cuda_fence_record,
    .fence_passed = cuda_fence_passed,
    .close = cuda_close,
};

/* Finds the device and what it can do. */
static int find_device(struct cuda_device *cuda, unsigned ordinal)
{
    const struct cuda_driver *cu = cuda->cu;
    int count = 0, can = 0;
    CUresult rc = cu->DeviceGetCount(&count);
    if (rc != CUDA_SUCCESS)
        return fail(cuda, rc, KVMM_ERR_DEVICE, "cuDeviceGetCount");
    if (ordinal >= (unsigned)count)
        return vmm_fail(KVMM_ERR_UNSUPPORTED, "there is no %s: this machine has %d CUDA devices", cuda->base.name,
                        count);
    rc = cu->DeviceGet(&cuda->device, (int)ordinal);
    if (rc != CUDA_SUCCESS)
        return fail(cuda, rc, KVMM_ERR_DEVICE, "cuDeviceGet");
    rc = cu->DeviceGetAttribute(&can, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, cuda->device);
    if (rc != CUDA_SUCCESS)
        return fail(cuda, rc, KVMM_ERR_DEVICE, "cuDeviceGetAttribute");
    if (!can)
        return vmm_fail(KVMM_ERR_UNSUPPORTED, "%s has no virtual memory management (cuMemMap)", cuda->base.name);
    cuda->prop = (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                       .location = {CU_MEM_LOCATION_TYPE_DEVICE, cuda->device}};
    cuda->access = (CUmemAccessDesc){cuda->prop.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    rc = cu->MemGetAllocationGranularity(&cuda->granularity, &cuda->prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    if (rc != CUDA_SUCCESS)
        return fail(cuda, rc, KVMM_ERR_DEVICE, "cuMemGetAllocationGranularity");
    return KVMM_OK;
}

static int choose_sizes(struct cuda_device *cuda, size_t frame_bytes, const struct vmm_device_budget *budget)
{
    frame_bytes = frame_bytes ? frame_bytes : cuda->granularity;
    if (frame_bytes % cuda->granularity || frame_bytes & (frame_bytes - 1) || frame_bytes > MAX_FRAME)
        return vmm_fail(KVMM_ERR_INVALID,
                        "frame_bytes is %zu; on %s it must be a power of two, %zu bytes (its granularity) to 64 MiB",
                        frame_bytes, cuda->base.name, cuda->granularity);
    cuda->base.frame_bytes = frame_bytes;
    size_t free_bytes = 0, total = 0;
    CUresult rc = cuda->cu->MemGetInfo(&free_bytes, &total);
    if (rc != CUDA_SUCCESS)
        return fail(cuda, rc, KVMM_ERR_DEVICE, "cuMemGetInfo");
    if (free_bytes < frame_bytes)
        return vmm_fail(KVMM_ERR_NO_DEVICE_MEMORY, "%s has %zu bytes of memory free: less than one frame of %zu bytes",
                        cuda->base.name, free_bytes, frame_bytes);
    return vmm_device_capacity(budget, free_bytes, frame_bytes, &cuda->base.max_frames);
}

static int set_up(struct cuda_device *cuda, size_t frame_bytes, const struct vmm_device_budget *budget)
{
    int rc = choose_sizes(cuda, frame_bytes, budget);
    if (rc)
        return rc;
    cuda->handles = calloc((size_t)cuda->base.max_frames + 1, sizeof *cuda->handles);
    if (!cuda->handles || !vmm_numbers_open(&cuda->numbers, cuda->base.max_frames))
        return vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "no memory for the table of %u frames", cuda->base.max_frames);
    CUdeviceptr window;
    rc = reserve(cuda, window_bytes(cuda), &window);
    if (rc)
        return rc;
    cuda->window = window;
    rc = cuda_lane_open(cuda->cu, cuda->context, window, cuda->base.frame_bytes, &cuda->out);
    return rc ? rc : cuda_lane_open(cuda->cu, cuda->context, window, cuda->base.frame_bytes, &cuda->in);
}

int vmm_cuda_device_open(unsigned ordinal, size_t frame_bytes, const struct vmm_device_budget *budget,
                         struct vmm_device **dev)
{
    const struct cuda_driver *cu;
    char reason[CUDA_DRIVER_REASON];
    if (cuda_driver_get(&cu, reason) != CUDA_DRIVER_OK)
        return vmm_fail(KVMM_ERR_UNSUPPORTED, "%s", reason);
    struct cuda_device *cuda = calloc(1, sizeof *cuda);
    if (!cuda)
        return vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "no memory for a CUDA device");
    cuda->base.ops = &cuda_ops;
    snprintf(cuda->base.name, sizeof cuda->base.name, "cuda:%u", ordinal);
    cuda->cu = cu;
    pthread_mutex_init(&cuda->lock, NULL);
    int status = find_device(cuda, ordinal);
    if (status)
        goto err_close;
    CUresult rc = cu->DevicePrimaryCtxRetain(&cuda->context, cuda->device);
    if (rc != CUDA_SUCCESS) {
        cuda->context = NULL;
        status = fail(cuda, rc, rc == CUDA_ERROR_OUT_OF_MEMORY ? KVMM_ERR_NO_DEVICE_MEMORY : KVMM_ERR_DEVICE,
                      "no context: cuDevicePrimaryCtxRetain");
        goto err_close;
    }
    status = enter(cuda);
    if (status)
        goto err_close;
    status = set_up(cuda, frame_bytes, budget);
    leave(cuda);
    if (status)
        goto err_close;
    *dev = &cuda->base;
    return KVMM_OK;

err_close:
    cuda_close(&cuda->base);
    return status;
}
