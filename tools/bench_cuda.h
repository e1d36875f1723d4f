/* SPDX-License-Identifier: Apache-2.0
 *
 * One GPU as the benches use it: its primary context, which libkvmm uses too, one stream, kvmm's kernels and, where it is
 * there, cuBLAS. What returns bool has said on stderr, in one line, why it is false. Not thread-safe. */
#ifndef TOOLS_BENCH_CUDA_H
#define TOOLS_BENCH_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "demo_engine/cublas.h"
#include "kernels/attention.h"
#include "kernels/cuda.h"

struct bench_cuda {
    const char *command; /* begins each line on stderr */
    const struct cuda_driver *cu;
    int ordinal;
    CUdevice device;
    CUcontext context; /* current to the thread from open to close */
    CUstream stream;
    CUevent begin, end;
    struct kern_cuda *kernels;
    cublasHandle_t handle; /* NULL: there is no cuBLAS, and no_blas says why */
    const struct cublas *blas;
    char no_blas[CUBLAS_REASON];
    CUdeviceptr noise[2]; /* by enum kern_dtype: KERN_F16, KERN_BF16 */
    size_t frame_bytes;   /* the granularity of mapped memory: kvmm's frame if it is left the choice */
    char name[128];
    int driver_version; /* major × 1000 + minor × 10 */
    bool simulated;     /* by the software driver of the tests: its times mean nothing */
};

/* Opens cuda:ordinal. On failure nothing is left. */
bool bench_cuda_open(const char *command, int ordinal, struct bench_cuda *gpu);
/* Waits for what was queued; all memory was freed. A gpu of zeros is ignored. */
void bench_cuda_close(struct bench_cuda *gpu);

/* True if rc is success; else "…: cuda:0: CALL: CUDA_ERROR_…". */
bool bench_cuda_good(const struct bench_cuda *gpu, CUresult rc, const char *call);

bool bench_cuda_alloc(const struct bench_cuda *gpu, size_t bytes, const char *what, CUdeviceptr *at);
/* Sets 0; 0 is ignored. No queued work uses it. */
void bench_cuda_free(const struct bench_cuda *gpu, CUdeviceptr *at);
/* Of the device, in bytes. */
bool bench_cuda_free_memory(const struct bench_cuda *gpu, size_t *bytes);

/* Copies from host memory, which need not be pinned, and waits. */
bool bench_cuda_upload(const struct bench_cuda *gpu, CUdeviceptr to, const void *from, size_t bytes);
/* Queues: elements uniform in [−1.7, 1.7), of variance 1, so that scores have it too and no weight vanishes. They repeat
 * after some 2 MiB. */
bool bench_cuda_fill(const struct bench_cuda *gpu, CUdeviceptr at, size_t bytes, enum kern_dtype type);

/* Something to time: queues itself on the stream. */
struct bench_cuda_work {
    CUresult (*queue)(void *ctx);
    void *ctx;
    const char *what;
};
/* Runs it twice, the first time to warm up. *repeats: how often it must run to last about 2 ms. */
bool bench_cuda_warm(const struct bench_cuda *gpu, const struct bench_cuda_work *work, unsigned *repeats);
/* Seconds of one of `repeats` runs in a row, by events on the stream. */
bool bench_cuda_time(const struct bench_cuda *gpu, const struct bench_cuda_work *work, unsigned repeats,
                     double *seconds);

#endif
