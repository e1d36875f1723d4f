/* SPDX-License-Identifier: Apache-2.0
 *
 * Cost-aware: who leaves a tier is who takes most space for the longest time and is had back most cheaply:
 *
 *     bytes × expected time to the next use ÷ (latency + bytes × time a byte takes), the largest first
 *
 * Cost over size is GreedyDual-Size (Cao, Irani, USITS 1997) and its frequency GreedyDual-Size-Frequency (Cherkasova, HPL-98-69R1);
 * that the time already waited counts, so that the order changes without touches, is of LHD (Beckmann, Chen, Cidon, NSDI 2018)
 * and hyperbolic caching (Blankstein, Sen, Freedman, USENIX ATC 2017). Those sample their candidates for that reason. Here the order is exact: items are
 * sorted into classes within which the oldest touch always leaves first, and only the oldest of each class are compared.
 *
 * The expected time is the larger of the item's usual interval and the time since its last use, less for each doubling of
 * its uses (÷ √2), more for an item that was used once (× 2: most never come again). The interval of those is what was usual
 * for others that came a second time: the mean of the logarithms, of the last 256 or so.
 *
 * A class is a number of half octaves of weight (uses; bytes) × an octave of interval. */
#include "vmm/policy_lists.h"

#define N_INTERVALS 12 /* 1 s, 2 s … 2048 s */
#define N_WEIGHTS   13
#define COLD        0 /* the list of what was cooled; the classes follow */

_Static_assert(1 + N_INTERVALS * N_WEIGHTS <= VMM_POLICY_N_LISTS, "a list for each class");

/* 2^(i/2), for weights from 1/2 to 32. */
static const double weights[N_WEIGHTS] = {0.5, 0.70710678118654752, 1, 1.4142135623730951, 2,  2.8284271247461903,
                                          4,   5.6568542494923806,  8, 11.313708498984761, 16, 22.627416997969522,
                                          32};
#define WEIGHT_OF_ONE 2

#define MOST_USES_WEIGHT 4 /* 16 uses and more */

/* n with 2^n s ≤ interval + 1 s < 2^(n+1) s, at most the last class. */
static uint32_t interval_class(uint64_t interval_ns)
{
    uint64_t seconds = interval_ns / VMM_POLICY_ONE_USE_NS + 1;
    uint32_t class = 63 - (uint32_t)__builtin_clzll(seconds);
    return class < N_INTERVALS ? class : N_INTERVALS - 1;
}

/* Half octaves. */
static int uses_weight(uint32_t uses)
{
    if (uses < 2)
        return -2;
    int octaves = 31 - __builtin_clz(uses);
    return octaves < MOST_USES_WEIGHT ? octaves : MOST_USES_WEIGHT;
}

/* How much dearer a byte of a small item is: half octaves of 1 + latency ÷ transfer. */
static int size_weight(struct vmm_policy_return back, uint64_t bytes)
{
    if (!bytes)
        return 0;
    double transfer_ns = (double)bytes * (double)back.ps_per_byte / 1000;
    double dearer = transfer_ns + (double)back.latency_ns;
    int half_octaves = 0;
    while (half_octaves < N_WEIGHTS && dearer * dearer >= transfer_ns * transfer_ns * (double)(2ull << half_octaves))
        half_octaves++;
    return half_octaves;
}

static uint8_t class_of(const struct vmm_policy *policy, enum vmm_tier tier, const struct vmm_policy_item *item)
{
    if (item->cold)
        return COLD;
    int weight = WEIGHT_OF_ONE + uses_weight(item->uses) + size_weight(policy->back[tier], item->bytes);
    if (weight >= N_WEIGHTS)
        weight = N_WEIGHTS - 1;
    return (uint8_t)(1 + (unsigned)weight * N_INTERVALS + item->interval_class);
}

static void link_in(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item)
{
    struct vmm_policy_tier *in = &policy->tier[tier];
    uint8_t list = class_of(policy, tier, item);
    struct vmm_policy_link *head = &in->list[list], *place = head;
    if (list == COLD) {
        place = head->prev;
    } else {
        /* Kept in order of touches. What comes from a tier above was touched later than what came before it, as a rule. */
        while (place->next != head && vmm_policy_item_of(place->next, tier)->order > item->order)
            place = place->next;
    }
    vmm_policy_link_after(place, &item->link[tier]);
    item->at[tier].list = list;
    in->filled[list / 64] |= 1ull << list % 64;
}

static void cost_remove(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item)
{
    struct vmm_policy_tier *in = &policy->tier[tier];
    uint8_t list = item->at[tier].list;
    vmm_policy_detach(&item->link[tier]);
    if (in->list[list].next == &in->list[list])
        in->filled[list / 64] &= ~(1ull << list % 64);
}

static void again_everywhere(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    for (int tier = 0; tier < VMM_N_TIERS; tier++) {
        if (!vmm_policy_linked(item, tier))
            continue;
        cost_remove(policy, tier, item);
        link_in(policy, tier, item);
    }
}

static void cost_touch(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    bool again = vmm_policy_note_use(policy, item);
    uint64_t usual = policy->usual_interval; /* of interval_class(), in 1/65536 */
    if (again && item->uses == 2)
        policy->usual_interval = usual - usual / 256 + (uint64_t)interval_class(item->interval_ns) * 65536 / 256;
    item->interval_class = item->uses < 2 ? (uint32_t)(usual >> 16) : interval_class(item->interval_ns);
    again_everywhere(policy, item);
}

static void cost_insert(struct vmm_policy *policy, enum vmm_tier tier, struct vmm_policy_item *item)
{
    if (item->uses == 0)
        cost_touch(policy, item);
    link_in(policy, tier, item);
}

static void cost_cool(struct vmm_policy *policy, struct vmm_policy_item *item)
{
    item->cold = true;
    again_everywhere(policy, item);
}

static double expected(const struct vmm_policy_item *item, uint8_t list, uint64_t now)
{
    uint64_t usual = VMM_POLICY_ONE_USE_NS * (1ull << (list - 1) % N_INTERVALS);
    uint64_t waited = now > item->used_ns ? now - item->used_ns : 0;
    return (double)(waited > usual ? waited : usual);
}

static struct vmm_policy_item *cost_victim(struct vmm_policy *policy, enum vmm_tier tier, vmm_policy_usable *usable,
                                           void *ctx)
{
    const struct vmm_policy_tier *in = &policy->tier[tier];
    uint64_t now = vmm_policy_now(policy);
    struct vmm_policy_item *best = vmm_policy_coldest(policy, tier, COLD, usable, ctx);
    if (best)
        return best;
    double most = 0;
    for (unsigned word = 0; word < sizeof in->filled / sizeof *in->filled; word++)
        for (uint64_t left = in->filled[word]; left; left &= left - 1) {
            uint8_t list = (uint8_t)(word * 64 + (unsigned)__builtin_ctzll(left));
            struct vmm_policy_item *item = vmm_policy_coldest(policy, tier, list, usable, ctx);
            if (!item || list == COLD)
                continue;
            double worth = expected(item, list, now) / weights[(list - 1) / N_INTERVALS];
            if (!best || worth > most || (worth == most && item->order < best->order)) {
                most = worth;
                best = item;
            }
        }
    return best;
}

const struct vmm_policy_ops vmm_policy_cost = {.name = "cost",
                                               .insert = cost_insert,
                                               .remove = cost_remove,
                                               .touch = cost_touch,
                                               .cool = cost_cool,
                                               .victim = cost_victim};
