/* SPDX-License-Identifier: Apache-2.0
 *
 * Ranges hold what was written to them, in less memory than they are; calls, system calls and children see what the header
 * says. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/shim/pager_support.h"
#include "tests/support/leaks.h"

static struct said said;

START_TEST(holds_what_was_written_in_a_quarter_of_it)
{
    struct shim_pager_config config = pager_config(8 * MIB, &said);
    struct shim_pager *pager;
    open_or_skip(&pager, &config);
    void *base;
    ck_assert_int_eq(shim_pager_map(pager, NULL, 32 * MIB, 0, &base), 0);
    ck_assert_uint_eq((uintptr_t)base % CHUNK, 0);
    for (uint64_t version = 0; version < 3; version++) {
        fill_words(base, 32 * MIB, version);
        for (int pass = 0; pass < 2; pass++)
            ck_assert_uint_eq(check_words(base, 32 * MIB, version), 32 * MIB / 8);
    }
    struct shim_pager_info info = pager_info(pager);
    ck_assert_uint_le(info.peak_bytes, 8 * MIB);
    ck_assert_uint_eq(info.memory_bytes, 8 * MIB);
    ck_assert_uint_ge(info.swapped_bytes, 24 * MIB);
    ck_assert_uint_gt(info.n_dropped_clean, 0);
    ck_assert_uint_gt(info.n_loads_ahead, 0);
    shim_pager_close(&pager);
    ck_assert_ptr_null(pager);
}
END_TEST

START_TEST(a_budget_below_the_working_set_is_said_with_what_would_do)
{
    struct shim_pager_config config = pager_config(16 * MIB, &said);
    struct shim_pager *pager;
    open_or_skip(&pager, &config);
    void *base;
    ck_assert_int_eq(shim_pager_map(pager, NULL, 24 * MIB, 0, &base), 0);
    fill_words(base, 24 * MIB, 0);
    for (int round = 0; round < 10; round++) /* this fits */
        ck_assert_uint_eq(check_words(base, 12 * MIB, 0), 12 * MIB / 8);
    ck_assert_ptr_null(strstr(said_now(&said), "would do"));
    for (int round = 0; round < 40 && !strstr(said_now(&said), "would do"); round++)
        ck_assert_uint_eq(check_words(base, 24 * MIB, 0), 24 * MIB / 8);
    unsigned had, reads, needs;
    const char *line = strstr(said_now(&said), "the engine goes round");
    ck_assert_ptr_nonnull(line);
    ck_assert_int_eq(
        sscanf(line,
               "the engine goes round more of its cache than its %u MiB of memory hold, and reads %u MiB back "
               "each time; about %u MiB would do",
               &had, &reads, &needs),
        3);
    ck_assert_uint_eq(had, 16);
    ck_assert_uint_ge(needs, 23);
    ck_assert_uint_le(needs, 32);
    ck_assert_uint_eq(needs - reads, 16);
    shim_pager_close(&pager);
}
END_TEST

/* What the kernel says that the process holds. */
static uint64_t shared_resident(void)
{
    FILE *file = fopen("/proc/self/status", "re");
    char line[256];
    unsigned long long kib = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "RssShmem: %llu", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib << 10;
}

START_TEST(the_process_holds_no_more_than_the_budget)
{
    struct shim_pager_config config = pager_config(8 * MIB, &said);
    struct shim_pager *pager;
    open_or_skip(&pager, &config);
    void *base;
    ck_assert_int_eq(shim_pager_map(pager, NULL, 64 * MIB, 0, &base), 0);
    uint64_t most = 0;
    for (size_t at = 0; at < 64 * MIB; at += MIB) {
        fill_words((uint64_t *)((char *)base + at), MIB, at);
        uint64_t now = shared_resident();
        most = now > most ? now : most;
    }
    for (size_t at = 0; at < 64 * MIB; at += MIB) {
        ck_assert_uint_eq(check_words((uint64_t *)((char *)base + at), MIB, at), MIB / 8);
        uint64_t now = shared_resident();
        most = now > most ? now : most;
    }
    ck_assert_uint_le(most, 9 * MIB); /* the kernel's count is exact to some 64 pages for each CPU */
    ck_assert_uint_ge(most, 6 * MIB);
    shim_pager_close(&pager);
}
END_TEST

START_TEST(a_range_that_is_only_cleared_takes_nothing)
{
    struct shim_pager_config config = pager_config(8 * MIB, &said);
    struct shim_pager *pager;
    open_or_skip(&pager, &config);
    void *base;
    const size_t bytes = (size_t)64 << 30;
    ck_assert_int_eq(shim_pager_map(pager, NULL, bytes, 0, &base), 0);
    ck_assert_int_eq(shim_pager_discard(pager, base, bytes), 0);
    struct shim_pager_info info = pager_info(pager);
    ck_assert_uint_eq(info.peak_bytes, 0);
    ck_assert_uint_eq(info.n_faults, 0);
    ck_assert_uint_eq(info.range_bytes, bytes);
    ((char *)base)[bytes - 1] = 7;
    ck_assert_int_eq(((char *)base)[bytes - 1], 7);
    ck_assert_uint_eq(pager_info(pager).peak_bytes, CHUNK);
    shim_pager_close(&pager);
}
END_TEST

/* One touch takes one chunk. */
START_TEST(the_chunk_follows_from_the_budget)
{
    const struct {
        uint64_t memory, swap_bytes, chunk;
    } cases[] = {{64 * MIB, 0, 256 << 10},
                 {(uint64_t)1 << 40, 0, 256 << 10},
                 {64 * MIB, 64 * MIB, 256 << 10},
                 {64 * MIB, 63 * MIB, 64 << 10}, /* a swap file that holds few of them */
                 {63 * MIB, 0, 64 << 10},
                 {4 * MIB, 0, 64 << 10},
                 {0, 0, 64 << 10}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct shim_pager_config config = pager_config(cases[i].memory, &said);
        config.chunk_bytes = 0;
        config.swap_bytes = cases[i].swap_bytes;
        struct shim_pager *pager;
        open_or_skip(&pager, &config);
        char *base;
        ck_assert_int_eq(shim_pager_map(pager, NULL, 2 * MIB, 0, (void **)&base), 0);
        base[MIB] = 1;
        ck_assert_uint_eq(pager_info(pager).resident_bytes, cases[i].chunk);
        shim_pager_close(&pager);
    }
}
END_TEST

START_TEST(zeros_leave_without_a_write)
{
    struct shim_pager_config config = pager_config(8 * MIB, &said);
    struct shim_pager *pager;
    open_or_skip(&pager, &config);
    char *base;
    ck_assert_int_eq(shim_pager_map(pager, NULL, 32 * MIB, 0, (void **)&base), 0);
    for (size_t at = 0; at < 32 * MIB; at += 4096) /* as torch.zeros does, without a large memset */
        memset(base + at, 0, 4096);
    ck_assert(all_zero(base, 32 * MIB));
    struct shim_pager_info info = pager_info(pager);
    ck_assert_uint_eq(info.n_writes, 0);
    ck_assert_uint_gt(info.n_dropped_zero, 0);
    shim_pager_close(&pager);
}
END_TEST

START_TEST(discard_clears_bytes_exactly)
{
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    struct shim_pager *pager;
    open_or_skip(&pager, &config);
    const size_t bytes = 8 * MIB + 12288;
    unsigned char *base, *copy = malloc(bytes);
    ck_assert_ptr_nonnull(copy);
    ck_assert_int_eq(shim_pager_map(pager, NULL, bytes, 0, (void **)&base), 0);
    uint64_t state = 4;
    memset(copy, 0, bytes);
    for (long round = 0; round < scaled(60); round++) {
        for (int k = 0; k < 20; k++) {
            size_t at = random_next(&state) % bytes, n = random_next(&state) % 300000;
            n = n > bytes - at ? bytes - at : n;
            memset(base + at, (int)(random_next(&state) | 1), n);
            memcpy(copy + at, base + at, n);
        }
        size_t at = random_next(&state) % bytes;
        size_t n = random_next(&state) % (round % 3 ? (size_t)100 : 2 * MIB);
        n = n > bytes - at ? bytes - at : n;
        if (round % 5 == 0)
            n = bytes - at;
        ck_assert_int_eq(shim_pager_discard(pager, base + at, n), 0);
        memset(copy + at, 0, n);
        ck_assert_int_eq(memcmp(base, copy, bytes), 0);
    }
    ck_assert_int_eq(shim_pager_discard(pager, base, bytes), 0);
    for (int i = 0; i < 1000 && pager_info(pager).resident_bytes > 0; i++)
        usleep(10000); /* until transfers under way have ended */
    ck_assert_uint_eq(pager_info(pager).resident_bytes, 0);
    ck_assert_uint_eq(pager_info(pager).swapped_bytes, 0);
    ck_assert(all_zero(base, bytes));
    ck_assert_int_eq(shim_pager_discard(pager, base + 1, bytes), -EINVAL);
    ck_assert_int_eq(shim_pager_discard(pager, base - 1, 2), -EINVAL);
    free(copy);
    shim_pager_close(&pager);
}
END_TEST

START_TEST(ranges_are_found_placed_and_given_back)
{
    struct shim_pager_config config = pager_config(8 * MIB, &said);
    struct shim_pager *pager;
    open_or_skip(&pager, &config);
    void *a, *b, *found;
    size_t bytes;
    int local;
    ck_assert(!shim_pager_find(pager, &local, &found, &bytes));
    ck_assert_int_eq(shim_pager_map(pager, NULL, 100000, (size_t)1 << 21, &a), 0);
    ck_assert_uint_eq((uintptr_t)a % ((size_t)1 << 21), 0);
    ck_assert(shim_pager_find(pager, (char *)a + 99999, &found, &bytes));
    ck_assert_ptr_eq(found, a);
    ck_assert_uint_eq(bytes, 102400);
    ck_assert(!shim_pager_find(pager, (char *)a + bytes, &found, &bytes));
    fill_words(a, 100000, 1);

    /* In the place of memory that is someone's, and back. */
    char *place = mmap(NULL, 3 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(place, MAP_FAILED);
    memset(place, 5, 3 * MIB);
    ck_assert_int_eq(shim_pager_map(pager, place + 4096, 2 * MIB, 0, &b), 0);
    ck_assert_ptr_eq(b, place + 4096);
    ck_assert(all_zero(b, 2 * MIB));
    ck_assert_int_eq(place[4095], 5);
    ck_assert_int_eq(place[4096 + 2 * MIB], 5);
    fill_words(b, 2 * MIB, 2);
    ck_assert_uint_eq(check_words(a, 100000, 1), 100000 / 8);
    ck_assert_uint_eq(check_words(b, 2 * MIB, 2), 2 * MIB / 8);
    ck_assert_int_eq(shim_pager_unmap(pager, (char *)b + 4096, true), -ENOENT);
    ck_assert_int_eq(shim_pager_unmap(pager, b, true), 0);
    ck_assert_int_eq(shim_pager_unmap(pager, b, true), -ENOENT);
    ck_assert(all_zero(b, 2 * MIB));
    memset(place, 6, 3 * MIB); /* plain memory again */
    ck_assert(!shim_pager_find(pager, b, &found, &bytes));
    ck_assert_int_eq(shim_pager_unmap(pager, a, false), 0);
    ck_assert_uint_eq(pager_info(pager).range_bytes, 0);
    ck_assert_uint_eq(pager_info(pager).resident_bytes, 0);

    ck_assert_int_eq(shim_pager_map(pager, NULL, 0, 0, &a), -EINVAL);
    ck_assert_int_eq(shim_pager_map(pager, NULL, 4096, 3, &a), -EINVAL);
    ck_assert_int_eq(shim_pager_map(pager, (char *)place + 1, 4096, 0, &a), -EINVAL);
    ck_assert_int_eq(shim_pager_map(pager, NULL, (size_t)2 << 40, 0, &a), -ENOSPC);
    void *many[64];
    for (int i = 0; i < 64; i++)
        ck_assert_int_eq(shim_pager_map(pager, NULL, 4096, 0, &many[i]), 0);
    ck_assert_int_eq(shim_pager_map(pager, NULL, 4096, 0, &a), -ENOSPC);
    for (int i = 0; i < 64; i++)
        *(int *)many[i] = i;
    for (int i = 63; i >= 0; i -= 2)
        ck_assert_int_eq(shim_pager_unmap(pager, many[i], false), 0);
    for (int i = 0; i < 64; i += 2)
        ck_assert_int_eq(*(int *)many[i], i);
    munmap(place, 3 * MIB);
    shim_pager_close(&pager);
}
END_TEST

/* The kernel's own accesses wait for pages as the engine's do. */
START_TEST(system_calls_work_on_pages_that_are_away)
{
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    struct shim_pager *pager;
    open_or_skip(&pager, &config);
    char *base, *copy = new_block(16 * MIB);
    ck_assert_int_eq(shim_pager_map(pager, NULL, 16 * MIB, 0, (void **)&base), 0);
    fill_words((uint64_t *)base, 16 * MIB, 9);
    int fd = open(test_dir(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        skip("no O_TMPFILE here");
    ck_assert_int_eq(write(fd, base, 16 * MIB), 16 * MIB);
    ck_assert_int_eq(pread(fd, copy, 16 * MIB, 0), 16 * MIB);
    ck_assert_uint_eq(check_words((uint64_t *)copy, 16 * MIB, 9), 16 * MIB / 8);
    ck_assert_int_eq(shim_pager_discard(pager, base, 16 * MIB), 0);
    ck_assert_int_eq(pread(fd, base, 16 * MIB, 0), 16 * MIB);
    ck_assert_uint_eq(check_words((uint64_t *)base, 16 * MIB, 9), 16 * MIB / 8);
    close(fd);
    free(copy);
    shim_pager_close(&pager);
}
END_TEST

START_TEST(a_child_has_no_ranges)
{
    int fds_before = count_fds();
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    struct shim_pager *pager;
    open_or_skip(&pager, &config);
    char *base;
    ck_assert_int_eq(shim_pager_map(pager, NULL, 8 * MIB, 0, (void **)&base), 0);
    fill_words((uint64_t *)base, 8 * MIB, 3);
    for (int touches = 0; touches < 2; touches++) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGSEGV, SIG_DFL); /* a sanitizer's own handler would report it */
            int fds_with = count_fds();
            shim_pager_forget_in_child(pager);
            if (count_fds() != fds_before || fds_with <= fds_before || leaks_count_maps("memfd:kvmm") != 0 ||
                leaks_count_maps("io_uring") != 0)
                _exit(2);
            void *other;
            if (shim_pager_map(pager, NULL, 4096, 0, &other) != -ECHILD ||
                shim_pager_discard(pager, base, 4096) != -ECHILD || shim_pager_unmap(pager, base, false) != -ECHILD ||
                shim_pager_suspend(pager, 0) != -ECHILD || shim_pager_resume(pager) != -ECHILD ||
                shim_pager_advise(pager, base, 1, SHIM_COLD) != -ECHILD)
                _exit(1);
            shim_pager_close(&pager);
            _exit(touches ? *(volatile char *)base : 0);
        }
        int status;
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        if (touches)
            ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
        else
            ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    ck_assert_uint_eq(check_words((uint64_t *)base, 8 * MIB, 3), MIB);
    shim_pager_close(&pager);
}
END_TEST

START_TEST(closing_leaves_nothing)
{
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    int fds = count_fds(), threads = count_threads();
    for (int round = 0; round < 3; round++) {
        struct shim_pager *pager;
        open_or_skip(&pager, &config);
        char *base;
        ck_assert_int_eq(shim_pager_map(pager, NULL, 16 * MIB, 0, (void **)&base), 0);
        memset(base, 1, 16 * MIB); /* writes may be in flight */
        if (round == 1)
            ck_assert_int_eq(shim_pager_unmap(pager, base, false), 0);
        shim_pager_close(&pager);
    }
    expect_nothing_left(fds, threads);
    struct shim_pager *none = NULL;
    shim_pager_close(&none);
}
END_TEST

START_TEST(bad_configurations_are_named)
{
    const struct {
        struct shim_pager_config config;
        int error;
        const char *says;
    } cases[] = {
        {{.memory = MIB}, -EINVAL, "1048576 bytes of memory for the cache: the least is 4194304"},
        {{.chunk_bytes = 12345}, -EINVAL, "a chunk of 12345 bytes"},
        {{.chunk_bytes = 4 * MIB}, -EINVAL, "power of two"},
        {{.swap_dir = "/nonexistent/x"}, -ENOENT, "/nonexistent/x"},
        {{.swap_dir = "/var/tmp", .swap_backend = "tape"}, -EINVAL, "tape"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct shim_pager *pager = NULL;
        char why[256] = "";
        int fds = count_fds();
        int error = shim_pager_open(&cases[i].config, &pager, why, sizeof why);
        if (error == -EPERM || error == -ENOSYS)
            skip(why);
        ck_assert_int_eq(error, cases[i].error);
        ck_assert_msg(strstr(why, cases[i].says) != NULL, "'%s' lacks '%s'", why, cases[i].says);
        ck_assert_ptr_null(pager);
        ck_assert_int_eq(count_fds(), fds);
    }
}
END_TEST

START_TEST(user_mode_faults_only_when_asked_for)
{
    if (geteuid() != 0)
        skip("needs root, to give it up");
    int allowed = 0;
    FILE *file = fopen("/proc/sys/vm/unprivileged_userfaultfd", "re");
    if (file && fscanf(file, "%d", &allowed) != 1)
        allowed = 0;
    if (file)
        fclose(file);
    struct stat st;
    if (allowed || (stat("/dev/userfaultfd", &st) == 0 && (st.st_mode & 0006)))
        skip("this machine allows all faults to everybody");
    if (setuid(65534)) /* with it go root's capabilities */
        skip("no other user to be");
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    struct shim_pager *pager;
    char why[256];
    int error = shim_pager_open(&config, &pager, why, sizeof why);
    if (error == -ENOSYS)
        skip(why);
    ck_assert_int_eq(error, -EPERM);
    ck_assert_ptr_nonnull(strstr(why, "vm.unprivileged_userfaultfd=1"));
    ck_assert_ptr_nonnull(strstr(why, "--user-faults"));
    config.user_faults = true;
    open_or_skip(&pager, &config);
    char *base;
    ck_assert_int_eq(shim_pager_map(pager, NULL, 16 * MIB, 0, (void **)&base), 0);
    fill_words((uint64_t *)base, 16 * MIB, 9);
    ck_assert_uint_eq(check_words((uint64_t *)base, 16 * MIB, 9), 16 * MIB / 8);
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(shim_pager_discard(pager, base, 16 * MIB), 0);
    errno = 0;
    ck_assert_int_eq(read(zero, base, 100), -1);
    ck_assert_int_eq(errno, EFAULT);
    close(zero);
    shim_pager_close(&pager);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("pager");
    tcase_add_test(tests, holds_what_was_written_in_a_quarter_of_it);
    tcase_add_test(tests, a_budget_below_the_working_set_is_said_with_what_would_do);
    tcase_add_test(tests, the_process_holds_no_more_than_the_budget);
    tcase_add_test(tests, a_range_that_is_only_cleared_takes_nothing);
    tcase_add_test(tests, the_chunk_follows_from_the_budget);
    tcase_add_test(tests, zeros_leave_without_a_write);
    tcase_add_test(tests, discard_clears_bytes_exactly);
    tcase_add_test(tests, ranges_are_found_placed_and_given_back);
    tcase_add_test(tests, system_calls_work_on_pages_that_are_away);
    tcase_add_test(tests, a_child_has_no_ranges);
    tcase_add_test(tests, closing_leaves_nothing);
    tcase_add_test(tests, bad_configurations_are_named);
    tcase_add_test(tests, user_mode_faults_only_when_asked_for);
    return run_suite("pager", tests);
}
