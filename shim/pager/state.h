/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager's inside: its types, and what its files offer each other. README.md has the states of a chunk and the locks.
 * Functions here are called with pager.lock held unless they say otherwise. */
#ifndef SHIM_PAGER_STATE_H
#define SHIM_PAGER_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "shim/pager/pager.h"
#include "shim/pager/policy.h"
#include "shim/pager/uffd.h"
#include "swap/swap.h"

#define SHIM_MAX_RANGES 64
#define SHIM_MAX_CHUNKS (1u << 24) /* 1 TiB of 64 KiB; the tables are touched as chunks are */
#define SHIM_MAX_READS  48         /* transfers in flight */
#define SHIM_MAX_WRITES 16
/* Of all buffers together, but for the least transfers: registered, they are locked in memory, of which many users may have 8 MiB. */
#define SHIM_READ_BYTES  ((size_t)5 << 20)
#define SHIM_WRITE_BYTES ((size_t)2 << 20)
#define SHIM_MIN_READS   8
#define SHIM_MIN_WRITES  4
#define SHIM_RESERVE     8 /* slots kept for exchanges, see evict.c */
#define SHIM_READY_RING  256
#define SHIM_RETRY_NS    100000000u /* after a failure that may pass */

enum shim_chunk_state {
    SHIM_ZERO = 0, /* nowhere: reads as zeros */
    SHIM_SWAPPED,  /* in its slot only */
    SHIM_LOADING,  /* memory is being filled from its slot */
    SHIM_RESIDENT, /* in memory; if it has a slot, that has the same bytes */
    SHIM_WRITING,  /* in memory, not writable by the engine, being written to its slot */
    SHIM_LOST      /* its slot could not be read: touching it is SIGBUS */
};

enum {
    SHIM_MAPPED = 1,     /* in the view */
    SHIM_HAS_SLOT = 2,   /* its slot is its own; while RESIDENT, with the same bytes, and it is not writable then */
    SHIM_WANTED = 4,     /* a thread of the engine waits for it */
    SHIM_WANT_WRITE = 8, /* … in order to write */
    SHIM_QUEUED = 16,    /* in the queue of those that wait for room */
    SHIM_DISCARDED = 32, /* it becomes ZERO when its transfer ends */
    SHIM_LEAVING = 64,   /* WRITING: it leaves memory then; else it stays, clean */
    SHIM_READY = 128,    /* clean and named by the policy: it leaves when room is wanted */
    SHIM_AHEAD = 256,    /* fetched ahead, not touched since */
    SHIM_RETURNS = 512   /* was in memory when suspend began */
};

struct shim_chunk {
    uint8_t state; /* enum shim_chunk_state */
    uint8_t range; /* which of pager.ranges */
    uint16_t flags;
    uint32_t slot; /* with HAS_SLOT */
    uint32_t generation;
    uint32_t next;     /* in the queue */
    uint32_t since_us; /* WANTED: since when, for the sum of waits; wraps */
};

struct shim_range {
    _Atomic uintptr_t base; /* 0: free */
    _Atomic uintptr_t end;
    int memfd;                /* whole chunks */
    uint32_t first, n_chunks; /* its chunk numbers */
    uint32_t n_live;          /* chunks that are not ZERO */
    uint32_t n_busy;          /* chunks whose transfer is in flight */
    bool closing;             /* being unmapped: touches of it are not served */
};

struct shim_move {
    struct swap_io io;
    struct shim_pager *pager;
    uint32_t chunk;
    bool write;
    char *buffer; /* the chunk's bytes on their way, a chunk long */
    int memfd;    /* where its pages are: read without the lock while the transfer is in flight */
    off_t offset;
    struct swap_job job;    /* writes: the copy into the buffer */
    struct shim_move *next; /* while free */
};

/* Chunks to fetch when there is room for them, without being asked by a touch: resume, and KVMM_WILLNEED. */
struct shim_wish {
    uint32_t next, end; /* chunk numbers */
    bool returns_only;  /* those with SHIM_RETURNS */
};
#define SHIM_MAX_WISHES 16

struct shim_pager {
    struct shim_pager_config config;
    size_t chunk_bytes, page_bytes;
    uint32_t capacity; /* chunks; UINT32_MAX: no limit */
    struct shim_uffd uffd;
    int wake_fd; /* eventfd: the pager's thread looks around */
    pthread_t thread;
    struct swap_crew *crew;
    struct swap_store *swap; /* NULL: no swap file */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* suspend and unmap wait on it */
    struct shim_range ranges[SHIM_MAX_RANGES];
    _Atomic uintptr_t low, high; /* all ranges lie in between; low > high: there is none */
    struct shim_chunk *chunks;   /* SHIM_MAX_CHUNKS */
    struct shim_policy *policy;
    uint32_t generation;
    uint32_t used;                    /* chunks in memory: LOADING, RESIDENT, WRITING */
    uint32_t queue_first, queue_last; /* touched, and waiting for room */
    uint32_t
        ready[SHIM_READY_RING]; /* chunks that were made READY, oldest first; those that no longer are, are skipped */
    uint32_t ready_head, ready_length, n_ready;
    uint32_t reserve[SHIM_RESERVE]; /* slots */
    uint32_t n_reserve;
    struct shim_move reads[SHIM_MAX_READS], writes[SHIM_MAX_WRITES];
    struct shim_move *free_reads, *free_writes;
    uint32_t n_free_reads, n_free_writes;
    uint32_t n_reads, n_writes; /* how many of them there are */
    uint32_t demand_reads;      /* of those, how many are kept for chunks that are waited for */
    char *buffers;              /* of all of them */
    uint32_t suspend_next;      /* where the sweep that empties memory goes on */
    int suspend_error;          /* why it can't */
    uint32_t end_chunk;         /* no range has chunks from this number on */
    struct shim_wish wishes[SHIM_MAX_WISHES];
    uint32_t n_wishes;
    bool suspended;
    bool stopping;
    bool forgotten;          /* a child after fork */
    bool swap_full;          /* no slot was to be had, last time */
    uint64_t retry_ns;       /* when the thread tries again what had no room; 0: nothing had none */
    uint64_t stuck_ns;       /* since when no touch found room while nothing was under way; 0: they do */
    uint64_t write_again_ns; /* no write is started before: one has failed; 0: none has */
    struct shim_pager_info info;

    uint64_t wide_since; /* loads until a sweep wider than memory began; or now, if none goes on */

    /* Lines to be logged once the lock is free. */
    char lines[2][256];
    bool line_warns[2];
    uint32_t n_lines;
    bool said_full, said_write_error, said_lost, said_wide, said_no_pages;
};

/* pager.c: around everything. shim_pager_unlock logs what shim_say left. */
void shim_pager_lock(struct shim_pager *pager);
void shim_pager_unlock(struct shim_pager *pager);
/* The pager's thread looks around. Not async-signal-safe; with or without the lock. */
void shim_pager_wake(struct shim_pager *pager);
void shim_say(struct shim_pager *pager, bool warning, const char *format, ...) __attribute__((format(printf, 3, 4)));

static inline struct shim_range *shim_chunk_range(struct shim_pager *pager, uint32_t chunk)
{
    return &pager->ranges[pager->chunks[chunk].range];
}
char *shim_chunk_view(struct shim_pager *pager, uint32_t chunk);
off_t shim_chunk_offset(struct shim_pager *pager, uint32_t chunk); /* in its range's memfd */
/* Of the chunk's view: less than chunk_bytes at a range's end. */
size_t shim_chunk_view_bytes(struct shim_pager *pager, uint32_t chunk);

/* range.c: the range that holds [at, at + bytes) and isn't being unmapped; NULL: none. */
struct shim_range *shim_range_of(struct shim_pager *pager, uintptr_t at, size_t bytes);

/* chunk.c: single steps of one chunk, and the bookkeeping that goes with them. */
void shim_chunk_set(struct shim_pager *pager, uint32_t chunk, enum shim_chunk_state state);
/* RESIDENT (or, to read, WRITING): into the view, waking who waits. For writing it loses its slot. */
void shim_chunk_map(struct shim_pager *pager, uint32_t chunk, bool write);
/* Neighbours, RESIDENT, not in the view: into it for reading, at one go. Does nothing if one of them has no slot or pages can't be
 * read-only here. */
void shim_chunks_map_clean(struct shim_pager *pager, uint32_t first, uint32_t n);
/* False: the kernel refused (it is locked in memory), and the chunk may still be written to. */
bool shim_chunk_unmap(struct shim_pager *pager, uint32_t chunk);
void shim_chunk_free_slot(struct shim_pager *pager, uint32_t chunk);
/* ZERO with room taken for it → RESIDENT. False: the kernel has no memory now; the chunk stays ZERO. */
bool shim_chunk_populate(struct shim_pager *pager, uint32_t chunk);
/* n neighbours of one range, all in memory → out of it, each with its slot (if any) kept: SWAPPED, else ZERO. Gives back their
 * room. */
void shim_chunks_release(struct shim_pager *pager, uint32_t first, uint32_t n);
/* RESIDENT, no slot, not writable just now: whether it is all zeros. */
bool shim_chunk_is_zero(struct shim_pager *pager, uint32_t chunk);
void shim_chunk_unready(struct shim_pager *pager, uint32_t chunk);
void shim_chunk_lose(struct shim_pager *pager, uint32_t chunk); /* LOADING → LOST */
void shim_chunk_signal_lost(struct shim_pager *pager, uint32_t chunk, uint32_t tid);

/* move.c: transfers. */
/* SWAPPED with room taken → LOADING. False: no transfer is free. urgent: a thread waits. */
bool shim_load_start(struct shim_pager *pager, uint32_t chunk, bool urgent);
/* RESIDENT without a slot → WRITING. From the reserve only if an exchange needs it. -EAGAIN: no transfer is free; -ENOSPC,
 * -ENODEV: no slot. */
int shim_write_start(struct shim_pager *pager, uint32_t chunk, bool leaving, bool exchange);
/* chunk_bytes is set. 0, -ENOMEM. */
int shim_moves_init(struct shim_pager *pager);
size_t shim_buffer_bytes(const struct shim_pager *pager); /* of pager->buffers */

/* evict.c: room. */
enum shim_room {
    SHIM_ROOM_GROW,  /* for a ZERO chunk that is waited for */
    SHIM_ROOM_FETCH, /* for a SWAPPED one that is waited for */
    SHIM_ROOM_AHEAD  /* for a SWAPPED one that isn't */
};
/* For one chunk. False: not now; for one that is waited for, what can be had by writing has been started. */
bool shim_room_take(struct shim_pager *pager, enum shim_room purpose);
bool shim_reserve_fill(struct shim_pager *pager);
void shim_ready_add(struct shim_pager *pager, uint32_t chunk); /* clean, and named by the policy */
void shim_room_balance(struct shim_pager *pager); /* cleans ahead of need, goes on suspending, grants wishes */
void shim_wish_add(struct shim_pager *pager, uint32_t first, uint32_t end, bool returns_only);
void shim_probe(struct shim_pager *pager);

/* fault.c */
void *shim_fault_thread(void *pager); /* not under the lock */
void shim_queue_add(struct shim_pager *pager, uint32_t chunk);
void shim_queue_serve(struct shim_pager *pager);

/* clear.c */
void shim_discard_chunks(struct shim_pager *pager, uint32_t first, uint32_t end);

#endif
