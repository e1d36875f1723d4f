/* SPDX-License-Identifier: Apache-2.0
 *
 * demo_engine/cublas.h has the types and numbers of the toolkit's cublas_v2.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/engine/cublas_values.h"

int main(void)
{
    int n_bad = cublas_n_of_engine != cublas_n_of_toolkit;
    for (size_t i = 0; i < cublas_n_of_engine && i < cublas_n_of_toolkit; i++) {
        const struct cublas_value *ours = &cublas_of_engine[i], *theirs = &cublas_of_toolkit[i];
        if (strcmp(ours->name, theirs->name) == 0 && ours->value == theirs->value)
            continue;
        (void)printf("%s is %lld, and %s of the toolkit %lld\n", ours->name, ours->value, theirs->name, theirs->value);
        n_bad++;
    }
    (void)printf("%zu values compared, %d bad\n", cublas_n_of_engine, n_bad);
    return n_bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
