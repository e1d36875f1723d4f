/* SPDX-License-Identifier: Apache-2.0
 *
 * Around a call of the engine's that touches device memory: through the gate, and what is touched is made resident. Memory
 * that is no range's, and processes without a range, pass at the cost of a few loads. */
#ifndef SHIM_CUDA_TOUCH_H
#define SHIM_CUDA_TOUCH_H

#include <stdbool.h>
#include <stddef.h>

#include "shim/cuda/abi.h"

struct shim_cuda_span {
    CUdeviceptr start;
    size_t bytes;
};

/* On success *inside says what leave() is to be given after the driver's call. Otherwise the call must not be made: it would
 * meet memory that isn't there. OUT_OF_MEMORY: no room for what it needs; DEVICE_UNAVAILABLE: suspended, and calls fail then;
 * ECC_UNCORRECTABLE: bytes of the cache were lost; UNKNOWN: the driver refused. */
CUresult shim_cuda_enter_any(bool *inside);
CUresult shim_cuda_enter_spans(bool *inside, const struct shim_cuda_span *spans, size_t n);
void shim_cuda_leave(bool inside);

/* Spans of a copy's structure; host memory and arrays are empty spans. */
struct shim_cuda_spans {
    struct shim_cuda_span of[2];
};
struct shim_cuda_spans shim_cuda_spans_2d(const CUDA_MEMCPY2D *copy);
struct shim_cuda_spans shim_cuda_spans_3d(const CUDA_MEMCPY3D *copy);
struct shim_cuda_spans shim_cuda_spans_peer(const CUDA_MEMCPY3D_PEER *copy);
struct shim_cuda_span shim_cuda_span_rows(CUdeviceptr at, size_t pitch, size_t width, size_t height);
CUresult shim_cuda_enter_many(bool *inside, const CUdeviceptr *to, const CUdeviceptr *from, const size_t *bytes,
                              size_t n);

/* The result of a driver call that stands for a failure of ranges.h; said once for each kind. Under the lock. */
CUresult shim_cuda_result(int result);

#endif
