/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading the map of a process that writes it all the time, ends at any moment, or has forked. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "tests/support/leaks.h"
#include "tests/tools/publisher.h"
#include "tools/pagemap_reader.h"

#define MAP_LINE "memfd:" VMM_PAGEMAP_MEMFD

/* Sequences come, grow, move and go without an end. A row's pins always equal its pages, so a reader that mixed two
 * states of a row would see it. */
static void churn(struct vmm_pagemap *map)
{
    enum { N = 16, CELLS = 64 };
    uint32_t rows[N];
    for (int i = 0; i < N; i++)
        rows[i] = VMM_NO_ROW;
    unsigned seed = 1;
    uint64_t id = 0;
    for (uint64_t round = 0;; round++) {
        int i = rand_r(&seed) % N;
        if (rows[i] == VMM_NO_ROW) {
            rows[i] = vmm_pagemap_add(map, ++id, CELLS * 16, 1, CELLS);
        } else if (rand_r(&seed) % 64 == 0) {
            for (uint32_t c = 0; c < CELLS; c++)
                vmm_pagemap_cell(map, rows[i], c, VMM_CELL_EMPTY);
            vmm_pagemap_remove(map, rows[i]);
            rows[i] = VMM_NO_ROW;
        } else {
            uint32_t pages = (uint32_t)rand_r(&seed) % (CELLS + 1);
            vmm_pagemap_cell(map, rows[i], (uint64_t)rand_r(&seed) % CELLS, (enum vmm_cell)(rand_r(&seed) % 9));
            vmm_pagemap_update(map, rows[i], pages * 16, pages, pages, pages % 2);
        }
        atomic_fetch_add_explicit(&vmm_pagemap_counters(map)[VMM_COUNT_STEPS], 1, memory_order_relaxed);
        if (round == 1000)
            publisher_ready();
    }
}

static void assert_whole(const struct pagemap_snapshot *snap)
{
    for (size_t i = 0; i < snap->n_seqs; i++) {
        const struct pagemap_seq *seq = &snap->seqs[i];
        if (seq->status == PAGEMAP_ROW_TORN)
            continue;
        ck_assert_int_eq(seq->status, PAGEMAP_ROW_OK);
        ck_assert_uint_eq(seq->length, seq->pins * 16);
        ck_assert_int_eq(seq->in_step, seq->pins % 2);
        ck_assert_uint_eq(seq->n_pages, seq->pins);
        uint64_t pages = 0;
        for (size_t r = 0; r < seq->n_runs; r++)
            pages += seq->runs[r].n_pages;
        ck_assert_uint_eq(pages, seq->n_pages);
        ck_assert(i == 0 || seq->id > seq[-1].id);
    }
}

static void read_times(struct pagemap_reader *reader, int times, uint64_t *steps)
{
    for (int i = 0; i < times; i++) {
        struct pagemap_snapshot snap;
        struct pagemap_error error;
        ck_assert_int_eq(pagemap_read(reader, PAGEMAP_ROWS, &snap, &error), PAGEMAP_OK);
        assert_whole(&snap);
        *steps = snap.counters[VMM_COUNT_STEPS];
        pagemap_snapshot_free(&snap);
    }
}

START_TEST(a_writer_that_is_killed_while_it_is_read_harms_no_reader)
{
    int fds = leaks_count_fds();
    int maps = leaks_count_maps(MAP_LINE);
    unsigned seed = 5;
    for (int round = 0; round < 12; round++) {
        pid_t pid = publisher_start("churn", churn);
        struct pagemap_list list;
        struct pagemap_error error;
        ck_assert_int_eq(pagemap_open_process(pid, &list, &error), PAGEMAP_OK);
        ck_assert_uint_eq(list.n_readers, 1);
        uint64_t first;
        uint64_t last;
        read_times(list.readers[0], 1, &first);
        do /* until it was read live, many times */
            read_times(list.readers[0], 20 + rand_r(&seed) % 20, &last);
        while (last < first + 1000);
        if (round % 2) { /* dead, and gone, between two reads */
            publisher_kill(pid);
        } else { /* at any instruction of either */
            ck_assert_int_eq(kill(pid, SIGKILL), 0);
            read_times(list.readers[0], 20, &last);
            ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
        }
        uint64_t end;
        read_times(list.readers[0], 3, &end);
        pagemap_close_list(&list);
        ck_assert_int_eq(pagemap_open_process(pid, &list, &error), PAGEMAP_NO_PROCESS);
        ck_assert_uint_eq(list.n_readers, 0);
    }
    ck_assert_int_eq(leaks_count_fds(), fds);
    ck_assert_int_eq(leaks_count_maps(MAP_LINE), maps);
}
END_TEST

static void fork_within(struct vmm_pagemap *map)
{
    vmm_pagemap_add(map, 1, 16, 1, 1);
    pid_t child = fork();
    if (child < 0)
        _exit(4);
    if (child == 0) {
        alarm(60); /* it outlives its parent, but not a failed test for long */
        for (;;)
            pause();
    }
    atomic_store(&vmm_pagemap_counters(map)[VMM_COUNT_STEPS], (uint64_t)child);
}

START_TEST(a_forked_child_does_not_own_its_parents_map)
{
    pid_t parent = publisher_start("forks", fork_within);
    struct pagemap_list list;
    struct pagemap_error error;
    ck_assert_int_eq(pagemap_open_process(parent, &list, &error), PAGEMAP_OK);
    uint64_t child;
    struct pagemap_snapshot snap;
    ck_assert_int_eq(pagemap_read(list.readers[0], PAGEMAP_HEADER, &snap, &error), PAGEMAP_OK);
    ck_assert_uint_eq(snap.n_seqs, 0);
    child = snap.counters[VMM_COUNT_STEPS];
    pagemap_snapshot_free(&snap);
    pagemap_close_list(&list);
    ck_assert_int_eq(pagemap_open_process((pid_t)child, &list, &error), PAGEMAP_NO_MAP);
    publisher_kill(parent);
    ck_assert_int_eq(pagemap_open_process((pid_t)child, &list, &error), PAGEMAP_NO_MAP);
    ck_assert_int_eq(kill((pid_t)child, SIGKILL), 0);
}
END_TEST

static void open_a_second(struct vmm_pagemap *map)
{
    struct vmm_pagemap_header header = {
        .frame_bytes = 1 << 20, .page_stride = 1 << 20, .n_groups = 1, .geometry = {.page_tokens = 16}, .name = "two"};
    struct vmm_pagemap *second;
    if (vmm_pagemap_open(&header, &second) != KVMM_OK)
        _exit(4);
    /* A map whose descriptor is there twice is still one map. */
    for (int fd = 3; fd < 16; fd++)
        (void)!dup(fd);
}

START_TEST(a_process_may_have_several_maps)
{
    pid_t pid = publisher_start("one", open_a_second);
    struct pagemap_list list;
    struct pagemap_error error;
    ck_assert_int_eq(pagemap_open_process(pid, &list, &error), PAGEMAP_OK);
    ck_assert_uint_eq(list.n_readers, 2);
    ck_assert_uint_eq(list.n_refused, 0);
    const char *names[] = {"one", "two"};
    for (int i = 0; i < 2; i++) {
        struct pagemap_snapshot snap;
        ck_assert_int_eq(pagemap_read(list.readers[i], PAGEMAP_ROWS, &snap, &error), PAGEMAP_OK);
        ck_assert_str_eq(snap.name, names[i]);
        pagemap_snapshot_free(&snap);
    }
    pagemap_close_list(&list);
    publisher_kill(pid);
}
END_TEST

/* One that has the name and is no map, and one whose name is only like it. */
static void lie_beside(struct vmm_pagemap *map)
{
    int fd = memfd_create(VMM_PAGEMAP_MEMFD, MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, 1 << 20))
        _exit(4);
    fd = memfd_create(VMM_PAGEMAP_MEMFD "2", MFD_CLOEXEC);
    if (fd < 0)
        _exit(4);
}

START_TEST(a_bad_map_beside_a_good_one_is_counted)
{
    pid_t pid = publisher_start("good", lie_beside);
    struct pagemap_list list;
    struct pagemap_error error = {0};
    ck_assert_int_eq(pagemap_open_process(pid, &list, &error), PAGEMAP_OK);
    ck_assert_uint_eq(list.n_readers, 1);
    ck_assert_uint_eq(list.n_refused, 1);
    ck_assert_ptr_nonnull(strstr(error.text, "sealed"));
    pagemap_close_list(&list);
    publisher_kill(pid);
}
END_TEST

START_TEST(the_list_of_processes_has_this_one)
{
    pid_t *pids;
    size_t n;
    struct pagemap_error error;
    ck_assert_int_eq(pagemap_processes(&pids, &n, &error), PAGEMAP_OK);
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        ck_assert(i == 0 || pids[i] > pids[i - 1]);
        found = found || pids[i] == getpid();
    }
    ck_assert(found);
    free(pids);
    struct pagemap_list list;
    ck_assert_int_eq(pagemap_open_process(getpid(), &list, &error), PAGEMAP_NO_MAP);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("page map reader: live processes");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, a_writer_that_is_killed_while_it_is_read_harms_no_reader);
    tcase_add_test(tests, a_forked_child_does_not_own_its_parents_map);
    tcase_add_test(tests, a_process_may_have_several_maps);
    tcase_add_test(tests, a_bad_map_beside_a_good_one_is_counted);
    tcase_add_test(tests, the_list_of_processes_has_this_one);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
