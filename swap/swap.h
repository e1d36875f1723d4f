/* SPDX-License-Identifier: Apache-2.0
 *
 * Spill tiers. A store holds blocks of one size in numbered slots: the host store in memory, the file store in an
 * unnamed file that is read and written past the page cache. A store knows addresses and bytes; whose they are and
 * when they move is the caller's policy.
 *
 * Life of a slot: free → swap_slot_alloc → owned, empty → swap_put → (done, result 0) full → swap_get any number of
 * times, one or several at once → swap_slot_free → free. A put whose result is an error leaves the slot empty; the
 * caller frees it. A slot must not be freed while an io on it is in flight.
 *
 * Every block carries a stamp: the caller's key and generation. The checksum kept for the slot is seeded with them, so
 * a wrong slot, a stale block and silent zeros all fail with -EBADMSG instead of being delivered.
 *
 * Errors are negative errno values:
 *   -ENOSPC   no free slot, and the store can't grow
 *   -EBADMSG  the bytes read back, twice, are not the ones that were put
 *   -EIO      the transfer failed for good (it was tried again as SWAP_TRIES says); a slot whose write failed is
 *             retired when it is freed: never handed out again, unless it failed for want of room in the file system:
 *             then no slot is handed out for a second
 *   -ENODEV   the store has failed as a whole: too many errors in a row, or the device is gone. Every later put gets it,
 *             and every get that does not succeed: what can still be read is.
 *   -EINVAL   the slot isn't owned, or buf isn't aligned: the caller's mistake
 */
#ifndef SWAP_SWAP_H
#define SWAP_SWAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend.h"
#include "crew.h"
#include "timer.h"

#define SWAP_TRIES 3    /* short or interrupted transfers of one block before -EIO, with back-off between them */
#define SWAP_ALIGN 4096 /* of an io's memory and of block sizes */

struct swap_store;

struct swap_stamp {
    uint64_t key;        /* which block */
    uint32_t generation; /* which version of it */
};

/* One put or get. Owned by the caller, kept alive until done() was entered; done() may free it. */
struct swap_io {
    /* Set by the caller. */
    uint32_t slot;
    struct swap_stamp stamp;
    void *buf;   /* block_bytes, aligned to 4096. Put from the host store's own slot (buf == swap_slot_address) means
                    that the bytes are in place and only the checksum is made. A put's buf must not change, and a
                    get's must not be read, until done(). */
    bool urgent; /* a step waits for it */
    void (*done)(struct swap_io *io); /* on a crew thread or an I/O thread, with no lock of the store's held */
    int result;                       /* set before done(): 0 or an error above */

    /* The store's. */
    struct swap_store *store;
    struct swap_request request;
    struct swap_job job;
    struct swap_alarm alarm; /* back-off */
    uint64_t checksum;
    uint8_t tries; /* short or interrupted transfers so far */
    uint8_t stage; /* reads so far that failed or brought wrong bytes */
};

struct swap_host_config {
    size_t block_bytes; /* a multiple of 4096 */
    uint32_t n_slots;   /* ≥ 1; memory for all of them is reserved at open and touched as slots are used */
    uint64_t checksum_seed;
    struct swap_crew *crew; /* outlives the store */
};

struct swap_file_config {
    const char *dir;
    size_t block_bytes; /* a multiple of 4096 */
    uint64_t max_bytes; /* 0: until the file system is full (less a reserve of 64 MiB) */
    uint64_t checksum_seed;
    const char *backend;         /* "auto", "io_uring", "threads" */
    uint32_t read_depth;         /* 0: 8 */
    uint32_t write_depth;        /* 0: 8; while an urgent read is under way, io_uring has one write in flight */
    const struct iovec *buffers; /* memory that most ios use, to be registered; may be NULL */
    uint32_t n_buffers;
    struct swap_crew *crew;                                  /* outlives the store */
    void (*log)(void *user, bool warning, const char *line); /* what a user should know, said once; may be NULL */
    void *log_user;
    const struct swap_faults *faults; /* tests: stack the fault injector; NULL: none */
};

/* Memory for the slots is anonymous, with transparent huge pages where allowed. Returns 0, -EINVAL, -ENOMEM. */
int swap_host_open(const struct swap_host_config *config, struct swap_store **store);

/* Makes an O_TMPFILE file of mode 0600 (or an unlinked one where the file system has no O_TMPFILE) in dir, with O_DIRECT
 * where it has that, and reserves room for the first blocks; grows by fallocate as slots are taken. On failure returns
 * -errno with nothing left behind and, if reason is not NULL, one line in reason[reason_size] that names the directory
 * and what is wrong ("swap directory /x: No such file or directory"). */
int swap_file_open(const struct swap_file_config *config, struct swap_store **store, char *reason, size_t reason_size);

/* No io in flight. Frees everything, sets *store to NULL; NULL is ignored. */
void swap_close(struct swap_store **store);

/* In a child after fork(), where none of the store's threads are: closes the descriptors that the child has of the parent's store,
 * so that the file's space is free when the parent closes it. Nothing else may be called on the store there.
 * Async-signal-safe. */
void swap_forget_in_child(struct swap_store *store);

/* Thread-safe. Takes the lowest free slot near the last one taken, so that blocks put together lie together.
 * -ENOSPC, -ENODEV. May grow the file (a system call). */
int swap_slot_alloc(struct swap_store *store, uint32_t *slot);
void swap_slot_free(struct swap_store *store, uint32_t slot);

/* The slot's memory in a host store; NULL for a file store. */
void *swap_slot_address(struct swap_store *store, uint32_t slot);
/* The whole memory of a host store, for registering with io_uring or a device; {NULL, 0} for a file store. */
struct iovec swap_memory(struct swap_store *store);

/* Start an io; the result comes in done(). Thread-safe; they never wait for I/O. */
void swap_put(struct swap_store *store, struct swap_io *io);
void swap_get(struct swap_store *store, struct swap_io *io);

/* Tests: other faults from the next request on. Does nothing to a store that was opened without faults. */
void swap_set_faults(struct swap_store *store, const struct swap_faults *faults);

struct swap_store_info {
    uint32_t n_slots; /* most slots it may have; UINT32_MAX: no fixed limit */
    uint32_t n_used;  /* taken, retired ones not counted */
    uint32_t n_retired;
    bool failed;
    const char *backend; /* "memory", "io_uring", "threads" */
    struct swap_backend_info backend_info;
    bool direct; /* O_DIRECT is in use */
    uint64_t n_retries;
};
void swap_get_info(struct swap_store *store, struct swap_store_info *info);

#endif
