/* SPDX-License-Identifier: Apache-2.0
 *
 * The host store: slots in one anonymous mapping. A freed slot keeps its pages for the next block. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "swap/checksum.h"
#include "swap/store.h"

#define HUGE_BYTES ((size_t)2 << 20)

struct host {
    struct swap_store base;
    char *mapping; /* as mmap gave it */
    size_t mapping_bytes;
    char *slots; /* in the mapping, aligned to HUGE_BYTES */
    uint32_t n_slots;
};

static struct host *host_of(struct swap_store *store)
{
    return (struct host *)store;
}

static struct swap_io *io_of_job(struct swap_job *job)
{
    return (struct swap_io *)((char *)job - offsetof(struct swap_io, job));
}

static void *host_address(struct swap_store *store, uint32_t slot)
{
    return slot < host_of(store)->n_slots ? host_of(store)->slots + (size_t)slot * store->block_bytes : NULL;
}

static struct iovec host_memory(struct swap_store *store)
{
    return (struct iovec){host_of(store)->slots, (size_t)host_of(store)->n_slots * store->block_bytes};
}

static void run_put(struct swap_job *job)
{
    struct swap_io *io = io_of_job(job);
    struct swap_store *store = io->store;
    void *slot = host_address(store, io->slot);
    uint64_t seed = swap_io_seed(io);
    uint64_t checksum = io->buf == slot ? swap_checksum(seed, slot, store->block_bytes)
                                        : swap_checksum_copy(seed, slot, io->buf, store->block_bytes);
    pthread_mutex_lock(&store->lock);
    swap_slots_fill(&store->slots, io->slot, checksum);
    pthread_mutex_unlock(&store->lock);
    swap_io_end(io, 0);
}

static bool fetch(struct swap_io *io)
{
    struct swap_store *store = io->store;
    void *slot = host_address(store, io->slot);
    uint64_t seed = swap_io_seed(io);
    uint64_t checksum = io->buf == slot ? swap_checksum(seed, slot, store->block_bytes)
                                        : swap_checksum_copy(seed, io->buf, slot, store->block_bytes);
    return checksum == io->checksum;
}

static void run_get(struct swap_job *job)
{
    struct swap_io *io = io_of_job(job);
    bool right = fetch(io);
    if (!right)
        right = fetch(io);
    swap_io_end(io, right ? 0 : -EBADMSG);
}

static void host_put(struct swap_store *store, struct swap_io *io)
{
    io->job.run = run_put;
    swap_crew_give(store->crew, &io->job, io->urgent);
}

static void host_get(struct swap_store *store, struct swap_io *io)
{
    io->job.run = run_get;
    swap_crew_give(store->crew, &io->job, io->urgent);
}

static void host_info(struct swap_store *store, struct swap_store_info *info)
{
    info->n_slots = host_of(store)->n_slots;
    info->backend = "memory";
}

static void host_close(struct swap_store *store)
{
    struct host *host = host_of(store);
    munmap(host->mapping, host->mapping_bytes);
    swap_store_destroy(store);
    free(host);
}

static const struct swap_store_ops host_ops = {
    .put = host_put,
    .get = host_get,
    .address = host_address,
    .memory = host_memory,
    .info = host_info,
    .close = host_close,
};

static int map_slots(struct host *host, size_t bytes)
{
    host->mapping_bytes = bytes + HUGE_BYTES;
    host->mapping = mmap(NULL, host->mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (host->mapping == MAP_FAILED)
        return -ENOMEM;
    host->slots = host->mapping + (HUGE_BYTES - (uintptr_t)host->mapping % HUGE_BYTES) % HUGE_BYTES;
    /* Wishes: each may be refused, and the store works without. A forked child has no business here, and copying on
     * write would take pages from under transfers in flight; a core file would hold what users wrote. */
    madvise(host->mapping, host->mapping_bytes, MADV_HUGEPAGE);
    madvise(host->mapping, host->mapping_bytes, MADV_DONTFORK);
    madvise(host->mapping, host->mapping_bytes, MADV_DONTDUMP);
    return 0;
}

int swap_host_open(const struct swap_host_config *config, struct swap_store **store)
{
    size_t bytes;
    if (config->block_bytes == 0 || config->block_bytes % SWAP_ALIGN != 0 || config->n_slots == 0 ||
        config->crew == NULL || __builtin_mul_overflow(config->block_bytes, (size_t)config->n_slots, &bytes) ||
        bytes > SIZE_MAX - HUGE_BYTES)
        return -EINVAL;
    struct host *host = calloc(1, sizeof(*host));
    if (host == NULL)
        return -ENOMEM;
    swap_store_init(&host->base, &host_ops, config->block_bytes, config->checksum_seed, config->crew);
    host->n_slots = config->n_slots;
    int result = swap_slots_grow(&host->base.slots, config->n_slots);
    if (result < 0)
        goto err_destroy;
    result = map_slots(host, bytes);
    if (result < 0)
        goto err_destroy;
    *store = &host->base;
    return 0;

err_destroy:
    swap_store_destroy(&host->base);
    free(host);
    return result;
}
