/* SPDX-License-Identifier: Apache-2.0
 *
 * The file store under faults: each kind has the documented answer, no block is lost in silence, and nothing is left
 * after close, whichever request it was that failed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

enum { BYTES = 16384, ALWAYS = 1000000 };

static struct swap_crew *crew;
static struct swap_store *store;
static struct said said;

static void open_store(const struct swap_faults *faults, uint32_t n_slots)
{
    char reason[256];
    if (crew == NULL)
        ck_assert_int_eq(swap_crew_open(2, &crew), 0);
    struct swap_file_config config = {
        .dir = test_dir(),
        .block_bytes = BYTES,
        .max_bytes = n_slots * (uint64_t)BYTES,
        .backend = "auto",
        .crew = crew,
        .log = said_log,
        .log_user = &said,
        .faults = faults,
    };
    ck_assert_int_eq(swap_file_open(&config, &store, reason, sizeof(reason)), 0);
}

static void close_store(void)
{
    swap_close(&store);
    swap_crew_close(&crew);
}

static struct swap_store_info get_info(void)
{
    struct swap_store_info info;
    swap_get_info(store, &info);
    return info;
}

static uint32_t take(void)
{
    uint32_t slot;
    ck_assert_int_eq(swap_slot_alloc(store, &slot), 0);
    return slot;
}

static int put_key(uint32_t slot, uint64_t key)
{
    char *block = new_block(BYTES);
    fill_block(block, BYTES, key, 0);
    int result = put_wait(store, slot, (struct swap_stamp){key, 0}, block);
    free(block);
    return result;
}

/* A get; one that succeeds must bring the right bytes. */
static int get_key(uint32_t slot, uint64_t key)
{
    char *block = new_block(BYTES);
    int result = get_wait(store, slot, (struct swap_stamp){key, 0}, block);
    if (result == 0)
        ck_assert(is_block(block, BYTES, key, 0));
    free(block);
    return result;
}

static const struct swap_faults none = {.seed = 1};

START_TEST(passing_trouble_is_overcome)
{
    struct swap_faults faults = {
        .seed = 3, .retry_ppm = ALWAYS / 12, .short_ppm = ALWAYS / 12, .delay_ppm = ALWAYS / 10, .delay_us = 500};
    enum { N = 32 };
    open_store(&faults, N);
    int n_failed = 0;
    uint32_t slots[N];
    for (uint64_t i = 0; i < N; i++)
        n_failed += put_key(slots[i] = take(), i) != 0;
    for (int round = 0; round < 4; round++)
        for (uint64_t i = 0; i < N; i++)
            n_failed += get_key(slots[i], i) != 0;
    /* One in six fails, so that three in a row are rare (1 in 216), and never silent. */
    ck_assert_int_lt(n_failed, N / 2);
    ck_assert_uint_gt(get_info().n_retries, 10);
    ck_assert(!get_info().failed);
    close_store();
}
END_TEST

START_TEST(trouble_that_stays_is_an_error)
{
    struct swap_faults faults[] = {{.seed = 4, .retry_ppm = ALWAYS}, {.seed = 4, .short_ppm = ALWAYS}};
    open_store(&faults[_i], 4);
    uint32_t slot = take();
    ck_assert_int_eq(put_key(slot, 1), -EIO);
    ck_assert_uint_eq(get_info().n_retries, SWAP_TRIES - 1);
    swap_set_faults(store, &none);
    ck_assert_int_eq(get_key(slot, 1), -EBADMSG); /* the put left the slot empty */
    ck_assert_uint_eq(get_info().n_retired, 0);
    swap_slot_free(store, slot);
    ck_assert_uint_eq(get_info().n_retired, 1);
    slot = take();
    ck_assert_int_eq(put_key(slot, 2), 0);
    swap_set_faults(store, &faults[_i]);
    ck_assert_int_eq(get_key(slot, 2), -EIO);
    ck_assert_uint_eq(get_info().n_retries, 2 * (SWAP_TRIES - 1));
    swap_set_faults(store, &none);
    ck_assert_int_eq(get_key(slot, 2), 0);
    swap_slot_free(store, slot);
    ck_assert_uint_eq(get_info().n_retired, 1); /* a slot that can't be read isn't retired: the write was good */
    close_store();
}
END_TEST

START_TEST(write_errors_retire_the_slot)
{
    static const int errors[] = {EIO, EINVAL};
    struct swap_faults faults = {.seed = 5, .fail_nth = 1, .fail_errno = errors[_i]};
    open_store(&faults, 2);
    uint32_t bad = take();
    ck_assert_int_eq(put_key(bad, 1), -EIO);
    ck_assert_uint_eq(get_info().n_retries, 0);
    swap_slot_free(store, bad);
    ck_assert_uint_eq(get_info().n_retired, 1);
    ck_assert_uint_eq(get_info().n_used, 0);
    uint32_t good = take(), slot;
    ck_assert_uint_ne(good, bad);
    ck_assert_int_eq(put_key(good, 1), 0);
    ck_assert_int_eq(get_key(good, 1), 0);
    ck_assert_int_eq(swap_slot_alloc(store, &slot), -ENOSPC);
    close_store();
}
END_TEST

START_TEST(one_bad_read_is_read_again)
{
    struct swap_faults faults = {.seed = 6, .fail_nth = 2, .fail_errno = EIO};
    open_store(&faults, 2);
    uint32_t slot = take();
    ck_assert_int_eq(put_key(slot, 1), 0);
    ck_assert_int_eq(get_key(slot, 1), 0);
    ck_assert_uint_eq(get_info().n_retries, 1);
    swap_set_faults(store, &(struct swap_faults){.seed = 6, .read_error_ppm = ALWAYS});
    ck_assert_int_eq(get_key(slot, 1), -EIO);
    ck_assert_uint_eq(get_info().n_retries, 2);
    swap_set_faults(store, &none);
    ck_assert_int_eq(get_key(slot, 1), 0);
    close_store();
}
END_TEST

START_TEST(wrong_bytes_are_read_again_and_never_delivered)
{
    struct swap_faults faults = {.seed = 7};
    open_store(&faults, 1);
    uint32_t slot = take();
    ck_assert_int_eq(put_key(slot, 1), 0);
    /* A flipped bit in half of the reads: two in a row happen, and so does a second read that is right. */
    swap_set_faults(store, &(struct swap_faults){.seed = 7, .corrupt_ppm = ALWAYS / 2});
    int n_bad = 0, n_good = 0;
    for (int i = 0; i < 100; i++) {
        int result = get_key(slot, 1); /* checks the bytes if it is 0 */
        ck_assert(result == 0 || result == -EBADMSG);
        n_bad += result == -EBADMSG;
        n_good += result == 0;
        ck_assert(!get_info().failed);
    }
    ck_assert_int_ge(n_bad, 10);
    ck_assert_int_ge(n_good, 50);
    close_store();
}
END_TEST

START_TEST(a_stale_block_is_never_delivered)
{
    struct swap_faults stale = {.seed = 8, .stale_ppm = ALWAYS};
    open_store(&none, 1);
    uint32_t slot = take();
    ck_assert_int_eq(put_key(slot, 1), 0);
    swap_slot_free(store, slot);
    swap_set_faults(store, &stale);
    slot = take();
    ck_assert_int_eq(put_key(slot, 2), 0); /* the device lies */
    ck_assert_int_eq(get_key(slot, 2), -EBADMSG);
    close_store();
}
END_TEST

START_TEST(many_errors_in_a_row_fail_the_store)
{
    struct swap_faults faults = {.seed = 9, .write_error_ppm = ALWAYS};
    said = (struct said){0};
    open_store(&none, 32);
    uint32_t good = take();
    ck_assert_int_eq(put_key(good, 1), 0);
    swap_set_faults(store, &faults);
    /* A success in between starts the count again. */
    for (int i = 0; i < 7; i++)
        ck_assert_int_eq(put_key(take(), 2), -EIO);
    ck_assert_int_eq(get_key(good, 1), 0);
    ck_assert(!get_info().failed);
    for (int i = 0; i < 7; i++)
        ck_assert_int_eq(put_key(take(), 2), -EIO);
    ck_assert(!get_info().failed);
    ck_assert_int_eq(put_key(take(), 2), -ENODEV);
    ck_assert(get_info().failed);
    ck_assert_ptr_nonnull(strstr(said.lines, "has failed"));
    swap_set_faults(store, &none);
    uint32_t slot;
    ck_assert_int_eq(get_key(good, 1), 0); /* what can still be read is not given up */
    ck_assert_int_eq(get_key(good, 2), -ENODEV);
    ck_assert_int_eq(put_key(good, 1), -ENODEV);
    ck_assert_int_eq(get_key(good, 1), 0);
    ck_assert_int_eq(swap_slot_alloc(store, &slot), -ENODEV);
    swap_slot_free(store, good);
    close_store();
}
END_TEST

START_TEST(a_full_file_system_is_no_failed_store)
{
    struct swap_faults full = {.seed = 10, .fail_after = 2, .fail_errno = ENOSPC};
    open_store(&full, 32);
    uint32_t good = take();
    ck_assert_int_eq(put_key(good, 1), 0);
    uint32_t others[20], slot;
    for (int i = 0; i < 20; i++)
        others[i] = take();
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(put_key(others[i], 2), -EIO);
    ck_assert(!get_info().failed);
    /* No slot is at fault, and none is handed out to fail in the same way. */
    swap_slot_free(store, others[0]);
    ck_assert_uint_eq(get_info().n_retired, 0);
    ck_assert_int_eq(swap_slot_alloc(store, &slot), -ENOSPC);
    swap_set_faults(store, &none);
    ck_assert_int_eq(get_key(good, 1), 0);
    for (int i = 0; i < 60 && swap_slot_alloc(store, &slot) != 0; i++)
        usleep(100000); /* it is asked again a second later */
    ck_assert_int_eq(put_key(slot, 3), 0);
    ck_assert_int_eq(get_key(slot, 3), 0);
    close_store();
}
END_TEST

START_TEST(a_device_that_is_gone_fails_the_store)
{
    static const int errors[] = {ENODEV, ENXIO};
    enum { N = 24 };
    struct swap_faults faults = {
        .seed = 11, .fail_after = N + 6, .fail_errno = errors[_i], .delay_ppm = ALWAYS, .delay_us = 3000};
    int fds = count_fds(), threads = count_threads();
    open_store(&faults, N);
    /* Gone in the middle of many: each one ends, with its bytes or with -ENODEV. */
    char *memory = new_block((size_t)N * BYTES);
    struct tally *tally = tally_new();
    struct waited_io ios[N];
    for (int i = 0; i < N; i++) {
        ios[i] = (struct waited_io){{.slot = take(),
                                     .stamp = {(uint64_t)i, 0},
                                     .buf = memory + (size_t)i * BYTES,
                                     .urgent = i % 2,
                                     .done = waited_done},
                                    tally};
        fill_block(ios[i].io.buf, BYTES, (uint64_t)i, 0);
        swap_put(store, &ios[i].io);
    }
    tally_wait(tally, N);
    for (int i = 0; i < N; i++)
        ck_assert_int_eq(ios[i].io.result, 0);
    memset(memory, 0, (size_t)N * BYTES);
    for (int i = 0; i < N; i++)
        swap_get(store, &ios[i].io);
    tally_wait(tally, 2 * N);
    int n_gone = 0;
    for (int i = 0; i < N; i++) {
        ck_assert(ios[i].io.result == 0 || ios[i].io.result == -ENODEV);
        if (ios[i].io.result == 0)
            ck_assert(is_block(ios[i].io.buf, BYTES, (uint64_t)i, 0));
        n_gone += ios[i].io.result != 0;
    }
    ck_assert_int_ge(n_gone, N - 5);
    ck_assert(get_info().failed);
    close_store();
    expect_nothing_left(fds, threads);
    free(memory);
    tally_free(tally);
}
END_TEST

/* A life that makes the same requests in the same order each time, one after the other:
 * puts 1..4, gets 5..8, puts 9 and 10 into freed slots, gets 11..14. */
enum { N_LIVE = 4, N_REQUESTS = 14 };

struct outcome {
    int results[N_REQUESTS + 1]; /* by number */
    struct swap_store_info info;
};

static void live(const struct swap_faults *faults, struct outcome *outcome)
{
    uint32_t slots[N_LIVE] = {0};
    uint64_t keys[N_LIVE];
    bool put[N_LIVE];
    int number = 0;
    open_store(faults, 3 * N_LIVE);
    for (int i = 0; i < N_LIVE; i++) {
        int taken = swap_slot_alloc(store, &slots[i]);
        ck_assert(taken == 0 || taken == -ENODEV);
        keys[i] = (uint64_t)i;
        outcome->results[++number] = taken == 0 ? put_key(slots[i], keys[i]) : taken;
        put[i] = outcome->results[number] == 0;
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N_LIVE; i++) {
            int result = get_key(slots[i], keys[i]);
            outcome->results[++number] = result;
            /* What wasn't put is never read; what was is read, or the error is said. */
            if (!put[i])
                ck_assert_int_ne(result, 0);
        }
        for (int i = 0; round == 0 && i < 2; i++) {
            swap_slot_free(store, slots[i]);
            uint32_t slot;
            int taken = swap_slot_alloc(store, &slot);
            ck_assert(taken == 0 || taken == -ENODEV);
            if (taken == 0)
                slots[i] = slot;
            keys[i] += 100;
            outcome->results[++number] = taken == 0 ? put_key(slots[i], keys[i]) : taken;
            put[i] = outcome->results[number] == 0;
        }
    }
    outcome->info = get_info();
    for (int i = 0; i < N_LIVE; i++)
        swap_slot_free(store, slots[i]);
    outcome->info.n_retired = get_info().n_retired;
    close_store();
}

static bool is_write(int number)
{
    return number <= 4 || number == 9 || number == 10;
}

/* The get that would read what this put wrote, and the one after. */
static bool reads_what(int get, int put)
{
    if (put <= 2)
        return get == put + 4;
    if (put <= 4)
        return get == put + 4 || get == put + 10;
    return get == put + 2;
}

static int put_read_by(int get)
{
    for (int put = 1; put <= N_REQUESTS; put++) {
        if (is_write(put) && reads_what(get, put))
            return put;
    }
    return 0;
}

static void check_outcome(const struct outcome *outcome, int nth, int error)
{
    bool passing = error == EAGAIN || error == EINTR || error == ENOMEM, gone = error == ENODEV || error == ENXIO;
    bool retried = nth <= N_REQUESTS && (passing || (!gone && !is_write(nth)));
    for (int i = 1; i <= N_REQUESTS; i++) {
        int expected = 0;
        if (gone && (i == nth || (i > nth && (is_write(i) || put_read_by(i) >= nth))))
            expected = -ENODEV;
        else if (!passing && !gone && is_write(nth) && i == nth)
            expected = -EIO;
        else if (!passing && !gone && is_write(nth) && reads_what(i, nth))
            expected = -EBADMSG; /* never put */
        ck_assert_msg(outcome->results[i] == expected, "request %d failed with %d: io %d is %d, not %d", nth, error, i,
                      outcome->results[i], expected);
    }
    ck_assert_uint_eq(outcome->info.n_retries, retried);
    ck_assert_int_eq(outcome->info.failed, gone && nth <= N_REQUESTS);
    ck_assert_uint_eq(outcome->info.n_retired, nth <= N_REQUESTS && !passing && is_write(nth));
}

START_TEST(any_one_request_may_fail)
{
    static const int errors[] = {EIO, EAGAIN, EINTR, ENOMEM, ENODEV, ENXIO};
    int error = errors[_i];
    for (int nth = 1; nth <= N_REQUESTS + 1; nth++) {
        struct swap_faults faults = {.seed = 12, .fail_nth = (uint64_t)nth, .fail_errno = error};
        struct outcome outcome = {0};
        int fds = count_fds(), threads = count_threads();
        live(&faults, &outcome);
        check_outcome(&outcome, nth, error);
        expect_nothing_left(fds, threads);
    }
}
END_TEST

/* All kinds at once, many seeds: whatever happens, a get that succeeds brings the right bytes. */
START_TEST(no_mixture_of_faults_delivers_wrong_bytes)
{
    for (int i = 0; i < scaled(12); i++) {
        struct swap_faults faults = {
            .seed = (uint64_t)(_i * 1000 + i),
            .read_error_ppm = ALWAYS / 20,
            .write_error_ppm = ALWAYS / 20,
            .retry_ppm = ALWAYS / 10,
            .short_ppm = ALWAYS / 10,
            .corrupt_ppm = ALWAYS / 10,
            .stale_ppm = ALWAYS / 20,
            .delay_ppm = ALWAYS / 10,
            .delay_us = 200,
        };
        struct outcome outcome;
        live(&faults, &outcome);
        for (int j = 1; j <= N_REQUESTS; j++)
            ck_assert(outcome.results[j] == 0 || outcome.results[j] == -EIO || outcome.results[j] == -EBADMSG ||
                      (outcome.results[j] == -ENODEV && outcome.info.failed));
    }
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("store faults");
    tcase_add_test(tests, passing_trouble_is_overcome);
    tcase_add_loop_test(tests, trouble_that_stays_is_an_error, 0, 2);
    tcase_add_loop_test(tests, write_errors_retire_the_slot, 0, 2);
    tcase_add_test(tests, one_bad_read_is_read_again);
    tcase_add_test(tests, wrong_bytes_are_read_again_and_never_delivered);
    tcase_add_test(tests, a_stale_block_is_never_delivered);
    tcase_add_test(tests, many_errors_in_a_row_fail_the_store);
    tcase_add_test(tests, a_full_file_system_is_no_failed_store);
    tcase_add_loop_test(tests, a_device_that_is_gone_fails_the_store, 0, 2);
    tcase_add_loop_test(tests, any_one_request_may_fail, 0, 6);
    tcase_add_loop_test(tests, no_mixture_of_faults_delivers_wrong_bytes, 0, 4);
    return run_suite("swap store faults", tests);
}
