/* SPDX-License-Identifier: Apache-2.0
 *
 * A matrix product's bits for a token depend on the token and the matrix alone. Run once for each BLAS kernel that this
 * CPU can run (OPENBLAS_CORETYPE), because the tiles are chosen by what the kernel does. */
#include "matmul.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dequant.h"
#include "engine_support.h"

#define MAX_TOKENS 300

struct product {
    uint32_t in, out;
    enum gguf_type type;
};

static const struct product PRODUCTS[] = {
    {64, 512, GGUF_F32},   {64, 172, GGUF_F32},  {172, 64, GGUF_F32},  {1, 1, GGUF_F32},      {7, 5, GGUF_F32},
    {333, 65, GGUF_F32},   {96, 129, GGUF_F16},  {288, 51, GGUF_BF16}, {320, 100, GGUF_Q8_0}, {1024, 80, GGUF_Q8_0},
    {2048, 70, GGUF_BF16}, {5632, 33, GGUF_F16}, {4096, 19, GGUF_F32}, {32768, 6, GGUF_F16},
};
#define N_PRODUCTS (int)(sizeof PRODUCTS / sizeof *PRODUCTS)

#define MAX_THREADS 3

struct setting {
    struct matmul_plan plan;
    struct gguf_tensor w;
    struct kern_pool *pool[MAX_THREADS]; /* of 1 … threads */
    struct matmul *mm[MAX_THREADS];
    float *x; /* [MAX_TOKENS][in] */
    void *weights;
};

static void set_up(const struct product *p, struct setting *s)
{
    uint64_t state = p->in * 31 + p->out;
    ck_assert_int_eq(matmul_plan_make(p->in, p->out, &s->plan), 0);
    s->weights = test_random_elements(p->type, (size_t)p->in * p->out, 1, &state);
    s->w = (struct gguf_tensor){.type = p->type, .n_dims = 2, .dims = {p->in, p->out, 1, 1}, .data = s->weights};
    s->x = test_random_elements(GGUF_F32, (size_t)MAX_TOKENS * p->in, 1, &state);
    for (uint32_t i = 0; i < MAX_THREADS; i++) {
        ck_assert_int_eq(kern_pool_open(i + 1, &s->pool[i]), 0);
        ck_assert_int_eq(matmul_open(s->pool[i], p->in, &s->mm[i]), 0);
    }
}

static void tear_down(struct setting *s)
{
    for (uint32_t i = 0; i < MAX_THREADS; i++) {
        matmul_close(&s->mm[i]);
        kern_pool_close(&s->pool[i]);
    }
    free(s->weights);
    free(s->x);
}

/* Tokens [from, from + n) of X in one call on that many threads. y: [n][out]. */
static void multiply(const struct setting *s, uint32_t threads, uint32_t from, uint32_t n, float *y)
{
    struct matmul_job job = {.plan = &s->plan, .w = &s->w, .y_stride = s->plan.out};
    job.y = y;
    matmul_run(s->mm[threads - 1], &job, 1, s->x + (size_t)from * s->plan.in, s->plan.in, n);
}

START_TEST(bits_do_not_depend_on_the_cut)
{
    struct setting s;
    set_up(&PRODUCTS[_i], &s);
    const size_t out = s.plan.out;
    float *all = malloc(MAX_TOKENS * out * sizeof *all), *part = malloc(MAX_TOKENS * out * sizeof *part);
    ck_assert(all && part);
    multiply(&s, 1, 0, MAX_TOKENS, all);

    static const uint32_t cuts[] = {1, 2, 3, 5, 7, 16, 127, 128, 129, 299};
    for (size_t k = 0; k < sizeof cuts / sizeof *cuts; k++) {
        for (uint32_t from = 0; from < MAX_TOKENS; from += cuts[k]) {
            uint32_t n = MAX_TOKENS - from < cuts[k] ? MAX_TOKENS - from : cuts[k];
            multiply(&s, 1 + from % 3, from, n, part);
            ck_assert_msg(memcmp(part, all + from * out, n * out * sizeof *all) == 0,
                          "%u × %zu: tokens %u … in a call of %u differ", s.plan.in, out, from, n);
            if (cuts[k] < 5 && from > 20)
                break;
        }
    }
    free(all);
    free(part);
    tear_down(&s);
}
END_TEST

START_TEST(the_same_token_in_each_place)
{
    struct setting s;
    set_up(&PRODUCTS[_i], &s);
    const size_t out = s.plan.out, in = s.plan.in;
    for (uint32_t t = 1; t < 40; t++)
        memcpy(s.x + t * in, s.x, in * sizeof *s.x);
    float *y = malloc(40 * out * sizeof *y);
    ck_assert_ptr_nonnull(y);
    multiply(&s, 2, 0, 40, y);
    for (uint32_t t = 1; t < 40; t++)
        ck_assert_msg(memcmp(y, y + t * out, out * sizeof *y) == 0, "%zu × %zu: token %u differs", in, out, t);
    free(y);
    tear_down(&s);
}
END_TEST

START_TEST(equals_the_sum_in_double)
{
    struct setting s;
    set_up(&PRODUCTS[_i], &s);
    const uint32_t in = s.plan.in, out = s.plan.out, n = 5;
    float *y = malloc((size_t)n * out * sizeof *y), *row = malloc(in * sizeof *row);
    ck_assert(y && row);
    multiply(&s, 2, 3, n, y);
    for (uint32_t r = 0; r < out; r++) {
        engine_dequant(s.w.type, (const char *)s.weights + r * gguf_type_bytes(s.w.type, in), in, row);
        for (uint32_t t = 0; t < n; t++) {
            double sum = 0, magnitude = 0;
            for (uint32_t i = 0; i < in; i++) {
                double term = (double)row[i] * (double)s.x[(3 + t) * (size_t)in + i];
                sum += term;
                magnitude += fabs(term);
            }
            ck_assert_double_le(fabs((double)y[(size_t)t * out + r] - sum), 1e-6 * magnitude + 1e-30);
        }
    }
    free(y);
    free(row);
    tear_down(&s);
}
END_TEST

START_TEST(several_matrices_at_once)
{
    struct setting a, b;
    set_up(&PRODUCTS[0], &a); /* 64 × 512 */
    set_up(&PRODUCTS[1], &b); /* 64 × 172 */
    static float want_a[9 * 512], want_b[9 * 172], y[9 * 700];
    multiply(&a, 1, 0, 9, want_a);
    memcpy(b.x, a.x, (size_t)9 * 64 * sizeof *a.x);
    multiply(&b, 1, 0, 9, want_b);
    const struct matmul_job jobs[] = {{.plan = &a.plan, .w = &a.w, .y = y, .y_stride = 700},
                                      {.plan = &b.plan, .w = &b.w, .y = y + 520, .y_stride = 700}};
    for (size_t i = 0; i < sizeof y / sizeof *y; i++)
        y[i] = 77;
    matmul_run(a.mm[2], jobs, 2, a.x, 64, 9);
    for (uint32_t t = 0; t < 9; t++) {
        ck_assert_mem_eq(y + t * 700, want_a + t * 512, 512 * sizeof *y);
        ck_assert_mem_eq(y + t * 700 + 520, want_b + t * 172, 172 * sizeof *y);
        for (uint32_t i = 0; i < 8; i++) /* between and behind the outputs */
            ck_assert(y[t * 700 + 512 + i] == 77 && y[t * 700 + 692 + i] == 77);
    }
    tear_down(&a);
    tear_down(&b);
}
END_TEST

int main(void)
{
    const char *core = getenv("OPENBLAS_CORETYPE");
    if (core && strcmp(core, "Haswell") == 0 && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) {
        (void)puts("skipped: this CPU can't run OpenBLAS's Haswell kernels");
        return 77;
    }
    Suite *suite = suite_create("matmul");
    TCase *cases = tcase_create("all");
    tcase_set_timeout(cases, 60);
    tcase_add_loop_test(cases, bits_do_not_depend_on_the_cut, 0, N_PRODUCTS);
    tcase_add_loop_test(cases, the_same_token_in_each_place, 0, N_PRODUCTS);
    tcase_add_loop_test(cases, equals_the_sum_in_double, 0, N_PRODUCTS);
    tcase_add_test(cases, several_matrices_at_once);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
