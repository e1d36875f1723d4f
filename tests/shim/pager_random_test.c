/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads of an engine write, read, clear, advise, suspend and resume at random, in less memory than they use, while
 * transfers are late, short and have to be tried again. Every byte is what was written last. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/shim/pager_support.h"

#define N_THREADS 4
#define PART      (6 * MIB) /* each thread's own part of the range */
#define WORDS     512       /* a block: what is written and checked at once */

static struct said said;
static struct shim_pager *pager;
static char *base;
static atomic_bool stop;

struct worker {
    pthread_t thread;
    uint64_t seed;
    long rounds;
    char *part;
    uint32_t version[PART / (WORDS * 8)]; /* of each block; 0: cleared */
    bool wrong;
};

static uint64_t *block_at(struct worker *worker, size_t block)
{
    return (uint64_t *)(void *)(worker->part + block * WORDS * 8);
}

static bool check_block(struct worker *worker, size_t block)
{
    uint64_t *words = block_at(worker, block);
    uint32_t version = worker->version[block];
    bool right =
        version ? check_words(words, WORDS * 8, block * 1000003u + version) == WORDS : all_zero(words, WORDS * 8);
    if (!right)
        fprintf(stderr, "block %zu, version %u: word is %llx\n", block, version, (unsigned long long)words[0]);
    return right;
}

static void write_blocks(struct worker *worker, size_t first, size_t n, uint32_t version)
{
    for (size_t i = first; i < first + n; i++) {
        worker->version[i] = version;
        fill_words(block_at(worker, i), WORDS * 8, i * 1000003u + version);
    }
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    const size_t n_blocks = PART / (WORDS * 8);
    for (long round = 1; round <= worker->rounds && !worker->wrong; round++) {
        uint64_t r = random_next(&worker->seed);
        size_t first = (r >> 8) % n_blocks, n = 1 + (r >> 40) % 40;
        n = n > n_blocks - first ? n_blocks - first : n;
        switch (r % 16) {
        case 0:
            shim_pager_discard(pager, block_at(worker, first), n * WORDS * 8);
            memset(&worker->version[first], 0, n * sizeof worker->version[0]);
            break;
        case 1:
            shim_pager_advise(pager, block_at(worker, first), n * WORDS * 8, SHIM_WILL_NEED);
            break;
        case 2:
            shim_pager_advise(pager, block_at(worker, first), n * WORDS * 8, SHIM_COLD);
            break;
        case 3: /* a whole sweep, as attention does */
            for (size_t i = 0; i < n_blocks && !worker->wrong; i++)
                worker->wrong = !check_block(worker, i);
            break;
        case 4:
        case 5:
        case 6:
        case 7:
        case 8:
            write_blocks(worker, first, n, (uint32_t)round);
            break;
        default:
            for (size_t i = first; i < first + n && !worker->wrong; i++)
                worker->wrong = !check_block(worker, i);
        }
    }
    return NULL;
}

static void *interrupt(void *argument)
{
    uint64_t seed = *(uint64_t *)argument;
    while (!stop) {
        usleep((useconds_t)(random_next(&seed) % 60000));
        shim_pager_suspend(pager, (uint32_t)(random_next(&seed) % 30));
        usleep((useconds_t)(random_next(&seed) % 3000));
        shim_pager_resume(pager);
    }
    return NULL;
}

/* A page was lost: the log has the reason. */
static void say_why(int signal_number)
{
    ssize_t n = write(STDERR_FILENO, said.lines, strlen(said.lines));
    (void)n;
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void run(struct shim_pager_config config, long rounds, bool interrupted)
{
    const char *text = getenv("KVMM_TEST_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 10) : 20261125;
    printf("seed %llu\n", (unsigned long long)seed);
    signal(SIGBUS, say_why);
    open_or_skip(&pager, &config);
    ck_assert_int_eq(shim_pager_map(pager, NULL, N_THREADS * PART, 0, (void **)&base), 0);
    struct worker *workers = calloc(N_THREADS, sizeof *workers);
    ck_assert_ptr_nonnull(workers);
    for (int i = 0; i < N_THREADS; i++) {
        workers[i].seed = random_next(&seed);
        workers[i].rounds = scaled(rounds);
        workers[i].part = base + (size_t)i * PART;
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    pthread_t interrupter;
    uint64_t interrupt_seed = random_next(&seed);
    if (interrupted)
        ck_assert_int_eq(pthread_create(&interrupter, NULL, interrupt, &interrupt_seed), 0);
    bool wrong = false;
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        wrong = wrong || workers[i].wrong;
    }
    stop = true;
    if (interrupted)
        pthread_join(interrupter, NULL);
    ck_assert(!wrong);
    for (int i = 0; i < N_THREADS; i++)
        for (size_t block = 0; block < PART / (WORDS * 8); block++)
            ck_assert(check_block(&workers[i], block));
    struct shim_pager_info info = pager_info(pager);
    ck_assert_uint_le(info.peak_bytes, info.memory_bytes);
    ck_assert_uint_eq(info.lost_bytes, 0);
    ck_assert_int_eq(shim_pager_unmap(pager, base, false), 0);
    ck_assert_uint_eq(pager_info(pager).resident_bytes, 0);
    ck_assert_uint_eq(pager_info(pager).swapped_bytes, 0);
    shim_pager_close(&pager);
    free(workers);
}

START_TEST(random_work)
{
    run(pager_config(6 * MIB, &said), 600, false);
}
END_TEST

START_TEST(random_work_while_suspended_and_resumed)
{
    run(pager_config(6 * MIB, &said), 400, true);
}
END_TEST

START_TEST(random_work_in_small_chunks)
{
    struct shim_pager_config config = pager_config(3 * MIB, &said);
    config.chunk_bytes = 4096;
    run(config, 150, true);
}
END_TEST

START_TEST(random_work_by_threads)
{
    struct shim_pager_config config = pager_config(6 * MIB, &said);
    config.swap_backend = "threads";
    run(config, 150, true);
}
END_TEST

START_TEST(random_work_with_transfers_that_trouble)
{
    struct swap_faults faults = {.seed = 5, .retry_ppm = 500, .short_ppm = 500, .delay_ppm = 50000, .delay_us = 3000};
    struct shim_pager_config config = pager_config(6 * MIB, &said);
    config.faults = &faults;
    run(config, 200, true);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("pager at random");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, random_work);
    tcase_add_test(tests, random_work_while_suspended_and_resumed);
    tcase_add_test(tests, random_work_in_small_chunks);
    tcase_add_test(tests, random_work_by_threads);
    tcase_add_test(tests, random_work_with_transfers_that_trouble);
    return run_suite("pager_random", tests);
}
