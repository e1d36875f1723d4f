/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/cuda/ranges.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "shim/cuda/calls.h"
#include "shim/cuda/find.h"
#include "shim/hook.h"
#include "shim/log.h"
#include "shim/select.h"

struct shim_cuda shim_cuda = {.lock = PTHREAD_MUTEX_INITIALIZER};

void shim_cuda_lock(void)
{
    shim_inside++; /* what kvmm allocates and looks up is not the engine's */
    pthread_mutex_lock(&shim_cuda.lock);
}

void shim_cuda_unlock(void)
{
    pthread_mutex_unlock(&shim_cuda.lock);
    shim_inside--;
}

int shim_cuda_why(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(shim_cuda.why, sizeof shim_cuda.why, format, args);
    va_end(args);
    return code;
}

int shim_cuda_refused(CUresult rc, const char *call)
{
    return shim_cuda_why(rc == CUDA_ERROR_OUT_OF_MEMORY ? -ENOMEM : -EIO, "%s: %s", call,
                         cuda_error_name(shim_cuda.cu, rc));
}

/* ---- finding ---- */

struct shim_cuda_range *shim_cuda_range_over(CUdeviceptr start, size_t bytes, size_t *at)
{
    size_t n = atomic_load_explicit(&shim_cuda.n_slots, memory_order_acquire);
    CUdeviceptr last = bytes ? start + bytes - 1 : start;
    for (size_t i = *at; i < n; i++) {
        struct shim_cuda_range *range = &shim_cuda.ranges[i];
        CUdeviceptr end = atomic_load_explicit(&range->end, memory_order_acquire);
        if (start < end && last >= shim_cuda_base(range)) {
            *at = i + 1;
            return range;
        }
    }
    return NULL;
}

struct shim_cuda_range *shim_cuda_range_at(CUdeviceptr address)
{
    size_t at = 0;
    return shim_cuda_range_over(address, 1, &at);
}

uint64_t shim_cuda_owed(CUdevice device)
{
    uint64_t n = 0;
    for (size_t i = 0; i < atomic_load_explicit(&shim_cuda.n_slots, memory_order_acquire); i++) {
        struct shim_cuda_range *range = &shim_cuda.ranges[i];
        if (atomic_load_explicit(&range->end, memory_order_acquire) && range->device == device)
            n += range->n_needed;
    }
    return n * shim_cuda.frame_bytes;
}

uint32_t shim_cuda_frames_over(const struct shim_cuda_range *range, CUdeviceptr start, size_t bytes, uint32_t *first)
{
    CUdeviceptr base = shim_cuda_base(range), end = range->end;
    CUdeviceptr from = start > base ? start : base;
    CUdeviceptr to = start + bytes < end ? start + bytes : end;
    if (bytes == 0 || from >= to)
        return 0;
    *first = (uint32_t)((from - base) / shim_cuda.frame_bytes);
    return (uint32_t)((to - 1 - base) / shim_cuda.frame_bytes) - *first + 1;
}

uint32_t shim_cuda_frames_within(const struct shim_cuda_range *range, CUdeviceptr start, size_t bytes, uint32_t *first)
{
    CUdeviceptr base = shim_cuda_base(range);
    size_t frame = shim_cuda.frame_bytes;
    CUdeviceptr from = start > base ? start - base : 0;
    CUdeviceptr to = start + bytes - base; /* the caller's spans reach into the range */
    if (to >= range->bytes)
        to = (CUdeviceptr)range->n_frames * frame;
    *first = (uint32_t)((from + frame - 1) / frame);
    uint32_t end = (uint32_t)(to / frame);
    return end > *first ? end - *first : 0;
}

/* ---- counting ---- */

/* A launch waits for it. */
static bool is_needed(const struct shim_cuda_frame *frame)
{
    return frame->state != SHIM_RESIDENT && !frame->promised;
}

void shim_cuda_frame_set(struct shim_cuda_range *range, struct shim_cuda_frame *frame, enum shim_cuda_state state)
{
    size_t needed = is_needed(frame), missing = frame->state != SHIM_RESIDENT;
    shim_cuda.n_in[frame->state]--;
    shim_cuda.n_in_file -= frame->state == SHIM_AWAY && frame->slot.in_file;
    frame->state = (uint8_t)state;
    shim_cuda.n_in[state]++;
    shim_cuda.n_in_file += state == SHIM_AWAY && frame->slot.in_file;
    shim_cuda.n_needed += is_needed(frame) - needed;
    range->n_needed += is_needed(frame) - needed;
    range->n_missing += (state != SHIM_RESIDENT) - missing;
    if (shim_cuda.n_in[SHIM_RESIDENT] > shim_cuda.peak)
        shim_cuda.peak = shim_cuda.n_in[SHIM_RESIDENT];
}

void shim_cuda_frame_promise(struct shim_cuda_range *range, struct shim_cuda_frame *frame, bool promised)
{
    size_t needed = is_needed(frame);
    frame->promised = promised;
    shim_cuda.n_needed += is_needed(frame) - needed;
    range->n_needed += is_needed(frame) - needed;
}

void shim_cuda_range_decide(struct shim_cuda_range *range, bool cache)
{
    if (!range->tentative)
        return;
    range->cache = cache;
    range->tentative = false;
    if (cache)
        shim_select_adopted();
    shim_cuda.n_tentative--;
}

void shim_cuda_mark(struct shim_cuda_range *range, uint32_t frame)
{
    range->n_marked += !range->frames[frame].marked;
    range->frames[frame].marked = true;
}

void shim_cuda_unmark_all(void)
{
    for (size_t i = 0; i < shim_cuda.n_slots; i++) {
        struct shim_cuda_range *range = &shim_cuda.ranges[i];
        for (uint32_t f = 0; range->n_marked && f < range->n_frames; f++) {
            range->n_marked -= range->frames[f].marked;
            range->frames[f].marked = false;
        }
    }
}

/* ---- making and dropping ---- */

/* What the device takes: the frame is the first device's granule, and has to do for all. */
static int choose_frame(CUdevice device, size_t *frame_bytes)
{
    CUmemAllocationProp prop = shim_cuda_memory_of(device);
    size_t granule = 0;
    CUresult rc = shim_cuda.cu->MemGetAllocationGranularity(&granule, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    if (rc != CUDA_SUCCESS)
        return shim_cuda_refused(rc, "cuMemGetAllocationGranularity");
    *frame_bytes = shim_cuda.n_ranges ? shim_cuda.frame_bytes : granule;
    if (granule == 0 || *frame_bytes % granule)
        return shim_cuda_why(-EIO, "device %d has granules of %zu bytes, and the cache frames of %zu", device, granule,
                             *frame_bytes);
    return 0;
}

static struct shim_cuda_range *free_slot(void)
{
    for (size_t i = 0; i < SHIM_CUDA_MAX_RANGES; i++) {
        if (shim_cuda.ranges[i].end == 0)
            return &shim_cuda.ranges[i];
    }
    return NULL;
}

static void publish(struct shim_cuda_range *range, CUdeviceptr base, size_t bytes)
{
    size_t n = (size_t)(range - shim_cuda.ranges) + 1;
    range->base = base;
    range->n_missing = range->n_frames;
    range->n_needed = range->n_frames;
    atomic_store_explicit(&range->end, base + bytes, memory_order_release);
    if (n > shim_cuda.n_slots)
        atomic_store_explicit(&shim_cuda.n_slots, n, memory_order_release);
    shim_cuda.n_in[SHIM_BLANK] += range->n_frames;
    shim_cuda.n_needed += range->n_frames;
    shim_cuda.n_tentative += range->tentative;
    shim_cuda.n_ranges++;
}

int shim_cuda_range_make(size_t bytes, bool tentative, struct shim_cuda_range **out)
{
    const struct cuda_driver *cu = shim_cuda.cu;
    CUcontext context = NULL;
    CUdevice device = 0;
    size_t frame = 0;
    CUresult rc = cu->CtxGetCurrent(&context);
    if (rc == CUDA_SUCCESS)
        rc = cu->CtxGetDevice(&device);
    if (rc != CUDA_SUCCESS)
        return shim_cuda_refused(rc, "cuCtxGetDevice");
    int result = choose_frame(device, &frame);
    struct shim_cuda_range *range = free_slot();
    if (result || frame == 0)
        return result ? result : -EIO;
    if (!range)
        return shim_cuda_why(-ENOSPC, "there are %d allocations already", SHIM_CUDA_MAX_RANGES);
    size_t n_frames = bytes / frame + (bytes % frame != 0);
    if (n_frames >= UINT32_MAX || bytes > (SIZE_MAX >> 1))
        return shim_cuda_why(-ENOMEM, "%zu bytes are too many", bytes);
    struct shim_cuda_frame *frames = calloc(n_frames, sizeof *frames);
    if (!frames)
        return shim_cuda_why(-EIO, "no memory for the table of %zu frames", n_frames);
    CUdeviceptr base;
    rc = cu->MemAddressReserve(&base, n_frames * frame, frame, 0, 0);
    if (rc != CUDA_SUCCESS) {
        free(frames);
        return shim_cuda_refused(rc, "cuMemAddressReserve");
    }
    shim_cuda.frame_bytes = frame;
    range->cache = !tentative;
    range->tentative = tentative;
    range->maker = pthread_self();
    range->bytes = bytes;
    range->n_frames = (uint32_t)n_frames;
    range->n_marked = 0;
    range->serial = ++shim_cuda.next_serial;
    range->frames = frames;
    range->context = context;
    range->device = device;
    publish(range, base, n_frames * frame);
    *out = range;
    return 0;
}

void shim_cuda_range_drop(struct shim_cuda_range *range)
{
    CUdeviceptr base = shim_cuda_base(range);
    size_t bytes = (size_t)range->n_frames * shim_cuda.frame_bytes;
    for (uint32_t i = 0; i < range->n_frames; i++) {
        struct shim_cuda_frame *frame = &range->frames[i];
        if (frame->state == SHIM_RESIDENT)
            shim_cuda_unback(base + (CUdeviceptr)i * shim_cuda.frame_bytes, frame->handle);
        else if (frame->state == SHIM_AWAY)
            shim_cuda_slot_give(&frame->slot);
        shim_cuda_frame_promise(range, frame, true);
        shim_cuda_frame_set(range, frame, SHIM_BLANK);
    }
    CUresult rc = SHIM_CUDA_TWICE(shim_cuda.cu->MemAddressFree(base, bytes));
    if (rc != CUDA_SUCCESS)
        shim_log("%zu bytes of device addresses can't be given back: cuMemAddressFree: %s", bytes,
                 cuda_error_name(shim_cuda.cu, rc));
    shim_cuda.n_in[SHIM_BLANK] -= range->n_frames;
    shim_cuda.n_tentative -= range->tentative;
    shim_cuda.n_ranges--;
    atomic_store_explicit(&range->end, 0, memory_order_release);
    range->base = 0;
    range->n_missing = 0;
    range->n_needed = 0;
    free(range->frames);
    range->frames = NULL;
    range->n_frames = 0;
    if (shim_cuda.n_ranges == 0)
        shim_cuda_tiers_close();
}
