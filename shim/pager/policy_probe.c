/* SPDX-License-Identifier: Apache-2.0
 *
 * Which residents are idle. The pager takes a few out of the view; one in use is touched soon.
 *
 * Without a sweep wider than memory the old end of the resident set is under probation before it has to leave (the pool).
 * Beside one, a share of the residents is probed in each of its rounds: all at first, fewer while they turn out to be used,
 * more at once when one turns out to be idle. */
#include "shim/pager/policy_state.h"

/* Whole rounds after which what was probed and not used is idle. */
#define ROUNDS_IDLE    2u
#define SAMPLE_SKIP    7u  /* residents passed over for each that is probed at the lowest rate */
#define PROBES_ARRIVAL 4u  /* probes allowed for each arrival when no sweep goes on */
#define POOL_SHARE     16u /* part of memory */
#define POOL_MIN       4u

static void rate_adapt(struct shim_policy *policy)
{
    if (!policy->streaming || age(policy, policy->judged) < policy->cycle)
        return;
    if (policy->n_cold < policy->n_used)
        policy->rate = policy->rate / 2 < RATE_MIN ? RATE_MIN : policy->rate / 2;
    policy->judged = policy->clock;
    policy->n_used = policy->n_cold = 0;
}

/* What is under probation for more than a round is cold; what was read ahead and not used while much
 * else arrived was a mistake. */
void shim_policy_expire(struct shim_policy *policy)
{
    uint32_t index = list_first(policy, PROBED);
    uint32_t patience = policy->cycle + policy->cycle / 2 + 8;
    while (index != SHIM_NO_CHUNK) {
        uint32_t since = policy->chunks[index].seen;
        if (!(policy->cycle && age(policy, since) > patience) &&
            !shim_rounds_passed(&policy->rounds, since, policy->clock, ROUNDS_IDLE))
            break;
        policy->chunks[index].left_from = PROBED;
        shim_policy_move(policy, index, COLD);
        policy->n_cold++;
        policy->rate = policy->rate > RATE_ONE / 2 ? RATE_ONE : policy->rate * 2;
        index = list_first(policy, PROBED);
    }
    index = list_first(policy, AHEAD);
    while (index != SHIM_NO_CHUNK && age(policy, policy->chunks[index].arrived) > 2 * policy->ahead_max) {
        shim_sweep_wasted(policy->sweep, index);
        policy->chunks[index].left_from = AHEAD;
        shim_policy_move(policy, index, COLD);
        index = list_first(policy, AHEAD);
    }
}

uint32_t shim_policy_pool(const struct shim_policy *policy)
{
    uint32_t share = policy->capacity / POOL_SHARE;
    return share < POOL_MIN ? POOL_MIN : share;
}

void shim_policy_allow_probes(struct shim_policy *policy)
{
    rate_adapt(policy);
    if (policy->streaming) {
        uint32_t cycle = policy->cycle ? policy->cycle : policy->capacity;
        uint64_t most = (uint64_t)policy->queues[HOT].n * RATE_ONE;
        policy->credit += (uint64_t)policy->rate * policy->queues[HOT].n / cycle;
        if (policy->credit > most)
            policy->credit = most;
    } else if (policy->credit < policy->capacity) {
        policy->credit += PROBES_ARRIVAL;
    }
}

uint32_t shim_policy_probe(struct shim_policy *policy)
{
    uint32_t pool = shim_policy_pool(policy);
    if (!policy->streaming && policy->n_resident + pool < policy->capacity)
        return SHIM_NO_CHUNK; /* who leaves is no question */
    uint32_t index;
    while (shim_rounds_due(&policy->rounds, &index)) {
        enum list list = (enum list)policy->chunks[index].list;
        if (list == HOT || list == STREAM)
            return index;
    }
    uint64_t price = policy->streaming ? RATE_ONE : 1;
    if (!policy->streaming && policy->queues[PROBED].n >= pool)
        return SHIM_NO_CHUNK;
    if (policy->credit < price || policy->queues[HOT].n == 0)
        return SHIM_NO_CHUNK;
    /* While few are probed they are samples: idle chunks lie together in the list. */
    for (uint32_t i = 0; policy->streaming && policy->rate == RATE_MIN && i < SAMPLE_SKIP; i++)
        shim_policy_move(policy, list_first(policy, HOT), HOT);
    index = list_first(policy, HOT);
    if (age(policy, policy->chunks[index].seen) < pool / 4) /* seen a moment ago */
        return SHIM_NO_CHUNK;
    policy->credit -= price;
    policy->chunks[index].seen = policy->clock;
    shim_rounds_out(&policy->rounds, index, true);
    shim_policy_move(policy, index, PROBED);
    return index;
}
