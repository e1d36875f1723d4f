/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/cuda/touch.h"

#include <errno.h>

#include "shim/cuda/gate.h"
#include "shim/cuda/move.h"
#include "shim/cuda/ranges.h"
#include "shim/log.h"

CUresult shim_cuda_result(int result)
{
    static bool said_full, said_lost, said_failed; /* under the lock */
    switch (result) {
    case 0:
        return CUDA_SUCCESS;
    case -ENOMEM:
    case -ENOSPC:
        shim_log_once(&said_full,
                      "the cache does not fit on the device: %s; the engine's call gets "
                      "CUDA_ERROR_OUT_OF_MEMORY",
                      shim_cuda.why);
        return CUDA_ERROR_OUT_OF_MEMORY;
    case -EBADMSG:
        shim_log_once(&said_lost, "%s; the engine's calls get CUDA_ERROR_ECC_UNCORRECTABLE", shim_cuda.why);
        return CUDA_ERROR_ECC_UNCORRECTABLE;
    default:
        shim_log_once(&said_failed, "the cache can't be made resident: %s; the engine's call gets CUDA_ERROR_UNKNOWN",
                      shim_cuda.why);
        return CUDA_ERROR_UNKNOWN;
    }
}

void shim_cuda_leave(bool inside)
{
    if (inside)
        shim_cuda_gate_leave();
}

/* ---- launches ---- */

static int bring_needed(void)
{
    for (size_t i = 0; i < shim_cuda.n_slots; i++) {
        struct shim_cuda_range *range = &shim_cuda.ranges[i];
        if (range->tentative && pthread_equal(range->maker, pthread_self()))
            shim_cuda_range_decide(range, false);
        for (uint32_t f = 0; range->n_needed && f < range->n_frames; f++) {
            if (range->frames[f].state != SHIM_RESIDENT && !range->frames[f].promised)
                shim_cuda_mark(range, f);
        }
    }
    return shim_cuda_bring();
}

CUresult shim_cuda_enter_any(bool *inside)
{
    *inside = false;
    if (atomic_load_explicit(&shim_cuda.n_ranges, memory_order_relaxed) == 0)
        return CUDA_SUCCESS;
    CUresult rc = shim_cuda_gate_enter();
    if (rc != CUDA_SUCCESS)
        return rc;
    if (shim_cuda.n_needed || shim_cuda.n_tentative) {
        shim_cuda_lock();
        rc = shim_cuda_result(bring_needed());
        shim_cuda_unlock();
    }
    if (rc != CUDA_SUCCESS)
        shim_cuda_gate_leave();
    *inside = rc == CUDA_SUCCESS;
    return rc;
}

/* ---- spans ---- */

/* What of a range there is to be done before a span of it may be touched. */
enum care { CARE_NONE, CARE_GATE, CARE_LOCK };

static enum care care_of(const struct shim_cuda_span *spans, size_t n)
{
    enum care care = CARE_NONE;
    for (size_t i = 0; i < n; i++) {
        size_t at = 0;
        const struct shim_cuda_range *range;
        while (spans[i].bytes && (range = shim_cuda_range_over(spans[i].start, spans[i].bytes, &at))) {
            if (range->n_missing || range->tentative)
                return CARE_LOCK;
            care = range->cache ? CARE_GATE : care; /* what never leaves needs none */
        }
    }
    return care;
}

static int bring_spans(const struct shim_cuda_span *spans, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = 0;
        struct shim_cuda_range *range;
        while (spans[i].bytes && (range = shim_cuda_range_over(spans[i].start, spans[i].bytes, &at))) {
            uint32_t first = 0, frames = shim_cuda_frames_over(range, spans[i].start, spans[i].bytes, &first);
            shim_cuda_range_decide(range, false);
            for (uint32_t f = first; f < first + frames; f++) {
                if (range->frames[f].state != SHIM_RESIDENT)
                    shim_cuda_mark(range, f);
            }
        }
    }
    return shim_cuda_bring();
}

CUresult shim_cuda_enter_spans(bool *inside, const struct shim_cuda_span *spans, size_t n)
{
    *inside = false;
    if (atomic_load_explicit(&shim_cuda.n_ranges, memory_order_relaxed) == 0)
        return CUDA_SUCCESS;
    enum care care = care_of(spans, n);
    if (care == CARE_NONE)
        return CUDA_SUCCESS;
    CUresult rc = shim_cuda_gate_enter();
    if (rc != CUDA_SUCCESS)
        return rc;
    if (care == CARE_LOCK || care_of(spans, n) == CARE_LOCK) { /* it may have left while this waited at the gate */
        shim_cuda_lock();
        rc = shim_cuda_result(bring_spans(spans, n));
        shim_cuda_unlock();
    }
    if (rc != CUDA_SUCCESS)
        shim_cuda_gate_leave();
    *inside = rc == CUDA_SUCCESS;
    return rc;
}

CUresult shim_cuda_enter_many(bool *inside, const CUdeviceptr *to, const CUdeviceptr *from, const size_t *bytes,
                              size_t n)
{
    *inside = false;
    if (!to || !from || !bytes)
        return CUDA_SUCCESS; /* the driver's to refuse */
    bool any = false;
    for (size_t i = 0; i < n && !any; i++) {
        struct shim_cuda_span spans[2] = {{to[i], bytes[i]}, {from[i], bytes[i]}};
        any = care_of(spans, 2) != CARE_NONE;
    }
    return any ? shim_cuda_enter_any(inside) : CUDA_SUCCESS;
}

/* ---- structures ---- */

static bool is_device(CUmemorytype type)
{
    return type == CU_MEMORYTYPE_DEVICE || type == CU_MEMORYTYPE_UNIFIED;
}

/* Bytes [x, x + width) of rows [y, y + height) in layers [z, z + depth) of layer_rows rows each. */
static struct shim_cuda_span box(CUdeviceptr at, size_t pitch, size_t layer_rows, const size_t from[3],
                                 const size_t extent[3])
{
    if (extent[0] == 0 || extent[1] == 0 || extent[2] == 0)
        return (struct shim_cuda_span){0};
    size_t first = from[2] * layer_rows + from[1];
    size_t last = (from[2] + extent[2] - 1) * layer_rows + from[1] + extent[1] - 1;
    return (struct shim_cuda_span){at + first * pitch + from[0], (last - first) * pitch + extent[0]};
}

struct shim_cuda_span shim_cuda_span_rows(CUdeviceptr at, size_t pitch, size_t width, size_t height)
{
    return box(at, pitch, 0, (size_t[3]){0, 0, 0}, (size_t[3]){width, height, 1});
}

struct shim_cuda_spans shim_cuda_spans_2d(const CUDA_MEMCPY2D *c)
{
    struct shim_cuda_spans spans = {0};
    if (!c)
        return spans;
    const size_t extent[3] = {c->WidthInBytes, c->Height, 1};
    if (is_device(c->dstMemoryType))
        spans.of[0] = box(c->dstDevice, c->dstPitch, 0, (size_t[3]){c->dstXInBytes, c->dstY, 0}, extent);
    if (is_device(c->srcMemoryType))
        spans.of[1] = box(c->srcDevice, c->srcPitch, 0, (size_t[3]){c->srcXInBytes, c->srcY, 0}, extent);
    return spans;
}

/* The same for both structures of three dimensions. */
#define SPANS_3D(c)                                                                                                    \
    struct shim_cuda_spans spans = {0};                                                                                \
    if (!(c))                                                                                                          \
        return spans;                                                                                                  \
    const size_t extent[3] = {(c)->WidthInBytes, (c)->Height, (c)->Depth};                                             \
    if (is_device((c)->dstMemoryType))                                                                                 \
        spans.of[0] = box((c)->dstDevice, (c)->dstPitch, (c)->dstHeight,                                               \
                          (size_t[3]){(c)->dstXInBytes, (c)->dstY, (c)->dstZ}, extent);                                \
    if (is_device((c)->srcMemoryType))                                                                                 \
        spans.of[1] = box((c)->srcDevice, (c)->srcPitch, (c)->srcHeight,                                               \
                          (size_t[3]){(c)->srcXInBytes, (c)->srcY, (c)->srcZ}, extent);                                \
    return spans;

struct shim_cuda_spans shim_cuda_spans_3d(const CUDA_MEMCPY3D *copy)
{
    SPANS_3D(copy)
}

struct shim_cuda_spans shim_cuda_spans_peer(const CUDA_MEMCPY3D_PEER *copy)
{
    SPANS_3D(copy)
}
