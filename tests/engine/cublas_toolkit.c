/* SPDX-License-Identifier: Apache-2.0
 *
 * The same table by the toolkit's header, and every function that the engine names, with those parameters. cublas_v2.h has
 * the names of demo_engine/cublas.h, so that the list of functions can be read after it. */
#include <cublas_v2.h>
#include <cuda.h>

#include "demo_engine/cublas_functions.h"
#include "tests/engine/cublas_values.h"

const struct cublas_value cublas_of_toolkit[] = {CUBLAS_VALUES(CUBLAS_SIZE, CUBLAS_VALUE)};
const size_t cublas_n_of_toolkit = sizeof cublas_of_toolkit / sizeof *cublas_of_toolkit;

#define X(name, params)                                                                                                \
    _Static_assert(__builtin_types_compatible_p(__typeof__(&(name)), cublasStatus_t(CUBLASWINAPI *) params), #name);
CUBLAS_FUNCTIONS(X)
#undef X
