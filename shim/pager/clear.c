/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pager/state.h"

#include <errno.h>
#include <string.h>

#define BATCH 256 /* chunks that are cleared before others get the lock */

/* What doesn't need memory unmapped: true if that was all. */
static bool discard_simple(struct shim_pager *pager, uint32_t chunk)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    switch ((enum shim_chunk_state)c->state) {
    case SHIM_ZERO:
        return true;
    case SHIM_SWAPPED:
        shim_chunk_free_slot(pager, chunk);
        break;
    case SHIM_LOST: /* the marks that make a touch SIGBUS go with the page tables' entries */
        shim_uffd_zap(shim_chunk_view(pager, chunk), shim_chunk_view_bytes(pager, chunk));
        break;
    case SHIM_LOADING:
    case SHIM_WRITING:
        shim_chunk_unmap(pager, chunk);
        c->flags |= SHIM_DISCARDED;
        return true;
    case SHIM_RESIDENT:
        return false;
    }
    c->flags &= (uint16_t)~SHIM_RETURNS;
    shim_chunk_set(pager, chunk, SHIM_ZERO);
    shim_policy_left(pager->policy, chunk, false);
    return true;
}

/* The RESIDENT chunks from `first` on, at least one, that can be given up at once. */
static uint32_t resident_run(struct shim_pager *pager, uint32_t first, uint32_t end)
{
    uint32_t n = 0;
    while (first + n < end && n < BATCH && pager->chunks[first + n].state == SHIM_RESIDENT)
        n++;
    return n;
}

void shim_discard_chunks(struct shim_pager *pager, uint32_t first, uint32_t end)
{
    uint32_t since = 0;
    while (first < end && shim_chunk_range(pager, first)->n_live > 0) {
        uint32_t n = 1;
        if (!discard_simple(pager, first)) {
            n = resident_run(pager, first, end);
            for (uint32_t i = 0; i < n; i++) {
                shim_chunk_free_slot(pager, first + i);
                pager->chunks[first + i].flags &= (uint16_t)~SHIM_RETURNS;
            }
            shim_chunks_release(pager, first, n);
            for (uint32_t i = 0; i < n; i++)
                shim_policy_left(pager->policy, first + i, false);
        }
        first += n;
        since += n;
        if (since >= BATCH && first < end) {
            since = 0;
            shim_queue_serve(pager);
            shim_pager_unlock(pager);
            shim_pager_lock(pager);
        }
    }
    shim_queue_serve(pager);
}

/* The part of a chunk that a discard doesn't fill, through the view: it may have to be fetched for that. */
static void clear_edge(struct shim_pager *pager, struct shim_range *range, char *at, size_t bytes)
{
    uint32_t chunk = range->first + (uint32_t)((size_t)(at - (char *)atomic_load(&range->base)) / pager->chunk_bytes);
    bool is_zero = pager->chunks[chunk].state == SHIM_ZERO;
    shim_pager_unlock(pager);
    if (!is_zero)
        memset(at, 0, bytes);
    shim_pager_lock(pager);
}

int shim_pager_discard(struct shim_pager *pager, void *address, size_t bytes)
{
    if (pager->forgotten)
        return -ECHILD;
    shim_pager_lock(pager);
    struct shim_range *range = shim_range_of(pager, (uintptr_t)address, bytes);
    if (!range) {
        shim_pager_unlock(pager);
        return -EINVAL;
    }
    char *base = (char *)atomic_load(&range->base);
    size_t from = (size_t)((char *)address - base), to = from + bytes, chunk_bytes = pager->chunk_bytes;
    size_t first = (from + chunk_bytes - 1) / chunk_bytes, end = to / chunk_bytes;
    if ((uintptr_t)base + to == atomic_load(&range->end))
        end = range->n_chunks; /* the last one has no more bytes than these */
    if (first >= end) {
        size_t middle = first * chunk_bytes < to ? first * chunk_bytes : to;
        if (from < middle)
            clear_edge(pager, range, base + from, middle - from);
        if (middle < to)
            clear_edge(pager, range, base + middle, to - middle);
    } else {
        if (from < first * chunk_bytes)
            clear_edge(pager, range, base + from, first * chunk_bytes - from);
        if (end < range->n_chunks && end * chunk_bytes < to)
            clear_edge(pager, range, base + end * chunk_bytes, to - end * chunk_bytes);
        shim_discard_chunks(pager, range->first + (uint32_t)first, range->first + (uint32_t)end);
    }
    shim_pager_unlock(pager);
    return 0;
}

int shim_pager_advise(struct shim_pager *pager, const void *address, size_t bytes, enum shim_advice advice)
{
    if (pager->forgotten)
        return -ECHILD;
    shim_pager_lock(pager);
    struct shim_range *range = shim_range_of(pager, (uintptr_t)address, bytes);
    int error = range ? 0 : -EINVAL;
    if (range && bytes > 0) {
        size_t from = (size_t)((uintptr_t)address - atomic_load(&range->base));
        uint32_t first = range->first + (uint32_t)(from / pager->chunk_bytes);
        uint32_t end = range->first + (uint32_t)((from + bytes - 1) / pager->chunk_bytes) + 1;
        if (advice == SHIM_WILL_NEED) {
            if (end - first > pager->capacity)
                end = first + pager->capacity;
            shim_wish_add(pager, first, end, false);
            shim_room_balance(pager);
        } else
            for (uint32_t chunk = first; chunk < end; chunk++)
                if (pager->chunks[chunk].state == SHIM_RESIDENT)
                    shim_policy_cold(pager->policy, chunk);
    }
    shim_pager_unlock(pager);
    return error;
}
