/* SPDX-License-Identifier: Apache-2.0
 *
 * For simcuda's own tests, which are linked with it: a context for each test, and what must be so at its end. */
#ifndef TESTS_SIMCUDA_SUPPORT_H
#define TESTS_SIMCUDA_SUPPORT_H

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simcuda/exports.h"
#include "tests/simcuda/simcuda.h"

#define MIB     ((size_t)1 << 20)
#define GRANULE (2 * MIB)

#define OK(call)            ck_assert_int_eq(call, CUDA_SUCCESS)
#define FAILS(call, result) ck_assert_int_eq(call, result)

/* Programs that are broken on purpose are no news to the thread sanitizer. */
#if defined(__SANITIZE_THREAD__)
#define RACES_ARE_REPORTED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RACES_ARE_REPORTED 1
#endif
#endif

static struct simcuda_usage usage_before;

static inline CUmemAllocationProp device_memory(int device)
{
    CUmemAllocationProp prop;
    memset(&prop, 0, sizeof prop);
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = device;
    return prop;
}

/* Sets up a current context, with delays that make work take its time. */
static inline void enter_context(void)
{
    CUcontext context;
    simcuda_get_usage(&usage_before);
    simcuda_set_delays(1, 200);
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
}

/* The violation that the test meant to make: its text names `what`. None is left. */
static inline void expect_violation(const char *what)
{
    char text[256];
    ck_assert_msg(simcuda_violations(text, sizeof text) > 0, "no violation; expected '%s'", what);
    ck_assert_msg(strstr(text, what) != NULL, "violation '%s' instead of '%s'", text, what);
    simcuda_violations_clear();
}

static inline void expect_no_violation(void)
{
    char text[256];
    ck_assert_msg(simcuda_violations(text, sizeof text) == 0, "violation: %s", text);
}

/* Nothing was violated, and all that the test made is gone. */
static inline void leave_context(void)
{
    struct simcuda_usage now;
    simcuda_fail_clear();
    OK(cuDevicePrimaryCtxRelease_v2(0));
    cuCtxSetCurrent(NULL);
    expect_no_violation();
    simcuda_get_usage(&now);
    ck_assert_mem_eq(&now, &usage_before, sizeof now);
}

static inline CUmemGenericAllocationHandle make_handle(size_t bytes)
{
    CUmemAllocationProp prop = device_memory(0);
    CUmemGenericAllocationHandle handle = 0;
    OK(cuMemCreate(&handle, bytes, &prop, 0));
    return handle;
}

static inline CUresult set_access(CUdeviceptr at, size_t bytes, CUmemAccess_flags flags)
{
    CUmemAccessDesc desc = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, flags};
    return cuMemSetAccess(at, bytes, &desc, 1);
}

static inline CUdeviceptr reserve(size_t bytes)
{
    CUdeviceptr at = 0;
    OK(cuMemAddressReserve(&at, bytes, 0, 0, 0));
    return at;
}

/* Memory of its own at an address of a reservation, to be read and written. */
static inline void map_at(CUdeviceptr at, size_t bytes)
{
    CUmemGenericAllocationHandle handle = make_handle(bytes);
    OK(cuMemMap(at, bytes, 0, handle, 0));
    OK(cuMemRelease(handle));
    OK(set_access(at, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
}

static inline CUstream make_stream(unsigned flags)
{
    CUstream stream = NULL;
    OK(cuStreamCreate(&stream, flags));
    return stream;
}

static inline CUevent make_event(void)
{
    CUevent event = NULL;
    OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    return event;
}

static inline unsigned char *make_pinned(size_t bytes)
{
    void *at = NULL;
    OK(cuMemHostAlloc(&at, bytes, 0));
    return at;
}

/* The byte at a device address, past the driver. */
static inline unsigned char *at(CUdeviceptr address)
{
    return simcuda_host_address(address);
}

/* tests ends with NULL; each runs in a context of its own. */
static inline int run_suite(const char *name, const TTest *const *tests)
{
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, enter_context, leave_context);
    for (; *tests; tests++)
        tcase_add_test(tcase, *tests);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
