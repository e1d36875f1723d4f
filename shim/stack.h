/* SPDX-License-Identifier: Apache-2.0
 *
 * Who called: return addresses of the calling thread, by the unwind tables (libgcc's unwinder, linked statically; it
 * allocates nothing). */
#ifndef SHIM_STACK_H
#define SHIM_STACK_H

#include <stddef.h>

#define SHIM_STACK_MAX 64

/* The innermost first, without the shim's own; each is within the call, so that it belongs to the caller. Returns how many.
 * Ends early at code without unwind tables. */
size_t shim_stack_callers(const void *callers[SHIM_STACK_MAX]);

#endif
