/* SPDX-License-Identifier: Apache-2.0
 *
 * Table and pager together: how an allocation becomes a range, and what ends it. errno is kept by all, but where it says so.
 * In a child after fork() there are entries but no ranges: what begins is refused, what ends does nothing. */
#ifndef SHIM_RANGE_H
#define SHIM_RANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shim/managed.h"

/* Size of a page, and addresses rounded to it. */
size_t shim_page(void);
uintptr_t shim_page_up(uintptr_t address);
uintptr_t shim_page_down(uintptr_t address);

/* A new range of `bytes` that reads as zeros. at: NULL, or where it replaces what is mapped. NULL: there is no pager, or it
 * has no room, which is said once. */
void *shim_range_new(enum shim_managed_kind kind, void *at, size_t bytes, size_t alignment);

/* Notes memory that is not the shim's, but becomes so if it is cleared as a whole. */
void shim_range_note(void *address, size_t bytes);

/* A noted one was cleared: puts a range in place of its whole pages, which reads as zeros. False: it stays as it is, and is
 * noted no more. */
bool shim_range_adopt(const struct shim_managed *entry);

/* Forgets the entry and its range; the addresses of an adopted one are the allocator's again, and read as zeros. False:
 * another thread did so before. */
bool shim_range_end(const struct shim_managed *entry);

/* Changes the size without moving, where the pages suffice: what is given up reads as zeros when it comes back. */
bool shim_range_resize(const struct shim_managed *entry, size_t bytes);

/* [start, end), whole pages within the entry's range, is mapped no more: its contents are dropped, and a touch is SIGSEGV.
 * Ends the range when none of it is left. The addresses stay taken until then. 0 or -errno. */
int shim_range_cut(const struct shim_managed *entry, uintptr_t start, uintptr_t end);

/* Makes [start, end) within a range read as zeros. False: it could not be done, and nothing was changed. */
bool shim_range_discard(uintptr_t start, uintptr_t end);

#endif
