/* SPDX-License-Identifier: Apache-2.0
 *
 * From frames to pages to letters. */
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "tests/support/scale.h"
#include "tools/draw.h"
#include "tools/pagemap_reader.h"
#include "tools/units.h"

/* The rule in words: a page is in the worst state of the frames that its bytes touch. */
static enum pagemap_state state_by_rule(const struct pagemap_pages *pages, const uint8_t *states, uint64_t n_frames,
                                        uint64_t page)
{
    uint8_t worst = PAGEMAP_CLEAN;
    uint64_t begin = page * pages->page_stride;
    uint64_t end = begin + pages->page_stride;
    for (uint64_t byte = begin; byte < end; byte++) {
        uint64_t frame = byte / pages->frame_bytes;
        uint8_t state = frame < n_frames ? states[frame] : PAGEMAP_EMPTY;
        worst = state > worst ? state : worst;
    }
    if (page >= pages->first_ahead && (worst == PAGEMAP_CLEAN || worst == PAGEMAP_DEVICE))
        return PAGEMAP_AHEAD;
    return (enum pagemap_state)worst;
}

START_TEST(runs_agree_with_the_rule_for_every_page)
{
    unsigned seed = 77 + (unsigned)_i;
    for (long round = scaled(2000); round > 0; round--) {
        struct pagemap_pages pages = {
            .frame_bytes = 1 + (uint64_t)rand_r(&seed) % 24,
            .page_stride = 1 + (uint64_t)rand_r(&seed) % 24,
            .n_pages = (uint64_t)rand_r(&seed) % 40,
        };
        pages.first_ahead = (uint64_t)rand_r(&seed) % 50;
        uint8_t states[64];
        uint64_t n_frames = (uint64_t)rand_r(&seed) % 64;
        int change = 1 + rand_r(&seed) % 8; /* long stretches of equal frames, and short ones */
        for (uint64_t f = 0; f < n_frames; f++)
            states[f] = f > 0 && rand_r(&seed) % change ? states[f - 1] : (uint8_t)(rand_r(&seed) % PAGEMAP_N_STATES);
        struct pagemap_run *runs;
        size_t n_runs;
        ck_assert_int_eq(pagemap_derive_runs(&pages, states, n_frames, &runs, &n_runs), PAGEMAP_OK);
        uint64_t page = 0;
        for (size_t r = 0; r < n_runs; r++) {
            ck_assert_uint_gt(runs[r].n_pages, 0);
            ck_assert(r == 0 || runs[r].state != runs[r - 1].state);
            for (uint64_t i = 0; i < runs[r].n_pages; i++, page++)
                ck_assert_int_eq(runs[r].state, state_by_rule(&pages, states, n_frames, page));
        }
        ck_assert_uint_eq(page, pages.n_pages);
        free(runs);
    }
}
END_TEST

START_TEST(many_pages_in_few_frames_cost_little)
{
    /* 2^30 pages: one by one they would take seconds. */
    struct pagemap_pages pages = {
        .frame_bytes = 1ull << 30, .page_stride = 4, .n_pages = 1u << 30, .first_ahead = 1u << 30};
    static const uint8_t states[] = {PAGEMAP_DEVICE, PAGEMAP_DEVICE, PAGEMAP_HOST};
    struct pagemap_run *runs;
    size_t n_runs;
    ck_assert_int_eq(pagemap_derive_runs(&pages, states, 3, &runs, &n_runs), PAGEMAP_OK);
    ck_assert_uint_eq(n_runs, 3);
    ck_assert_uint_eq(runs[0].n_pages, 1u << 29);
    ck_assert_uint_eq(runs[1].n_pages, 1u << 28);
    ck_assert_int_eq(runs[2].state, PAGEMAP_EMPTY);
    free(runs);
}
END_TEST

START_TEST(each_state_has_its_own_letter_and_name)
{
    for (int a = 0; a < PAGEMAP_N_STATES; a++) {
        char glyph = draw_glyph((enum pagemap_state)a);
        ck_assert_msg(glyph > ' ' && glyph < 0x7f, "%d", a);
        for (int b = 0; b < a; b++) {
            ck_assert_int_ne(glyph, draw_glyph((enum pagemap_state)b));
            ck_assert_str_ne(pagemap_state_name((enum pagemap_state)a), pagemap_state_name((enum pagemap_state)b));
        }
    }
}
END_TEST

START_TEST(pages_are_grouped_only_when_they_must_be)
{
    ck_assert_uint_eq(draw_pages_a_cell(0, 10, 2), 1);
    ck_assert_uint_eq(draw_pages_a_cell(20, 10, 2), 1);
    ck_assert_uint_eq(draw_pages_a_cell(21, 10, 2), 2);
    ck_assert_uint_eq(draw_pages_a_cell(40, 10, 2), 2);
    ck_assert_uint_eq(draw_pages_a_cell(41, 10, 2), 4);
    ck_assert_uint_eq(draw_pages_a_cell(1u << 30, 1, 1), 1u << 30);
}
END_TEST

START_TEST(a_group_shows_what_most_pages_are_but_never_hides_a_loss)
{
    struct pagemap_run runs[] = {
        {PAGEMAP_DEVICE, 3}, {PAGEMAP_HOST, 3}, /* [0, 6): a draw, the worse one stands */
        {PAGEMAP_DEVICE, 4}, {PAGEMAP_NVME, 2}, /* [6, 12) */
        {PAGEMAP_DEVICE, 5}, {PAGEMAP_LOST, 1}, /* [12, 18) */
        {PAGEMAP_HOST, 6},                      /* [18, 24) */
    };
    struct pagemap_seq seq = {.n_pages = 24, .runs = runs, .n_runs = sizeof runs / sizeof runs[0]};
    static const enum pagemap_state by_six[] = {PAGEMAP_HOST, PAGEMAP_DEVICE, PAGEMAP_LOST, PAGEMAP_HOST};
    size_t run = 0;
    uint64_t run_first = 0;
    for (uint64_t i = 0; i < 4; i++)
        ck_assert_int_eq(draw_group_state(&seq, i * 6, i * 6 + 6, &run, &run_first), by_six[i]);
    run = 0;
    run_first = 0;
    static const char by_one[] = "DDDHHHDDDDNNDDDDDXHHHHHH";
    for (uint64_t i = 0; i < 24; i++)
        ck_assert_int_eq(draw_glyph(draw_group_state(&seq, i, i + 1, &run, &run_first)), by_one[i]);
}
END_TEST

/* What draw_map() writes, for the caller to free. */
static char *drawn(const struct pagemap_snapshot *snap, const struct draw_style *style)
{
    char *text;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    ck_assert_ptr_nonnull(out);
    draw_map(out, snap, style);
    ck_assert_int_eq(fclose(out), 0);
    return text;
}

static size_t longest_line(const char *text)
{
    size_t longest = 0;
    while (*text) {
        size_t n = strcspn(text, "\n");
        longest = n > longest ? n : longest;
        text += n + (text[n] == '\n');
    }
    return longest;
}

START_TEST(a_drawing_keeps_to_the_columns)
{
    static const unsigned widths[] = {40, 80, 120, 200};
    struct pagemap_run runs[] = {{PAGEMAP_NVME, 100000}, {PAGEMAP_LOST, 1}, {PAGEMAP_DEVICE, 900}};
    struct pagemap_seq seqs[] = {
        {.id = UINT64_MAX,
         .length = 1 << 30,
         .max_tokens = 1 << 30,
         .n_pages = 100901,
         .runs = runs,
         .n_runs = 3,
         .n_frames = 100901,
         .pins = 1,
         .in_step = true,
         .frames_in = {[PAGEMAP_NVME] = 100000, [PAGEMAP_LOST] = 1, [PAGEMAP_DEVICE] = 900}},
        {.id = 9, .status = PAGEMAP_ROW_TORN, .row = 5},
        {.id = 9, .status = PAGEMAP_ROW_REFUSED, .row = 6, .reason = "no"},
    };
    struct pagemap_snapshot snap = {
        .frame_bytes = 2 << 20,
        .page_stride = 2 << 20,
        .n_groups = 1,
        .seqs = seqs,
        .n_seqs = 3,
        .geometry = {.n_layers = 1024, .n_kv_heads = 1024, .head_dim = 1024, .page_tokens = 256},
        .name = "a-name-of-thirty-one-characters",
        .device = "host",
        .swap_backend = "threads"};
    for (int i = 0; i < VMM_N_COUNTERS; i++)
        snap.counters[i] = 1234567890123;
    struct draw_style style = {.pid = 1, .columns = widths[_i], .lines = 4};
    char *plain = drawn(&snap, &style);
    if (widths[_i] >= 80)
        ck_assert_uint_le(longest_line(plain), widths[_i]);
    ck_assert_ptr_nonnull(strstr(plain, "seq 18446744073709551615"));
    ck_assert_ptr_nonnull(strstr(plain, "a cell of several pages"));
    ck_assert_ptr_nonnull(strchr(plain, 'X'));
    ck_assert_ptr_nonnull(strstr(plain, "row 5: torn"));
    ck_assert_ptr_nonnull(strstr(plain, "row 6 (seq 9): refused, no"));
    ck_assert_ptr_null(strchr(plain, '\033'));

    /* Colour adds escape sequences and changes nothing else. */
    style.colour = true;
    char *colour = drawn(&snap, &style);
    char *to = colour;
    for (const char *at = colour; *at;) {
        if (*at == '\033')
            at += strcspn(at, "m") + 1;
        else
            *to++ = *at++;
    }
    ck_assert_uint_gt(strlen(colour), (size_t)(to - colour));
    *to = '\0';
    ck_assert_str_eq(colour, plain);
    free(colour);
    free(plain);
}
END_TEST

START_TEST(units_read_well)
{
    char text[UNITS_TEXT];
    ck_assert_str_eq(units_bytes(text, 0), "0 B");
    ck_assert_str_eq(units_bytes(text, 2 << 20), "2 MiB");
    ck_assert_str_eq(units_bytes(text, 917504), "896 KiB");
    ck_assert_str_eq(units_bytes(text, 5ull << 29), "2.5 GiB");
    ck_assert_str_eq(units_bytes(text, UINT64_MAX), "16 EiB");
    ck_assert_str_eq(units_bytes_of(text, 300ull << 20, 1ull << 30), "0.3/1.0 GiB");
    ck_assert_str_eq(units_bytes_of(text, 7, 900), "7/900 B");
    ck_assert_str_eq(units_elapsed(text, 59999999999), "59s");
    ck_assert_str_eq(units_elapsed(text, 60000000000), "1m00s");
    ck_assert_str_eq(units_elapsed(text, 3600000000000), "1h00m");
    ck_assert_str_eq(units_elapsed(text, 90000000000000), "1d01h");
    ck_assert_str_eq(units_wait(text, 999), "999 ns");
    ck_assert_str_eq(units_wait(text, 1234567), "1.23 ms");
    ck_assert_str_eq(units_wait(text, 1500000000), "1.50 s");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("page states and their drawing");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, runs_agree_with_the_rule_for_every_page, 0, 3);
    tcase_add_test(tests, many_pages_in_few_frames_cost_little);
    tcase_add_test(tests, each_state_has_its_own_letter_and_name);
    tcase_add_test(tests, pages_are_grouped_only_when_they_must_be);
    tcase_add_test(tests, a_group_shows_what_most_pages_are_but_never_hides_a_loss);
    tcase_add_loop_test(tests, a_drawing_keeps_to_the_columns, 0, 4);
    tcase_add_test(tests, units_read_well);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
