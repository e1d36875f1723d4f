/* SPDX-License-Identifier: Apache-2.0
 *
 * Least, median and most of a figure over the rounds of a bench. */
#ifndef TOOLS_BENCH_SPREAD_H
#define TOOLS_BENCH_SPREAD_H

#include <stddef.h>

#include <jansson.h>

struct spread {
    double least, median, most;
};

/* For qsort of doubles, ascending. */
int spread_by_value(const void *a, const void *b);

/* n ≥ 1 values, which are sorted in place. */
struct spread spread_of(double *values, size_t n);

/* {"min": …, "median": …, "max": …}; the caller owns the reference. */
json_t *spread_json(struct spread spread);

#endif
