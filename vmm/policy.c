/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/policy.h"

#include <string.h>

static struct vmm_policy_item *item_of(struct vmm_policy_link *link, enum vmm_tier tier)
{
    return (struct vmm_policy_item *)(void *)((char *)link - offsetof(struct vmm_policy_item, link) -
                                              (size_t)tier * sizeof *link);
}

static void link_after(struct vmm_policy_link *place, struct vmm_policy_link *link)
{
    link->prev = place;
    link->next = place->next;
    place->next->prev = link;
    place->next = link;
}

static void detach(struct vmm_policy_link *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
}

static void list_insert(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item)
{
    link_after(&policy->list[tier], &item->link[tier]);
}

static void list_remove(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item)
{
    detach(&item->link[tier]);
    item->link[tier] = (struct vmm_policy_link){0};
}

static void list_cool(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    for (int tier = 0; tier < VMM_N_TIERS; tier++) {
        if (!item->link[tier].next)
            continue;
        detach(&item->link[tier]);
        link_after(policy->list[tier].prev, &item->link[tier]);
    }
    item->referenced = false;
}

/* LRU: a list in order of use; exact, a few pointer writes a touch. */

static void lru_touch(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    for (int tier = 0; tier < VMM_N_TIERS; tier++) {
        if (!item->link[tier].next || policy->list[tier].next == &item->link[tier])
            continue;
        detach(&item->link[tier]);
        link_after(&policy->list[tier], &item->link[tier]);
    }
}

static struct vmm_policy_item *lru_victim(struct vmm_policy *policy, enum vmm_tier tier, vmm_policy_usable *usable,
                                          void *ctx)
{
    struct vmm_policy_link *head = &policy->list[tier];
    /* The list is circular; the analyser loses that in clock_victim. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
    for (struct vmm_policy_link *link = head->prev; link != head; link = link->prev) {
        if (usable(ctx, item_of(link, tier)))
            return item_of(link, tier);
    }
    return NULL;
}

/* CLOCK: a touch sets a bit; the hand, at the cold end, clears it and passes the item on to the hot end once. */

static void clock_touch(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    item->referenced = true;
}

static struct vmm_policy_item *clock_victim(struct vmm_policy *policy, enum vmm_tier tier, vmm_policy_usable *usable,
                                            void *ctx)
{
    struct vmm_policy_link *head = &policy->list[tier];
    struct vmm_policy_link *first_spared = NULL;
    struct vmm_policy_link *link = head->prev;
    while (link != head && link != first_spared) {
        struct vmm_policy_link *next = link->prev;
        struct vmm_policy_item *item = item_of(link, tier);
        if (item->referenced && usable(ctx, item)) {
            item->referenced = false;
            detach(link);
            link_after(head, link);
            if (!first_spared)
                first_spared = link;
        } else if (usable(ctx, item)) {
            return item;
        }
        link = next;
    }
    return lru_victim(policy, tier, usable, ctx); /* the whole round was spared: its first is now at the cold end */
}

static const struct vmm_policy_ops policies[] = {
    {.name = "lru",
     .insert = list_insert,
     .remove = list_remove,
     .touch = lru_touch,
     .cool = list_cool,
     .victim = lru_victim},
    {.name = "clock",
     .insert = list_insert,
     .remove = list_remove,
     .touch = clock_touch,
     .cool = list_cool,
     .victim = clock_victim},
};

bool vmm_policy_init(struct vmm_policy *policy, const char *name)
{
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        if (strcmp(name, policies[i].name) != 0)
            continue;
        policy->ops = &policies[i];
        for (int tier = 0; tier < VMM_N_TIERS; tier++)
            policy->list[tier].prev = policy->list[tier].next = &policy->list[tier];
        return true;
    }
    return false;
}
