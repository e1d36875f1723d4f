/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/staging.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kvmm/kvmm.h"
#include "vmm/error.h"

#define HUGE_BYTES ((size_t)2 << 20)

/* Who waits, in the order in which they are served. */
enum waiting { URGENT_FETCH, URGENT_SPILL, FETCH, SPILL, N_WAITING };

struct vmm_staging {
    struct vmm_device *dev;
    char *mapping; /* as mmap gave it */
    size_t mapping_bytes;
    char *buffers; /* in the mapping, aligned to HUGE_BYTES */
    size_t buffer_bytes;
    uint32_t n_buffers;
    uint32_t n_for_fetches; /* of them */

    pthread_mutex_t lock; /* what follows */
    void **free;          /* stack */
    uint32_t n_free;
    struct vmm_staging_request *first[N_WAITING], **end[N_WAITING];
};

static enum waiting class_of(const struct vmm_staging_request *request)
{
    if (request->urgent)
        return request->fetch ? URGENT_FETCH : URGENT_SPILL;
    return request->fetch ? FETCH : SPILL;
}

/* The next request that can have a buffer, with the buffer; NULL: none. Under the lock. */
static struct vmm_staging_request *serve(struct vmm_staging *staging)
{
    for (int class = 0; class < N_WAITING; class ++) {
        bool fetch = class == URGENT_FETCH || class == FETCH;
        struct vmm_staging_request *request = staging->first[class];
        if (!request || staging->n_free <= (fetch ? 0 : staging->n_for_fetches))
            continue;
        staging->first[class] = request->next;
        if (!request->next)
            staging->end[class] = &staging->first[class];
        request->buffer = staging->free[--staging->n_free];
        return request;
    }
    return NULL;
}

static void serve_all(struct vmm_staging *staging)
{
    for (;;) {
        pthread_mutex_lock(&staging->lock);
        struct vmm_staging_request *request = serve(staging);
        pthread_mutex_unlock(&staging->lock);
        if (!request)
            return;
        request->ready(request);
    }
}

void vmm_staging_take(struct vmm_staging *staging, struct vmm_staging_request *request)
{
    enum waiting class = class_of(request);
    pthread_mutex_lock(&staging->lock);
    request->next = NULL;
    *staging->end[class] = request;
    staging->end[class] = &request->next;
    pthread_mutex_unlock(&staging->lock);
    serve_all(staging);
}

void vmm_staging_give(struct vmm_staging *staging, struct vmm_staging_request *request)
{
    pthread_mutex_lock(&staging->lock);
    staging->free[staging->n_free++] = request->buffer;
    pthread_mutex_unlock(&staging->lock);
    request->buffer = NULL;
    serve_all(staging);
}

struct iovec vmm_staging_memory(const struct vmm_staging *staging)
{
    return (struct iovec){staging->buffers, staging->buffer_bytes * staging->n_buffers};
}

int vmm_staging_open(struct vmm_device *dev, uint32_t n_buffers, struct vmm_staging **out)
{
    int rc = KVMM_ERR_NO_HOST_MEMORY;
    struct vmm_staging *staging = calloc(1, sizeof *staging);
    void **free_buffers = calloc(n_buffers, sizeof *free_buffers);
    size_t bytes = n_buffers * dev->frame_bytes;
    if (!staging || !free_buffers) {
        vmm_fail(rc, "no memory for %u staging buffers", n_buffers);
        goto err_free;
    }
    *staging = (struct vmm_staging){.dev = dev,
                                    .buffer_bytes = dev->frame_bytes,
                                    .n_buffers = n_buffers,
                                    .n_for_fetches = n_buffers / 4,
                                    .free = free_buffers,
                                    .mapping_bytes = bytes + HUGE_BYTES};
    void *mapping =
        mmap(NULL, staging->mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) {
        vmm_fail(rc, "no memory for %u staging buffers of %zu bytes", n_buffers, dev->frame_bytes);
        goto err_free;
    }
    staging->mapping = mapping;
    staging->buffers = staging->mapping + (HUGE_BYTES - (uintptr_t)mapping % HUGE_BYTES) % HUGE_BYTES;
    /* Wishes, as for the host tier: huge pages read a third faster from NVMe; a forked child has no business here. */
    madvise(mapping, staging->mapping_bytes, MADV_HUGEPAGE);
    madvise(mapping, staging->mapping_bytes, MADV_DONTFORK);
    madvise(mapping, staging->mapping_bytes, MADV_DONTDUMP);
    rc = dev->ops->memory_register(dev, staging->buffers, bytes);
    if (rc)
        goto err_unmap;
    for (uint32_t i = 0; i < n_buffers; i++)
        staging->free[staging->n_free++] = staging->buffers + (size_t)i * dev->frame_bytes;
    for (int class = 0; class < N_WAITING; class ++)
        staging->end[class] = &staging->first[class];
    pthread_mutex_init(&staging->lock, NULL);
    *out = staging;
    return KVMM_OK;

err_unmap:
    munmap(mapping, staging->mapping_bytes);
err_free:
    free(free_buffers);
    free(staging);
    return rc;
}

void vmm_staging_close(struct vmm_staging **handle)
{
    struct vmm_staging *staging = *handle;
    if (!staging)
        return;
    staging->dev->ops->memory_unregister(staging->dev, staging->buffers);
    munmap(staging->mapping, staging->mapping_bytes);
    pthread_mutex_destroy(&staging->lock);
    free(staging->free);
    free(staging);
    *handle = NULL;
}
