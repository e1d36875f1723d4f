/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that an engine wants locked, against memory that must be able to leave. */
#ifndef SHIM_RESIDENCY_H
#define SHIM_RESIDENCY_H

#include <stddef.h>

/* Around the making of a range. After mlockall() for what is mapped later, the kernel would take all its memory at once, and
 * the pager could not take pages out of it. */
void shim_residency_before_range(void);
void shim_residency_after_range(void *base, size_t bytes);

/* Locks are not inherited. */
void shim_residency_forget_in_child(void);

#endif
