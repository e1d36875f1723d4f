/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/store.h"

#include <errno.h>
#include <stddef.h>

#include "swap/checksum.h"
#include "swap/thread.h"

void swap_store_init(struct swap_store *store, const struct swap_store_ops *ops, size_t block_bytes, uint64_t seed,
                     struct swap_crew *crew)
{
    store->ops = ops;
    store->block_bytes = block_bytes;
    store->checksum_seed = seed;
    store->crew = crew;
    pthread_mutex_init(&store->lock, NULL);
    swap_slots_init(&store->slots);
}

void swap_store_destroy(struct swap_store *store)
{
    swap_slots_close(&store->slots);
    pthread_mutex_destroy(&store->lock);
}

void swap_close(struct swap_store **store)
{
    if (*store == NULL)
        return;
    (*store)->ops->close(*store);
    *store = NULL;
}

void swap_forget_in_child(struct swap_store *store)
{
    if (store->ops->forget != NULL)
        store->ops->forget(store);
}

int swap_slot_alloc(struct swap_store *store, uint32_t *slot)
{
    for (;;) {
        pthread_mutex_lock(&store->lock);
        bool full = store->full_until_ns != 0 && swap_now_ns() < store->full_until_ns;
        int result = store->failed ? -ENODEV : full ? -ENOSPC : swap_slots_take(&store->slots, slot);
        pthread_mutex_unlock(&store->lock);
        if (result != -ENOSPC || full || store->ops->grow == NULL)
            return result;
        /* Others may take what was grown before we come back, so this can go round. */
        result = store->ops->grow(store);
        if (result < 0)
            return result;
    }
}

void swap_slot_free(struct swap_store *store, uint32_t slot)
{
    pthread_mutex_lock(&store->lock);
    swap_slots_give(&store->slots, slot);
    pthread_mutex_unlock(&store->lock);
}

void *swap_slot_address(struct swap_store *store, uint32_t slot)
{
    return store->ops->address == NULL ? NULL : store->ops->address(store, slot);
}

struct iovec swap_memory(struct swap_store *store)
{
    return store->ops->memory == NULL ? (struct iovec){0} : store->ops->memory(store);
}

void swap_get_info(struct swap_store *store, struct swap_store_info *info)
{
    struct swap_store_info found = {0};
    pthread_mutex_lock(&store->lock);
    found.n_used = store->slots.n_taken;
    found.n_retired = store->slots.n_retired;
    found.failed = store->failed;
    found.n_retries = store->n_retries;
    store->ops->info(store, &found);
    pthread_mutex_unlock(&store->lock);
    *info = found;
}

uint64_t swap_io_seed(const struct swap_io *io)
{
    return swap_checksum_seed(io->store->checksum_seed, io->stamp.key, io->stamp.generation);
}

void swap_io_end(struct swap_io *io, int result)
{
    io->result = result;
    io->done(io);
}

static struct swap_io *io_of_job(struct swap_job *job)
{
    return (struct swap_io *)((char *)job - offsetof(struct swap_io, job));
}

static void run_refusal(struct swap_job *job)
{
    struct swap_io *io = io_of_job(job);
    io->done(io);
}

/* Ends an io that can't begin. Through the crew, for callers may hold locks that their done() takes. */
static void refuse(struct swap_io *io, int result)
{
    io->result = result;
    io->job.run = run_refusal;
    swap_crew_give(io->store->crew, &io->job, io->urgent);
}

/* Readies an io. Returns 0, or why it can't begin. Under lock. */
static int begin(struct swap_store *store, struct swap_io *io, bool write)
{
    io->store = store;
    io->tries = 0;
    io->stage = 0;
    if (store->failed && write)
        return -ENODEV;
    if (!swap_slots_owned(&store->slots, io->slot) || (uintptr_t)io->buf % SWAP_ALIGN != 0)
        return store->failed ? -ENODEV : -EINVAL; /* a failed store has refused the slot */
    return 0;
}

void swap_put(struct swap_store *store, struct swap_io *io)
{
    pthread_mutex_lock(&store->lock);
    int result = begin(store, io, true);
    if (result == 0)
        swap_slots_empty(&store->slots, io->slot);
    pthread_mutex_unlock(&store->lock);
    if (result < 0)
        refuse(io, result);
    else
        store->ops->put(store, io);
}

void swap_get(struct swap_store *store, struct swap_io *io)
{
    pthread_mutex_lock(&store->lock);
    int result = begin(store, io, false);
    if (result == 0 && !swap_slots_full(&store->slots, io->slot, &io->checksum))
        result = store->failed ? -ENODEV : -EBADMSG;
    pthread_mutex_unlock(&store->lock);
    if (result < 0)
        refuse(io, result);
    else
        store->ops->get(store, io);
}
