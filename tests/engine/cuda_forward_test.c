/* SPDX-License-Identifier: Apache-2.0
 *
 * A pass on a GPU computes what a pass on the CPU computes, over any strides, types and mix of sequences; decoding is
 * captured once, whatever grows in between. Without a memory manager: plain memory stands for the ranges. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_support.h"
#include "engine_support.h"
#include "forward_cpu.h"
#include "forward_cuda.h"
#include "kernels/convert.h"

enum { MAX_TOKENS = 128, MAX_SEQS = 4, CHUNK = 64 };

static struct engine_error err;

/* ---- the same sequences twice -------------------------------------------------------------------------------- */

/* A sequence on both devices. */
struct twin {
    engine_token tokens[MAX_TOKENS];
    uint32_t length; /* tokens computed */
    uint64_t device;
    char *host;
    float *want, *got; /* logits */
};

struct twins {
    struct model *model;
    struct kern_pool *pool;
    struct forward *cpu, *gpu;
    struct kvmm_layout layout; /* without the base */
    struct twin at[MAX_SEQS];
};

enum strides { PAGE_MAJOR, TOKEN_MAJOR, LAYER_MAJOR, ODD, N_STRIDES };

/* The strides of vmm/layout.c, and odd ones that no vector fits. */
static struct kvmm_layout layout_of(const struct model *m, enum strides kind, enum kvmm_dtype type)
{
    struct kvmm_layout l = {.elem_bytes = kvmm_dtype_bytes(type), .page_tokens = 16, .n_groups = 1};
    const size_t row = m->head_dim * l.elem_bytes, pad = kind == ODD ? l.elem_bytes : 0;
    l.layers_per_group = kind == LAYER_MAJOR ? 2 : m->n_layers;
    l.n_groups = (m->n_layers + l.layers_per_group - 1) / l.layers_per_group;
    l.token_stride = row + pad;
    l.head_stride = 16 * l.token_stride + pad;
    l.kv_stride = m->n_kv_heads * l.head_stride;
    l.layer_stride = 2 * l.kv_stride;
    l.page_stride = l.layers_per_group * l.layer_stride;
    if (kind == TOKEN_MAJOR) {
        l.head_stride = row;
        l.kv_stride = m->n_kv_heads * row;
        l.layer_stride = 2 * l.kv_stride;
        l.token_stride = m->n_layers * l.layer_stride;
        l.page_stride = 16 * l.token_stride;
    }
    l.group_stride = (MAX_TOKENS / 16 * l.page_stride + 4095) / 4096 * 4096;
    return l;
}

static void open_twins(struct twins *t, const char *path, enum strides kind, enum kvmm_dtype type)
{
    *t = (struct twins){0};
    ASSERT_OK(model_open(path, &t->model, &err), err);
    ck_assert_int_eq(kern_pool_open(2, &t->pool), 0);
    ASSERT_OK(forward_cpu_open(t->model, t->pool, type, CHUNK, &t->cpu, &err), err);
    ASSERT_OK(forward_cuda_open(t->model, t->pool, 0, type, CHUNK, NULL, NULL, &t->gpu, &err), err);
    t->layout = layout_of(t->model, kind, type);
    const size_t bytes = t->layout.n_groups * t->layout.group_stride;
    for (uint32_t i = 0; i < MAX_SEQS; i++) {
        struct twin *s = &t->at[i];
        uint64_t state = i + 1;
        for (uint32_t k = 0; k < MAX_TOKENS; k++)
            s->tokens[k] = (engine_token)(test_random(&state) % t->model->n_vocab);
        s->device = cuda_test_alloc(bytes);
        s->host = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
        s->want = calloc(t->model->n_vocab, sizeof *s->want);
        s->got = calloc(t->model->n_vocab, sizeof *s->got);
        ck_assert(s->host && s->want && s->got);
        memset(s->host, 0, bytes);
    }
}

static void close_twins(struct twins *t)
{
    for (uint32_t i = 0; i < MAX_SEQS; i++) {
        cuda_test_free(t->at[i].device);
        free(t->at[i].host);
        free(t->at[i].want);
        free(t->at[i].got);
    }
    forward_close(&t->gpu);
    forward_close(&t->cpu);
    kern_pool_close(&t->pool);
    model_close(&t->model);
}

/* n[i] tokens of sequence i, 0: it is not in the pass. */
static uint32_t fill_items(struct twins *t, const uint32_t *n, bool on_gpu, bool logits, struct forward_item *items)
{
    uint32_t n_items = 0;
    for (uint32_t i = 0; i < MAX_SEQS; i++) {
        struct twin *s = &t->at[i];
        if (n[i] == 0)
            continue;
        items[n_items] = (struct forward_item){
            .layout = t->layout, .tokens = s->tokens + s->length, .n_tokens = n[i], .first_pos = s->length};
        items[n_items].layout.base = on_gpu ? cuda_test_pointer(s->device) : s->host;
        if (logits)
            items[n_items].logits = on_gpu ? s->got : s->want;
        n_items++;
    }
    return n_items;
}

static void run_on(struct forward *f, struct twins *t, const uint32_t *n, bool logits)
{
    struct forward_item items[MAX_SEQS];
    const uint32_t n_items = fill_items(t, n, f == t->gpu, logits, items);
    ASSERT_OK(forward_queue(f, items, n_items, &err), err);
    ASSERT_OK(forward_wait(f, &err), err);
}

static void compare(const struct twins *t, const uint32_t *n, double tolerance, const char *what)
{
    for (uint32_t i = 0; i < MAX_SEQS; i++) {
        double worst = 0, largest = 0;
        for (uint32_t k = 0; n[i] > 0 && k < t->model->n_vocab; k++) {
            worst = fmax(worst, fabs((double)t->at[i].got[k] - (double)t->at[i].want[k]));
            largest = fmax(largest, fabs((double)t->at[i].want[k]));
        }
        ck_assert_msg(worst <= tolerance * largest, "%s: sequence %u after %u tokens: logits are off by %g of %g", what,
                      i, t->at[i].length + n[i], worst, largest);
    }
}

static double tolerance_of(enum kvmm_dtype type)
{
    return type == KVMM_F32 ? 1e-5 : type == KVMM_F16 ? 2e-3 : 1e-2;
}

static double element(const char *bytes, size_t i, enum kvmm_dtype type)
{
    float f;
    uint16_t h;
    if (type == KVMM_F32)
        memcpy(&f, bytes + 4 * i, sizeof f);
    else
        memcpy(&h, bytes + 2 * i, sizeof h);
    return type == KVMM_F32 ? (double)f : (double)(type == KVMM_F16 ? kern_f32_of_f16(h) : kern_f32_of_bf16(h));
}

/* K and V lie where the strides say, and nothing anywhere else: all bytes of the ranges are compared. What attention made
 * of rounded queries shows in the K and V of the next layer. */
static void compare_caches(const struct twins *t, enum kvmm_dtype type, const char *what)
{
    const size_t bytes = t->layout.n_groups * t->layout.group_stride;
    for (uint32_t i = 0; i < MAX_SEQS; i++) {
        char *got = cuda_test_copy_out(t->at[i].device, bytes);
        for (size_t k = 0; k < bytes / t->layout.elem_bytes; k++) {
            const double a = element(got, k, type), b = element(t->at[i].host, k, type);
            ck_assert_msg(fabs(a - b) <= 8 * tolerance_of(type) * fmax(1, fabs(b)) && (a == 0) == (b == 0),
                          "%s: sequence %u: element %zu is %g, not %g", what, i, k, a, b);
        }
        free(got);
    }
}

static void run_both(struct twins *t, const uint32_t *n, double tolerance, const char *what)
{
    run_on(t->cpu, t, n, true);
    run_on(t->gpu, t, n, true);
    compare(t, n, tolerance, what);
    for (uint32_t i = 0; i < MAX_SEQS; i++)
        t->at[i].length += n[i];
}

/* ---- the models ---------------------------------------------------------------------------------------------- */

static const char *write_model(enum gguf_type type, bool tied)
{
    struct small_model m;
    small_model_init(&m);
    m.type = type;
    m.tied = tied;
    const char *path = test_path("small.gguf");
    small_model_write(&m, path);
    return path;
}

/* ---- tests --------------------------------------------------------------------------------------------------- */

static const uint32_t PASSES[][MAX_SEQS] = {{37, 0, 0, 0}, {3, 20, 1, 0},  {1, 1, 1, 1}, {1, 1, 1, 1},
                                            {1, 1, 1, 1},  {0, 30, 0, 33}, {1, 1, 0, 0}, {1, 1, 1, 1}};

START_TEST(a_pass_computes_what_the_cpu_computes)
{
    const enum strides kind = (enum strides)(_i % N_STRIDES);
    const enum kvmm_dtype type = (enum kvmm_dtype)(_i / N_STRIDES);
    const struct simcuda_usage before = cuda_test_usage();
    struct twins t;
    char what[64];
    open_twins(&t, write_model(GGUF_F32, false), kind, type);
    for (size_t p = 0; p < sizeof PASSES / sizeof *PASSES; p++) {
        (void)snprintf(what, sizeof what, "strides %d, type %d, pass %zu", kind, type, p);
        run_both(&t, PASSES[p], tolerance_of(type), what);
    }
    compare_caches(&t, type, what);
    close_twins(&t);
    cuda_test_nothing_left(&before, what);
}
END_TEST

/* Activations are rounded to the type of what they are multiplied with: as much as that costs. */
START_TEST(every_weight_type_runs)
{
    static const enum gguf_type types[] = {GGUF_F32, GGUF_F16, GGUF_BF16, GGUF_Q8_0};
    static const double tolerances[] = {1e-5, 4e-3, 3e-2, 8e-3};
    struct twins t;
    open_twins(&t, write_model(types[_i], _i % 2), PAGE_MAJOR, KVMM_F32);
    for (size_t p = 0; p < sizeof PASSES / sizeof *PASSES; p++)
        run_both(&t, PASSES[p], tolerances[_i], gguf_type_name(types[_i]));
    close_twins(&t);
}
END_TEST

static const uint32_t ALL[MAX_SEQS] = {1, 1, 1, 1}, TWO[MAX_SEQS] = {1, 0, 1, 0}, OTHER_TWO[MAX_SEQS] = {0, 1, 0, 1};

START_TEST(growth_is_not_captured_again)
{
    struct twins t;
    open_twins(&t, write_model(GGUF_F32, false), PAGE_MAJOR, KVMM_F16);
    for (uint32_t step = 0; step < 60; step++)
        run_both(&t, ALL, tolerance_of(KVMM_F16), "four grow");
    ck_assert_uint_eq(t.gpu->n_captures, 1);
    ck_assert_uint_eq(t.gpu->n_replays, 59);
    for (uint32_t step = 0; step < 20; step++)
        run_both(&t, step % 2 ? TWO : OTHER_TWO, tolerance_of(KVMM_F16), "two others in turn");
    ck_assert_uint_eq(t.gpu->n_captures, 2);
    for (uint32_t step = 0; step < 20; step++)
        run_both(&t, ALL, tolerance_of(KVMM_F16), "four again");
    ck_assert_uint_eq(t.gpu->n_captures, 2);
    ck_assert_uint_eq(t.gpu->n_replays, 59 + 19 + 20);
    close_twins(&t);
}
END_TEST

START_TEST(passes_without_logits_fill_the_cache)
{
    static const uint32_t many[MAX_SEQS] = {20, 30, 0, 0};
    struct twins t;
    open_twins(&t, write_model(GGUF_F32, false), PAGE_MAJOR, KVMM_F32);
    run_on(t.cpu, &t, many, false);
    run_on(t.gpu, &t, many, false);
    t.at[0].length = 20;
    t.at[1].length = 30;
    run_both(&t, (const uint32_t[MAX_SEQS]){1, 2, 0, 0}, 1e-5, "after a silent pass");
    close_twins(&t);
}
END_TEST

/* A long run in chunks, twice: the same bits in logits and cache. */
START_TEST(repeated_it_has_the_same_bits)
{
    struct twins t;
    open_twins(&t, write_model(GGUF_F16, false), PAGE_MAJOR, KVMM_BF16);
    const size_t bytes = t.layout.n_groups * t.layout.group_stride;
    float *logits = NULL;
    void *cache = NULL;
    for (int time = 0; time < 2; time++) {
        for (uint32_t i = 0; i < MAX_SEQS; i++)
            t.at[i].length = 0;
        for (size_t p = 0; p < sizeof PASSES / sizeof *PASSES; p++) {
            run_on(t.gpu, &t, PASSES[p], true);
            for (uint32_t i = 0; i < MAX_SEQS; i++)
                t.at[i].length += PASSES[p][i];
        }
        void *now = cuda_test_copy_out(t.at[0].device, bytes);
        if (time == 0) {
            cache = now;
            logits = t.at[0].got;
            t.at[0].got = calloc(t.model->n_vocab, sizeof *logits);
        } else {
            ck_assert_mem_eq(now, cache, bytes);
            ck_assert_mem_eq(t.at[0].got, logits, t.model->n_vocab * sizeof *logits);
            free(now);
        }
    }
    free(cache);
    free(logits);
    close_twins(&t);
}
END_TEST

int main(void)
{
    const int skip = cuda_test_skip();
    if (skip)
        return skip;
    Suite *suite = suite_create("passes on a GPU");
    TCase *cases = tcase_create("all");
    tcase_set_timeout(cases, 120);
    tcase_add_loop_test(cases, a_pass_computes_what_the_cpu_computes, 0, 3 * N_STRIDES);
    tcase_add_loop_test(cases, every_weight_type_runs, 0, 4);
    tcase_add_test(cases, growth_is_not_captured_again);
    tcase_add_test(cases, passes_without_logits_fill_the_cache);
    tcase_add_test(cases, repeated_it_has_the_same_bits);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
