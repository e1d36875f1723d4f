/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose frames leave a tier first. Attention touches all of a sequence's frames at each step, so the policy ranks what has
 * the same users (an item), not frames: a touch is O(1) however long the sequence is. What a victim is and where its frames
 * go is the business of the manager (evict.c); a policy only orders items. It makes no system call, allocates nothing and
 * reads no clock but the one it is given, so `kvmm bench policy` and the tests run the same code on traces. All calls are
 * made under one lock of the caller's (kvmm.lock).
 *
 *     lru    by last use
 *     clock  a touch is a bit; by last use, about
 *     arc    what came once and what came again are two lists, whose balance follows what was let go too early
 *            (policy_arc.c)
 *     cost   by space × expected time to the next use ÷ cost of the way back (policy_cost.c)
 *
 * Ghosts: arc and cost remember what left a tier. That memory is in the item, so it is bounded by the items that there
 * are, and needs no lists: a counter of what left the tier says how long ago that was (as the shadow entries of Linux,
 * mm/workingset.c). An item that ends, because nothing holds its bytes any more, may leave its memory under its key in a
 * table of the caller's (vmm_policy_forget), for the next item of the same key. */
#ifndef VMM_POLICY_H
#define VMM_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum vmm_tier { VMM_TIER_DEVICE, VMM_TIER_HOST, VMM_N_TIERS };

/* Touches closer than that are one use: the steps of one answer (the correlated references of LRU-K: O'Neil, O'Neil, Weikum,
 * SIGMOD 1993). */
#define VMM_POLICY_ONE_USE_NS 1000000000u

struct vmm_policy_link {
    struct vmm_policy_link *prev, *next; /* NULL: not in that tier's lists */
};

/* What is known of an item in a tier. */
struct vmm_policy_place {
    uint64_t left; /* arc: the tier's `left` when it was evicted */
    uint64_t weight;
    uint8_t list;  /* that it is linked in */
    uint8_t ghost; /* arc: the list that it was evicted from; 0: it was not */
    bool frequent; /* arc: was used again lately */
    bool chosen;   /* arc: the tier's victim since its last touch, so that its removal is an eviction */
};

/* Embedded in what is ranked. Zeroed before use. */
struct vmm_policy_item {
    struct vmm_policy_link link[VMM_N_TIERS];

    /* The caller's; may change at any time, and is looked at when the item is touched or inserted. */
    uint64_t bytes; /* that come back if it is used when all of it has left; 0: items are all alike */
    uint64_t key;   /* the same for the same contents, its low bits well mixed or dense: a hash, a number; 0: none */

    /* The policy's. */
    uint64_t order;       /* of its last touch among all touches of the policy */
    uint64_t used_ns;     /* its last touch */
    uint64_t interval_ns; /* between its uses: the mean, each earlier one counts half; 0: was used once */
    uint32_t uses;
    uint32_t interval_class; /* cost: of what is expected (policy_cost.c) */
    bool referenced;         /* clock: used since the hand last passed */
    bool cold;               /* cooled since its last touch */
    struct vmm_policy_place at[VMM_N_TIERS];
};

/* What is left of an item that ended. */
struct vmm_policy_ghost {
    uint64_t key; /* 0: none */
    uint64_t used_ns, interval_ns;
    uint32_t uses;
    struct vmm_policy_place at[VMM_N_TIERS];
};

/* What it costs to have an item's bytes back that left a tier: latency_ns + bytes × ps_per_byte / 1000 ns. */
struct vmm_policy_return {
    uint64_t latency_ns, ps_per_byte;
};

struct vmm_policy;

/* Asked of each candidate, first choice first, until it says true. */
typedef bool vmm_policy_usable(void *ctx, struct vmm_policy_item *item);

struct vmm_policy_ops {
    const char *name;
    /* The item has frames in the tier now / no longer. */
    void (*insert)(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item);
    void (*remove)(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item);
    /* A step uses the item, or it was announced that one soon will. Comes before the insert() that follows from it; an item
     * that is inserted first is touched by that. */
    void (*touch)(struct vmm_policy *policy, struct vmm_policy_item *item);
    /* The item won't be used for a while: it is the first choice in every tier. */
    void (*cool)(struct vmm_policy *policy, struct vmm_policy_item *item);
    /* The item whose frames leave the tier next, or NULL if none is usable. */
    struct vmm_policy_item *(*victim)(struct vmm_policy *policy, enum vmm_tier tier, vmm_policy_usable *usable,
                                      void *ctx);
};

#define VMM_POLICY_N_LISTS 160

/* One tier's share of a policy. */
struct vmm_policy_tier {
    struct vmm_policy_link list[VMM_POLICY_N_LISTS]; /* circular; .next is the hot end, .prev the cold end */
    uint64_t filled[(VMM_POLICY_N_LISTS + 63) / 64]; /* cost: a bit for each list that is not empty */
    uint64_t weight[3];                              /* arc: of the items in each of its lists */
    uint64_t target;                                 /* arc: weight that list ONCE is to keep */
    uint64_t left;                                   /* arc: weight that was evicted from the tier so far */
};

struct vmm_policy {
    const struct vmm_policy_ops *ops;

    /* The caller may set these after init. */
    uint64_t (*now_ns)(void *user); /* NULL: each touch is a second later than the one before it */
    void *user;
    struct vmm_policy_return back[VMM_N_TIERS]; /* cost */
    struct vmm_policy_ghost *ghosts;            /* [n_ghosts] of zeros, the caller's, as long as the policy; or NULL */
    uint32_t n_ghosts;                          /* a power of two */

    uint64_t n_touches;
    uint64_t usual_interval; /* cost: mean of the logarithms of what was seen (policy_cost.c) */
    struct vmm_policy_tier tier[VMM_N_TIERS];
};

/* One of the names above; false for any other. Holds no memory, needs no close. */
bool vmm_policy_init(struct vmm_policy *policy, const char *name);
/* The i-th name, NULL behind the last. */
const char *vmm_policy_name(size_t i);

/* The item begins as a part of another: it has the other's past. Before it is touched or inserted. */
void vmm_policy_inherit(struct vmm_policy_item *item, const struct vmm_policy_item *from);
/* For items that have a key; no effect where the policy has no table. The item ends, and is in no tier: what is known of it
 * is kept, in the place of another's whose key shares the low bits. */
void vmm_policy_forget(struct vmm_policy *policy, const struct vmm_policy_item *item);
/* The item begins (zeros, but for key and bytes): what was kept under its key is known again. */
void vmm_policy_recall(struct vmm_policy *policy, struct vmm_policy_item *item);

#endif
