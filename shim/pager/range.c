/* SPDX-License-Identifier: Apache-2.0
 *
 * Ranges: made, found, unmade. */
#include "shim/pager/state.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The lowest n free chunk numbers in a row; SHIM_NO_CHUNK: there are none. */
static uint32_t find_numbers(const struct shim_pager *pager, uint32_t n)
{
    uint32_t first = 0;
    for (int i = 0; i < SHIM_MAX_RANGES; i++) {
        const struct shim_range *range = &pager->ranges[i];
        if (atomic_load(&range->base) == 0 || first + n <= range->first || first >= range->first + range->n_chunks)
            continue;
        first = range->first + range->n_chunks;
        i = -1; /* the ranges are in no order */
    }
    return n <= SHIM_MAX_CHUNKS && first <= SHIM_MAX_CHUNKS - n ? first : SHIM_NO_CHUNK;
}

/* After a range has come or gone. Bounds first widen, so that a reader never misses a range. */
static void set_bounds(struct shim_pager *pager)
{
    uintptr_t low = UINTPTR_MAX, high = 0;
    pager->end_chunk = 0;
    for (int i = 0; i < SHIM_MAX_RANGES; i++) {
        const struct shim_range *range = &pager->ranges[i];
        uintptr_t base = atomic_load(&range->base), end = atomic_load(&range->end);
        if (base == 0)
            continue;
        low = base < low ? base : low;
        high = end > high ? end : high;
        if (range->first + range->n_chunks > pager->end_chunk)
            pager->end_chunk = range->first + range->n_chunks;
    }
    atomic_store(&pager->low, low);
    atomic_store(&pager->high, high);
}

/* A shared mapping of the memfd at `at`, or anywhere at a multiple of alignment. It isn't copied to children, where it would
 * be shared with the parent; and not dumped: a dump would fetch every page. */
static void *map_memfd(int memfd, void *at, size_t bytes, size_t alignment)
{
    char *whole = NULL, *base = at;
    size_t reserved = bytes + alignment;
    if (!at) {
        whole = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (whole == MAP_FAILED)
            return NULL;
        base = (char *)(((uintptr_t)whole + alignment - 1) & ~(uintptr_t)(alignment - 1));
    }
    void *mapped = mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, memfd, 0);
    if (whole) {
        if (base > whole)
            munmap(whole, (size_t)(base - whole));
        munmap(base + bytes, reserved - bytes - (size_t)(base - whole));
    }
    if (mapped == MAP_FAILED) {
        if (whole)
            munmap(base, bytes);
        return NULL;
    }
    munlock(base, bytes); /* after mlockall(MCL_FUTURE) it would be pinned, and could not leave */
    if (madvise(base, bytes, MADV_DONTFORK) || madvise(base, bytes, MADV_DONTDUMP)) {
        munmap(base, bytes);
        return NULL;
    }
    return base;
}

static int free_range(const struct shim_pager *pager)
{
    for (int i = 0; i < SHIM_MAX_RANGES; i++)
        if (atomic_load(&pager->ranges[i].base) == 0)
            return i;
    return -1;
}

int shim_pager_map(struct shim_pager *pager, void *at, size_t bytes, size_t alignment, void **base)
{
    size_t page = pager->page_bytes, chunk = pager->chunk_bytes;
    if (pager->forgotten)
        return -ECHILD;
    if (bytes == 0 || (alignment & (alignment - 1)) != 0 || (uintptr_t)at % page != 0)
        return -EINVAL;
    if (bytes > (size_t)SHIM_MAX_CHUNKS * chunk)
        return -ENOSPC;
    bytes = (bytes + page - 1) & ~(page - 1);
    uint32_t n_chunks = (uint32_t)((bytes + chunk - 1) / chunk);
    int memfd = memfd_create("kvmm-cache", MFD_CLOEXEC);
    if (memfd < 0)
        return -errno;
    int error = -ENOMEM;
    void *view = NULL;
    if (ftruncate(memfd, (off_t)n_chunks * (off_t)chunk))
        goto err_close;
    shim_pager_lock(pager);
    int i = free_range(pager);
    uint32_t first = find_numbers(pager, n_chunks);
    if (i < 0 || first == SHIM_NO_CHUNK) {
        error = -ENOSPC;
        goto err_unlock;
    }
    view = map_memfd(memfd, at, bytes, alignment > chunk ? alignment : chunk);
    if (!view)
        goto err_unlock;
    error = shim_uffd_register(&pager->uffd, view, bytes);
    if (error)
        goto err_unmap;
    struct shim_range *range = &pager->ranges[i];
    range->memfd = memfd;
    range->first = first;
    range->n_chunks = n_chunks;
    range->n_live = range->n_busy = 0;
    range->closing = false;
    for (uint32_t c = 0; i != 0 && c < n_chunks; c++) /* the table is all zeros where it was never touched */
        pager->chunks[first + c].range = (uint8_t)i;
    atomic_store(&range->end, (uintptr_t)view + bytes);
    atomic_store(&range->base, (uintptr_t)view);
    set_bounds(pager);
    pager->info.range_bytes += bytes;
    shim_pager_unlock(pager);
    *base = view;
    return 0;
err_unmap:
    /* What was there is gone; the caller's memory must stay memory. */
    if (!at || mmap(view, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        munmap(view, bytes);
err_unlock:
    shim_pager_unlock(pager);
err_close:
    close(memfd);
    return error;
}

/* Nothing of the range is in flight any more: takes its chunks out of the queue and of the wishes. */
static void forget_chunks(struct shim_pager *pager, uint32_t first, uint32_t end)
{
    uint32_t chunk = pager->queue_first;
    pager->queue_first = pager->queue_last = SHIM_NO_CHUNK;
    while (chunk != SHIM_NO_CHUNK) {
        uint32_t next = pager->chunks[chunk].next;
        if (chunk < first || chunk >= end)
            shim_queue_add(pager, chunk);
        else
            shim_policy_left(pager->policy, chunk, false);
        chunk = next;
    }
    for (uint32_t i = 0; i < pager->n_wishes; i++)
        if (pager->wishes[i].next >= first && pager->wishes[i].next < end)
            pager->wishes[i].next = pager->wishes[i].end;
    for (; first < end; first++)
        pager->chunks[first] = (struct shim_chunk){0};
}

int shim_pager_unmap(struct shim_pager *pager, void *base, bool replace)
{
    if (pager->forgotten)
        return -ECHILD;
    shim_pager_lock(pager);
    struct shim_range *range = NULL;
    for (int i = 0; i < SHIM_MAX_RANGES && base; i++)
        if (atomic_load(&pager->ranges[i].base) == (uintptr_t)base && !pager->ranges[i].closing)
            range = &pager->ranges[i];
    if (!range) {
        shim_pager_unlock(pager);
        return -ENOENT;
    }
    range->closing = true;
    shim_discard_chunks(pager, range->first, range->first + range->n_chunks);
    while (range->n_busy > 0)
        pthread_cond_wait(&pager->changed, &pager->lock);
    forget_chunks(pager, range->first, range->first + range->n_chunks);
    size_t bytes = atomic_load(&range->end) - (uintptr_t)base;
    int memfd = range->memfd;
    /* From here on the address is no range's: munmap gives it to others. */
    atomic_store(&range->base, 0);
    atomic_store(&range->end, 0);
    set_bounds(pager);
    pager->info.range_bytes -= bytes;
    if (!replace ||
        mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        munmap(base, bytes);
    shim_uffd_wake(&pager->uffd, base, bytes);
    shim_pager_unlock(pager);
    close(memfd);
    return 0;
}

struct shim_range *shim_range_of(struct shim_pager *pager, uintptr_t at, size_t bytes)
{
    for (int i = 0; i < SHIM_MAX_RANGES; i++) {
        struct shim_range *range = &pager->ranges[i];
        uintptr_t base = atomic_load_explicit(&range->base, memory_order_relaxed);
        uintptr_t end = atomic_load_explicit(&range->end, memory_order_relaxed);
        if (base != 0 && !range->closing && at >= base && at <= end && bytes <= end - at)
            return range;
    }
    return NULL;
}

bool shim_pager_find(struct shim_pager *pager, const void *address, void **base, size_t *bytes)
{
    uintptr_t at = (uintptr_t)address;
    if (at < atomic_load_explicit(&pager->low, memory_order_acquire) ||
        at >= atomic_load_explicit(&pager->high, memory_order_acquire))
        return false;
    for (int i = 0; i < SHIM_MAX_RANGES; i++) {
        uintptr_t from = atomic_load_explicit(&pager->ranges[i].base, memory_order_acquire);
        uintptr_t to = atomic_load_explicit(&pager->ranges[i].end, memory_order_acquire);
        if (from != 0 && at >= from && at < to) {
            *base = (void *)from;
            *bytes = to - from;
            return true;
        }
    }
    return false;
}
