/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pager/state.h"

#include <errno.h>
#include <string.h>

#include "swap/thread.h"

static void load_done(struct swap_io *io);
static void write_done(struct swap_io *io);

void shim_moves_init(struct shim_pager *pager)
{
    for (uint32_t i = 0; i < SHIM_MAX_READS; i++) {
        pager->reads[i] = (struct shim_move){.pager = pager, .next = pager->free_reads};
        pager->free_reads = &pager->reads[i];
    }
    pager->n_free_reads = SHIM_MAX_READS;
    for (uint32_t i = 0; i < SHIM_MAX_WRITES; i++) {
        pager->writes[i] = (struct shim_move){.pager = pager, .write = true, .next = pager->free_writes};
        pager->free_writes = &pager->writes[i];
    }
    pager->n_free_writes = SHIM_MAX_WRITES;
}

static void free_move(struct shim_move *move)
{
    struct shim_pager *pager = move->pager;
    struct shim_move **list = move->write ? &pager->free_writes : &pager->free_reads;
    pager->n_free_reads += !move->write;
    pager->n_free_writes += move->write;
    move->next = *list;
    *list = move;
}

static void prepare(struct shim_move *move, uint32_t chunk, bool urgent, void (*done)(struct swap_io *io))
{
    struct shim_pager *pager = move->pager;
    struct shim_chunk *c = &pager->chunks[chunk];
    move->chunk = chunk;
    move->io = (struct swap_io){.slot = c->slot,
                                .stamp = {.key = chunk, .generation = c->generation},
                                .buf = shim_chunk_alias(pager, chunk),
                                .urgent = urgent,
                                .done = done};
}

bool shim_load_start(struct shim_pager *pager, uint32_t chunk, bool urgent)
{
    if (pager->n_free_reads <= (urgent ? 0 : SHIM_DEMAND_READS))
        return false;
    struct shim_move *move = pager->free_reads;
    pager->free_reads = move->next;
    pager->n_free_reads--;
    prepare(move, chunk, urgent, load_done);
    shim_chunk_set(pager, chunk, SHIM_LOADING);
    swap_get(pager->swap, &move->io);
    return true;
}

/* It was discarded while it was under way. Who touched it since wants zeros. */
static void end_discarded(struct shim_pager *pager, uint32_t chunk)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    shim_chunk_free_slot(pager, chunk);
    shim_chunks_release(pager, chunk, 1);
    shim_policy_left(pager->policy, chunk, false);
    c->flags &= (uint16_t) ~(SHIM_DISCARDED | SHIM_LEAVING | SHIM_RETURNS);
    if ((c->flags & SHIM_WANTED) && !(c->flags & SHIM_QUEUED) && !shim_chunk_range(pager, chunk)->closing)
        shim_queue_add(pager, chunk);
}

/* The line is out before anybody gets the signal, which may end the process. The chunk is LOADING all the while. */
static void say_lost(struct shim_pager *pager, int result)
{
    if (pager->said_lost)
        return;
    shim_say(pager, true, "a page of the cache can't be read back from the swap file (%s): a touch of it is SIGBUS",
             result == -EBADMSG ? "its bytes are not those that were written" : strerror(-result));
    shim_pager_unlock(pager);
    shim_pager_lock(pager);
    pager->said_lost = true; /* not before: who comes meanwhile would go on without the line */
}

static void load_done(struct swap_io *io)
{
    struct shim_move *move = (struct shim_move *)(void *)((char *)io - offsetof(struct shim_move, io));
    struct shim_pager *pager = move->pager;
    uint32_t chunk = move->chunk;
    struct shim_chunk *c = &pager->chunks[chunk];
    int result = io->result;
    shim_pager_lock(pager);
    free_move(move);
    if (result && !(c->flags & SHIM_DISCARDED))
        say_lost(pager, result);
    if (c->flags & SHIM_DISCARDED)
        end_discarded(pager, chunk);
    else if (result)
        shim_chunk_lose(pager, chunk);
    else {
        shim_chunk_leave_alias(pager, chunk);
        shim_chunk_set(pager, chunk, SHIM_RESIDENT);
        if (c->flags & SHIM_WANTED)
            shim_chunk_map(pager, chunk, c->flags & SHIM_WANT_WRITE);
    }
    shim_queue_serve(pager);
    shim_room_balance(pager);
    shim_pager_unlock(pager);
}

int shim_write_start(struct shim_pager *pager, uint32_t chunk, bool leaving, bool exchange)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    if (!pager->swap)
        return -ENOSPC;
    if (pager->n_free_writes == 0 || (pager->write_again_ns != 0 && swap_now_ns() < pager->write_again_ns))
        return -EAGAIN;
    pager->write_again_ns = 0;
    uint32_t slot;
    int error = swap_slot_alloc(pager->swap, &slot);
    pager->swap_full = error == -ENOSPC;
    pager->info.swap_failed = error == -ENODEV;
    if (error == -ENOSPC && exchange && pager->n_reserve > 0) {
        slot = pager->reserve[--pager->n_reserve];
        error = 0;
    }
    if (error)
        return error;
    struct shim_move *move = pager->free_writes;
    pager->free_writes = move->next;
    pager->n_free_writes--;
    c->slot = slot;
    c->generation = ++pager->generation;
    c->flags |= SHIM_HAS_SLOT | (leaving ? SHIM_LEAVING : 0);
    prepare(move, chunk, false, write_done);
    shim_chunk_set(pager, chunk, SHIM_WRITING);
    swap_put(pager->swap, &move->io);
    return 0;
}

static void write_failed(struct shim_pager *pager, uint32_t chunk, int result)
{
    struct swap_store_info store;
    swap_get_info(pager->swap, &store);
    pager->info.swap_failed = store.failed;
    swap_slot_free(pager->swap, pager->chunks[chunk].slot); /* it is retired: not for the reserve */
    pager->chunks[chunk].flags &= (uint16_t)~SHIM_HAS_SLOT;
    shim_chunk_set(pager, chunk, SHIM_RESIDENT);
    shim_policy_keep(pager->policy, chunk);
    pager->write_again_ns = pager->retry_ns = swap_now_ns() + SHIM_RETRY_NS;
    shim_chunk_leave_alias(pager, chunk);
    if (!pager->said_write_error)
        shim_say(pager, true, "a page of the cache can't be written to the swap file (%s); it stays in memory",
                 strerror(-result));
    pager->said_write_error = true;
}

static void write_done(struct swap_io *io)
{
    struct shim_move *move = (struct shim_move *)(void *)((char *)io - offsetof(struct shim_move, io));
    struct shim_pager *pager = move->pager;
    uint32_t chunk = move->chunk;
    struct shim_chunk *c = &pager->chunks[chunk];
    int result = io->result;
    shim_pager_lock(pager);
    free_move(move);
    bool leaving = c->flags & SHIM_LEAVING;
    c->flags &= (uint16_t)~SHIM_LEAVING;
    if (c->flags & SHIM_DISCARDED)
        end_discarded(pager, chunk);
    else if (result)
        write_failed(pager, chunk, result);
    else {
        pager->info.n_writes++;
        if (leaving && !(c->flags & SHIM_WANTED)) {
            shim_chunks_release(pager, chunk, 1);
            shim_policy_left(pager->policy, chunk, true);
        } else {
            shim_chunk_leave_alias(pager, chunk);
            shim_chunk_set(pager, chunk, SHIM_RESIDENT);
        }
    }
    if (c->state == SHIM_RESIDENT) {
        if (c->flags & SHIM_WANTED)
            shim_chunk_map(pager, chunk, c->flags & SHIM_WANT_WRITE);
        else if (!leaving && !result)
            shim_ready_add(pager, chunk);
    }
    shim_queue_serve(pager);
    shim_room_balance(pager);
    shim_pager_unlock(pager);
}
