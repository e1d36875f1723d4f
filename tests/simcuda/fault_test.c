/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls that are made to fail: the right one, with the right error, and with no effect. */
#include "support.h"

START_TEST(the_nth_call_fails)
{
    CUmemGenericAllocationHandle handles[4], none = 7;
    CUmemAllocationProp prop = device_memory(0);
    struct simcuda_usage before, after;
    uint64_t calls = simcuda_calls("cuMemCreate");
    OK(simcuda_fail("cuMemCreate", 3, CUDA_ERROR_OUT_OF_MEMORY));
    OK(cuMemCreate(&handles[0], GRANULE, &prop, 0));
    OK(cuMemCreate(&handles[1], GRANULE, &prop, 0));
    simcuda_get_usage(&before);
    FAILS(cuMemCreate(&none, GRANULE, &prop, 0), CUDA_ERROR_OUT_OF_MEMORY);
    simcuda_get_usage(&after);
    ck_assert_mem_eq(&before, &after, sizeof before);
    ck_assert_uint_eq(none, 7);
    OK(cuMemCreate(&handles[2], GRANULE, &prop, 0));
    ck_assert_uint_eq(simcuda_calls("cuMemCreate") - calls, 4);
    for (int i = 0; i < 3; i++)
        OK(cuMemRelease(handles[i]));
}
END_TEST

START_TEST(some_or_all_calls_fail)
{
    CUevent event = make_event();
    OK(simcuda_fail_range("cuEventQuery", 2, 4, CUDA_ERROR_NOT_READY));
    OK(cuEventQuery(event));
    for (int i = 0; i < 3; i++)
        FAILS(cuEventQuery(event), CUDA_ERROR_NOT_READY);
    OK(cuEventQuery(event));
    OK(simcuda_fail("cuEventQuery", 0, CUDA_ERROR_UNKNOWN));
    for (int i = 0; i < 10; i++)
        FAILS(cuEventQuery(event), CUDA_ERROR_UNKNOWN);
    simcuda_fail_clear();
    OK(cuEventQuery(event));
    FAILS(simcuda_fail("cuMemAlloc_v2", 1, CUDA_ERROR_UNKNOWN), CUDA_ERROR_NOT_FOUND);
    FAILS(simcuda_fail("cuNothing", 1, CUDA_ERROR_UNKNOWN), CUDA_ERROR_NOT_FOUND);
    OK(cuEventDestroy_v2(event));
}
END_TEST

START_TEST(every_function_can_be_made_to_fail)
{
    size_t n = 0;
    int devices;
    for (const char *name; (name = simcuda_function_name(n)); n++)
        if (n < 60)
            OK(simcuda_fail(name, 0, CUDA_ERROR_UNKNOWN));
    ck_assert_uint_gt(n, 60);
    FAILS(cuDeviceGetCount(&devices), CUDA_ERROR_UNKNOWN);
    FAILS(cuMemFree_v2(1), CUDA_ERROR_UNKNOWN);
    FAILS(cuStreamSynchronize(NULL), CUDA_ERROR_UNKNOWN);
    simcuda_fail_clear();
    ck_assert_uint_ge(simcuda_calls(NULL), simcuda_calls("cuDeviceGetCount") + simcuda_calls("cuMemFree"));
    expect_no_violation();
}
END_TEST

START_TEST(a_failed_copy_copies_nothing)
{
    CUdeviceptr device;
    OK(cuMemAlloc_v2(&device, 16));
    OK(cuMemsetD8_v2(device, 1, 16));
    OK(simcuda_fail("cuMemsetD8Async", 1, CUDA_ERROR_LAUNCH_FAILED));
    FAILS(cuMemsetD8Async(device, 2, 16, NULL), CUDA_ERROR_LAUNCH_FAILED);
    OK(cuStreamSynchronize(NULL));
    ck_assert_uint_eq(*at(device), 1);
    OK(cuMemFree_v2(device));
}
END_TEST

START_TEST(a_lost_device_does_and_answers_nothing)
{
    CUdeviceptr device;
    struct simcuda_usage usage;
    const char *name;
    CUstream stream = make_stream(0);
    CUevent event = make_event();
    OK(cuMemAlloc_v2(&device, 16));
    OK(cuMemsetD8_v2(device, 1, 16));
    simcuda_hold(stream);
    OK(cuMemsetD8Async(device, 2, 16, stream));
    OK(cuEventRecord(event, stream));
    simcuda_lose_device(CUDA_ERROR_ECC_UNCORRECTABLE);
    simcuda_release(stream);
    FAILS(cuStreamSynchronize(stream), CUDA_ERROR_ECC_UNCORRECTABLE);
    FAILS(cuEventSynchronize(event), CUDA_ERROR_ECC_UNCORRECTABLE);
    FAILS(cuEventQuery(event), CUDA_ERROR_ECC_UNCORRECTABLE);
    FAILS(cuMemFree_v2(device), CUDA_ERROR_ECC_UNCORRECTABLE);
    OK(cuGetErrorName(CUDA_ERROR_ECC_UNCORRECTABLE, &name)); /* which needs no device */
    simcuda_get_usage(&usage);
    ck_assert_uint_eq(usage.queued, 2);
    ck_assert_uint_eq(*at(device), 1);
    simcuda_lose_device(CUDA_SUCCESS);
    OK(cuEventSynchronize(event));
    ck_assert_uint_eq(*at(device), 2);
    OK(cuEventDestroy_v2(event));
    OK(cuStreamDestroy_v2(stream));
    OK(cuMemFree_v2(device));
}
END_TEST

START_TEST(the_first_violation_is_kept)
{
    char text[8];
    FAILS(cuMemRelease(1), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemsetD8Async(4096, 0, 1, NULL), CUDA_ERROR_INVALID_VALUE);
    ck_assert_uint_eq(simcuda_violations(NULL, 0), 2);
    ck_assert_uint_eq(simcuda_violations(text, sizeof text), 2);
    ck_assert_str_eq(text, "memory ");
    simcuda_violations_clear();
    ck_assert_uint_eq(simcuda_violations(text, sizeof text), 0);
    ck_assert_str_eq(text, "");
}
END_TEST

START_TEST(everything_held_is_counted)
{
    struct simcuda_usage usage;
    void *pinned;
    unsigned char registered[64];
    CUdeviceptr device, range = reserve(2 * GRANULE);
    CUmemGenericAllocationHandle handle = make_handle(GRANULE);
    CUmodule module;
    CUgraph graph;
    CUgraphExec exec;
    CUstream stream = make_stream(0);
    CUevent event = make_event();
    OK(cuMemAlloc_v2(&device, 1));
    OK(cuMemHostAlloc(&pinned, 64, 0));
    OK(cuMemHostRegister_v2(registered, 64, 0));
    OK(cuMemMap(range, GRANULE, 0, handle, 0));
    OK(cuMemMap(range + GRANULE, GRANULE, 0, handle, 0));
    OK(cuModuleLoadData(&module, ".version 8.0"));
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    simcuda_get_usage(&usage);
    const struct simcuda_usage expected = {.contexts = 1,
                                           .allocations = 1,
                                           .handles = 1,
                                           .memories = 1,
                                           .mappings = 2,
                                           .reservations = 1,
                                           .streams = 1,
                                           .events = 1,
                                           .registrations = 1,
                                           .host_allocs = 1,
                                           .modules = 1,
                                           .graphs = 1,
                                           .graph_execs = 1,
                                           .captures = 1,
                                           .device_bytes = GRANULE + 4096};
    ck_assert_mem_eq(&usage, &expected, sizeof usage);
    OK(cuStreamDestroy_v2(stream)); /* and its capture with it */
    OK(cuEventDestroy_v2(event));
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
    OK(cuModuleUnload(module));
    OK(cuMemUnmap(range, 2 * GRANULE));
    OK(cuMemAddressFree(range, 2 * GRANULE));
    OK(cuMemRelease(handle));
    OK(cuMemHostUnregister(registered));
    OK(cuMemFreeHost(pinned));
    OK(cuMemFree_v2(device));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {the_nth_call_fails,
                                  some_or_all_calls_fail,
                                  every_function_can_be_made_to_fail,
                                  a_failed_copy_copies_nothing,
                                  a_lost_device_does_and_answers_nothing,
                                  the_first_violation_is_kept,
                                  everything_held_is_counted,
                                  NULL};
    return run_suite("simcuda faults", tests);
}
