/* SPDX-License-Identifier: Apache-2.0
 *
 * One GPU as the engine uses it: the primary context (which libkvmm uses too), one stream, the kernels and cuBLAS on it,
 * memory, and how each failure is said. No call waits for the device, except where it says so.
 *
 * Results: enum engine_status, with one line in err that names the device, the call, what it was for and the error. */
#ifndef ENGINE_CUDA_GPU_H
#define ENGINE_CUDA_GPU_H

#include "cublas.h"
#include "kernels/attention.h"
#include "kernels/cuda.h"
#include "status.h"

struct cuda_gpu {
    const struct cuda_driver *cu;
    const struct cublas *blas;
    int ordinal;
    CUdevice device;
    CUcontext context;
    CUstream stream; /* everything runs in its order */
    CUevent done;    /* the last cuda_gpu_mark() */
    struct kern_cuda *kernels;
    cublasHandle_t handle;
    CUdeviceptr workspace; /* cuBLAS's: its own would be allocated inside a capture */
};

/* Whether cuda:ordinal can be used, without starting anything on it. ENGINE_BAD_INPUT: no, and why. */
int cuda_gpu_probe(int ordinal, struct engine_error *err);

/* Opens cuda:ordinal. The context is current to the caller only between enter and leave. On failure nothing is left. */
int cuda_gpu_open(int ordinal, struct cuda_gpu *gpu, struct engine_error *err);
/* Waits for what was queued. Not between enter and leave; all memory was freed. A gpu of zeros is ignored. */
void cuda_gpu_close(struct cuda_gpu *gpu);

/* Makes the context current to this thread, until leave brings back the one before. All below is called in between. */
int cuda_gpu_enter(const struct cuda_gpu *gpu, struct engine_error *err);
/* The same to free what is there; tries twice, since what is not freed now never will be. False: the device is lost, the
 * driver's frees will fail, and only host memory can be given back; there is nothing to leave. */
bool cuda_gpu_enter_to_close(const struct cuda_gpu *gpu);
void cuda_gpu_leave(const struct cuda_gpu *gpu);

/* Device memory, and page-locked host memory. `what` stands in the error's line: "the weights". */
int cuda_gpu_alloc(const struct cuda_gpu *gpu, uint64_t bytes, const char *what, CUdeviceptr *at,
                   struct engine_error *err);
int cuda_gpu_alloc_pinned(const struct cuda_gpu *gpu, size_t bytes, const char *what, void **at,
                          struct engine_error *err);
/* What these frees are given is 0 or NULL afterwards, which is ignored. No queued work uses it any more. */
void cuda_gpu_free(const struct cuda_gpu *gpu, CUdeviceptr *at);
void cuda_gpu_free_pinned(const struct cuda_gpu *gpu, void **at);

/* Marks the end of what is queued, and waits for the mark. */
int cuda_gpu_mark(const struct cuda_gpu *gpu, struct engine_error *err);
int cuda_gpu_wait(const struct cuda_gpu *gpu, const char *what, struct engine_error *err);
/* After a failure: waits for what was queued, whatever comes of it. */
void cuda_gpu_drain(const struct cuda_gpu *gpu);

/* Queues y[n][out] = x[n][in] × w[out][in]ᵀ: x and w of the same type, y f32, sums in f32. */
struct cuda_product {
    CUdeviceptr w, x, y;
    enum kern_dtype type;
    uint32_t in, out, n;
};
int cuda_gpu_multiply(const struct cuda_gpu *gpu, const struct cuda_product *p, struct engine_error *err);

size_t cuda_type_bytes(enum kern_dtype type);

/* The line for a call that returned rc ≠ 0; ENGINE_FAILED, or ENGINE_BAD_INPUT where the device has too little memory. */
int cuda_gpu_failure(const struct cuda_gpu *gpu, CUresult rc, const char *call, const char *what,
                     struct engine_error *err);

#endif
