/* SPDX-License-Identifier: Apache-2.0
 *
 * Who leaves. What is cold; else, of a sweep wider than memory, what has just passed; else the oldest of the resident set. */
#include "shim/pager/policy_state.h"

#define LAG_MIN      4u
#define SPREAD_LEAST 64u /* evening out a shorter cycle isn't worth it */
#define SPREAD_EVERY 2u  /* groups that pass by of which one may be exchanged */
#define SPREAD_TRIES 4

static void streaming_begins(struct shim_policy *policy)
{
    policy->streaming = true;
    policy->rate = RATE_ONE;
    policy->judged = policy->clock;
    policy->n_used = policy->n_cold = 0;
    policy->credit = 0;
}

/* What is mapped and not reached yet adds to what stays behind a sweep. */
uint32_t shim_policy_run(const struct shim_policy *policy)
{
    uint32_t run = shim_sweep_run(policy->sweep);
    if (!policy->streaming || policy->cycle == 0)
        return run;
    uint32_t most = policy->cycle / LAG_SHARE / shim_sweep_threads(policy->sweep);
    return most < 1 ? 1 : run < most ? run : most;
}

/* Chunks that stay behind a sweep: what was mapped in a run, by each thread, and may not have been reached yet. */
static uint32_t stream_lag(const struct shim_policy *policy)
{
    uint32_t lag = 2 + shim_sweep_threads(policy->sweep) * (1 + shim_policy_run(policy));
    uint32_t most = policy->capacity / LAG_SHARE;
    most = most < LAG_MIN ? LAG_MIN : most;
    return lag < most ? lag : most;
}

/* Are the groups before and after that of the chunk in the resident set (or both not)? By one chunk of each. */
static bool amid(const struct shim_policy *policy, uint32_t index, bool resident)
{
    if (index < SPREAD_GROUP || index + SPREAD_GROUP >= policy->n_chunks)
        return false;
    for (uint32_t i = index - SPREAD_GROUP; i <= index + SPREAD_GROUP; i += 2 * SPREAD_GROUP) {
        enum list list = (enum list)policy->chunks[i].list;
        if ((list == HOT || list == PROBED) != resident || (list == AWAY && policy->chunks[i].evicted == 0))
            return false;
    }
    return true;
}

/* index stays; the next of the group to be given up for it leaves. */
static uint32_t exchange(struct shim_policy *policy, uint32_t index)
{
    while (policy->spread_to < policy->spread_end) {
        uint32_t other = policy->spread_to++;
        enum list list = (enum list)policy->chunks[other].list;
        if ((list == HOT || list == PROBED) && !shim_rounds_has(&policy->rounds, other)) {
            shim_policy_seen(policy, index);
            return other;
        }
    }
    return index;
}

/* Evens out where the sweep is in memory and where it isn't: one stretch that is away keeps the disk busy for a part of the
 * round only. When a group of neighbours that passes by lies amid others that do, and a resident group amid resident ones,
 * then they change places. Groups, so that one touch can still map several. */
static uint32_t spread(struct shim_policy *policy, uint32_t index)
{
    if (index / SPREAD_GROUP == policy->spread_from / SPREAD_GROUP)
        return exchange(policy, index);
    if (!policy->streaming || policy->cycle < SPREAD_LEAST || policy->cycle > policy->queues[HOT].n ||
        index % SPREAD_GROUP || ++policy->n_groups % SPREAD_EVERY || !amid(policy, index, false))
        return index;
    for (int i = 0; i < SPREAD_TRIES; i++) {
        uint32_t other = list_first(policy, HOT);
        if (other == SHIM_NO_CHUNK)
            return index;
        if (amid(policy, other, true)) {
            policy->spread_from = index;
            policy->spread_to = other - other % SPREAD_GROUP;
            policy->spread_end = policy->spread_to + SPREAD_GROUP;
            if (policy->spread_end > policy->n_chunks)
                policy->spread_end = policy->n_chunks;
            return exchange(policy, index);
        }
        shim_policy_move(policy, other, HOT);
    }
    return index;
}

/* What waits to be used and what just passed take room together. When there was more of it than needed all the time of
 * late (less is fetched ahead than was), then the rest may stay. */
static void reserve_adapt(struct shim_policy *policy, uint32_t excess)
{
    if (policy->reserve_victims == 0 || excess < policy->reserve_excess)
        policy->reserve_excess = excess;
    if (++policy->reserve_victims < 32 + 2 * shim_sweep_window(policy->sweep) ||
        policy->reserve_victims < policy->cycle)
        return;
    policy->reserve_victims = 0;
    for (uint32_t i = 1; i < policy->reserve_excess; i++)
        shim_policy_seen(policy, list_first(policy, STREAM));
}

static bool goes_along(const struct shim_policy *policy, uint32_t index)
{
    if (index >= policy->n_chunks || index % SPREAD_GROUP == 0) /* SHIM_NO_CHUNK, too */
        return false;
    const struct policy_chunk *chunk = &policy->chunks[index];
    return chunk->list == PROBED ||
           (policy->streaming && chunk->list == HOT && age(policy, chunk->seen) > shim_policy_pool(policy));
}

/* Of the resident set the oldest leaves, and its neighbours with it: then a sweep finds them together again. */
static uint32_t resident_victim(struct shim_policy *policy)
{
    uint32_t index = policy->group_next;
    policy->group_next = SHIM_NO_CHUNK;
    if (!goes_along(policy, index))
        index = list_first(policy, PROBED);
    if (index == SHIM_NO_CHUNK)
        index = list_first(policy, HOT);
    if (index != SHIM_NO_CHUNK)
        policy->group_next = index + 1;
    return index;
}

uint32_t shim_policy_victim(struct shim_policy *policy)
{
    shim_policy_expire(policy);
    uint32_t lag = stream_lag(policy);
    bool overflows = policy->queues[STREAM].n > lag;
    if (overflows && !policy->streaming) {
        /* While another set comes in, what is left of it leaves first, as the oldest: that is missed, and is no sweep. */
        if (policy->share > SHARE_ONE / 2 && age(policy, policy->changed) >= policy->capacity) {
            streaming_begins(policy);
        } else {
            shim_policy_seen(policy, list_first(policy, STREAM));
            overflows = false;
        }
    }
    reserve_adapt(policy, overflows ? policy->queues[STREAM].n - lag : 0);
    uint32_t index = list_first(policy, COLD);
    if (index != SHIM_NO_CHUNK) {
        /* Room for one more: the sweep gets narrower. */
        if (overflows)
            shim_policy_seen(policy, list_first(policy, STREAM));
    } else if (overflows) {
        index = spread(policy, list_first(policy, STREAM));
    }
    if (index == SHIM_NO_CHUNK)
        index = resident_victim(policy);
    for (enum list list = STREAM; index == SHIM_NO_CHUNK && list >= AHEAD; list--)
        index = list_first(policy, list);
    if (index == SHIM_NO_CHUNK)
        return SHIM_NO_CHUNK;
    /* COLD: it was set when the verdict was. */
    if (policy->chunks[index].list != COLD)
        policy->chunks[index].left_from = policy->chunks[index].list;
    shim_policy_move(policy, index, NAMED);
    return index;
}
