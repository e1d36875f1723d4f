/* SPDX-License-Identifier: Apache-2.0
 *
 * The fault injector: each kind of fault does what it says, and the same seed does the same again. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"
#include "swap/thread.h"

enum { BLOCK = 16 << 10, ALWAYS = 1000000 };

static int fd;
static struct swap_backend *backend;
static char *block;

static void open_faults(const struct swap_faults *faults)
{
    struct swap_backend_info info;
    struct swap_backend *lower;
    fd = open(test_dir(), O_TMPFILE | O_CLOEXEC | O_RDWR, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)64 * BLOCK), 0);
    struct swap_backend_config config = {fd, BLOCK, 4, 4, NULL, 0};
    ck_assert_int_eq(swap_threads_open(&config, &lower, &info), 0);
    ck_assert_int_eq(swap_faults_open(lower, faults, &backend), 0);
    block = new_block(BLOCK);
}

static void close_faults(void)
{
    backend->ops->close(backend);
    close(fd);
    free(block);
}

struct waited_request {
    struct swap_request request;
    struct tally *tally;
    uint64_t done_ns;
};

static void request_done(struct swap_request *request)
{
    struct waited_request *waited = (struct waited_request *)request;
    waited->done_ns = swap_now_ns();
    tally_add(waited->tally);
}

static int64_t transfer(bool write, void *buf, uint64_t offset)
{
    struct waited_request waited = {
        .request = {.write = write, .buf = buf, .bytes = BLOCK, .offset = offset, .done = request_done}};
    waited.tally = tally_new();
    backend->ops->submit(backend, &waited.request);
    tally_wait(waited.tally, 1);
    tally_free(waited.tally);
    ck_assert_uint_eq(waited.request.bytes, BLOCK);
    return waited.request.result;
}

/* What the file holds, past the injector. */
static bool file_holds(uint64_t offset, uint64_t key)
{
    char *bytes = new_block(BLOCK);
    bool same = pread(fd, bytes, BLOCK, (off_t)offset) == BLOCK && is_block(bytes, BLOCK, key, 0);
    free(bytes);
    return same;
}

START_TEST(no_faults_by_default)
{
    struct swap_faults none = {.seed = 1};
    open_faults(&none);
    ck_assert_str_eq(backend->ops->name, "faults");
    for (uint64_t i = 0; i < 50; i++) {
        fill_block(block, BLOCK, i, 0);
        ck_assert_int_eq(transfer(true, block, i * BLOCK), BLOCK);
        memset(block, 0, BLOCK);
        ck_assert_int_eq(transfer(false, block, i * BLOCK), BLOCK);
        ck_assert(is_block(block, BLOCK, i, 0));
    }
    close_faults();
}
END_TEST

START_TEST(errors_touch_nothing)
{
    struct swap_faults all = {.seed = 2, .read_error_ppm = ALWAYS, .write_error_ppm = ALWAYS};
    open_faults(&all);
    fill_block(block, BLOCK, 5, 0);
    ck_assert_int_eq(transfer(true, block, 0), -EIO);
    ck_assert(!file_holds(0, 5));
    ck_assert_int_eq(transfer(false, block, 0), -EIO);
    ck_assert(is_block(block, BLOCK, 5, 0));
    /* Each rate is of its own direction. */
    swap_faults_set(backend, &(struct swap_faults){.seed = 2, .read_error_ppm = ALWAYS});
    ck_assert_int_eq(transfer(true, block, 0), BLOCK);
    ck_assert_int_eq(transfer(false, block, 0), -EIO);
    swap_faults_set(backend, &(struct swap_faults){.seed = 2, .write_error_ppm = ALWAYS});
    ck_assert_int_eq(transfer(true, block, 0), -EIO);
    ck_assert_int_eq(transfer(false, block, 0), BLOCK);
    close_faults();
}
END_TEST

START_TEST(retries_are_of_three_kinds)
{
    struct swap_faults all = {.seed = 3, .retry_ppm = ALWAYS};
    open_faults(&all);
    bool again = false, interrupted = false, memory = false;
    for (int i = 0; i < 100; i++) {
        int64_t result = transfer(i % 2, block, 0);
        again |= result == -EAGAIN;
        interrupted |= result == -EINTR;
        memory |= result == -ENOMEM;
        ck_assert(result == -EAGAIN || result == -EINTR || result == -ENOMEM);
    }
    ck_assert(again && interrupted && memory);
    close_faults();
}
END_TEST

START_TEST(short_transfers_are_parts)
{
    struct swap_faults all = {.seed = 4, .short_ppm = ALWAYS};
    open_faults(&all);
    fill_block(block, BLOCK, 6, 0);
    char *zeros = new_block(BLOCK), *got = new_block(BLOCK);
    for (uint64_t i = 0; i < 40; i++) {
        int64_t n = transfer(true, block, i * BLOCK);
        ck_assert_int_ge(n, 0);
        ck_assert_int_lt(n, BLOCK);
        ck_assert_int_eq(pread(fd, got, BLOCK, (off_t)(i * BLOCK)), BLOCK);
        ck_assert_mem_eq(got, block, (size_t)n);
        ck_assert_mem_eq(got + n, zeros, (size_t)(BLOCK - n));
    }
    free(zeros);
    free(got);
    close_faults();
}
END_TEST

START_TEST(corruption_is_one_bit)
{
    struct swap_faults all = {.seed = 5, .corrupt_ppm = ALWAYS};
    open_faults(&all);
    char *got = new_block(BLOCK);
    fill_block(block, BLOCK, 7, 0);
    ck_assert_int_eq(transfer(true, block, 0), BLOCK);
    ck_assert(file_holds(0, 7)); /* writes are left alone */
    for (int i = 0; i < 20; i++) {
        ck_assert_int_eq(transfer(false, got, 0), BLOCK);
        int n_bits = 0;
        for (int j = 0; j < BLOCK; j++)
            n_bits += __builtin_popcount((unsigned char)(got[j] ^ block[j]));
        ck_assert_int_eq(n_bits, 1);
    }
    free(got);
    close_faults();
}
END_TEST

START_TEST(stale_writes_are_dropped)
{
    struct swap_faults all = {.seed = 6, .stale_ppm = ALWAYS};
    open_faults(&all);
    fill_block(block, BLOCK, 8, 0);
    ck_assert_int_eq(transfer(true, block, 0), BLOCK);
    ck_assert(!file_holds(0, 8));
    ck_assert_int_eq(transfer(false, block, 0), BLOCK);
    close_faults();
}
END_TEST

START_TEST(nth_and_all_after)
{
    struct swap_faults third = {.seed = 7, .fail_nth = 3, .fail_errno = ENOSPC};
    open_faults(&third);
    for (int i = 1; i <= 6; i++)
        ck_assert_int_eq(transfer(true, block, 0), i == 3 ? -ENOSPC : BLOCK);
    swap_faults_set(backend, &(struct swap_faults){.seed = 7, .fail_after = 9, .fail_errno = ENODEV});
    for (int i = 7; i <= 12; i++)
        ck_assert_int_eq(transfer(false, block, 0), i >= 9 ? -ENODEV : BLOCK);
    close_faults();
}
END_TEST

START_TEST(a_delay_holds_up_one_request_only)
{
    enum { N = 40, DELAY_MS = 300 };
    struct swap_faults half = {.seed = 8, .delay_ppm = ALWAYS / 2, .delay_us = DELAY_MS * 1000};
    open_faults(&half);
    struct tally *tally = tally_new();
    char *memory = new_block((size_t)N * 4096);
    struct waited_request requests[N];
    uint64_t start = swap_now_ns();
    for (int i = 0; i < N; i++) {
        requests[i] = (struct waited_request){{.write = i % 2,
                                               .buf = memory + (size_t)i * 4096,
                                               .bytes = 4096,
                                               .offset = (uint64_t)i * 4096,
                                               .done = request_done},
                                              tally,
                                              0};
        backend->ops->submit(backend, &requests[i].request);
    }
    tally_wait(tally, N);
    int n_late = 0;
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(requests[i].request.result, 4096);
        n_late += requests[i].done_ns - start > 100 * 1000000u;
    }
    /* Uniform delays of up to 300 ms for half of them; were they one after the other, 20 would take 3 s. */
    ck_assert_int_ge(n_late, 1);
    ck_assert_int_lt(n_late, N);
    ck_assert_uint_lt(swap_now_ns() - start, UINT64_C(2000000000));
    close_faults();
    free(memory);
    tally_free(tally);
}
END_TEST

START_TEST(close_waits_for_the_late)
{
    struct swap_faults late = {.seed = 9, .delay_ppm = ALWAYS, .delay_us = 50000};
    int fds = count_fds(), threads = count_threads();
    open_faults(&late);
    struct tally *tally = tally_new();
    char *memory = new_block((size_t)20 * 4096);
    struct waited_request requests[20];
    for (int i = 0; i < 20; i++) {
        requests[i] =
            (struct waited_request){{.buf = memory + (size_t)i * 4096, .bytes = 4096, .done = request_done}, tally, 0};
        backend->ops->submit(backend, &requests[i].request);
    }
    close_faults();
    for (int i = 0; i < 20; i++)
        ck_assert_uint_ne(requests[i].done_ns, 0);
    expect_nothing_left(fds, threads);
    free(memory);
    tally_free(tally);
}
END_TEST

static void chain_done(struct swap_request *request)
{
    struct waited_request *waited = (struct waited_request *)request;
    if (++waited->done_ns < 20)
        backend->ops->submit(backend, request);
}

START_TEST(close_waits_for_what_the_late_submit)
{
    struct swap_faults late = {.seed = 12, .delay_ppm = ALWAYS, .delay_us = 2000};
    open_faults(&late);
    struct waited_request chain = {{.buf = block, .bytes = 4096, .done = chain_done}, NULL, 0};
    backend->ops->submit(backend, &chain.request);
    close_faults();
    ck_assert_uint_eq(chain.done_ns, 20);
    ck_assert_int_eq(chain.request.result, 4096);
}
END_TEST

static void run_mixture(uint64_t seed, int64_t *results, int n)
{
    struct swap_faults faults = {.seed = seed,
                                 .read_error_ppm = ALWAYS / 5,
                                 .write_error_ppm = ALWAYS / 5,
                                 .retry_ppm = ALWAYS / 5,
                                 .short_ppm = ALWAYS / 5};
    open_faults(&faults);
    for (int i = 0; i < n; i++)
        results[i] = transfer(i % 2, block, 0);
    close_faults();
}

START_TEST(the_seed_decides)
{
    enum { N = 100 };
    int64_t first[N], second[N], other[N];
    run_mixture(10, first, N);
    run_mixture(10, second, N);
    run_mixture(11, other, N);
    ck_assert_mem_eq(first, second, sizeof(first));
    ck_assert_mem_ne(first, other, sizeof(first));
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("faults");
    tcase_add_test(tests, no_faults_by_default);
    tcase_add_test(tests, errors_touch_nothing);
    tcase_add_test(tests, retries_are_of_three_kinds);
    tcase_add_test(tests, short_transfers_are_parts);
    tcase_add_test(tests, corruption_is_one_bit);
    tcase_add_test(tests, stale_writes_are_dropped);
    tcase_add_test(tests, nth_and_all_after);
    tcase_add_test(tests, a_delay_holds_up_one_request_only);
    tcase_add_test(tests, close_waits_for_the_late);
    tcase_add_test(tests, close_waits_for_what_the_late_submit);
    tcase_add_test(tests, the_seed_decides);
    return run_suite("swap faults", tests);
}
