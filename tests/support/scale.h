/* SPDX-License-Identifier: Apache-2.0
 *
 * Seeded loops are shorter under slow checkers: KVMM_TEST_SCALE divides their rounds, 1 if unset. */
#ifndef TESTS_SUPPORT_SCALE_H
#define TESTS_SUPPORT_SCALE_H

#include <stdlib.h>

/* So many of n rounds, at least 1. */
static inline long scaled(long n)
{
    const char *text = getenv("KVMM_TEST_SCALE");
    long divisor = text ? strtol(text, NULL, 10) : 1;
    long rounds = divisor > 1 ? n / divisor : n;
    return rounds > 0 ? rounds : 1;
}

#endif
