/* SPDX-License-Identifier: Apache-2.0
 *
 * Hooks of madvise and mlock: what an engine says about where its memory should be. A call may cover ranges and other
 * memory; each part gets its own answer, and the first error is returned. */
#include "shim/residency.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shim/hook.h"
#include "shim/log.h"
#include "shim/managed.h"
#include "shim/range.h"
#include "shim/real.h"
#include "shim/start.h"

/* One answer for a part of the address space: 0, or errno. */
typedef int (*part_call)(uintptr_t start, uintptr_t end, int argument);

/* Goes over [start, end) in order: other for what is no range, range for what is. 0 or -1 with errno. */
static int each_part(uintptr_t start, uintptr_t end, int argument, part_call other, part_call range)
{
    int first_error = 0;
    uintptr_t searched = start;
    while (start < end) {
        struct shim_managed entry;
        uintptr_t from = end, to = end;
        if (searched < end && shim_managed_overlap(searched, end, &entry)) {
            searched = entry.end;
            if (entry.kind == SHIM_TENTATIVE_MEMORY || entry.range_start >= entry.range_end)
                continue;
            from = entry.range_start > start ? entry.range_start : start;
            to = entry.range_end < end ? entry.range_end : end;
            if (from >= to)
                continue;
            searched = searched > to ? searched : to;
        }
        int error = from > start ? other(start, from, argument) : 0;
        if (error == 0 && to > from)
            error = range(from, to, argument);
        first_error = first_error ? first_error : error;
        start = to;
    }
    if (first_error == 0)
        return 0;
    errno = first_error;
    return -1;
}

/* Whether the call is the real function's: near no range, of no whole pages, or by the shim itself. */
static bool is_plain(const void *address, size_t bytes)
{
    return SHIM_LIKELY(!shim_managed_near(address, bytes)) || shim_inside ||
           (uintptr_t)address + bytes < (uintptr_t)address || shim_is_child();
}

/* ---- madvise ------------------------------------------------------------------------------------------------- */

static int advise_other(uintptr_t start, uintptr_t end, int advice)
{
    return shim_real.madvise((void *)start, end - start, advice) == 0 ? 0 : errno;
}

static int hint(uintptr_t start, uintptr_t end, enum shim_advice advice)
{
    struct shim_pager *pager = shim_pager_opened();
    int error = errno;
    shim_enter();
    int result = pager ? shim_pager_advise(pager, (void *)start, end - start, advice) : 0;
    shim_leave();
    errno = error;
    return -result;
}

/* Numbers that C libraries older than the kernel don't name. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

static int advise_range(uintptr_t start, uintptr_t end, int advice)
{
    switch (advice) {
    case MADV_DONTNEED:
    case MADV_FREE:
    case MADV_REMOVE:
        return shim_range_discard(start, end) ? 0 : ENOMEM;
    case MADV_WILLNEED:
    case MADV_POPULATE_READ:
    case MADV_POPULATE_WRITE:
        return hint(start, end, SHIM_WILL_NEED);
    case MADV_COLD:
    case MADV_PAGEOUT:
        return hint(start, end, SHIM_COLD);
    case MADV_DOFORK: /* a child has no ranges */
    case MADV_WIPEONFORK:
    case MADV_HWPOISON:
        return EINVAL;
    case MADV_DODUMP:
    case MADV_DONTDUMP:
        return advise_other(start, end, advice);
    default: /* the kernel's ways with pages, which the pager has its own of */
        return 0;
    }
}

SHIM_EXPORT int madvise(void *address, size_t bytes, int advice)
{
    uintptr_t start = (uintptr_t)address;
    if (is_plain(address, bytes) || start % shim_page() != 0)
        return shim_real.madvise(address, bytes, advice);
    return each_part(start, shim_page_up(start + bytes), advice, advise_other, advise_range);
}

/* ---- mlock --------------------------------------------------------------------------------------------------- */

static atomic_int locks_later; /* flags of mlockall(), if MCL_FUTURE is among them */

static int lock_other(uintptr_t start, uintptr_t end, int flags)
{
    int result = flags ? shim_real.mlock2((void *)start, end - start, (unsigned)flags)
                       : shim_real.mlock((void *)start, end - start);
    return result == 0 ? 0 : errno;
}

static void say_that_it_stays_pageable(void)
{
    static bool said;
    shim_log_once(&said,
                  "the engine locks its cache in memory, which stays pageable: to keep all of it, give it a budget "
                  "(KVMM_DEVICE_MEMORY) of its size");
}

static int lock_range(uintptr_t start, uintptr_t end, int flags)
{
    say_that_it_stays_pageable();
    return 0;
}

static int unlock_other(uintptr_t start, uintptr_t end, int argument)
{
    return shim_real.munlock((void *)start, end - start) == 0 ? 0 : errno;
}

static int unlock_range(uintptr_t start, uintptr_t end, int argument)
{
    return 0;
}

SHIM_EXPORT int mlock(const void *address, size_t bytes)
{
    if (is_plain(address, bytes))
        return shim_real.mlock(address, bytes);
    uintptr_t start = (uintptr_t)address;
    return each_part(shim_page_down(start), shim_page_up(start + bytes), 0, lock_other, lock_range);
}

SHIM_EXPORT int mlock2(const void *address, size_t bytes, unsigned flags)
{
    if (is_plain(address, bytes) || flags & ~(unsigned)MLOCK_ONFAULT)
        return shim_real.mlock2(address, bytes, flags);
    uintptr_t start = (uintptr_t)address;
    return each_part(shim_page_down(start), shim_page_up(start + bytes), (int)flags, lock_other, lock_range);
}

SHIM_EXPORT int munlock(const void *address, size_t bytes)
{
    if (is_plain(address, bytes))
        return shim_real.munlock(address, bytes);
    uintptr_t start = (uintptr_t)address;
    return each_part(shim_page_down(start), shim_page_up(start + bytes), 0, unlock_other, unlock_range);
}

/* For the moment, what is mapped is to be locked as it is touched. */
void shim_residency_before_range(void)
{
    int flags = atomic_load_explicit(&locks_later, memory_order_relaxed);
    if (flags && !(flags & MCL_ONFAULT))
        shim_real.mlockall(MCL_FUTURE | MCL_ONFAULT);
}

void shim_residency_after_range(void *base, size_t bytes)
{
    int flags = atomic_load_explicit(&locks_later, memory_order_relaxed);
    if (flags && base) {
        shim_real.munlock(base, bytes);
        say_that_it_stays_pageable();
    }
    if (flags && !(flags & MCL_ONFAULT))
        shim_real.mlockall(flags & ~MCL_CURRENT);
}

void shim_residency_forget_in_child(void)
{
    atomic_store_explicit(&locks_later, 0, memory_order_relaxed);
}

static void unlock_all_ranges(void)
{
    struct shim_managed entry;
    for (uintptr_t start = 0; shim_managed_overlap(start, UINTPTR_MAX, &entry); start = entry.end) {
        if (entry.kind != SHIM_TENTATIVE_MEMORY && entry.range_start < entry.range_end) {
            shim_real.munlock((void *)entry.range_start, entry.range_end - entry.range_start);
            say_that_it_stays_pageable();
        }
    }
}

/* What is mapped now is locked as it is touched, not at once, or ranges would be read in as a whole. */
static int lock_all_but_ranges(int flags)
{
    int result = shim_real.mlockall(flags | MCL_ONFAULT);
    if (result != 0)
        return result;
    int error = errno;
    unlock_all_ranges();
    if (flags & MCL_FUTURE)
        shim_real.mlockall(flags & ~MCL_CURRENT);
    errno = error;
    return 0;
}

SHIM_EXPORT int mlockall(int flags)
{
    size_t n_ranges;
    uint64_t bytes;
    shim_managed_count(&n_ranges, &bytes);
    bool with_ranges = n_ranges > 0 && (flags & MCL_CURRENT) && !shim_is_child();
    int result = with_ranges ? lock_all_but_ranges(flags) : shim_real.mlockall(flags);
    if (result == 0)
        atomic_store_explicit(&locks_later, flags & MCL_FUTURE ? flags : 0, memory_order_relaxed);
    return result;
}

SHIM_EXPORT int munlockall(void)
{
    atomic_store_explicit(&locks_later, 0, memory_order_relaxed);
    return shim_real.munlockall();
}
