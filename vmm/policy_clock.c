/* SPDX-License-Identifier: Apache-2.0
 *
 * CLOCK: a touch sets a bit; the hand, at the cold end, clears it and passes the item on to the hot end once. */
#include "vmm/policy_lists.h"

static void clock_touch(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    item->referenced = true;
}

static struct vmm_policy_item *clock_victim(struct vmm_policy *policy, enum vmm_tier tier, vmm_policy_usable *usable,
                                            void *ctx)
{
    struct vmm_policy_link *head = &policy->tier[tier].list[0];
    struct vmm_policy_link *first_spared = NULL;
    struct vmm_policy_link *link = head->prev;
    while (link != head && link != first_spared) {
        struct vmm_policy_link *next = link->prev;
        struct vmm_policy_item *item = vmm_policy_item_of(link, tier);
        if (item->referenced && usable(ctx, item)) {
            item->referenced = false;
            vmm_policy_detach(link);
            vmm_policy_link_after(head, link);
            if (!first_spared)
                first_spared = link;
        } else if (usable(ctx, item)) {
            return item;
        }
        link = next;
    }
    /* The whole round was spared: its first is now at the cold end. */
    return vmm_policy_coldest(policy, tier, 0, usable, ctx);
}

const struct vmm_policy_ops vmm_policy_clock = {.name = "clock",
                                                .insert = vmm_policy_one_insert,
                                                .remove = vmm_policy_one_remove,
                                                .touch = clock_touch,
                                                .cool = vmm_policy_one_cool,
                                                .victim = clock_victim};
