/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager's thread: it hears of touches and sees to it that they can go on. It never waits for I/O: what a touch needs is
 * started, and mapped by whoever ends the transfer. */
#include "shim/pager/state.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "swap/thread.h"

/* After a touch the next one often comes within microseconds, and falling asleep and being woken takes longer (some 100 µs
 * on a virtual machine): so the thread looks again for this long before it sleeps. */
#define LOOK_AGAIN_NS  50000u
#define ROUNDS_TO_TELL 8  /* of a sweep wider than memory, before that is said */
#define MAX_RUN        64 /* chunks mapped at one touch */

void shim_queue_add(struct shim_pager *pager, uint32_t chunk)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    c->flags |= SHIM_QUEUED;
    c->next = SHIM_NO_CHUNK;
    if (pager->queue_first == SHIM_NO_CHUNK)
        pager->queue_first = chunk;
    else
        pager->chunks[pager->queue_last].next = chunk;
    pager->queue_last = chunk;
}

/* SWAPPED or ZERO: starts to bring it in. False: no room, or no transfer is free. */
static bool bring_in(struct shim_pager *pager, uint32_t chunk)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    bool fetch = c->state == SHIM_SWAPPED;
    if (pager->suspended || (fetch && pager->n_free_reads == 0) ||
        !shim_room_take(pager, fetch ? SHIM_ROOM_FETCH : SHIM_ROOM_GROW))
        return false;
    if (c->state == SHIM_SWAPPED) {
        pager->info.n_loads++;
        return shim_load_start(pager, chunk, true);
    }
    if (!shim_chunk_populate(pager, chunk)) {
        pager->used--;
        return false;
    }
    shim_chunk_map(pager, chunk, true);
    return true;
}

/* With nothing under way that would make room by itself, waiting may be for ever: if it lasts, that is said. */
static void stay_stuck(struct shim_pager *pager)
{
    uint64_t now = swap_now_ns();
    if (pager->retry_ns == 0) /* it may sleep without an end to it */
        shim_pager_wake(pager);
    pager->retry_ns = now + SHIM_RETRY_NS;
    if (pager->n_free_writes < pager->n_writes || pager->n_free_reads < pager->n_reads)
        return;
    if (pager->stuck_ns == 0)
        pager->stuck_ns = now;
    if (now - pager->stuck_ns < 2 * SHIM_RETRY_NS)
        return;
    pager->info.waiting = true;
    if (pager->said_full)
        return;
    pager->said_full = true;
    shim_say(pager, true, "no room for a page of the cache: %llu bytes of memory are in use and %s; the engine waits",
             (unsigned long long)pager->used * pager->chunk_bytes,
             !pager->swap              ? "there is no swap file"
             : pager->info.swap_failed ? "the swap file has failed"
             : pager->swap_full        ? "the swap file is full"
                                       : "none can be written now");
}

void shim_queue_serve(struct shim_pager *pager)
{
    while (pager->queue_first != SHIM_NO_CHUNK && !pager->suspended) {
        uint32_t chunk = pager->queue_first;
        struct shim_chunk *c = &pager->chunks[chunk];
        if (c->state == SHIM_ZERO || c->state == SHIM_SWAPPED) {
            if (!bring_in(pager, chunk)) {
                stay_stuck(pager);
                return;
            }
        } else if (c->state == SHIM_RESIDENT)
            shim_chunk_map(pager, chunk, c->flags & SHIM_WANT_WRITE);
        pager->info.waiting = false;
        pager->stuck_ns = 0;
        pager->queue_first = c->next;
        c->flags &= (uint16_t)~SHIM_QUEUED;
    }
}

static bool is_wanted_ahead(void *user, uint32_t chunk)
{
    const struct shim_pager *pager = user;
    return chunk < pager->end_chunk && pager->chunks[chunk].state == SHIM_SWAPPED &&
           !(pager->chunks[chunk].flags & SHIM_QUEUED);
}

static void read_ahead(struct shim_pager *pager, uint32_t chunk, uint32_t tid)
{
    uint32_t chunks[SHIM_MAX_READS];
    if (pager->suspended || !pager->swap || pager->queue_first != SHIM_NO_CHUNK ||
        pager->n_free_reads <= pager->demand_reads)
        return;
    size_t n = shim_policy_read_ahead(pager->policy, tid, chunk, is_wanted_ahead, pager, chunks,
                                      pager->n_free_reads - pager->demand_reads);
    for (size_t i = 0; i < n && shim_room_take(pager, SHIM_ROOM_AHEAD); i++) {
        shim_policy_arrives(pager->policy, chunks[i]);
        pager->chunks[chunks[i]].flags |= SHIM_AHEAD;
        pager->info.n_loads_ahead++;
        shim_load_start(pager, chunks[i], false);
    }
}

/* A chunk in memory that isn't in the view was touched: it and ready neighbours are mapped. */
static void map_run(struct shim_pager *pager, uint32_t chunk, uint32_t tid, bool write)
{
    struct shim_range *range = shim_chunk_range(pager, chunk);
    uint32_t end = range->first + range->n_chunks, n = 1;
    const uint16_t odd = SHIM_MAPPED | SHIM_QUEUED | SHIM_READY;
    while (n < MAX_RUN && chunk + n < end && pager->chunks[chunk + n].state == SHIM_RESIDENT &&
           (pager->chunks[chunk + n].flags & (SHIM_AHEAD | odd)) == SHIM_AHEAD)
        n++;
    n = n > 1 ? shim_policy_map_run(pager->policy, tid, chunk, n) : 1;
    /* The touched one last, if it is for writing: its thread then finds the others there. */
    if (!write)
        shim_chunks_map_clean(pager, chunk, n);
    else if (n > 1)
        shim_chunks_map_clean(pager, chunk + 1, n - 1);
    for (uint32_t i = 1; i < n; i++)
        pager->chunks[chunk + i].flags &= (uint16_t)~SHIM_AHEAD;
    pager->info.n_ahead_used += n - 1;
    if (write || !(pager->chunks[chunk].flags & SHIM_MAPPED))
        shim_chunk_map(pager, chunk, write);
}

/* A touch of a page that should be in the view: another thread's touch, which was served meanwhile, or the kernel has
 * reclaimed the page by itself (to a swap device of its own). */
static void remap_page(struct shim_pager *pager, uint32_t chunk, uintptr_t address, bool write)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    bool read_only = c->state == SHIM_WRITING || (c->flags & SHIM_HAS_SLOT);
    if (write && read_only) { /* the whole chunk anew, then, for writing */
        shim_chunk_unmap(pager, chunk);
        return;
    }
    char *page = (char *)(address & ~(uintptr_t)(pager->page_bytes - 1));
    if (shim_uffd_map(&pager->uffd, page, pager->page_bytes, read_only))
        shim_uffd_wake(&pager->uffd, page, pager->page_bytes);
}

static void want(struct shim_pager *pager, uint32_t chunk, bool write)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    if (!(c->flags & SHIM_WANTED))
        c->since_us = (uint32_t)(swap_now_ns() / 1000);
    c->flags |= SHIM_WANTED | (write ? SHIM_WANT_WRITE : 0);
}

static void touched_away(struct shim_pager *pager, uint32_t chunk, uint32_t tid, bool write)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    want(pager, chunk, write);
    if (c->flags & SHIM_QUEUED)
        return;
    shim_policy_touch(pager->policy, chunk, tid, true, c->state == SHIM_ZERO);
    if (pager->queue_first == SHIM_NO_CHUNK && bring_in(pager, chunk))
        return;
    shim_queue_add(pager, chunk);
    shim_queue_serve(pager);
}

static void touched_writing(struct shim_pager *pager, uint32_t chunk, bool write)
{
    if (write || !pager->uffd.protect) {
        want(pager, chunk, write);
        return;
    }
    shim_chunk_map(pager, chunk, false); /* to be read; when the write ends it stays, clean */
    pager->chunks[chunk].flags &= (uint16_t)~SHIM_LEAVING;
}

static void touched(struct shim_pager *pager, uint32_t chunk, uintptr_t address, uint32_t tid, uint64_t flags)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    bool write = flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP);
    if ((c->flags & SHIM_MAPPED) && !(flags & UFFD_PAGEFAULT_FLAG_WP)) {
        remap_page(pager, chunk, address, write);
        if (c->flags & SHIM_MAPPED)
            return;
    }
    bool was_ahead = c->flags & SHIM_AHEAD;
    c->flags &= (uint16_t) ~(SHIM_AHEAD | SHIM_RETURNS);
    pager->info.n_ahead_used += was_ahead;
    if (c->state == SHIM_LOST) {
        shim_chunk_signal_lost(pager, chunk, tid);
        return;
    }
    if (c->flags & SHIM_DISCARDED) {
        want(pager, chunk, write);
        return;
    }
    if (c->state == SHIM_ZERO || c->state == SHIM_SWAPPED)
        touched_away(pager, chunk, tid, write);
    else {
        shim_chunk_unready(pager, chunk);
        shim_policy_touch(pager->policy, chunk, tid, c->state == SHIM_LOADING, false);
        if (c->state == SHIM_LOADING)
            want(pager, chunk, write);
        else if (c->state == SHIM_WRITING)
            touched_writing(pager, chunk, write);
        else
            map_run(pager, chunk, tid, write);
    }
    if (write)
        shim_policy_written(pager->policy, chunk);
    read_ahead(pager, chunk, tid);
}

static void handle(struct shim_pager *pager, const struct uffd_msg *message)
{
    if (message->event != UFFD_EVENT_PAGEFAULT)
        return;
    uintptr_t address = (uintptr_t)message->arg.pagefault.address;
    pager->info.n_faults++;
    struct shim_range *range = shim_range_of(pager, address, 1);
    if (!range)
        return;
    uintptr_t base = atomic_load_explicit(&range->base, memory_order_relaxed);
    touched(pager, range->first + (uint32_t)((address - base) / pager->chunk_bytes), address,
            message->arg.pagefault.feat.ptid, message->arg.pagefault.flags);
}

/* A budget below what the engine goes round is right, but slow: how much would do. That is known after some rounds. */
static void say_wide(struct shim_pager *pager)
{
    uint32_t wide = pager->said_wide || pager->capacity == UINT32_MAX ? 0 : shim_policy_wide(pager->policy);
    uint64_t loads = pager->info.n_loads + pager->info.n_loads_ahead;
    if (wide == 0)
        pager->wide_since = loads;
    if (wide == 0 || (loads - pager->wide_since) / ROUNDS_TO_TELL < wide - pager->capacity)
        return;
    pager->said_wide = true;
    unsigned long long mib = 1024 * 1024, needed = (unsigned long long)wide * pager->chunk_bytes;
    shim_say(
        pager, true,
        "the engine goes round more of its cache than its %llu MiB of memory hold, and reads %llu MiB back each time; "
        "about %llu MiB would do",
        (unsigned long long)pager->info.memory_bytes / mib, (needed - pager->info.memory_bytes + mib - 1) / mib,
        (needed + mib - 1) / mib);
}

/* True if there was something to hear. */
static bool hear(struct shim_pager *pager)
{
    struct uffd_msg messages[16];
    ssize_t bytes = read(pager->uffd.fd, messages, sizeof(messages));
    if (bytes <= 0)
        return false;
    shim_pager_lock(pager);
    for (size_t i = 0; i < (size_t)bytes / sizeof(messages[0]); i++)
        handle(pager, &messages[i]);
    shim_probe(pager);
    shim_room_balance(pager);
    say_wide(pager);
    shim_pager_unlock(pager);
    return true;
}

void *shim_fault_thread(void *argument)
{
    struct shim_pager *pager = argument;
    uint64_t look_until = 0;
    for (;;) {
        if (hear(pager)) {
            look_until = swap_now_ns() + LOOK_AGAIN_NS;
            continue;
        }
        if (look_until != 0 && swap_now_ns() < look_until)
            continue;
        look_until = 0;
        shim_pager_lock(pager);
        bool stop = pager->stopping;
        int timeout = -1;
        if (pager->retry_ns != 0 && swap_now_ns() >= pager->retry_ns) {
            pager->retry_ns = 0;
            shim_queue_serve(pager);
            shim_room_balance(pager);
        }
        if (pager->retry_ns != 0)
            timeout = (int)(SHIM_RETRY_NS / 1000000u);
        shim_pager_unlock(pager);
        if (stop)
            return NULL;
        struct pollfd fds[2] = {{.fd = pager->uffd.fd, .events = POLLIN}, {.fd = pager->wake_fd, .events = POLLIN}};
        poll(fds, 2, timeout);
        uint64_t n;
        if ((fds[1].revents & POLLIN) && read(pager->wake_fd, &n, sizeof(n)) < 0)
            continue; /* someone else's read was first */
    }
}
