/* SPDX-License-Identifier: Apache-2.0
 *
 * Several conversations that don't fit the device together: what they generate, and their K and V, are the same as with
 * room for all, whatever the budget, the tiers and the order; also when a tier loses what it held. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine_support.h"

enum { N = 6, PROMPT = 150, TOKENS = 24, TURN = 5, LENGTH = PROMPT + TOKENS };

static char small_path[256];
static struct engine_error err;

struct outcome {
    engine_token ids[TOKENS];
    void *kv;
    size_t kv_bytes;
};

/* A device for `frames` frames of 64 KiB. */
static struct engine_cache_config cache(uint32_t frames)
{
    struct engine_cache_config config;
    engine_cache_config_init(&config);
    config.frame_bytes = 64 << 10;
    config.device_memory = (uint64_t)frames << 16;
    return config;
}

static uint32_t frames_of(uint32_t n_tokens)
{
    struct engine *engine = test_engine(small_path, 1, 1);
    struct kvmm_geometry g;
    engine_geometry(engine, KVMM_PAGE_MAJOR, KVMM_F16, &g);
    uint32_t frames = (uint32_t)(kvmm_geometry_bytes(&g, 64 << 10, n_tokens) >> 16);
    engine_close(&engine);
    return frames;
}

static struct sampler *greedy(void)
{
    const struct sampler_config config = {.top_p = 1};
    struct sampler *s;
    ASSERT_OK(sampler_open(&config, SMALL_VOCAB, &s, &err), err);
    return s;
}

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

static void finish(struct conversation **c, struct outcome *o)
{
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_uint_eq(conversation_length(c[i]), LENGTH);
        memcpy(o[i].ids, conversation_tokens(c[i]) + PROMPT, sizeof o[i].ids);
        o[i].kv = test_kv_bytes(c[i], &o[i].kv_bytes);
        conversation_close(&c[i]);
    }
}

static void generate_in_turns(struct conversation *const *c)
{
    struct sampler *sampler = greedy();
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
        samplers[i] = greedy();
    ASSERT_OK(conversation_generate_batch(engine, c, samplers, N, TOKENS, NULL, NULL, &err), err);
    for (uint32_t i = 0; i < N; i++)
        sampler_close(&samplers[i]);
}

static void assert_same_and_free(struct outcome *want, struct outcome *got, const char *what)
{
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_msg(memcmp(want[i].ids, got[i].ids, sizeof got[i].ids) == 0, "%s: conversation %u: other ids", what,
                      i);
        ck_assert_msg(want[i].kv_bytes == got[i].kv_bytes && memcmp(want[i].kv, got[i].kv, got[i].kv_bytes) == 0,
                      "%s: conversation %u: other K or V", what, i);
        free(got[i].kv);
    }
}

static void undisturbed(struct outcome *o)
{
    const struct engine_cache_config config = cache(N * frames_of(LENGTH));
    struct engine *engine = test_engine_with_cache(small_path, 2, 64, &config);
    struct conversation *c[N];
    open_all(engine, c);
    generate_in_turns(c);
    finish(c, o);
    engine_close(&engine);
}

static void free_outcomes(struct outcome *o)
{
    for (uint32_t i = 0; i < N; i++)
        free(o[i].kv);
}

static const struct way {
    const char *name;
    const char *policy;
    enum kvmm_layout_kind layout;
    uint32_t device_part; /* of all conversations' frames: 1 / this; 0: the largest alone */
    uint32_t host_frames;
    bool swap, batch;
} WAYS[] = {
    {"a quarter, host", "lru", KVMM_PAGE_MAJOR, 4, 1000, false, false},
    {"a quarter, swap", "clock", KVMM_PAGE_MAJOR, 4, 0, true, false},
    {"a quarter, little host, swap", "lru", KVMM_TOKEN_MAJOR, 4, 3, true, false},
    {"the barest, host", "clock", KVMM_PAGE_MAJOR, 0, 1000, false, false},
    {"the barest, little host, swap", "lru", KVMM_LAYER_MAJOR, 0, 2, true, false},
    {"a half, batch, host and swap", "lru", KVMM_PAGE_MAJOR, 2, 5, true, true},
    {"the barest, batch, swap", "lru", KVMM_PAGE_MAJOR, 0, 0, true, true},
};

START_TEST(budgets_do_not_show)
{
    const struct way *way = &WAYS[_i];
    struct outcome want[N], got[N];
    undisturbed(want);

    struct engine *engine = test_engine(small_path, 2, 64);
    struct kvmm_geometry g;
    engine_geometry(engine, way->layout, KVMM_F16, &g);
    const uint32_t one = (uint32_t)(kvmm_geometry_bytes(&g, 64 << 10, LENGTH) >> 16);
    uint32_t frames = way->device_part ? N * one / way->device_part : one;
    struct engine_cache_config config = cache(frames < one ? one : frames);
    config.layout = way->layout;
    config.host_memory = (uint64_t)way->host_frames << 16;
    config.swap_dir = way->swap ? test_dir() : NULL;
    config.policy = way->policy;
    ASSERT_OK(engine_open_cache(engine, &config, &err), err);

    struct conversation *c[N];
    open_all(engine, c);
    if (way->batch)
        generate_in_batches(engine, c);
    else
        generate_in_turns(c);
    finish(c, got);
    struct kvmm_stats stats;
    kvmm_get_stats(engine_kvmm(engine), &stats);
    ck_assert_uint_gt(stats.frames_from_host + stats.frames_from_nvme, 0); /* or nothing was paged */
    assert_same_and_free(want, got, way->name);
    free_outcomes(want);
    engine_close(&engine);
}
END_TEST

START_TEST(too_little_names_what_is_needed)
{
    const uint32_t need = frames_of(LENGTH);
    ck_assert_uint_gt(need, 1);
    struct engine_cache_config config = cache(need - 1);
    config.host_memory = 16 << 20;
    struct engine *engine = test_engine_with_cache(small_path, 2, 64, &config);
    struct conversation *c;
    ASSERT_OK(conversation_open(engine, LENGTH, &c, &err), err);
    engine_token tokens[LENGTH] = {0};
    ck_assert_int_eq(conversation_append(c, tokens, LENGTH, NULL, NULL, &err), ENGINE_BAD_INPUT);
    char frames[32];
    (void)snprintf(frames, sizeof frames, "%u frames", need);
    ck_assert_msg(strstr(err.text, frames), "\"%s\" does not name %s", err.text, frames);
    ck_assert_uint_eq(conversation_length(c), LENGTH); /* nothing is forgotten */
    conversation_close(&c);
    engine_close(&engine);
}
END_TEST

/* ---- loss ---------------------------------------------------------------------------------------------------- */

/* Overwrites every fifth frame of this process's unnamed files in dir with something else; returns how many files there
 * were. Not all frames: a tier where every read fails counts as broken, and then there is no place for cold frames. */
static int spoil_swap_files(const char *dir)
{
    int n = 0;
    DIR *fds = opendir("/proc/self/fd");
    ck_assert_ptr_nonnull(fds);
    for (struct dirent *d; (d = readdir(fds));) {
        char link[300], target[512];
        (void)snprintf(link, sizeof link, "/proc/self/fd/%s", d->d_name);
        ssize_t len = readlink(link, target, sizeof target - 1);
        if (len < 0 || (size_t)len < strlen(dir) || memcmp(target, dir, strlen(dir)) != 0)
            continue;
        int fd = open(link, O_WRONLY | O_CLOEXEC);
        struct stat st;
        if (fd < 0 || fstat(fd, &st) != 0)
            continue;
        static char wrong[65536];
        memset(wrong, 0x5a, sizeof wrong);
        for (off_t at = 0; at < st.st_size; at += 5 * (off_t)sizeof wrong)
            ck_assert_int_eq(pwrite(fd, wrong, sizeof wrong, at), sizeof wrong);
        ck_assert_int_eq(fsync(fd), 0);
        (void)close(fd);
        n++;
    }
    (void)closedir(fds);
    return n;
}

START_TEST(lost_data_is_computed_again)
{
    struct outcome want[N], got[N];
    undisturbed(want);
    struct engine_cache_config config = cache(_i ? 2 * frames_of(LENGTH) : frames_of(LENGTH));
    config.swap_dir = test_dir();
    struct engine *engine = test_engine_with_cache(small_path, 2, 64, &config);
    struct conversation *c[N];
    open_all(engine, c);
    ck_assert_int_gt(spoil_swap_files(test_dir()), 0);
    if (_i)
        generate_in_batches(engine, c);
    else
        generate_in_turns(c);
    finish(c, got);
    assert_same_and_free(want, got, "after a loss");
    struct engine_stats stats;
    engine_get_stats(engine, &stats);
    ck_assert_uint_gt(stats.data_losses, 0);
    ck_assert_uint_gt(stats.recomputed_tokens, 0);
    ck_assert_uint_le(stats.recomputed_tokens, stats.data_losses * LENGTH);
    free_outcomes(want);
    engine_close(&engine);
}
END_TEST

static void write_model(void)
{
    struct small_model m;
    small_model_init(&m);
    m.n_kv_heads = 4;
    m.context = LENGTH;
    (void)snprintf(small_path, sizeof small_path, "%s", test_path("small.gguf"));
    small_model_write(&m, small_path);
}

int main(void)
{
    Suite *suite = suite_create("paging");
    TCase *cases = tcase_create("all");
    tcase_set_timeout(cases, 120);
    tcase_add_unchecked_fixture(cases, write_model, NULL);
    tcase_add_loop_test(cases, budgets_do_not_show, 0, (int)(sizeof WAYS / sizeof *WAYS));
    tcase_add_test(cases, too_little_names_what_is_needed);
    tcase_add_loop_test(cases, lost_data_is_computed_again, 0, 2);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
