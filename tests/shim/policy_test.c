/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager's policy, with made-up engines: how many loads it needs, against how many are needed; how many of them are ahead
 * in time; and that every answer makes sense (policy_pager.c checks each). KVMM_TEST_TABLE=1 prints a table of loads beside
 * those of least-recently-used and of the optimum, which knows the future. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/shim/policy_pager.h"
#include "tests/support/scale.h"

#define MEMORY    1024
#define WINDOW    128
#define N_TENSORS 16
#define N_SLOTS   4
#define PER_SLOT  600
#define N_CHUNKS  (N_TENSORS * N_SLOTS * PER_SLOT)

static bool table_wanted(void)
{
    return getenv("KVMM_TEST_TABLE") != NULL;
}

static void trace_begins(struct sim *sim)
{
    if (!table_wanted())
        return;
    sim->room_trace = 1 << 16;
    sim->trace = malloc(sim->room_trace * sizeof *sim->trace);
    ck_assert_ptr_nonnull(sim->trace);
}

/* One line: the loads since `before`, when the trace was `from` long. */
static void table_line(const struct sim *sim, const char *name, const struct sim_counts *before, size_t from)
{
    if (!sim->trace)
        return;
    struct sim_counts count = sim_since(sim, before);
    printf("| %s | %llu | %llu | %llu | %llu |\n", name, (unsigned long long)(sim->n_trace - from),
           (unsigned long long)count.loads,
           (unsigned long long)trace_lru(sim->trace, sim->n_trace, sim->n_chunks, sim->memory, from),
           (unsigned long long)trace_optimum(sim->trace, sim->n_trace, sim->n_chunks, sim->memory, from));
    fflush(stdout);
}

static void open_engine(struct sim *sim, struct cache *cache, uint32_t n_threads)
{
    sim_open(sim, N_CHUNKS, MEMORY, WINDOW, n_threads);
    cache_open(cache, sim, N_TENSORS, N_SLOTS, PER_SLOT);
    trace_begins(sim);
}

static double in_time(const struct sim_counts *count)
{
    uint64_t used = count->soon + count->late + count->missed;
    return used ? (double)count->soon / (double)used : 1;
}

/* Decode sweeps of one conversation */

struct sweep {
    const char *name;
    uint32_t percent; /* what the conversation needs, of memory */
    uint32_t n_threads;
    bool together, k_with_v;
};

static const struct sweep sweeps[] = {
    {"sweep of 0.9 x memory", 90, 1, false, false},
    {"sweep of 0.9 x memory, 8 threads", 90, 8, false, false},
    {"sweep of 1.05 x memory", 105, 1, false, false},
    {"sweep of 1.33 x memory", 133, 1, false, false},
    {"sweep of 1.33 x memory, 2 threads, a part each", 133, 2, false, false},
    {"sweep of 1.33 x memory, 8 threads, a part each", 133, 8, false, false},
    {"sweep of 1.33 x memory, 8 threads together", 133, 8, true, false},
    {"sweep of 1.33 x memory, 8 threads together, K with V", 133, 8, true, true},
    {"sweep of 2 x memory", 200, 1, false, false},
    {"sweep of 2 x memory, 2 threads, a part each", 200, 2, false, false},
    {"sweep of 2 x memory, 8 threads, a part each", 200, 8, false, false},
    {"sweep of 2 x memory, 2 threads together, K with V", 200, 2, true, true},
    {"sweep of 4 x memory", 400, 1, false, false},
    {"sweep of 4 x memory, 2 threads, a part each", 400, 2, false, false},
    {"sweep of 4 x memory, 8 threads, a part each", 400, 8, false, false},
    {"sweep of 4 x memory, 8 threads together", 400, 8, true, false},
};
#define N_SWEEPS ((int)(sizeof sweeps / sizeof sweeps[0]))
#define WARM_UP  8
#define ROUNDS   4

static void run_sweep(const struct sweep *sweep, uint32_t use, bool like_pager, struct sim_counts *count,
                      uint32_t *missing)
{
    struct sim sim;
    struct cache cache;
    open_engine(&sim, &cache, sweep->n_threads);
    sim.use = use;
    sim.arrives_early = like_pager;
    sim.in_advance = like_pager ? MEMORY / 64 : 0;
    cache.together = sweep->together;
    cache.k_with_v = sweep->k_with_v;
    uint32_t length = MEMORY * sweep->percent / 100 / N_TENSORS;
    *missing = length * N_TENSORS > MEMORY ? length * N_TENSORS - MEMORY : 0;
    cache_prefill(&cache, 0, length);
    for (int i = 0; i < WARM_UP; i++)
        cache_decode(&cache, 0);
    struct sim_counts before = sim.count;
    size_t from = sim.n_trace;
    for (int i = 0; i < ROUNDS; i++)
        cache_decode(&cache, 0);
    *count = sim_since(&sim, &before);
    table_line(&sim, sweep->name, &before, from);
    sim_close(&sim);
}

/* With an engine that leaves the disk time enough, what is missing is loaded once a round, and ahead. */
START_TEST(a_sweep_misses_what_has_no_room)
{
    const struct sweep *sweep = &sweeps[_i];
    struct sim_counts count;
    uint32_t missing;
    run_sweep(sweep, sweep->together ? 60 : 60 * sweep->n_threads, false, &count, &missing);
    if (missing == 0) {
        ck_assert_uint_eq(count.loads, 0);
        ck_assert_uint_le(count.faults, 64);
        return;
    }
    ck_assert_uint_le(count.loads, ROUNDS * (missing * 115 / 100 + 24 + 2 * sweep->n_threads));
    ck_assert_double_ge(in_time(&count), 0.9);
    ck_assert_uint_le(count.wasted, count.loads / 20);
}
END_TEST

/* With one that doesn't, the loads are as few; the disk is then the limit. */
START_TEST(a_disk_bound_sweep_misses_no_more)
{
    struct sim_counts count;
    uint32_t missing;
    run_sweep(&sweeps[_i], 4, true, &count, &missing);
    ck_assert_uint_le(count.loads, ROUNDS * (missing * 130 / 100 + 24 + MEMORY / 64));
    ck_assert_uint_le(count.missed, count.loads / 20);
    /* What is missing lies in groups, so that one touch maps several. */
    if (sweeps[_i].percent == 133 && sweeps[_i].n_threads == 1)
        ck_assert_uint_le(count.faults, count.loads * 6 / 10);
}
END_TEST

/* What is missing is spread over the sweep, so that the disk works all the time, and in groups, so that few touches of what
 * was read ahead are reported: the round takes hardly longer than reading what is in memory would. */
START_TEST(the_disk_works_beside_the_sweep)
{
    struct sim sim;
    struct cache cache;
    open_engine(&sim, &cache, 1);
    uint32_t n = MEMORY * 4 / 3 / N_TENSORS * N_TENSORS;
    for (uint32_t t = 0; t < N_TENSORS; t++) { /* all of a tensor before the next: what has no room is one stretch */
        cache.length[0] = n / N_TENSORS;
        for (uint32_t i = 0; i < n / N_TENSORS; i++)
            sim_access(&sim, 0, t * N_SLOTS * PER_SLOT + i);
    }
    for (int i = 0; i < 2 * WARM_UP; i++)
        cache_decode(&cache, 0);
    struct sim_counts before = sim.count;
    uint64_t start = sim_time(&sim);
    for (int i = 0; i < ROUNDS; i++)
        cache_decode(&cache, 0);
    struct sim_counts count = sim_since(&sim, &before);
    ck_assert_uint_le(sim_time(&sim) - start, (uint64_t)ROUNDS * n * sim.use * 128 / 100);
    ck_assert_uint_le(count.faults, count.loads / 2);
    sim_close(&sim);
}
END_TEST

/* The last chunk of each tensor is written for each token: it stays, or it would have to be written to the disk each time. */
START_TEST(what_is_written_stays)
{
    struct sim sim;
    struct cache cache;
    open_engine(&sim, &cache, 1);
    sim.use = 60;
    cache_prefill(&cache, 0, MEMORY * 4 / 3 / N_TENSORS);
    cache_prefill(&cache, 1, MEMORY / N_TENSORS); /* so that all of the first comes back from the disk */
    cache.writes = true;
    for (int i = 0; i < WARM_UP; i++)
        cache_decode(&cache, 0);
    struct sim_counts before = sim.count;
    for (int i = 0; i < 10; i++)
        cache_decode(&cache, 0);
    struct sim_counts count = sim_since(&sim, &before);
    ck_assert_uint_gt(count.loads, 0);
    ck_assert_uint_le(count.writes, 16);
    sim_close(&sim);
}
END_TEST

/* Conversations in turn */

struct turns {
    const char *name;
    uint32_t percent, n_conversations, n_threads, n_tokens;
};

static const struct turns turns[] = {
    {"4 conversations in turn, 10 tokens each", 90, 4, 1, 10},
    {"4 conversations in turn, 4 threads", 90, 4, 4, 10},
    {"2 conversations in turn", 90, 2, 1, 10},
    {"2 conversations in turn, 4 threads", 90, 2, 4, 10},
};
#define N_TURNS ((int)(sizeof turns / sizeof turns[0]))

START_TEST(a_switch_is_one_pass_of_loads)
{
    const struct turns *t = &turns[_i];
    struct sim sim;
    struct cache cache;
    open_engine(&sim, &cache, t->n_threads);
    sim.use = 60 * t->n_threads;
    sim.arrives_early = _i % 2;
    sim.in_advance = _i % 2 ? MEMORY / 64 : 0;
    uint32_t length = MEMORY * t->percent / 100 / N_TENSORS, pass = length * N_TENSORS;
    for (uint32_t i = 0; i < t->n_conversations; i++)
        cache_prefill(&cache, i, length);
    struct sim_counts start = sim.count;
    size_t from = sim.n_trace;
    for (uint32_t round = 0; round < 5; round++) {
        struct sim_counts before_round = sim.count;
        for (uint32_t i = 0; i < t->n_conversations; i++) {
            struct sim_counts before = sim.count;
            cache_decode(&cache, i);
            struct sim_counts first = sim_since(&sim, &before);
            ck_assert_uint_le(first.loads, pass * 110 / 100);
            /* The first sweep of a conversation that was never loaded, too. */
            ck_assert_double_ge(in_time(&first), 0.8);
            for (uint32_t k = 1; k < t->n_tokens; k++)
                cache_decode(&cache, i);
        }
        struct sim_counts all = sim_since(&sim, &before_round);
        ck_assert_uint_le(all.loads, t->n_conversations * pass * 112 / 100);
        ck_assert_uint_le(all.wasted, all.loads / 20);
    }
    table_line(&sim, t->name, &start, from);
    sim_close(&sim);
}
END_TEST

/* Many short runs, side by side with those of others: the jump from one to the next is foreseen, although none of it was
 * ever read back before. */
START_TEST(a_first_return_is_foreseen)
{
    struct sim sim;
    struct cache cache;
    uint32_t n_tensors = 64, length = 14;
    sim_open(&sim, n_tensors * N_SLOTS * length, MEMORY, WINDOW, 1);
    cache_open(&cache, &sim, n_tensors, N_SLOTS, length);
    sim.use = 60;
    cache.k_with_v = _i;
    for (uint32_t i = 0; i < N_SLOTS; i++)
        cache_prefill(&cache, i, length);
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        for (int k = 0; k < 4; k++) /* the last one goes on for a while */
            cache_decode(&cache, (i + N_SLOTS - 1) % N_SLOTS);
        struct sim_counts before = sim.count;
        cache_decode(&cache, i);
        struct sim_counts count = sim_since(&sim, &before);
        ck_assert_uint_le(count.loads, n_tensors * length * 135 / 100);
        ck_assert_double_ge(in_time(&count), 0.8);
    }
    sim_close(&sim);
}
END_TEST

START_TEST(turns_of_one_token_are_a_sweep)
{
    struct sim sim;
    struct cache cache;
    open_engine(&sim, &cache, 1);
    sim.use = 60;
    uint32_t length = MEMORY * 9 / 10 / N_TENSORS, missing = 2 * length * N_TENSORS - MEMORY;
    cache_prefill(&cache, 0, length);
    cache_prefill(&cache, 1, length);
    for (int i = 0; i < 10; i++) {
        cache_decode(&cache, 0);
        cache_decode(&cache, 1);
    }
    struct sim_counts before = sim.count;
    size_t from = sim.n_trace;
    for (int i = 0; i < ROUNDS; i++) {
        cache_decode(&cache, 0);
        cache_decode(&cache, 1);
    }
    struct sim_counts count = sim_since(&sim, &before);
    ck_assert_uint_le(count.loads, ROUNDS * (missing * 115 / 100 + 24));
    table_line(&sim, "2 conversations, a token each in turn", &before, from);
    sim_close(&sim);
}
END_TEST

/* Idle beside active */

START_TEST(idle_leaves_for_a_sweep)
{
    struct sim sim;
    struct cache cache;
    open_engine(&sim, &cache, 1);
    /* Both are part of a sweep wider than memory; then one half stops, and the other alone fits. */
    cache_prefill(&cache, 1, 56);
    cache_prefill(&cache, 0, 32);
    for (int i = 0; i < 10; i++) {
        cache_decode(&cache, 0);
        cache_decode(&cache, 1);
    }
    struct sim_counts before = sim.count;
    size_t from = sim.n_trace;
    for (int i = 0; i < 10; i++)
        cache_decode(&cache, 1);
    struct sim_counts adapting = sim_since(&sim, &before);
    ck_assert_uint_le(adapting.loads, 3 * 56 * N_TENSORS);
    for (int i = 0; i < 10; i++)
        cache_decode(&cache, 1);
    struct sim_counts after = sim_since(&sim, &before);
    ck_assert_uint_eq(after.loads, adapting.loads);
    table_line(&sim, "one of two stops, the other fits, 20 tokens", &before, from);
    sim_close(&sim);
}
END_TEST

START_TEST(growth_takes_from_the_idle)
{
    struct sim sim;
    struct cache cache;
    open_engine(&sim, &cache, 1);
    /* The active conversation is the one loaded longer ago. */
    cache_prefill(&cache, 0, 32);
    cache_prefill(&cache, 1, 30);
    for (int i = 0; i < 4; i++)
        cache_decode(&cache, 0);
    struct sim_counts before = sim.count;
    size_t from = sim.n_trace;
    for (int i = 0; i < 24; i++) {
        cache_prefill(&cache, 0, 1);
        for (int k = 0; k < 20; k++)
            cache_decode(&cache, 0);
    }
    struct sim_counts count = sim_since(&sim, &before);
    ck_assert_uint_le(count.loads, 16);
    /* What it costs to find that out: few touches for each token. */
    ck_assert_uint_le(count.faults - count.fresh, 24 * 20 * 4);
    table_line(&sim, "slow growth beside an idle conversation", &before, from);
    sim_close(&sim);
}
END_TEST

START_TEST(prefill_over_the_budget)
{
    struct sim sim;
    struct cache cache;
    open_engine(&sim, &cache, 1);
    sim.use = 60;
    struct sim_counts before = sim.count;
    uint64_t needed = 0;
    for (uint32_t i = 1; i <= 3 * MEMORY / N_TENSORS; i++) {
        cache_prefill(&cache, 0, 1);
        needed += i * N_TENSORS > MEMORY ? i * N_TENSORS - MEMORY : 0;
    }
    struct sim_counts count = sim_since(&sim, &before);
    ck_assert_uint_le(count.loads, needed * 115 / 100);
    ck_assert_double_ge(in_time(&count), 0.9);
    table_line(&sim, "prefill up to 3 x memory, a chunk a batch", &before, 0);
    sim_close(&sim);
}
END_TEST

/* Anything */

static uint64_t seed;

static uint32_t pick(uint32_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed % n);
}

static void seed_new(void)
{
    const char *text = getenv("KVMM_TEST_SEED");
    seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) * 2654435761u + 1;
    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
}

START_TEST(random_touches)
{
    seed_new();
    struct sim sim;
    sim_open(&sim, 2 * MEMORY, MEMORY, WINDOW, 4);
    trace_begins(&sim);
    for (int i = 0; i < 20000; i++)
        sim_access(&sim, pick(4), pick(2 * MEMORY));
    struct sim_counts before = sim.count;
    size_t from = sim.n_trace;
    for (int i = 0; i < 40000; i++)
        sim_access(&sim, pick(4), pick(2 * MEMORY));
    /* Half of it is in memory; little is fetched for nothing, although nothing can be foreseen. */
    struct sim_counts count = sim_since(&sim, &before);
    ck_assert_uint_le(count.loads, 24000);
    ck_assert_uint_le(count.wasted, count.loads / 20);
    table_line(&sim, "random touches of 2 x memory", &before, from);
    sim_close(&sim);
}
END_TEST

START_TEST(engines_with_discards)
{
    seed_new();
    for (uint32_t memory = 64; memory <= 256; memory *= 2) {
        struct sim sim;
        struct cache cache;
        sim_open(&sim, N_CHUNKS, memory, memory / 4, 4);
        sim.arrives_early = pick(2);
        sim.in_advance = pick(2) ? memory / 16 : 0;
        cache_open(&cache, &sim, N_TENSORS, N_SLOTS, PER_SLOT);
        for (long i = scaled(400); i > 0; i--) {
            uint32_t slot = pick(N_SLOTS);
            cache.together = pick(2);
            cache.k_with_v = pick(2);
            if (cache.length[slot] < memory / 8 && pick(2))
                cache_prefill(&cache, slot, 1 + pick(2));
            for (uint32_t k = pick(6); k > 0; k--)
                cache_decode(&cache, slot);
            for (uint32_t k = pick(20); k > 0; k--)
                sim_discard(&sim, pick(N_TENSORS) * N_SLOTS * PER_SLOT + pick(N_SLOTS * PER_SLOT));
            if (pick(20) == 0) { /* a conversation ends */
                for (uint32_t t = 0; t < N_TENSORS; t++) {
                    for (uint32_t k = 0; k < cache.length[slot]; k++)
                        sim_discard(&sim, (t * N_SLOTS + slot) * PER_SLOT + k);
                }
                cache.length[slot] = 0;
            }
        }
        sim_close(&sim);
    }
}
END_TEST

/* The contract */

static bool none_wanted(void *user, uint32_t chunk)
{
    return false;
}

START_TEST(victims_are_named_once)
{
    struct shim_policy *policy = NULL;
    struct shim_policy_config config = {100, 64, 16};
    ck_assert_int_eq(shim_policy_open(&config, &policy), 0);
    ck_assert_uint_eq(shim_policy_victim(policy), SHIM_NO_CHUNK);
    for (uint32_t i = 0; i < 64; i++)
        shim_policy_touch(policy, i, 1, true, i % 2);
    shim_policy_arrives(policy, 64);
    shim_policy_arrives(policy, 64);
    bool named[100] = {0};
    for (int i = 0; i < 65; i++) {
        uint32_t victim = shim_policy_victim(policy);
        ck_assert_uint_le(victim, 64);
        ck_assert(!named[victim]);
        named[victim] = true;
    }
    ck_assert_uint_eq(shim_policy_victim(policy), SHIM_NO_CHUNK);
    /* Each of the three ways back, and out. */
    shim_policy_keep(policy, 7);
    ck_assert_uint_eq(shim_policy_victim(policy), 7);
    shim_policy_touch(policy, 8, 1, false, false);
    ck_assert_uint_eq(shim_policy_victim(policy), 8);
    shim_policy_left(policy, 9, true);
    shim_policy_left(policy, 10, false);
    ck_assert_uint_eq(shim_policy_victim(policy), SHIM_NO_CHUNK);
    shim_policy_touch(policy, 9, 1, true, false);
    ck_assert_uint_eq(shim_policy_victim(policy), 9);
    shim_policy_close(&policy);
    ck_assert_ptr_null(policy);
    shim_policy_close(&policy);
}
END_TEST

START_TEST(cold_leaves_first)
{
    struct shim_policy *policy = NULL;
    struct shim_policy_config config = {100, 64, 16};
    ck_assert_int_eq(shim_policy_open(&config, &policy), 0);
    for (uint32_t i = 0; i < 20; i++)
        shim_policy_touch(policy, i, 1, true, true);
    shim_policy_cold(policy, 11);
    shim_policy_cold(policy, 13);
    shim_policy_cold(policy, 50); /* not in memory */
    shim_policy_touch(policy, 11, 1, false, false);
    ck_assert_uint_eq(shim_policy_victim(policy), 13);
    ck_assert_uint_eq(shim_policy_victim(policy), 0); /* then the oldest */
    shim_policy_close(&policy);
}
END_TEST

START_TEST(numbers_out_of_range)
{
    struct shim_policy *policy = NULL;
    ck_assert_int_eq(shim_policy_open(&(struct shim_policy_config){0, 64, 16}, &policy), -EINVAL);
    ck_assert_int_eq(shim_policy_open(&(struct shim_policy_config){100, 0, 16}, &policy), -EINVAL);
    ck_assert_int_eq(shim_policy_open(&(struct shim_policy_config){SHIM_NO_CHUNK, 64, 16}, &policy), -EINVAL);
    ck_assert_ptr_null(policy);
    /* No limit, and no read-ahead, are fine. */
    ck_assert_int_eq(shim_policy_open(&(struct shim_policy_config){100, UINT32_MAX, 0}, &policy), 0);
    uint32_t chunks[4];
    for (uint32_t i = 0; i < 100; i++) {
        shim_policy_touch(policy, i, i % 3, true, true);
        ck_assert_uint_eq(shim_policy_probe(policy), SHIM_NO_CHUNK);
        ck_assert_uint_eq(shim_policy_read_ahead(policy, i % 3, i, none_wanted, NULL, chunks, 4), 0);
        ck_assert_uint_eq(shim_policy_map_run(policy, i % 3, i, 1), 1);
    }
    shim_policy_touch(policy, 100, 1, true, true);
    shim_policy_written(policy, 100);
    shim_policy_arrives(policy, 100);
    shim_policy_left(policy, 100, true);
    shim_policy_cold(policy, 100);
    shim_policy_keep(policy, 100);
    ck_assert_uint_eq(shim_policy_read_ahead(policy, 1, 100, none_wanted, NULL, chunks, 4), 0);
    ck_assert_uint_eq(shim_policy_map_run(policy, 1, 100, 1), 1);
    shim_policy_close(&policy);
}
END_TEST

static Suite *policy_suite(void)
{
    Suite *suite = suite_create("shim_policy");
    TCase *sweeps_case = tcase_create("sweeps");
    tcase_set_timeout(sweeps_case, 60);
    tcase_add_loop_test(sweeps_case, a_sweep_misses_what_has_no_room, 0, N_SWEEPS);
    tcase_add_loop_test(sweeps_case, a_disk_bound_sweep_misses_no_more, 0, N_SWEEPS);
    tcase_add_test(sweeps_case, the_disk_works_beside_the_sweep);
    tcase_add_test(sweeps_case, what_is_written_stays);
    suite_add_tcase(suite, sweeps_case);
    TCase *sets_case = tcase_create("working sets");
    tcase_set_timeout(sets_case, 60);
    tcase_add_loop_test(sets_case, a_switch_is_one_pass_of_loads, 0, N_TURNS);
    tcase_add_loop_test(sets_case, a_first_return_is_foreseen, 0, 2);
    tcase_add_test(sets_case, turns_of_one_token_are_a_sweep);
    tcase_add_test(sets_case, idle_leaves_for_a_sweep);
    tcase_add_test(sets_case, growth_takes_from_the_idle);
    tcase_add_test(sets_case, prefill_over_the_budget);
    suite_add_tcase(suite, sets_case);
    TCase *any_case = tcase_create("anything");
    tcase_set_timeout(any_case, 60);
    tcase_add_test(any_case, random_touches);
    tcase_add_test(any_case, engines_with_discards);
    tcase_add_test(any_case, victims_are_named_once);
    tcase_add_test(any_case, cold_leaves_first);
    tcase_add_test(any_case, numbers_out_of_range);
    suite_add_tcase(suite, any_case);
    return suite;
}

int main(void)
{
    if (table_wanted())
        printf("| engine | touches | loads | LRU | optimum |\n|---|---:|---:|---:|---:|\n");
    fflush(stdout);
    SRunner *runner = srunner_create(policy_suite());
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
