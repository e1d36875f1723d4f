/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_cuda_peaks.h"

#include <stdio.h>

#define MOST_BYTES   ((size_t)1 << 30) /* far more than any cache of a GPU holds */
#define GRAIN        ((size_t)1 << 20)
#define MATRIX       8192 /* large enough for the full rate of an H200: 1.1 TFLOP, three matrices of 128 MiB */
#define LEAST_MATRIX 64   /* for the software driver */

static CUresult queue_copy(void *ctx)
{
    const struct cuda_peaks *peaks = ctx;
    return peaks->gpu->cu->MemcpyDtoDAsync(peaks->to, peaks->from, peaks->bytes, peaks->gpu->stream);
}

static void *pointer_to(CUdeviceptr at)
{
    return (void *)(uintptr_t)at; /* NOLINT(performance-no-int-to-ptr): cuBLAS's own type */
}

static cublasStatus_t multiply(const struct cuda_peaks *peaks)
{
    static const cudaDataType types[] = {[KERN_F16] = CUDA_R_16F, [KERN_BF16] = CUDA_R_16BF};
    static const float one = 1, zero = 0;
    const cudaDataType type = types[peaks->factor];
    const int n = peaks->n;
    const void *a = pointer_to(peaks->from), *b = pointer_to(peaks->from + (CUdeviceptr)n * (CUdeviceptr)n * 2);
    return peaks->gpu->blas->cublasGemmEx(peaks->gpu->handle, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, a, type, n, b,
                                          type, n, &zero, pointer_to(peaks->to), peaks->result, n, CUBLAS_COMPUTE_32F,
                                          CUBLAS_GEMM_DEFAULT);
}

static CUresult queue_product(void *ctx)
{
    return multiply(ctx) == CUBLAS_STATUS_SUCCESS ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN;
}

bool cuda_peaks_open(const struct bench_cuda *gpu, struct cuda_peaks *peaks)
{
    size_t room;
    if (!bench_cuda_free_memory(gpu, &room))
        return false;
    size_t bytes = room / 16 / GRAIN * GRAIN;
    bytes = bytes < GRAIN ? GRAIN : bytes > MOST_BYTES ? MOST_BYTES : bytes;
    *peaks = (struct cuda_peaks){.gpu = gpu, .bytes = bytes, .n = gpu->simulated ? LEAST_MATRIX : MATRIX};
    while ((size_t)peaks->n * (size_t)peaks->n * 4 > bytes)
        peaks->n /= 2;
    const struct bench_cuda_work copy = {queue_copy, peaks, "a copy on the device"};
    if (bench_cuda_alloc(gpu, bytes, "the copy bandwidth", &peaks->from) &&
        bench_cuda_alloc(gpu, bytes, "the copy bandwidth", &peaks->to) &&
        bench_cuda_fill(gpu, peaks->from, bytes, KERN_F16) && bench_cuda_warm(gpu, &copy, &peaks->copy_repeats))
        return true;
    cuda_peaks_close(peaks);
    return false;
}

void cuda_peaks_close(struct cuda_peaks *peaks)
{
    if (!peaks->gpu)
        return;
    (void)peaks->gpu->cu->StreamSynchronize(peaks->gpu->stream);
    bench_cuda_free(peaks->gpu, &peaks->from);
    bench_cuda_free(peaks->gpu, &peaks->to);
    *peaks = (struct cuda_peaks){0};
}

bool cuda_peaks_copy(struct cuda_peaks *peaks, double *bytes_per_s)
{
    const struct bench_cuda_work copy = {queue_copy, peaks, "a copy on the device"};
    double seconds;
    if (!bench_cuda_time(peaks->gpu, &copy, peaks->copy_repeats, &seconds))
        return false;
    *bytes_per_s = 2 * (double)peaks->bytes / seconds;
    return true;
}

/* Written in the type of its factors, as a model's products are; in f32 by a library that can't. */
static bool prepare(struct cuda_peaks *peaks)
{
    peaks->result = peaks->factor == KERN_F16 ? CUDA_R_16F : CUDA_R_16BF;
    cublasStatus_t status = multiply(peaks);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) {
        peaks->result = CUDA_R_32F;
        status = multiply(peaks);
    }
    if (status == CUBLAS_STATUS_SUCCESS)
        return true;
    fprintf(stderr, "%s: cuda:%d: cublasGemmEx of %d × %d: %s\n", peaks->gpu->command, peaks->gpu->ordinal, peaks->n,
            peaks->n, cublas_status_name(status));
    return false;
}

bool cuda_peaks_matrix(struct cuda_peaks *peaks, enum kern_dtype type, double *flop_per_s)
{
    const struct bench_cuda_work product = {queue_product, peaks, "cublasGemmEx"};
    unsigned *repeats = &peaks->matrix_repeats[type];
    double seconds;
    peaks->factor = type;
    /* The factors are taken as they lie: any noise of f16 is finite as bf16. */
    if (!prepare(peaks) || (*repeats == 0 && !bench_cuda_warm(peaks->gpu, &product, repeats)) ||
        !bench_cuda_time(peaks->gpu, &product, *repeats, &seconds))
        return false;
    *flop_per_s = 2.0 * peaks->n * peaks->n * peaks->n / seconds;
    return true;
}
