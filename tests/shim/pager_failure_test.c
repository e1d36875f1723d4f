/* SPDX-License-Identifier: Apache-2.0
 *
 * The swap file is full, fails, or gives wrong bytes while an engine runs: the engine waits and the log says why, or it gets
 * SIGBUS; it never reads wrong bytes. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim/pager/state.h" /* to change the store's faults under way */
#include "tests/shim/pager_support.h"

static struct said said;
static struct shim_pager *pager;
static char *base;

struct writer {
    pthread_t thread;
    size_t bytes;
    atomic_size_t written;
};

static void *write_all(void *argument)
{
    struct writer *writer = argument;
    for (size_t at = 0; at < writer->bytes; at += CHUNK) {
        fill_words((uint64_t *)(void *)(base + at), CHUNK, at);
        atomic_store(&writer->written, at + CHUNK);
    }
    return NULL;
}

static bool wait_until_waiting(void)
{
    for (int i = 0; i < 1000; i++) {
        if (pager_info(pager).waiting)
            return true;
        usleep(10000);
    }
    return false;
}

/* An engine writes 32 MiB where fewer find room: it waits, and goes on when some of them are cleared. */
static void waits_for_room(struct shim_pager_config config, const char *says)
{
    open_or_skip(&pager, &config);
    ck_assert_int_eq(shim_pager_map(pager, NULL, 32 * MIB, 0, (void **)&base), 0);
    struct writer writer = {.bytes = 32 * MIB};
    ck_assert_int_eq(pthread_create(&writer.thread, NULL, write_all, &writer), 0);
    ck_assert(wait_until_waiting());
    size_t stopped = atomic_load(&writer.written);
    ck_assert_uint_lt(stopped, 32 * MIB);
    usleep(300000); /* no lines but one, however long it lasts */
    ck_assert_uint_eq(atomic_load(&writer.written), stopped);
    ck_assert_msg(strstr(said_now(&said), says) != NULL, "'%s'", said_now(&said));
    ck_assert_ptr_nonnull(strstr(said_now(&said), "the engine waits"));
    const char *once = strstr(said_now(&said), "the engine waits");
    ck_assert_ptr_null(strstr(once + 1, "the engine waits"));
    size_t cleared = 0;
    while (atomic_load(&writer.written) < 32 * MIB) {
        if (pager_info(pager).waiting) {
            ck_assert_int_eq(shim_pager_discard(pager, base + cleared, 2 * MIB), 0);
            cleared += 2 * MIB;
        }
        usleep(10000);
    }
    pthread_join(writer.thread, NULL);
    /* What wasn't cleared is all there, though there is no room to spare for fetching it. */
    ck_assert_uint_lt(cleared, 32 * MIB);
    for (int pass = 0; pass < 2; pass++)
        for (size_t at = cleared; at < 32 * MIB; at += CHUNK)
            ck_assert_uint_eq(check_words((uint64_t *)(void *)(base + at), CHUNK, at), CHUNK / 8);
    for (size_t at = cleared; at < 32 * MIB; at += CHUNK) /* nor is any needed for changing it */
        fill_words((uint64_t *)(void *)(base + at), CHUNK, at + 1);
    for (size_t at = cleared; at < 32 * MIB; at += CHUNK)
        ck_assert_uint_eq(check_words((uint64_t *)(void *)(base + at), CHUNK, at + 1), CHUNK / 8);
    ck_assert(!pager_info(pager).waiting);
    shim_pager_close(&pager);
}

START_TEST(waits_when_the_swap_file_is_full)
{
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    config.swap_bytes = 8 * MIB;
    waits_for_room(config, "the swap file is full");
}
END_TEST

START_TEST(waits_without_a_swap_file)
{
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    config.swap_dir = NULL;
    waits_for_room(config, "there is no swap file");
}
END_TEST

START_TEST(waits_when_the_swap_file_has_failed)
{
    struct swap_faults faults = {.seed = 1, .write_error_ppm = 1000000};
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    config.faults = &faults;
    waits_for_room(config, "the swap file has failed");
}
END_TEST

START_TEST(pages_whose_write_failed_stay_and_are_written_elsewhere)
{
    struct swap_faults faults = {.seed = 2, .write_error_ppm = 100000};
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    config.faults = &faults;
    open_or_skip(&pager, &config);
    ck_assert_int_eq(shim_pager_map(pager, NULL, 12 * MIB, 0, (void **)&base), 0);
    for (uint64_t version = 0; version < 2; version++) {
        fill_words((uint64_t *)(void *)base, 12 * MIB, version);
        ck_assert_uint_eq(check_words((uint64_t *)(void *)base, 12 * MIB, version), 12 * MIB / 8);
    }
    ck_assert_ptr_nonnull(strstr(said_now(&said), "can't be written to the swap file (Input/output error)"));
    ck_assert_uint_gt(pager_info(pager).n_writes, 0);
    shim_pager_close(&pager);
}
END_TEST

/* A log that takes its time: the line must be out before the signal ends the process. */
static void slow_log(void *user, bool warning, const char *line)
{
    usleep(200000);
    dprintf(*(const int *)user, "%s\n", line);
}

/* In a child, since it ends by a signal: everything is written, then reads bring wrong bytes. */
static void read_wrong_bytes(struct swap_faults wrong, bool can_poison, int report)
{
    struct swap_faults none = {.seed = 3};
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    config.faults = &none;
    config.log = slow_log;
    config.log_user = &report;
    char why[256];
    if (shim_pager_open(&config, &pager, why, sizeof why))
        _exit(77);
    pager->uffd.poison = pager->uffd.poison && can_poison;
    if (shim_pager_map(pager, NULL, 16 * MIB, 0, (void **)&base))
        _exit(2);
    fill_words((uint64_t *)(void *)base, 16 * MIB, 0);
    if (shim_pager_suspend(pager, 20000) || shim_pager_resume(pager))
        _exit(3);
    /* What resume brings in is right; the rest is away. */
    usleep(200000);
    swap_set_faults(pager->swap, &wrong);
    size_t n = check_words((uint64_t *)(void *)base, 16 * MIB, 0); /* SIGBUS in here */
    dprintf(report, "%zu words were right, then %llx", n, (unsigned long long)((uint64_t *)(void *)base)[n]);
    _exit(4);
}

static void expect_bus_error(struct swap_faults wrong, bool can_poison)
{
    int fds[2];
    ck_assert_int_eq(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        signal(SIGBUS, SIG_DFL); /* a sanitizer's own handler would report it */
        read_wrong_bytes(wrong, can_poison, fds[1]);
    }
    close(fds[1]);
    char text[1000] = "";
    size_t n = 0;
    for (ssize_t more; n < sizeof text - 1 && (more = read(fds[0], text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)more;
    close(fds[0]);
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip("no userfaultfd here");
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, "status %x: %s", status, text);
    ck_assert_msg(strstr(text, "can't be read back") != NULL, "'%s'", text);
}

START_TEST(wrong_bytes_are_a_bus_error)
{
    expect_bus_error((struct swap_faults){.seed = 4, .corrupt_ppm = 1000000}, true);
}
END_TEST

START_TEST(wrong_bytes_are_a_bus_error_on_older_kernels)
{
    expect_bus_error((struct swap_faults){.seed = 5, .corrupt_ppm = 1000000}, false);
}
END_TEST

START_TEST(failed_reads_are_a_bus_error)
{
    expect_bus_error((struct swap_faults){.seed = 6, .read_error_ppm = 1000000}, true);
}
END_TEST

START_TEST(what_is_lost_can_be_cleared_and_the_rest_is_intact)
{
    struct swap_faults none = {.seed = 7}, wrong = {.seed = 7, .corrupt_ppm = 500000};
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    config.faults = &none;
    open_or_skip(&pager, &config);
    ck_assert_int_eq(shim_pager_map(pager, NULL, 16 * MIB, 0, (void **)&base), 0);
    fill_words((uint64_t *)(void *)base, 16 * MIB, 0);
    ck_assert_int_eq(shim_pager_suspend(pager, 20000), 0);
    swap_set_faults(pager->swap, &wrong);
    /* Fetches nearly 4 MiB; a quarter of the chunks is read wrongly twice. */
    ck_assert_int_eq(shim_pager_resume(pager), 0);
    for (int i = 0; i < 1000 && pager_info(pager).n_loads_ahead < 60; i++)
        usleep(10000);
    usleep(100000);
    swap_set_faults(pager->swap, &none);
    ck_assert_uint_ge(pager_info(pager).lost_bytes, CHUNK);
    ck_assert_ptr_nonnull(
        strstr(said_now(&said), "its bytes are not those that were written): a touch of it is SIGBUS"));
    for (uint32_t chunk = 0; chunk < 256; chunk++) {
        char *at = base + chunk * CHUNK;
        shim_pager_lock(pager);
        bool lost = pager->chunks[chunk].state == SHIM_LOST;
        shim_pager_unlock(pager);
        if (!lost) {
            size_t i = 0;
            while (i < CHUNK / 8 && ((uint64_t *)(void *)at)[i] == word_of(chunk * (CHUNK / 8) + i, 0))
                i++;
            ck_assert_uint_eq(i, CHUNK / 8);
            continue;
        }
        ck_assert_int_eq(shim_pager_discard(pager, at, CHUNK), 0);
        ck_assert(all_zero(at, CHUNK));
        fill_words((uint64_t *)(void *)at, CHUNK, 1);
        ck_assert_uint_eq(check_words((uint64_t *)(void *)at, CHUNK, 1), CHUNK / 8);
    }
    ck_assert_uint_eq(pager_info(pager).lost_bytes, 0);
    shim_pager_close(&pager);
}
END_TEST

START_TEST(suspend_gives_all_back_and_touches_wait)
{
    struct shim_pager_config config = pager_config(8 * MIB, &said);
    open_or_skip(&pager, &config);
    ck_assert_int_eq(shim_pager_map(pager, NULL, 32 * MIB, 0, (void **)&base), 0);
    fill_words((uint64_t *)(void *)base, 16 * MIB, 0);
    ck_assert_int_eq(shim_pager_suspend(pager, 20000), 0);
    ck_assert_int_eq(shim_pager_suspend(pager, 0), 0);
    ck_assert_uint_eq(pager_info(pager).resident_bytes, 0);
    ck_assert(pager_info(pager).suspended);
    struct writer writer = {.bytes = MIB};
    base += 16 * MIB;
    ck_assert_int_eq(pthread_create(&writer.thread, NULL, write_all, &writer), 0);
    usleep(200000);
    ck_assert_uint_eq(atomic_load(&writer.written), 0);
    ck_assert_uint_eq(pager_info(pager).resident_bytes, 0);
    ck_assert_int_eq(shim_pager_resume(pager), 0);
    ck_assert_int_eq(shim_pager_resume(pager), 0);
    pthread_join(writer.thread, NULL);
    for (int i = 0; i < 1000 && pager_info(pager).resident_bytes < 6 * MIB; i++)
        usleep(10000); /* comes back untouched, too */
    ck_assert_uint_ge(pager_info(pager).resident_bytes, 6 * MIB);
    ck_assert_uint_eq(check_words((uint64_t *)(void *)(base - 16 * MIB), 16 * MIB, 0), 16 * MIB / 8);
    ck_assert_uint_eq(check_words((uint64_t *)(void *)base, CHUNK, 0), CHUNK / 8);
    shim_pager_close(&pager);
}
END_TEST

START_TEST(suspend_that_finds_no_room_changes_nothing)
{
    struct shim_pager_config config = pager_config(8 * MIB, &said);
    config.swap_bytes = 4 * MIB;
    open_or_skip(&pager, &config);
    ck_assert_int_eq(shim_pager_map(pager, NULL, 32 * MIB, 0, (void **)&base), 0);
    fill_words((uint64_t *)(void *)base, 7 * MIB, 0);
    ck_assert_int_eq(shim_pager_suspend(pager, 20000), -ENOSPC);
    ck_assert(!pager_info(pager).suspended);
    ck_assert_uint_eq(check_words((uint64_t *)(void *)base, 7 * MIB, 0), 7 * MIB / 8);
    fill_words((uint64_t *)(void *)base, 7 * MIB, 1);
    ck_assert_uint_eq(check_words((uint64_t *)(void *)base, 7 * MIB, 1), 7 * MIB / 8);
    shim_pager_close(&pager);
}
END_TEST

START_TEST(suspend_that_takes_long_goes_on)
{
    struct swap_faults faults = {.seed = 8, .delay_ppm = 1000000, .delay_us = 100000};
    struct shim_pager_config config = pager_config(8 * MIB, &said);
    config.faults = &faults;
    open_or_skip(&pager, &config);
    ck_assert_int_eq(shim_pager_map(pager, NULL, 32 * MIB, 0, (void **)&base), 0);
    fill_words((uint64_t *)(void *)base, 7 * MIB, 0);
    ck_assert_int_eq(shim_pager_suspend(pager, 5), -ETIMEDOUT);
    for (int i = 0; i < 2000 && pager_info(pager).resident_bytes > 0; i++)
        usleep(10000);
    ck_assert_uint_eq(pager_info(pager).resident_bytes, 0);
    ck_assert_int_eq(shim_pager_resume(pager), 0);
    ck_assert_uint_eq(check_words((uint64_t *)(void *)base, 7 * MIB, 0), 7 * MIB / 8);
    shim_pager_close(&pager);
}
END_TEST

static void *touch(void *at)
{
    (void)*(volatile char *)at;
    return NULL;
}

static bool is_in(uint32_t chunk, enum shim_chunk_state state)
{
    shim_pager_lock(pager);
    bool is = pager->chunks[chunk].state == state;
    shim_pager_unlock(pager);
    return is;
}

/* Chunks that the engine waits for and clears meanwhile come in as zeros, and count as what is there: were they forgotten, memory
 * would fill with chunks that nobody takes out. */
START_TEST(what_is_discarded_while_it_is_read_can_leave_again)
{
    enum { CHUNKS = 1024, BATCH = 16 };
    struct swap_faults none = {0}, slow = {.seed = 8, .delay_ppm = 1000000, .delay_us = 100000};
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    config.faults = &none;
    open_or_skip(&pager, &config);
    ck_assert_int_eq(shim_pager_map(pager, NULL, CHUNKS * CHUNK, 0, (void **)&base), 0);
    fill_words((uint64_t *)(void *)base, CHUNKS * CHUNK, 0);
    swap_set_faults(pager->swap, &slow);
    uint32_t caught = 0; /* more than memory holds */
    for (uint32_t chunk = 0; chunk < CHUNKS && caught < 100;) {
        uint32_t batch[BATCH], n = 0;
        pthread_t threads[BATCH];
        for (; chunk < CHUNKS && n < BATCH; chunk += 2) {
            if (!is_in(chunk, SHIM_SWAPPED))
                continue;
            batch[n] = chunk;
            ck_assert_int_eq(pthread_create(&threads[n++], NULL, touch, base + chunk * CHUNK), 0);
        }
        for (uint32_t i = 0; i < n; i++) {
            for (int tries = 0; tries < 100 && is_in(batch[i], SHIM_SWAPPED); tries++)
                usleep(500); /* until its read has begun */
            caught += is_in(batch[i], SHIM_LOADING);
            ck_assert_int_eq(shim_pager_discard(pager, base + batch[i] * CHUNK, CHUNK), 0);
        }
        for (uint32_t i = 0; i < n; i++)
            pthread_join(threads[i], NULL);
    }
    ck_assert_uint_ge(caught, 70);
    swap_set_faults(pager->swap, &none);
    fill_words((uint64_t *)(void *)base, CHUNKS * CHUNK, 1);
    ck_assert_uint_eq(check_words((uint64_t *)(void *)base, CHUNKS * CHUNK, 1), CHUNKS * CHUNK / 8);
    shim_pager_close(&pager);
}
END_TEST

static void *check_first_words(void *unused)
{
    (void)unused;
    ck_assert_uint_eq(check_words((uint64_t *)(void *)base, 8 * MIB, 0), 8 * MIB / 8);
    return NULL;
}

/* What can't be put into memory isn't lost: its slot has it still. */
START_TEST(what_finds_no_pages_is_read_again)
{
    struct shim_pager_config config = pager_config(8 * MIB, &said);
    open_or_skip(&pager, &config);
    ck_assert_int_eq(shim_pager_map(pager, NULL, 16 * MIB, 0, (void **)&base), 0);
    fill_words((uint64_t *)(void *)base, 16 * MIB, 0);
    ck_assert_int_eq(shim_pager_discard(pager, base + 8 * MIB, 8 * MIB), 0); /* room: nothing has to be written */
    struct rlimit usual, few;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &usual), 0);
    few = (struct rlimit){4 * MIB, usual.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &few), 0); /* of the memfd, too */
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, check_first_words, NULL), 0);
    uint64_t failed = 0; /* reads, at least, that were made in vain */
    for (int i = 0; i < 2000 && failed < 3; i++) {
        usleep(10000);
        struct shim_pager_info info = pager_info(pager);
        uint64_t read = (info.n_loads + info.n_loads_ahead) * CHUNK;
        failed = read > 4 * MIB ? (read - 4 * MIB) / CHUNK : 0; /* what lies lower can be had, once */
    }
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &usual), 0);
    ck_assert_uint_ge(failed, 3);
    ck_assert_ptr_nonnull(strstr(said_now(&said), "no memory for a page of the cache"));
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_uint_eq(pager_info(pager).lost_bytes, 0);
    shim_pager_close(&pager);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("pager in trouble");
    tcase_set_timeout(tests, 30);
    tcase_add_test(tests, waits_when_the_swap_file_is_full);
    tcase_add_test(tests, waits_without_a_swap_file);
    tcase_add_test(tests, waits_when_the_swap_file_has_failed);
    tcase_add_test(tests, pages_whose_write_failed_stay_and_are_written_elsewhere);
    tcase_add_test(tests, wrong_bytes_are_a_bus_error);
    tcase_add_test(tests, wrong_bytes_are_a_bus_error_on_older_kernels);
    tcase_add_test(tests, failed_reads_are_a_bus_error);
    tcase_add_test(tests, what_is_lost_can_be_cleared_and_the_rest_is_intact);
    tcase_add_test(tests, suspend_gives_all_back_and_touches_wait);
    tcase_add_test(tests, suspend_that_finds_no_room_changes_nothing);
    tcase_add_test(tests, suspend_that_takes_long_goes_on);
    tcase_add_test(tests, what_finds_no_pages_is_read_again);
    tcase_add_test(tests, what_is_discarded_while_it_is_read_can_leave_again);
    return run_suite("pager_failure", tests);
}
