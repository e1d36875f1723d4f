/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/range.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shim/hook.h"
#include "shim/log.h"
#include "shim/residency.h"
#include "shim/select.h"
#include "shim/start.h"

size_t shim_page(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

uintptr_t shim_page_up(uintptr_t address)
{
    return (address + shim_page() - 1) & ~(shim_page() - 1);
}

uintptr_t shim_page_down(uintptr_t address)
{
    return address & ~(shim_page() - 1);
}

static void *map_range(enum shim_managed_kind kind, void *at, size_t bytes, size_t alignment)
{
    static bool said;
    struct shim_pager *pager = shim_pager_get();
    if (!pager || bytes > SIZE_MAX - shim_page())
        return NULL;
    void *base = NULL;
    shim_residency_before_range();
    int error = shim_pager_map(pager, at, bytes, alignment, &base);
    shim_residency_after_range(base, bytes);
    if (error) {
        shim_log_once(&said, "a cache of %zu bytes stays with the engine: %s", bytes, strerror(-error));
        return NULL;
    }
    uintptr_t start = (uintptr_t)base;
    const struct shim_managed entry = {.kind = kind,
                                       .start = start,
                                       .end = start + bytes,
                                       .range_start = start,
                                       .range_end = shim_page_up(start + bytes),
                                       .base = start};
    if (shim_managed_add(&entry))
        return base;
    shim_log_once(&said, "a cache of %zu bytes stays with the engine: there are %d already", bytes, SHIM_MANAGED_MAX);
    shim_pager_unmap(pager, base, at != NULL);
    return NULL;
}

void *shim_range_new(enum shim_managed_kind kind, void *at, size_t bytes, size_t alignment)
{
    int error = errno;
    shim_enter();
    void *base = map_range(kind, at, bytes, alignment);
    shim_leave();
    errno = error;
    return base;
}

void shim_range_note(void *address, size_t bytes)
{
    int error = errno;
    uintptr_t start = (uintptr_t)address;
    const struct shim_managed entry = {.kind = SHIM_TENTATIVE_MEMORY, .start = start, .end = start + bytes};
    shim_enter();
    shim_managed_add(&entry);
    shim_leave();
    errno = error;
}

static bool adopt(const struct shim_managed *entry)
{
    static bool said;
    struct shim_pager *pager = shim_pager_get();
    uintptr_t start = shim_page_up(entry->start), end = shim_page_down(entry->end);
    if (!pager || start >= end)
        return false;
    void *base = NULL;
    shim_residency_before_range();
    int error = shim_pager_map(pager, (void *)start, end - start, 0, &base);
    shim_residency_after_range(base, end - start);
    if (error) {
        shim_log_once(&said, "a cache of %zu bytes stays with the engine: %s", (size_t)(end - start), strerror(-error));
        return false;
    }
    struct shim_managed adopted = *entry;
    adopted.kind = SHIM_ADOPTED;
    adopted.range_start = adopted.base = start;
    adopted.range_end = end;
    if (shim_managed_set(entry->start, &adopted)) {
        shim_select_adopted();
        return true;
    }
    shim_pager_unmap(pager, base, true); /* freed meanwhile by another thread: the engine's defect, not ours */
    return false;
}

bool shim_range_adopt(const struct shim_managed *entry)
{
    int error = errno;
    shim_enter();
    bool ok = adopt(entry);
    if (!ok)
        shim_managed_remove(entry->start);
    shim_leave();
    errno = error;
    return ok;
}

bool shim_range_end(const struct shim_managed *entry)
{
    if (entry->kind != SHIM_TENTATIVE_MEMORY && shim_is_child())
        return true;
    int error = errno;
    shim_enter();
    /* First the entry: after the range, the addresses may be anybody's. */
    bool ours = shim_managed_remove(entry->start);
    struct shim_pager *pager = shim_pager_opened();
    if (ours && pager && entry->kind != SHIM_TENTATIVE_MEMORY)
        shim_pager_unmap(pager, (void *)entry->base, entry->kind == SHIM_ADOPTED);
    shim_leave();
    errno = error;
    return ours;
}

bool shim_range_discard(uintptr_t start, uintptr_t end)
{
    struct shim_pager *pager = shim_pager_opened();
    if (!pager)
        return false;
    int error = errno;
    shim_enter();
    bool ok = shim_pager_discard(pager, (void *)start, end - start) == 0;
    shim_leave();
    errno = error;
    return ok;
}

bool shim_range_resize(const struct shim_managed *entry, size_t bytes)
{
    struct shim_managed resized = *entry;
    if (bytes > entry->range_end - entry->start || shim_is_child())
        return false;
    resized.end = entry->start + bytes;
    uintptr_t unused = shim_page_up(resized.end);
    if (resized.end < entry->end && unused < entry->range_end && !shim_range_discard(unused, entry->range_end))
        return false;
    return shim_managed_set(entry->start, &resized);
}

/* mprotect() splits the view's mapping, which the pager's calls on it can bear. */
static int cut(const struct shim_managed *entry, uintptr_t start, uintptr_t end)
{
    struct shim_pager *pager = shim_pager_opened();
    int error = pager ? shim_pager_discard(pager, (void *)start, end - start) : -ESRCH;
    if (error)
        return error;
    if (mprotect((void *)start, end - start, PROT_NONE) != 0)
        return -errno;
    struct shim_managed left = *entry;
    if (start <= left.range_start)
        left.start = left.range_start = end;
    else if (end >= left.range_end)
        left.end = left.range_end = start;
    shim_managed_set(entry->start, &left);
    return 0;
}

int shim_range_cut(const struct shim_managed *entry, uintptr_t start, uintptr_t end)
{
    if (shim_is_child())
        return 0;
    if (start <= entry->range_start && end >= entry->range_end) {
        shim_range_end(entry);
        return 0;
    }
    int error = errno;
    shim_enter();
    int result = cut(entry, start, end);
    shim_leave();
    errno = error;
    return result;
}
