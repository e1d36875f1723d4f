/* SPDX-License-Identifier: Apache-2.0
 *
 * Every index of a loop is given to a body once, and all bodies have returned, with their writes seen, when the loop
 * does. Failures of threads and memory are made by wrapping what makes them. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache.h"
#include "kernels/pool.h"

#define MAX_N 5000

/* Which call from now on fails, counted down; 0: none. */
static int failing_thread, failing_calloc;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg)
{
    if (failing_thread > 0 && --failing_thread == 0)
        return EAGAIN;
    return __real_pthread_create(thread, attr, start, arg);
}

void *__wrap_calloc(size_t n, size_t size)
{
    if (failing_calloc > 0 && --failing_calloc == 0)
        return NULL;
    return __real_calloc(n, size);
}

struct loop {
    uint32_t n, n_threads;
    uint8_t times[MAX_N]; /* plain: a second call of an index at a time would be a race that TSan sees */
    atomic_uint out_of_range;
    bool slow;
};

static void body(void *ctx, uint32_t i, uint32_t thread)
{
    struct loop *loop = ctx;

    if (i >= loop->n || thread >= loop->n_threads) {
        atomic_fetch_add(&loop->out_of_range, 1);
        return;
    }
    if (loop->slow && i % 16 == 0)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    loop->times[i]++;
}

static void check_loop(struct kern_pool *pool, uint32_t n, bool slow)
{
    struct loop loop = {.n = n, .n_threads = kern_pool_size(pool), .slow = slow};
    bool once = true;

    kern_pool_run(pool, n, body, &loop);
    for (uint32_t i = 0; i < MAX_N; i++)
        once = once && loop.times[i] == (i < n);
    ck_assert_msg(once && loop.out_of_range == 0, "%u indices on %u threads", n, loop.n_threads);
}

START_TEST(every_index_once)
{
    static const uint32_t sizes[] = {0, 1, 2, 3, 5, 64, 1000, MAX_N};

    for (uint32_t n_threads = 1; n_threads <= 5; n_threads++) {
        struct kern_pool *pool = NULL;
        ck_assert_int_eq(kern_pool_open(n_threads, &pool), 0);
        ck_assert_uint_eq(kern_pool_size(pool), n_threads);
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            check_loop(pool, sizes[i], false);
            check_loop(pool, sizes[i], true);
        }
        kern_pool_close(&pool);
        ck_assert_ptr_null(pool);
    }
}
END_TEST

/* Loops shorter than the time a thread takes to wake: late ones must find nothing of them. */
START_TEST(many_short_loops)
{
    struct rng rng = {.state = 5};
    struct kern_pool *pool = NULL;

    ck_assert_int_eq(kern_pool_open(4, &pool), 0);
    for (int i = 0; i < (int)scaled(3000); i++) {
        check_loop(pool, rng_below(&rng, 9), false);
        if (rng_below(&rng, 100) == 0) /* let them fall asleep */
            nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
    kern_pool_close(&pool);
}
END_TEST

START_TEST(open_and_close)
{
    for (int i = 0; i < (int)scaled(200); i++) {
        struct kern_pool *pool = NULL;
        ck_assert_int_eq(kern_pool_open(1 + (uint32_t)i % 4, &pool), 0);
        if (i % 3 == 0)
            check_loop(pool, 7, false);
        kern_pool_close(&pool);
    }
}
END_TEST

START_TEST(no_pool_is_the_caller)
{
    struct kern_pool *pool = NULL;

    ck_assert_uint_eq(kern_pool_size(NULL), 1);
    check_loop(NULL, 100, false);
    kern_pool_close(&pool);
}
END_TEST

START_TEST(as_many_as_cpus)
{
    struct kern_pool *pool = NULL;
    cpu_set_t set;

    ck_assert_int_eq(sched_getaffinity(0, sizeof(set), &set), 0);
    ck_assert_int_eq(kern_pool_open(0, &pool), 0);
    ck_assert_int_eq((int)kern_pool_size(pool), CPU_COUNT(&set));
    check_loop(pool, 100, false);
    kern_pool_close(&pool);
}
END_TEST

START_TEST(failures_leave_nothing)
{
    struct kern_pool *const untouched = (struct kern_pool *)&failing_thread;
    struct kern_pool *pool = untouched;

    for (int nth = 1; nth <= 3; nth++) {
        failing_thread = nth;
        ck_assert_int_eq(kern_pool_open(4, &pool), -EAGAIN);
        ck_assert_ptr_eq(pool, untouched);
    }
    for (int nth = 1; nth <= 2; nth++) {
        failing_calloc = nth;
        ck_assert_int_eq(kern_pool_open(4, &pool), -ENOMEM);
        ck_assert_ptr_eq(pool, untouched);
    }
    ck_assert_int_eq(failing_thread + failing_calloc, 0);
    ck_assert_int_eq(kern_pool_open(4, &pool), 0);
    check_loop(pool, 100, false);
    kern_pool_close(&pool);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pool");
    TCase *tcase = tcase_create("loops");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, every_index_once);
    tcase_add_test(tcase, many_short_loops);
    tcase_add_test(tcase, open_and_close);
    tcase_add_test(tcase, no_pool_is_the_caller);
    tcase_add_test(tcase, as_many_as_cpus);
    tcase_add_test(tcase, failures_leave_nothing);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
