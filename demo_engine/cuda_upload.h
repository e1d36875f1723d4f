/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors from a mapped file into device memory: converted by all threads into one page-locked buffer while the other
 * one is on its way. */
#ifndef ENGINE_CUDA_UPLOAD_H
#define ENGINE_CUDA_UPLOAD_H

#include "cuda_gpu.h"
#include "engine.h"
#include "kernels/pool.h"

struct cuda_tensor {
    enum gguf_type from;
    const void *data;
    uint64_t n;         /* elements; a multiple of 32 for Q8_0 */
    enum kern_dtype to; /* what `from` is, or f16 from Q8_0, or f32 from any */
    uint64_t offset;    /* in the allocation */
    CUdeviceptr *place; /* where it is, once there is memory for it */
};

/* Returns when all is on the device, or nothing is on its way there any more. */
int cuda_upload(const struct cuda_gpu *gpu, struct kern_pool *pool, const struct cuda_tensor *tensors, uint32_t n,
                engine_progress progress, void *user, struct engine_error *err);

#endif
