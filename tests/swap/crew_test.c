/* SPDX-License-Identifier: Apache-2.0
 *
 * The crew runs every job once, urgent ones first, and nothing is left of it; the timer rings in order of time. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "support.h"
#include "swap/thread.h"

struct counted_job {
    struct swap_job job;
    int n_runs;
    struct tally *tally;
};

static void run_counted(struct swap_job *job)
{
    struct counted_job *counted = (struct counted_job *)job;
    counted->n_runs++;
    tally_add(counted->tally);
}

struct giver {
    struct swap_crew *crew;
    struct counted_job *jobs;
    int n;
};

static void *give_all(void *arg)
{
    struct giver *giver = arg;
    for (int i = 0; i < giver->n; i++)
        swap_crew_give(giver->crew, &giver->jobs[i].job, i % 3 == 0);
    return NULL;
}

START_TEST(every_job_runs_once)
{
    enum { GIVERS = 4 };
    int n = scaled(2000);
    struct tally *tally = tally_new();
    struct swap_crew *crew;
    ck_assert_int_eq(swap_crew_open(3, &crew), 0);
    pthread_t threads[GIVERS];
    struct giver givers[GIVERS];
    for (int i = 0; i < GIVERS; i++) {
        givers[i] = (struct giver){crew, calloc((size_t)n, sizeof(struct counted_job)), n};
        ck_assert_ptr_nonnull(givers[i].jobs);
        for (int j = 0; j < n; j++)
            givers[i].jobs[j] = (struct counted_job){{run_counted, NULL}, 0, tally};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, give_all, &givers[i]), 0);
    }
    for (int i = 0; i < GIVERS; i++)
        pthread_join(threads[i], NULL);
    swap_crew_close(&crew);
    ck_assert_ptr_null(crew);
    for (int i = 0; i < GIVERS; i++) {
        for (int j = 0; j < n; j++)
            ck_assert_int_eq(givers[i].jobs[j].n_runs, 1);
        free(givers[i].jobs);
    }
    tally_free(tally);
}
END_TEST

static int order[8];
static int n_order;

struct numbered_job {
    struct swap_job job;
    int number;
};

static void run_numbered(struct swap_job *job)
{
    order[n_order++] = ((struct numbered_job *)job)->number;
}

struct gate_job {
    struct swap_job job;
    pthread_barrier_t *gate;
};

static void run_gate(struct swap_job *job)
{
    pthread_barrier_t *gate = ((struct gate_job *)job)->gate;
    pthread_barrier_wait(gate); /* begun */
    pthread_barrier_wait(gate); /* may end */
}

START_TEST(urgent_jobs_go_first)
{
    struct swap_crew *crew;
    pthread_barrier_t gate;
    ck_assert_int_eq(pthread_barrier_init(&gate, NULL, 2), 0);
    ck_assert_int_eq(swap_crew_open(1, &crew), 0);
    struct gate_job hold = {{run_gate, NULL}, &gate};
    struct numbered_job jobs[6];
    swap_crew_give(crew, &hold.job, false);
    pthread_barrier_wait(&gate);
    /* The only thread is held, so all six wait: three usual ones, then three urgent. */
    for (int i = 0; i < 6; i++) {
        jobs[i] = (struct numbered_job){{run_numbered, NULL}, i};
        swap_crew_give(crew, &jobs[i].job, i >= 3);
    }
    pthread_barrier_wait(&gate);
    swap_crew_close(&crew);
    static const int expected[] = {3, 4, 5, 0, 1, 2};
    ck_assert_int_eq(n_order, 6);
    ck_assert_mem_eq(order, expected, sizeof(expected));
    pthread_barrier_destroy(&gate);
}
END_TEST

struct chain_job {
    struct swap_job job;
    struct swap_crew *crew;
    int left;
};

static void run_chain(struct swap_job *job)
{
    struct chain_job *chain = (struct chain_job *)job;
    if (--chain->left > 0)
        swap_crew_give(chain->crew, job, chain->left % 2 == 0);
}

START_TEST(close_runs_what_jobs_queue)
{
    struct swap_crew *crew;
    ck_assert_int_eq(swap_crew_open(2, &crew), 0);
    struct chain_job chain = {{run_chain, NULL}, crew, 1000};
    swap_crew_give(crew, &chain.job, false);
    swap_crew_close(&crew);
    ck_assert_int_eq(chain.left, 0);
}
END_TEST

START_TEST(nothing_is_left)
{
    int fds = count_fds(), threads = count_threads();
    for (uint32_t n = 1; n < 9; n++) {
        struct swap_crew *crew;
        ck_assert_int_eq(swap_crew_open(n, &crew), 0);
        swap_crew_close(&crew);
    }
    expect_nothing_left(fds, threads);
    struct swap_crew *none = NULL;
    swap_crew_close(&none);
    ck_assert_int_eq(swap_crew_open(0, &none), -EINVAL);
    ck_assert_ptr_null(none);
}
END_TEST

struct timed {
    struct swap_alarm alarm;
    struct tally *tally;
    uint64_t set_ns, rang_ns;
};

static void ring_timed(struct swap_alarm *alarm)
{
    struct timed *timed = (struct timed *)alarm;
    timed->rang_ns = swap_now_ns();
    tally_add(timed->tally);
}

START_TEST(alarms_ring_in_order_of_time)
{
    static const uint64_t delays_ms[] = {30, 5, 20, 0, 10, 5};
    enum { N = sizeof(delays_ms) / sizeof(delays_ms[0]) };
    struct timed timed[N];
    struct swap_timer *timer;
    struct tally *tally = tally_new();
    ck_assert_int_eq(swap_timer_open(&timer), 0);
    for (int i = 0; i < N; i++) {
        timed[i] = (struct timed){{.ring = ring_timed}, tally, swap_now_ns(), 0};
        swap_timer_set(timer, &timed[i].alarm, delays_ms[i] * 1000000);
    }
    tally_wait(tally, N);
    swap_timer_close(&timer);
    for (int i = 0; i < N; i++) {
        ck_assert_uint_ge(timed[i].rang_ns - timed[i].set_ns, delays_ms[i] * 1000000);
        for (int j = 0; j < N; j++)
            if (timed[i].alarm.due_ns < timed[j].alarm.due_ns)
                ck_assert_uint_le(timed[i].rang_ns, timed[j].rang_ns);
    }
    tally_free(tally);
}
END_TEST

START_TEST(timer_close_rings_the_rest)
{
    int fds = count_fds(), threads = count_threads();
    struct swap_timer *timer;
    struct tally *tally = tally_new();
    ck_assert_int_eq(swap_timer_open(&timer), 0);
    struct timed timed = {{.ring = ring_timed}, tally, 0, 0};
    swap_timer_set(timer, &timed.alarm, 20000000);
    swap_timer_close(&timer);
    ck_assert_uint_ne(timed.rang_ns, 0);
    ck_assert_ptr_null(timer);
    expect_nothing_left(fds, threads);
    tally_free(tally);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("crew");
    tcase_add_test(tests, every_job_runs_once);
    tcase_add_test(tests, urgent_jobs_go_first);
    tcase_add_test(tests, close_runs_what_jobs_queue);
    tcase_add_test(tests, nothing_is_left);
    tcase_add_test(tests, alarms_ring_in_order_of_time);
    tcase_add_test(tests, timer_close_rings_the_rest);
    return run_suite("swap crew", tests);
}
