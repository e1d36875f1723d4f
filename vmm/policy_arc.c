/* SPDX-License-Identifier: Apache-2.0
 *
 * ARC: what was used once and what was used again are two lists, so that a scan of things used once does not flush the
 * others. An item that comes back shortly after it left says which list is too short: the list's target moves by the
 * item's weight. Megiddo, Modha: ARC, a self-tuning, low overhead replacement cache (FAST 2003).
 *
 * What differs from the paper, all of it because an item here outlives its stay in a tier and the manager decides when
 * something leaves:
 * - The capacity is what the tier holds now. Items weigh their bytes.
 * - The directories of what left (B1, B2) are no lists: an item knows when it left, by a counter of the weight that left
 *   the tier, and is remembered until the tier's capacity has left after it. Together they hold what the tier holds, as in
 *   the paper; the target moves by the item's weight and not by a multiple of it, which needs the lengths of B1 and B2.
 * - An item that is used while it is in a lower tier has been used again there, and begins in that tier's AGAIN when it
 *   comes back from above.
 * - Touches within VMM_POLICY_ONE_USE_NS are one use: decoding would make all sequences frequent. */
#include "vmm/policy_lists.h"

enum { COLD, ONCE, AGAIN, N_ARC_LISTS }; /* T1 and T2 of the paper, and what was cooled */

_Static_assert(sizeof((struct vmm_policy_tier *)0)->weight / sizeof(uint64_t) == N_ARC_LISTS, "a weight for each list");

static uint64_t held(const struct vmm_policy_tier *in)
{
    return in->weight[COLD] + in->weight[ONCE] + in->weight[AGAIN];
}

static void enter(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item, uint8_t list)
{
    struct vmm_policy_tier *in = &policy->tier[tier];
    struct vmm_policy_place *place = &item->at[tier];
    place->list = list;
    place->weight = item->bytes ? item->bytes : 1;
    in->weight[list] += place->weight;
    vmm_policy_link_after(list == COLD ? in->list[list].prev : &in->list[list], &item->link[tier]);
}

static void leave(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item)
{
    policy->tier[tier].weight[item->at[tier].list] -= item->at[tier].weight;
    vmm_policy_detach(&item->link[tier]);
}

static void arc_insert(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item)
{
    if (item->uses == 0)
        (void)vmm_policy_note_use(policy, item);
    item->at[tier].ghost = 0;
    item->at[tier].chosen = false;
    enter(policy, tier, item, item->cold ? COLD : item->at[tier].frequent ? AGAIN : ONCE);
}

static void arc_remove(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item)
{
    struct vmm_policy_place *place = &item->at[tier];
    leave(policy, tier, item);
    if (!place->chosen)
        return;
    policy->tier[tier].left += place->weight;
    place->left = policy->tier[tier].left;
    place->ghost = place->list;
    place->frequent = false;
    place->chosen = false;
}

/* The item is used and is not in the tier, from which it was evicted. */
static void learn(struct vmm_policy_tier *in, struct vmm_policy_place *place)
{
    uint64_t capacity = held(in);
    place->frequent = in->left - place->left <= capacity;
    if (place->frequent && place->ghost == ONCE)
        in->target = in->target + place->weight < capacity ? in->target + place->weight : capacity;
    else if (place->frequent && place->ghost == AGAIN)
        in->target = in->target > place->weight ? in->target - place->weight : 0;
    place->ghost = 0;
}

static void arc_touch(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    bool again = vmm_policy_note_use(policy, item);
    for (int tier = 0; tier < VMM_N_TIERS; tier++) {
        struct vmm_policy_place *place = &item->at[tier];
        if (vmm_policy_linked(item, tier)) {
            place->frequent |= again;
            place->chosen = false;
            leave(policy, tier, item);
            enter(policy, tier, item, place->frequent ? AGAIN : ONCE);
        } else if (place->ghost) {
            learn(&policy->tier[tier], place);
        }
    }
}

static void arc_cool(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    item->cold = true;
    for (int tier = 0; tier < VMM_N_TIERS; tier++) {
        if (!vmm_policy_linked(item, tier))
            continue;
        leave(policy, tier, item);
        enter(policy, tier, item, COLD);
    }
}

static struct vmm_policy_item *arc_victim(struct vmm_policy *policy, enum vmm_tier tier, vmm_policy_usable *usable,
                                          void *ctx)
{
    const struct vmm_policy_tier *in = &policy->tier[tier];
    uint8_t first = in->weight[ONCE] > in->target ? ONCE : AGAIN;
    struct vmm_policy_item *item = vmm_policy_coldest(policy, tier, COLD, usable, ctx);
    if (!item)
        item = vmm_policy_coldest(policy, tier, first, usable, ctx);
    if (!item)
        item = vmm_policy_coldest(policy, tier, first == ONCE ? AGAIN : ONCE, usable, ctx);
    if (item)
        item->at[tier].chosen = true;
    return item;
}

const struct vmm_policy_ops vmm_policy_arc = {.name = "arc",
                                              .insert = arc_insert,
                                              .remove = arc_remove,
                                              .touch = arc_touch,
                                              .cool = arc_cool,
                                              .victim = arc_victim};
