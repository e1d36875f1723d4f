/* SPDX-License-Identifier: Apache-2.0
 *
 * What the host store and the file store share: slots, stamps and the way an io begins and ends. */
#ifndef SWAP_STORE_H
#define SWAP_STORE_H

#include <pthread.h>

#include "swap/slots.h"
#include "swap/swap.h"

struct swap_store_ops {
    void (*put)(struct swap_store *store, struct swap_io *io); /* the slot is owned and was marked empty */
    void (*get)(struct swap_store *store, struct swap_io *io); /* io->checksum is the one to find */
    int (*grow)(struct swap_store *store);                     /* no lock held; 0: try again; NULL: can't grow */
    void *(*address)(struct swap_store *store, uint32_t slot); /* NULL: slots have no address */
    struct iovec (*memory)(struct swap_store *store);          /* NULL: none */
    void (*info)(struct swap_store *store, struct swap_store_info *info); /* under lock; what is its own */
    void (*close)(struct swap_store *store);                              /* frees all but the shared part's members */
    void (*forget)(struct swap_store *store);                             /* NULL: has no descriptors */
};

/* The first member of either store. */
struct swap_store {
    const struct swap_store_ops *ops;
    size_t block_bytes;
    uint64_t checksum_seed;
    struct swap_crew *crew;
    pthread_mutex_t lock;
    struct swap_slots slots; /* under lock */
    bool failed;             /* under lock */
    uint64_t full_until_ns;  /* a write found no room: no slot is handed out before; under lock */
    uint64_t n_retries;      /* under lock */
};

void swap_store_init(struct swap_store *store, const struct swap_store_ops *ops, size_t block_bytes, uint64_t seed,
                     struct swap_crew *crew);
void swap_store_destroy(struct swap_store *store);

/* The io's checksum seed, from its stamp. */
uint64_t swap_io_seed(const struct swap_io *io);

/* Sets the result and calls done(). Its caller touches neither io nor store after it. */
void swap_io_end(struct swap_io *io, int result);

#endif
