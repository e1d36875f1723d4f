/* SPDX-License-Identifier: Apache-2.0
 *
 * The sampler picks by the distribution it was told, reproducibly. */
#include "sampler.h"

#include <math.h>
#include <stdlib.h>

#include "engine_support.h"

static struct sampler *open_sampler(float temperature, float top_p, uint64_t seed, uint64_t stream, uint32_t n)
{
    const struct sampler_config config = {.temperature = temperature, .top_p = top_p, .seed = seed, .stream = stream};
    struct sampler *s;
    struct engine_error err;
    ASSERT_OK(sampler_open(&config, n, &s, &err), err);
    return s;
}

START_TEST(greedy_takes_the_highest_and_of_equals_the_lowest_id)
{
    const float logits[] = {1, 3, -2, 3, 2.5f};
    struct sampler *s = open_sampler(0, 1, 0, 0, 5);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(sampler_pick(s, logits), 1);
    sampler_close(&s);
    ck_assert_ptr_null(s);
}
END_TEST

START_TEST(frequencies_follow_the_temperature)
{
    const float logits[] = {0, 1, 2, -1};
    enum { DRAWS = 40000 };
    const double temperature = 0.7;
    double weights[4], total = 0;
    int counts[4] = {0};
    struct sampler *s = open_sampler((float)temperature, 1, 42, 0, 4);
    for (int i = 0; i < 4; i++)
        total += weights[i] = exp((double)logits[i] / temperature);
    for (int i = 0; i < DRAWS; i++)
        counts[sampler_pick(s, logits)]++;
    for (int i = 0; i < 4; i++) {
        double p = weights[i] / total;
        ck_assert_double_le(fabs(counts[i] - DRAWS * p), 5 * sqrt(DRAWS * p * (1 - p)));
    }
    sampler_close(&s);
}
END_TEST

START_TEST(top_p_keeps_the_fewest_that_reach_it)
{
    const float logits[] = {logf(0.1f), logf(0.5f), logf(0.15f), logf(0.25f)};
    const struct {
        float top_p;
        bool kept[4];
    } cases[] = {{0.45f, {0, 1, 0, 0}}, {0.6f, {0, 1, 0, 1}}, {0.8f, {0, 1, 1, 1}}, {1, {1, 1, 1, 1}}};
    for (size_t k = 0; k < 4; k++) {
        bool seen[4] = {0};
        struct sampler *s = open_sampler(1, cases[k].top_p, k, 0, 4);
        for (int i = 0; i < 2000; i++)
            seen[sampler_pick(s, logits)] = true;
        for (int i = 0; i < 4; i++)
            ck_assert_msg(seen[i] == cases[k].kept[i], "top-p %g, token %d", (double)cases[k].top_p, i);
        sampler_close(&s);
    }
}
END_TEST

/* 200 draws as one number. */
static uint64_t fingerprint(uint64_t seed, uint64_t stream)
{
    const float logits[8] = {0};
    uint64_t print = 0;
    struct sampler *s = open_sampler(1, 1, seed, stream, 8);
    for (int i = 0; i < 200; i++)
        print = print * 31 + (uint64_t)sampler_pick(s, logits);
    sampler_close(&s);
    return print;
}

START_TEST(the_same_seed_draws_the_same)
{
    ck_assert_uint_eq(fingerprint(1, 0), fingerprint(1, 0));
    ck_assert_uint_ne(fingerprint(1, 0), fingerprint(2, 0));
    ck_assert_uint_ne(fingerprint(1, 0), fingerprint(1, 1));
}
END_TEST

START_TEST(broken_logits_give_no_token)
{
    const float nan_inside[] = {0, NAN, 1}, infinite[] = {0, INFINITY, 1};
    for (int t = 0; t < 2; t++) {
        struct sampler *s = open_sampler((float)t, 1, 0, 0, 3);
        ck_assert_int_eq(sampler_pick(s, nan_inside), -1);
        ck_assert_int_eq(sampler_pick(s, infinite), -1);
        sampler_close(&s);
    }
}
END_TEST

START_TEST(numbers_out_of_bounds_are_refused)
{
    const struct sampler_config wrong[] = {{.temperature = -1, .top_p = 1},       {.temperature = NAN, .top_p = 1},
                                           {.temperature = INFINITY, .top_p = 1}, {.temperature = 1, .top_p = 0},
                                           {.temperature = 1, .top_p = 1.5f},     {.temperature = 1, .top_p = NAN}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct sampler *s = NULL;
        struct engine_error err = {""};
        ck_assert_int_eq(sampler_open(&wrong[i], 3, &s, &err), -1);
        ck_assert_ptr_null(s);
        ck_assert_str_ne(err.text, "");
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sampler");
    TCase *cases = tcase_create("all");
    tcase_add_test(cases, greedy_takes_the_highest_and_of_equals_the_lowest_id);
    tcase_add_test(cases, frequencies_follow_the_temperature);
    tcase_add_test(cases, top_p_keeps_the_fewest_that_reach_it);
    tcase_add_test(cases, the_same_seed_draws_the_same);
    tcase_add_test(cases, broken_logits_give_no_token);
    tcase_add_test(cases, numbers_out_of_bounds_are_refused);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
