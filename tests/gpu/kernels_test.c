/* SPDX-License-Identifier: Apache-2.0
 *
 * Every kernel of kernels/cuda.h, on whatever CUDA driver is there, does what kernels/cuda/params.h says, as far as double
 * precision can tell. On simcuda it is the kernels' C forms that run: there this tests the launches and itself. */
#include <stdlib.h>

#include "tests/gpu/device.h"
#include "tests/gpu/kernels_cases.h"

int main(void)
{
    const int skip = test_device_skip();
    if (skip)
        return skip;
    enum { N_CASES = 3 };
    TCase *const cases[N_CASES] = {pass_cases(), append_cases(), attention_cases()};
    Suite *suite = suite_create("kernels on a device");
    for (size_t i = 0; i < N_CASES; i++) {
        tcase_set_timeout(cases[i], 300);
        tcase_add_checked_fixture(cases[i], test_device_open, test_device_close);
        suite_add_tcase(suite, cases[i]);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
