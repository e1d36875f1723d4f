/* SPDX-License-Identifier: Apache-2.0 */
#include "cublas.h"
#include "tests/engine/cublas_values.h"

const struct cublas_value cublas_of_engine[] = {CUBLAS_VALUES(CUBLAS_SIZE, CUBLAS_VALUE)};
const size_t cublas_n_of_engine = sizeof cublas_of_engine / sizeof *cublas_of_engine;
