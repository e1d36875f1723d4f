/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/policy.h"

#include <string.h>

#include "vmm/policy_lists.h"

/* Bytes come back to the device over PCIe 4.0 × 16, to what is above NVMe from a good drive. */
#define PCIE_RETURN ((struct vmm_policy_return){.latency_ns = 20000, .ps_per_byte = 40})
#define NVME_RETURN ((struct vmm_policy_return){.latency_ns = 100000, .ps_per_byte = 150})

enum { N_POLICIES = 4 };
static const struct vmm_policy_ops *const policies[N_POLICIES] = {&vmm_policy_lru, &vmm_policy_clock, &vmm_policy_arc,
                                                                  &vmm_policy_cost};

const char *vmm_policy_name(size_t i)
{
    return i < N_POLICIES ? policies[i]->name : NULL;
}

bool vmm_policy_init(struct vmm_policy *policy, const char *name)
{
    for (size_t i = 0; i < N_POLICIES; i++) {
        if (strcmp(name, policies[i]->name) != 0)
            continue;
        *policy = (struct vmm_policy){.ops = policies[i]};
        for (int tier = 0; tier < VMM_N_TIERS; tier++) {
            policy->back[tier] = tier == VMM_TIER_DEVICE ? PCIE_RETURN : NVME_RETURN;
            for (int list = 0; list < VMM_POLICY_N_LISTS; list++) {
                struct vmm_policy_link *head = &policy->tier[tier].list[list];
                head->prev = head->next = head;
            }
        }
        return true;
    }
    return false;
}

/* ---- history ---- */

uint64_t vmm_policy_now(const struct vmm_policy *policy)
{
    return policy->now_ns ? policy->now_ns(policy->user) : policy->n_touches * VMM_POLICY_ONE_USE_NS;
}

bool vmm_policy_note_use(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    item->order = ++policy->n_touches;
    uint64_t now = vmm_policy_now(policy);
    bool first = item->uses == 0;
    uint64_t gap = !first && now > item->used_ns ? now - item->used_ns : 0;
    bool again = gap >= VMM_POLICY_ONE_USE_NS;
    if (again)
        item->interval_ns = item->interval_ns ? item->interval_ns / 2 + gap / 2 : gap;
    if ((first || again) && item->uses < UINT32_MAX)
        item->uses++;
    item->used_ns = now;
    item->cold = false;
    return again;
}

static struct vmm_policy_ghost *ghost_at(struct vmm_policy *policy, uint64_t key)
{
    return policy->ghosts && key ? &policy->ghosts[key & (policy->n_ghosts - 1)] : NULL;
}

void vmm_policy_forget(struct vmm_policy *policy, const struct vmm_policy_item *item)
{
    struct vmm_policy_ghost *ghost = ghost_at(policy, item->key);
    if (!ghost || item->uses == 0)
        return;
    *ghost = (struct vmm_policy_ghost){
        .key = item->key, .used_ns = item->used_ns, .interval_ns = item->interval_ns, .uses = item->uses};
    memcpy(ghost->at, item->at, sizeof ghost->at);
}

void vmm_policy_recall(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    struct vmm_policy_ghost *ghost = ghost_at(policy, item->key);
    if (!ghost || ghost->key != item->key)
        return;
    item->used_ns = ghost->used_ns;
    item->interval_ns = ghost->interval_ns;
    item->uses = ghost->uses;
    memcpy(item->at, ghost->at, sizeof item->at);
    ghost->key = 0;
}

/* ---- lists ---- */

struct vmm_policy_item *vmm_policy_coldest(struct vmm_policy *policy, enum vmm_tier tier, unsigned list,
                                           vmm_policy_usable *usable, void *ctx)
{
    struct vmm_policy_link *head = &policy->tier[tier].list[list];
    for (struct vmm_policy_link *link = head->prev; link != head; link = link->prev) {
        struct vmm_policy_item *item = vmm_policy_item_of(link, tier);
        if (usable(ctx, item))
            return item;
    }
    return NULL;
}

void vmm_policy_one_insert(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item)
{
    vmm_policy_link_after(&policy->tier[tier].list[0], &item->link[tier]);
}

void vmm_policy_one_remove(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item)
{
    vmm_policy_detach(&item->link[tier]);
}

void vmm_policy_one_cool(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    for (int tier = 0; tier < VMM_N_TIERS; tier++) {
        if (!vmm_policy_linked(item, tier))
            continue;
        vmm_policy_detach(&item->link[tier]);
        vmm_policy_link_after(policy->tier[tier].list[0].prev, &item->link[tier]);
    }
    item->referenced = false;
}

void vmm_policy_inherit(struct vmm_policy_item *item, const struct vmm_policy_item *from)
{
    item->order = from->order;
    item->used_ns = from->used_ns;
    item->interval_ns = from->interval_ns;
    item->uses = from->uses;
    item->interval_class = from->interval_class;
    item->referenced = from->referenced;
    item->cold = from->cold;
}
