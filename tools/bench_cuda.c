/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/convert.h"

#define NOISE_ELEMENTS 1048568u /* 2 MiB but for 16 bytes, so that it does not repeat with the pages */
#define LEAST_SECONDS  2e-3     /* of what is timed: events count in half microseconds */
#define MOST_REPEATS   1000u

bool bench_cuda_good(const struct bench_cuda *gpu, CUresult rc, const char *call)
{
    if (rc == CUDA_SUCCESS)
        return true;
    fprintf(stderr, "%s: cuda:%d: %s: %s\n", gpu->command, gpu->ordinal, call, cuda_error_name(gpu->cu, rc));
    return false;
}

/* ---- memory -------------------------------------------------------------------------------------------------- */

bool bench_cuda_alloc(const struct bench_cuda *gpu, size_t bytes, const char *what, CUdeviceptr *at)
{
    CUdeviceptr new;
    CUresult rc = gpu->cu->MemAlloc(&new, bytes);
    if (rc != CUDA_SUCCESS) {
        fprintf(stderr, "%s: cuda:%d: cuMemAlloc of %zu bytes for %s: %s\n", gpu->command, gpu->ordinal, bytes, what,
                cuda_error_name(gpu->cu, rc));
        return false;
    }
    *at = new;
    return true;
}

void bench_cuda_free(const struct bench_cuda *gpu, CUdeviceptr *at)
{
    if (*at)
        (void)gpu->cu->MemFree(*at);
    *at = 0;
}

bool bench_cuda_free_memory(const struct bench_cuda *gpu, size_t *bytes)
{
    size_t total;
    return bench_cuda_good(gpu, gpu->cu->MemGetInfo(bytes, &total), "cuMemGetInfo");
}

bool bench_cuda_upload(const struct bench_cuda *gpu, CUdeviceptr to, const void *from, size_t bytes)
{
    void *pinned;
    if (!bench_cuda_good(gpu, gpu->cu->MemHostAlloc(&pinned, bytes, 0), "cuMemHostAlloc"))
        return false;
    memcpy(pinned, from, bytes);
    bool good = bench_cuda_good(gpu, gpu->cu->MemcpyHtoDAsync(to, pinned, bytes, gpu->stream), "cuMemcpyHtoDAsync");
    good = bench_cuda_good(gpu, gpu->cu->StreamSynchronize(gpu->stream), "an upload") && good;
    (void)gpu->cu->MemFreeHost(pinned);
    return good;
}

bool bench_cuda_fill(const struct bench_cuda *gpu, CUdeviceptr at, size_t bytes, enum kern_dtype type)
{
    const size_t noise_bytes = (size_t)NOISE_ELEMENTS * 2;
    for (size_t done = 0; done < bytes; done += noise_bytes) {
        const size_t n = bytes - done < noise_bytes ? bytes - done : noise_bytes;
        CUresult rc = gpu->cu->MemcpyDtoDAsync(at + done, gpu->noise[type], n, gpu->stream);
        if (!bench_cuda_good(gpu, rc, "cuMemcpyDtoDAsync"))
            return false;
    }
    return true;
}

static bool make_noise(struct bench_cuda *gpu)
{
    const size_t bytes = (size_t)NOISE_ELEMENTS * 2;
    uint16_t *elements = malloc(bytes);
    if (!elements) {
        fprintf(stderr, "%s: out of memory\n", gpu->command);
        return false;
    }
    bool good = true;
    for (int type = KERN_F16; type <= KERN_BF16 && good; type++) {
        uint64_t state = 88172645463325252u;
        for (size_t i = 0; i < NOISE_ELEMENTS; i++) {
            state ^= state << 13; /* xorshift64 (Marsaglia 2003) */
            state ^= state >> 7;
            state ^= state << 17;
            const float x = ((float)(state >> 40) / (float)(1 << 24) - 0.5f) * 3.4641f;
            elements[i] = type == KERN_F16 ? kern_f16_of_f32(x) : kern_bf16_of_f32(x);
        }
        good = bench_cuda_alloc(gpu, bytes, "noise", &gpu->noise[type]) &&
               bench_cuda_upload(gpu, gpu->noise[type], elements, bytes);
    }
    free(elements);
    return good;
}

/* ---- open and close ------------------------------------------------------------------------------------------ */

static bool find(struct bench_cuda *gpu)
{
    char reason[CUDA_DRIVER_REASON];
    int n;
    if (!kern_cuda_built()) {
        fprintf(stderr, "%s: this kvmm was built without CUDA kernels (no nvcc was found)\n", gpu->command);
        return false;
    }
    if (cuda_driver_get(&gpu->cu, reason) != CUDA_DRIVER_OK) {
        fprintf(stderr, "%s: cuda:%d: %s\n", gpu->command, gpu->ordinal, reason);
        return false;
    }
    if (!bench_cuda_good(gpu, gpu->cu->DeviceGetCount(&n), "cuDeviceGetCount"))
        return false;
    if (gpu->ordinal >= n) {
        fprintf(stderr, "%s: cuda:%d: no such device: the CUDA driver sees %d\n", gpu->command, gpu->ordinal, n);
        return false;
    }
    if (!bench_cuda_good(gpu, gpu->cu->DeviceGet(&gpu->device, gpu->ordinal), "cuDeviceGet") ||
        !bench_cuda_good(gpu, gpu->cu->DeviceGetName(gpu->name, sizeof gpu->name, gpu->device), "cuDeviceGetName") ||
        !bench_cuda_good(gpu, gpu->cu->DriverGetVersion(&gpu->driver_version), "cuDriverGetVersion"))
        return false;
    gpu->simulated = strncmp(gpu->name, "simcuda", strlen("simcuda")) == 0;
    return true;
}

/* Without cuBLAS the bench goes on. */
static void open_blas(struct bench_cuda *gpu)
{
    if (cublas_get(gpu->cu, &gpu->blas, gpu->no_blas) != 0)
        return;
    cublasStatus_t status = gpu->blas->cublasCreate_v2(&gpu->handle);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = gpu->blas->cublasSetStream_v2(gpu->handle, gpu->stream);
        if (status == CUBLAS_STATUS_SUCCESS)
            return;
        (void)gpu->blas->cublasDestroy_v2(gpu->handle);
    }
    gpu->handle = NULL;
    (void)snprintf(gpu->no_blas, sizeof gpu->no_blas, "cublasCreate: %s", cublas_status_name(status));
}

static bool open_in_context(struct bench_cuda *gpu)
{
    const struct cuda_driver *cu = gpu->cu;
    CUresult rc = cu->StreamCreateWithPriority(&gpu->stream, CU_STREAM_NON_BLOCKING, 0);
    if (rc != CUDA_SUCCESS)
        gpu->stream = NULL;
    if (!bench_cuda_good(gpu, rc, "cuStreamCreateWithPriority") ||
        !bench_cuda_good(gpu, cu->EventCreate(&gpu->begin, CU_EVENT_DEFAULT), "cuEventCreate") ||
        !bench_cuda_good(gpu, cu->EventCreate(&gpu->end, CU_EVENT_DEFAULT), "cuEventCreate") ||
        !bench_cuda_good(gpu, kern_cuda_open(cu, gpu->device, &gpu->kernels), "loading the kernels"))
        return false;
    const CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, gpu->device}};
    rc = cu->MemGetAllocationGranularity(&gpu->frame_bytes, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    if (!bench_cuda_good(gpu, rc, "cuMemGetAllocationGranularity"))
        return false;
    open_blas(gpu);
    return make_noise(gpu);
}

bool bench_cuda_open(const char *command, int ordinal, struct bench_cuda *gpu)
{
    *gpu = (struct bench_cuda){.command = command, .ordinal = ordinal};
    if (!find(gpu))
        return false;
    CUresult rc = gpu->cu->DevicePrimaryCtxRetain(&gpu->context, gpu->device);
    if (!bench_cuda_good(gpu, rc, "cuDevicePrimaryCtxRetain"))
        return false;
    if (!bench_cuda_good(gpu, gpu->cu->CtxPushCurrent(gpu->context), "cuCtxPushCurrent")) {
        (void)gpu->cu->DevicePrimaryCtxRelease(gpu->device);
        gpu->context = NULL;
        return false;
    }
    if (open_in_context(gpu))
        return true;
    bench_cuda_close(gpu);
    return false;
}

void bench_cuda_close(struct bench_cuda *gpu)
{
    if (!gpu->context)
        return;
    if (gpu->stream)
        (void)gpu->cu->StreamSynchronize(gpu->stream);
    if (gpu->handle)
        (void)gpu->blas->cublasDestroy_v2(gpu->handle);
    for (int type = KERN_F16; type <= KERN_BF16; type++)
        bench_cuda_free(gpu, &gpu->noise[type]);
    kern_cuda_close(&gpu->kernels);
    if (gpu->begin)
        (void)gpu->cu->EventDestroy(gpu->begin);
    if (gpu->end)
        (void)gpu->cu->EventDestroy(gpu->end);
    if (gpu->stream)
        (void)gpu->cu->StreamDestroy(gpu->stream);
    CUcontext ours;
    (void)gpu->cu->CtxPopCurrent(&ours);
    (void)gpu->cu->DevicePrimaryCtxRelease(gpu->device);
    *gpu = (struct bench_cuda){0};
}

/* ---- time ---------------------------------------------------------------------------------------------------- */

bool bench_cuda_time(const struct bench_cuda *gpu, const struct bench_cuda_work *work, unsigned repeats,
                     double *seconds)
{
    float ms = 0;
    CUresult rc = gpu->cu->EventRecord(gpu->begin, gpu->stream);
    for (unsigned i = 0; i < repeats && rc == CUDA_SUCCESS; i++)
        rc = work->queue(work->ctx);
    if (rc == CUDA_SUCCESS)
        rc = gpu->cu->EventRecord(gpu->end, gpu->stream);
    if (rc == CUDA_SUCCESS)
        rc = gpu->cu->EventSynchronize(gpu->end);
    if (rc == CUDA_SUCCESS)
        rc = gpu->cu->EventElapsedTime(&ms, gpu->begin, gpu->end);
    if (!bench_cuda_good(gpu, rc, work->what))
        return false;
    *seconds = (ms > 1e-4f ? (double)ms : 1e-4) * 1e-3 / repeats; /* never 0: it divides */
    return true;
}

bool bench_cuda_warm(const struct bench_cuda *gpu, const struct bench_cuda_work *work, unsigned *repeats)
{
    double seconds = 0;
    for (int i = 0; i < 2; i++)
        if (!bench_cuda_time(gpu, work, 1, &seconds))
            return false;
    const double wanted = LEAST_SECONDS / seconds;
    *repeats = wanted < 1 ? 1 : wanted > MOST_REPEATS ? MOST_REPEATS : (unsigned)wanted;
    return true;
}
