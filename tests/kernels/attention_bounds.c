/* SPDX-License-Identifier: Apache-2.0
 *
 * What a query may not see does not touch its result; what is not a number and is seen, shows; parameters out of their
 * bounds are refused. That nothing beside the tokens' rows is read at all is held by the caches of the other suites too:
 * see cache.h. */
#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"

#define HEADS    4
#define KV_HEADS 2
#define DIM      40
#define TOKENS   150

struct scene {
    struct kern_attention_params p;
    struct cache cache;
    float k[TOKENS][KV_HEADS * DIM], v[TOKENS][KV_HEADS * DIM];
    float q[TOKENS][HEADS * DIM], out[TOKENS][HEADS * DIM], before[TOKENS][HEADS * DIM];
};

static struct scene scene;

/* Tests are numbered level by level, dtype by dtype. */
static void scene_open(struct scene *s, int number)
{
    struct rng rng = {.state = 99};

    s->p = (struct kern_attention_params){.n_heads = HEADS,
                                          .n_kv_heads = KV_HEADS,
                                          .head_dim = DIM,
                                          .dtype = (enum kern_dtype)(number % 3),
                                          .isa = (enum kern_isa)(number / 3),
                                          .scale = 0.2f};
    rng_fill(&rng, s->k[0], sizeof(s->k) / sizeof(float), 1);
    rng_fill(&rng, s->v[0], sizeof(s->v) / sizeof(float), 1);
    rng_fill(&rng, s->q[0], sizeof(s->q) / sizeof(float), 1);
    cache_open(&s->cache, CACHE_PAGE_MAJOR, &s->p, 16, TOKENS);
    cache_fill(&s->cache, &s->p, 0, TOKENS, s->k[0], s->v[0]);
}

static struct kern_attention_item scene_item(struct scene *s)
{
    return (struct kern_attention_item){.k = s->cache.k,
                                        .v = s->cache.v,
                                        .n_queries = TOKENS,
                                        .q = s->q[0],
                                        .out = s->out[0],
                                        .q_stride = HEADS * DIM,
                                        .out_stride = HEADS * DIM};
}

static void scene_run(struct scene *s)
{
    const struct kern_attention_item item = scene_item(s);

    ck_assert_int_eq(attend(&s->p, &item, 1, NULL), 0);
}

/* Of token t's result, the head's part of it that reads kv_head. */
static bool all_nan(const struct scene *s, uint32_t t, uint32_t kv_head)
{
    const uint32_t width = HEADS / KV_HEADS * DIM;

    for (uint32_t i = kv_head * width; i < (kv_head + 1) * width; i++)
        if (!isnan(s->out[t][i]))
            return false;
    return true;
}

static bool same_as_before(const struct scene *s, uint32_t t)
{
    return memcmp((const void *)s->out[t], (const void *)s->before[t], sizeof(s->out[t])) == 0; /* bits */
}

static void spoil(struct scene *s, uint32_t at, bool in_k, float value)
{
    float row[KV_HEADS * DIM];

    memcpy(row, in_k ? s->k[at] : s->v[at], sizeof(row));
    for (uint32_t d = 0; d < DIM; d++)
        row[DIM + d] = value;
    if (in_k)
        cache_fill(&s->cache, &s->p, at, 1, row, s->v[at]);
    else
        cache_fill(&s->cache, &s->p, at, 1, s->k[at], row);
}

static void check_spoilt(struct scene *s, uint32_t at, bool in_k)
{
    memcpy(s->before, s->out, sizeof(s->out));
    spoil(s, at, in_k, NAN);
    scene_run(s);
    for (uint32_t t = 0; t < TOKENS; t++) {
        if (t < at ? !same_as_before(s, t) : !all_nan(s, t, 1) || all_nan(s, t, 0))
            ck_abort_msg("a NaN in %c of token %u: query %u", in_k ? 'K' : 'V', at, t);
    }
    cache_fill(&s->cache, &s->p, at, 1, s->k[at], s->v[at]);
    scene_run(s);
    ck_assert_msg(memcmp((const void *)s->out, (const void *)s->before, sizeof(s->out)) == 0,
                  "the same cache, another result");
}

/* A NaN shows in all queries from its token on, and in none before, though they share a call, a tile and a block. */
START_TEST(nan_reaches_those_that_see_it)
{
    scene_open(&scene, _i);
    scene_run(&scene);
    for (uint32_t at = 0; at < TOKENS; at += 13) {
        check_spoilt(&scene, at, true);
        check_spoilt(&scene, at, false);
    }
    cache_close(&scene.cache);
}
END_TEST

START_TEST(nan_in_a_query_is_its_own)
{
    scene_open(&scene, _i);
    scene_run(&scene);
    memcpy(scene.before, scene.out, sizeof(scene.out));
    scene.q[77][HEADS * DIM - 1] = NAN;
    scene_run(&scene);
    for (uint32_t t = 0; t < TOKENS; t++)
        if (t != 77 && !same_as_before(&scene, t))
            ck_abort_msg("query %u", t);
    for (uint32_t i = 0; i < HEADS * DIM; i++)
        ck_assert(isnan(scene.out[77][i]) == (i >= (HEADS - 1) * DIM));
    cache_close(&scene.cache);
}
END_TEST

/* A score of -∞ weighs nothing, also where a whole block, or the first one looked at, is such; one of +∞ is no answer. */
START_TEST(infinite_scores)
{
    scene_open(&scene, _i);
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t i = 0; i < HEADS * DIM; i++)
            scene.q[t][i] = 1e36f * (fabsf(scene.q[t][i]) + 0.1f);
    for (uint32_t at = 5; at < TOKENS; at++)
        spoil(&scene, at, true, -60000); /* every product overflows */
    scene_run(&scene);
    for (uint32_t t = 5; t < TOKENS; t++) { /* a mean of the first five tokens' values */
        ck_assert(!all_nan(&scene, t, 1));
        for (uint32_t i = HEADS / 2 * DIM; i < HEADS * DIM; i++)
            if (!(fabsf(scene.out[t][i]) < 4))
                ck_abort_msg("query %u: %g", t, (double)scene.out[t][i]);
    }
    spoil(&scene, 0, true, 60000);
    scene_run(&scene);
    for (uint32_t t = 0; t < TOKENS; t++)
        ck_assert(all_nan(&scene, t, 1));
    cache_close(&scene.cache);
}
END_TEST

/* A cache of zeros and a query of zeros: all keys weigh the same. */
START_TEST(equal_scores_give_the_mean)
{
    scene_open(&scene, _i);
    memset(scene.q, 0, sizeof(scene.q));
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t i = 0; i < KV_HEADS * DIM; i++)
            scene.v[t][i] = (float)(t % 2);
    cache_fill(&scene.cache, &scene.p, 0, TOKENS, scene.k[0], scene.v[0]);
    scene_run(&scene);
    for (uint32_t t = 0; t < TOKENS; t++) {
        const uint32_t n_ones = (t + 1) / 2;
        const float mean = (float)n_ones / (float)(t + 1);
        for (uint32_t i = 0; i < HEADS * DIM; i++)
            if (fabsf(scene.out[t][i] - mean) > 1e-6f)
                ck_abort_msg("query %u: %g, not %g", t, (double)scene.out[t][i], (double)mean);
    }
    cache_close(&scene.cache);
}
END_TEST

/* Every row of a token ends where the memory behind it cannot be read. */
static void check_fenced(const struct kern_attention_params *p, uint32_t first_pos, uint32_t n_queries)
{
    const size_t row = (size_t)p->n_heads * p->head_dim;
    const struct kern_attention_item item = {.first_pos = first_pos,
                                             .n_queries = n_queries,
                                             .q = scene.q[0],
                                             .out = scene.out[0],
                                             .q_stride = row,
                                             .out_stride = row};
    struct kern_attention_item fenced = item;
    struct cache cache;
    bool finite = true;

    cache_open(&cache, CACHE_FENCED, p, 16, first_pos + n_queries);
    for (uint32_t t = 0; t < first_pos + n_queries; t++)
        cache_fill(&cache, p, t, 1, scene.k[t % TOKENS], scene.v[t % TOKENS]);
    fenced.k = cache.k;
    fenced.v = cache.v;
    ck_assert_int_eq(attend(p, &fenced, 1, NULL), 0);
    for (size_t i = 0; i < n_queries * row; i++)
        finite = finite && isfinite(item.out[i]);
    ck_assert_msg(finite, "%s, dtype %d, heads %u of %u, queries %u", kern_isa_name(p->isa), (int)p->dtype, p->n_heads,
                  p->head_dim, n_queries);
    cache_close(&cache);
}

START_TEST(nothing_behind_a_row_is_read)
{
    static const uint32_t dims[] = {1, 4, 8, 12, 13, 16, 20, 24, 32, 40, 72, 80};

    scene_open(&scene, _i);
    cache_close(&scene.cache);
    for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++)
        for (uint32_t heads = 1; heads <= 2; heads++) {
            struct kern_attention_params p = scene.p;
            p.n_kv_heads = 1;
            p.n_heads = heads;
            p.head_dim = dims[i];
            check_fenced(&p, 70, 1);
            check_fenced(&p, 140, 1);
            check_fenced(&p, 127, 3);
            check_fenced(&p, 0, 70);
        }
}
END_TEST

static int run_params(const struct kern_attention_params *p, const struct kern_attention_item *item)
{
    static _Alignas(64) uint8_t scratch[4 << 20];
    const size_t bytes = kern_attention_scratch(p, item, 1, 1);
    const int rc = kern_attention(p, item, 1, scratch, NULL);

    ck_assert(bytes <= sizeof(scratch));
    ck_assert_msg((rc == 0) == (bytes != 0), "kern_attention() says %d, kern_attention_scratch() %zu", rc, bytes);
    return rc;
}

START_TEST(bad_parameters_are_refused)
{
    scene_open(&scene, 0);
    const struct kern_attention_item good = scene_item(&scene);
    ck_assert_int_eq(run_params(&scene.p, &good), 0);

#define REFUSED_PARAM(change)                                                                                          \
    do {                                                                                                               \
        struct kern_attention_params p = scene.p;                                                                      \
        p.change;                                                                                                      \
        ck_assert_int_eq(run_params(&p, &good), -EINVAL);                                                              \
    } while (0)
#define REFUSED_ITEM(change)                                                                                           \
    do {                                                                                                               \
        struct kern_attention_item item = good;                                                                        \
        item.change;                                                                                                   \
        ck_assert_int_eq(run_params(&scene.p, &item), -EINVAL);                                                        \
    } while (0)

    REFUSED_PARAM(n_heads = 0);
    REFUSED_PARAM(n_kv_heads = 0);
    REFUSED_PARAM(n_kv_heads = 3);
    REFUSED_PARAM(n_heads = 1);
    REFUSED_PARAM(head_dim = 0);
    REFUSED_PARAM(head_dim = KERN_MAX_HEAD_DIM + 1);
    REFUSED_PARAM(dtype = (enum kern_dtype)3);
    REFUSED_PARAM(isa = (enum kern_isa)((int)kern_isa_best() + 1));
    REFUSED_PARAM(isa = (enum kern_isa)100);
    REFUSED_ITEM(k.base = NULL);
    REFUSED_ITEM(v.base = NULL);
    REFUSED_ITEM(k.page_tokens = 0);
    REFUSED_ITEM(v.page_tokens = 0);
    REFUSED_ITEM(n_queries = 0);
    REFUSED_ITEM(q = NULL);
    REFUSED_ITEM(out = NULL);
    REFUSED_ITEM(q_stride = HEADS * DIM - 1);
    REFUSED_ITEM(out_stride = HEADS * DIM - 1);
    REFUSED_ITEM(first_pos = UINT32_MAX - 3);
    REFUSED_ITEM(n_queries = UINT32_MAX);
    cache_close(&scene.cache);
}
END_TEST

START_TEST(bad_scratch_is_refused)
{
    static _Alignas(64) uint8_t scratch[4 << 20];

    scene_open(&scene, 0);
    const struct kern_attention_item item = scene_item(&scene);
    ck_assert_int_eq(kern_attention(&scene.p, &item, 1, NULL, NULL), -EINVAL);
    ck_assert_int_eq(kern_attention(&scene.p, &item, 1, scratch + 32, NULL), -EINVAL);
    ck_assert_int_eq(kern_attention(&scene.p, &item, 1, scratch, NULL), 0);
    ck_assert_int_eq(kern_attention(&scene.p, &item, 0, scratch, NULL), 0);
    ck_assert_int_eq(kern_attention(&scene.p, NULL, 0, NULL, NULL), 0);
    cache_close(&scene.cache);
}
END_TEST

START_TEST(levels_have_names)
{
    ck_assert_str_eq(kern_isa_name(KERN_ISA_SCALAR), "scalar");
    ck_assert_str_eq(kern_isa_name(KERN_ISA_AVX2), "avx2");
    ck_assert_str_eq(kern_isa_name(KERN_ISA_AVX512), "avx512");
    ck_assert_str_eq(kern_isa_name(KERN_ISA_AVX512_BF16), "avx512_bf16");
    ck_assert_str_eq(kern_isa_name(KERN_ISA_AVX512_FP16), "avx512_fp16");
    ck_assert_str_eq(kern_isa_name((enum kern_isa)99), "unknown");
    ck_assert_int_le(kern_isa_best(), KERN_ISA_AVX512_FP16);
    ck_assert_int_eq(kern_isa_best(), kern_isa_best());
}
END_TEST

int main(void)
{
    const int levels = ((int)kern_isa_best() + 1) * 3;
    Suite *suite = suite_create("attention_bounds");
    TCase *tcase = tcase_create("bounds");

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, nan_reaches_those_that_see_it, 0, levels);
    tcase_add_loop_test(tcase, nan_in_a_query_is_its_own, 0, levels);
    tcase_add_loop_test(tcase, infinite_scores, 0, levels);
    tcase_add_loop_test(tcase, equal_scores_give_the_mean, 0, levels);
    tcase_add_loop_test(tcase, nothing_behind_a_row_is_read, 0, levels);
    tcase_add_test(tcase, bad_parameters_are_refused);
    tcase_add_test(tcase, bad_scratch_is_refused);
    tcase_add_test(tcase, levels_have_names);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
