/* SPDX-License-Identifier: Apache-2.0
 *
 * Device memory: what the driver promises holds, and each rule of virtual memory management is enforced. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

START_TEST(bytes_come_back)
{
    enum { N = 100000 };
    CUdeviceptr device;
    unsigned char *pinned = make_pinned(2 * N);
    CUstream stream = make_stream(CU_STREAM_NON_BLOCKING);
    OK(cuMemAlloc_v2(&device, N));
    ck_assert_uint_eq(device % 256, 0);
    for (size_t i = 0; i < N; i++)
        pinned[i] = (unsigned char)(i * 7 + i / 256);
    OK(cuMemcpyHtoDAsync_v2(device, pinned, N, stream));
    OK(cuMemsetD8Async(device + 10, 0xab, 5, stream));
    OK(cuMemcpyDtoDAsync_v2(device + 1000, device, 500, stream));
    OK(cuMemcpyDtoHAsync_v2(pinned + N, device, N, stream));
    OK(cuStreamSynchronize(stream));
    memset(pinned + 10, 0xab, 5);
    memcpy(pinned + 1000, pinned, 500);
    ck_assert_mem_eq(pinned, pinned + N, N);
    OK(cuMemFree_v2(device));
    OK(cuMemFreeHost(pinned));
    OK(cuStreamDestroy_v2(stream));
}
END_TEST

START_TEST(new_memory_is_not_zero)
{
    CUdeviceptr device;
    OK(cuMemAlloc_v2(&device, 4096));
    ck_assert_uint_eq(*at(device), 0xff);
    OK(cuMemFree_v2(device));
    CUdeviceptr range = reserve(GRANULE);
    map_at(range, GRANULE);
    ck_assert_uint_eq(*at(range + GRANULE - 1), 0xff);
    OK(cuMemUnmap(range, GRANULE));
    OK(cuMemAddressFree(range, GRANULE));
}
END_TEST

/* Dies of the signal, in a child of its own. */
static void expect_crash(volatile const unsigned char *address)
{
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(*address);
    }
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "status %x", status);
}

START_TEST(the_cpu_cannot_touch_a_device_address)
{
    CUdeviceptr device;
    OK(cuMemAlloc_v2(&device, 4096));
    expect_crash((const unsigned char *)(uintptr_t)device); /* NOLINT(performance-no-int-to-ptr): the mistake */
    ck_assert_ptr_eq(simcuda_host_address(0), NULL);
    ck_assert_ptr_eq(simcuda_host_address((uintptr_t)&device), NULL);
    OK(cuMemFree_v2(device));
}
END_TEST

START_TEST(a_range_ends_where_nothing_is)
{
    CUdeviceptr device;
    OK(cuMemAlloc_v2(&device, 300));
    expect_crash(at(device + 512));
    OK(cuMemFree_v2(device));
    CUdeviceptr range = reserve(GRANULE);
    map_at(range, GRANULE);
    expect_crash(at(range + GRANULE));
    OK(cuMemUnmap(range, GRANULE));
    expect_crash(at(range));
    OK(cuMemAddressFree(range, GRANULE));
}
END_TEST

START_TEST(the_budget_is_kept)
{
    CUdeviceptr device, other;
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp prop = device_memory(0);
    size_t free_bytes, total;
    simcuda_set_memory(6 * MIB);
    OK(cuMemGetInfo_v2(&free_bytes, &total));
    ck_assert_uint_eq(free_bytes, 6 * MIB);
    ck_assert_uint_eq(total, 6 * MIB);
    OK(cuMemAlloc_v2(&device, 3 * MIB));
    OK(cuMemCreate(&handle, GRANULE, &prop, 0));
    FAILS(cuMemCreate(&handle, GRANULE, &prop, 0), CUDA_ERROR_OUT_OF_MEMORY);
    FAILS(cuMemAlloc_v2(&other, MIB + 1), CUDA_ERROR_OUT_OF_MEMORY);
    OK(cuMemGetInfo_v2(&free_bytes, &total));
    ck_assert_uint_eq(free_bytes, MIB);
    OK(cuMemRelease(handle));
    OK(cuMemAlloc_v2(&other, MIB + 1));
    OK(cuMemFree_v2(other));
    OK(cuMemFree_v2(device));
    simcuda_set_memory(2048 * MIB);
}
END_TEST

START_TEST(frees_are_exact)
{
    CUdeviceptr device;
    OK(cuMemAlloc_v2(&device, 4096));
    FAILS(cuMemFree_v2(device + 256), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemFree_v2(device));
    FAILS(cuMemFree_v2(device), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemFree_v2(0));
    CUdeviceptr range = reserve(2 * GRANULE);
    FAILS(cuMemFree_v2(range), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemAddressFree(range, GRANULE), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemAddressFree(range + GRANULE, GRANULE), CUDA_ERROR_INVALID_VALUE);
    map_at(range, GRANULE);
    FAILS(cuMemAddressFree(range, 2 * GRANULE), CUDA_ERROR_INVALID_VALUE);
    expect_violation("still mapped");
    OK(cuMemUnmap(range, GRANULE));
    OK(cuMemAddressFree(range, 2 * GRANULE));
    FAILS(cuMemAddressFree(range, 2 * GRANULE), CUDA_ERROR_INVALID_VALUE);
}
END_TEST

START_TEST(everything_is_in_whole_granules)
{
    CUdeviceptr range = reserve(4 * GRANULE), none = 1;
    CUmemGenericAllocationHandle handle = make_handle(GRANULE), bad = 1;
    CUmemAllocationProp prop = device_memory(0);
    size_t granularity = 0;
    OK(cuMemGetAllocationGranularity(&granularity, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    ck_assert_uint_eq(granularity, GRANULE);
    FAILS(cuMemAddressReserve(&none, GRANULE + 4096, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemAddressReserve(&none, GRANULE, 3 * MIB, 0, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemAddressReserve(&none, 0, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemCreate(&bad, GRANULE / 2, &prop, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemMap(range, GRANULE / 2, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemMap(range + 4096, GRANULE, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemMap(range, GRANULE, 4096, handle, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemMap(range, 2 * GRANULE, 0, handle, 0), CUDA_ERROR_INVALID_VALUE); /* more than there is */
    ck_assert_uint_eq(none, 1);
    ck_assert_uint_eq(bad, 1);
    OK(cuMemRelease(handle));
    handle = make_handle(2 * GRANULE);
    FAILS(cuMemMap(range, GRANULE, GRANULE, handle, 0), CUDA_ERROR_INVALID_VALUE); /* an offset */
    OK(cuMemRelease(handle));
    OK(cuMemAddressFree(range, 4 * GRANULE));
}
END_TEST

START_TEST(an_address_is_mapped_once_and_within_one_range)
{
    CUdeviceptr range = reserve(3 * GRANULE), alloc;
    CUmemGenericAllocationHandle one = make_handle(GRANULE), two = make_handle(2 * GRANULE);
    OK(cuMemMap(range + GRANULE, GRANULE, 0, one, 0));
    FAILS(cuMemMap(range + GRANULE, GRANULE, 0, one, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemMap(range, 2 * GRANULE, 0, two, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemMap(range + 2 * GRANULE, 2 * GRANULE, 0, two, 0), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemAlloc_v2(&alloc, 8 * MIB));
    FAILS(cuMemMap((alloc + GRANULE) & -GRANULE, GRANULE, 0, one, 0), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemMap(range + 2 * GRANULE, GRANULE, 0, one, 0)); /* one handle at two addresses */
    OK(set_access(range + GRANULE, 2 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
    *at(range + GRANULE + 77) = 42;
    ck_assert_uint_eq(*at(range + 2 * GRANULE + 77), 42);
    OK(cuMemUnmap(range + GRANULE, 2 * GRANULE));
    OK(cuMemFree_v2(alloc));
    OK(cuMemRelease(one));
    OK(cuMemRelease(two));
    OK(cuMemAddressFree(range, 3 * GRANULE));
}
END_TEST

START_TEST(unmap_and_access_take_whole_mappings)
{
    CUdeviceptr range = reserve(6 * GRANULE);
    map_at(range, 2 * GRANULE);
    map_at(range + 2 * GRANULE, GRANULE);
    map_at(range + 4 * GRANULE, GRANULE);
    FAILS(cuMemUnmap(range, GRANULE), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemUnmap(range + GRANULE, GRANULE), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemUnmap(range + 2 * GRANULE, 3 * GRANULE), CUDA_ERROR_INVALID_VALUE); /* with a hole */
    FAILS(cuMemUnmap(range + 3 * GRANULE, GRANULE), CUDA_ERROR_INVALID_VALUE);
    FAILS(set_access(range, GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READ), CUDA_ERROR_INVALID_VALUE);
    FAILS(set_access(range + 2 * GRANULE, 3 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READ), CUDA_ERROR_INVALID_VALUE);
    FAILS(set_access(range, 2 * GRANULE, (CUmemAccess_flags)2), CUDA_ERROR_INVALID_VALUE);
    OK(set_access(range, 3 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READ));
    OK(cuMemUnmap(range, 3 * GRANULE));
    FAILS(cuMemUnmap(range, 3 * GRANULE), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemUnmap(range + 4 * GRANULE, GRANULE));
    OK(cuMemAddressFree(range, 6 * GRANULE));
}
END_TEST

START_TEST(rights_are_enforced)
{
    CUdeviceptr range = reserve(GRANULE);
    CUmemGenericAllocationHandle handle = make_handle(GRANULE);
    unsigned char *pinned = make_pinned(64);
    CUstream stream = make_stream(0);
    FAILS(cuMemcpyDtoHAsync_v2(pinned, range, 64, stream), CUDA_ERROR_INVALID_VALUE);
    expect_violation("nothing is mapped");
    OK(cuMemMap(range, GRANULE, 0, handle, 0));
    FAILS(cuMemcpyDtoHAsync_v2(pinned, range, 64, stream), CUDA_ERROR_INVALID_VALUE);
    expect_violation("access was not set");
    expect_crash(at(range));
    OK(set_access(range, GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READ));
    OK(cuMemcpyDtoHAsync_v2(pinned, range, 64, stream));
    FAILS(cuMemcpyHtoDAsync_v2(range, pinned, 64, stream), CUDA_ERROR_INVALID_VALUE);
    expect_violation("read-only");
    OK(set_access(range, GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
    OK(cuMemcpyHtoDAsync_v2(range, pinned, 64, stream));
    FAILS(cuMemsetD8Async(range + GRANULE - 32, 0, 64, stream), CUDA_ERROR_INVALID_VALUE);
    expect_violation("past the end");
    OK(cuStreamSynchronize(stream));
    OK(cuMemUnmap(range, GRANULE));
    OK(cuMemMap(range, GRANULE, 0, handle, 0)); /* mapped again: access is gone */
    FAILS(cuMemsetD8Async(range, 0, 64, stream), CUDA_ERROR_INVALID_VALUE);
    expect_violation("access was not set");
    OK(cuMemUnmap(range, GRANULE));
    OK(cuMemRelease(handle));
    OK(cuMemAddressFree(range, GRANULE));
    OK(cuMemFreeHost(pinned));
    OK(cuStreamDestroy_v2(stream));
}
END_TEST

START_TEST(memory_lives_until_its_last_mapping_goes)
{
    CUdeviceptr range = reserve(2 * GRANULE);
    CUmemGenericAllocationHandle handle = make_handle(GRANULE);
    struct simcuda_usage usage;
    OK(cuMemMap(range, GRANULE, 0, handle, 0));
    OK(cuMemMap(range + GRANULE, GRANULE, 0, handle, 0));
    OK(cuMemRelease(handle));
    FAILS(cuMemRelease(handle), CUDA_ERROR_INVALID_VALUE);
    expect_violation("destroyed before");
    FAILS(cuMemMap(range, GRANULE, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    expect_violation("destroyed before");
    OK(set_access(range, 2 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
    *at(range) = 9;
    OK(cuMemUnmap(range, GRANULE));
    simcuda_get_usage(&usage);
    ck_assert_uint_eq(usage.handles, 0);
    ck_assert_uint_eq(usage.memories, 1);
    ck_assert_uint_eq(usage.device_bytes, GRANULE);
    ck_assert_uint_eq(*at(range + GRANULE), 9);
    OK(cuMemUnmap(range + GRANULE, GRANULE));
    simcuda_get_usage(&usage);
    ck_assert_uint_eq(usage.device_bytes, 0);
    OK(cuMemAddressFree(range, 2 * GRANULE));
    FAILS(cuMemRelease(12345), CUDA_ERROR_INVALID_VALUE);
    expect_violation("never existed");
}
END_TEST

START_TEST(memory_that_queued_work_uses_stays)
{
    CUdeviceptr range = reserve(2 * GRANULE), alloc;
    unsigned char *pinned = make_pinned(64), *registered = calloc(1, 64);
    CUstream stream = make_stream(0);
    map_at(range, GRANULE);
    map_at(range + GRANULE, GRANULE);
    OK(cuMemAlloc_v2(&alloc, 64));
    OK(cuMemHostRegister_v2(registered, 64, 0));
    simcuda_hold(stream);
    OK(cuMemcpyHtoDAsync_v2(range, pinned, 64, stream));
    OK(cuMemcpyHtoDAsync_v2(alloc, registered, 64, stream));
    FAILS(cuMemUnmap(range, GRANULE), CUDA_ERROR_INVALID_VALUE);
    expect_violation("still uses");
    FAILS(cuMemFree_v2(alloc), CUDA_ERROR_INVALID_VALUE);
    expect_violation("still uses");
    FAILS(cuMemFreeHost(pinned), CUDA_ERROR_INVALID_VALUE);
    expect_violation("still uses");
    FAILS(cuMemHostUnregister(registered), CUDA_ERROR_INVALID_VALUE);
    expect_violation("still uses");
    OK(cuMemUnmap(range + GRANULE, GRANULE)); /* which it does not use */
    simcuda_release(stream);
    OK(cuStreamSynchronize(stream));
    OK(cuMemUnmap(range, GRANULE));
    OK(cuMemAddressFree(range, 2 * GRANULE));
    OK(cuMemFree_v2(alloc));
    OK(cuMemFreeHost(pinned));
    OK(cuMemHostUnregister(registered));
    OK(cuStreamDestroy_v2(stream));
    free(registered);
}
END_TEST

static void do_nothing(const void *params, const struct simcuda_launch *launch)
{
    (void)params;
    (void)launch;
}

START_TEST(memory_that_a_queued_kernel_names_stays)
{
    CUdeviceptr range = reserve(2 * GRANULE), alloc;
    CUstream stream = make_stream(0);
    map_at(range, GRANULE);
    map_at(range + GRANULE, GRANULE);
    OK(cuMemAlloc_v2(&alloc, 1000));
    const struct {
        uint32_t n, reserved;
        CUdeviceptr in, out;
    } params = {5, 0, range + GRANULE + 100, alloc + 999};
    simcuda_hold(stream);
    OK(simcuda_launch(stream, "a kernel", do_nothing, &params, sizeof params));
    FAILS(cuMemFree_v2(alloc), CUDA_ERROR_INVALID_VALUE);
    expect_violation("a kernel still uses");
    FAILS(cuMemUnmap(range, 2 * GRANULE), CUDA_ERROR_INVALID_VALUE);
    expect_violation("a kernel still uses");
    OK(cuMemUnmap(range, GRANULE)); /* which it does not name */
    simcuda_release(stream);
    OK(cuStreamSynchronize(stream));
    OK(cuMemFree_v2(alloc));
    OK(cuMemUnmap(range + GRANULE, GRANULE));
    OK(cuMemAddressFree(range, 2 * GRANULE));
    OK(cuStreamDestroy_v2(stream));
}
END_TEST

START_TEST(async_copies_want_pinned_memory)
{
    CUdeviceptr device;
    unsigned char pageable[128], *pinned = make_pinned(256);
    memset(pageable, 5, sizeof pageable);
    OK(cuMemAlloc_v2(&device, 4096));
    FAILS(cuMemcpyHtoDAsync_v2(device, pageable, 64, NULL), CUDA_ERROR_INVALID_VALUE);
    expect_violation("not pinned");
    FAILS(cuMemcpyDtoHAsync_v2(pageable, device, 64, NULL), CUDA_ERROR_INVALID_VALUE);
    expect_violation("not pinned");
    FAILS(cuMemcpyHtoDAsync_v2(device, pinned + 200, 57, NULL), CUDA_ERROR_INVALID_VALUE);
    expect_violation("not pinned");
    OK(cuMemcpyHtoDAsync_v2(device, pinned + 200, 56, NULL));
    OK(cuMemHostRegister_v2(pageable, 64, CU_MEMHOSTREGISTER_PORTABLE));
    OK(cuMemcpyHtoDAsync_v2(device, pageable, 64, NULL));
    OK(cuStreamSynchronize(NULL));
    FAILS(cuMemHostRegister_v2(pageable + 32, 64, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    FAILS(cuMemHostRegister_v2(NULL, 64, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuMemHostUnregister(pageable + 1), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    FAILS(cuMemFreeHost(pageable), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemHostUnregister(pageable));
    FAILS(cuMemHostUnregister(pageable), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    OK(cuMemcpyDtoH_v2(pageable, device, 64)); /* one that waits takes any memory */
    OK(cuMemFreeHost(pinned));
    FAILS(cuMemFreeHost(pinned), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemFree_v2(device));
}
END_TEST

START_TEST(pointers_say_what_they_are)
{
    CUdeviceptr device;
    unsigned type = 0;
    size_t bytes = 0;
    unsigned char *pinned = make_pinned(64);
    OK(cuMemAlloc_v2(&device, 1000));
    OK(cuPointerGetAttribute(&type, 2, device + 5));
    ck_assert_uint_eq(type, 2);
    OK(cuPointerGetAttribute(&bytes, 12, device + 5));
    ck_assert_uint_eq(bytes, 1000);
    OK(cuPointerGetAttribute(&type, 2, (uintptr_t)pinned));
    ck_assert_uint_eq(type, 1);
    FAILS(cuPointerGetAttribute(&type, 2, (uintptr_t)&type), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemFree_v2(device));
    OK(cuMemFreeHost(pinned));
}
END_TEST

START_TEST(several_attributes_are_asked_at_once)
{
    CUdeviceptr device;
    unsigned type = 0;
    size_t bytes = 0, unknown = 77;
    sim_pointer_attribute which[] = {2, 12, 4};
    void *data[] = {&type, &bytes, &unknown};
    OK(cuMemAlloc_v2(&device, 1000));
    OK(cuPointerGetAttributes(3, which, data, device + 9));
    ck_assert_uint_eq(type, 2);
    ck_assert_uint_eq(bytes, 1000);
    ck_assert_uint_eq(unknown, 77); /* what can't be told is not written, and no error */
    FAILS(cuPointerGetAttributes(1, NULL, data, device), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemFree_v2(device));
}
END_TEST

START_TEST(an_address_belongs_to_its_allocation_or_mapping)
{
    CUdeviceptr base = 0, device, at = reserve(2 * GRANULE);
    size_t bytes = 0;
    OK(cuMemAlloc_v2(&device, 1000));
    OK(cuMemGetAddressRange_v2(&base, &bytes, device + 999));
    ck_assert_uint_eq(base, device);
    ck_assert_uint_eq(bytes, 1000);
    OK(cuMemFree_v2(device));
    FAILS(cuMemGetAddressRange_v2(&base, &bytes, device), CUDA_ERROR_NOT_FOUND);
    map_at(at + GRANULE, GRANULE);
    FAILS(cuMemGetAddressRange_v2(&base, &bytes, at), CUDA_ERROR_NOT_FOUND);
    OK(cuMemGetAddressRange_v2(NULL, &bytes, at + GRANULE + 5));
    OK(cuMemGetAddressRange_v2(&base, NULL, at + GRANULE + 5));
    ck_assert_uint_eq(base, at + GRANULE);
    ck_assert_uint_eq(bytes, GRANULE);
    OK(cuMemUnmap(at + GRANULE, GRANULE));
    OK(cuMemAddressFree(at, 2 * GRANULE));
}
END_TEST

START_TEST(copies_go_by_addresses_and_fills_by_words)
{
    CUdeviceptr a, b;
    CUstream stream = make_stream(0);
    uint32_t *pinned = (uint32_t *)make_pinned(64), words[16] = {0};
    OK(cuMemAlloc_v2(&a, 64));
    OK(cuMemAlloc_v2(&b, 64));
    OK(cuMemsetD32Async(a, 0x01020304, 16, stream));
    FAILS(cuMemsetD32Async(a + 2, 1, 1, stream), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemcpyAsync(b, a, 64, stream));
    OK(cuMemcpyAsync((uintptr_t)pinned, b, 64, stream));
    OK(cuStreamSynchronize(stream));
    ck_assert_uint_eq(pinned[15], 0x01020304);
    pinned[3] = 9;
    OK(cuMemcpyAsync(a, (uintptr_t)pinned, 64, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuMemcpy((uintptr_t)words, a, 64));
    ck_assert_uint_eq(words[3], 9);
    OK(cuMemFree_v2(a));
    OK(cuMemFree_v2(b));
    OK(cuMemFreeHost(pinned));
    OK(cuStreamDestroy_v2(stream));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {bytes_come_back,
                                  new_memory_is_not_zero,
                                  the_cpu_cannot_touch_a_device_address,
                                  a_range_ends_where_nothing_is,
                                  the_budget_is_kept,
                                  frees_are_exact,
                                  everything_is_in_whole_granules,
                                  an_address_is_mapped_once_and_within_one_range,
                                  unmap_and_access_take_whole_mappings,
                                  rights_are_enforced,
                                  memory_lives_until_its_last_mapping_goes,
                                  memory_that_queued_work_uses_stays,
                                  memory_that_a_queued_kernel_names_stays,
                                  async_copies_want_pinned_memory,
                                  pointers_say_what_they_are,
                                  several_attributes_are_asked_at_once,
                                  an_address_belongs_to_its_allocation_or_mapping,
                                  copies_go_by_addresses_and_fills_by_words,
                                  NULL};
    return run_suite("simcuda memory", tests);
}
