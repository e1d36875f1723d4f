/* SPDX-License-Identifier: Apache-2.0
 *
 * A prefix cache in three tiers, without its bytes, under the policies of libkvmm (vmm/policy.h) on a clock that the trace
 * sets. One request after the other:
 *
 * - It finds its blocks as far as each is in some tier; the first that is in none ends that, and all from there on are
 *   computed, also those that are still somewhere.
 * - All its blocks come to the device, the last first, so that the first are the most recent: without them the others are
 *   no use. None of them leaves a tier meanwhile but for the device.
 * - What must leave the device goes to host memory, and from there to NVMe; or to the next tier that has room for it. A block
 *   that comes back gives its place in host memory up. Its copy on NVMe stays, so that it leaves without a write next
 *   time: until NVMe is full, when first such copies go, the oldest first, and then blocks that are nowhere else.
 * - A block that leaves the last tier is forgotten but for a ghost (vmm_policy_forget).
 *
 * The device and the host tier are ranked by one instance of the policy, as in the manager; NVMe by another. */
#include <stdio.h>
#include <stdlib.h>

#include "tools/bench_policy.h"
#include "vmm/policy.h"

/* What leaves NVMe is computed again: Llama-3-8B at 10,000 tokens/s, 128 KiB each. */
#define COMPUTE_PS_PER_BYTE 760

enum place { NOWHERE, ON_DEVICE, IN_HOST, ON_NVME };

struct block {
    struct vmm_policy_item item;       /* on the device and in host memory */
    struct vmm_policy_item store_item; /* of NVMe, in VMM_TIER_DEVICE of its policy */
    struct block *prev, *next;         /* in sim.copies */
    uint32_t request;                  /* that used it last */
    uint8_t place;                     /* where it is found: enum place */
    bool on_nvme;                      /* has a copy there, wherever it is found */
};

struct sim {
    struct vmm_policy policy, store;
    uint64_t now_ns;
    uint32_t request; /* that runs */
    struct policy_sizes sizes;
    uint32_t used[N_POLICY_TIERS]; /* blocks */
    struct block *blocks;
    struct block copies; /* head of the circular list of blocks on NVMe that are found above, the oldest first */
    struct policy_result result;
};

static uint64_t sim_now(void *user)
{
    return ((const struct sim *)user)->now_ns;
}

static struct block *block_of(struct vmm_policy_item *item)
{
    return (struct block *)(void *)((char *)item - offsetof(struct block, item));
}

static struct block *block_of_store(struct vmm_policy_item *item)
{
    return (struct block *)(void *)((char *)item - offsetof(struct block, store_item));
}

static bool is_idle(void *ctx, struct vmm_policy_item *item)
{
    return block_of(item)->request != ((const struct sim *)ctx)->request;
}

static bool is_idle_on_nvme(void *ctx, struct vmm_policy_item *item)
{
    return block_of_store(item)->request != ((const struct sim *)ctx)->request;
}

/* ---- blocks ---- */

static void begin(struct sim *sim, struct block *block)
{
    uint64_t key = (uint64_t)(block - sim->blocks) + 1;
    *block = (struct block){.item = {.key = key, .bytes = POLICY_BLOCK_BYTES},
                            .store_item = {.key = key, .bytes = POLICY_BLOCK_BYTES}};
    vmm_policy_recall(&sim->policy, &block->item);
    vmm_policy_recall(&sim->store, &block->store_item);
}

static void drop(struct sim *sim, struct block *block)
{
    vmm_policy_forget(&sim->policy, &block->item);
    vmm_policy_forget(&sim->store, &block->store_item);
    block->place = NOWHERE;
    sim->result.dropped++;
}

/* ---- tiers ---- */

static void leave(struct sim *sim, struct block *block)
{
    switch ((enum place)block->place) {
    case ON_DEVICE:
        sim->policy.ops->remove(&sim->policy, VMM_TIER_DEVICE, &block->item);
        sim->used[POLICY_DEVICE]--;
        break;
    case IN_HOST:
        sim->policy.ops->remove(&sim->policy, VMM_TIER_HOST, &block->item);
        sim->used[POLICY_HOST]--;
        break;
    case ON_NVME:
        sim->store.ops->remove(&sim->store, VMM_TIER_DEVICE, &block->store_item);
        break;
    case NOWHERE:
        break;
    }
}

static void arrive_on_nvme(struct sim *sim, struct block *block)
{
    sim->store.ops->insert(&sim->store, VMM_TIER_DEVICE, &block->store_item);
    block->place = ON_NVME;
}

static bool has_room(const struct sim *sim, enum policy_tier tier)
{
    return sim->sizes.blocks[tier] == POLICY_UNLIMITED || sim->used[tier] < sim->sizes.blocks[tier];
}

static bool make_room_on_nvme(struct sim *sim)
{
    if (has_room(sim, POLICY_NVME))
        return true;
    struct block *block = sim->copies.next;
    if (block != &sim->copies) {
        block->prev->next = block->next;
        block->next->prev = block->prev;
    } else {
        struct vmm_policy_item *item = sim->store.ops->victim(&sim->store, VMM_TIER_DEVICE, is_idle_on_nvme, sim);
        if (!item)
            return false;
        block = block_of_store(item);
        leave(sim, block);
        drop(sim, block);
    }
    block->on_nvme = false;
    sim->used[POLICY_NVME]--;
    return true;
}

/* A block that has left the tiers above. */
static void put_on_nvme(struct sim *sim, struct block *block, enum policy_way way)
{
    if (block->on_nvme) {
        block->prev->next = block->next;
        block->next->prev = block->prev;
        arrive_on_nvme(sim, block);
    } else if (make_room_on_nvme(sim)) {
        block->on_nvme = true;
        sim->used[POLICY_NVME]++;
        sim->result.moved[way]++;
        arrive_on_nvme(sim, block);
    } else {
        drop(sim, block);
    }
}

static bool make_room_in_host(struct sim *sim)
{
    if (has_room(sim, POLICY_HOST))
        return true;
    struct vmm_policy_item *item = sim->policy.ops->victim(&sim->policy, VMM_TIER_HOST, is_idle, sim);
    if (!item)
        return false;
    leave(sim, block_of(item));
    put_on_nvme(sim, block_of(item), POLICY_HOST_TO_NVME);
    return true;
}

/* The device holds the longest request, so that there is a victim which the running one does not use. */
static void make_room_on_device(struct sim *sim)
{
    if (has_room(sim, POLICY_DEVICE))
        return;
    struct block *block = block_of(sim->policy.ops->victim(&sim->policy, VMM_TIER_DEVICE, is_idle, sim));
    leave(sim, block);
    if (!make_room_in_host(sim)) {
        put_on_nvme(sim, block, POLICY_DEVICE_TO_NVME);
        return;
    }
    sim->policy.ops->insert(&sim->policy, VMM_TIER_HOST, &block->item);
    block->place = IN_HOST;
    sim->used[POLICY_HOST]++;
    sim->result.moved[POLICY_DEVICE_TO_HOST]++;
}

/* ---- requests ---- */

static void use(struct sim *sim, struct block *block, bool found)
{
    sim->policy.ops->touch(&sim->policy, &block->item);
    sim->store.ops->touch(&sim->store, &block->store_item);
    if (block->place == ON_DEVICE)
        return;
    if (found)
        sim->result.moved[block->place == IN_HOST ? POLICY_HOST_TO_DEVICE : POLICY_NVME_TO_DEVICE]++;
    leave(sim, block); /* first: what makes room for it may have its place in host memory */
    make_room_on_device(sim);
    if (block->place == ON_NVME) {
        struct block *last = sim->copies.prev;
        block->prev = last;
        block->next = &sim->copies;
        last->next = sim->copies.prev = block;
    }
    sim->policy.ops->insert(&sim->policy, VMM_TIER_DEVICE, &block->item);
    block->place = ON_DEVICE;
    sim->used[POLICY_DEVICE]++;
}

static void serve(struct sim *sim, const uint32_t *blocks, uint32_t n)
{
    uint32_t found = 0;
    while (found < n && sim->blocks[blocks[found]].place != NOWHERE)
        sim->result.hits[sim->blocks[blocks[found++]].place - ON_DEVICE]++;
    sim->result.computed += n - found;
    for (uint32_t i = 0; i < n; i++) {
        struct block *block = &sim->blocks[blocks[i]];
        if (block->place == NOWHERE)
            begin(sim, block);
        block->request = sim->request;
    }
    for (uint32_t i = n; i-- > 0;)
        use(sim, &sim->blocks[blocks[i]], i < found);
}

/* ---- all of it ---- */

static bool open_policy(struct sim *sim, struct vmm_policy *policy, const char *name)
{
    if (!vmm_policy_init(policy, name))
        return false;
    policy->now_ns = sim_now;
    policy->user = sim;
    policy->n_ghosts = sim->sizes.ghosts;
    policy->ghosts = calloc(policy->n_ghosts, sizeof *policy->ghosts);
    return policy->ghosts != NULL;
}

bool policy_simulate(const struct policy_trace *trace, const char *policy, const struct policy_sizes *sizes,
                     struct policy_result *result)
{
    bool good = false;
    struct sim *sim = calloc(1, sizeof *sim);
    if (!sim)
        goto out;
    sim->sizes = *sizes;
    sim->copies.prev = sim->copies.next = &sim->copies;
    sim->blocks = calloc(trace->n_distinct, sizeof *sim->blocks);
    if (!sim->blocks || !open_policy(sim, &sim->policy, policy) || !open_policy(sim, &sim->store, policy))
        goto out;
    sim->store.back[VMM_TIER_DEVICE] = (struct vmm_policy_return){.ps_per_byte = COMPUTE_PS_PER_BYTE};
    for (uint32_t i = 0; i < trace->n_requests; i++) {
        const struct policy_request *request = &trace->requests[i];
        sim->now_ns = request->at_ns;
        sim->request = i + 1;
        serve(sim, trace->blocks + request->first, request->n);
        policy_progress(policy, i, trace->n_requests);
    }
    *result = sim->result;
    good = true;
out:
    policy_progress(NULL, 0, 0);
    if (!good)
        fprintf(stderr, POLICY_COMMAND ": %s: there is no memory for the simulation\n", trace->path);
    if (sim) {
        free(sim->policy.ghosts);
        free(sim->store.ghosts);
        free(sim->blocks);
    }
    free(sim);
    return good;
}
