/* SPDX-License-Identifier: Apache-2.0
 *
 * For suites that run with the shim preloaded. Check runs each test in a child of its own; none has a cache before. */
#ifndef TESTS_SHIM_UNDER_H
#define TESTS_SHIM_UNDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/shim/fake_pager.h"

#define MIB ((size_t)1 << 20)

/* Exits with 77 where the program doesn't run under the shim. */
void under_shim(void);

/* Whether the shim manages the byte: by what kvmm_advise() says. */
bool is_managed(const void *address);
bool was_managed(uintptr_t address); /* the same, for what was given back */
int advise(void *address, size_t bytes, int advice);

/* The fake pager's counts; NULL under the real one. */
struct fake_pager_calls *pager_calls(void);

/* Fills and compares bytes that follow from their place and a seed. */
void fill(void *address, size_t bytes, unsigned seed);
bool holds(const void *address, size_t bytes, unsigned seed);
bool is_zero(const void *address, size_t bytes);

/* stderr into a file from here on; what was written to it since, as a string. */
void catch_stderr(void);
const char *caught_stderr(void);
int count_lines(const char *text);

/* Runs `run` in a child of fork(): its exit status, or -signal. */
int in_child(int (*run)(void *arg), void *arg);

#endif
