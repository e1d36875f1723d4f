/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pager/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "shim/pager/rounds.h"
#include "shim/pager/sweep.h"

/* Where a chunk is. All but AWAY are lists, oldest first. */
enum list {
    AWAY,   /* zero, so that a new table needs no initialisation */
    ASKED,  /* away, named by shim_policy_read_ahead() */
    AHEAD,  /* in memory because read-ahead asked for it; not touched yet */
    STREAM, /* part of a sweep wider than memory, used: leaves in order, a few chunks behind the sweep */
    HOT,    /* the resident set, in the order in which use was last seen */
    PROBED, /* of it, out of the view to see whether it is used */
    COLD,   /* leaves first */
    NAMED,  /* by shim_policy_victim() */
    N_LISTS
};

struct chunk {
    uint32_t prev, next;
    uint32_t arrived; /* clock when it was brought in */
    uint32_t seen;    /* clock when it was last seen in use, or was probed since */
    uint32_t evicted; /* clock when it was last evicted; 0: never, or forgotten */
    uint8_t list;
    uint8_t left_from; /* STREAM, PROBED, or another list that it was in last before NAMED */
};

struct queue {
    uint32_t first, last, n;
};

struct shim_policy {
    uint32_t n_chunks, capacity;
    uint32_t ahead_max; /* ASKED and AHEAD together */
    struct chunk *chunks;
    struct queue queues[N_LISTS];
    uint32_t n_resident;
    struct shim_sweep *sweep;
    struct shim_rounds rounds;

    /* Counts arrivals. It wraps around after 2^32; a chunk may be misjudged then. */
    uint32_t clock;

    /* While a sweep wider than memory goes on: */
    bool streaming;
    uint32_t cycle;                 /* arrivals in one round of it; 0: not known yet */
    uint32_t cycle_least;           /* at least so many, going by what was probed */
    uint32_t share;                 /* of what was missed of late: what is part of a sweep, times SHARE_ONE */
    uint32_t changed;               /* clock when the engine needed nothing more, or turned to another set */
    uint32_t rate;                  /* of RATE_ONE residents to probe a cycle */
    uint32_t n_groups;              /* victims of it */
    uint32_t judged;                /* clock when the rate was set */
    uint32_t n_used, n_cold;        /* verdicts since then */
    uint32_t group_next;            /* neighbour of the resident that left last */
    uint32_t spread_from;           /* a chunk of the group that is being kept; SHIM_NO_CHUNK: none */
    uint32_t spread_to, spread_end; /* what is left of the group that leaves for it */
    uint32_t reserve_excess;        /* least excess of STREAM in the last reserve_victims victims */
    uint32_t reserve_victims;

    uint64_t credit; /* probes allowed now; while streaming times RATE_ONE */

    uint32_t touched, touched_tid; /* by the last shim_policy_touch() */
    enum list touched_list;        /* where that chunk was */
};

/* Whole rounds after which what left and was not missed is not part of the sweep, and what is probed and not used idle. */
#define ROUNDS_AWAY 2u
#define ROUNDS_IDLE 2u

#define RATE_ONE        (1u << 16)
#define SAMPLE_SKIP     7u /* residents passed over for each that is probed at the lowest rate */
#define RATE_MIN        (RATE_ONE / 32)
#define RECENT_CAPACITY 16u /* times memory: what left more arrivals ago is not remembered as part of a sweep */
#define PROBES_ARRIVAL  4u  /* probes allowed for each arrival when no sweep goes on */
#define POOL_SHARE      16u /* of memory: residents kept under probation at the old end when memory is nearly full */
#define POOL_MIN        4u
#define LAG_MIN         4u
#define LAG_SHARE       16u
#define AHEAD_SHARE     8u
#define AHEAD_MIN       4u
#define WINDOW_CAPACITY 16u /* part of memory that one thread may be ahead */
#define WINDOW_LEAST    4u
#define SPREAD_GROUP    8u  /* chunks: as many as are mapped at a touch */
#define SPREAD_LEAST    64u /* a shorter cycle isn't worth it */
#define SPREAD_EVERY    2u  /* groups that pass by of which one may be exchanged */
#define SPREAD_TRIES    4
#define WINDOW_FEW      16u /* chunks that may wait even if they are more than that share */
#define SHARE_ONE       (1u << 16)
#define SHARE_LENGTH    32u
#define WINDOW_SHARE    16u /* of a cycle: what waits to be used takes the place of what could stay */

/* Lists */

static void list_move(struct shim_policy *policy, uint32_t index, enum list to)
{
    struct chunk *chunk = &policy->chunks[index];
    if (chunk->list != AWAY) {
        struct queue *from = &policy->queues[chunk->list];
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
    struct queue *queue = &policy->queues[to];
    chunk->prev = queue->last;
    chunk->next = SHIM_NO_CHUNK;
    if (queue->last == SHIM_NO_CHUNK)
        queue->first = index;
    else
        policy->chunks[queue->last].next = index;
    queue->last = index;
    queue->n++;
}

static uint32_t list_first(const struct shim_policy *policy, enum list list)
{
    return policy->queues[list].first;
}

/* How long ago, in arrivals. */
static uint32_t age(const struct shim_policy *policy, uint32_t since)
{
    return policy->clock - since;
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
    p->ahead_max = config->capacity / AHEAD_SHARE < AHEAD_MIN ? AHEAD_MIN : config->capacity / AHEAD_SHARE;
    p->credit = config->capacity;
    uint32_t spacing = config->capacity / (2 * SHIM_MARKS);
    shim_rounds_open(&p->rounds, spacing, p->clock);
    p->touched = p->spread_from = p->group_next = SHIM_NO_CHUNK;
    for (int i = 0; i < N_LISTS; i++)
        p->queues[i] = (struct queue){SHIM_NO_CHUNK, SHIM_NO_CHUNK, 0};
    int rc = -ENOMEM;
    void *table = mmap(NULL, (size_t)p->n_chunks * sizeof *p->chunks, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED)
        goto err_free;
    p->chunks = table;
    uint32_t window_max =
        config->capacity / WINDOW_CAPACITY < WINDOW_LEAST ? WINDOW_LEAST : config->capacity / WINDOW_CAPACITY;
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

/* The sweep wider than memory */

static void streaming_begins(struct shim_policy *policy)
{
    policy->streaming = true;
    policy->rate = RATE_ONE;
    policy->judged = policy->clock;
    policy->n_used = policy->n_cold = 0;
    policy->credit = 0;
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
        list_move(policy, list_first(policy, STREAM), HOT);
}

/* Seen in use, and stays. */
static void offer_mark(struct shim_policy *policy, uint32_t index)
{
    shim_rounds_offer(&policy->rounds, index, policy->clock, policy->capacity / 2);
}

/* Probes */

static void probes_judge(struct shim_policy *policy)
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
static void expire(struct shim_policy *policy)
{
    uint32_t index = list_first(policy, PROBED);
    uint32_t patience = policy->cycle + policy->cycle / 2 + 8;
    while (index != SHIM_NO_CHUNK) {
        uint32_t since = policy->chunks[index].seen;
        if (!(policy->cycle && age(policy, since) > patience) &&
            !shim_rounds_passed(&policy->rounds, since, policy->clock, ROUNDS_IDLE))
            break;
        policy->chunks[index].left_from = PROBED;
        list_move(policy, index, COLD);
        policy->n_cold++;
        policy->rate = policy->rate > RATE_ONE / 2 ? RATE_ONE : policy->rate * 2;
        index = list_first(policy, PROBED);
    }
    index = list_first(policy, AHEAD);
    while (index != SHIM_NO_CHUNK && age(policy, policy->chunks[index].arrived) > 2 * policy->ahead_max) {
        shim_sweep_wasted(policy->sweep, index);
        policy->chunks[index].left_from = AHEAD;
        list_move(policy, index, COLD);
        index = list_first(policy, AHEAD);
    }
}

static uint32_t pool_size(const struct shim_policy *policy)
{
    uint32_t share = policy->capacity / POOL_SHARE;
    return share < POOL_MIN ? POOL_MIN : share;
}

static void credit_arrival(struct shim_policy *policy)
{
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

/* Arrivals */

static bool missed_by_sweep(const struct shim_policy *policy, const struct chunk *chunk)
{
    if (!chunk->evicted)
        return false;
    uint32_t away = age(policy, chunk->evicted);
    return away / RECENT_CAPACITY < policy->capacity &&
           !shim_rounds_passed(&policy->rounds, chunk->evicted, policy->clock, ROUNDS_AWAY);
}

/* A chunk is missed by the sweep. What passed by was used once and then now; what left while out of the view was not used in
 * between, which may have been a part of the cycle only. */
static void cycle_measure(struct shim_policy *policy, const struct chunk *chunk)
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
    credit_arrival(policy);
    probes_judge(policy);
}

static void seen_in_use(struct shim_policy *policy, uint32_t index)
{
    policy->chunks[index].seen = policy->clock;
    list_move(policy, index, HOT);
    offer_mark(policy, index);
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
        list_move(policy, index, STREAM);
    } else {
        seen_in_use(policy, index);
    }
}

void shim_policy_touch(struct shim_policy *policy, uint32_t index, uint32_t tid, bool was_away, bool fresh)
{
    if (index >= policy->n_chunks)
        return;
    struct chunk *chunk = &policy->chunks[index];
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
        break;
    case PROBED:
        policy->n_used++;
        seen_in_use(policy, index);
        break;
    case NAMED:
        if (chunk->left_from == STREAM)
            list_move(policy, index, STREAM);
        else
            seen_in_use(policy, index);
        break;
    case HOT:
    case COLD:
    default:
        seen_in_use(policy, index);
        break;
    }
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
    list_move(policy, index, asked ? AHEAD : PROBED);
}

void shim_policy_left(struct shim_policy *policy, uint32_t index, bool evicted)
{
    if (index >= policy->n_chunks)
        return;
    struct chunk *chunk = &policy->chunks[index];
    shim_rounds_drop(&policy->rounds, index);
    if (chunk->list > ASKED && evicted)
        chunk->evicted = policy->clock;
    if (chunk->list != AWAY)
        list_move(policy, index, AWAY);
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
        list_move(policy, index, COLD);
    }
}

/* Who leaves */

/* May a touch of one chunk map so many? What is mapped and not reached yet adds to what stays behind a sweep. */
static uint32_t map_run_most(const struct shim_policy *policy)
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
    uint32_t lag = 2 + shim_sweep_threads(policy->sweep) * (1 + map_run_most(policy));
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
            seen_in_use(policy, index);
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
        list_move(policy, other, HOT);
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
        seen_in_use(policy, list_first(policy, STREAM));
}

static bool goes_along(const struct shim_policy *policy, uint32_t index)
{
    if (index >= policy->n_chunks || index % SPREAD_GROUP == 0) /* SHIM_NO_CHUNK, too */
        return false;
    const struct chunk *chunk = &policy->chunks[index];
    return chunk->list == PROBED ||
           (policy->streaming && chunk->list == HOT && age(policy, chunk->seen) > pool_size(policy));
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
    expire(policy);
    uint32_t lag = stream_lag(policy);
    bool overflows = policy->queues[STREAM].n > lag;
    if (overflows && !policy->streaming) {
        /* While another set comes in, what is left of it leaves first, as the oldest: that is missed, and is no sweep. */
        if (policy->share > SHARE_ONE / 2 && age(policy, policy->changed) >= policy->capacity) {
            streaming_begins(policy);
        } else {
            seen_in_use(policy, list_first(policy, STREAM));
            overflows = false;
        }
    }
    reserve_adapt(policy, overflows ? policy->queues[STREAM].n - lag : 0);
    uint32_t index = list_first(policy, COLD);
    if (index != SHIM_NO_CHUNK) {
        /* Room for one more: the sweep gets narrower. */
        if (overflows)
            list_move(policy, list_first(policy, STREAM), HOT);
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
    list_move(policy, index, NAMED);
    return index;
}

void shim_policy_keep(struct shim_policy *policy, uint32_t index)
{
    if (index >= policy->n_chunks)
        return;
    struct chunk *chunk = &policy->chunks[index];
    shim_rounds_out(&policy->rounds, index, false);
    if (chunk->list == NAMED || chunk->list == PROBED)
        list_move(policy, index, HOT);
}

/* Probes */

uint32_t shim_policy_probe(struct shim_policy *policy)
{
    uint32_t pool = pool_size(policy);
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
    index = list_first(policy, HOT);
    /* What was seen a moment ago needs no probe; nor does a resident set as small as that. */
    /* While few are probed they are samples: idle chunks lie together in the list. */
    for (uint32_t i = 0; policy->streaming && i < SAMPLE_SKIP && policy->rate == RATE_MIN && index != SHIM_NO_CHUNK &&
                         policy->credit >= price;
         i++) {
        list_move(policy, index, HOT);
        index = list_first(policy, HOT);
    }
    if (index == SHIM_NO_CHUNK || policy->credit < price || age(policy, policy->chunks[index].seen) < pool / 4)
        return SHIM_NO_CHUNK;
    policy->credit -= price;
    policy->chunks[index].seen = policy->clock;
    shim_rounds_out(&policy->rounds, index, true);
    list_move(policy, index, PROBED);
    return index;
}

/* Read-ahead */

struct taker {
    struct shim_policy *policy;
    bool (*wanted)(void *, uint32_t);
    void *user;
};

static bool take(void *user, uint32_t index)
{
    struct taker *taker = user;
    if (taker->policy->chunks[index].list != AWAY || !taker->wanted(taker->user, index))
        return false;
    list_move(taker->policy, index, ASKED);
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
        list_move(policy, asked, AWAY);
        asked = list_first(policy, ASKED);
    }
    expire(policy);
    uint32_t under_way = policy->queues[ASKED].n + policy->queues[AHEAD].n;
    size_t room = under_way < policy->ahead_max ? policy->ahead_max - under_way : 0;
    struct taker taker = {policy, wanted, user};
    return shim_sweep_ahead(policy->sweep, tid, index, take, &taker, chunks, room < max ? room : max);
}

uint32_t shim_policy_map_run(struct shim_policy *policy, uint32_t tid, uint32_t index, uint32_t n_ready)
{
    if (index >= policy->n_chunks || index != policy->touched || tid != policy->touched_tid)
        return 1;
    uint32_t most = map_run_most(policy);
    enum list with = policy->touched_list == PROBED ? PROBED : AHEAD;
    if (with == PROBED && most < 4)
        most = 4;
    uint32_t n = 1;
    while (n < n_ready && n < most && index + n < policy->n_chunks) {
        struct chunk *chunk = &policy->chunks[index + n];
        if (chunk->list != with || shim_rounds_has(&policy->rounds, index + n))
            break;
        if (with == PROBED) {
            policy->n_used++;
            seen_in_use(policy, index + n);
        } else {
            shim_sweep_pass(policy->sweep, tid, index + n);
            join(policy, index + n);
        }
        n++;
    }
    return n;
}
