/* SPDX-License-Identifier: Apache-2.0
 *
 * A query's output has the same bits however the work is cut: in chunks of any size, alone or in a batch, on any number
 * of threads, in any layout; for every level of the CPU and every dtype. */
#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"

#define MAX_THREADS 4

static struct kern_pool *pools[MAX_THREADS]; /* [i] has i + 1 threads */

/* A sequence's numbers, independent of any cache. */
struct sequence {
    struct kern_attention_params p;
    uint32_t first_pos, n_queries; /* of the queries that are looked at; all tokens before are in the cache */
    float *k, *v;                  /* [first_pos + n_queries][kv_row] */
    float *q;                      /* [n_queries][q_row] */
    float *out, *want;             /* as q */
    size_t kv_row, q_row;
};

static float *floats(size_t n)
{
    float *x = malloc(n * sizeof(float));

    ck_assert_ptr_nonnull(x);
    return x;
}

/* Heads of four kinds, so that blocks with all kinds of weights are met, all of them, some of them, none: 0, those that
 * look everywhere; 1, those that look at some keys; 2, those that look a fixed way back, by angles that turn with the
 * position as RoPE's do; 3, those whose keys are nearly the same throughout a block, so that the block's scores are as
 * high as their bound. Most values are 0 in odd dimensions: what is there is of few keys, so that these cannot be lost
 * beside weights many powers of two greater. */
static void make_head(struct sequence *s, struct rng *rng, uint32_t h, uint32_t kind)
{
    const uint32_t dim = s->p.head_dim;
    const uint32_t n_tokens = s->first_pos + s->n_queries;
    const uint32_t group = s->p.n_heads / s->p.n_kv_heads;
    float of_block[16][KERN_MAX_HEAD_DIM];
    const float strength = 10 + (float)rng_below(rng, 200);

    rng_fill(rng, &of_block[0][0], sizeof(of_block) / sizeof(float), 1);
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t d = 0; d < dim; d++) {
            float *k = &s->k[t * s->kv_row + h * dim + d];
            const uint32_t pair = d / 2;
            const float angle = (float)t * powf(4, -(float)pair) + (float)(d % 2) * 1.5707964f;
            if (kind == 1)
                *k *= rng_below(rng, 64) == 0 ? 8.0f : 0.5f;
            else if (kind == 2)
                *k = sinf(angle);
            else if (kind == 3)
                *k = of_block[t / 64 % 16][d] + *k * 0x1p-12f;
            if (d % 2 == 1 && t / 16 % 16 != 5)
                s->v[t * s->kv_row + h * dim + d] = 0;
        }
    if (kind != 2)
        return;
    for (uint32_t i = 0; i < s->n_queries; i++)
        for (uint32_t j = 0; j < group * dim; j++) {
            const uint32_t d = j % dim, pair = d / 2, head = j / dim;
            const float back = (float)(s->first_pos + i) - (float)head * 9;
            s->q[i * s->q_row + h * group * dim + j] =
                strength * sinf(back * powf(4, -(float)pair) + (float)(d % 2) * 1.5707964f);
        }
}

static void sequence_open(struct sequence *s, const struct kern_attention_params *p, uint32_t first_pos,
                          uint32_t n_queries, struct rng *rng)
{
    const uint32_t n_tokens = first_pos + n_queries;

    *s = (struct sequence){.p = *p,
                           .first_pos = first_pos,
                           .n_queries = n_queries,
                           .kv_row = (size_t)p->n_kv_heads * p->head_dim,
                           .q_row = (size_t)p->n_heads * p->head_dim};
    s->k = floats(n_tokens * s->kv_row);
    s->v = floats(n_tokens * s->kv_row);
    s->q = floats(n_queries * s->q_row);
    s->out = floats(n_queries * s->q_row);
    s->want = floats(n_queries * s->q_row);
    rng_fill(rng, s->k, n_tokens * s->kv_row, 1);
    rng_fill(rng, s->v, n_tokens * s->kv_row, 1);
    rng_fill(rng, s->q, n_queries * s->q_row, 1);
    for (uint32_t h = 0; h < p->n_kv_heads; h++)
        make_head(s, rng, h, rng_below(rng, 4));
}

static void sequence_close(struct sequence *s)
{
    free(s->want);
    free(s->out);
    free(s->q);
    free(s->v);
    free(s->k);
}

static void sequence_cache(const struct sequence *s, enum cache_layout layout, uint32_t page_tokens,
                           struct cache *cache)
{
    const uint32_t n_tokens = s->first_pos + s->n_queries;

    cache_open(cache, layout, &s->p, page_tokens, n_tokens);
    cache_fill(cache, &s->p, 0, n_tokens, s->k, s->v);
}

/* Queries [from, from + n) of s. */
static struct kern_attention_item part_of(const struct sequence *s, const struct cache *cache, uint32_t from,
                                          uint32_t n, float *out)
{
    return (struct kern_attention_item){.k = cache->k,
                                        .v = cache->v,
                                        .first_pos = s->first_pos + from,
                                        .n_queries = n,
                                        .q = s->q + from * s->q_row,
                                        .out = out + from * s->q_row,
                                        .q_stride = s->q_row,
                                        .out_stride = s->q_row};
}

static void forget(struct sequence *s)
{
    for (size_t i = 0; i < s->n_queries * s->q_row; i++)
        s->out[i] = NAN;
}

static void same_bits(const struct sequence *s, const char *what, uint32_t which)
{
    const size_t n = s->n_queries * s->q_row;
    size_t i = 0;

    while (i < n && memcmp((const void *)&s->out[i], (const void *)&s->want[i], sizeof(float)) == 0)
        i++;
    ck_assert_msg(i == n, "%s %u on %s, dtype %d, heads %u/%u of %u, first %u, queries %u: query %zu", what, which,
                  kern_isa_name(s->p.isa), (int)s->p.dtype, s->p.n_heads, s->p.n_kv_heads, s->p.head_dim, s->first_pos,
                  s->n_queries, i / s->q_row);
}

/* The result to compare with: all queries at once, one thread. */
static void decide(struct sequence *s, const struct cache *cache)
{
    const struct kern_attention_item item = part_of(s, cache, 0, s->n_queries, s->want);

    ck_assert_int_eq(attend(&s->p, &item, 1, NULL), 0);
    bool finite = true;
    for (size_t i = 0; i < s->n_queries * s->q_row; i++)
        finite = finite && isfinite(s->want[i]);
    ck_assert(finite);
}

static void check_chunks(struct sequence *s, const struct cache *cache)
{
    static const uint32_t chunks[] = {1, 7, 16, 512};

    for (size_t c = 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
        forget(s);
        for (uint32_t from = 0, i = 0; from < s->n_queries; from += chunks[c], i++) {
            const uint32_t left = s->n_queries - from;
            const struct kern_attention_item item =
                part_of(s, cache, from, left < chunks[c] ? left : chunks[c], s->out);
            ck_assert_int_eq(attend(&s->p, &item, 1, pools[i % MAX_THREADS]), 0);
        }
        same_bits(s, "chunks of", chunks[c]);
    }
}

static void check_threads(struct sequence *s, const struct cache *cache)
{
    for (uint32_t n = 1; n <= MAX_THREADS; n++) {
        const struct kern_attention_item item = part_of(s, cache, 0, s->n_queries, s->out);
        forget(s);
        ck_assert_int_eq(attend(&s->p, &item, 1, pools[n - 1]), 0);
        same_bits(s, "threads", n);
    }
}

static void check_layouts(struct sequence *s)
{
    for (int layout = 0; layout < CACHE_LAYOUTS; layout++)
        for (uint32_t page_tokens = 16; page_tokens <= 48; page_tokens += 27) {
            struct cache cache;
            if (layout == CACHE_FENCED && s->first_pos > 300)
                continue;
            sequence_cache(s, (enum cache_layout)layout, page_tokens, &cache);
            const struct kern_attention_item item = part_of(s, &cache, 0, s->n_queries, s->out);
            forget(s);
            ck_assert_int_eq(attend(&s->p, &item, 1, pools[1]), 0);
            same_bits(s, "layout", (uint32_t)layout);
            cache_close(&cache);
        }
}

/* The sequence's queries, cut in three, in one batch with another's. */
static void check_batch(struct sequence *s, const struct cache *cache, struct rng *rng)
{
    struct sequence other;
    struct cache other_cache;
    struct kern_attention_item items[5];
    size_t n = 0;

    const uint32_t other_first = rng_below(rng, 1500);
    const uint32_t other_queries = 1 + rng_below(rng, 20);
    sequence_open(&other, &s->p, other_first, other_queries, rng);
    sequence_cache(&other, CACHE_TOKEN_MAJOR, 16, &other_cache);
    items[n++] = part_of(&other, &other_cache, 0, other.n_queries, other.out);
    uint32_t from = 0;
    for (uint32_t i = 0; i < 3; i++) {
        const uint32_t end = i == 2 ? s->n_queries : from + rng_below(rng, s->n_queries - from + 1);
        if (end > from)
            items[n++] = part_of(s, cache, from, end - from, s->out);
        from = end;
        if (i == 0)
            items[n++] = part_of(&other, &other_cache, 0, 1, other.want);
    }
    forget(s);
    forget(&other);
    ck_assert_int_eq(attend(&s->p, items, n, pools[2]), 0);
    same_bits(s, "batch of", (uint32_t)n);
    ck_assert_msg(memcmp(other.out, other.want, other.q_row * sizeof(float)) == 0, "the same query twice in a batch");
    decide(&other, &other_cache);
    same_bits(&other, "batch beside", (uint32_t)n);
    cache_close(&other_cache);
    sequence_close(&other);
}

static void check_sequence(const struct kern_attention_params *p, uint32_t first_pos, uint32_t n_queries,
                           struct rng *rng)
{
    struct sequence s;
    struct cache cache;

    sequence_open(&s, p, first_pos, n_queries, rng);
    sequence_cache(&s, CACHE_PAGE_MAJOR, 16, &cache);
    for (int isa = 0; isa <= (int)kern_isa_best(); isa++) {
        s.p.isa = (enum kern_isa)isa;
        decide(&s, &cache);
        check_chunks(&s, &cache);
        check_threads(&s, &cache);
        check_layouts(&s);
        check_batch(&s, &cache, rng);
    }
    cache_close(&cache);
    sequence_close(&s);
}

static struct kern_attention_params random_params(struct rng *rng, uint32_t max_group)
{
    static const uint32_t dims[] = {8, 16, 40, 64, 80, 128, 256, 13};
    struct kern_attention_params p = {0};

    /* one draw a statement: the order of evaluation inside one is the compiler's */
    p.n_kv_heads = 1 + rng_below(rng, 3);
    p.head_dim = dims[rng_below(rng, 8)];
    p.dtype = (enum kern_dtype)rng_below(rng, 3);
    p.n_heads = p.n_kv_heads * (1 + rng_below(rng, max_group));
    /* sharp ones make blocks that weigh nothing, and rows whose maximum moves */
    p.scale = (rng_below(rng, 2) ? 1.0f : 20.0f) / sqrtf((float)p.head_dim);
    return p;
}

START_TEST(short_sequences)
{
    struct rng rng = {.state = 1000 + (uint64_t)_i};

    for (int i = 0; i < (int)scaled(8); i++) {
        const struct kern_attention_params p = random_params(&rng, 8);
        const uint32_t n_queries = 1 + rng_below(&rng, 150);
        const uint32_t first_pos = rng_below(&rng, 200);
        check_sequence(&p, first_pos < 100 ? 0 : first_pos, n_queries, &rng);
    }
}
END_TEST

/* Over the bounds of splits, with more rows than a tile. */
START_TEST(long_sequences)
{
    struct rng rng = {.state = 2000 + (uint64_t)_i};

    for (int i = 0; i < (int)scaled(2); i++) {
        struct kern_attention_params p = random_params(&rng, 2);
        p.head_dim = p.head_dim > 80 ? 64 : p.head_dim;
        const uint32_t bound = KERN_SPLIT * (1 + rng_below(&rng, 3));
        const uint32_t n_queries = 1 + rng_below(&rng, 530);
        const uint32_t before = rng_below(&rng, n_queries + 3);
        check_sequence(&p, bound - (before < bound ? before : bound), n_queries, &rng);
    }
}
END_TEST

/* The size of scratch must hold for fewer threads than it was asked for. */
START_TEST(fewer_threads_than_scratch)
{
    struct rng rng = {.state = 7};
    const struct kern_attention_params p = {
        .n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .dtype = KERN_F16, .isa = kern_isa_best(), .scale = 0.125f};
    struct sequence s;
    struct cache cache;

    sequence_open(&s, &p, 3000, 1, &rng);
    sequence_cache(&s, CACHE_PAGE_MAJOR, 16, &cache);
    decide(&s, &cache);
    const struct kern_attention_item item = part_of(&s, &cache, 0, 1, s.out);
    for (uint32_t n = 1; n <= MAX_THREADS; n++) {
        const size_t bytes = kern_attention_scratch(&p, &item, 1, MAX_THREADS);
        void *scratch = aligned_alloc(64, bytes);
        ck_assert_ptr_nonnull(scratch);
        forget(&s);
        ck_assert_int_eq(kern_attention(&p, &item, 1, scratch, pools[n - 1]), 0);
        same_bits(&s, "threads", n);
        free(scratch);
    }
    cache_close(&cache);
    sequence_close(&s);
}
END_TEST

static void open_pools(void)
{
    for (uint32_t n = 1; n <= MAX_THREADS; n++)
        ck_assert_int_eq(kern_pool_open(n, &pools[n - 1]), 0);
}

static void close_pools(void)
{
    for (uint32_t n = 1; n <= MAX_THREADS; n++)
        kern_pool_close(&pools[n - 1]);
}

int main(void)
{
    Suite *suite = suite_create("attention_invariance");
    TCase *tcase = tcase_create("bits");

    tcase_set_timeout(tcase, 300);
    tcase_add_checked_fixture(tcase, open_pools, close_pools);
    tcase_add_loop_test(tcase, short_sequences, 0, 4);
    tcase_add_loop_test(tcase, long_sequences, 0, 4);
    tcase_add_test(tcase, fewer_threads_than_scratch);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
