/* SPDX-License-Identifier: Apache-2.0
 *
 * Hooks of memset: clearing a cache costs no memory and no I/O. */
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "shim/hook.h"
#include "shim/managed.h"
#include "shim/range.h"
#include "shim/real.h"
#include "shim/select.h"
#include "shim/start.h"

/* Before the shim is relocated there is no table yet: the loader calls resolvers of libraries, which may call memset. */
static void *set_bytes(void *address, int byte, size_t bytes)
{
    if (SHIM_LIKELY(shim_real.memset))
        return shim_real.memset(address, byte, bytes);
    unsigned char *at = address;
    for (size_t i = 0; i < bytes; i++) {
        at[i] = (unsigned char)byte;
        __asm__ volatile("" ::: "memory"); /* or the compiler makes a call of memset of it */
    }
    return address;
}

/* What the memset means for the first entry in [start, end); returns where it ends. */
static uintptr_t clear_entry(uintptr_t start, uintptr_t end, struct shim_managed *entry)
{
    if (entry->kind == SHIM_TENTATIVE_MEMORY) {
        bool whole = start <= shim_page_up(entry->start) && end >= shim_page_down(entry->end);
        if (whole && shim_range_adopt(entry)) {
            /* Its edges are memory of the allocator's. */
            uintptr_t first = shim_page_up(entry->start), last = shim_page_down(entry->end);
            set_bytes((void *)start, 0, first - start);
            set_bytes((void *)last, 0, (end < entry->end ? end : entry->end) - last);
            return end < entry->end ? end : entry->end;
        }
        shim_range_end(entry); /* used otherwise */
        return start;
    }
    uintptr_t from = start > entry->range_start ? start : entry->range_start;
    uintptr_t to = end < entry->range_end ? end : entry->range_end;
    if (from >= to || shim_is_child())
        to = from = entry->end < end ? entry->end : end;
    set_bytes((void *)start, 0, from - start);
    if (from < to && !shim_range_discard(from, to))
        set_bytes((void *)from, 0, to - from);
    return to;
}

static void clear_over(uintptr_t start, uintptr_t end)
{
    struct shim_managed entry;
    while (start < end && shim_managed_overlap(start, end, &entry))
        start = clear_entry(start, end, &entry);
    if (start < end)
        set_bytes((void *)start, 0, end - start);
}

/* A large memset that isn't to zero, or not of the whole, is a use. */
static void forget_noted(uintptr_t start, uintptr_t end)
{
    struct shim_managed entry;
    while (start < end && shim_managed_overlap(start, end, &entry)) {
        if (entry.kind == SHIM_TENTATIVE_MEMORY)
            shim_range_end(&entry);
        start = entry.end;
    }
}

static __attribute__((noinline)) void *large_memset(void *address, int byte, size_t bytes)
{
    uintptr_t start = (uintptr_t)address;
    if (shim_inside || start + bytes < start)
        return set_bytes(address, byte, bytes);
    if ((unsigned char)byte == 0) {
        clear_over(start, start + bytes);
        return address;
    }
    forget_noted(start, start + bytes);
    return set_bytes(address, byte, bytes);
}

static inline bool is_plain(const void *address, size_t bytes)
{
    return SHIM_LIKELY(bytes < SHIM_THRESHOLD) || SHIM_LIKELY(!shim_managed_near(address, bytes));
}

static inline void *set_or_clear(void *address, int byte, size_t bytes)
{
    return is_plain(address, bytes) ? set_bytes(address, byte, bytes) : large_memset(address, byte, bytes);
}

SHIM_EXPORT void *memset(void *address, int byte, size_t bytes)
{
    return set_or_clear(address, byte, bytes);
}

/* What memset is in programs built with _FORTIFY_SOURCE, where the size of the object is known. */
void *__memset_chk(void *address, int byte, size_t bytes, size_t room);
SHIM_EXPORT void *__memset_chk(void *address, int byte, size_t bytes, size_t room)
{
    if (SHIM_LIKELY(bytes <= room))
        return set_or_clear(address, byte, bytes);
    return shim_real.__memset_chk(address, byte, bytes, room); /* reports it and aborts */
}

SHIM_EXPORT void bzero(void *address, size_t bytes)
{
    set_or_clear(address, 0, bytes);
}
