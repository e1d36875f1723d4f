/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels of a pass beside attention: of all types, at widths that vectors divide and at others, up to those of real
 * models, in buffers that end where their last element does. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpu/device.h"
#include "tests/gpu/kernels_cases.h"
#include "tests/support/scale.h"

#define OK(call) ck_assert_int_eq(call, CUDA_SUCCESS)

static uint32_t draw_width(struct rng *rng)
{
    if (!test_device_is_simulated() && rng_below(rng, 4) == 0)
        return rng_between(rng, 4000, 40000);
    return rng_below(rng, 2) ? 4 * rng_between(rng, 1, 400) : rng_between(rng, 1, 1100);
}

static uint32_t draw_rows(struct rng *rng)
{
    return rng_between(rng, 1, rng_below(rng, 8) == 0 ? 70 : 9);
}

static double element(const struct buffer *b, size_t i)
{
    return (double)load_element(b->host, i, KERN_F32);
}

static struct buffer *normal(size_t n, struct rng *rng)
{
    struct buffer *b = buffer_new(n * sizeof(float), INPUT);
    fill_normal(b, n, KERN_F32, rng);
    return b;
}

static void embed_once(struct rng *rng)
{
    enum { VOCAB = 50 };
    struct kern_cu_embed p = {.table_type = rng_below(rng, 3), .width = draw_width(rng), .n_rows = draw_rows(rng)};
    const size_t element_bytes = type_bytes(p.table_type), odd = rng_below(rng, 4) == 0 ? 1 : 0;
    const size_t n = (size_t)p.n_rows * p.width;
    struct buffer *table = buffer_new((odd + (size_t)VOCAB * p.width) * element_bytes, INPUT);
    struct buffer *x = buffer_new(n * sizeof(float), OUTPUT);
    struct buffer *tokens = buffer_new(p.n_rows * sizeof(uint32_t), INPUT);
    double *want = test_alloc(n, sizeof *want);

    fill_normal(table, odd + (size_t)VOCAB * p.width, p.table_type, rng);
    for (size_t row = 0; row < p.n_rows; row++) {
        const uint32_t token = rng_below(rng, VOCAB);
        memcpy(tokens->host + row * sizeof token, &token, sizeof token);
        for (size_t i = 0; i < p.width; i++)
            want[row * p.width + i] =
                (double)load_element(table->host, odd + (size_t)token * p.width + i, p.table_type);
    }
    p.tokens = tokens->at;
    p.table = table->at + odd * element_bytes;
    p.x = x->at;
    buffers_send();
    OK(kern_cuda_embed(gpu.kernels, gpu.stream, &p));
    buffers_fetch("embed");
    expect_elements(x, KERN_F32, want, n, "embed");
    free(want);
}

static void normalise(const double *x, const struct buffer *weight, uint32_t width, double eps, double *out)
{
    double sum = 0;
    for (uint32_t i = 0; i < width; i++)
        sum += x[i] * x[i];
    for (uint32_t i = 0; i < width; i++)
        out[i] = x[i] / sqrt(sum / width + eps) * element(weight, i);
}

static void norm_once(struct rng *rng)
{
    const uint32_t n_x = draw_rows(rng);
    const bool chosen = rng_below(rng, 3) == 0, adds = rng_below(rng, 2) == 0;
    struct kern_cu_norm p = {.eps = 1e-5f, .width = draw_width(rng), .out_type = rng_below(rng, 3)};
    p.n_rows = chosen ? rng_between(rng, 1, 5) : n_x;
    const size_t n = (size_t)n_x * p.width, n_out = (size_t)p.n_rows * p.width;
    struct buffer *x = buffer_new(n * sizeof(float), OUTPUT), *delta = normal(n, rng), *weight = normal(p.width, rng);
    struct buffer *out = buffer_new(n_out * type_bytes(p.out_type), OUTPUT);
    struct buffer *rows = buffer_new(p.n_rows * sizeof(uint32_t), INPUT);
    double *want_x = test_alloc(n, sizeof *want_x), *want = test_alloc(n_out, sizeof *want);

    fill_normal(x, n, KERN_F32, rng);
    for (size_t i = 0; i < n; i++)
        want_x[i] = element(x, i) + (adds && !chosen ? element(delta, i) : 0);
    for (size_t i = 0; i < p.n_rows; i++) {
        const uint32_t row = rng_below(rng, n_x);
        memcpy(rows->host + i * sizeof row, &row, sizeof row);
        normalise(want_x + (chosen ? row : i) * p.width, weight, p.width, (double)p.eps, want + i * p.width);
    }
    p.x = x->at;
    p.delta = adds ? delta->at : 0;
    p.weight = weight->at;
    p.rows = chosen ? rows->at : 0;
    p.out = !chosen && rng_below(rng, 4) == 0 ? 0 : out->at;
    buffers_send();
    OK(kern_cuda_norm(gpu.kernels, gpu.stream, &p));
    buffers_fetch("norm");
    expect_elements(x, KERN_F32, want_x, n, "norm: x");
    if (p.out)
        expect_elements(out, p.out_type, want, n_out, "norm");
    free(want_x);
    free(want);
}

static void swiglu_once(struct rng *rng)
{
    struct kern_cu_swiglu p = {.width = draw_width(rng), .n_rows = draw_rows(rng), .out_type = rng_below(rng, 3)};
    const size_t n = (size_t)p.n_rows * p.width, odd = rng_below(rng, 4) == 0 ? 1 : 0;
    struct buffer *gate = normal(n, rng), *up = normal(odd + n, rng);
    struct buffer *out = buffer_new(n * type_bytes(p.out_type), OUTPUT);
    double *want = test_alloc(n, sizeof *want);

    for (size_t i = 0; i < n; i++)
        want[i] = element(gate, i) / (1 + exp(-element(gate, i))) * element(up, odd + i);
    p.gate = gate->at;
    p.up = up->at + odd * sizeof(float);
    p.out = out->at;
    buffers_send();
    OK(kern_cuda_swiglu(gpu.kernels, gpu.stream, &p));
    buffers_fetch("swiglu");
    expect_elements(out, p.out_type, want, n, "swiglu");
    free(want);
}

/* The first of the greatest, NaN being none; 0 if there is none. */
static uint32_t greatest(const struct buffer *logits, size_t first, uint32_t width)
{
    double best = -INFINITY;
    uint32_t at = 0;
    for (uint32_t i = 0; i < width; i++)
        if (element(logits, first + i) > best) {
            best = element(logits, first + i);
            at = i;
        }
    return at;
}

static void argmax_once(struct rng *rng)
{
    struct kern_cu_argmax p = {.width = draw_width(rng), .n_rows = draw_rows(rng)};
    const size_t n = (size_t)p.n_rows * p.width;
    const bool nothing = rng_below(rng, 8) == 0; /* all NaN */
    struct buffer *logits = buffer_new(n * sizeof(float), INPUT);
    struct buffer *out = buffer_new(p.n_rows * sizeof(uint32_t), OUTPUT);

    for (size_t i = 0; i < n; i++) /* many are equal */
        store_element(logits->host, i, KERN_F32,
                      nothing || rng_below(rng, 7) == 0 ? NAN : (float)rng_below(rng, 40) - 60);
    p.logits = logits->at;
    p.out = out->at;
    buffers_send();
    OK(kern_cuda_argmax(gpu.kernels, gpu.stream, &p));
    buffers_fetch("argmax");
    for (size_t row = 0; row < p.n_rows; row++) {
        uint32_t got;
        memcpy(&got, out->got + row * sizeof got, sizeof got);
        ck_assert_uint_eq(got, greatest(logits, row * p.width, p.width));
    }
}

static void gather_once(struct rng *rng)
{
    const bool small = test_device_is_simulated();
    struct kern_cu_gather p = {.bytes = 16 * (uint64_t)rng_between(rng, 1, small ? 3000 : 20000)};
    p.n = rng_between(rng, 1, rng_below(rng, 8) == 0 && !small ? 300 : 20);
    struct buffer *from = buffer_new(p.n * p.bytes, INPUT), *to = buffer_new(p.n * p.bytes, OUTPUT);
    struct buffer *copies = buffer_new(p.n * sizeof(struct kern_cu_copy), INPUT);
    const uint32_t turn = rng_below(rng, p.n);

    fill_normal(from, p.n * p.bytes / sizeof(float), KERN_F32, rng);
    for (uint32_t i = 0; i < p.n; i++) {
        const struct kern_cu_copy copy = {from->at + i * p.bytes, to->at + (i + turn) % p.n * p.bytes};
        memcpy(copies->host + i * sizeof copy, &copy, sizeof copy);
    }
    p.copies = copies->at;
    buffers_send();
    OK(kern_cuda_gather(gpu.kernels, gpu.stream, &p));
    buffers_fetch("gather");
    for (uint32_t i = 0; i < p.n; i++)
        ck_assert_msg(memcmp(to->got + (i + turn) % p.n * p.bytes, from->host + i * p.bytes, p.bytes) == 0,
                      "block %u of %u, %llu bytes", i, p.n, (unsigned long long)p.bytes);
}

START_TEST(a_pass_does_what_its_parameters_say)
{
    static const struct {
        const char *name;
        void (*once)(struct rng *rng);
    } kernels[] = {{"embed", embed_once},
                   {"norm", norm_once},
                   {"swiglu", swiglu_once},
                   {"argmax", argmax_once},
                   {"gather", gather_once}};
    struct rng rng = rng_for(kernels[_i].name, _i);

    for (long i = scaled(30); i > 0; i--) {
        kernels[_i].once(&rng);
        buffers_free();
    }
}
END_TEST

TCase *pass_cases(void)
{
    TCase *cases = tcase_create("pass");
    tcase_add_loop_test(cases, a_pass_does_what_its_parameters_say, 0, 5);
    return cases;
}
