/* SPDX-License-Identifier: Apache-2.0
 *
 * Seeded loops are shorter under slow checkers: KVMM_TEST_SCALE is a percentage, 100 if unset. */
#ifndef TESTS_SUPPORT_SCALE_H
#define TESTS_SUPPORT_SCALE_H

#include <stdlib.h>

/* So many of n rounds, at least 1. */
static inline long scaled(long n)
{
    const char *text = getenv("KVMM_TEST_SCALE");
    long percent = text ? strtol(text, NULL, 10) : 100;
    long rounds = percent > 0 ? n * percent / 100 : n;
    return rounds > 0 ? rounds : 1;
}

#endif
