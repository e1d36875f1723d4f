/* SPDX-License-Identifier: Apache-2.0
 *
 * The functions behind the hooks: for each, the next definition after the shim in the order in which symbols are looked up,
 * so the C library's or that of a preloaded or linked allocator. A hook calls these; everything else in the shim
 * calls functions by their names and gets the same, because the linker is told so (--wrap; the wrappers are in real.c). */
#ifndef SHIM_REAL_H
#define SHIM_REAL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/types.h>

#include "shim/real_list.h"

#define SHIM_REAL_MEMBER(type, name, parameters, arguments, failure) type(*name) parameters;

/* Each entry finds all of them at its first call, so they can be called at any time after the shim's relocation; before
 * that, all are NULL. */
struct shim_real {
    SHIM_REAL_ALLOCATOR(SHIM_REAL_MEMBER)
    SHIM_REAL_SYSTEM(SHIM_REAL_MEMBER)
};
extern struct shim_real shim_real;

void shim_real_find(void);

/* Whether the address is code of the object that malloc comes from: its mmap is not the engine's, and is called with the
 * allocator's locks held, where nothing may be allocated. That may be the program itself. None is before
 * shim_real_find_allocator(). */
void shim_real_find_allocator(void);
bool shim_real_is_allocator(const void *address);

#endif
