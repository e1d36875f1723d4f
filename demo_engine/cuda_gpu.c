/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_gpu.h"

#include <inttypes.h>
#include <stdio.h>

/* What NVIDIA recommends for the GPUs of most need, Hopper and later. */
#define WORKSPACE_BYTES (32u << 20)

#define OLDEST_GPU 8 /* compute capability 8.0, sm_80: kern_cuda_open()'s bound */

int cuda_gpu_failure(const struct cuda_gpu *gpu, CUresult rc, const char *call, const char *what,
                     struct engine_error *err)
{
    if (rc == CUDA_ERROR_OUT_OF_MEMORY)
        return engine_fail(err, "cuda:%d: %s for %s: %s", gpu->ordinal, call, what, cuda_error_name(gpu->cu, rc));
    return engine_broke(err, "cuda:%d: %s for %s: %s", gpu->ordinal, call, what, cuda_error_name(gpu->cu, rc));
}

/* ---- which GPU ----------------------------------------------------------------------------------------------- */

static int call_failed(const struct cuda_gpu *gpu, CUresult rc, const char *call, struct engine_error *err)
{
    return engine_fail(err, "cuda:%d: %s: %s", gpu->ordinal, call, cuda_error_name(gpu->cu, rc));
}

/* Whether the device can do what is needed of it. */
static int check_device(const struct cuda_gpu *gpu, struct engine_error *err)
{
    static const CUdevice_attribute wanted[] = {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                                                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                                                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR};
    int values[3];
    for (int i = 0; i < 3; i++) {
        CUresult rc = gpu->cu->DeviceGetAttribute(&values[i], wanted[i], gpu->device);
        if (rc != CUDA_SUCCESS)
            return call_failed(gpu, rc, "cuDeviceGetAttribute", err);
    }
    char name[128];
    if (gpu->cu->DeviceGetName(name, sizeof name, gpu->device) != CUDA_SUCCESS)
        (void)snprintf(name, sizeof name, "the device");
    if (!values[0])
        return engine_fail(err, "cuda:%d: %s has no virtual memory management: %s", gpu->ordinal, name,
                           cuda_error_name(gpu->cu, CUDA_ERROR_NOT_SUPPORTED));
    if (values[1] < OLDEST_GPU)
        return engine_fail(err, "cuda:%d: %s is of compute capability %d.%d, and the kernels need %d.0: %s",
                           gpu->ordinal, name, values[1], values[2], OLDEST_GPU,
                           cuda_error_name(gpu->cu, CUDA_ERROR_NO_BINARY_FOR_GPU));
    return 0;
}

_Static_assert(CUDA_DRIVER_REASON >= CUBLAS_REASON, "one buffer for the reasons of both");

/* Finds driver, device and cuBLAS. */
static int find(int ordinal, struct cuda_gpu *gpu, struct engine_error *err)
{
    char reason[CUDA_DRIVER_REASON];
    *gpu = (struct cuda_gpu){.ordinal = ordinal};
    if (!kern_cuda_built())
        return engine_fail(err, "cuda:%d: this kvmm-engine was built without CUDA kernels (no nvcc was found)",
                           ordinal);
    if (cuda_driver_get(&gpu->cu, reason) != CUDA_DRIVER_OK)
        return engine_fail(err, "cuda:%d: %s", ordinal, reason);
    int n;
    CUresult rc = gpu->cu->DeviceGetCount(&n);
    if (rc != CUDA_SUCCESS)
        return call_failed(gpu, rc, "cuDeviceGetCount", err);
    if (ordinal >= n)
        return engine_fail(err, "cuda:%d: no such device: the CUDA driver sees %d: %s", ordinal, n,
                           cuda_error_name(gpu->cu, CUDA_ERROR_INVALID_DEVICE));
    rc = gpu->cu->DeviceGet(&gpu->device, ordinal);
    if (rc != CUDA_SUCCESS)
        return call_failed(gpu, rc, "cuDeviceGet", err);
    int status = check_device(gpu, err);
    if (status == 0 && cublas_get(gpu->cu, &gpu->blas, reason) != 0)
        status = engine_fail(err, "cuda:%d: %s", ordinal, reason);
    return status;
}

int cuda_gpu_probe(int ordinal, struct engine_error *err)
{
    struct cuda_gpu gpu;
    return find(ordinal, &gpu, err);
}

/* ---- open and close ------------------------------------------------------------------------------------------ */

/* As cuBLAS takes device addresses. */
static void *pointer_to(CUdeviceptr at)
{
    return (void *)(uintptr_t)at; // NOLINT(performance-no-int-to-ptr)
}

static int blas_failure(const struct cuda_gpu *gpu, cublasStatus_t rc, const char *call, struct engine_error *err)
{
    const int status = rc == CUBLAS_STATUS_ALLOC_FAILED ? ENGINE_BAD_INPUT : ENGINE_FAILED;
    engine_set_error(err, "cuda:%d: %s: %s", gpu->ordinal, call, cublas_status_name(rc));
    return status;
}

static int open_blas(struct cuda_gpu *gpu, struct engine_error *err)
{
    const struct cublas *blas = gpu->blas;
    cublasStatus_t rc = blas->cublasCreate_v2(&gpu->handle);
    if (rc != CUBLAS_STATUS_SUCCESS) {
        gpu->handle = NULL;
        return blas_failure(gpu, rc, "cublasCreate", err);
    }
    rc = blas->cublasSetStream_v2(gpu->handle, gpu->stream); /* first: it forgets the workspace */
    if (rc != CUBLAS_STATUS_SUCCESS)
        return blas_failure(gpu, rc, "cublasSetStream", err);
    int status = cuda_gpu_alloc(gpu, WORKSPACE_BYTES, "cuBLAS's workspace", &gpu->workspace, err);
    if (status != 0)
        return status;
    rc = blas->cublasSetWorkspace_v2(gpu->handle, pointer_to(gpu->workspace), WORKSPACE_BYTES);
    if (rc != CUBLAS_STATUS_SUCCESS)
        return blas_failure(gpu, rc, "cublasSetWorkspace", err);
    /* No TF32 for f32, no partial sums in f16. */
    rc = blas->cublasSetMathMode(gpu->handle, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    if (rc != CUBLAS_STATUS_SUCCESS)
        return blas_failure(gpu, rc, "cublasSetMathMode", err);
    return 0;
}

static int open_in_context(struct cuda_gpu *gpu, struct engine_error *err)
{
    const struct cuda_driver *cu = gpu->cu;
    CUresult rc = cu->StreamCreateWithPriority(&gpu->stream, CU_STREAM_NON_BLOCKING, 0);
    if (rc != CUDA_SUCCESS) {
        gpu->stream = NULL;
        return cuda_gpu_failure(gpu, rc, "cuStreamCreateWithPriority", "passes", err);
    }
    rc = cu->EventCreate(&gpu->done, CU_EVENT_DISABLE_TIMING);
    if (rc != CUDA_SUCCESS) {
        gpu->done = NULL;
        return cuda_gpu_failure(gpu, rc, "cuEventCreate", "the end of a pass", err);
    }
    rc = kern_cuda_open(cu, gpu->device, &gpu->kernels);
    if (rc != CUDA_SUCCESS) {
        gpu->kernels = NULL;
        return cuda_gpu_failure(gpu, rc, "loading", "the kernels", err);
    }
    return open_blas(gpu, err);
}

static void close_in_context(struct cuda_gpu *gpu)
{
    const struct cuda_driver *cu = gpu->cu;
    if (gpu->stream && gpu->done)
        cuda_gpu_drain(gpu); /* before what is queued loses its memory */
    if (gpu->handle)
        (void)gpu->blas->cublasDestroy_v2(gpu->handle);
    cuda_gpu_free(gpu, &gpu->workspace);
    kern_cuda_close(&gpu->kernels);
    if (gpu->done)
        (void)cu->EventDestroy(gpu->done);
    if (gpu->stream)
        (void)cu->StreamDestroy(gpu->stream);
}

int cuda_gpu_open(int ordinal, struct cuda_gpu *gpu, struct engine_error *err)
{
    int status = find(ordinal, gpu, err);
    if (status != 0)
        return status;
    CUresult rc = gpu->cu->DevicePrimaryCtxRetain(&gpu->context, gpu->device);
    if (rc != CUDA_SUCCESS) {
        gpu->context = NULL;
        return cuda_gpu_failure(gpu, rc, "cuDevicePrimaryCtxRetain", "the engine", err);
    }
    status = cuda_gpu_enter(gpu, err);
    if (status != 0)
        goto release_context;
    status = open_in_context(gpu, err);
    if (status != 0)
        close_in_context(gpu);
    cuda_gpu_leave(gpu);
release_context:
    if (status != 0) {
        (void)gpu->cu->DevicePrimaryCtxRelease(gpu->device);
        *gpu = (struct cuda_gpu){0};
    }
    return status;
}

void cuda_gpu_close(struct cuda_gpu *gpu)
{
    if (!gpu->context)
        return;
    const bool entered = cuda_gpu_enter_to_close(gpu);
    close_in_context(gpu);
    if (entered)
        cuda_gpu_leave(gpu);
    (void)gpu->cu->DevicePrimaryCtxRelease(gpu->device);
    *gpu = (struct cuda_gpu){0};
}

int cuda_gpu_enter(const struct cuda_gpu *gpu, struct engine_error *err)
{
    CUresult rc = gpu->cu->CtxPushCurrent(gpu->context);
    return rc == CUDA_SUCCESS ? 0 : cuda_gpu_failure(gpu, rc, "cuCtxPushCurrent", "the engine", err);
}

bool cuda_gpu_enter_to_close(const struct cuda_gpu *gpu)
{
    CUresult rc = gpu->cu->CtxPushCurrent(gpu->context);
    if (rc != CUDA_SUCCESS)
        rc = gpu->cu->CtxPushCurrent(gpu->context);
    return rc == CUDA_SUCCESS;
}

void cuda_gpu_leave(const struct cuda_gpu *gpu)
{
    CUcontext ours;
    (void)gpu->cu->CtxPopCurrent(&ours);
}

/* ---- memory -------------------------------------------------------------------------------------------------- */

/* "cuda:0: cuMemAlloc of 16106127360 bytes for the weights: CUDA_ERROR_OUT_OF_MEMORY; 8589934592 bytes are free" */
static int alloc_failure(const struct cuda_gpu *gpu, CUresult rc, const char *call, uint64_t bytes, const char *what,
                         struct engine_error *err)
{
    size_t free, total;
    if (rc != CUDA_ERROR_OUT_OF_MEMORY)
        return engine_broke(err, "cuda:%d: %s of %" PRIu64 " bytes for %s: %s", gpu->ordinal, call, bytes, what,
                            cuda_error_name(gpu->cu, rc));
    if (gpu->cu->MemGetInfo(&free, &total) != CUDA_SUCCESS)
        free = 0;
    return engine_fail(err, "cuda:%d: %s of %" PRIu64 " bytes for %s: %s; %zu bytes of the device are free",
                       gpu->ordinal, call, bytes, what, cuda_error_name(gpu->cu, rc), free);
}

int cuda_gpu_alloc(const struct cuda_gpu *gpu, uint64_t bytes, const char *what, CUdeviceptr *at,
                   struct engine_error *err)
{
    CUdeviceptr new;
    CUresult rc = gpu->cu->MemAlloc(&new, bytes);
    if (rc != CUDA_SUCCESS)
        return alloc_failure(gpu, rc, "cuMemAlloc", bytes, what, err);
    *at = new;
    return 0;
}

int cuda_gpu_alloc_pinned(const struct cuda_gpu *gpu, size_t bytes, const char *what, void **at,
                          struct engine_error *err)
{
    void *new;
    CUresult rc = gpu->cu->MemHostAlloc(&new, bytes, 0);
    if (rc == CUDA_ERROR_OUT_OF_MEMORY)
        return engine_broke(err, "cuda:%d: cuMemHostAlloc of %zu bytes of host memory for %s: %s", gpu->ordinal, bytes,
                            what, cuda_error_name(gpu->cu, rc));
    if (rc != CUDA_SUCCESS)
        return alloc_failure(gpu, rc, "cuMemHostAlloc", bytes, what, err);
    *at = new;
    return 0;
}

void cuda_gpu_free(const struct cuda_gpu *gpu, CUdeviceptr *at)
{
    if (*at)
        (void)gpu->cu->MemFree(*at);
    *at = 0;
}

void cuda_gpu_free_pinned(const struct cuda_gpu *gpu, void **at)
{
    if (*at)
        (void)gpu->cu->MemFreeHost(*at);
    *at = NULL;
}

/* ---- work ---------------------------------------------------------------------------------------------------- */

int cuda_gpu_mark(const struct cuda_gpu *gpu, struct engine_error *err)
{
    CUresult rc = gpu->cu->EventRecord(gpu->done, gpu->stream);
    return rc == CUDA_SUCCESS ? 0 : cuda_gpu_failure(gpu, rc, "cuEventRecord", "the end of a pass", err);
}

int cuda_gpu_wait(const struct cuda_gpu *gpu, const char *what, struct engine_error *err)
{
    CUresult rc = gpu->cu->EventSynchronize(gpu->done);
    return rc == CUDA_SUCCESS ? 0 : cuda_gpu_failure(gpu, rc, "cuEventSynchronize", what, err);
}

void cuda_gpu_drain(const struct cuda_gpu *gpu)
{
    if (gpu->cu->EventRecord(gpu->done, gpu->stream) != CUDA_SUCCESS ||
        gpu->cu->EventSynchronize(gpu->done) != CUDA_SUCCESS)
        (void)gpu->cu->StreamSynchronize(gpu->stream); /* the last resort, not on a step's path */
}

size_t cuda_type_bytes(enum kern_dtype type)
{
    return type == KERN_F32 ? 4 : 2;
}

int cuda_gpu_multiply(const struct cuda_gpu *gpu, const struct cuda_product *p, struct engine_error *err)
{
    static const cudaDataType types[] = {[KERN_F16] = CUDA_R_16F, [KERN_BF16] = CUDA_R_16BF, [KERN_F32] = CUDA_R_32F};
    static const float one = 1, zero = 0;
    /* To cuBLAS, whose matrices lie column by column, w is [in × out], x [in × n], and y [out × n]. */
    cublasStatus_t rc = gpu->blas->cublasGemmEx(gpu->handle, CUBLAS_OP_T, CUBLAS_OP_N, (int)p->out, (int)p->n,
                                                (int)p->in, &one, pointer_to(p->w), types[p->type], (int)p->in,
                                                pointer_to(p->x), types[p->type], (int)p->in, &zero, pointer_to(p->y),
                                                CUDA_R_32F, (int)p->out, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (rc == CUBLAS_STATUS_SUCCESS)
        return 0;
    return engine_broke(err, "cuda:%d: cublasGemmEx of %u tokens by a matrix of %u × %u: %s", gpu->ordinal, p->n,
                        p->out, p->in, cublas_status_name(rc));
}
