/* SPDX-License-Identifier: Apache-2.0
 *
 * A page map that lies is refused with a reason, and reading it touches nothing outside it. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <check.h>

#include "tests/support/leaks.h"
#include "tests/support/scale.h"
#include "tests/tools/synthetic.h"
#include "tools/pagemap_reader.h"

static const uint8_t some_cells[] = {VMM_CELL_DEVICE, VMM_CELL_CLEAN, VMM_CELL_NVME};

static enum pagemap_answer open_and_read(int fd, struct pagemap_snapshot *snap, struct pagemap_error *error)
{
    struct pagemap_reader *reader;
    enum pagemap_answer answer = pagemap_open_fd(fd, &reader, error);
    if (answer)
        return answer;
    answer = pagemap_read(reader, PAGEMAP_ROWS, snap, error);
    pagemap_close(&reader);
    ck_assert_ptr_null(reader);
    return answer;
}

static void assert_one_line(const struct pagemap_error *error)
{
    ck_assert_uint_gt(strlen(error->text), 0);
    ck_assert_ptr_null(strchr(error->text, '\n'));
}

START_TEST(a_good_map_is_read)
{
    struct synthetic map;
    synthetic_open(&map);
    synthetic_add(&map, 2, some_cells, 3);
    atomic_store(&map.header->counters[VMM_COUNT_DEVICE_USED], 12345);
    atomic_store(&map.header->n_hidden, 7);
    synthetic_seal(&map);

    struct pagemap_snapshot snap;
    struct pagemap_error error;
    ck_assert_int_eq(open_and_read(map.fd, &snap, &error), PAGEMAP_OK);
    ck_assert_str_eq(snap.name, "synthetic");
    ck_assert_str_eq(snap.device, "host");
    ck_assert_str_eq(snap.swap_backend, "none");
    ck_assert_int_eq(snap.pid, getpid());
    ck_assert_uint_eq(snap.frame_bytes, 64 << 10);
    ck_assert_uint_eq(snap.geometry.n_kv_heads, 8);
    ck_assert_uint_eq(snap.counters[VMM_COUNT_DEVICE_USED], 12345);
    ck_assert_uint_eq(snap.n_hidden, 7);
    ck_assert_uint_eq(snap.n_seqs, 1);
    const struct pagemap_seq *seq = &snap.seqs[0];
    ck_assert_int_eq(seq->status, PAGEMAP_ROW_OK);
    ck_assert_uint_eq(seq->id, 3);
    ck_assert_uint_eq(seq->length, 48);
    ck_assert_uint_eq(seq->n_pages, 3);
    ck_assert_uint_eq(seq->n_frames, 3);
    ck_assert_uint_eq(seq->frames_in[PAGEMAP_NVME], 1);
    ck_assert_uint_eq(seq->n_runs, 3);
    ck_assert_int_eq(seq->runs[0].state, PAGEMAP_DEVICE);
    ck_assert_int_eq(seq->runs[1].state, PAGEMAP_CLEAN);
    ck_assert_int_eq(seq->runs[2].state, PAGEMAP_NVME);
    pagemap_snapshot_free(&snap);
    synthetic_close(&map);
}
END_TEST

START_TEST(a_page_of_several_groups_is_in_the_worst_of_their_states)
{
    struct synthetic map;
    synthetic_open(&map);
    map.header->n_groups = 2;
    synthetic_add(&map, 0, some_cells, 3);
    struct vmm_pagemap_row *row = &map.rows[0];
    row->group_cells = 100;
    row->max_tokens = 1600;
    uint8_t *second = (uint8_t *)map.base + row->cells_offset + 100;
    second[0] = VMM_CELL_HOST;
    second[1] = VMM_CELL_DEVICE;
    second[2] = VMM_CELL_CLEAN;
    synthetic_seal(&map);

    struct pagemap_snapshot snap;
    struct pagemap_error error;
    ck_assert_int_eq(open_and_read(map.fd, &snap, &error), PAGEMAP_OK);
    const struct pagemap_seq *seq = &snap.seqs[0];
    ck_assert_uint_eq(seq->n_frames, 6);
    ck_assert_uint_eq(seq->n_runs, 3);
    ck_assert_int_eq(seq->runs[0].state, PAGEMAP_HOST);
    ck_assert_int_eq(seq->runs[1].state, PAGEMAP_DEVICE);
    ck_assert_int_eq(seq->runs[2].state, PAGEMAP_NVME);
    pagemap_snapshot_free(&snap);
    synthetic_close(&map);
}
END_TEST

START_TEST(frames_behind_the_length_are_ahead)
{
    struct synthetic map;
    synthetic_open(&map);
    static const uint8_t cells[] = {VMM_CELL_DEVICE, VMM_CELL_DEVICE, VMM_CELL_DEVICE};
    synthetic_add(&map, 0, cells, 3);
    map.rows[0].length = 17; /* one page and a token */
    synthetic_seal(&map);
    struct pagemap_snapshot snap;
    struct pagemap_error error;
    ck_assert_int_eq(open_and_read(map.fd, &snap, &error), PAGEMAP_OK);
    ck_assert_uint_eq(snap.seqs[0].n_pages, 3);
    ck_assert_uint_eq(snap.seqs[0].n_runs, 2);
    ck_assert_int_eq(snap.seqs[0].runs[0].state, PAGEMAP_DEVICE);
    ck_assert_uint_eq(snap.seqs[0].runs[0].n_pages, 2);
    ck_assert_int_eq(snap.seqs[0].runs[1].state, PAGEMAP_AHEAD);
    pagemap_snapshot_free(&snap);
    synthetic_close(&map);
}
END_TEST

/* ---- lies in the header -------------------------------------------------------------------------------------- */

#define HEADER(field) offsetof(struct vmm_pagemap_header, field), sizeof(((struct vmm_pagemap_header *)0)->field)

static const struct lie {
    const char *what;
    size_t offset, bytes;
    uint64_t value;
    enum pagemap_answer answer;
    const char *says; /* part of the reason */
} header_lies[] = {
    {"not made yet", HEADER(magic), 0, PAGEMAP_UNREADY, "being made"},
    {"wrong magic", HEADER(magic), 0x1234, PAGEMAP_REFUSED, "magic"},
    {"older version", HEADER(version), 0, PAGEMAP_REFUSED, "version 0"},
    {"newer version", HEADER(version), 2, PAGEMAP_REFUSED, "version 2"},
    {"short header", HEADER(header_bytes), 8, PAGEMAP_REFUSED, "header"},
    {"header over the file", HEADER(header_bytes), UINT32_MAX, PAGEMAP_REFUSED, "header"},
    {"more bytes than the file", HEADER(total_bytes), SYNTHETIC_BYTES + 1, PAGEMAP_REFUSED, "its file has"},
    {"fewer bytes than the rows", HEADER(total_bytes), 4096, PAGEMAP_REFUSED, "don't fit"},
    {"endless bytes", HEADER(total_bytes), UINT64_MAX, PAGEMAP_REFUSED, "its file has"},
    {"short rows", HEADER(row_bytes), 8, PAGEMAP_REFUSED, "rows have 8 bytes"},
    {"no row bytes", HEADER(row_bytes), 0, PAGEMAP_REFUSED, "rows have 0 bytes"},
    {"odd row bytes", HEADER(row_bytes), 61, PAGEMAP_REFUSED, "rows have 61 bytes"},
    {"huge rows", HEADER(row_bytes), 0xfffffff8, PAGEMAP_REFUSED, "bytes"},
    {"more rows than fit", HEADER(n_rows), 2000, PAGEMAP_REFUSED, "2000 rows"},
    {"endless rows", HEADER(n_rows), UINT32_MAX, PAGEMAP_REFUSED, "rows"},
    {"rows in the header", HEADER(rows_offset), 8, PAGEMAP_REFUSED, "rows at offset 8 "},
    {"rows behind the end", HEADER(rows_offset), SYNTHETIC_BYTES, PAGEMAP_REFUSED, "don't fit"},
    {"rows that wrap round", HEADER(rows_offset), UINT64_MAX - 7, PAGEMAP_REFUSED, "don't fit"},
    {"rows at an odd place", HEADER(rows_offset), 4097, PAGEMAP_REFUSED, "4097"},
    {"cells in the rows", HEADER(cells_offset), 4100, PAGEMAP_REFUSED, "cells at offset 4100"},
    {"cells behind the end", HEADER(cells_offset), SYNTHETIC_BYTES + 1, PAGEMAP_REFUSED, "cells"},
    {"too many counters", HEADER(n_counters), 33, PAGEMAP_REFUSED, "33 counters"},
    {"no frame bytes", HEADER(frame_bytes), 0, PAGEMAP_REFUSED, "frames"},
    {"endless frames", HEADER(frame_bytes), UINT64_MAX, PAGEMAP_REFUSED, "frames"},
    {"no page bytes", HEADER(page_stride), 0, PAGEMAP_REFUSED, "pages"},
    {"endless pages", HEADER(page_stride), UINT64_MAX, PAGEMAP_REFUSED, "pages"},
    {"no groups", HEADER(n_groups), 0, PAGEMAP_REFUSED, "groups"},
    {"endless groups", HEADER(n_groups), UINT32_MAX, PAGEMAP_REFUSED, "groups"},
    {"no tokens in a page", HEADER(geometry.page_tokens), 0, PAGEMAP_REFUSED, "tokens"},
    {"endless tokens in a page", HEADER(geometry.page_tokens), UINT32_MAX, PAGEMAP_REFUSED, "tokens"},
    {"more rows used than there are", HEADER(rows_high), SYNTHETIC_ROWS + 1, PAGEMAP_REFUSED, "9 of its 8 rows"},
};

START_TEST(a_lying_header_is_refused)
{
    const struct lie *lie = &header_lies[_i];
    struct synthetic map;
    synthetic_open(&map);
    synthetic_add(&map, 0, some_cells, 3);
    memcpy(map.base + lie->offset, &lie->value, lie->bytes); /* little-endian, as all machines this runs on */
    synthetic_seal(&map);
    int fds = leaks_count_fds();
    int maps = leaks_count_maps("memfd:kvmm-map");
    struct pagemap_snapshot snap;
    struct pagemap_error error = {0};
    ck_assert_msg(open_and_read(map.fd, &snap, &error) == lie->answer, "%s: %s", lie->what, error.text);
    ck_assert_msg(strstr(error.text, lie->says), "%s: %s", lie->what, error.text);
    assert_one_line(&error);
    ck_assert_int_eq(leaks_count_fds(), fds);
    ck_assert_int_eq(leaks_count_maps("memfd:kvmm-map"), maps);
    synthetic_close(&map);
}
END_TEST

/* ---- lies in a row ------------------------------------------------------------------------------------------- */

#define ROW(field) offsetof(struct vmm_pagemap_row, field), sizeof(((struct vmm_pagemap_row *)0)->field)

static const struct lie row_lies[] = {
    {"longer than its maximum", ROW(length), 70000, PAGEMAP_OK, "maximum"},
    {"endless maximum", ROW(max_tokens), UINT32_MAX, PAGEMAP_OK, "maximum"},
    {"cells in the header", ROW(cells_offset), 0, PAGEMAP_OK, "outside"},
    {"cells over the end", ROW(cells_offset), SYNTHETIC_BYTES - 4095, PAGEMAP_OK, "outside"},
    {"cells behind the end", ROW(cells_offset), SYNTHETIC_BYTES + 1, PAGEMAP_OK, "outside"},
    {"cells that wrap round", ROW(cells_offset), UINT64_MAX, PAGEMAP_OK, "outside"},
    {"endless cells", ROW(group_cells), UINT32_MAX, PAGEMAP_OK, "outside"},
    {"fewer cells than frames", ROW(group_cells), 2, PAGEMAP_OK, "frames"},
    {"no cells", ROW(group_cells), 0, PAGEMAP_OK, "frames"},
    {"endless live frames", ROW(live_frames), UINT32_MAX, PAGEMAP_OK, "frames"},
};

START_TEST(a_lying_row_is_refused_and_the_others_are_read)
{
    const struct lie *lie = &row_lies[_i];
    struct synthetic map;
    synthetic_open(&map);
    for (uint32_t i = 0; i < 3; i++)
        synthetic_add(&map, i, some_cells, 3);
    memcpy((char *)&map.rows[1] + lie->offset, &lie->value, lie->bytes);
    synthetic_seal(&map);
    struct pagemap_snapshot snap;
    struct pagemap_error error = {0};
    ck_assert_msg(open_and_read(map.fd, &snap, &error) == PAGEMAP_OK, "%s: %s", lie->what, error.text);
    ck_assert_uint_eq(snap.n_seqs, 3);
    ck_assert_uint_eq(snap.seqs[0].id, 1);
    ck_assert_uint_eq(snap.seqs[1].id, 3);
    const struct pagemap_seq *bad = &snap.seqs[2]; /* behind the good ones */
    ck_assert_msg(bad->status == PAGEMAP_ROW_REFUSED, "%s", lie->what);
    ck_assert_uint_eq(bad->id, 2);
    ck_assert_uint_eq(bad->row, 1);
    ck_assert_msg(strstr(bad->reason, lie->says), "%s: %s", lie->what, bad->reason);
    ck_assert_uint_eq(bad->n_runs, 0);
    pagemap_snapshot_free(&snap);
    synthetic_close(&map);
}
END_TEST

START_TEST(a_cell_of_no_known_state_is_shown_as_that)
{
    struct synthetic map;
    synthetic_open(&map);
    static const uint8_t cells[] = {VMM_CELL_LOST, 9, 255};
    synthetic_add(&map, 0, cells, 3);
    synthetic_seal(&map);
    struct pagemap_snapshot snap;
    struct pagemap_error error;
    ck_assert_int_eq(open_and_read(map.fd, &snap, &error), PAGEMAP_OK);
    ck_assert_uint_eq(snap.seqs[0].frames_in[PAGEMAP_UNKNOWN], 2);
    ck_assert_uint_eq(snap.seqs[0].n_runs, 2);
    ck_assert_int_eq(snap.seqs[0].runs[1].state, PAGEMAP_UNKNOWN);
    pagemap_snapshot_free(&snap);
    synthetic_close(&map);
}
END_TEST

/* ---- torn rows ----------------------------------------------------------------------------------------------- */

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

START_TEST(torn_rows_are_waited_for_in_bounded_time)
{
    struct synthetic map;
    synthetic_open(&map);
    for (uint32_t i = 0; i < SYNTHETIC_ROWS; i++) {
        synthetic_add(&map, i, some_cells, 3);
        if (i != 4)
            atomic_store(&map.rows[i].version, 2 * i + 1);
    }
    synthetic_seal(&map);
    struct pagemap_snapshot snap;
    struct pagemap_error error;
    double start = seconds();
    ck_assert_int_eq(open_and_read(map.fd, &snap, &error), PAGEMAP_OK);
    /* The patience is for all rows together; the rest is room for a busy machine. */
    ck_assert_double_lt(seconds() - start, PAGEMAP_PATIENCE_NS / 1e9 + 2);
    ck_assert_uint_eq(snap.n_seqs, SYNTHETIC_ROWS);
    ck_assert_uint_eq(snap.seqs[0].id, 5);
    for (uint32_t i = 1; i < SYNTHETIC_ROWS; i++) {
        ck_assert_int_eq(snap.seqs[i].status, PAGEMAP_ROW_TORN);
        ck_assert_uint_eq(snap.seqs[i].n_runs, 0);
    }
    pagemap_snapshot_free(&snap);
    synthetic_close(&map);
}
END_TEST

/* ---- the file ------------------------------------------------------------------------------------------------ */

START_TEST(a_file_that_may_shrink_is_refused)
{
    struct synthetic map;
    synthetic_open(&map);
    struct pagemap_snapshot snap;
    struct pagemap_error error = {0};
    ck_assert_int_eq(open_and_read(map.fd, &snap, &error), PAGEMAP_REFUSED);
    ck_assert_ptr_nonnull(strstr(error.text, "sealed"));
    synthetic_close(&map);
}
END_TEST

START_TEST(a_truncated_map_is_refused)
{
    static const off_t sizes[] = {0, 1, 100, sizeof(struct vmm_pagemap_header) - 1, 4096, 8191};
    struct synthetic map;
    synthetic_open(&map);
    synthetic_add(&map, 0, some_cells, 3);
    char head[8192];
    memcpy(head, map.base, sizeof head);
    synthetic_close(&map);

    int fd = memfd_create(VMM_PAGEMAP_MEMFD, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, head, (size_t)sizes[_i], 0), sizes[_i]);
    ck_assert_int_eq(ftruncate(fd, sizes[_i]), 0);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    struct pagemap_snapshot snap;
    struct pagemap_error error = {0};
    ck_assert_int_eq(open_and_read(fd, &snap, &error), PAGEMAP_REFUSED);
    assert_one_line(&error);
    close(fd);
}
END_TEST

START_TEST(what_is_no_memfd_is_refused)
{
    static const char *const paths[] = {"/dev/null", "/proc/self/status", "/"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        struct pagemap_snapshot snap;
        struct pagemap_error error = {0};
        ck_assert_int_eq(open_and_read(fd, &snap, &error), PAGEMAP_REFUSED);
        assert_one_line(&error);
        close(fd);
    }
}
END_TEST

START_TEST(text_is_made_safe_to_print)
{
    struct synthetic map;
    synthetic_open(&map);
    strcpy(map.header->name, "a\033[2J\nb\x7f\xc2\x9b\xe2\x80\xae\xffz\xc3\xa9");
    memset(map.header->device, 'x', sizeof map.header->device); /* no NUL at its end */
    memcpy(map.header->swap_backend, "ok\xc3", 4);              /* a character cut in two */
    synthetic_seal(&map);
    struct pagemap_snapshot snap;
    struct pagemap_error error;
    ck_assert_int_eq(open_and_read(map.fd, &snap, &error), PAGEMAP_OK);
    ck_assert_str_eq(snap.name, "a?[2J?b???????z\xc3\xa9");
    ck_assert_str_eq(snap.device, "xxxxxxxxxxxxxxxx");
    ck_assert_str_eq(snap.swap_backend, "ok?");
    pagemap_snapshot_free(&snap);
    synthetic_close(&map);
}
END_TEST

/* Whatever the bytes: an answer, and under a sanitizer nothing read outside. */
START_TEST(random_damage_is_survived)
{
    long rounds = scaled(3000);
    unsigned seed = 20240 + (unsigned)_i;
    int answers[PAGEMAP_FAILED + 1] = {0};
    for (long round = 0; round < rounds; round++) {
        struct synthetic map;
        synthetic_open(&map);
        for (uint32_t i = 0; i < 4; i++)
            synthetic_add(&map, i, some_cells, 3);
        for (int n = 1 + rand_r(&seed) % 3; n > 0; n--) {
            size_t room = rand_r(&seed) % 2 ? offsetof(struct vmm_pagemap_header, counters) : 4 * sizeof *map.rows;
            char *area = room == 4 * sizeof *map.rows ? (char *)map.rows : map.base;
            size_t at = (size_t)rand_r(&seed) % room;
            area[at] = (char)(rand_r(&seed) % 3 ? rand_r(&seed) : (rand_r(&seed) % 2 ? 0xff : 0));
            for (uint32_t i = 0; i < 4; i++) /* no naps in this test */
                atomic_store(&map.rows[i].version, 2);
        }
        synthetic_seal(&map);
        struct pagemap_snapshot snap;
        struct pagemap_error error = {0};
        enum pagemap_answer answer = open_and_read(map.fd, &snap, &error);
        answers[answer]++;
        if (answer == PAGEMAP_OK)
            pagemap_snapshot_free(&snap);
        else
            assert_one_line(&error);
        synthetic_close(&map);
    }
    ck_assert_int_gt(answers[PAGEMAP_OK], 0);
    ck_assert_int_gt(answers[PAGEMAP_REFUSED], 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("page map reader: refusals");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, a_good_map_is_read);
    tcase_add_test(tests, a_page_of_several_groups_is_in_the_worst_of_their_states);
    tcase_add_test(tests, frames_behind_the_length_are_ahead);
    tcase_add_loop_test(tests, a_lying_header_is_refused, 0, (int)(sizeof header_lies / sizeof header_lies[0]));
    tcase_add_loop_test(tests, a_lying_row_is_refused_and_the_others_are_read, 0,
                        (int)(sizeof row_lies / sizeof row_lies[0]));
    tcase_add_test(tests, a_cell_of_no_known_state_is_shown_as_that);
    tcase_add_test(tests, torn_rows_are_waited_for_in_bounded_time);
    tcase_add_test(tests, a_file_that_may_shrink_is_refused);
    tcase_add_loop_test(tests, a_truncated_map_is_refused, 0, 6);
    tcase_add_test(tests, what_is_no_memfd_is_refused);
    tcase_add_test(tests, text_is_made_safe_to_print);
    tcase_add_loop_test(tests, random_damage_is_survived, 0, 2);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
