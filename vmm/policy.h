/* SPDX-License-Identifier: Apache-2.0
 *
 * Which sequence's frames leave a tier first. Attention touches all of a sequence's frames at each step, so the policy
 * ranks sequences, not frames: a touch is O(1) however long the sequence is. Mechanism (what a victim is, where its
 * frames go) is residency.c's; a policy only orders items. All calls are made under the manager's lock. */
#ifndef VMM_POLICY_H
#define VMM_POLICY_H

#include <stdbool.h>
#include <stddef.h>

enum vmm_tier { VMM_TIER_DEVICE, VMM_TIER_HOST, VMM_N_TIERS };

struct vmm_policy_link {
    struct vmm_policy_link *prev, *next; /* NULL: not in that tier's list */
};

/* Embedded in what is ranked. Zeroed before use; the policy's from then on. */
struct vmm_policy_item {
    struct vmm_policy_link link[VMM_N_TIERS];
    bool referenced; /* clock: used since the hand last passed */
};

struct vmm_policy;

/* Asked of each candidate, first choice first, until it says true. */
typedef bool vmm_policy_usable(void *ctx, struct vmm_policy_item *item);

struct vmm_policy_ops {
    const char *name;
    /* The item has frames in the tier now / no longer. */
    void (*insert)(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item);
    void (*remove)(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item);
    /* A step uses the item, or it was announced that one soon will. */
    void (*touch)(struct vmm_policy *policy, struct vmm_policy_item *item);
    /* The item won't be used for a while: it is the first choice in every tier. */
    void (*cool)(struct vmm_policy *policy, struct vmm_policy_item *item);
    /* The item whose frames leave the tier next, or NULL if none is usable. */
    struct vmm_policy_item *(*victim)(struct vmm_policy *policy, enum vmm_tier tier, vmm_policy_usable *usable,
                                      void *ctx);
};

struct vmm_policy {
    const struct vmm_policy_ops *ops;
    struct vmm_policy_link list[VMM_N_TIERS]; /* circular; .next is the hot end, .prev the cold end */
};

/* "lru" or "clock"; false for any other name. Holds no memory, needs no close. */
bool vmm_policy_init(struct vmm_policy *policy, const char *name);

#endif
