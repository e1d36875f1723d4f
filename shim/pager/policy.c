/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pager/policy_state.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Whole rounds after which what left and was not missed is not part of the sweep. */
#define ROUNDS_AWAY     2u
#define RECENT_CAPACITY 16u /* times memory: what left more arrivals ago is not taken for part of a sweep either */
#define SHARE_LENGTH    32u /* misses over which the share of a sweep in them is averaged, about */
#define AHEAD_SHARE     8u  /* part of memory that may wait to be used */
#define AHEAD_MIN       4u
#define NEIGHBOUR_SHARE 4u  /* part of memory: arrivals between the evictions of what belongs together */
#define WINDOW_CAPACITY 16u /* part of memory that one thread may be ahead */
#define WINDOW_LEAST    4u
#define WINDOW_SHARE    16u /* part of a cycle: what waits takes the place of what could stay */
#define WINDOW_FEW      16u /* chunks that may wait even if they are more than that */

static uint32_t at_least(uint32_t n, uint32_t least)
{
    return n < least ? least : n;
}

int shim_policy_open(const struct shim_policy_config *config, struct shim_policy **policy)
{
    if (config->n_chunks == 0 || config->n_chunks == SHIM_NO_CHUNK || config->capacity == 0)
        return -EINVAL;
    struct shim_policy *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->n_chunks = config->n_chunks;
    p->capacity = config->capacity;
    p->clock = 1; /* 0 is never */
    if (config->read_ahead_max)
        p->ahead_max = at_least(config->capacity / AHEAD_SHARE, AHEAD_MIN);
    p->credit = config->capacity;
    uint32_t spacing = config->capacity / (2 * SHIM_MARKS);
    shim_rounds_open(&p->rounds, spacing, p->clock);
    p->touched = p->spread_from = p->group_next = SHIM_NO_CHUNK;
    for (int i = 0; i < N_LISTS; i++)
        p->queues[i] = (struct policy_queue){SHIM_NO_CHUNK, SHIM_NO_CHUNK, 0};
    int rc = -ENOMEM;
    void *table = mmap(NULL, (size_t)p->n_chunks * sizeof *p->chunks, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED)
        goto err_free;
    p->chunks = table;
    uint32_t window_max = at_least(config->capacity / WINDOW_CAPACITY, WINDOW_LEAST);
    if (window_max > config->read_ahead_max)
        window_max = config->read_ahead_max;
    rc = shim_sweep_open(p->n_chunks, p->capacity, window_max, &p->sweep);
    if (rc)
        goto err_unmap;
    *policy = p;
    return 0;

err_unmap:
    munmap(p->chunks, (size_t)p->n_chunks * sizeof *p->chunks);
err_free:
    free(p);
    return rc;
}

void shim_policy_close(struct shim_policy **policy)
{
    struct shim_policy *p = *policy;
    if (!p)
        return;
    shim_sweep_close(&p->sweep);
    munmap(p->chunks, (size_t)p->n_chunks * sizeof *p->chunks);
    free(p);
    *policy = NULL;
}

void shim_policy_move(struct shim_policy *policy, uint32_t index, enum list to)
{
    struct policy_chunk *chunk = &policy->chunks[index];
    if (chunk->list != AWAY) {
        struct policy_queue *from = &policy->queues[chunk->list];
        if (chunk->prev == SHIM_NO_CHUNK)
            from->first = chunk->next;
        else
            policy->chunks[chunk->prev].next = chunk->next;
        if (chunk->next == SHIM_NO_CHUNK)
            from->last = chunk->prev;
        else
            policy->chunks[chunk->next].prev = chunk->prev;
        from->n--;
    }
    policy->n_resident -= chunk->list > ASKED;
    policy->n_resident += to > ASKED;
    chunk->list = (uint8_t)to;
    if (to == AWAY)
        return;
    struct policy_queue *queue = &policy->queues[to];
    chunk->prev = queue->last;
    chunk->next = SHIM_NO_CHUNK;
    if (queue->last == SHIM_NO_CHUNK)
        queue->first = index;
    else
        policy->chunks[queue->last].next = index;
    queue->last = index;
    queue->n++;
}

static void streaming_ends(struct shim_policy *policy)
{
    policy->streaming = false;
    policy->credit = 0;
    policy->cycle = policy->cycle_least = 0;
    shim_sweep_limit(policy->sweep, policy->ahead_max);
}

/* The sweep is over, or fits: the engine goes round without an arrival, or what it misses was away for long. */
static void set_changes(struct shim_policy *policy)
{
    policy->changed = policy->clock;
    streaming_ends(policy);
    while (policy->queues[STREAM].n)
        shim_policy_move(policy, list_first(policy, STREAM), HOT);
}

void shim_policy_seen(struct shim_policy *policy, uint32_t index)
{
    policy->chunks[index].seen = policy->clock;
    shim_policy_move(policy, index, HOT);
    shim_rounds_offer(&policy->rounds, index, policy->clock, policy->capacity / 2);
}

static bool missed_by_sweep(const struct shim_policy *policy, const struct policy_chunk *chunk)
{
    if (!chunk->evicted)
        return false;
    uint32_t away = age(policy, chunk->evicted);
    return away / RECENT_CAPACITY < policy->capacity &&
           !shim_rounds_passed(&policy->rounds, chunk->evicted, policy->clock, ROUNDS_AWAY);
}

/* A chunk is missed by the sweep. What passed by was used once and then now; what left while out of the view was not used in
 * between, which may have been a part of the cycle only. */
static void cycle_measure(struct shim_policy *policy, const struct policy_chunk *chunk)
{
    uint32_t round = age(policy, chunk->seen);
    if (chunk->left_from == PROBED && round > policy->cycle_least)
        policy->cycle_least = round;
    if (chunk->left_from != STREAM)
        return;
    /* Up at once, down slowly: some are used twice a round. */
    if (policy->cycle < policy->cycle_least)
        policy->cycle = policy->cycle_least;
    policy->cycle = round > policy->cycle ? round : policy->cycle - (policy->cycle - round) / 64;
    policy->cycle_least -= policy->cycle_least / 64;
    uint32_t share = policy->cycle / WINDOW_SHARE, least = policy->cycle / 6;
    shim_sweep_limit(policy->sweep, share < WINDOW_FEW ? (least < WINDOW_FEW ? least : WINDOW_FEW) : share);
}

static void arrival(struct shim_policy *policy, uint32_t index)
{
    if (++policy->clock == 0)
        policy->clock = 1;
    policy->chunks[index].arrived = policy->clock;
    shim_rounds_arrival(&policy->rounds);
    shim_policy_allow_probes(policy);
}

/* Its first use since it arrived. */
static void join(struct shim_policy *policy, uint32_t index)
{
    bool missed = missed_by_sweep(policy, &policy->chunks[index]);
    if (policy->chunks[index].evicted)
        policy->share = policy->share - policy->share / SHARE_LENGTH + (missed ? SHARE_ONE / SHARE_LENGTH : 0);
    if (policy->streaming && policy->share < SHARE_ONE / 4)
        set_changes(policy);
    if (missed) {
        cycle_measure(policy, &policy->chunks[index]);
        policy->chunks[index].seen = policy->clock;
        shim_policy_move(policy, index, STREAM);
    } else {
        shim_policy_seen(policy, index);
    }
}

void shim_policy_touch(struct shim_policy *policy, uint32_t index, uint32_t tid, bool was_away, bool fresh)
{
    if (index >= policy->n_chunks)
        return;
    struct policy_chunk *chunk = &policy->chunks[index];
    policy->touched = index;
    policy->touched_tid = tid;
    policy->touched_list = chunk->list;
    if (shim_rounds_touch(&policy->rounds, index, policy->clock) &&
        shim_rounds_quiet(&policy->rounds, policy->clock, ROUNDS_AWAY))
        set_changes(policy);
    switch ((enum list)chunk->list) {
    case AWAY:
    case ASKED:
        if (!fresh)
            shim_sweep_use(policy->sweep, tid, index, chunk->list == ASKED ? SHIM_SWEEP_LATE : SHIM_SWEEP_MISSED);
        arrival(policy, index);
        join(policy, index);
        break;
    case AHEAD:
        shim_sweep_use(policy->sweep, tid, index, was_away ? SHIM_SWEEP_LATE : SHIM_SWEEP_IN_TIME);
        join(policy, index);
        break;
    case STREAM:
        if (!was_away) /* again: to be written, where it was mapped to be read */
            shim_policy_seen(policy, index);
        break;
    case PROBED:
        policy->n_used++;
        shim_policy_seen(policy, index);
        break;
    case NAMED:
        if (chunk->left_from == STREAM)
            shim_policy_move(policy, index, STREAM);
        else
            shim_policy_seen(policy, index);
        break;
    case HOT:
    case COLD:
    default:
        shim_policy_seen(policy, index);
        break;
    }
}

void shim_policy_written(struct shim_policy *policy, uint32_t index)
{
    if (index < policy->n_chunks && policy->chunks[index].list == STREAM)
        shim_policy_seen(policy, index);
}

void shim_policy_arrives(struct shim_policy *policy, uint32_t index)
{
    if (index >= policy->n_chunks || policy->chunks[index].list > ASKED)
        return;
    bool asked = policy->chunks[index].list == ASKED;
    arrival(policy, index);
    if (!asked)
        policy->chunks[index].seen = policy->clock;
    /* What came for another reason than a sweep is on probation. */
    shim_policy_move(policy, index, asked ? AHEAD : PROBED);
}

void shim_policy_left(struct shim_policy *policy, uint32_t index, bool evicted)
{
    if (index >= policy->n_chunks)
        return;
    struct policy_chunk *chunk = &policy->chunks[index];
    shim_rounds_drop(&policy->rounds, index);
    if (chunk->list > ASKED && evicted)
        chunk->evicted = policy->clock;
    if (chunk->list != AWAY)
        shim_policy_move(policy, index, AWAY);
    if (!evicted) {
        chunk->evicted = 0;
        chunk->left_from = AWAY;
        shim_sweep_forget(policy->sweep, index);
    }
}

void shim_policy_cold(struct shim_policy *policy, uint32_t index)
{
    if (index < policy->n_chunks && policy->chunks[index].list > ASKED && policy->chunks[index].list != NAMED) {
        policy->chunks[index].left_from = COLD;
        shim_policy_move(policy, index, COLD);
    }
}

void shim_policy_keep(struct shim_policy *policy, uint32_t index)
{
    if (index >= policy->n_chunks)
        return;
    struct policy_chunk *chunk = &policy->chunks[index];
    shim_rounds_out(&policy->rounds, index, false);
    if (chunk->list == NAMED || chunk->list == PROBED)
        shim_policy_move(policy, index, HOT);
}

/* Read-ahead */

/* Neighbours of one conversation left at about the same time; where the next one's begin, that differs. */
static bool left_together(const struct shim_policy *policy, uint32_t index, uint32_t other)
{
    uint32_t a = policy->chunks[index].evicted, b = policy->chunks[other].evicted;
    return a == 0 || b == 0 || (a - b < b - a ? a - b : b - a) <= policy->capacity / NEIGHBOUR_SHARE;
}

struct taker {
    struct shim_policy *policy;
    bool (*wanted)(void *, uint32_t);
    void *user;
};

static bool take(void *user, uint32_t index, bool neighbour)
{
    struct taker *taker = user;
    if (neighbour && index > 0 && !left_together(taker->policy, index, index - 1))
        return false;
    if (taker->policy->chunks[index].list != AWAY || !taker->wanted(taker->user, index))
        return false;
    shim_policy_move(taker->policy, index, ASKED);
    return true;
}

size_t shim_policy_read_ahead(struct shim_policy *policy, uint32_t tid, uint32_t index,
                              bool (*wanted)(void *user, uint32_t chunk), void *user, uint32_t *chunks, size_t max)
{
    if (index >= policy->n_chunks)
        return 0;
    /* Asked for, and neither begun nor arrived: forgotten. */
    uint32_t asked = list_first(policy, ASKED);
    while (asked != SHIM_NO_CHUNK && wanted(user, asked)) {
        shim_policy_move(policy, asked, AWAY);
        asked = list_first(policy, ASKED);
    }
    shim_policy_expire(policy);
    uint32_t under_way = policy->queues[ASKED].n + policy->queues[AHEAD].n;
    size_t room = under_way < policy->ahead_max ? policy->ahead_max - under_way : 0;
    struct taker taker = {policy, wanted, user};
    return shim_sweep_ahead(policy->sweep, tid, index, take, &taker, chunks, room < max ? room : max);
}

uint32_t shim_policy_map_run(struct shim_policy *policy, uint32_t tid, uint32_t index, uint32_t n_ready)
{
    if (index >= policy->n_chunks || index != policy->touched || tid != policy->touched_tid)
        return 1;
    uint32_t most = shim_policy_run(policy);
    enum list with = policy->touched_list == PROBED ? PROBED : AHEAD;
    if (with == PROBED && most < 4)
        most = 4;
    /* The last one tells whether the sweep comes so far, where that isn't learned. */
    if (with == AHEAD && n_ready > 1 && !shim_sweep_learned(policy->sweep, tid))
        n_ready--;
    uint32_t n = 1;
    while (n < n_ready && n < most && index + n < policy->n_chunks) {
        struct policy_chunk *chunk = &policy->chunks[index + n];
        if (chunk->list != with || shim_rounds_has(&policy->rounds, index + n) ||
            !left_together(policy, index + n, index + n - 1))
            break;
        if (with == PROBED) {
            policy->n_used++;
            shim_policy_seen(policy, index + n);
        } else {
            shim_sweep_pass(policy->sweep, tid, index + n);
            join(policy, index + n);
        }
        n++;
    }
    return n;
}

uint32_t shim_policy_wide(const struct shim_policy *policy)
{
    if (!policy->streaming || policy->cycle == 0)
        return 0;
    return policy->capacity > UINT32_MAX - policy->cycle ? UINT32_MAX : policy->capacity + policy->cycle;
}
