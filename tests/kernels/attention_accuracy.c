/* SPDX-License-Identifier: Apache-2.0
 *
 * Every level of the CPU, every dtype and layout agrees with the formula in double precision. */
#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "cache.h"

static const uint32_t DIMS[] = {8, 16, 40, 64, 80, 128, 256, 1, 13, 33};
static const uint32_t PAGES[] = {16, 16, 1, 5, 64, 100};

/* Of the worst row: the distance from the reference over the reference's length, which is about √head_dim; where it
 * happens to be near nothing, over half of that. */
static double worst_error(const struct kern_attention_params *p, const struct kern_attention_item *item,
                          const double *want)
{
    double worst = 0;

    for (uint32_t i = 0; i < item->n_queries; i++)
        for (uint32_t h = 0; h < p->n_heads; h++) {
            const size_t at = i * item->out_stride + (size_t)h * p->head_dim;
            double off = 0;
            double length = 0;
            for (uint32_t d = 0; d < p->head_dim; d++) {
                off += pow(item->out[at + d] - want[at + d], 2);
                length += want[at + d] * want[at + d];
            }
            const double error = sqrt(off / fmax(length, 0.25 * p->head_dim));
            if (!(error <= worst))
                worst = error;
        }
    return worst;
}

/* What the arithmetic may lose beside what the cache's dtype lost already. Scores err in proportion to their size. */
static double tolerance(const struct kern_attention_params *p, float sharpness)
{
    const bool bf16_weights = p->dtype == KERN_BF16 && p->isa >= KERN_ISA_AVX512_BF16;

    return (bf16_weights ? 4e-3 : 1e-5) * (1 + sharpness / 4);
}

struct shape {
    struct kern_attention_params p;
    enum cache_layout layout;
    uint32_t page_tokens, first_pos, n_queries;
    float sharpness; /* deviation of the scores */
};

static struct shape random_shape(struct rng *rng)
{
    struct shape s = {0};
    const uint32_t long_ago[] = {0, 40, 1100, 3000};

    /* one draw a statement: the order of evaluation inside one is the compiler's */
    s.p.n_kv_heads = 1 + rng_below(rng, 4);
    s.p.n_heads = s.p.n_kv_heads * (1 + rng_below(rng, 8));
    s.p.head_dim = DIMS[rng_below(rng, sizeof(DIMS) / sizeof(DIMS[0]))];
    s.p.dtype = (enum kern_dtype)rng_below(rng, 3);
    s.layout = (enum cache_layout)rng_below(rng, CACHE_LAYOUTS);
    s.page_tokens = PAGES[rng_below(rng, sizeof(PAGES) / sizeof(PAGES[0]))];
    s.n_queries = rng_below(rng, 2) ? 40 : 3;
    s.n_queries = 1 + rng_below(rng, s.n_queries);
    s.first_pos = long_ago[rng_below(rng, 4)];
    s.first_pos = rng_below(rng, 1 + s.first_pos);
    s.sharpness = rng_below(rng, 3) == 0 ? 40 : 1;
    s.p.scale = s.sharpness / sqrtf((float)s.p.head_dim);
    while ((uint64_t)s.n_queries * s.p.n_heads * (s.first_pos + s.n_queries) * s.p.head_dim > 20000000)
        s.n_queries > 1 ? (s.n_queries /= 2) : (s.first_pos /= 2);
    return s;
}

static void check_shape(const struct shape *s, struct rng *rng, struct kern_pool *pool)
{
    const uint32_t n_tokens = s->first_pos + s->n_queries;
    const size_t kv_row = (size_t)s->p.n_kv_heads * s->p.head_dim;
    const size_t q_row = (size_t)s->p.n_heads * s->p.head_dim;
    float *k = malloc(n_tokens * kv_row * sizeof(float));
    float *v = malloc(n_tokens * kv_row * sizeof(float));
    float *q = malloc(s->n_queries * (q_row + 7) * sizeof(float));
    float *out = malloc(s->n_queries * (q_row + 3) * sizeof(float));
    double *want = malloc(s->n_queries * (q_row + 3) * sizeof(double));
    struct kern_attention_params p = s->p;
    struct cache cache;

    ck_assert(k && v && q && out && want);
    rng_fill(rng, k, n_tokens * kv_row, 1);
    rng_fill(rng, v, n_tokens * kv_row, 1);
    for (size_t i = 0; i < n_tokens * kv_row; i++)
        v[i] += 1; /* so that sums do not cancel: the error is relative to them */
    rng_fill(rng, q, s->n_queries * (q_row + 7), 1);
    cache_open(&cache, s->layout, &p, s->page_tokens, n_tokens);
    cache_fill(&cache, &p, 0, n_tokens, k, v);
    const struct kern_attention_item item = {.k = cache.k,
                                             .v = cache.v,
                                             .first_pos = s->first_pos,
                                             .n_queries = s->n_queries,
                                             .q = q,
                                             .out = out,
                                             .q_stride = q_row + 7,
                                             .out_stride = q_row + 3};
    kern_attention_reference(&p, &item, want);
    for (int isa = KERN_ISA_SCALAR; isa <= (int)kern_isa_best(); isa++) {
        p.isa = (enum kern_isa)isa;
        for (size_t i = 0; i < s->n_queries * (q_row + 3); i++)
            out[i] = NAN;
        ck_assert_int_eq(attend(&p, &item, 1, pool), 0);
        const double error = worst_error(&p, &item, want);
        if (getenv("KVMM_TEST_VERBOSE"))
            printf("%-12s dtype %d error %.2e of %.2e\n", kern_isa_name(p.isa), (int)p.dtype, error,
                   tolerance(&p, s->sharpness));
        ck_assert_msg(error <= tolerance(&p, s->sharpness),
                      "%s: error %g: dtype %d, heads %u/%u of %u, first %u, queries %u, layout %d, page %u, sharp %g",
                      kern_isa_name(p.isa), error, (int)p.dtype, p.n_heads, p.n_kv_heads, p.head_dim, s->first_pos,
                      s->n_queries, (int)s->layout, s->page_tokens, (double)s->sharpness);
    }
    cache_close(&cache);
    free(want);
    free(out);
    free(q);
    free(v);
    free(k);
}

START_TEST(agrees_with_the_reference)
{
    struct rng rng = {.state = (uint64_t)_i + 1};
    struct kern_pool *pool = NULL;

    ck_assert_int_eq(kern_pool_open(1 + (uint32_t)_i % 3, &pool), 0);
    for (int i = 0; i < (int)scaled(12); i++) {
        const struct shape s = random_shape(&rng);
        check_shape(&s, &rng, pool);
    }
    kern_pool_close(&pool);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("attention_accuracy");
    TCase *tcase = tcase_create("random shapes");

    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, agrees_with_the_reference, 0, 8);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
