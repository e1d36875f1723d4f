/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/shim/standin_cudart.h"

#include <stdint.h>

#include "tests/shim/cuda_dlsym.h"

#define API __attribute__((visibility("default")))

typedef CUresult get_proc_v1(const char *symbol, void **function, int version, uint64_t flags);
typedef CUresult get_proc_v2(const char *symbol, void **function, int version, uint64_t flags,
                             CUdriverProcAddressQueryResult *found);

/* What is asked for, with the versions that cudart 13 asks for; X(member, name, version, version of the form whose stream 0
 * is the thread's own, parameters). */
#define FUNCTIONS(X)                                                                                                   \
    X(get_proc_1, cuGetProcAddress, 11030, 11030, (const char *, void **, int, uint64_t))                              \
    X(get_proc_2, cuGetProcAddress, 12000, 12000,                                                                      \
      (const char *, void **, int, uint64_t, CUdriverProcAddressQueryResult *))                                        \
    X(init, cuInit, 2000, 2000, (unsigned))                                                                            \
    X(retain, cuDevicePrimaryCtxRetain, 7000, 7000, (CUcontext *, CUdevice))                                           \
    X(release, cuDevicePrimaryCtxRelease, 11000, 11000, (CUdevice))                                                    \
    X(set_current, cuCtxSetCurrent, 4000, 4000, (CUcontext))                                                           \
    X(mem_alloc, cuMemAlloc, 3020, 3020, (CUdeviceptr *, size_t))                                                      \
    X(mem_free, cuMemFree, 3020, 3020, (CUdeviceptr))                                                                  \
    X(mem_info, cuMemGetInfo, 3020, 3020, (size_t *, size_t *))                                                        \
    X(copy, cuMemcpyAsync, 4000, 7000, (CUdeviceptr, CUdeviceptr, size_t, CUstream))                                   \
    X(fill, cuMemsetD8Async, 3020, 7000, (CUdeviceptr, unsigned char, size_t, CUstream))                               \
    X(launch, cuLaunchKernel, 4000, 7000,                                                                              \
      (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **))  \
    X(synchronize, cuStreamSynchronize, 2000, 7000, (CUstream))

static struct {
#define X(member, name, version, thread_version, params) CUresult(*member) params;
    FUNCTIONS(X)
#undef X
} cu;

API int standin_open(bool per_thread)
{
    CUcontext context;
    get_proc_v2 *get;
    uint64_t flags = per_thread ? CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM : CU_GET_PROC_ADDRESS_LEGACY_STREAM;
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library || !(*(void **)&get = dlsym(library, "cuGetProcAddress_v2")))
        return CUDA_ERROR_NOT_FOUND;
    CUdriverProcAddressQueryResult found;
#define X(member, name, version, thread_version, params)                                                               \
    if (get(#name, (void **)&cu.member, (const int[]){version, thread_version}[per_thread], flags, &found) ||          \
        !cu.member)                                                                                                    \
        return CUDA_ERROR_NOT_FOUND;
    FUNCTIONS(X)
#undef X
    /* cudart trusts what its first answer gave; the older form must agree with the newer. */
    void *older = NULL;
    CUresult rc = cu.get_proc_1("cuMemAlloc", &older, 3020, flags);
    if (rc || older != *(void **)&cu.mem_alloc)
        return CUDA_ERROR_NOT_FOUND;
    rc = cu.init(0);
    if (rc == CUDA_SUCCESS)
        rc = cu.retain(&context, 0);
    return rc ? rc : cu.set_current(context);
}

API int standin_close(void)
{
    return cu.release(0);
}

API int standin_malloc(void **memory, size_t bytes)
{
    CUdeviceptr ptr = 0;
    CUresult rc = cu.mem_alloc(&ptr, bytes);
    if (rc == CUDA_SUCCESS)
        *memory = (void *)(uintptr_t)ptr;
    return rc;
}

API int standin_free(void *memory)
{
    return cu.mem_free((uintptr_t)memory);
}

API int standin_memcpy_async(void *to, const void *from, size_t bytes, CUstream stream)
{
    return cu.copy((uintptr_t)to, (uintptr_t)from, bytes, stream);
}

API int standin_memset_async(void *to, int value, size_t bytes, CUstream stream)
{
    return cu.fill((uintptr_t)to, (unsigned char)value, bytes, stream);
}

API int standin_mem_get_info(size_t *free_bytes, size_t *total)
{
    return cu.mem_info(free_bytes, total);
}

API int standin_launch(CUfunction function, void **params, CUstream stream)
{
    return cu.launch(function, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL);
}

API int standin_stream_synchronize(CUstream stream)
{
    return cu.synchronize(stream);
}
