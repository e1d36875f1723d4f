/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows that are turned and put into the cache arrive at their places, rounded once; every other byte of the cache stays as it
 * was. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpu/kernels_cases.h"
#include "tests/gpu/shapes.h"
#include "tests/support/scale.h"

/* A pass of some sequences and what its kernels are told. */
struct append_case {
    struct shape of;
    struct kern_cu_append params;
    struct kern_cu_turn turn;
    struct kern_cu_seq seqs[MAX_SEQS];
    struct kv_memory mem[MAX_SEQS];
    uint32_t *row_seq;
    float theta[KERN_MAX_HEAD_DIM / 2];
    struct buffer *turns, *q, *k, *v, *q_out;
};

static struct shape draw(struct rng *rng)
{
    static const uint32_t pages[] = {1, 7, 16, 64};
    struct shape s = {.strides = (enum strides)rng_below(rng, ODD + 1), .sharpness = 1};

    s.dtype = rng_below(rng, 3);
    s.out_type = rng_below(rng, 3); /* of q */
    s.head_dim = rng_below(rng, 2) ? 8 * rng_between(rng, 1, 32) : rng_between(rng, 1, KERN_MAX_HEAD_DIM);
    s.n_kv_heads = rng_between(rng, 1, 4);
    s.group = rng_between(rng, 1, 8);
    s.page_tokens = pages[rng_below(rng, 4)];
    s.n_seqs = rng_between(rng, 1, MAX_SEQS);
    for (uint32_t i = 0; i < s.n_seqs; i++) {
        s.first_pos[i] = rng_below(rng, test_device_is_simulated() ? 60 : 2000);
        s.n_queries[i] = rng_between(rng, 1, test_device_is_simulated() ? 8 : 70);
    }
    return s;
}

static void make_rows(struct append_case *c, struct rng *rng)
{
    const struct shape *s = &c->of;
    uint32_t n_rows = 0;

    c->row_seq = test_alloc(shape_rows(s), sizeof *c->row_seq);
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        kv_memory_open(&c->mem[i], &c->params.cache, (s->first_pos[i] + s->n_queries[i] - 1) / s->page_tokens + 1,
                       OUTPUT);
        const struct buffer *b = c->mem[i].buffer;
        ck_assert_ptr_nonnull(b);
        for (size_t at = 0; at < b->bytes; at++) /* so that each byte would show a change */
            b->host[at] = (unsigned char)(at * 7 + i);
        c->seqs[i] = (struct kern_cu_seq){b->at, c->mem[i].group_stride, s->first_pos[i], s->n_queries[i], n_rows, 0};
        for (uint32_t row = 0; row < s->n_queries[i]; row++)
            c->row_seq[n_rows++] = i;
    }
    const size_t n_kv = (size_t)n_rows * s->n_kv_heads * s->head_dim;
    struct buffer **const buffers[] = {&c->q, &c->k, &c->v};
    for (size_t i = 0; i < 3; i++) {
        const size_t n = i == 0 ? n_kv * s->group : n_kv;
        *buffers[i] = buffer_new(n * sizeof(float), INPUT);
        fill_normal(*buffers[i], n, KERN_F32, rng);
    }
    c->q_out = buffer_new(n_kv * s->group * type_bytes(s->out_type), OUTPUT);
    c->params.n_rows = c->turn.n_rows = n_rows;
}

static void prepare(struct append_case *c, struct rng *rng)
{
    const struct shape *s = &c->of;
    const uint32_t dims = rng_below(rng, 4) == 0 ? 0 : 2 * rng_below(rng, s->head_dim / 2 + 1);

    c->params.cache = shape_cache(s);
    make_rows(c, rng);
    for (uint32_t j = 0; j < dims / 2; j++)
        c->theta[j] = powf(10000, -2.0f * (float)j / (float)dims);
    c->turns = buffer_new((size_t)c->turn.n_rows * dims * sizeof(float), OUTPUT);
    c->turn.seqs = c->params.seqs = buffer_copy_of(c->seqs, s->n_seqs * sizeof *c->seqs)->at;
    c->turn.row_seq = c->params.row_seq = buffer_copy_of(c->row_seq, c->turn.n_rows * sizeof *c->row_seq)->at;
    c->turn.theta = buffer_copy_of(c->theta, dims / 2 * sizeof *c->theta)->at;
    c->turn.turn = c->params.turn = c->turns->at;
    c->turn.rope_dims = c->params.rope_dims = dims;
    c->params.q = c->q->at;
    c->params.k = c->k->at;
    c->params.v = c->v->at;
    c->params.q_out = c->q_out->at;
    c->params.n_heads = s->n_kv_heads * s->group;
    c->params.q_type = s->out_type;
}

static double angle_of(const struct append_case *c, uint32_t pos, uint32_t d)
{
    return (double)pos * (double)c->theta[d / 2];
}

/* What dim d of a head must be; `first` is the index of the head's first in `from`. */
static double turned(const struct append_case *c, const struct buffer *from, size_t first, uint32_t d, uint32_t pos)
{
    if (d >= c->params.rope_dims)
        return (double)load_element(from->host, first + d, KERN_F32);
    const double angle = angle_of(c, pos, d), a = (double)load_element(from->host, first + d / 2 * 2, KERN_F32),
                 b = (double)load_element(from->host, first + d / 2 * 2 + 1, KERN_F32);
    return d % 2 == 0 ? a * cos(angle) - b * sin(angle) : a * sin(angle) + b * cos(angle);
}

static void expect_near(const unsigned char *first, size_t i, uint32_t type, double want, const struct shape *s)
{
    const double unit = type == KERN_F32 ? 1e-6 : type == KERN_F16 ? 6e-4 : 5e-3;
    const double got = (double)load_element(first, i, type);
    ck_assert_msg(fabs(got - want) <= unit * (fabs(want) + 1), "%g, not %g; %s", got, want, shape_text(s));
}

static void check_query(const struct append_case *c, uint32_t row, uint32_t pos)
{
    for (uint32_t h = 0; h < c->params.n_heads; h++)
        for (uint32_t d = 0; d < c->of.head_dim; d++) {
            const size_t first = ((size_t)row * c->params.n_heads + h) * c->of.head_dim;
            expect_near(c->q_out->got, first + d, c->of.out_type, turned(c, c->q, first, d, pos), &c->of);
        }
    for (uint32_t d = 0; d < c->params.rope_dims; d++) {
        const double angle = angle_of(c, pos, d);
        expect_near(c->turns->got, (size_t)row * c->params.rope_dims + d, KERN_F32,
                    d % 2 == 0 ? cos(angle) : sin(angle), &c->of);
    }
}

/* The row's K and V; then puts back what was there before, so that a change elsewhere is all that can be left. */
static void check_cache(const struct append_case *c, uint32_t row, uint32_t pos)
{
    const struct shape *s = &c->of;
    const struct kv_memory *m = &c->mem[c->row_seq[row]];
    const size_t bytes = (size_t)s->head_dim * type_bytes(s->dtype);

    for (uint32_t kv = 0; kv < 2; kv++)
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            const size_t first = ((size_t)row * s->n_kv_heads + h) * s->head_dim;
            const size_t at = kv_row(&c->params.cache, m, kv, pos / s->page_tokens, pos % s->page_tokens, h);
            unsigned char rounded[KERN_MAX_HEAD_DIM * sizeof(float)], *got = m->buffer->got + at;
            for (uint32_t d = 0; d < s->head_dim; d++) {
                store_element(rounded, d, s->dtype, load_element(c->v->host, first + d, KERN_F32));
                if (kv == 0)
                    expect_near(got, d, s->dtype, turned(c, c->k, first, d, pos), s);
            }
            ck_assert_msg(kv == 0 || memcmp(got, rounded, bytes) == 0, "v of row %u; %s", row, shape_text(s));
            memcpy(got, m->buffer->host + at, bytes);
        }
}

static void check(const struct append_case *c)
{
    for (uint32_t row = 0; row < c->params.n_rows; row++) {
        const struct kern_cu_seq *seq = &c->seqs[c->row_seq[row]];
        const uint32_t pos = seq->first_pos + row - seq->first_row;
        check_query(c, row, pos);
        check_cache(c, row, pos);
    }
    for (uint32_t i = 0; i < c->of.n_seqs; i++)
        ck_assert_msg(memcmp(c->mem[i].buffer->got, c->mem[i].buffer->host, c->mem[i].buffer->bytes) == 0,
                      "sequence %u: bytes that are of no new row have changed; %s", i, shape_text(&c->of));
}

START_TEST(rows_arrive_turned_and_rounded)
{
    struct rng rng = rng_for("append", _i);

    for (long i = scaled(10); i > 0; i--) {
        struct append_case c = {.of = draw(&rng)};
        prepare(&c, &rng);
        buffers_send();
        ck_assert_int_eq(kern_cuda_turn(gpu.kernels, gpu.stream, &c.turn), CUDA_SUCCESS);
        ck_assert_int_eq(kern_cuda_append(gpu.kernels, gpu.stream, &c.params), CUDA_SUCCESS);
        buffers_fetch(shape_text(&c.of));
        check(&c);
        free(c.row_seq);
        buffers_free();
    }
}
END_TEST

TCase *append_cases(void)
{
    TCase *cases = tcase_create("append");
    tcase_add_loop_test(cases, rows_arrive_turned_and_rounded, 0, 3);
    return cases;
}
