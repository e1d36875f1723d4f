/* SPDX-License-Identifier: Apache-2.0
 *
 * The test cases of kernels_test.c, one a file. */
#ifndef TESTS_GPU_KERNELS_CASES_H
#define TESTS_GPU_KERNELS_CASES_H

#include <check.h>

TCase *attention_cases(void);
TCase *append_cases(void);
TCase *pass_cases(void);

#endif
