/* SPDX-License-Identifier: Apache-2.0
 *
 * What the policies share: lists of items, a list's number in item.at[tier].list, and an item's history of uses. */
#ifndef VMM_POLICY_LISTS_H
#define VMM_POLICY_LISTS_H

#include "vmm/policy.h"

extern const struct vmm_policy_ops vmm_policy_lru, vmm_policy_clock, vmm_policy_arc, vmm_policy_cost;

static inline struct vmm_policy_item *vmm_policy_item_of(struct vmm_policy_link *link, enum vmm_tier tier)
{
    return (struct vmm_policy_item *)(void *)((char *)link - offsetof(struct vmm_policy_item, link) -
                                              (size_t)tier * sizeof *link);
}

static inline bool vmm_policy_linked(const struct vmm_policy_item *item, enum vmm_tier tier)
{
    return item->link[tier].next != NULL;
}

static inline void vmm_policy_link_after(struct vmm_policy_link *place, struct vmm_policy_link *link)
{
    link->prev = place;
    link->next = place->next;
    place->next->prev = link;
    place->next = link;
}

static inline void vmm_policy_detach(struct vmm_policy_link *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    *link = (struct vmm_policy_link){0};
}

/* The first usable one from the cold end, or NULL. */
struct vmm_policy_item *vmm_policy_coldest(struct vmm_policy *policy, enum vmm_tier tier, unsigned list,
                                           vmm_policy_usable *usable, void *ctx);

uint64_t vmm_policy_now(const struct vmm_policy *policy);

/* A touch, in the item's history. True if it begins a use that is not the item's first. */
bool vmm_policy_note_use(struct vmm_policy *policy, struct vmm_policy_item *item);

/* The operations of a policy with one list a tier: lru, clock. */
void vmm_policy_one_insert(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item);
void vmm_policy_one_remove(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item);
void vmm_policy_one_cool(struct vmm_policy *policy, struct vmm_policy_item *item);

#endif
