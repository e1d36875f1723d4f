/* SPDX-License-Identifier: Apache-2.0
 *
 * The ways to the driver that need no linking: by name with dlsym, and by cuGetProcAddress in both of its forms, with
 * versions and the flag for threads' own streams. The other tests of this folder are linked with simcuda. Each test has a
 * process of its own, because the environment is read once. */
#include <stdio.h>

#include "support.h"
#include "vmm/driver/driver.h"

typedef CUresult (*get_proc)(const char *, void **, int, uint64_t);
typedef CUresult (*get_proc_v2)(const char *, void **, int, uint64_t, CUdriverProcAddressQueryResult *);

/* Loads simcuda as a runtime library would; the environment is set before. */
static void *load(void)
{
    const char *name = getenv("KVMM_LIBCUDA");
    ck_assert_ptr_nonnull(name);
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(library != NULL, "%s", dlerror());
    return library;
}

static void *symbol(void *library, const char *name)
{
    void *at = dlsym(library, name);
    ck_assert_msg(at != NULL, "%s", name);
    return at;
}

static get_proc find_v1(void *library)
{
    void *at = symbol(library, "cuGetProcAddress");
    get_proc function;
    memcpy(&function, &at, sizeof function);
    return function;
}

static get_proc_v2 find_v2(void *library)
{
    void *at = symbol(library, "cuGetProcAddress_v2");
    get_proc_v2 function;
    memcpy(&function, &at, sizeof function);
    return function;
}

START_TEST(every_symbol_is_exported)
{
    void *library = load();
#define X(id, name, ...) symbol(library, #name);
    SIMCUDA_EXPORTS(X)
#undef X
#define P(id, name, ...) symbol(library, #name);
    SIMCUDA_PER_THREAD_EXPORTS(P)
#undef P
    ck_assert_ptr_null(dlsym(library, "cuMemAlloc")); /* the form of CUDA 2, which is not there */
    ck_assert_ptr_null(dlsym(library, "sim_lock"));
    dlclose(library);
}
END_TEST

START_TEST(a_dlsym_program_runs)
{
    struct simcuda_control control;
    ck_assert(!simcuda_find(&control));
    void *library = load();
    CUresult (*init)(unsigned), (*count)(int *);
    *(void **)&init = symbol(library, "cuInit");
    *(void **)&count = symbol(library, "cuDeviceGetCount");
    int n = 0;
    FAILS(count(&n), CUDA_ERROR_NOT_INITIALIZED);
    FAILS(init(1), CUDA_ERROR_INVALID_VALUE);
    OK(init(0));
    OK(count(&n));
    ck_assert_int_eq(n, 1);
    ck_assert(simcuda_find(&control));
    ck_assert_uint_eq(control.calls("cuInit"), 2);
    ck_assert_uint_eq(control.calls("cuDeviceGetCount"), 2);
}
END_TEST

START_TEST(a_table_program_runs)
{
    const struct cuda_driver *cu = NULL;
    struct simcuda_control control;
    char reason[CUDA_DRIVER_REASON];
    CUcontext context;
    CUdeviceptr device;
    ck_assert_int_eq(cuda_driver_get(&cu, reason), CUDA_DRIVER_OK);
    ck_assert(simcuda_find(&control));
    OK(cu->DevicePrimaryCtxRetain(&context, 0));
    OK(cu->CtxPushCurrent(context));
    OK(cu->MemAlloc(&device, 100));
    OK(cu->MemsetD8Async(device, 3, 100, NULL));
    OK(cu->StreamSynchronize(NULL));
    ck_assert_uint_eq(*(unsigned char *)control.host_address(device + 99), 3);
    OK(cu->MemFree(device));
    OK(cu->DevicePrimaryCtxRelease(0));
    ck_assert_uint_eq(control.violations(NULL, 0), 0);
    ck_assert_str_eq(cuda_error_name(cu, CUDA_ERROR_NOT_FOUND), "CUDA_ERROR_NOT_FOUND");
    ck_assert_str_eq(cuda_error_name(cu, (CUresult)4711), "CUDA_ERROR_UNKNOWN");
}
END_TEST

START_TEST(names_match_exactly)
{
    static const char *const wrong[] = {"cuMemAlloc_v2",       "cuMemAll", "cuMemAllocc", "", "MemAlloc",
                                        "cuMemcpyHtoDAsync_v2"};
    void *library = load(), *at = NULL;
    get_proc v1 = find_v1(library);
    get_proc_v2 v2 = find_v2(library);
    CUdriverProcAddressQueryResult found;
    OK(v1("cuMemAlloc", &at, 12000, 0));
    ck_assert_ptr_eq(at, symbol(library, "cuMemAlloc_v2"));
    OK(v2("cuMemAlloc", &at, 3020, 0, &found));
    ck_assert_ptr_eq(at, symbol(library, "cuMemAlloc_v2"));
    ck_assert_int_eq(found, CU_GET_PROC_ADDRESS_SUCCESS);
    OK(v2("cuMemAlloc", &at, 3020, 0, NULL));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        FAILS(v1(wrong[i], &at, 12000, 0), CUDA_ERROR_NOT_FOUND);
        at = library;
        OK(v2(wrong[i], &at, 12000, 0, &found));
        ck_assert_ptr_null(at);
        ck_assert_int_eq(found, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    }
    FAILS(v1(NULL, &at, 12000, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(v1("cuInit", NULL, 12000, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(v1("cuInit", &at, 12000, 4), CUDA_ERROR_INVALID_VALUE);
    FAILS(v2("cuInit", &at, 99000, 0, &found), CUDA_ERROR_INVALID_VALUE); /* newer than the driver */
}
END_TEST

START_TEST(versions_choose_the_form)
{
    void *library = load(), *at = NULL;
    get_proc v1 = find_v1(library);
    get_proc_v2 v2 = find_v2(library);
    CUdriverProcAddressQueryResult found;
    OK(v1("cuGetProcAddress", &at, 11030, 0));
    ck_assert_ptr_eq(at, symbol(library, "cuGetProcAddress"));
    OK(v1("cuGetProcAddress", &at, 11080, 0));
    ck_assert_ptr_eq(at, symbol(library, "cuGetProcAddress"));
    OK(v1("cuGetProcAddress", &at, 12000, 0));
    ck_assert_ptr_eq(at, symbol(library, "cuGetProcAddress_v2"));
    FAILS(v1("cuMemCreate", &at, 10010, 0), CUDA_ERROR_NOT_FOUND);
    OK(v2("cuMemCreate", &at, 10010, 0, &found));
    ck_assert_ptr_null(at);
    ck_assert_int_eq(found, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    OK(v2("cuMemCreate", &at, 10020, 0, &found));
    ck_assert_ptr_eq(at, symbol(library, "cuMemCreate"));
}
END_TEST

START_TEST(an_old_driver_lacks_what_is_newer)
{
    setenv("SIMCUDA_VERSION", "11030", 1);
    void *library = load(), *at = NULL;
    get_proc_v2 v2 = find_v2(library);
    CUdriverProcAddressQueryResult found;
    int version = 0;
    CUresult (*get_version)(int *);
    *(void **)&get_version = symbol(library, "cuDriverGetVersion");
    OK(get_version(&version));
    ck_assert_int_eq(version, 11030);
    OK(v2("cuGraphInstantiateWithFlags", &at, 11030, 0, &found));
    ck_assert_ptr_null(at);
    ck_assert_int_eq(found, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    OK(v2("cuGetProcAddress", &at, 11030, 0, &found));
    ck_assert_ptr_eq(at, symbol(library, "cuGetProcAddress"));
    FAILS(v2("cuInit", &at, 11040, 0, &found), CUDA_ERROR_INVALID_VALUE);
}
END_TEST

START_TEST(the_flag_gives_the_threads_own_stream)
{
    void *library = load(), *at = NULL;
    get_proc_v2 v2 = find_v2(library);
    const uint64_t own = CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
    OK(v2("cuMemcpyHtoDAsync", &at, 12000, own, NULL));
    ck_assert_ptr_eq(at, symbol(library, "cuMemcpyHtoDAsync_v2_ptsz"));
    OK(v2("cuMemcpyHtoDAsync", &at, 12000, CU_GET_PROC_ADDRESS_LEGACY_STREAM, NULL));
    ck_assert_ptr_eq(at, symbol(library, "cuMemcpyHtoDAsync_v2"));
    OK(v2("cuMemcpyHtoDAsync", &at, 12000, 0, NULL));
    ck_assert_ptr_eq(at, symbol(library, "cuMemcpyHtoDAsync_v2"));
    OK(v2("cuMemcpyDtoH", &at, 12000, own, NULL));
    ck_assert_ptr_eq(at, symbol(library, "cuMemcpyDtoH_v2_ptds"));
    OK(v2("cuMemAlloc", &at, 12000, own, NULL)); /* which has no other form */
    ck_assert_ptr_eq(at, symbol(library, "cuMemAlloc_v2"));
}
END_TEST

START_TEST(the_environment_sets_the_device)
{
    setenv("SIMCUDA_DEVICES", "3", 1);
    setenv("SIMCUDA_MEMORY", "8388608", 1);
    setenv("SIMCUDA_VMM", "0", 1);
    setenv("SIMCUDA_CAPABILITY", "80", 1);
    setenv("SIMCUDA_SMS", "4", 1);
    setenv("SIMCUDA_FAIL", "cuDeviceGet:2:101,cuMemFree:1-2:999,cuMemAlloc:0:2", 1);
    const struct cuda_driver *cu = NULL;
    char reason[CUDA_DRIVER_REASON];
    CUmemAllocationProp prop = device_memory(0);
    CUdeviceptr ptr;
    CUmemGenericAllocationHandle handle;
    CUdevice device;
    int n = 0;
    size_t bytes = 0;
    ck_assert_int_eq(cuda_driver_get(&cu, reason), CUDA_DRIVER_OK);
    OK(cu->DeviceGetCount(&n));
    ck_assert_int_eq(n, 3);
    OK(cu->DeviceTotalMem(&bytes, 2));
    ck_assert_uint_eq(bytes, 8388608);
    OK(cu->DeviceGetAttribute(&n, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0));
    ck_assert_int_eq(n, 0);
    OK(cu->DeviceGetAttribute(&n, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
    ck_assert_int_eq(n, 8);
    OK(cu->DeviceGetAttribute(&n, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    ck_assert_int_eq(n, 4);
    FAILS(cu->MemCreate(&handle, GRANULE, &prop, 0), CUDA_ERROR_NOT_SUPPORTED);
    FAILS(cu->MemAddressReserve(&ptr, GRANULE, 0, 0, 0), CUDA_ERROR_NOT_SUPPORTED);
    OK(cu->DeviceGet(&device, 0));
    FAILS(cu->DeviceGet(&device, 0), CUDA_ERROR_INVALID_DEVICE);
    OK(cu->DeviceGet(&device, 0));
    FAILS(cu->MemFree(0), CUDA_ERROR_UNKNOWN);
    FAILS(cu->MemFree(0), CUDA_ERROR_UNKNOWN);
    FAILS(cu->MemFree(0), CUDA_ERROR_INVALID_CONTEXT);
    FAILS(cu->MemAlloc(&ptr, 16), CUDA_ERROR_OUT_OF_MEMORY);
}
END_TEST

START_TEST(devices_are_apart)
{
    setenv("SIMCUDA_DEVICES", "2", 1);
    setenv("SIMCUDA_MEMORY", "4194304", 1);
    const struct cuda_driver *cu = NULL;
    char reason[CUDA_DRIVER_REASON];
    CUcontext first, second;
    CUmemAllocationProp prop = device_memory(1);
    CUmemAccessDesc desc = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READ};
    CUmemGenericAllocationHandle handle;
    CUdeviceptr range;
    size_t free_bytes, total;
    ck_assert_int_eq(cuda_driver_get(&cu, reason), CUDA_DRIVER_OK);
    OK(cu->DevicePrimaryCtxRetain(&first, 0));
    OK(cu->DevicePrimaryCtxRetain(&second, 1));
    ck_assert_ptr_ne(first, second);
    OK(cu->MemCreate(&handle, GRANULE, &prop, 0));
    OK(cu->CtxPushCurrent(first));
    OK(cu->MemGetInfo(&free_bytes, &total));
    ck_assert_uint_eq(free_bytes, 2 * GRANULE);
    OK(cu->CtxPushCurrent(second));
    OK(cu->MemGetInfo(&free_bytes, &total));
    ck_assert_uint_eq(free_bytes, GRANULE);
    OK(cu->MemAddressReserve(&range, GRANULE, 0, 0, 0));
    OK(cu->MemMap(range, GRANULE, 0, handle, 0));
    FAILS(cu->MemSetAccess(range, GRANULE, &desc, 1), CUDA_ERROR_NOT_SUPPORTED);
    desc.location.id = 2;
    FAILS(cu->MemSetAccess(range, GRANULE, &desc, 1), CUDA_ERROR_INVALID_DEVICE);
    desc.location.id = 1;
    OK(cu->MemSetAccess(range, GRANULE, &desc, 1));
    prop.location.id = 2;
    FAILS(cu->MemCreate(&handle, GRANULE, &prop, 0), CUDA_ERROR_INVALID_DEVICE);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {every_symbol_is_exported,
                                  a_dlsym_program_runs,
                                  a_table_program_runs,
                                  names_match_exactly,
                                  versions_choose_the_form,
                                  an_old_driver_lacks_what_is_newer,
                                  the_flag_gives_the_threads_own_stream,
                                  the_environment_sets_the_device,
                                  devices_are_apart,
                                  NULL};
    TCase *tcase = tcase_create("find");
    tcase_set_timeout(tcase, 60);
    for (size_t i = 0; tests[i]; i++)
        tcase_add_test(tcase, tests[i]);
    Suite *suite = suite_create("simcuda is found");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_FORK); /* whatever CK_FORK says: a test changes its process for good */
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
