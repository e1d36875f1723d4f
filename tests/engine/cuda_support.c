/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_support.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_gpu.h"

#define OK(call) ck_assert_int_eq(call, CUDA_SUCCESS)

bool cuda_test_is_simulated(void)
{
    const char *name = getenv("KVMM_LIBCUDA");
    return name && strstr(name, "/simcuda/");
}

int cuda_test_skip(void)
{
    struct engine_error why;
    if (!kern_cuda_built()) {
        (void)puts("skipped: built without CUDA kernels, because there is no nvcc");
        return 77;
    }
    if (cuda_test_is_simulated())
        return 0;
    if (cuda_gpu_probe(0, &why) == 0)
        return setenv("CK_FORK", "no", 1); /* CUDA after fork is undefined */
    (void)printf("skipped: %s\n", why.text);
    return 77;
}

static const struct cuda_driver *driver(void)
{
    const struct cuda_driver *cu;
    char reason[CUDA_DRIVER_REASON];
    ck_assert_msg(cuda_driver_get(&cu, reason) == CUDA_DRIVER_OK, "%s", reason);
    return cu;
}

const struct simcuda_control *cuda_test_sim(void)
{
    static struct simcuda_control control;
    (void)driver();
    ck_assert_msg(simcuda_find(&control), "KVMM_LIBCUDA is not simcuda");
    return &control;
}

void *cuda_test_blas_symbol(const char *name)
{
    void *library = dlopen(getenv("KVMM_LIBCUBLAS"), RTLD_NOW);
    ck_assert_ptr_nonnull(library);
    void *symbol = dlsym(library, name);
    ck_assert_msg(symbol != NULL, "no %s in %s", name, getenv("KVMM_LIBCUBLAS"));
    return symbol;
}

/* ---- memory -------------------------------------------------------------------------------------------------- */

static CUcontext enter(void)
{
    CUdevice device;
    CUcontext context;
    OK(driver()->DeviceGet(&device, 0));
    OK(driver()->DevicePrimaryCtxRetain(&context, device));
    OK(driver()->CtxPushCurrent(context));
    return context;
}

static void leave(void)
{
    CUcontext context;
    OK(driver()->CtxPopCurrent(&context));
    OK(driver()->DevicePrimaryCtxRelease(0));
}

static CUstream open_stream(void)
{
    CUstream stream;
    OK(driver()->StreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0));
    return stream;
}

static void close_stream(CUstream stream)
{
    OK(driver()->StreamSynchronize(stream));
    OK(driver()->StreamDestroy(stream));
}

/* Keeps the context: the memory is in it. */
uint64_t cuda_test_alloc(size_t bytes)
{
    CUdeviceptr at;
    CUcontext context = enter();
    CUstream stream = open_stream();
    OK(driver()->MemAlloc(&at, bytes));
    OK(driver()->MemsetD8Async(at, 0, bytes, stream));
    close_stream(stream);
    OK(driver()->CtxPopCurrent(&context));
    return at;
}

void cuda_test_free(uint64_t at)
{
    (void)enter();
    OK(driver()->MemFree(at));
    leave();
    OK(driver()->DevicePrimaryCtxRelease(0));
}

void *cuda_test_copy_out(uint64_t at, size_t bytes)
{
    void *pinned, *copy = malloc(bytes);
    ck_assert_ptr_nonnull(copy);
    (void)enter();
    CUstream stream = open_stream();
    OK(driver()->MemHostAlloc(&pinned, bytes, 0));
    OK(driver()->MemcpyDtoHAsync(pinned, at, bytes, stream));
    close_stream(stream);
    memcpy(copy, pinned, bytes);
    OK(driver()->MemFreeHost(pinned));
    leave();
    return copy;
}

/* ---- what is left -------------------------------------------------------------------------------------------- */

struct simcuda_usage cuda_test_usage(void)
{
    struct simcuda_usage usage = {0};
    if (cuda_test_is_simulated())
        cuda_test_sim()->get_usage(&usage);
    return usage;
}

void cuda_test_nothing_left(const struct simcuda_usage *before, const char *what)
{
    if (!cuda_test_is_simulated())
        return;
    char text[256];
    struct simcuda_usage now = cuda_test_usage();
    ck_assert_msg(cuda_test_sim()->violations(text, sizeof text) == 0, "%s: violation: %s", what, text);
    const uint64_t *a = (const uint64_t *)before, *b = (const uint64_t *)&now;
    for (size_t i = 0; i < sizeof now / sizeof *a; i++)
        ck_assert_msg(b[i] == a[i], "%s: number %zu of simcuda_usage is %llu, was %llu", what, i,
                      (unsigned long long)b[i], (unsigned long long)a[i]);
}
