/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pager/state.h"

#include <errno.h>

#define CLEAN_RUN 8 /* clean neighbours that leave together */

/* When memory and swap file are both full, a chunk that is touched in the swap file must change places with one in memory,
 * and for that one place more is needed. So SHIM_RESERVE slots stand apart: they are used for exchanges only, and while they
 * are not all there, nothing grows. What an exchange takes comes back: the chunk that it fetched keeps its slot until it is
 * written to, and is clean, able to leave without a slot, until then. Thus what is in the file can always be fetched. */
bool shim_reserve_fill(struct shim_pager *pager)
{
    while (pager->swap && pager->n_reserve < SHIM_RESERVE) {
        uint32_t slot;
        int error = swap_slot_alloc(pager->swap, &slot);
        if (error)
            return false;
        pager->reserve[pager->n_reserve++] = slot;
    }
    return true;
}

/* Clean chunks that stand ready to leave while memory is full: their room is had without waiting for a write. Few, because
 * they are taken out of the policy's hands. */
static uint32_t ready_target(const struct shim_pager *pager)
{
    uint32_t target = pager->capacity / 64;
    return target < 2 ? 2 : target > 32 ? 32 : target;
}

void shim_ready_add(struct shim_pager *pager, uint32_t chunk)
{
    if (pager->ready_length == SHIM_READY_RING) {
        shim_policy_keep(pager->policy, chunk);
        return;
    }
    pager->ready[(pager->ready_head + pager->ready_length++) % SHIM_READY_RING] = chunk;
    pager->chunks[chunk].flags |= SHIM_READY;
    pager->n_ready++;
}

/* SHIM_NO_CHUNK: none. */
static uint32_t ready_pop(struct shim_pager *pager)
{
    while (pager->ready_length > 0) {
        uint32_t chunk = pager->ready[pager->ready_head];
        pager->ready_head = (pager->ready_head + 1) % SHIM_READY_RING;
        pager->ready_length--;
        if (pager->chunks[chunk].flags & SHIM_READY)
            return chunk;
    }
    return SHIM_NO_CHUNK;
}

static void drop_clean(struct shim_pager *pager, uint32_t first, uint32_t n)
{
    shim_chunks_release(pager, first, n);
    for (uint32_t chunk = first; chunk < first + n; chunk++)
        shim_policy_left(pager->policy, chunk, true);
    pager->info.n_dropped_clean += n;
}

/* The neighbours after `first`, a named clean chunk, that the policy names next and that are clean too: a sweep leaves in the
 * order in which it came, and giving up memory costs much the same for one chunk and for several. */
static uint32_t clean_run(struct shim_pager *pager, uint32_t first)
{
    uint32_t n = 1, most = pager->capacity / 64 < CLEAN_RUN ? pager->capacity / 64 : CLEAN_RUN;
    while (n < most) {
        uint32_t chunk = shim_policy_victim(pager->policy);
        if (chunk == SHIM_NO_CHUNK)
            break;
        struct shim_chunk *c = &pager->chunks[chunk];
        if (c->state != SHIM_RESIDENT || !(c->flags & SHIM_HAS_SLOT)) {
            shim_policy_keep(pager->policy, chunk);
            break;
        }
        if (chunk != first + n || c->range != pager->chunks[first].range) {
            shim_ready_add(pager, chunk);
            break;
        }
        n++;
    }
    return n;
}

/* RESIDENT, without a slot, and not writable now. True if it was all zeros and is gone. */
static bool drop_zero(struct shim_pager *pager, uint32_t chunk)
{
    if (!shim_chunk_is_zero(pager, chunk))
        return false;
    shim_chunks_release(pager, chunk, 1);
    shim_policy_left(pager->policy, chunk, true);
    pager->info.n_dropped_zero++;
    return true;
}

/* A chunk in memory leaves: 0: it has left; -EINPROGRESS: when its write ends; else it stays, for the reason that
 * shim_write_start() gives. */
static int let_go(struct shim_pager *pager, uint32_t chunk, bool exchange)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    if (c->flags & SHIM_HAS_SLOT) {
        drop_clean(pager, chunk, 1);
        return 0;
    }
    if (!shim_chunk_unmap(pager, chunk))
        return -EBUSY;
    if (drop_zero(pager, chunk))
        return 0;
    int error = shim_write_start(pager, chunk, true, exchange);
    return error ? error : -EINPROGRESS;
}

static bool take(struct shim_pager *pager)
{
    pager->used++;
    uint64_t bytes = (uint64_t)pager->used * pager->chunk_bytes;
    if (bytes > pager->info.peak_bytes)
        pager->info.peak_bytes = bytes;
    return true;
}

bool shim_room_take(struct shim_pager *pager, enum shim_room purpose)
{
    if (purpose == SHIM_ROOM_GROW && pager->n_reserve < SHIM_RESERVE && !shim_reserve_fill(pager))
        return false;
    if (pager->used < pager->capacity)
        return take(pager);
    uint32_t chunk = ready_pop(pager);
    if (chunk != SHIM_NO_CHUNK) {
        drop_clean(pager, chunk, 1);
        return take(pager);
    }
    /* Where nothing can be written, somewhere there may still be clean ones, or zeros. */
    uint32_t most = pager->swap_full || !pager->swap ? 4096 : SHIM_MAX_WRITES;
    for (uint32_t tries = 0; tries < most; tries++) {
        chunk = shim_policy_victim(pager->policy);
        if (chunk == SHIM_NO_CHUNK)
            return false;
        struct shim_chunk *c = &pager->chunks[chunk];
        if (c->state == SHIM_RESIDENT && (c->flags & SHIM_HAS_SLOT)) {
            drop_clean(pager, chunk, clean_run(pager, chunk));
            return take(pager);
        }
        int error = c->state == SHIM_RESIDENT ? let_go(pager, chunk, purpose == SHIM_ROOM_FETCH) : -EBUSY;
        if (error == 0)
            return take(pager);
        if (error != -EINPROGRESS)
            shim_policy_keep(pager->policy, chunk);
        if (error == -EAGAIN || purpose == SHIM_ROOM_AHEAD)
            return false;
    }
    return false;
}

/* RESIDENT, without a slot: the engine can't write to it from now on. False: it still can. */
static bool make_stable(struct shim_pager *pager, uint32_t chunk)
{
    if (!(pager->chunks[chunk].flags & SHIM_MAPPED))
        return true;
    if (pager->uffd.protect &&
        shim_uffd_protect(&pager->uffd, shim_chunk_view(pager, chunk), shim_chunk_view_bytes(pager, chunk), true) == 0)
        return true;
    return shim_chunk_unmap(pager, chunk);
}

/* The policy's next victims are written while memory is nearly full, so that their room can be had at once. */
static void clean_ahead(struct shim_pager *pager)
{
    uint32_t target = ready_target(pager);
    if (pager->capacity == UINT32_MAX || pager->used + target < pager->capacity)
        return;
    for (uint32_t tries = 0; tries < target && pager->n_ready < target && pager->n_free_writes > 0; tries++) {
        uint32_t chunk = shim_policy_victim(pager->policy);
        if (chunk == SHIM_NO_CHUNK)
            return;
        struct shim_chunk *c = &pager->chunks[chunk];
        if (c->state != SHIM_RESIDENT) {
            shim_policy_keep(pager->policy, chunk);
            continue;
        }
        if (c->flags & SHIM_HAS_SLOT) {
            shim_ready_add(pager, chunk);
            continue;
        }
        if (!make_stable(pager, chunk)) {
            shim_policy_keep(pager->policy, chunk);
            continue;
        }
        if (drop_zero(pager, chunk))
            continue;
        if (shim_write_start(pager, chunk, false, false)) {
            /* It may be mapped read-only now, though it has no slot: out of the view, or it is to be thought of as written. */
            if (!shim_chunk_unmap(pager, chunk))
                shim_uffd_protect(&pager->uffd, shim_chunk_view(pager, chunk), shim_chunk_view_bytes(pager, chunk),
                                  false);
            shim_policy_keep(pager->policy, chunk);
            return;
        }
    }
}

void shim_wish_add(struct shim_pager *pager, uint32_t first, uint32_t end, bool returns_only)
{
    if (pager->n_wishes == SHIM_MAX_WISHES || first >= end) /* advice: the oldest wishes are the ones that are kept */
        return;
    pager->wishes[pager->n_wishes++] = (struct shim_wish){.next = first, .end = end, .returns_only = returns_only};
}

/* The next chunk of the first wish, or SHIM_NO_CHUNK when no wish is left. */
static uint32_t next_wish(struct shim_pager *pager)
{
    while (pager->n_wishes > 0) {
        struct shim_wish *wish = &pager->wishes[0];
        for (; wish->next < wish->end; wish->next++) {
            struct shim_chunk *c = &pager->chunks[wish->next];
            if (c->state == SHIM_SWAPPED && !(c->flags & SHIM_QUEUED) &&
                (!wish->returns_only || (c->flags & SHIM_RETURNS)))
                return wish->next;
        }
        pager->n_wishes--;
        for (uint32_t i = 0; i < pager->n_wishes; i++)
            pager->wishes[i] = pager->wishes[i + 1];
    }
    return SHIM_NO_CHUNK;
}

static void grant_wishes(struct shim_pager *pager)
{
    while (pager->queue_first == SHIM_NO_CHUNK && pager->n_free_reads > pager->demand_reads) {
        uint32_t chunk = next_wish(pager);
        if (chunk == SHIM_NO_CHUNK)
            return;
        if (pager->wishes[0].returns_only && pager->used + ready_target(pager) >= pager->capacity) {
            pager->wishes[0].next = pager->wishes[0].end; /* memory is as full as it was */
            continue;
        }
        if (!shim_room_take(pager, SHIM_ROOM_AHEAD))
            return;
        shim_policy_arrives(pager->policy, chunk);
        pager->chunks[chunk].flags |= SHIM_AHEAD;
        pager->chunks[chunk].flags &= (uint16_t)~SHIM_RETURNS;
        pager->wishes[0].next++;
        pager->info.n_loads_ahead++;
        shim_load_start(pager, chunk, false);
    }
}

/* Empties memory, as far as transfers are free; goes on when one ends. */
static void go_on_suspending(struct shim_pager *pager)
{
    for (; pager->suspend_next < pager->end_chunk; pager->suspend_next++) {
        uint32_t chunk = pager->suspend_next;
        struct shim_chunk *c = &pager->chunks[chunk];
        if (c->state != SHIM_RESIDENT)
            continue;
        shim_chunk_unready(pager, chunk);
        c->flags |= SHIM_RETURNS;
        int error = let_go(pager, chunk, false);
        if (error == -EAGAIN)
            return;
        if (error && error != -EINPROGRESS) {
            pager->suspend_error = error;
            pthread_cond_broadcast(&pager->changed);
            return;
        }
    }
    if (pager->used > 0)
        pager->suspend_next = 0; /* what was under way when the sweep passed */
    else
        pthread_cond_broadcast(&pager->changed);
}

void shim_room_balance(struct shim_pager *pager)
{
    if (pager->suspended) {
        if (!pager->suspend_error)
            go_on_suspending(pager);
        return;
    }
    clean_ahead(pager);
    grant_wishes(pager);
}

void shim_probe(struct shim_pager *pager)
{
    for (int i = 0; i < 32; i++) {
        uint32_t chunk = shim_policy_probe(pager->policy);
        if (chunk == SHIM_NO_CHUNK)
            return;
        if (pager->chunks[chunk].state != SHIM_RESIDENT || !(pager->chunks[chunk].flags & SHIM_MAPPED) ||
            !shim_chunk_unmap(pager, chunk))
            shim_policy_keep(pager->policy, chunk);
    }
}
