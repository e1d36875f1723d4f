/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine's allocations that the shim has to do with, by address. What an address costs that is none of them: two loads,
 * if it is not between the lowest and the highest ever; else a scan of the starts, without a lock.
 *
 * The table knows; it does nothing to memory. Its lock is held within these functions only. */
#ifndef SHIM_MANAGED_H
#define SHIM_MANAGED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum shim_managed_kind {
    SHIM_TENTATIVE_MEMORY, /* the real allocator's or the kernel's, and becomes ADOPTED if it is cleared as a whole */
    SHIM_ADOPTED,          /* the same, with a range of the pager's in place of its whole pages */
    SHIM_ALLOCATED,        /* a range that stands for memory of an allocator: ends with free() */
    SHIM_MAPPED            /* a range that stands for a mapping: ends with munmap() */
};

struct shim_managed {
    enum shim_managed_kind kind;
    uintptr_t start, end;             /* what the engine was given */
    uintptr_t range_start, range_end; /* what of it the pager's range covers still; equal: there is none */
    uintptr_t base;                   /* by which the pager knows the range */
};

#define SHIM_MANAGED_MAX 1024

/* Bounds of all addresses that ever were in the table. */
extern atomic_uintptr_t shim_managed_low, shim_managed_high;

/* Whether [address, address + bytes) may have to do with an entry. */
static inline bool shim_managed_near(const void *address, size_t bytes)
{
    uintptr_t start = (uintptr_t)address;
    return start < atomic_load_explicit(&shim_managed_high, memory_order_relaxed) &&
           start + bytes > atomic_load_explicit(&shim_managed_low, memory_order_relaxed);
}

/* False: the table is full. When a tentative entry is added and there are SHIM_TENTATIVE_MAX, the oldest goes. */
#define SHIM_TENTATIVE_MAX 32
bool shim_managed_add(const struct shim_managed *entry);

/* The entry that starts at address. */
bool shim_managed_get(const void *address, struct shim_managed *entry);

/* The lowest entry that shares bytes with [start, end). */
bool shim_managed_overlap(uintptr_t start, uintptr_t end, struct shim_managed *entry);

/* Replaces, or removes, the entry that starts at `start`. False: there is none any more. */
bool shim_managed_set(uintptr_t start, const struct shim_managed *entry);
bool shim_managed_remove(uintptr_t start);

/* How many are ranges of the pager's, and their bytes. */
void shim_managed_count(size_t *n, uint64_t *bytes);

/* Around fork(): the child finds the lock free. */
void shim_managed_before_fork(void);
void shim_managed_after_fork(void);

#endif
