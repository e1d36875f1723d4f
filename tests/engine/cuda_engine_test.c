/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine on a CUDA device with libkvmm's cache on it: the oracles' ids, the host device's ids, and the same ids, K and V
 * under every budget. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_support.h"
#include "engine_support.h"

enum { N = 6, PROMPT = 80, TOKENS = 16, TURN = 5, LENGTH = PROMPT + TOKENS, FRAME = ENGINE_CUDA_FRAME };

static char wide_path[256]; /* a model whose conversations take several frames of 2 MiB */
static struct engine_error err;

static struct sampler *greedy(const struct engine *engine)
{
    const struct sampler_config config = {.top_p = 1};
    struct sampler *s;
    ASSERT_OK(sampler_open(&config, engine_model(engine)->n_vocab, &s, &err), err);
    return s;
}

static struct engine_cache_config cache_on(const char *device, uint64_t frames, enum kvmm_dtype kv_type)
{
    struct engine_cache_config config;
    engine_cache_config_init(&config);
    config.device = device;
    config.device_memory = frames * FRAME;
    config.frame_bytes = FRAME;
    config.kv_type = kv_type;
    return config;
}

static struct engine *open_engine(const char *model, uint32_t chunk, const struct engine_cache_config *config)
{
    struct engine *engine = test_engine(model, 2, chunk);
    ASSERT_OK(engine_open_cache(engine, config, &err), err);
    ck_assert_str_eq(kvmm_device_name(engine_kvmm(engine)),
                     strcmp(config->device, "cuda") == 0 ? "cuda:0" : config->device);
    return engine;
}

/* ---- stories260K --------------------------------------------------------------------------------------------- */

static const engine_token STORY[16] = {403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338};

static double tolerance(enum kvmm_dtype kv_type)
{
    return kv_type == KVMM_F32 ? 1e-4 : kv_type == KVMM_F16 ? 1e-2 : 6e-2;
}

START_TEST(story_from_bos)
{
    const enum kvmm_dtype kv_type = (enum kvmm_dtype)(_i % 3);
    struct engine_cache_config config = cache_on("cuda", 8, kv_type);
    config.layout = (enum kvmm_layout_kind)(_i / 3);
    struct engine *engine = open_engine(stories_path(), 512, &config);
    struct sampler *sampler = greedy(engine);
    struct conversation *c;
    engine_token ids[16];
    uint32_t n;
    ASSERT_OK(conversation_open(engine, 400, &c, &err), err);
    ASSERT_OK(conversation_append_text(c, "", 0, NULL, NULL, &err), err);
    ck_assert_double_le(fabs((double)conversation_logits(c)[403] - 17.0235), tolerance(kv_type));
    ck_assert_double_le(fabs((double)conversation_logits(c)[385] - 15.4062), tolerance(kv_type));
    ck_assert_double_le(fabs((double)conversation_logits(c)[410] - 13.1083), tolerance(kv_type));
    ASSERT_OK(conversation_generate(c, sampler, 16, ids, &n, NULL, NULL, &err), err);
    ck_assert_uint_eq(n, 16);
    ck_assert_mem_eq(ids, STORY, sizeof STORY);
    conversation_close(&c);
    sampler_close(&sampler);
    engine_close(&engine);
}
END_TEST

START_TEST(the_meaning_of_life)
{
    static const uint32_t chunks[] = {512, 1, 7, 16};
    const struct engine_cache_config config = cache_on("cuda:0", 4, KVMM_F16);
    struct engine *engine = open_engine(stories_path(), chunks[_i], &config);
    struct sampler *sampler = greedy(engine);
    struct conversation *c;
    const char *text = "I believe the meaning of life is";
    engine_token id;
    ASSERT_OK(conversation_open(engine, 400, &c, &err), err);
    ASSERT_OK(conversation_append_text(c, text, strlen(text), NULL, NULL, &err), err);
    ck_assert_double_le(fabs((double)conversation_logits(c)[261] - 11.7640), tolerance(KVMM_F16));
    ASSERT_OK(conversation_generate(c, sampler, 1, &id, NULL, NULL, NULL, &err), err);
    ck_assert_int_eq(id, 261);
    conversation_close(&c);
    sampler_close(&sampler);
    engine_close(&engine);
}
END_TEST

/* As long as the context: one capture, whatever grows. */
static void long_story(const char *device, engine_token *ids, uint32_t n)
{
    const struct engine_cache_config config = cache_on(device, 4, KVMM_F32);
    struct engine *engine = open_engine(stories_path(), 512, &config);
    struct sampler *sampler = greedy(engine);
    struct conversation *c;
    struct engine_stats stats;
    ASSERT_OK(conversation_open(engine, 512, &c, &err), err);
    ASSERT_OK(conversation_append_text(c, "", 0, NULL, NULL, &err), err);
    ASSERT_OK(conversation_generate(c, sampler, n, ids, NULL, NULL, NULL, &err), err);
    engine_get_stats(engine, &stats);
    const bool on_gpu = strcmp(device, "host") != 0;
    ck_assert_uint_eq(stats.captures, on_gpu ? 1 : 0);
    ck_assert_uint_eq(stats.replays, on_gpu ? n - 1 : 0); /* the first pass is BOS alone; the last id is not computed */
    conversation_close(&c);
    sampler_close(&sampler);
    engine_close(&engine);
}

START_TEST(a_long_story_is_the_host_s_and_captured_once)
{
    enum { LONG = 300 };
    engine_token on_gpu[LONG], on_host[LONG];
    long_story("cuda", on_gpu, LONG);
    long_story("host", on_host, LONG);
    ck_assert_mem_eq(on_gpu, on_host, sizeof on_host);
}
END_TEST

/* ---- paging -------------------------------------------------------------------------------------------------- */

struct outcome {
    engine_token ids[TOKENS];
    void *kv;
    size_t kv_bytes;
};

static void fill_prompt(uint32_t conversation, engine_token *tokens)
{
    uint64_t state = conversation + 100;
    for (int i = 0; i < PROMPT; i++)
        tokens[i] = (engine_token)(3 + test_random(&state) % 256);
}

static void open_all(struct engine *engine, struct conversation **c)
{
    for (uint32_t i = 0; i < N; i++) {
        engine_token tokens[PROMPT];
        fill_prompt(i, tokens);
        ASSERT_OK(conversation_open(engine, LENGTH, &c[i], &err), err);
        ASSERT_OK(conversation_append(c[i], tokens, PROMPT, NULL, NULL, &err), err);
    }
}

static void generate_in_turns(struct engine *engine, struct conversation *const *c)
{
    struct sampler *sampler = greedy(engine);
    for (int at = 0; at < TOKENS; at += TURN) {
        for (uint32_t i = 0; i < N; i++)
            ASSERT_OK(conversation_generate(c[i], sampler, at + TURN > TOKENS ? TOKENS - at : TURN, NULL, NULL, NULL,
                                            NULL, &err),
                      err);
    }
    sampler_close(&sampler);
}

static void generate_in_batches(struct engine *engine, struct conversation *const *c)
{
    struct sampler *samplers[N];
    for (uint32_t i = 0; i < N; i++)
        samplers[i] = greedy(engine);
    ASSERT_OK(conversation_generate_batch(engine, c, samplers, N, TOKENS, NULL, NULL, &err), err);
    for (uint32_t i = 0; i < N; i++)
        sampler_close(&samplers[i]);
}

static void finish(struct engine *engine, struct conversation **c, struct outcome *o)
{
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_uint_eq(conversation_length(c[i]), LENGTH);
        memcpy(o[i].ids, conversation_tokens(c[i]) + PROMPT, sizeof o[i].ids);
        o[i].kv = test_kv_bytes(c[i], &o[i].kv_bytes);
        conversation_close(&c[i]);
    }
    engine_close(&engine);
}

static uint32_t frames_of_one(enum kvmm_layout_kind layout)
{
    struct engine *engine = test_engine(wide_path, 1, 1);
    struct kvmm_geometry g;
    engine_geometry(engine, layout, KVMM_F32, &g);
    const uint32_t frames = (uint32_t)(kvmm_geometry_bytes(&g, FRAME, LENGTH) / FRAME);
    engine_close(&engine);
    return frames;
}

static void undisturbed(const char *device, enum kvmm_layout_kind layout, uint32_t chunk, struct outcome *o)
{
    struct engine_cache_config config = cache_on(device, N * frames_of_one(layout), KVMM_F32);
    struct conversation *c[N];
    config.layout = layout;
    struct engine *engine = open_engine(wide_path, chunk, &config);
    open_all(engine, c);
    generate_in_turns(engine, c);
    finish(engine, c, o);
}

static void free_outcomes(struct outcome *o)
{
    for (uint32_t i = 0; i < N; i++)
        free(o[i].kv);
}

static void assert_same(const struct outcome *want, const struct outcome *got, bool bytes, const char *what)
{
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_msg(memcmp(want[i].ids, got[i].ids, sizeof got[i].ids) == 0, "%s: conversation %u: other ids", what,
                      i);
        if (bytes)
            ck_assert_msg(want[i].kv_bytes == got[i].kv_bytes && memcmp(want[i].kv, got[i].kv, got[i].kv_bytes) == 0,
                          "%s: conversation %u: other K or V", what, i);
    }
}

static const struct way {
    const char *name;
    enum kvmm_layout_kind layout;
    uint32_t chunk;
    uint32_t device_part; /* of all conversations' frames: 1 / this; 0: the largest alone */
    uint32_t host_frames;
    bool swap, batch;
} WAYS[] = {
    {"a quarter, host", KVMM_PAGE_MAJOR, 64, 4, 1000, false, false},
    {"a quarter, swap", KVMM_PAGE_MAJOR, 64, 4, 0, true, false},
    {"a quarter, little host, swap", KVMM_TOKEN_MAJOR, 37, 4, 3, true, false},
    {"the barest, host", KVMM_PAGE_MAJOR, 16, 0, 1000, false, false},
    {"the barest, little host, swap", KVMM_LAYER_MAJOR, 64, 0, 2, true, false},
    {"a half, batch, host and swap", KVMM_PAGE_MAJOR, 64, 2, 5, true, true},
    {"the barest, batch, swap", KVMM_PAGE_MAJOR, 64, 0, 0, true, true},
};

/* In turns the chunks and batches are the same, and so must the bytes be. In a batch the budget decides who is in it: ids
 * are the same; bytes may differ on a GPU, whose products depend on the number of rows. */
START_TEST(budgets_do_not_show)
{
    const struct way *way = &WAYS[_i];
    struct outcome want[N], got[N], host[N];
    struct conversation *c[N];
    undisturbed("cuda", way->layout, way->chunk, want);
    undisturbed("host", way->layout, way->chunk, host);
    assert_same(host, want, false, "on the host");
    free_outcomes(host);

    const struct simcuda_usage before = cuda_test_usage();
    const uint32_t one = frames_of_one(way->layout);
    const uint32_t frames = way->device_part ? N * one / way->device_part : one;
    struct engine_cache_config config = cache_on("cuda", frames < one ? one : frames, KVMM_F32);
    config.layout = way->layout;
    config.host_memory = (uint64_t)way->host_frames * FRAME;
    config.swap_dir = way->swap ? test_dir() : NULL;
    struct engine *engine = open_engine(wide_path, way->chunk, &config);
    open_all(engine, c);
    if (way->batch)
        generate_in_batches(engine, c);
    else
        generate_in_turns(engine, c);
    struct kvmm_stats stats;
    kvmm_get_stats(engine_kvmm(engine), &stats);
    ck_assert_uint_gt(stats.frames_from_host + stats.frames_from_nvme, 0); /* or nothing was paged */
    finish(engine, c, got);
    assert_same(want, got, !way->batch || cuda_test_is_simulated(), way->name);
    free_outcomes(want);
    free_outcomes(got);
    cuda_test_nothing_left(&before, way->name);
}
END_TEST

/* ---- faults -------------------------------------------------------------------------------------------------- */

/* Two conversations, of which the second is on the device; the first's cache is on host or NVMe. */
START_TEST(a_lost_device_is_one_line)
{
    struct engine_cache_config config = cache_on("cuda", frames_of_one(KVMM_PAGE_MAJOR), KVMM_F32);
    struct conversation *c[2];
    engine_token tokens[PROMPT];
    config.host_memory = 1u << 30;
    struct engine *engine = open_engine(wide_path, 64, &config);
    struct sampler *sampler = greedy(engine);
    for (uint32_t i = 0; i < 2; i++) {
        fill_prompt(i, tokens);
        ASSERT_OK(conversation_open(engine, LENGTH, &c[i], &err), err);
        ASSERT_OK(conversation_append(c[i], tokens, PROMPT, NULL, NULL, &err), err);
    }
    cuda_test_sim()->lose_device(CUDA_ERROR_LAUNCH_FAILED);
    int rc = conversation_generate(c[1], sampler, 4, NULL, NULL, NULL, NULL, &err);
    ck_assert_int_eq(rc, ENGINE_FAILED);
    ck_assert_msg(strstr(err.text, "CUDA_ERROR_LAUNCH_FAILED") && !strchr(err.text, '\n'), "%s", err.text);
    ck_assert_uint_ge(conversation_length(c[1]), PROMPT); /* its tokens are the truth */
    struct kvmm_seq_info info;
    kvmm_seq_get_info(conversation_seq(c[0]), &info);
    ck_assert_uint_eq(info.valid_tokens, PROMPT);
    ck_assert_uint_eq(info.n_lost, 0);
    conversation_close(&c[0]);
    conversation_close(&c[1]);
    sampler_close(&sampler);
    engine_close(&engine);
}
END_TEST

START_TEST(a_pass_that_fails_can_be_repeated)
{
    struct outcome want[N], got[N];
    undisturbed("cuda", KVMM_PAGE_MAJOR, 64, want);
    struct engine_cache_config config = cache_on("cuda", 2 * frames_of_one(KVMM_PAGE_MAJOR), KVMM_F32);
    struct conversation *c[N];
    config.host_memory = 1u << 30;
    struct engine *engine = open_engine(wide_path, 64, &config);
    struct sampler *sampler = greedy(engine);
    for (uint32_t i = 0; i < N; i++) {
        engine_token tokens[PROMPT];
        fill_prompt(i, tokens);
        ASSERT_OK(conversation_open(engine, LENGTH, &c[i], &err), err);
        ck_assert_int_eq(
            cuda_test_sim()->fail_range("cuLaunchKernel", 3 + i, 3 + i, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES),
            CUDA_SUCCESS);
        ck_assert_int_eq(conversation_append(c[i], tokens, PROMPT, NULL, NULL, &err), ENGINE_FAILED);
        ck_assert_msg(strstr(err.text, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"), "%s", err.text);
        ck_assert_uint_eq(conversation_length(c[i]), PROMPT);
        ASSERT_OK(engine_run(engine, &c[i], 1, ENGINE_PREFILL, NULL, NULL, &err), err);
    }
    sampler_close(&sampler);
    generate_in_turns(engine, c);
    finish(engine, c, got);
    assert_same(want, got, true, "after failed passes");
    free_outcomes(want);
    free_outcomes(got);
}
END_TEST

static void write_model(void)
{
    struct small_model m;
    small_model_init(&m);
    m.n_embd = 64;
    m.n_layers = 4;
    m.n_heads = 8;
    m.n_kv_heads = 8;
    m.head_dim = 128; /* 32 KiB a token in f32: 64 tokens a frame */
    m.context = LENGTH;
    (void)snprintf(wide_path, sizeof wide_path, "%s", test_path("wide.gguf"));
    small_model_write(&m, wide_path);
}

int main(void)
{
    const int skip = cuda_test_skip();
    if (skip)
        return skip;
    Suite *suite = suite_create("engine on a GPU");
    TCase *cases = tcase_create("any model");
    tcase_set_timeout(cases, 240);
    tcase_add_unchecked_fixture(cases, write_model, NULL);
    tcase_add_loop_test(cases, budgets_do_not_show, 0, (int)(sizeof WAYS / sizeof *WAYS));
    if (cuda_test_is_simulated()) {
        tcase_add_test(cases, a_lost_device_is_one_line);
        tcase_add_test(cases, a_pass_that_fails_can_be_repeated);
    }
    suite_add_tcase(suite, cases);
    if (stories_path()) {
        TCase *stories = tcase_create("stories260K");
        tcase_set_timeout(stories, 240);
        tcase_add_loop_test(stories, story_from_bos, 0, 9);
        tcase_add_loop_test(stories, the_meaning_of_life, 0, 4);
        tcase_add_test(stories, a_long_story_is_the_host_s_and_captured_once);
        suite_add_tcase(suite, stories);
    } else {
        (void)puts("stories260K.gguf is not there: its part is skipped");
    }
    return test_run(suite);
}
