/* SPDX-License-Identifier: Apache-2.0
 *
 * The driver's table is filled, or one line says why not. Each test has a process of its own, because a success is kept. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/driver/driver.h"

/* The library that an environment variable of the test names becomes the driver. */
static void choose(const char *variable)
{
    const char *library = getenv(variable);
    ck_assert_msg(library != NULL, "%s is not set: run by meson test", variable);
    setenv("KVMM_LIBCUDA", library, 1);
}

static void expect_failure(enum cuda_driver_status expected, const char *what)
{
    const struct cuda_driver *driver = NULL;
    const char *library = getenv("KVMM_LIBCUDA");
    char reason[CUDA_DRIVER_REASON] = "";
    ck_assert_int_eq(cuda_driver_get(&driver, reason), expected);
    ck_assert_ptr_null(driver);
    ck_assert_msg(strstr(reason, what) != NULL, "'%s' does not say '%s'", reason, what);
    ck_assert_msg(library && strstr(reason, library) != NULL, "'%s' does not name the library", reason);
    ck_assert_ptr_null(strchr(reason, '\n'));
}

static void expect_success(void)
{
    const struct cuda_driver *driver = NULL, *again = NULL;
    char reason[CUDA_DRIVER_REASON] = "";
    int n = 0;
    ck_assert_msg(cuda_driver_get(&driver, reason) == CUDA_DRIVER_OK, "%s", reason);
    ck_assert_ptr_nonnull(driver);
    ck_assert_int_eq(driver->DeviceGetCount(&n), CUDA_SUCCESS);
    ck_assert_int_eq(n, 1);
    setenv("KVMM_LIBCUDA", "/nonexistent", 1); /* a success is kept */
    ck_assert_int_eq(cuda_driver_get(&again, reason), CUDA_DRIVER_OK);
    ck_assert_ptr_eq(driver, again);
}

START_TEST(no_such_library)
{
    setenv("KVMM_LIBCUDA", "/nonexistent/libcuda.so.1", 1);
    expect_failure(CUDA_DRIVER_ABSENT, "No such file");
}
END_TEST

START_TEST(another_library)
{
    choose("TEST_NOT_A_DRIVER");
    expect_failure(CUDA_DRIVER_TOO_OLD, "it has no cuGetProcAddress");
}
END_TEST

START_TEST(a_driver_that_is_too_old)
{
    choose("TEST_SIMCUDA");
    setenv("SIMCUDA_VERSION", "11030", 1);
    expect_failure(CUDA_DRIVER_TOO_OLD, "CUDA 11.4 or later is needed");
}
END_TEST

START_TEST(no_device)
{
    choose("TEST_SIMCUDA");
    setenv("SIMCUDA_DEVICES", "0", 1);
    expect_failure(CUDA_DRIVER_NO_DEVICE, "cuInit: CUDA_ERROR_NO_DEVICE");
}
END_TEST

START_TEST(a_device_that_does_not_work)
{
    choose("TEST_SIMCUDA");
    setenv("SIMCUDA_FAIL", "cuInit:0:999", 1);
    expect_failure(CUDA_DRIVER_NO_DEVICE, "cuInit: CUDA_ERROR_UNKNOWN");
}
END_TEST

START_TEST(a_driver)
{
    choose("TEST_SIMCUDA");
    expect_success();
}
END_TEST

START_TEST(the_oldest_driver_that_will_do)
{
    choose("TEST_SIMCUDA");
    setenv("SIMCUDA_VERSION", "11040", 1);
    expect_success();
}
END_TEST

/* Before CUDA 12 there was only the form of cuGetProcAddress that has four parameters. */
START_TEST(a_driver_of_cuda_11)
{
    choose("TEST_SIMCUDA_BEFORE_12");
    setenv("SIMCUDA_VERSION", "11080", 1);
    expect_success();
}
END_TEST

START_TEST(a_driver_of_cuda_11_that_is_too_old)
{
    choose("TEST_SIMCUDA_BEFORE_12");
    setenv("SIMCUDA_VERSION", "11030", 1);
    expect_failure(CUDA_DRIVER_TOO_OLD, "CUDA 11.4 or later is needed");
}
END_TEST

START_TEST(a_failure_is_not_kept)
{
    setenv("KVMM_LIBCUDA", "/nonexistent/libcuda.so.1", 1);
    expect_failure(CUDA_DRIVER_ABSENT, "No such file");
    choose("TEST_SIMCUDA");
    setenv("SIMCUDA_DEVICES", "0", 1);
    expect_failure(CUDA_DRIVER_NO_DEVICE, "NO_DEVICE");
    unsetenv("SIMCUDA_DEVICES");
    expect_success();
}
END_TEST

static void *get(void *arg)
{
    char reason[CUDA_DRIVER_REASON];
    ck_assert_int_eq(cuda_driver_get(arg, reason), CUDA_DRIVER_OK);
    return NULL;
}

START_TEST(threads_get_the_same_driver)
{
    enum { N = 8 };
    pthread_t threads[N];
    const struct cuda_driver *drivers[N] = {NULL};
    choose("TEST_SIMCUDA");
    for (int i = 0; i < N; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, get, &drivers[i]), 0);
    for (int i = 0; i < N; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < N; i++)
        ck_assert(drivers[i] && drivers[i] == drivers[0]);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {no_such_library,
                                  another_library,
                                  a_driver_that_is_too_old,
                                  no_device,
                                  a_device_that_does_not_work,
                                  a_driver,
                                  the_oldest_driver_that_will_do,
                                  a_driver_of_cuda_11,
                                  a_driver_of_cuda_11_that_is_too_old,
                                  a_failure_is_not_kept,
                                  threads_get_the_same_driver,
                                  NULL};
    TCase *tcase = tcase_create("driver");
    tcase_set_timeout(tcase, 60);
    for (size_t i = 0; tests[i]; i++)
        tcase_add_test(tcase, tests[i]);
    Suite *suite = suite_create("driver");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_FORK); /* whatever CK_FORK says: a test changes its process for good */
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
