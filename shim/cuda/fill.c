/* SPDX-License-Identifier: Apache-2.0
 *
 * Fills. Clearing frames that are not on the device costs nothing: they become BLANK. The rest of the span is filled by the
 * driver. While any capture goes on nothing is left out: what is captured runs later, and again. */
#include "shim/cuda/find.h"
#include "shim/cuda/gate.h"
#include "shim/cuda/move.h"
#include "shim/cuda/ranges.h"
#include "shim/cuda/touch.h"

/* The driver's call for a part of the span. */
struct fill {
    CUresult (*put)(const struct fill *fill, CUdeviceptr at, size_t bytes);
    void (*real)(void);
    unsigned value;
    CUstream stream;
};

/* Frames [first, end) of those that the span covers as a whole. */
struct covered {
    uint32_t first, end;
};

static struct covered covered_by(const struct shim_cuda_range *range, CUdeviceptr to, size_t bytes)
{
    struct covered covered = {0, 0};
    if (!shim_cuda_capturing())
        covered.end = shim_cuda_frames_within(range, to, bytes, &covered.first);
    covered.end += covered.first;
    return covered;
}

/* Brings what the span touches and does not cover: the frames at its edges. */
static int bring_edges(struct shim_cuda_range *range, CUdeviceptr to, size_t bytes, struct covered covered)
{
    uint32_t first = 0, n = shim_cuda_frames_over(range, to, bytes, &first);
    for (uint32_t f = first; f < first + n; f++) {
        if (range->frames[f].state != SHIM_RESIDENT && (f < covered.first || f >= covered.end))
            shim_cuda_mark(range, f);
    }
    return shim_cuda_bring();
}

/* What is covered and not on the device is zero from now on. */
static void blank(struct shim_cuda_range *range, struct covered covered)
{
    for (uint32_t f = covered.first; f < covered.end; f++) {
        struct shim_cuda_frame *frame = &range->frames[f];
        if (frame->state == SHIM_AWAY)
            shim_cuda_slot_give(&frame->slot);
        if (frame->state != SHIM_RESIDENT)
            shim_cuda_frame_set(range, frame, SHIM_BLANK);
    }
}

/* Fills what of the span is on the device, in as many calls as it has runs of frames there. If the driver refuses one, those
 * before it have been filled. */
static CUresult fill_resident(const struct shim_cuda_range *range, CUdeviceptr to, size_t bytes,
                              const struct fill *fill)
{
    CUdeviceptr base = shim_cuda_base(range);
    uint32_t f = 0, n = shim_cuda_frames_over(range, to, bytes, &f), end = f + n;
    while (f < end) {
        uint32_t first = f;
        while (f < end && range->frames[f].state == SHIM_RESIDENT)
            f++;
        if (f == first) {
            f++;
            continue;
        }
        CUdeviceptr from = base + (CUdeviceptr)first * shim_cuda.frame_bytes;
        CUdeviceptr until = base + (CUdeviceptr)f * shim_cuda.frame_bytes;
        from = from > to ? from : to;
        until = until < to + bytes ? until : to + bytes;
        CUresult rc = fill->put(fill, from, until - from);
        if (rc != CUDA_SUCCESS)
            return rc;
    }
    return CUDA_SUCCESS;
}

static CUresult clear(struct shim_cuda_range *range, CUdeviceptr to, size_t bytes, const struct fill *fill)
{
    CUresult rc = shim_cuda_gate_enter();
    if (rc != CUDA_SUCCESS)
        return rc;
    if (range->n_missing || range->tentative) {
        shim_cuda_lock();
        shim_cuda_range_decide(range, to == shim_cuda_base(range) && bytes >= range->bytes);
        struct covered covered = covered_by(range, to, bytes);
        rc = shim_cuda_result(bring_edges(range, to, bytes, covered));
        if (rc == CUDA_SUCCESS)
            rc = fill_resident(range, to, bytes, fill);
        if (rc == CUDA_SUCCESS)
            blank(range, covered);
        shim_cuda_unlock();
    } else {
        rc = fill->put(fill, to, bytes);
    }
    shim_cuda_gate_leave();
    return rc;
}

static CUresult run(CUdeviceptr to, size_t bytes, const struct fill *fill)
{
    if (!fill->real)
        return CUDA_ERROR_NOT_INITIALIZED;
    struct shim_cuda_range *range = shim_cuda.n_ranges && bytes ? shim_cuda_range_at(to) : NULL;
    bool within = range && bytes <= range->bytes && to - shim_cuda_base(range) <= range->bytes - bytes;
    if (fill->value == 0 && within)
        return clear(range, to, bytes, fill);
    bool inside;
    CUresult rc = shim_cuda_enter_spans(&inside, &(struct shim_cuda_span){to, bytes}, 1);
    if (rc != CUDA_SUCCESS)
        return rc;
    rc = fill->put(fill, to, bytes);
    shim_cuda_leave(inside);
    return rc;
}

#define SYNCHRONOUS(symbol, type)                                                                                      \
    static CUresult put_##symbol(const struct fill *fill, CUdeviceptr at, size_t bytes)                                \
    {                                                                                                                  \
        return ((__typeof__(&symbol))fill->real)(at, (type)fill->value, bytes / sizeof(type));                         \
    }                                                                                                                  \
    CUresult symbol(CUdeviceptr to, type value, size_t n)                                                              \
    {                                                                                                                  \
        struct fill fill = {put_##symbol, shim_cuda_real(SHIM_##symbol), value, NULL};                                 \
        return run(to, n * sizeof(type), &fill);                                                                       \
    }
#define ASYNCHRONOUS(symbol, type)                                                                                     \
    static CUresult put_##symbol(const struct fill *fill, CUdeviceptr at, size_t bytes)                                \
    {                                                                                                                  \
        return ((__typeof__(&symbol))fill->real)(at, (type)fill->value, bytes / sizeof(type), fill->stream);           \
    }                                                                                                                  \
    CUresult symbol(CUdeviceptr to, type value, size_t n, CUstream stream)                                             \
    {                                                                                                                  \
        struct fill fill = {put_##symbol, shim_cuda_real(SHIM_##symbol), value, stream};                               \
        return run(to, n * sizeof(type), &fill);                                                                       \
    }

SYNCHRONOUS(cuMemsetD8_v2, unsigned char)
SYNCHRONOUS(cuMemsetD8_v2_ptds, unsigned char)
SYNCHRONOUS(cuMemsetD16_v2, unsigned short)
SYNCHRONOUS(cuMemsetD16_v2_ptds, unsigned short)
SYNCHRONOUS(cuMemsetD32_v2, unsigned)
SYNCHRONOUS(cuMemsetD32_v2_ptds, unsigned)
ASYNCHRONOUS(cuMemsetD8Async, unsigned char)
ASYNCHRONOUS(cuMemsetD8Async_ptsz, unsigned char)
ASYNCHRONOUS(cuMemsetD16Async, unsigned short)
ASYNCHRONOUS(cuMemsetD16Async_ptsz, unsigned short)
ASYNCHRONOUS(cuMemsetD32Async, unsigned)
ASYNCHRONOUS(cuMemsetD32Async_ptsz, unsigned)
