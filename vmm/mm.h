/* SPDX-License-Identifier: Apache-2.0
 *
 * The manager's own types. One lock, kvmm.lock, guards everything below it but what says otherwise; it is held for
 * bookkeeping and mapping, never across I/O, copies or checksums. Order: kvmm.lock, then swap's locks.
 *
 * A frame of a sequence is an entry: where its bytes are (device frame, host slot, NVMe slot: any of them, several at
 * once when the copies are equal) and what is under way. Its state is one enum vmm_cell, derived by
 * vmm_entry_state(), counted in kvmm_seq.n[] and published in the page map:
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
#include "vmm/staging.h"

/* One more state than the page map shows: HOST whose bytes NVMe has too. Published as VMM_CELL_HOST. */
#define VMM_HOST_CLEAN (VMM_CELL_LOST + 1)
#define VMM_N_STATES   (VMM_HOST_CLEAN + 1)

enum vmm_op {
    VMM_IDLE = 0,
    VMM_LEAVING,  /* a put from the device frame is in flight; the frame is not mapped */
    VMM_DEMOTING, /* a put from the host slot to NVMe is in flight */
    VMM_ARRIVING  /* the device frame is being filled: from a slot, or with zeros */
};

#define VMM_MAPPED 1u /* at its place in the range */
#define VMM_KEEP   2u /* wanted while LEAVING: stays on the device when the put is done */
#define VMM_LOST   4u
#define VMM_AHEAD  8u /* mapped ahead of the sequence: counts as EMPTY (keeper.h) */

struct vmm_entry {
    uint32_t frame;      /* device frame + 1, 0: none */
    uint32_t host;       /* host slot + 1, 0: none */
    uint32_t nvme;       /* NVMe slot + 1, 0: none */
    uint32_t generation; /* counts versions of the bytes; stamps the copies in the tiers */
    uint8_t op;
    uint8_t flags;
};

struct kvmm_seq {
    kvmm *mm;
    kvmm_seq *prev, *next; /* all sequences of the manager */
    uint64_t id;
    struct kvmm_layout layout; /* immutable */
    size_t range_bytes;
    uint32_t max_tokens;
    uint32_t group_frames; /* entries of each group */
    uint32_t live;         /* of them in use, from the start of each group; the same in all groups */
    uint32_t ahead;        /* behind those, mapped ahead */
    bool ahead_wanted;     /* the keeper should */
    bool dying;            /* destroyed; the keeper takes it down */
    uint32_t tail;         /* frame of each group where zeros are mapped, + 1; 0: none (tail.c) */
    uint32_t tail_groups;  /* the groups that have them, from the first */
    uint32_t refusals;     /* times that the device would not let it be taken down */
    uint32_t length;
    uint32_t pins;
    kvmm_step *step;    /* the open step it is in, or NULL */
    uint32_t n_pending; /* ended steps whose fence has not passed */
    uint64_t target;    /* frames (all groups) that the open step needs */
    uint64_t committed; /* frames that can't be taken from it: its share of kvmm.committed */
    uint64_t n[VMM_N_STATES];
    uint64_t n_mapped;
    struct vmm_policy_item item;
    uint64_t cursor[VMM_N_TIERS]; /* where the search for the next frame to take begins */
    bool suspending, resuming;    /* the pump has work for it */
    bool quiet;                   /* somebody waits until it is idle: the background starts nothing for it */
    uint64_t resume_cursor;
    uint32_t row;              /* in the page map */
    struct vmm_entry *entries; /* n_groups × group_frames */
};

enum vmm_move_kind {
    VMM_SPILL_HOST, /* device → host slot */
    VMM_SPILL_NVME, /* device → NVMe slot */
    VMM_DEMOTE,     /* host slot → NVMe slot */
    VMM_FETCH_HOST,
    VMM_FETCH_NVME,
    VMM_ZERO
};

/* A transfer in flight. */
struct vmm_move {
    struct swap_io io;   /* slot, stamp and urgent from the start */
    struct swap_job job; /* VMM_ZERO, where the CPU clears */
    struct vmm_copy copy;
    struct vmm_staging_request staging; /* its buffer: NULL if it has none */
    struct vmm_move *next;
    kvmm_seq *seq; /* outlives the move: destroy waits for it */
    uint64_t index;
    enum vmm_move_kind kind;
    uint32_t frame;           /* device frame, but for VMM_DEMOTE */
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
    uint64_t committed;       /* frames that sequences in steps or pinned ones hold or will need */
    uint64_t n[VMM_N_STATES]; /* sums over the sequences */
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
struct vmm_entry *vmm_entry_open(kvmm_seq *seq, uint64_t index);
void vmm_entry_close(kvmm_seq *seq, uint64_t index);

uint64_t vmm_seq_frames(const kvmm_seq *seq); /* live × groups */
/* The i-th of the sequence's frames as an index of entries, i < vmm_seq_frames(). */
uint64_t vmm_seq_entry(const kvmm_seq *seq, uint64_t i);
void *vmm_entry_address(const kvmm_seq *seq, uint64_t index);
uint64_t vmm_seq_on_device(const kvmm_seq *seq); /* frames that have a device frame, in whatever state */
uint64_t vmm_seq_moving(const kvmm_seq *seq);    /* moves in flight */
/* Recomputes the frames that can't be taken from seq. */
void vmm_seq_commit(kvmm_seq *seq);
void vmm_seq_publish(kvmm_seq *seq);
/* A frame that is LEAVING stays on the device when its put is done. No effect in other states. */
void vmm_entry_keep(kvmm_seq *seq, uint64_t index);
void vmm_seq_keep(kvmm_seq *seq); /* all its frames */
/* Gives up copies of an idle entry's bytes: which of them, or'ed. The device's must not be mapped. */
#define VMM_COPY_DEVICE 1u
#define VMM_COPY_HOST   2u
#define VMM_COPY_NVME   4u
void vmm_entry_forget(kvmm_seq *seq, uint64_t index, unsigned copies);
/* Gauges: used and capacity of each tier. */
void vmm_publish_usage(kvmm *mm);

/* ---- seq.c ---- */

/* Takes down a destroyed sequence, which is gone then. Precondition: none of its frames moves and no fence of its is
 * pending. If the device refuses it stays. */
int vmm_seq_bury(kvmm_seq *seq);
/* Waits for what moves and for fences, and takes the sequence down, destroyed before or not. Precondition: it is in no open
 * step. */
int vmm_seq_destroy(kvmm_seq *seq);

/* ---- move.c: transfers ---- */

struct vmm_move *vmm_move_take(kvmm *mm);
void vmm_move_give(kvmm *mm, struct vmm_move *move);
/* Start a transfer for an idle entry; the move was taken. */
void vmm_start_spill(struct vmm_move *move, kvmm_seq *seq, uint64_t index, struct swap_store *store, uint32_t slot,
                     bool urgent);
void vmm_start_demote(struct vmm_move *move, kvmm_seq *seq, uint64_t index, uint32_t slot);
/* `frame` was taken for it. From host memory if it is there, else from NVMe. */
void vmm_start_fetch(struct vmm_move *move, kvmm_seq *seq, uint64_t index, uint32_t frame, bool urgent);
void vmm_start_zero(struct vmm_move *move, kvmm_seq *seq, uint64_t index, uint32_t frame);
/* The transfer is over, as an errno value of swap's and a status of the device's. The lock is not held. */
void vmm_end_move(struct vmm_move *move, int result, int device_status);
/* The thread's message says what the device refused for good: no step begins any more. */
void vmm_device_failed(kvmm *mm);
/* transfer.c: starts what the move says; vmm_end_move() follows, on another thread. */
void vmm_transfer(struct vmm_move *move);
/* Unmaps what is mapped among entries [index, index + n) of one group, in as few calls as can be. */
int vmm_unmap(kvmm_seq *seq, uint64_t index, uint64_t n);
/* Maps all frames of the sequence that are on the device and not mapped. Precondition: none is moving. */
int vmm_map_all(kvmm_seq *seq);
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
/* The same for one sequence's own frames. */
uint64_t vmm_evict_from(kvmm_seq *seq, uint64_t n, bool urgent, int *why);
/* Starts what can be done in the background: resumes, suspends, cleaning of the host tier. Called when a move ended and
 * when there is new work. */
void vmm_pump(kvmm *mm);
int vmm_pump_suspend(kvmm_seq *seq); /* one sequence's share; NO_SPILL_SPACE or DEVICE if it had to stop early */
/* Frees the sequence's frames from new_live on, in every tier. Precondition: none of its frames moves. On failure
 * (NO_ADDRESS_SPACE, DEVICE) nothing is freed. */
int vmm_seq_shrink(kvmm_seq *seq, uint32_t new_live);
void vmm_stop_background(kvmm_seq *seq); /* the sequence is no longer suspending or resuming */
/* Steps whose fence has passed let go of their sequences. True if one did. */
bool vmm_reap_steps(kvmm *mm);

#endif
