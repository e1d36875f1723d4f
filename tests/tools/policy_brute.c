/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/tools/policy_brute.h"

#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static void *zeros(size_t n, size_t bytes)
{
    void *memory = calloc(n ? n : 1, bytes);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

/* Some of the blocks, in no order. */
struct set {
    uint32_t *of, *at; /* at: [block] its place + 1; 0: is not one of them */
    uint32_t n;
};

static void set_open(struct set *set, uint32_t n_blocks)
{
    *set = (struct set){.of = zeros(n_blocks, sizeof(uint32_t)), .at = zeros(n_blocks, sizeof(uint32_t))};
}

static void set_close(struct set *set)
{
    free(set->of);
    free(set->at);
}

static void set_add(struct set *set, uint32_t b)
{
    set->of[set->n++] = b;
    set->at[b] = set->n;
}

static void set_remove(struct set *set, uint32_t b)
{
    ck_assert_ptr_nonnull(set->of);
    uint32_t last = set->of[--set->n];
    set->of[set->at[b] - 1] = last;
    set->at[last] = set->at[b];
    set->at[b] = 0;
}

/* ---- what the policies do, in a tier of their own ------------------------------------------------------------- */

/* A block as a tier's policy sees it. */
struct seat {
    uint64_t rank;   /* in its list: the higher, the hotter */
    bool referenced; /* clock */
    /* arc */
    int list; /* 1: once, 2: again */
    bool again, chosen;
    int ghost;          /* the list that it was evicted from */
    uint64_t evictions; /* from the tier, up to its own */
};

/* What is known of a block's uses. */
struct past {
    uint64_t order, used_ms, interval_ns;
    uint32_t uses;
    double expected, weight; /* cost */
};

/* One instance of a policy, with its tiers. */
struct ranker {
    char kind; /* the first letter of the policy's name; 'o' is cost's */
    uint32_t n_tiers, n_ghosts;
    struct set in[2];      /* [tier] */
    struct seat *seats[2]; /* [tier][block] */
    struct past *pasts;
    uint64_t n_touches, ranks;
    uint64_t evictions[2], target[2]; /* arc */
    uint64_t usual;                   /* cost, in 1/65536 octaves */
    bool has_latency;
    /* ghosts of blocks that were dropped: the place of a key is its low bits */
    uint32_t *ghost_of; /* [n_ghosts] block + 1 */
    struct past *ghost_pasts;
    struct seat *ghost_seats[2];
};

struct brute {
    const uint32_t *sizes;
    uint32_t now_request, n_on_nvme;
    uint64_t now_ms;
    struct ranker upper, lower; /* device and host; NVMe */
    int *where;                 /* [block] 0: nowhere; tier + 1 */
    bool *on_nvme;
    struct set copies; /* on NVMe and above */
    uint64_t *copied;  /* [block] when it became one */
    uint64_t n_copied;
    uint32_t *request; /* [block] that used it last, + 1 */
    struct brute_result *result;
};

static void ranker_open(struct ranker *r, const char *policy, uint32_t n_tiers, uint32_t n_blocks, uint32_t n_ghosts)
{
    *r = (struct ranker){.kind = strcmp(policy, "cost") == 0 ? 'o' : policy[0], .n_tiers = n_tiers};
    r->n_ghosts = n_ghosts;
    r->pasts = zeros(n_blocks, sizeof *r->pasts);
    r->ghost_of = zeros(n_ghosts, sizeof *r->ghost_of);
    r->ghost_pasts = zeros(n_ghosts, sizeof *r->ghost_pasts);
    for (uint32_t t = 0; t < n_tiers; t++) {
        set_open(&r->in[t], n_blocks);
        r->seats[t] = zeros(n_blocks, sizeof *r->seats[t]);
        r->ghost_seats[t] = zeros(n_ghosts, sizeof *r->ghost_seats[t]);
    }
}

static void ranker_close(struct ranker *r)
{
    free(r->pasts);
    free(r->ghost_of);
    free(r->ghost_pasts);
    for (uint32_t t = 0; t < r->n_tiers; t++) {
        set_close(&r->in[t]);
        free(r->seats[t]);
        free(r->ghost_seats[t]);
    }
}

static uint64_t held(const struct ranker *r, uint32_t t, int list)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < r->in[t].n; i++)
        n += list == 0 || r->seats[t][r->in[t].of[i]].list == list;
    return n;
}

static unsigned octave_of(uint64_t interval_ns)
{
    unsigned octave = (unsigned)floor(log2(floor((double)interval_ns / 1e9) + 1));
    return octave < 11 ? octave : 11;
}

static void touch(struct ranker *r, uint32_t b, uint64_t now_ms)
{
    struct past *past = &r->pasts[b];
    uint64_t gap_ns = past->uses ? (now_ms - past->used_ms) * 1000000 : 0;
    bool again = gap_ns >= 1000000000;
    past->order = ++r->n_touches;
    past->used_ms = now_ms;
    if (again)
        past->interval_ns = past->interval_ns ? past->interval_ns / 2 + gap_ns / 2 : gap_ns;
    if (again || past->uses == 0)
        past->uses++;
    unsigned usual = (unsigned)(r->usual / 65536);
    if (again && past->uses == 2)
        r->usual += (uint64_t)octave_of(past->interval_ns) * 256 - r->usual / 256;
    unsigned octave = past->uses == 1 ? usual : octave_of(past->interval_ns);
    double half_octaves = past->uses < 2 ? -2 : past->uses >= 16 ? 4 : floor(log2(past->uses));
    past->expected = pow(2, octave) * 1e9;
    past->weight = pow(2, half_octaves / 2);
    for (uint32_t t = 0; t < r->n_tiers; t++) {
        struct seat *seat = &r->seats[t][b];
        bool in = r->in[t].at[b];
        seat->referenced = true;
        if (r->kind == 'a' && !in && seat->ghost) {
            uint64_t room = held(r, t, 0);
            seat->again = r->evictions[t] - seat->evictions <= room;
            if (seat->again && seat->ghost == 1 && r->target[t] < room)
                r->target[t]++;
            if (seat->again && seat->ghost == 1 && r->target[t] > room)
                r->target[t] = room;
            if (seat->again && seat->ghost == 2 && r->target[t] > 0)
                r->target[t]--;
            seat->ghost = 0;
        } else if (r->kind == 'a' && in) {
            seat->again |= again;
            seat->list = seat->again ? 2 : 1;
            seat->chosen = false;
            seat->rank = ++r->ranks;
        } else if (r->kind == 'l' && in) {
            seat->rank = ++r->ranks;
        }
    }
}

static void seat_in(struct ranker *r, uint32_t t, uint32_t b)
{
    struct seat *seat = &r->seats[t][b];
    set_add(&r->in[t], b);
    seat->rank = ++r->ranks;
    seat->ghost = 0;
    seat->chosen = false;
    seat->list = seat->again ? 2 : 1;
}

static void seat_out(struct ranker *r, uint32_t t, uint32_t b)
{
    struct seat *seat = &r->seats[t][b];
    set_remove(&r->in[t], b);
    if (!seat->chosen)
        return;
    seat->ghost = seat->list;
    seat->evictions = ++r->evictions[t];
    seat->again = seat->chosen = false;
}

/* cost: how much it takes for how long, for what it gives. */
static double burden(const struct ranker *r, uint32_t b, uint64_t now_ms)
{
    const struct past *past = &r->pasts[b];
    double waited = (double)((now_ms - past->used_ms) * 1000000);
    return (waited > past->expected ? waited : past->expected) / past->weight;
}

/* The coldest in the list (0: any) of those that are idle; −1: there is none. */
static int64_t coldest(const struct brute *brute, const struct ranker *r, uint32_t t, int list)
{
    int64_t best = -1;
    for (uint32_t i = 0; i < r->in[t].n; i++) {
        uint32_t b = r->in[t].of[i];
        const struct seat *seat = &r->seats[t][b];
        if ((list == 0 || seat->list == list) && brute->request[b] != brute->now_request &&
            (best < 0 || seat->rank < r->seats[t][best].rank))
            best = b;
    }
    return best;
}

static int64_t clock_hand(const struct brute *brute, struct ranker *r, uint32_t t)
{
    uint64_t old = r->ranks; /* who is above has been passed by the hand in this round */
    for (;;) {
        int64_t b = coldest(brute, r, t, 0);
        if (b < 0 || r->seats[t][b].rank > old || !r->seats[t][b].referenced)
            return b;
        for (uint32_t other = 0; other < r->n_tiers; other++) /* one bit for all tiers */
            r->seats[other][b].referenced = false;
        r->seats[t][b].rank = ++r->ranks;
    }
}

static int64_t victim(const struct brute *brute, struct ranker *r, uint32_t t)
{
    if (r->kind == 'l')
        return coldest(brute, r, t, 0);
    if (r->kind == 'c')
        return clock_hand(brute, r, t);
    int64_t best = -1;
    if (r->kind == 'a') {
        int first = held(r, t, 1) > r->target[t] ? 1 : 2;
        best = coldest(brute, r, t, first);
        if (best < 0)
            best = coldest(brute, r, t, 3 - first);
        if (best >= 0)
            r->seats[t][best].chosen = true;
        return best;
    }
    double most = 0;
    for (uint32_t i = 0; i < r->in[t].n; i++) {
        uint32_t b = r->in[t].of[i];
        if (brute->request[b] == brute->now_request)
            continue;
        double here = burden(r, b, brute->now_ms);
        if (best < 0 || here > most || (here == most && r->pasts[b].order < r->pasts[best].order)) {
            most = here;
            best = b;
        }
    }
    return best;
}

static void bury(struct ranker *r, uint32_t b)
{
    uint32_t place = (b + 1) & (r->n_ghosts - 1);
    if (r->pasts[b].uses) {
        r->ghost_of[place] = b + 1;
        r->ghost_pasts[place] = r->pasts[b];
        for (uint32_t t = 0; t < r->n_tiers; t++)
            r->ghost_seats[t][place] = r->seats[t][b];
    }
}

static void raise_from_dead(struct ranker *r, uint32_t b)
{
    uint32_t place = (b + 1) & (r->n_ghosts - 1);
    bool known = r->ghost_of[place] == b + 1;
    r->pasts[b] = known ? r->ghost_pasts[place] : (struct past){0};
    for (uint32_t t = 0; t < r->n_tiers; t++) {
        r->seats[t][b] = known ? r->ghost_seats[t][place] : (struct seat){0};
        r->seats[t][b].referenced = false;
    }
    if (known)
        r->ghost_of[place] = 0;
}

/* ---- the tiers ------------------------------------------------------------------------------------------------ */

static bool full(const struct brute *brute, int tier)
{
    uint32_t n = tier == BRUTE_NVME ? brute->n_on_nvme : brute->upper.in[tier].n;
    return brute->sizes[tier] != BRUTE_UNLIMITED && n >= brute->sizes[tier];
}

static void take_out(struct brute *brute, uint32_t b)
{
    int tier = brute->where[b] - 1;
    if (tier == BRUTE_NVME)
        seat_out(&brute->lower, 0, b);
    else if (tier >= 0)
        seat_out(&brute->upper, (uint32_t)tier, b);
    brute->where[b] = 0;
}

static void drop(struct brute *brute, uint32_t b)
{
    bury(&brute->upper, b);
    bury(&brute->lower, b);
    brute->result->dropped++;
}

/* True if NVMe has room now. */
static bool clear_nvme(struct brute *brute)
{
    if (!full(brute, BRUTE_NVME))
        return true;
    int64_t oldest = -1;
    for (uint32_t i = 0; i < brute->copies.n; i++)
        if (oldest < 0 || brute->copied[brute->copies.of[i]] < brute->copied[oldest])
            oldest = brute->copies.of[i];
    if (oldest >= 0) {
        set_remove(&brute->copies, (uint32_t)oldest);
    } else {
        oldest = victim(brute, &brute->lower, 0);
        if (oldest < 0)
            return false;
        take_out(brute, (uint32_t)oldest);
        drop(brute, (uint32_t)oldest);
    }
    brute->on_nvme[oldest] = false;
    brute->n_on_nvme--;
    return true;
}

static void to_nvme(struct brute *brute, uint32_t b, uint64_t *moved)
{
    if (!brute->on_nvme[b]) {
        if (!clear_nvme(brute)) {
            drop(brute, b);
            return;
        }
        brute->on_nvme[b] = true;
        brute->n_on_nvme++;
        ++*moved;
    } else {
        set_remove(&brute->copies, b);
    }
    brute->where[b] = BRUTE_NVME + 1;
    seat_in(&brute->lower, 0, b);
}

static void clear_device(struct brute *brute)
{
    if (!full(brute, BRUTE_DEVICE))
        return;
    int64_t b = victim(brute, &brute->upper, BRUTE_DEVICE);
    ck_assert_int_ge(b, 0);
    take_out(brute, (uint32_t)b);
    if (full(brute, BRUTE_HOST)) {
        int64_t other = victim(brute, &brute->upper, BRUTE_HOST);
        if (other < 0) {
            to_nvme(brute, (uint32_t)b, &brute->result->device_to_nvme);
            return;
        }
        take_out(brute, (uint32_t)other);
        to_nvme(brute, (uint32_t)other, &brute->result->host_to_nvme);
    }
    brute->where[b] = BRUTE_HOST + 1;
    seat_in(&brute->upper, BRUTE_HOST, (uint32_t)b);
    brute->result->device_to_host++;
}

static void serve(struct brute *brute, const struct brute_request *request)
{
    bool broken = false;
    bool *found = zeros(request->n, sizeof *found);
    for (uint32_t i = 0; i < request->n; i++) {
        int tier = brute->where[request->ids[i]] - 1;
        broken |= tier < 0;
        found[i] = !broken;
        if (broken)
            brute->result->computed++;
        else
            brute->result->hits[tier]++;
    }
    for (uint32_t i = 0; i < request->n; i++) {
        uint32_t b = request->ids[i];
        brute->request[b] = brute->now_request;
        if (!brute->where[b]) {
            raise_from_dead(&brute->upper, b);
            raise_from_dead(&brute->lower, b);
        }
    }
    for (uint32_t i = request->n; i-- > 0;) {
        uint32_t b = request->ids[i];
        int was = brute->where[b] - 1;
        touch(&brute->upper, b, brute->now_ms);
        touch(&brute->lower, b, brute->now_ms);
        if (was == BRUTE_DEVICE)
            continue;
        brute->result->host_to_device += found[i] && was == BRUTE_HOST;
        brute->result->nvme_to_device += found[i] && was == BRUTE_NVME;
        take_out(brute, b);
        clear_device(brute);
        if (was == BRUTE_NVME) {
            set_add(&brute->copies, b);
            brute->copied[b] = ++brute->n_copied;
        }
        brute->where[b] = BRUTE_DEVICE + 1;
        seat_in(&brute->upper, BRUTE_DEVICE, b);
    }
    free(found);
}

void brute_simulate(const struct brute_trace *trace, const char *policy, const uint32_t sizes[BRUTE_TIERS],
                    uint32_t n_ghosts, struct brute_result *result)
{
    uint32_t n = trace->n_ids;
    *result = (struct brute_result){0};
    struct brute brute = {.sizes = sizes,
                          .where = zeros(n, sizeof(int)),
                          .on_nvme = zeros(n, sizeof(bool)),
                          .copied = zeros(n, sizeof(uint64_t)),
                          .request = zeros(n, sizeof(uint32_t)),
                          .result = result};
    set_open(&brute.copies, n);
    ranker_open(&brute.upper, policy, 2, n, n_ghosts);
    ranker_open(&brute.lower, policy, 1, n, n_ghosts);
    for (uint32_t i = 0; i < trace->n; i++) {
        brute.now_ms = trace->requests[i].at_ms;
        brute.now_request = i + 1;
        serve(&brute, &trace->requests[i]);
    }
    ranker_close(&brute.upper);
    ranker_close(&brute.lower);
    set_close(&brute.copies);
    free(brute.where);
    free(brute.on_nvme);
    free(brute.copied);
    free(brute.request);
}

uint64_t brute_optimum(const struct brute_trace *trace, uint32_t size)
{
    uint64_t n = 0, at = 0, hits = 0;
    for (uint32_t i = 0; i < trace->n; i++)
        n += trace->requests[i].n;
    uint32_t *uses = zeros(n, sizeof *uses);
    uint64_t *next = zeros(n, sizeof *next), *due = zeros(trace->n_ids, sizeof *due);
    for (uint32_t i = 0; i < trace->n; at += trace->requests[i++].n)
        memcpy(uses + at, trace->requests[i].ids, trace->requests[i].n * sizeof *uses);
    for (uint32_t b = 0; b < trace->n_ids; b++)
        due[b] = UINT64_MAX;
    for (uint64_t i = n; i-- > 0;) {
        next[i] = due[uses[i]];
        due[uses[i]] = i;
    }
    struct set in;
    set_open(&in, trace->n_ids);
    for (uint64_t i = 0; i < n; i++) {
        uint32_t b = uses[i];
        if (in.at[b])
            hits++;
        if (!in.at[b] && size != BRUTE_UNLIMITED && in.n == size) {
            uint32_t last = in.of[0];
            for (uint32_t other = 1; other < in.n; other++)
                if (due[in.of[other]] > due[last])
                    last = in.of[other];
            set_remove(&in, last);
        }
        if (!in.at[b])
            set_add(&in, b);
        due[b] = next[i];
    }
    set_close(&in);
    free(uses);
    free(next);
    free(due);
    return hits;
}
