/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests on a CUDA device: simcuda, where KVMM_LIBCUDA names it, or else a real GPU. Nothing here starts the driver
 * before a test asks for it, so that Check may fork. */
#ifndef TESTS_ENGINE_CUDA_SUPPORT_H
#define TESTS_ENGINE_CUDA_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/simcuda/simcuda.h"

/* 0: tests can run. Else the exit status for main(), which has said why they can't. */
int cuda_test_skip(void);

/* Whether the driver is to be simcuda. */
bool cuda_test_is_simulated(void);
/* simcuda's controls. Precondition: it is simcuda; loads it. */
const struct simcuda_control *cuda_test_sim(void);
/* simcublas's, by name: a function pointer's bytes. */
void *cuda_test_blas_symbol(const char *name);

/* Device memory for a test, zeroed, in the primary context; and its bytes, malloc'd. `at` may also be of a kvmm range. */
uint64_t cuda_test_alloc(size_t bytes);
void cuda_test_free(uint64_t at);
void *cuda_test_copy_out(uint64_t at, size_t bytes);

/* A device address as kvmm_layout.base has it. */
static inline void *cuda_test_pointer(uint64_t at)
{
    return (void *)(uintptr_t)at; // NOLINT(performance-no-int-to-ptr)
}

/* Nothing was violated, and no more is held than before. */
struct simcuda_usage cuda_test_usage(void);
void cuda_test_nothing_left(const struct simcuda_usage *before, const char *what);

#endif
