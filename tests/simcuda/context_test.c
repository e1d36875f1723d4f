/* SPDX-License-Identifier: Apache-2.0
 *
 * Contexts: which thread may call what, and what is left of a context when it goes. */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

enum { CONTEXT_IS_DESTROYED = 709 }; /* which kvmm does not name */

static void *call_without_a_context(void *arg)
{
    CUdeviceptr device;
    CUevent event;
    CUcontext current = arg;
    int n;
    OK(cuDeviceGetCount(&n));
    OK(cuCtxGetCurrent(&current));
    ck_assert_ptr_null(current);
    FAILS(cuMemAlloc_v2(&device, 16), CUDA_ERROR_INVALID_CONTEXT);
    FAILS(cuEventCreate(&event, 0), CUDA_ERROR_INVALID_CONTEXT);
    FAILS(cuStreamSynchronize(NULL), CUDA_ERROR_INVALID_CONTEXT);
    FAILS(cuCtxPopCurrent_v2(&current), CUDA_ERROR_INVALID_CONTEXT);
    FAILS(simcuda_launch(NULL, "none", NULL, NULL, 0), CUDA_ERROR_INVALID_CONTEXT);
    OK(cuMemAddressReserve(&device, GRANULE, 0, 0, 0)); /* virtual memory is the process's */
    OK(cuMemAddressFree(device, GRANULE));
    OK(cuCtxPushCurrent_v2(arg));
    OK(cuMemAlloc_v2(&device, 16));
    OK(cuMemFree_v2(device));
    OK(cuCtxPopCurrent_v2(&current));
    ck_assert_ptr_eq(current, arg);
    FAILS(cuMemAlloc_v2(&device, 16), CUDA_ERROR_INVALID_CONTEXT);
    return NULL;
}

START_TEST(each_thread_has_its_own_current_context)
{
    pthread_t thread;
    CUcontext context;
    OK(cuCtxGetCurrent(&context));
    ck_assert_int_eq(pthread_create(&thread, NULL, call_without_a_context, context), 0);
    pthread_join(thread, NULL);
}
END_TEST

START_TEST(a_context_is_one_and_counted)
{
    CUcontext first, second;
    OK(cuCtxGetCurrent(&first));
    OK(cuDevicePrimaryCtxRetain(&second, 0));
    ck_assert_ptr_eq(first, second);
    OK(cuDevicePrimaryCtxRelease_v2(0));
    OK(cuCtxSynchronize());
    FAILS(cuDevicePrimaryCtxRetain(&second, 1), CUDA_ERROR_INVALID_DEVICE);
    FAILS(cuDevicePrimaryCtxRetain(&second, -1), CUDA_ERROR_INVALID_DEVICE);
}
END_TEST

START_TEST(what_is_not_retained_is_no_context)
{
    CUcontext old, next;
    OK(cuCtxGetCurrent(&old));
    OK(cuDevicePrimaryCtxRelease_v2(0));
    FAILS(cuStreamSynchronize(NULL), CONTEXT_IS_DESTROYED);
    expect_violation("current context was destroyed");
    FAILS(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
    expect_violation("more often");
    FAILS(cuCtxSetCurrent(old), CUDA_ERROR_INVALID_CONTEXT);
    expect_violation("destroyed before");
    FAILS(cuCtxPushCurrent_v2((CUcontext)&next), CUDA_ERROR_INVALID_CONTEXT);
    expect_violation("never existed");
    FAILS(cuCtxPushCurrent_v2(NULL), CUDA_ERROR_INVALID_CONTEXT);
    OK(cuDevicePrimaryCtxRetain(&next, 0));
    ck_assert_ptr_ne(old, next);
    OK(cuCtxSetCurrent(next));
    OK(cuStreamSynchronize(NULL));
}
END_TEST

START_TEST(a_context_takes_its_streams_with_it)
{
    CUcontext context;
    CUdeviceptr device;
    struct simcuda_usage usage;
    CUstream stream = make_stream(0);
    CUevent event = make_event();
    OK(cuMemAlloc_v2(&device, 16));
    OK(cuMemsetD8Async(device, 1, 16, stream));
    OK(cuMemsetD8Async(device, 2, 16, NULL));
    OK(cuDevicePrimaryCtxRelease_v2(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    FAILS(cuStreamSynchronize(stream), CONTEXT_IS_DESTROYED);
    expect_violation("went with its context");
    FAILS(cuStreamDestroy_v2(stream), CONTEXT_IS_DESTROYED);
    expect_violation("went with its context");
    FAILS(cuEventRecord(event, NULL), CONTEXT_IS_DESTROYED);
    expect_violation("went with its context");
    FAILS(cuMemsetD8Async(device, 1, 16, NULL), CUDA_ERROR_INVALID_VALUE);
    expect_violation("went with its context");
    simcuda_get_usage(&usage); /* what nobody gave back is still seen */
    ck_assert_uint_eq(usage.streams, usage_before.streams + 1);
    ck_assert_uint_eq(usage.events, usage_before.events + 1);
    OK(cuMemFree_v2(device));
    usage_before.streams++;
    usage_before.events++;
}
END_TEST

START_TEST(a_child_of_fork_has_no_driver)
{
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        int n;
        _exit(cuDeviceGetCount(&n) == CUDA_ERROR_NOT_INITIALIZED && cuInit(0) == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
    }
    int status = -1;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(the_device_describes_itself)
{
    char name[64];
    const char *error = NULL;
    int value = 0, version = 0;
    size_t bytes = 0;
    CUdevice device = -1;
    OK(cuDeviceGet(&device, 0));
    FAILS(cuDeviceGet(&device, 1), CUDA_ERROR_INVALID_DEVICE);
    OK(cuDeviceGetName(name, sizeof name, device));
    ck_assert_str_eq(name, "simcuda 0");
    OK(cuDeviceTotalMem_v2(&bytes, device));
    ck_assert_uint_eq(bytes, 2048 * MIB);
    OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
    ck_assert_int_eq(value, 9);
    OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
    ck_assert_int_eq(value, 132);
    OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device));
    ck_assert_int_eq(value, 1);
    FAILS(cuDeviceGetAttribute(&value, (CUdevice_attribute)9999, device), CUDA_ERROR_INVALID_VALUE);
    OK(cuDriverGetVersion(&version));
    ck_assert_int_eq(version, 12040);
    OK(cuGetErrorName(CUDA_ERROR_OUT_OF_MEMORY, &error));
    ck_assert_str_eq(error, "CUDA_ERROR_OUT_OF_MEMORY");
    FAILS(cuGetErrorName((CUresult)12345, &error), CUDA_ERROR_INVALID_VALUE);
    ck_assert_ptr_null(error);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {each_thread_has_its_own_current_context,
                                  a_context_is_one_and_counted,
                                  what_is_not_retained_is_no_context,
                                  a_context_takes_its_streams_with_it,
                                  a_child_of_fork_has_no_driver,
                                  the_device_describes_itself,
                                  NULL};
    return run_suite("simcuda contexts", tests);
}
