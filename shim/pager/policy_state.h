/* SPDX-License-Identifier: Apache-2.0
 *
 * What the policy's files share: policy.c (what is reported), policy_leave.c (who leaves), policy_probe.c (what is idle).
 *
 * Every chunk has an entry, also one that is away: so it is known when it left, which tells a sweep wider than memory (what
 * is missed left in this round or the last) from another working set (what is missed was not missed for whole rounds). */
#ifndef SHIM_PAGER_POLICY_STATE_H
#define SHIM_PAGER_POLICY_STATE_H

#include "shim/pager/policy.h"

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

struct policy_chunk {
    uint32_t prev, next;
    uint32_t arrived; /* clock when it was brought in */
    uint32_t seen;    /* clock when it was last seen in use, or was probed since */
    uint32_t evicted; /* clock when it was last evicted; 0: never, or forgotten */
    uint8_t list;
    uint8_t left_from; /* STREAM, PROBED, or another list that it was in last before NAMED */
};

struct policy_queue {
    uint32_t first, last, n;
};

struct shim_policy {
    uint32_t n_chunks, capacity;
    uint32_t ahead_max; /* ASKED and AHEAD together */
    struct policy_chunk *chunks;
    struct policy_queue queues[N_LISTS];
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

#define SHARE_ONE    (1u << 16)
#define RATE_ONE     (1u << 16)
#define RATE_MIN     (RATE_ONE / 32)
#define LAG_SHARE    16u /* part of memory, or of a cycle, that may stay behind a sweep */
#define SPREAD_GROUP 8u  /* neighbours that leave together: as many as are mapped at a touch */

/* To the end of a list (the newest), or away. */
void shim_policy_move(struct shim_policy *policy, uint32_t index, enum list to);

/* Seen in use: the newest of the resident set. */
void shim_policy_seen(struct shim_policy *policy, uint32_t index);

/* The number of chunks that a touch may map. */
uint32_t shim_policy_run(const struct shim_policy *policy);

/* What is idle becomes COLD. */
void shim_policy_expire(struct shim_policy *policy);
/* Something arrived: more probes are allowed. */
void shim_policy_allow_probes(struct shim_policy *policy);
/* The residents at the old end that are under probation before one has to leave. */
uint32_t shim_policy_pool(const struct shim_policy *policy);

static inline uint32_t list_first(const struct shim_policy *policy, enum list list)
{
    return policy->queues[list].first;
}

/* How long ago, in arrivals. */
static inline uint32_t age(const struct shim_policy *policy, uint32_t since)
{
    return policy->clock - since;
}

#endif
