/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_spread.h"

#include <stdlib.h>

int spread_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct spread spread_of(double *values, size_t n)
{
    qsort(values, n, sizeof(*values), spread_by_value);
    double median = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    return (struct spread){values[0], median, values[n - 1]};
}

json_t *spread_json(struct spread spread)
{
    return json_pack("{s:f, s:f, s:f}", "min", spread.least, "median", spread.median, "max", spread.most);
}
