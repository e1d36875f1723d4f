/* SPDX-License-Identifier: Apache-2.0
 *
 * simcublas: a strict stand-in for libcublas over simcuda. It has the functions of demo_engine/cublas_functions.h, and these
 * for tests. Each element of a product is summed in one order, which depends on k alone: so a row's bits do not depend on the
 * rows beside it.
 *
 * Strict: handles that are not open, leading dimensions and pointers that do not fit, types that cuBLAS does not multiply,
 * captures without a workspace of the caller's, and matrices that reach beyond their allocation. The last ends the process,
 * since it shows only when the product runs.
 *
 * Environment: SIMCUBLAS_FAIL=NAME:NTH:STATUS, as simcublas_fail(), read at the process's first call. */
#ifndef SIMCUBLAS_H
#define SIMCUBLAS_H

#include <stdint.h>

#define SIMCUBLAS_EXPORT __attribute__((visibility("default")))

/* The nth call of the function from now, 1 is the next, returns `status` and does nothing else; 0: no call. */
SIMCUBLAS_EXPORT void simcublas_fail(const char *name, uint64_t nth, int status);
/* Handles that are open. */
SIMCUBLAS_EXPORT uint64_t simcublas_handles(void);

#endif
