/* SPDX-License-Identifier: Apache-2.0
 *
 * The kvmm command, run as users run it, on a process that publishes a map. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <check.h>
#include <jansson.h>

#include "tests/tools/publisher.h"
#include "tests/tools/run.h"

#define NOBODY 65534

/* Sequence 1: a page in each state. Sequence 2: 2000 pages of a range of 4096, one of them lost. */
static void two_sequences(struct vmm_pagemap *map)
{
    static const enum vmm_cell cells[] = {VMM_CELL_DEVICE,   VMM_CELL_DEVICE, VMM_CELL_CLEAN,    VMM_CELL_LEAVING,
                                          VMM_CELL_HOST,     VMM_CELL_HOST,   VMM_CELL_DEMOTING, VMM_CELL_NVME,
                                          VMM_CELL_ARRIVING, VMM_CELL_LOST,   VMM_CELL_EMPTY,    VMM_CELL_DEVICE};
    uint32_t row = vmm_pagemap_add(map, 1, 1024, 1, 64);
    for (uint32_t i = 0; i < 12; i++)
        vmm_pagemap_cell(map, row, i, cells[i]);
    vmm_pagemap_update(map, row, 11 * 16, 12, 2, true);
    row = vmm_pagemap_add(map, 2, 65536, 1, 4096);
    for (uint32_t i = 0; i < 2000; i++)
        vmm_pagemap_cell(map, row, i, i < 1000 ? VMM_CELL_NVME : i == 1500 ? VMM_CELL_LOST : VMM_CELL_HOST);
    vmm_pagemap_update(map, row, 32000, 2000, 0, false);

    _Atomic uint64_t *counters = vmm_pagemap_counters(map);
    atomic_store(&counters[VMM_COUNT_SEQUENCES], 2);
    atomic_store(&counters[VMM_COUNT_STEPS], 4321);
    atomic_store(&counters[VMM_COUNT_DEVICE_CAPACITY], 1ull << 30);
    atomic_store(&counters[VMM_COUNT_DEVICE_USED], 768ull << 20);
    atomic_store(&counters[VMM_COUNT_HOST_CAPACITY], 2ull << 30);
    atomic_store(&counters[VMM_COUNT_NVME_USED], 10ull << 30);
}

static pid_t publisher;

static void start_publisher(void)
{
    publisher = publisher_start("t-command-line", two_sequences);
}

static void stop_publisher(void)
{
    publisher_kill(publisher);
}

static void assert_good(const struct run *run)
{
    ck_assert_msg(run->status == 0 && run->err[0] == '\0', "exit %d: %s", run->status, run->err);
}

/* The line of text that contains `part`, for the caller to free; NULL if there is none. */
static char *line_with(const char *text, const char *part)
{
    const char *at = strstr(text, part);
    if (!at)
        return NULL;
    while (at > text && at[-1] != '\n')
        at--;
    return strndup(at, strcspn(at, "\n"));
}

/* ---- ls ------------------------------------------------------------------------------------------------------ */

START_TEST(ls_lists_the_process)
{
    struct run run;
    run_tool(&run, 0, "ls");
    ck_assert_int_eq(run.status, 0);
    char *heads = line_with(run.out, "PID");
    ck_assert_ptr_nonnull(heads);
    static const char *const names[] = {"NAME", "DEVICE", "SEQS", "DEVICE MEM", "HOST", "NVME", "UP"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        ck_assert_ptr_nonnull(strstr(heads, names[i]));
    free(heads);
    char *line = line_with(run.out, "t-command-line");
    ck_assert_ptr_nonnull(line);
    int pid;
    char rest[2][32];
    int seqs;
    ck_assert_int_eq(sscanf(line, "%d t-command-line %31s %d %31s", &pid, rest[0], &seqs, rest[1]), 4);
    ck_assert_int_eq(pid, publisher);
    ck_assert_str_eq(rest[0], "host");
    ck_assert_int_eq(seqs, 2);
    ck_assert_str_eq(rest[1], "0.8/1.0");
    ck_assert_ptr_nonnull(strstr(line, "0.0/2.0 GiB"));
    ck_assert_ptr_nonnull(strstr(line, "10 GiB"));
    free(line);
    run_free(&run);
}
END_TEST

static json_t *parsed(const char *text)
{
    json_error_t error;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    ck_assert_msg(json != NULL, "%s", error.text);
    return json;
}

static json_int_t at(const json_t *object, const char *outer, const char *inner)
{
    const json_t *value = json_object_get(inner ? json_object_get(object, outer) : object, inner ? inner : outer);
    ck_assert_msg(json_is_integer(value), "%s %s", outer, inner ? inner : "");
    return json_integer_value(value);
}

START_TEST(ls_prints_json)
{
    struct run run;
    run_tool(&run, 0, "ls --json");
    ck_assert_int_eq(run.status, 0);
    json_t *top = parsed(run.out);
    int found = 0;
    size_t i;
    json_t *process;
    json_array_foreach(json_object_get(top, "processes"), i, process)
    {
        if (at(process, "pid", NULL) != publisher)
            continue;
        found++;
        ck_assert_str_eq(json_string_value(json_object_get(process, "name")), "t-command-line");
        ck_assert_str_eq(json_string_value(json_object_get(process, "device")), "host");
        ck_assert_int_eq(at(process, "sequences_total", NULL), 2);
        ck_assert_int_eq(at(process, "device_memory", "used_bytes"), 768ll << 20);
        ck_assert_int_eq(at(process, "device_memory", "capacity_bytes"), 1ll << 30);
        ck_assert_int_eq(at(process, "nvme", "used_bytes"), 10ll << 30);
        ck_assert_int_gt(at(process, "opened_realtime_ns", NULL), 0);
    }
    ck_assert_int_eq(found, 1);
    json_decref(top);
    run_free(&run);
}
END_TEST

/* nobody may look into no process of kvmm's: what it can't read is left out without a word. */
START_TEST(ls_leaves_out_what_it_may_not_read)
{
    struct run run;
    run_tool(&run, NOBODY, "ls");
    assert_good(&run);
    ck_assert_ptr_null(strstr(run.out, "t-command-line"));
    run_free(&run);
    run_tool(&run, NOBODY, "ls --json");
    assert_good(&run);
    json_decref(parsed(run.out));
    run_free(&run);
}
END_TEST

/* ---- map ----------------------------------------------------------------------------------------------------- */

START_TEST(map_draws_each_page)
{
    struct run run;
    run_tool(&run, 0, "map %d", (int)publisher);
    assert_good(&run);
    char expect[64];
    snprintf(expect, sizeof expect, "pid %d,", (int)publisher);
    ck_assert_ptr_nonnull(strstr(run.out, expect));
    ck_assert_ptr_nonnull(strstr(run.out, "seq 1  176/1024 tokens  12 pages"));
    ck_assert_ptr_nonnull(strstr(run.out, "in step"));
    ck_assert_ptr_nonnull(strstr(run.out, "pinned"));
    ck_assert_ptr_nonnull(strstr(run.out, "\n     0 DDd>HHvN<X.+\n"));
    ck_assert_ptr_nonnull(strstr(run.out, "seq 2  32000/65536 tokens  2000 pages (8 a cell)"));
    ck_assert_ptr_nonnull(strstr(run.out, "host 50%"));
    ck_assert_ptr_nonnull(strstr(run.out, "lost <1%"));
    ck_assert_ptr_nonnull(strstr(run.out, "device  [##################......]  75%  0.8/1.0 GiB"));
    ck_assert_ptr_null(strchr(run.out, '\033')); /* a file is no terminal */
    run_free(&run);
}
END_TEST

START_TEST(map_obeys_width_and_seq)
{
    struct run run;
    run_tool(&run, 0, "map --width 4 --seq=1 %d", (int)publisher);
    assert_good(&run);
    ck_assert_ptr_nonnull(strstr(run.out, "\n     0 DDd>\n     4 HHvN\n     8 <X.+\n"));
    ck_assert_ptr_null(strstr(run.out, "seq 2"));
    run_free(&run);
    run_tool(&run, 0, "map %d --seq 77", (int)publisher);
    ck_assert_int_eq(run.status, 1);
    ck_assert_str_eq(run.out, "");
    ck_assert_ptr_nonnull(strstr(run.err, "77"));
    run_free(&run);
}
END_TEST

START_TEST(map_colours_on_demand)
{
    struct run run;
    run_tool(&run, 0, "map %d --color=always", (int)publisher);
    assert_good(&run);
    ck_assert_ptr_nonnull(strstr(run.out, "\033["));
    run_free(&run);
    run_tool(&run, 0, "map %d --color=never", (int)publisher);
    assert_good(&run);
    ck_assert_ptr_null(strchr(run.out, '\033'));
    run_free(&run);
}
END_TEST

static void assert_runs(const json_t *sequence, const char *expected)
{
    char text[512] = "";
    size_t i;
    json_t *run;
    json_array_foreach(json_object_get(sequence, "pages"), i, run)
    {
        size_t n = strlen(text);
        snprintf(text + n, sizeof text - n, "%s%" JSON_INTEGER_FORMAT " %s", i ? ", " : "",
                 json_integer_value(json_object_get(run, "pages")), json_string_value(json_object_get(run, "state")));
    }
    ck_assert_str_eq(text, expected);
}

START_TEST(map_prints_json)
{
    struct run run;
    run_tool(&run, 0, "map --json %d", (int)publisher);
    assert_good(&run);
    json_t *top = parsed(run.out);
    const json_t *maps = json_object_get(top, "maps");
    ck_assert_uint_eq(json_array_size(maps), 1);
    const json_t *map = json_array_get(maps, 0);
    ck_assert_int_eq(at(map, "pid", NULL), publisher);
    ck_assert_int_eq(at(map, "geometry", "page_tokens"), 16);
    ck_assert_int_eq(at(map, "geometry", "page_bytes"), 64 << 10);
    ck_assert_str_eq(json_string_value(json_object_get(json_object_get(map, "geometry"), "dtype")), "bf16");
    ck_assert_int_eq(at(map, "counters", "steps"), 4321);
    const json_t *sequences = json_object_get(map, "sequences");
    ck_assert_uint_eq(json_array_size(sequences), 2);
    const json_t *first = json_array_get(sequences, 0);
    ck_assert_int_eq(at(first, "id", NULL), 1);
    ck_assert_int_eq(at(first, "length_tokens", NULL), 176);
    ck_assert_int_eq(at(first, "max_tokens", NULL), 1024);
    ck_assert_int_eq(at(first, "pages_total", NULL), 12);
    ck_assert(json_is_true(json_object_get(first, "in_step")));
    ck_assert_int_eq(at(first, "frames", "device"), 3);
    assert_runs(first, "2 device, 1 clean, 1 leaving, 2 host, 1 demoting, 1 nvme, 1 arriving, 1 lost, 1 empty, "
                       "1 ahead");
    assert_runs(json_array_get(sequences, 1), "1000 nvme, 500 host, 1 lost, 499 host");
    json_decref(top);
    run_free(&run);
}
END_TEST

/* Each line of a watch is a whole answer, and the end of the process is its end. */
START_TEST(watch_ends_with_the_process)
{
    pid_t target = publisher_start("t-watched", two_sequences);
    pid_t killer = fork();
    ck_assert_int_ge(killer, 0);
    if (killer == 0) {
        usleep(500000);
        kill(target, SIGKILL);
        _exit(0);
    }
    /* Nobody waits for the target meanwhile, so it stays as a zombie: ended, but still in /proc. */
    struct run run;
    run_tool(&run, 0, "map %d --json --watch 0.05", (int)target);
    ck_assert_msg(run.status == 0, "exit %d: %s", run.status, run.err);
    ck_assert_int_eq(run_count_lines(run.err), 1);
    ck_assert_ptr_nonnull(strstr(run.err, "has ended"));
    int lines = 0;
    char *save;
    for (char *line = strtok_r(run.out, "\n", &save); line; line = strtok_r(NULL, "\n", &save), lines++)
        json_decref(parsed(line));
    ck_assert_int_ge(lines, 2);
    run_free(&run);
}
END_TEST

/* ---- bad input ----------------------------------------------------------------------------------------------- */

static const struct bad {
    const char *arguments;
    int status;
    const char *names; /* what the complaint must name */
} bad_input[] = {
    {"", 2, "command"},
    {"--frobnicate", 2, "--frobnicate"},
    {"-x", 2, "'x'"},
    {"frobnicate", 2, "frobnicate"},
    {"ls everything", 2, "everything"},
    {"ls --all", 2, "--all"},
    {"ls --json=yes", 2, "json"},
    {"map", 2, "process"},
    {"map --json", 2, "process"},
    {"map abc", 2, "abc"},
    {"map 12abc", 2, "12abc"},
    {"map 0", 2, "'0'"},
    {"map -- -5", 2, "-5"},
    {"map 99999999999999999999", 2, "99999999999999999999"},
    {"map 2147483648", 2, "2147483648"},
    {"map 1 2", 2, "'2'"},
    {"map 1 --width", 2, "width"},
    {"map 1 --width 0", 2, "'0'"},
    {"map 1 --width -3", 2, "-3"},
    {"map 1 --width 10001", 2, "10001"},
    {"map 1 --width 8x", 2, "8x"},
    {"map 1 --seq x", 2, "'x'"},
    {"map 1 --seq", 2, "seq"},
    {"map 1 --color sometimes", 2, "sometimes"},
    {"map 1 --watch 0", 2, "'0'"},
    {"map 1 --watch=soon", 2, "soon"},
    {"map 1 --watch=nan", 2, "nan"},
    {"map 1 --watch=-1", 2, "-1"},
    {"map 2147483647", 1, "2147483647"}, /* over the highest PID there can be */
    {"bench", 2, "bench"},
    {"bench nothing", 2, "nothing"},
    {"bench --nothing", 2, "--nothing"},
};

START_TEST(bad_input_is_named_in_one_line)
{
    const struct bad *bad = &bad_input[_i];
    struct run run;
    run_tool(&run, 0, "%s", bad->arguments);
    ck_assert_msg(run.status == bad->status, "kvmm %s: exit %d", bad->arguments, run.status);
    ck_assert_msg(run.out[0] == '\0', "kvmm %s: %s", bad->arguments, run.out);
    ck_assert_msg(run_count_lines(run.err) == 1, "kvmm %s: %s", bad->arguments, run.err);
    ck_assert_msg(strstr(run.err, bad->names) != NULL, "kvmm %s: %s", bad->arguments, run.err);
    ck_assert_msg(strncmp(run.err, "kvmm", 4) == 0, "kvmm %s: %s", bad->arguments, run.err);
    run_free(&run);
}
END_TEST

START_TEST(a_process_without_kvmm_is_named)
{
    struct run run;
    run_tool(&run, 0, "map %d", (int)getpid());
    ck_assert_int_eq(run.status, 1);
    ck_assert_int_eq(run_count_lines(run.err), 1);
    char expect[64];
    snprintf(expect, sizeof expect, "process %d has no kvmm page map", (int)getpid());
    ck_assert_ptr_nonnull(strstr(run.err, expect));
    run_free(&run);
}
END_TEST

START_TEST(a_process_of_another_user_is_named)
{
    struct run run;
    run_tool(&run, NOBODY, "map %d", (int)publisher);
    ck_assert_int_eq(run.status, 1);
    ck_assert_int_eq(run_count_lines(run.err), 1);
    char expect[64];
    snprintf(expect, sizeof expect, "process %d may not be looked into", (int)publisher);
    ck_assert_ptr_nonnull(strstr(run.err, expect));
    run_free(&run);
}
END_TEST

START_TEST(help_and_version_go_to_stdout)
{
    static const char *const helps[] = {"--help", "ls --help", "map --help", "bench --help"};
    struct run run;
    for (size_t i = 0; i < sizeof helps / sizeof helps[0]; i++) {
        run_tool(&run, 0, "%s", helps[i]);
        assert_good(&run);
        ck_assert_ptr_nonnull(strstr(run.out, "Usage: kvmm"));
        run_free(&run);
    }
    run_tool(&run, 0, "--version");
    assert_good(&run);
    ck_assert_str_eq(run.out, "kvmm " TOOLS_VERSION "\n");
    run_free(&run);
}
END_TEST

START_TEST(output_that_is_lost_is_a_failure)
{
    static const char *const commands[] = {"ls", "ls --json", "map", "map --json"};
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        struct run run;
        if (i < 2)
            run_tool_to(&run, "/dev/full", "%s", commands[i]);
        else
            run_tool_to(&run, "/dev/full", "%s %d", commands[i], (int)publisher);
        ck_assert_msg(run.status == 1, "kvmm %s: exit %d", commands[i], run.status);
        ck_assert_int_eq(run_count_lines(run.err), 1);
        run_free(&run);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("the kvmm command");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, start_publisher, stop_publisher);
    tcase_add_test(tests, ls_lists_the_process);
    tcase_add_test(tests, ls_prints_json);
    tcase_add_test(tests, map_draws_each_page);
    tcase_add_test(tests, map_obeys_width_and_seq);
    tcase_add_test(tests, map_colours_on_demand);
    tcase_add_test(tests, map_prints_json);
    tcase_add_test(tests, watch_ends_with_the_process);
    tcase_add_loop_test(tests, bad_input_is_named_in_one_line, 0, (int)(sizeof bad_input / sizeof bad_input[0]));
    tcase_add_test(tests, a_process_without_kvmm_is_named);
    tcase_add_test(tests, help_and_version_go_to_stdout);
    tcase_add_test(tests, output_that_is_lost_is_a_failure);
    if (geteuid() == 0) {
        tcase_add_test(tests, ls_leaves_out_what_it_may_not_read);
        tcase_add_test(tests, a_process_of_another_user_is_named);
    } else {
        puts("left out, because only root can become another user: what others are told");
    }
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
