/* SPDX-License-Identifier: Apache-2.0
 *
 * A conversation's tokens are the truth: cut, continued, refused or paused, it goes on as if it had been computed in
 * one go. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_support.h"

static struct engine *engine;
static struct conversation *c;
static struct sampler *sampler;
static struct engine_error err;

static void set_up(void)
{
    struct small_model m;
    small_model_init(&m);
    m.context = 300;
    small_model_write(&m, test_path("small.gguf"));
    struct engine_cache_config config;
    engine_cache_config_init(&config);
    config.device_memory = 4 << 20;
    config.host_memory = 4 << 20;
    engine = test_engine_with_cache(test_path("small.gguf"), 2, 32, &config);
    const struct sampler_config sampling = {.top_p = 1};
    ASSERT_OK(sampler_open(&sampling, SMALL_VOCAB, &sampler, &err), err);
    ASSERT_OK(conversation_open(engine, 300, &c, &err), err);
}

static void tear_down(void)
{
    conversation_close(&c);
    sampler_close(&sampler);
    engine_close(&engine);
}

static void append(struct conversation *to, const char *text)
{
    ASSERT_OK(conversation_append_text(to, text, strlen(text), NULL, NULL, &err), err);
}

START_TEST(text_in_pieces_is_the_text)
{
    struct conversation *whole;
    ASSERT_OK(conversation_open(engine, 300, &whole, &err), err);
    append(whole, "some words in a row");
    append(c, "some ");
    append(c, "words");
    append(c, "");
    append(c, " in a row");
    ck_assert_uint_gt(conversation_length(whole), 19); /* BOS, 15 letters, and a space is some bytes */
    ck_assert_uint_eq(conversation_length(c), conversation_length(whole));
    ck_assert_mem_eq(conversation_tokens(c), conversation_tokens(whole), conversation_length(c) * sizeof(engine_token));
    ck_assert_mem_eq(conversation_logits(c), conversation_logits(whole), SMALL_VOCAB * sizeof(float));
    conversation_close(&whole);
    ck_assert_ptr_null(whole);
}
END_TEST

START_TEST(truncate_goes_back)
{
    engine_token first[20], again[20];
    append(c, "back and forth");
    const uint32_t length = conversation_length(c);
    ASSERT_OK(conversation_generate(c, sampler, 20, first, NULL, NULL, NULL, &err), err);
    ASSERT_OK(conversation_truncate(c, length, &err), err);
    ck_assert_ptr_null(conversation_logits(c));
    ASSERT_OK(conversation_generate(c, sampler, 20, again, NULL, NULL, NULL, &err), err);
    ck_assert_mem_eq(first, again, sizeof first);

    append(c, " and something else, much longer than before, which takes the place of what was generated");
    ASSERT_OK(conversation_truncate(c, length + 5, &err), err);
    ASSERT_OK(conversation_generate(c, sampler, 15, again, NULL, NULL, NULL, &err), err);
    ck_assert_mem_eq(first + 5, again, 15 * sizeof *first);

    ck_assert_int_eq(conversation_truncate(c, conversation_length(c) + 1, &err), ENGINE_BAD_INPUT);
    ASSERT_OK(conversation_truncate(c, 0, &err), err);
    ck_assert_uint_eq(conversation_length(c), 0);
    ck_assert_int_eq(conversation_generate(c, sampler, 1, again, NULL, NULL, NULL, &err), ENGINE_BAD_INPUT);
    append(c, "back and forth"); /* with BOS again */
    ASSERT_OK(conversation_generate(c, sampler, 20, again, NULL, NULL, NULL, &err), err);
    ck_assert_mem_eq(first, again, sizeof first);
}
END_TEST

START_TEST(generation_goes_on_where_it_stopped)
{
    engine_token whole[24], parts[24];
    append(c, "on and on");
    const uint32_t length = conversation_length(c);
    ASSERT_OK(conversation_generate(c, sampler, 24, whole, NULL, NULL, NULL, &err), err);
    ASSERT_OK(conversation_truncate(c, length, &err), err);
    for (uint32_t at = 0; at < 24; at += 6) {
        uint32_t n;
        ASSERT_OK(conversation_generate(c, sampler, 6, parts + at, &n, NULL, NULL, &err), err);
        ck_assert_uint_eq(n, 6);
        if (at == 6)
            ASSERT_OK(conversation_suspend(c, &err), err);
        if (at == 12)
            ASSERT_OK(conversation_resume(c, &err), err);
    }
    ck_assert_mem_eq(whole, parts, sizeof whole);
}
END_TEST

START_TEST(what_does_not_fit_is_refused_whole)
{
    engine_token tokens[301] = {0};
    ck_assert_int_eq(conversation_push(c, tokens, 301, &err), ENGINE_BAD_INPUT);
    ck_assert_msg(strstr(err.text, "301") && strstr(err.text, "300"), "%s", err.text);
    ASSERT_OK(conversation_push(c, tokens, 300, &err), err);
    ck_assert_int_eq(conversation_push(c, tokens, 1, &err), ENGINE_BAD_INPUT);
    ASSERT_OK(conversation_truncate(c, 10, &err), err);
    tokens[1] = SMALL_VOCAB;
    ck_assert_int_eq(conversation_push(c, tokens, 2, &err), ENGINE_BAD_INPUT);
    tokens[1] = -1;
    ck_assert_int_eq(conversation_push(c, tokens, 2, &err), ENGINE_BAD_INPUT);
    ck_assert_uint_eq(conversation_length(c), 10);

    struct conversation *other = NULL;
    ck_assert_int_eq(conversation_open(engine, 301, &other, &err), ENGINE_BAD_INPUT);
    ck_assert_int_eq(conversation_open(engine, 0, &other, &err), ENGINE_BAD_INPUT);
    ck_assert_ptr_null(other);
}
END_TEST

START_TEST(a_full_conversation_stops)
{
    engine_token out[50];
    uint32_t n;
    engine_token tokens[290];
    for (int i = 0; i < 290; i++)
        tokens[i] = 3 + i % 256;
    ASSERT_OK(conversation_push(c, tokens, 290, &err), err);
    ASSERT_OK(conversation_generate(c, sampler, 50, out, &n, NULL, NULL, &err), err);
    ck_assert_uint_eq(n, 10);
    ASSERT_OK(conversation_generate(c, sampler, 50, out, &n, NULL, NULL, &err), err);
    ck_assert_uint_eq(n, 0);
}
END_TEST

static bool three(void *user, engine_token token)
{
    (void)token;
    return ++*(int *)user < 3;
}

START_TEST(the_callback_ends_it)
{
    int calls = 0;
    uint32_t n;
    append(c, "x");
    ASSERT_OK(conversation_generate(c, sampler, 50, NULL, &n, three, &calls, &err), err);
    ck_assert_int_eq(calls, 3);
    ck_assert_uint_eq(n, 3);
    ck_assert_uint_eq(conversation_length(c), 2 + 3);
}
END_TEST

struct seen {
    uint64_t last, total;
};

static void see(void *user, uint64_t done, uint64_t total)
{
    struct seen *seen = user;
    ck_assert_uint_gt(done, seen->last);
    ck_assert_uint_le(done, total);
    *seen = (struct seen){done, total};
}

START_TEST(progress_goes_up_to_all)
{
    struct seen seen = {0};
    engine_token tokens[100] = {0};
    ASSERT_OK(conversation_append(c, tokens, 100, see, &seen, &err), err);
    ck_assert_uint_eq(seen.total, 100);
    ck_assert_uint_eq(seen.last, 100);
    struct engine_stats stats;
    engine_get_stats(engine, &stats);
    ck_assert_uint_eq(stats.prefill_tokens, 100);
    ck_assert_uint_eq(stats.decode_tokens, 0);
    ck_assert_uint_eq(stats.recomputed_tokens, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("conversation");
    TCase *cases = tcase_create("all");
    tcase_set_timeout(cases, 60);
    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, text_in_pieces_is_the_text);
    tcase_add_test(cases, truncate_goes_back);
    tcase_add_test(cases, generation_goes_on_where_it_stopped);
    tcase_add_test(cases, what_does_not_fit_is_refused_whole);
    tcase_add_test(cases, a_full_conversation_stops);
    tcase_add_test(cases, the_callback_ends_it);
    tcase_add_test(cases, progress_goes_up_to_all);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
