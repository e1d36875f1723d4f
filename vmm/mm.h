/* SPDX-License-Identifier: Apache-2.0
 *
 * The manager's own types. One lock, kvmm.lock, guards everything below it but what says otherwise; it is held for
 * bookkeeping and mapping, never across I/O, copies or checksums. Order: kvmm.lock, then swap's locks.
 *
 * The frames of a sequence lie in *segments*: runs of frames with the same users. The last one is its own, which grows, is
 * written to and has no other user; those before it are shared with other sequences, or were (segment.h). What is spilled,
 * fetched, ranked and counted is a segment; what is mapped is a segment in a sequence's range.
 *
 * A frame of a segment is an entry: where its bytes are (device frame, host slot, NVMe slot: any of them, several at
 * once when the copies are equal) and what is under way. Its state is one enum vmm_cell, derived by
 * vmm_entry_state(), counted in vmm_segment.n[] and published in the page map:
 *
 *     EMPTY ──take frame, clear──▶ ARRIVING ──▶ DEVICE ──spill──▶ LEAVING ──▶ HOST ──clean──▶ DEMOTING ──▶ HOST_CLEAN
 *                                     ▲           ▲                  │          │                              │
 *                                     │           └─write── CLEAN ◀──┘(kept)    │                     drop host copy
 *                                     └──fetch── HOST, HOST_CLEAN, NVME ◀───────┴──────────────────────────────┘
 *
 * A write (the tokens that a step adds) drops the lower copies first, so CLEAN becomes DEVICE. A fetch that fails for
 * good ends in LOST; only truncate and destroy lead out of it. */
#ifndef VMM_MM_H
#define VMM_MM_H

#include <pthread.h>
#include <stdatomic.h>

#include "kvmm/kvmm.h"
#include "swap/swap.h"
#include "vmm/device/device.h"
#include "vmm/error.h"
#include "vmm/frames.h"
#include "vmm/keeper.h"
#include "vmm/pagemap.h"
#include "vmm/policy.h"
#include "vmm/segment.h"
#include "vmm/staging.h"

struct kvmm_seq {
    kvmm *mm;
    kvmm_seq *prev, *next; /* all sequences of the manager */
    uint64_t id;
    struct kvmm_layout layout; /* immutable */
    size_t range_bytes;
    uint32_t max_tokens;
    uint32_t group_frames; /* frames of each group of its range */
    uint32_t live;         /* of them in use, from the start of each group; the same in all groups */
    uint32_t ahead;        /* behind those, mapped ahead */
    bool ahead_wanted;     /* the keeper should */
    bool dying;            /* destroyed; the keeper takes it down */
    bool foreign_tail;     /* its last frame is shared, and has bytes behind its last page that are not its own */
    uint32_t tail;         /* frame of each group where zeros are mapped, + 1; 0: none (tail.c) */
    uint32_t tail_groups;  /* the groups that have them, from the first */
    uint32_t refusals;     /* times that the device would not let it be taken down */
    uint32_t length;
    uint32_t pins;
    kvmm_step *step;              /* the open step it is in, or NULL */
    uint32_t n_pending;           /* ended steps whose fence has not passed */
    struct vmm_link *links, *own; /* its segments, by place; own is the last */
    bool asleep;                  /* suspended, and not used since */
    bool suspending, resuming;    /* the pump has work for it */
    bool quiet;                   /* somebody waits until it is idle: the background starts nothing for it */
    uint64_t resume_cursor;
    uint32_t row; /* in the page map */
};

enum vmm_move_kind {
    VMM_SPILL_HOST, /* device → host slot */
    VMM_SPILL_NVME, /* device → NVMe slot */
    VMM_DEMOTE,     /* host slot → NVMe slot */
    VMM_FETCH_HOST,
    VMM_FETCH_NVME,
    VMM_ZERO,
    VMM_DUPLICATE /* another segment's frame → frame */
};

/* A transfer in flight. */
struct vmm_move {
    struct swap_io io;   /* slot, stamp and urgent from the start */
    struct swap_job job; /* VMM_ZERO and VMM_DUPLICATE, where the CPU does it */
    struct vmm_copy copy;
    struct vmm_staging_request staging; /* its buffer: NULL if it has none */
    struct vmm_move *next;
    kvmm *mm;
    struct vmm_segment *segment; /* NULL: not in flight. With index under the lock: a split moves both on */
    uint64_t index;
    enum vmm_move_kind kind;
    uint32_t frame;           /* device frame, but for VMM_DEMOTE */
    uint32_t source;          /* VMM_DUPLICATE: device frame */
    size_t bytes;             /* VMM_DUPLICATE: so many are copied, the rest is cleared */
    uint32_t from_slot;       /* VMM_DEMOTE: of the host tier */
    struct swap_store *store; /* that io goes to */
};

#define VMM_N_MOVES 256

struct kvmm_step {
    kvmm *mm;
    kvmm_step *next; /* in kvmm.free_steps or kvmm.pending */
    struct vmm_fence fence;
    size_t n, capacity;
    struct vmm_step_seq {
        kvmm_seq *seq;
        uint32_t n_tokens;
        uint64_t cursor;        /* entries before it are on the device or on their way */
        bool passed;            /* the cursor was at the end */
        bool starved;           /* stopped at the cursor for want of a frame */
        struct kvmm_want *want; /* only inside kvmm_step_begin */
    } * seqs;
};

struct kvmm {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a move ended, or a step did */
    uint32_t n_waiters;

    /* Immutable after open. */
    struct kvmm_geometry geometry;
    struct kvmm_layout layout; /* without base and group_stride */
    size_t frame_bytes;
    struct vmm_device *device;
    struct swap_crew *crew;
    struct swap_store *host; /* NULL: no such tier */
    struct swap_store *nvme;
    struct vmm_staging *staging; /* NULL: bytes go straight to the tiers */
    bool host_registered;        /* the device copies to and from the host tier itself */
    bool readable_tail;
    uint32_t host_high, host_low; /* slots */
    const char *backend_name;
    void (*log)(void *user, enum kvmm_log_level level, const char *line);
    uint64_t (*now_ns)(void *user);
    void *user;

    struct vmm_frames *frames;
    struct vmm_keeper keeper;
    struct vmm_policy policy;
    struct vmm_pagemap *map; /* NULL: publish nothing */
    _Atomic uint64_t *counters;
    _Atomic uint64_t own_counters[VMM_N_COUNTERS]; /* used when there is no map */

    kvmm_seq seqs; /* head of the circular list of sequences; only prev and next are used */
    uint64_t n_seqs;
    uint64_t next_id;
    struct vmm_segment segments; /* likewise, of all segments */
    uint64_t next_key;           /* of an entry's bytes */
    uint64_t n_visits;           /* walks over segments that must see each once */
    uint64_t committed;          /* frames that sequences in steps or pinned ones hold or will need */
    uint64_t n[VMM_N_STATES];    /* sums over the segments */
    uint64_t n_suspending, n_resuming;

    struct vmm_move moves[VMM_N_MOVES];
    struct vmm_move *free_moves;
    uint32_t n_moving;
    uint32_t n_quiet; /* sequences that are quiet: what they hold may be free in a moment */
    kvmm_step *free_steps;
    kvmm_step *pending; /* ended, fence not passed */
    uint32_t n_open_steps;
    bool device_failed; /* it refused a copy or a clear: no step begins any more */
    struct vmm_message device_failure;
};

/* What tests replace; NULL for what is real. */
struct vmm_open_options {
    /* Stacks something on the device; owns it from then on if it returns non-NULL. */
    struct vmm_device *(*wrap_device)(struct vmm_device *dev, void *arg);
    void *wrap_arg;
    const struct swap_faults *swap_faults;
};
int vmm_open(const struct kvmm_config *cfg, const struct vmm_open_options *options, kvmm **mm);

void vmm_log(kvmm *mm, enum kvmm_log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));

static inline void vmm_count(kvmm *mm, enum vmm_counter counter, uint64_t add)
{
    uint64_t old = atomic_load_explicit(&mm->counters[counter], memory_order_relaxed);
    atomic_store_explicit(&mm->counters[counter], old + add, memory_order_relaxed);
}

static inline void vmm_gauge(kvmm *mm, enum vmm_counter counter, uint64_t value)
{
    atomic_store_explicit(&mm->counters[counter], value, memory_order_relaxed);
}

/* All that follows is called with kvmm.lock held. */

/* ---- entry.c: states and their bookkeeping ---- */

int vmm_entry_state(const struct vmm_entry *entry);
/* Every change of an entry stands between these two: they keep the counts, the policy's lists, the budget of pinned
 * sequences and the page map true. */
struct vmm_entry *vmm_entry_open(struct vmm_segment *segment, uint64_t index);
void vmm_entry_close(struct vmm_segment *segment, uint64_t index);
/* Shows its state in the page map, for one user. */
void vmm_entry_publish(const struct vmm_link *link, uint64_t index);
/* A frame that is LEAVING stays on the device when its put is done. No effect in other states. */
void vmm_entry_keep(struct vmm_segment *segment, uint64_t index);
/* Gives up copies of an idle entry's bytes: which of them, or'ed. The device's must not be mapped. */
#define VMM_COPY_DEVICE 1u
#define VMM_COPY_HOST   2u
#define VMM_COPY_NVME   4u
void vmm_entry_forget(struct vmm_segment *segment, uint64_t index, unsigned copies);
/* Gives up all of it: the entry is EMPTY. */
void vmm_entry_clear(struct vmm_segment *segment, uint64_t index);
/* Gauges: used and capacity of each tier. */
void vmm_publish_usage(kvmm *mm);

/* ---- seq.c ---- */

uint64_t vmm_seq_frames(const kvmm_seq *seq);    /* live × groups */
uint64_t vmm_seq_on_device(const kvmm_seq *seq); /* frames that have a device frame, in whatever state */
uint64_t vmm_seq_moving(const kvmm_seq *seq);    /* moves in flight */
bool vmm_seq_lost(const kvmm_seq *seq);          /* some of its bytes */
void *vmm_range_address(const kvmm_seq *seq, uint32_t group, uint32_t frame);
void vmm_seq_publish(kvmm_seq *seq); /* in the page map */
void vmm_seq_keep(kvmm_seq *seq);    /* all its frames */
void vmm_seq_touch(kvmm_seq *seq);   /* tells the policy; what is shared counts as used later than what builds on it */
/* Frames of its own from now on: live is that, of each group. */
void vmm_seq_set_live(kvmm_seq *seq, uint32_t live);
/* A sequence whose own segment has entries from frame `origin` on. Errors as kvmm_seq_create(). */
int vmm_seq_new(kvmm *mm, uint32_t max_tokens, uint32_t origin, kvmm_seq **seq);
/* Frees frames of its own from new_live on, in every tier. Preconditions: new_live is not before its own segment; none of them
 * moves. On failure (NO_ADDRESS_SPACE, DEVICE) nothing is freed. */
int vmm_seq_shrink(kvmm_seq *seq, uint32_t new_live);
/* Takes down a destroyed sequence, which is gone then. Precondition: none of its frames moves and no fence of its is
 * pending. If the device refuses it stays. */
int vmm_seq_bury(kvmm_seq *seq);
/* Waits for what moves and for fences, and takes the sequence down, destroyed before or not. Precondition: it is in no open
 * step. */
int vmm_seq_destroy(kvmm_seq *seq);

/* ---- share.c: forks, and what takes the place of shared frames ---- */

/* The frame of each group in which the token behind `length` begins, or would: a whole page is written to. */
uint32_t vmm_first_written(const kvmm_seq *seq, uint32_t length);
/* Gives up the frames behind those of its first n_tokens; what others use of them stays theirs. Precondition: as
 * vmm_seq_bury(). On failure (NO_HOST_MEMORY, NO_ADDRESS_SPACE, DEVICE) nothing is freed. */
int vmm_seq_cut(kvmm_seq *seq, uint32_t n_tokens);
/* A step that writes behind the sequence's length, or any other, meets shared frames that it must not have. */
bool vmm_must_unshare(const kvmm_seq *seq, bool writes);
/* The own segment takes their place. Frames that nobody else has are taken over; the links of the others are sources now.
 * Precondition: vmm_must_unshare(), and no fence of the sequence's is pending. On failure (NO_ADDRESS_SPACE, DEVICE) nothing
 * changed, but that something may be unmapped. */
int vmm_unshare(kvmm_seq *seq);
/* The sources, if there are any, have their place back. Precondition: nothing of the own segment moves. */
void vmm_reshare(kvmm_seq *seq);
/* The own segment has the bytes: the sources go. Precondition: nothing of the sequence moves. */
void vmm_unshared(kvmm_seq *seq);
/* Where an entry of the own segment has its bytes from: the first of them, the rest is zero. False: from nowhere. */
struct vmm_source {
    const struct vmm_entry *entry;
    size_t bytes;
};
bool vmm_source_of(const kvmm_seq *seq, uint64_t index, struct vmm_source *source);

/* ---- move.c: transfers ---- */

struct vmm_move *vmm_move_take(kvmm *mm);
void vmm_move_give(kvmm *mm, struct vmm_move *move);
/* Start a transfer for an idle entry; the move was taken. */
void vmm_start_spill(struct vmm_move *move, struct vmm_segment *segment, uint64_t index, struct swap_store *store,
                     uint32_t slot, bool urgent);
void vmm_start_demote(struct vmm_move *move, struct vmm_segment *segment, uint64_t index, uint32_t slot);
/* `frame` was taken for it. From host memory if it is there, else from NVMe. */
void vmm_start_fetch(struct vmm_move *move, struct vmm_segment *segment, uint64_t index, uint32_t frame, bool urgent);
void vmm_start_zero(struct vmm_move *move, struct vmm_segment *segment, uint64_t index, uint32_t frame);
/* The first bytes come from the device frame `source`, which stays what it is until the move ends; the rest is cleared. */
void vmm_start_duplicate(struct vmm_move *move, struct vmm_segment *segment, uint64_t index, uint32_t frame,
                         uint32_t source, size_t bytes);
/* The transfer is over, as an errno value of swap's and a status of the device's. The lock is not held. */
void vmm_end_move(struct vmm_move *move, int result, int device_status);
/* The thread's message says what the device refused for good: no step begins any more. */
void vmm_device_failed(kvmm *mm);
/* transfer.c: starts what the move says; vmm_end_move() follows, on another thread. */
void vmm_transfer(struct vmm_move *move);
bool vmm_can_change(const kvmm *mm); /* something is under way, so waiting makes sense */
/* For a condition of CLOCK_MONOTONIC, at most so long; lets go of the lock. */
void vmm_wait_for(pthread_cond_t *what, kvmm *mm, long ns);
void vmm_wait(kvmm *mm);           /* for the next change; lets go of the lock */
void vmm_wait_idle(kvmm_seq *seq); /* until none of its frames moves and no fence of its is pending */

/* ---- tail.c: a frame of zeros behind the last one ---- */

bool vmm_tail_right(const kvmm_seq *seq); /* it is where it belongs, or there is to be none */
/* Preconditions: no fence of the sequence's is pending; put: nothing is mapped behind its live frames but its tail. On
 * failure some groups may be without. */
int vmm_tail_put(kvmm_seq *seq);
int vmm_tail_drop(kvmm_seq *seq);

/* ---- evict.c: making room ---- */

/* Starts to take up to n frames off the device, coldest sequences first; urgent: for a step, else for a resume, which
 * spares the sequences that are coming back. Returns how many are free at once or on their
 * way; when that is fewer than n, *why says what stopped it: KVMM_OK (all that can go is going), NO_SPILL_SPACE, or
 * DEVICE. */
uint64_t vmm_make_room(kvmm *mm, uint64_t n, bool urgent, int *why);
/* The same for one segment's frames. */
uint64_t vmm_evict_from(struct vmm_segment *segment, uint64_t n, bool urgent, int *why);
/* Starts what can be done in the background: resumes, suspends, cleaning of the host tier. Called when a move ended and
 * when there is new work. */
void vmm_pump(kvmm *mm);
int vmm_pump_suspend(kvmm_seq *seq);     /* one sequence's share; NO_SPILL_SPACE or DEVICE if it had to stop early */
void vmm_stop_background(kvmm_seq *seq); /* the sequence is no longer suspending or resuming */
/* Steps whose fence has passed let go of their sequences. True if one did. */
bool vmm_reap_steps(kvmm *mm);

#endif
