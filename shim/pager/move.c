/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pager/state.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "swap/thread.h"

static void load_done(struct swap_io *io);
static void write_done(struct swap_io *io);

size_t shim_buffer_bytes(const struct shim_pager *pager)
{
    return (pager->n_reads + pager->n_writes) * pager->chunk_bytes;
}

static uint32_t within(size_t n, uint32_t least, uint32_t most)
{
    return n < least ? least : n > most ? most : (uint32_t)n;
}

int shim_moves_init(struct shim_pager *pager)
{
    pager->n_reads = within(SHIM_READ_BYTES / pager->chunk_bytes, SHIM_MIN_READS, SHIM_MAX_READS);
    pager->n_writes = within(SHIM_WRITE_BYTES / pager->chunk_bytes, SHIM_MIN_WRITES, SHIM_MAX_WRITES);
    pager->demand_reads = pager->n_reads / 6;
    char *buffer = mmap(NULL, shim_buffer_bytes(pager), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        return -ENOMEM;
    pager->buffers = buffer;
    /* A child's copies would be made while the disk writes to the pages. */
    if (madvise(buffer, shim_buffer_bytes(pager), MADV_DONTFORK))
        return -errno;
    madvise(buffer, shim_buffer_bytes(pager), MADV_DONTDUMP);
    for (uint32_t i = 0; i < pager->n_reads; i++, buffer += pager->chunk_bytes) {
        pager->reads[i] = (struct shim_move){.pager = pager, .buffer = buffer, .next = pager->free_reads};
        pager->free_reads = &pager->reads[i];
    }
    pager->n_free_reads = pager->n_reads;
    for (uint32_t i = 0; i < pager->n_writes; i++, buffer += pager->chunk_bytes) {
        pager->writes[i] =
            (struct shim_move){.pager = pager, .write = true, .buffer = buffer, .next = pager->free_writes};
        pager->free_writes = &pager->writes[i];
    }
    pager->n_free_writes = pager->n_writes;
    return 0;
}

/* Between the buffer and the memfd, by the memfd's descriptor: a mapping of the pages would be filled, and emptied again, for this one
 * use. 0 or -errno. The chunk is LOADING or WRITING: nobody else writes to its pages or gives them up. Not under the lock. */
static int copy(struct shim_move *move, bool out)
{
    for (size_t done = 0; done < move->pager->chunk_bytes;) {
        char *at = move->buffer + done;
        size_t left = move->pager->chunk_bytes - done;
        off_t offset = move->offset + (off_t)done;
        ssize_t n = out ? pread(move->memfd, at, left, offset) : pwrite(move->memfd, at, left, offset);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            return n == 0 ? -EIO : -errno;
    }
    return 0;
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
    move->memfd = shim_chunk_range(pager, chunk)->memfd;
    move->offset = shim_chunk_offset(pager, chunk);
    move->io = (struct swap_io){.slot = c->slot,
                                .stamp = {.key = chunk, .generation = c->generation},
                                .buf = move->buffer,
                                .urgent = urgent,
                                .done = done};
}

bool shim_load_start(struct shim_pager *pager, uint32_t chunk, bool urgent)
{
    if (pager->n_free_reads <= (urgent ? 0 : pager->demand_reads))
        return false;
    struct shim_move *move = pager->free_reads;
    pager->free_reads = move->next;
    pager->n_free_reads--;
    prepare(move, chunk, urgent, load_done);
    shim_chunk_set(pager, chunk, SHIM_LOADING);
    swap_get(pager->swap, &move->io);
    return true;
}

/* The chunk has left memory. Whoever waits for it waits on, and to the policy it has been there since that touch. */
static void wait_on_or_leave(struct shim_pager *pager, uint32_t chunk, bool evicted)
{
    const struct shim_chunk *c = &pager->chunks[chunk];
    if (!(c->flags & SHIM_WANTED) || shim_chunk_range(pager, chunk)->closing)
        shim_policy_left(pager->policy, chunk, evicted);
    else if (!(c->flags & SHIM_QUEUED))
        shim_queue_add(pager, chunk);
}

/* It was discarded while it was under way. Who touched it since wants zeros. */
static void end_discarded(struct shim_pager *pager, uint32_t chunk)
{
    shim_chunk_free_slot(pager, chunk);
    shim_chunks_release(pager, chunk, 1);
    pager->chunks[chunk].flags &= (uint16_t) ~(SHIM_DISCARDED | SHIM_LEAVING | SHIM_RETURNS);
    wait_on_or_leave(pager, chunk, false);
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

/* Its bytes were read, but the kernel has no memory for its pages: it is where it was. Who waits for it waits on. */
static void put_back(struct shim_pager *pager, uint32_t chunk, int error)
{
    shim_chunks_release(pager, chunk, 1);
    wait_on_or_leave(pager, chunk, true);
    pager->retry_ns = swap_now_ns() + SHIM_RETRY_NS;
    shim_pager_wake(pager);
    if (!pager->said_no_pages)
        shim_say(pager, true, "the kernel has no memory for a page of the cache (%s); it is read again until it has",
                 strerror(-error));
    pager->said_no_pages = true;
}

static void load_done(struct swap_io *io)
{
    struct shim_move *move = (struct shim_move *)(void *)((char *)io - offsetof(struct shim_move, io));
    struct shim_pager *pager = move->pager;
    uint32_t chunk = move->chunk;
    struct shim_chunk *c = &pager->chunks[chunk];
    int result = io->result, no_pages = result ? 0 : copy(move, false);
    shim_pager_lock(pager);
    free_move(move);
    if (result && !(c->flags & SHIM_DISCARDED))
        say_lost(pager, result);
    if (c->flags & SHIM_DISCARDED)
        end_discarded(pager, chunk);
    else if (result)
        shim_chunk_lose(pager, chunk);
    else if (no_pages)
        put_back(pager, chunk, no_pages);
    else {
        shim_chunk_set(pager, chunk, SHIM_RESIDENT);
        if (c->flags & SHIM_WANTED)
            shim_chunk_map(pager, chunk, c->flags & SHIM_WANT_WRITE);
    }
    if (!no_pages) {
        shim_queue_serve(pager);
        shim_room_balance(pager);
    }
    shim_pager_unlock(pager);
}

static void copy_out(struct swap_job *job)
{
    struct shim_move *move = (struct shim_move *)(void *)((char *)job - offsetof(struct shim_move, job));
    move->io.result = copy(move, true);
    if (move->io.result)
        write_done(&move->io);
    else
        swap_put(move->pager->swap, &move->io);
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
    move->job.run = copy_out;
    swap_crew_give(pager->crew, &move->job, false);
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
        } else
            shim_chunk_set(pager, chunk, SHIM_RESIDENT);
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
