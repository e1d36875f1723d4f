/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pager/state.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "swap/thread.h"

off_t shim_chunk_offset(struct shim_pager *pager, uint32_t chunk)
{
    return (off_t)(chunk - shim_chunk_range(pager, chunk)->first) * (off_t)pager->chunk_bytes;
}

char *shim_chunk_view(struct shim_pager *pager, uint32_t chunk)
{
    return (char *)atomic_load_explicit(&shim_chunk_range(pager, chunk)->base, memory_order_relaxed) +
           shim_chunk_offset(pager, chunk);
}

size_t shim_chunk_view_bytes(struct shim_pager *pager, uint32_t chunk)
{
    struct shim_range *range = shim_chunk_range(pager, chunk);
    size_t left = atomic_load_explicit(&range->end, memory_order_relaxed) - (uintptr_t)shim_chunk_view(pager, chunk);
    return left < pager->chunk_bytes ? left : pager->chunk_bytes;
}

void shim_chunk_set(struct shim_pager *pager, uint32_t chunk, enum shim_chunk_state state)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    struct shim_range *range = shim_chunk_range(pager, chunk);
    range->n_live += (state != SHIM_ZERO) - (c->state != SHIM_ZERO);
    bool was_busy = c->state == SHIM_LOADING || c->state == SHIM_WRITING;
    bool is_busy = state == SHIM_LOADING || state == SHIM_WRITING;
    range->n_busy += is_busy - was_busy;
    pager->info.swapped_bytes += (state == SHIM_SWAPPED) * pager->chunk_bytes;
    pager->info.swapped_bytes -= (c->state == SHIM_SWAPPED) * pager->chunk_bytes;
    pager->info.lost_bytes += (state == SHIM_LOST) * pager->chunk_bytes;
    pager->info.lost_bytes -= (c->state == SHIM_LOST) * pager->chunk_bytes;
    c->state = state;
    if (was_busy && !is_busy)
        pthread_cond_broadcast(&pager->changed);
}

static void stop_waiting(struct shim_pager *pager, uint32_t chunk)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    if (c->flags & SHIM_WANTED)
        pager->info.fault_wait_ns += (uint64_t)((uint32_t)(swap_now_ns() / 1000) - c->since_us) * 1000;
    c->flags &= (uint16_t) ~(SHIM_WANTED | SHIM_WANT_WRITE);
}

void shim_chunk_map(struct shim_pager *pager, uint32_t chunk, bool write)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    char *view = shim_chunk_view(pager, chunk);
    size_t bytes = shim_chunk_view_bytes(pager, chunk);
    bool read_only = c->state == SHIM_WRITING || ((c->flags & SHIM_HAS_SLOT) && !write && pager->uffd.protect);
    if (!read_only && (c->flags & SHIM_HAS_SLOT))
        shim_chunk_free_slot(pager, chunk);
    int error;
    if ((c->flags & SHIM_MAPPED) && !read_only && pager->uffd.protect)
        error = shim_uffd_protect(&pager->uffd, view, bytes, false);
    else
        error = shim_uffd_map(&pager->uffd, view, bytes, read_only);
    if (error) /* the address space is going away, or the kernel has no memory for a page table: the touch comes again */
        shim_uffd_wake(&pager->uffd, view, bytes);
    else
        c->flags |= SHIM_MAPPED;
    stop_waiting(pager, chunk);
}

void shim_chunks_map_clean(struct shim_pager *pager, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!pager->uffd.protect || !(pager->chunks[first + i].flags & SHIM_HAS_SLOT))
            return; /* one by one, when they are touched */
    size_t bytes = (n - 1) * pager->chunk_bytes + shim_chunk_view_bytes(pager, first + n - 1);
    if (shim_uffd_map(&pager->uffd, shim_chunk_view(pager, first), bytes, true))
        return;
    for (uint32_t i = 0; i < n; i++) {
        pager->chunks[first + i].flags |= SHIM_MAPPED;
        stop_waiting(pager, first + i);
    }
}

bool shim_chunk_unmap(struct shim_pager *pager, uint32_t chunk)
{
    if ((pager->chunks[chunk].flags & SHIM_MAPPED) &&
        shim_uffd_zap(shim_chunk_view(pager, chunk), shim_chunk_view_bytes(pager, chunk)))
        return false;
    pager->chunks[chunk].flags &= (uint16_t)~SHIM_MAPPED;
    return true;
}

void shim_chunk_free_slot(struct shim_pager *pager, uint32_t chunk)
{
    if (!(pager->chunks[chunk].flags & SHIM_HAS_SLOT))
        return;
    if (pager->n_reserve < SHIM_RESERVE)
        pager->reserve[pager->n_reserve++] = pager->chunks[chunk].slot;
    else {
        swap_slot_free(pager->swap, pager->chunks[chunk].slot);
        pager->swap_full = false;
    }
    pager->chunks[chunk].flags &= (uint16_t)~SHIM_HAS_SLOT;
}

bool shim_chunk_populate(struct shim_pager *pager, uint32_t chunk)
{
    int memfd = shim_chunk_range(pager, chunk)->memfd;
    while (fallocate(memfd, 0, shim_chunk_offset(pager, chunk), (off_t)pager->chunk_bytes))
        if (errno != EINTR)
            return false;
    shim_chunk_set(pager, chunk, SHIM_RESIDENT);
    return true;
}

static void clear_pages(struct shim_pager *pager, uint32_t first, uint32_t n)
{
    static const char zeros[4096];
    int memfd = shim_chunk_range(pager, first)->memfd;
    off_t at = shim_chunk_offset(pager, first), end = at + (off_t)n * (off_t)pager->chunk_bytes;
    while (at < end) {
        ssize_t written = pwrite(memfd, zeros, sizeof(zeros) - (size_t)at % sizeof(zeros), at);
        if (written > 0)
            at += written;
        else if (written == 0 || errno != EINTR)
            return;
    }
}

void shim_chunks_release(struct shim_pager *pager, uint32_t first, uint32_t n)
{
    struct shim_range *range = shim_chunk_range(pager, first);
    /* Also takes the pages out of the view. Fails only where the kernel finds no memory to split a huge page: the bytes would be
     * found again, so they are cleared. */
    if (fallocate(range->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, shim_chunk_offset(pager, first),
                  (off_t)n * (off_t)pager->chunk_bytes)) {
        shim_uffd_zap(shim_chunk_view(pager, first),
                      (n - 1) * pager->chunk_bytes + shim_chunk_view_bytes(pager, first + n - 1));
        clear_pages(pager, first, n);
    }
    pager->used -= n;
    for (uint32_t chunk = first; chunk < first + n; chunk++) {
        shim_chunk_unready(pager, chunk);
        pager->chunks[chunk].flags &= (uint16_t) ~(SHIM_MAPPED | SHIM_AHEAD);
        shim_chunk_set(pager, chunk, (pager->chunks[chunk].flags & SHIM_HAS_SLOT) ? SHIM_SWAPPED : SHIM_ZERO);
    }
}

bool shim_chunk_is_zero(struct shim_pager *pager, uint32_t chunk)
{
    int memfd = shim_chunk_range(pager, chunk)->memfd;
    off_t at = shim_chunk_offset(pager, chunk);
    uint64_t words[512]; /* a page at a time, each compared with itself, shifted */
    /* Most chunks show that they aren't in their first words. */
    if (pread(memfd, words, sizeof(words[0]), at) != (ssize_t)sizeof(words[0]) || words[0] != 0)
        return false;
    for (size_t done = 0; done < pager->chunk_bytes; done += sizeof(words))
        if (pread(memfd, words, sizeof(words), at + (off_t)done) != (ssize_t)sizeof(words) || words[0] != 0 ||
            memcmp(words, words + 1, sizeof(words) - sizeof(words[0])) != 0)
            return false;
    return true;
}

void shim_chunk_unready(struct shim_pager *pager, uint32_t chunk)
{
    if (!(pager->chunks[chunk].flags & SHIM_READY))
        return;
    pager->chunks[chunk].flags &= (uint16_t)~SHIM_READY;
    pager->n_ready--;
}

void shim_chunk_lose(struct shim_pager *pager, uint32_t chunk)
{
    struct shim_chunk *c = &pager->chunks[chunk];
    bool wanted = c->flags & SHIM_WANTED;
    char *view = shim_chunk_view(pager, chunk);
    size_t bytes = shim_chunk_view_bytes(pager, chunk);
    shim_chunk_free_slot(pager, chunk);
    shim_chunks_release(pager, chunk, 1);
    shim_chunk_set(pager, chunk, SHIM_LOST);
    shim_policy_left(pager->policy, chunk, false);
    if (pager->uffd.poison && shim_uffd_poison(&pager->uffd, view, bytes))
        pager->uffd.poison = false; /* then by a signal */
    if (wanted)                     /* it touches it again, and that touch's thread is known */
        shim_uffd_wake(&pager->uffd, view, bytes);
    stop_waiting(pager, chunk);
}

void shim_chunk_signal_lost(struct shim_pager *pager, uint32_t chunk, uint32_t tid)
{
    char *view = shim_chunk_view(pager, chunk);
    if (pager->uffd.poison) {
        shim_uffd_wake(&pager->uffd, view, shim_chunk_view_bytes(pager, chunk));
        return;
    }
    tgkill(getpid(), (pid_t)tid, SIGBUS);
}
