/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that an engine wants locked, against memory that must be able to leave. */
#ifndef SHIM_RESIDENCY_H
#define SHIM_RESIDENCY_H

#include <stddef.h>

/* A new range is not to be locked by an mlockall() for what is mapped later: the pager could not take pages out then. */
void shim_residency_unlock(void *base, size_t bytes);

#endif
