/* SPDX-License-Identifier: Apache-2.0
 *
 * What a conversation generates, and every bit of its K, V and logits, does not depend on the chunk size, the number of
 * threads, the layout, or who else is in the step; and stories260K says what llama2.c says. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_support.h"

static char small_path[256];

static const char TEXT[] = "The quick brown fox jumps over the lazy dog, and the dog, who was not asleep, looks up and "
                           "says that this is the seventh time today.";

/* Everything that a run leaves. */
struct outcome {
    engine_token ids[64];
    uint32_t n;
    float *logits; /* after the prompt */
    void *kv;
    size_t kv_bytes;
};

static void free_outcome(struct outcome *o)
{
    free(o->logits);
    free(o->kv);
}

static struct sampler *greedy(const struct engine *engine)
{
    const struct sampler_config config = {.top_p = 1};
    struct sampler *s;
    struct engine_error err;
    ASSERT_OK(sampler_open(&config, engine_model(engine)->n_vocab, &s, &err), err);
    return s;
}

static float *copy_logits(const struct conversation *c)
{
    size_t bytes = engine_model(conversation_engine(c))->n_vocab * sizeof(float);
    float *copy = malloc(bytes);
    ck_assert(copy && conversation_logits(c));
    memcpy(copy, conversation_logits(c), bytes);
    return copy;
}

static struct outcome run(struct engine *engine, const char *text, uint32_t n)
{
    struct engine_error err;
    struct conversation *c;
    struct sampler *sampler = greedy(engine);
    struct outcome o = {0};
    ASSERT_OK(conversation_open(engine, 400, &c, &err), err);
    ASSERT_OK(conversation_append_text(c, text, strlen(text), NULL, NULL, &err), err);
    o.logits = copy_logits(c);
    ASSERT_OK(conversation_generate(c, sampler, n, o.ids, &o.n, NULL, NULL, &err), err);
    o.kv = test_kv_bytes(c, &o.kv_bytes);
    conversation_close(&c);
    sampler_close(&sampler);
    return o;
}

static void assert_same(const struct outcome *a, const struct outcome *b, const struct engine *engine, const char *what)
{
    ck_assert_msg(a->n == b->n && memcmp(a->ids, b->ids, a->n * sizeof *a->ids) == 0, "%s: other ids", what);
    ck_assert_msg(memcmp(a->logits, b->logits, engine_model(engine)->n_vocab * sizeof(float)) == 0, "%s: other logits",
                  what);
    ck_assert_msg(a->kv_bytes == b->kv_bytes && memcmp(a->kv, b->kv, a->kv_bytes) == 0, "%s: other K or V", what);
}

static struct engine_cache_config cache_for(enum kvmm_layout_kind layout, enum kvmm_dtype kv_type)
{
    struct engine_cache_config config;
    engine_cache_config_init(&config);
    config.device_memory = 8 << 20;
    config.layout = layout;
    config.kv_type = kv_type;
    return config;
}

/* ---- invariance ---------------------------------------------------------------------------------------------- */

static void nothing_shows(const char *model, enum kvmm_dtype kv_type)
{
    static const uint32_t chunks[] = {512, 1, 7, 16, 33};
    static const enum kvmm_layout_kind layouts[] = {KVMM_PAGE_MAJOR, KVMM_TOKEN_MAJOR, KVMM_LAYER_MAJOR};
    struct outcome first = {0};
    const uint32_t runs = (uint32_t)scaled(15) < 4 ? 4 : (uint32_t)scaled(15);
    for (uint32_t k = 0; k < runs; k++) {
        const uint32_t chunk = chunks[k % 5], threads = 1 + k % 4;
        const struct engine_cache_config config = cache_for(layouts[k % 3], kv_type);
        struct engine *engine = test_engine_with_cache(model, threads, chunk, &config);
        struct outcome o = run(engine, TEXT, 30);
        char what[64];
        (void)snprintf(what, sizeof what, "chunk %u, %u threads, layout %u", chunk, threads, k % 3);
        if (k == 0)
            first = o;
        else
            assert_same(&first, &o, engine, what);
        if (k > 0)
            free_outcome(&o);
        engine_close(&engine);
    }
    free_outcome(&first);
}

START_TEST(chunk_threads_and_layout_do_not_show)
{
    nothing_shows(small_path, (enum kvmm_dtype)_i);
}
END_TEST

START_TEST(every_weight_type_runs_alike)
{
    static const enum gguf_type types[] = {GGUF_F32, GGUF_F16, GGUF_BF16, GGUF_Q8_0};
    struct small_model m;
    small_model_init(&m);
    m.type = types[_i];
    m.tied = _i % 2;
    char path[256];
    (void)snprintf(path, sizeof path, "%s", test_path("typed.gguf"));
    small_model_write(&m, path);
    nothing_shows(path, KVMM_F16);
}
END_TEST

START_TEST(company_in_the_step_does_not_show)
{
    static const char *const texts[] = {"one", TEXT, "", "a somewhat longer one", "x"};
    enum { N = 5, TOKENS = 25 };
    const struct engine_cache_config config = cache_for(KVMM_PAGE_MAJOR, KVMM_F16);
    struct engine *engine = test_engine_with_cache(small_path, 2, 16, &config);
    struct engine_error err;
    struct conversation *c[N];
    struct sampler *samplers[N];
    struct outcome alone[N];
    for (int i = 0; i < N; i++) {
        alone[i] = run(engine, texts[i], TOKENS);
        size_t n;
        engine_token *tokens = test_encode(engine, texts[i], &n);
        samplers[i] = greedy(engine);
        ASSERT_OK(conversation_open(engine, 400, &c[i], &err), err);
        ASSERT_OK(conversation_push(c[i], tokens, n, &err), err);
        free(tokens);
    }
    ASSERT_OK(engine_run(engine, c, N, ENGINE_PREFILL, NULL, NULL, &err), err);
    struct outcome together[N] = {0};
    for (int i = 0; i < N; i++)
        together[i].logits = copy_logits(c[i]);
    ASSERT_OK(conversation_generate_batch(engine, c, samplers, N, TOKENS, NULL, NULL, &err), err);
    for (int i = 0; i < N; i++) {
        together[i].n = TOKENS;
        memcpy(together[i].ids, conversation_tokens(c[i]) + conversation_length(c[i]) - TOKENS,
               TOKENS * sizeof(engine_token));
        together[i].kv = test_kv_bytes(c[i], &together[i].kv_bytes);
        assert_same(&alone[i], &together[i], engine, texts[i]);
        free_outcome(&alone[i]);
        free_outcome(&together[i]);
        sampler_close(&samplers[i]);
        conversation_close(&c[i]);
    }
    engine_close(&engine);
}
END_TEST

/* ---- stories260K --------------------------------------------------------------------------------------------- */

static const engine_token STORY[16] = {403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338};

/* f16 and bf16 round K and V: the ids stay, logits move by as much as that costs. */
static double tolerance(enum kvmm_dtype kv_type)
{
    return kv_type == KVMM_F32 ? 1e-4 : kv_type == KVMM_F16 ? 2e-3 : 1e-2;
}

START_TEST(story_from_bos)
{
    const enum kvmm_dtype kv_type = (enum kvmm_dtype)_i;
    const struct engine_cache_config config = cache_for(KVMM_PAGE_MAJOR, kv_type);
    struct engine *engine = test_engine_with_cache(stories_path(), 2, 512, &config);
    struct outcome o = run(engine, "", 16);
    ck_assert_uint_eq(o.n, 16);
    ck_assert_mem_eq(o.ids, STORY, sizeof STORY);
    ck_assert_double_le(fabs((double)o.logits[403] - 17.0235), tolerance(kv_type));
    ck_assert_double_le(fabs((double)o.logits[385] - 15.4062), tolerance(kv_type));
    ck_assert_double_le(fabs((double)o.logits[410] - 13.1083), tolerance(kv_type));
    for (int i = 0; i < 512; i++)
        ck_assert(i == 403 || i == 385 || i == 410 || o.logits[i] < 13.1f);
    free_outcome(&o);
    engine_close(&engine);
}
END_TEST

START_TEST(the_meaning_of_life)
{
    static const engine_token want[] = {1,   359, 329, 421, 417, 411, 360, 265, 284,
                                        411, 303, 299, 373, 397, 431, 411, 410, 293};
    const enum kvmm_dtype kv_type = (enum kvmm_dtype)_i;
    const struct engine_cache_config config = cache_for(KVMM_PAGE_MAJOR, kv_type);
    struct engine *engine = test_engine_with_cache(stories_path(), 2, 7, &config);
    size_t n;
    engine_token *tokens = test_encode(engine, "I believe the meaning of life is", &n);
    ck_assert_uint_eq(n, 18);
    ck_assert_mem_eq(tokens, want, sizeof want);
    free(tokens);
    struct outcome o = run(engine, "I believe the meaning of life is", 1);
    ck_assert_int_eq(o.ids[0], 261);
    ck_assert_double_le(fabs((double)o.logits[261] - 11.7640), tolerance(kv_type));
    free_outcome(&o);
    engine_close(&engine);
}
END_TEST

START_TEST(a_story_has_the_same_bits_too)
{
    nothing_shows(stories_path(), KVMM_F32);
}
END_TEST

static void write_model(void)
{
    struct small_model m;
    small_model_init(&m);
    (void)snprintf(small_path, sizeof small_path, "%s", test_path("small.gguf"));
    small_model_write(&m, small_path);
}

int main(void)
{
    Suite *suite = suite_create("generate");
    TCase *cases = tcase_create("any model");
    tcase_set_timeout(cases, 120);
    tcase_add_unchecked_fixture(cases, write_model, NULL);
    tcase_add_loop_test(cases, chunk_threads_and_layout_do_not_show, 0, 3);
    tcase_add_loop_test(cases, every_weight_type_runs_alike, 0, 4);
    tcase_add_test(cases, company_in_the_step_does_not_show);
    suite_add_tcase(suite, cases);
    if (stories_path()) {
        TCase *stories = tcase_create("stories260K");
        tcase_set_timeout(stories, 120);
        tcase_add_loop_test(stories, story_from_bos, 0, 3);
        tcase_add_loop_test(stories, the_meaning_of_life, 0, 3);
        tcase_add_test(stories, a_story_has_the_same_bits_too);
        suite_add_tcase(suite, stories);
    } else {
        (void)puts("stories260K.gguf is not there: its part is skipped");
    }
    return test_run(suite);
}
