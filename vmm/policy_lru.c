/* SPDX-License-Identifier: Apache-2.0
 *
 * LRU: a list in order of use; exact, a few pointer writes a touch. */
#include "vmm/policy_lists.h"

static void lru_touch(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    for (int tier = 0; tier < VMM_N_TIERS; tier++) {
        struct vmm_policy_link *head = &policy->tier[tier].list[0];
        if (!vmm_policy_linked(item, tier) || head->next == &item->link[tier])
            continue;
        vmm_policy_detach(&item->link[tier]);
        vmm_policy_link_after(head, &item->link[tier]);
    }
}

static struct vmm_policy_item *lru_victim(struct vmm_policy *policy, enum vmm_tier tier, vmm_policy_usable *usable,
                                          void *ctx)
{
    return vmm_policy_coldest(policy, tier, 0, usable, ctx);
}

const struct vmm_policy_ops vmm_policy_lru = {.name = "lru",
                                              .insert = vmm_policy_one_insert,
                                              .remove = vmm_policy_one_remove,
                                              .touch = lru_touch,
                                              .cool = vmm_policy_one_cool,
                                              .victim = lru_victim};
