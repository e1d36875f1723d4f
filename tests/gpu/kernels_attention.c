/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of any shape agrees with softmax(q·k × scale) × V in double precision. What is no row that a query may attend to
 * is NaN, in front of, between and behind those that are: a result that has touched it shows it. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpu/kernels_cases.h"
#include "tests/gpu/shapes.h"
#include "tests/support/scale.h"

enum { N_TYPES = 3, N_TILES = 4, N_VARIANTS = N_TYPES * N_TILES, PAGED_TILE = 2, LONGEST = 32768 };

static const uint32_t PAGES[] = {16, 16, 1, 7, 64};
static const uint32_t TILE_DIMS[N_TILES][4] = {
    {8, 16, 24, 32}, {40, 48, 64, 64}, {72, 80, 128, 128}, {136, 192, 256, 256}};

/* How much: a software driver has one thread for all of it. */
static uint32_t on_gpu(uint32_t n, uint32_t simulated)
{
    return test_device_is_simulated() ? simulated : n;
}

/* ---- a problem and its answer ---------------------------------------------------------------------------------- */

struct problem {
    struct shape of;
    struct kern_cu_paged params; /* the table is 0 without one */
    uint32_t max_queries, n_pages[MAX_SEQS];
    uint32_t *table;        /* [n_seqs][table_stride]; NULL: each sequence has memory of its own */
    float *q;               /* as rounded */
    float *kv[MAX_SEQS][2]; /* [n_kv_heads][tokens][head_dim], as rounded */
    struct kv_memory mem[MAX_SEQS];
    struct buffer *out;
};

static uint32_t n_tokens(const struct shape *s, uint32_t seq)
{
    return s->first_pos[seq] + s->n_queries[seq];
}

/* A sequence's K and V: once as the kernel finds them, once without gaps. */
static void fill_sequence(struct problem *p, uint32_t seq, unsigned char *memory, struct rng *rng)
{
    const struct shape *s = &p->of;
    const struct kern_cu_cache *c = &p->params.attention.cache;
    const size_t n = n_tokens(s, seq), dims = s->head_dim;

    for (uint32_t kv = 0; kv < 2; kv++) {
        float *x = p->kv[seq][kv] = test_alloc(s->n_kv_heads * n * dims, sizeof *x);
        for (uint32_t head = 0; head < s->n_kv_heads; head++)
            for (uint32_t t = 0; t < n; t++) {
                const uint32_t nth = t / s->page_tokens;
                const uint32_t page = p->table ? p->table[seq * p->params.table_stride + nth] : nth;
                unsigned char *row = memory + kv_row(c, &p->mem[seq], kv, page, t % s->page_tokens, head);
                for (uint32_t d = 0; d < dims; d++, x++) {
                    store_element(row, d, s->dtype, rng_normal(rng));
                    *x = load_element(row, d, s->dtype);
                }
            }
    }
}

/* Each sequence's pages are some of a pool, in no order. */
static void make_table(struct problem *p, struct rng *rng)
{
    const struct shape *s = &p->of;
    uint32_t stride = 0;

    for (uint32_t i = 0; i < s->n_seqs; i++)
        stride = p->n_pages[i] > stride ? p->n_pages[i] : stride;
    stride += rng_below(rng, 3);
    const uint32_t n = stride * s->n_seqs;
    p->table = test_alloc(n, sizeof *p->table);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t j = rng_below(rng, i + 1);
        p->table[i] = p->table[j];
        p->table[j] = i;
    }
    p->params.table_stride = stride;
    p->params.block_table = buffer_copy_of(p->table, n * sizeof *p->table)->at;
    kv_memory_open(&p->mem[0], &p->params.attention.cache, n, INPUT);
    for (uint32_t i = 1; i < MAX_SEQS; i++)
        p->mem[i] = p->mem[0];
}

static void make_memory(struct problem *p, bool paged, struct rng *rng)
{
    struct kern_cu_seq seqs[MAX_SEQS];
    const struct shape *s = &p->of;
    uint32_t row = 0;

    for (uint32_t i = 0; i < s->n_seqs; i++)
        p->n_pages[i] = (n_tokens(s, i) + s->page_tokens - 1) / s->page_tokens;
    if (paged)
        make_table(p, rng);
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        if (!paged)
            kv_memory_open(&p->mem[i], &p->params.attention.cache, p->n_pages[i], INPUT);
        const struct buffer *b = p->mem[i].buffer;
        ck_assert_ptr_nonnull(b);
        fill_sequence(p, i, b->host, rng);
        seqs[i] = (struct kern_cu_seq){b->at, p->mem[i].group_stride, s->first_pos[i], s->n_queries[i], row, 0};
        row += s->n_queries[i];
        p->max_queries = s->n_queries[i] > p->max_queries ? s->n_queries[i] : p->max_queries;
    }
    p->params.attention.seqs = buffer_copy_of(seqs, s->n_seqs * sizeof *seqs)->at;
}

static void problem_open(struct problem *p, const struct shape *s, bool paged, uint32_t n_splits, struct rng *rng)
{
    struct kern_cu_attention *a = &p->params.attention;
    const uint32_t n_heads = s->n_kv_heads * s->group;
    const size_t n = (size_t)shape_rows(s) * n_heads * s->head_dim;

    *p = (struct problem){.of = *s};
    a->cache = shape_cache(s);
    a->n_heads = n_heads;
    a->n_seqs = s->n_seqs;
    a->out_type = s->out_type;
    a->n_splits = n_splits;
    a->scale = s->sharpness / sqrtf((float)s->head_dim);
    make_memory(p, paged, rng);
    struct buffer *q = buffer_new(n * type_bytes(s->dtype), INPUT);
    p->q = test_alloc(n, sizeof *p->q);
    fill_normal(q, n, s->dtype, rng);
    for (size_t i = 0; i < n; i++)
        p->q[i] = load_element(q->host, i, s->dtype);
    a->q = q->at;
    p->out = buffer_new(n * type_bytes(s->out_type), OUTPUT);
    a->out = p->out->at;
    if (n_splits > 0)
        a->partial = buffer_new(kern_cuda_decode_scratch(s->n_seqs, n_heads, s->head_dim, n_splits), OUTPUT)->at;
}

static void problem_close(struct problem *p)
{
    for (uint32_t i = 0; i < p->of.n_seqs; i++)
        for (uint32_t kv = 0; kv < 2; kv++)
            free(p->kv[i][kv]);
    free(p->q);
    free(p->table);
    buffers_free();
}

/* softmax(q·k × scale) × V as the formula stands; `weights` is scratch of n_keys. */
static void answer(const float *q, const float *k, const float *v, uint32_t n_keys, uint32_t dims, double scale,
                   double *weights, double *out)
{
    double max = -INFINITY, sum = 0;

    for (uint32_t t = 0; t < n_keys; t++) {
        double dot = 0;
        for (uint32_t d = 0; d < dims; d++)
            dot += (double)q[d] * (double)k[(size_t)t * dims + d];
        weights[t] = dot * scale;
        max = fmax(max, weights[t]);
    }
    memset(out, 0, dims * sizeof *out);
    for (uint32_t t = 0; t < n_keys; t++) {
        const double weight = exp(weights[t] - max);
        sum += weight;
        for (uint32_t d = 0; d < dims; d++)
            out[d] += weight * (double)v[(size_t)t * dims + d];
    }
    for (uint32_t d = 0; d < dims; d++)
        out[d] /= sum;
}

/* What an element may be off, over the greatest of its row. In f32 the kernel's own sums are what errs: they grow with the
 * keys, and weights with the scores. */
static double tolerance(const struct shape *s, uint32_t n_keys)
{
    if (s->dtype == KERN_BF16 || s->out_type == KERN_BF16)
        return 1e-2;
    if (s->dtype == KERN_F16 || s->out_type == KERN_F16)
        return 2e-3;
    return (s->sharpness > 1 ? 4e-5 : 2e-5) + 1e-9 * n_keys;
}

/* Row `row` of the pass, query `query` of sequence `seq`. Returns the worst error over what is tolerated. */
static double check_row(const struct problem *p, const char *what, uint32_t seq, uint32_t query, size_t row,
                        double *weights)
{
    const struct shape *s = &p->of;
    const uint32_t dims = s->head_dim, n_heads = s->n_kv_heads * s->group, n_keys = s->first_pos[seq] + query + 1;
    double want[KERN_MAX_HEAD_DIM], worst = 0;

    for (uint32_t h = 0; h < n_heads; h++) {
        const size_t first = (row * n_heads + h) * dims, kv = (size_t)(h / s->group) * n_tokens(s, seq) * dims;
        double greatest = 0, off = 0;
        answer(p->q + first, p->kv[seq][0] + kv, p->kv[seq][1] + kv, n_keys, dims, (double)p->params.attention.scale,
               weights, want);
        for (uint32_t d = 0; d < dims; d++) {
            const double distance = fabs((double)load_element(p->out->got, first + d, s->out_type) - want[d]);
            greatest = fmax(greatest, fabs(want[d]));
            off = isnan(distance) ? INFINITY : fmax(off, distance);
        }
        ck_assert_msg(off <= tolerance(s, n_keys) * greatest, "%s: sequence %u query %u head %u: off by %g of %g; %s",
                      what, seq, query, h, off, greatest, shape_text(s));
        worst = fmax(worst, off / greatest / tolerance(s, n_keys));
    }
    return worst;
}

static void check_all(const struct problem *p, const char *what)
{
    const struct shape *s = &p->of;
    double worst = 0;
    size_t row = 0;

    for (uint32_t i = 0; i < s->n_seqs; i++) {
        double *weights = test_alloc(n_tokens(s, i), sizeof *weights);
        for (uint32_t query = 0; query < s->n_queries[i]; query++, row++)
            worst = fmax(worst, check_row(p, what, i, query, row, weights));
        free(weights);
    }
    if (getenv("KVMM_TEST_VERBOSE"))
        (void)printf("%-14s %3.0f %% of what is tolerated: %s\n", what, 100 * worst, shape_text(s));
}

/* ---- shapes and launches --------------------------------------------------------------------------------------- */

static void draw_lengths(struct shape *s, bool decode, struct rng *rng)
{
    const uint32_t most_past = decode ? on_gpu(4000, 400) : on_gpu(1500, 150);
    const uint32_t most_rows = on_gpu(400, 60);

    for (uint32_t i = 0; i < s->n_seqs; i++) {
        s->first_pos[i] = rng_below(rng, 3) == 0 ? 0 : rng_below(rng, most_past);
        s->n_queries[i] = decode ? 1 : rng_between(rng, 1, 1 + most_rows / s->group);
    }
}

static struct shape draw(uint32_t dtype, uint32_t tile, bool decode, bool paged, struct rng *rng)
{
    struct shape s = {.dtype = dtype, .head_dim = TILE_DIMS[tile][rng_below(rng, 4)]};

    s.strides = (enum strides)rng_below(rng, LAYER_MAJOR + 1);
    if (!paged && rng_below(rng, 8) == 0) /* these two are the generic kernel's, as all of f32 is */
        s.strides = ODD;
    if (!paged && rng_below(rng, 8) == 0)
        s.head_dim -= rng_between(rng, 1, 7);
    s.out_type = rng_below(rng, N_TYPES);
    s.n_kv_heads = rng_between(rng, 1, 3);
    s.group = rng_between(rng, 1, 8);
    s.page_tokens = PAGES[rng_below(rng, sizeof PAGES / sizeof *PAGES)];
    s.sharpness = rng_below(rng, 3) == 0 ? 6 : 1;
    s.n_seqs = rng_between(rng, 1, decode ? MAX_SEQS : 3);
    draw_lengths(&s, decode, rng);
    return s;
}

/* One long sequence beside shorter ones: the longest is as long as can be. */
static struct shape draw_long(uint32_t dtype, uint32_t tile, bool decode, bool paged, struct rng *rng)
{
    struct shape s = draw(dtype, tile, decode, paged, rng);
    const uint32_t longest = on_gpu(LONGEST, 1500), least = longest / 2;

    s.n_kv_heads = rng_between(rng, 1, 2);
    s.n_seqs = rng_between(rng, 1, 3);
    for (uint32_t i = 0; i < s.n_seqs; i++)
        s.n_queries[i] = decode ? 1 : rng_between(rng, 1, 1 + on_gpu(40, 8) / s.group);
    const uint32_t at = rng_below(rng, s.n_seqs), n = rng_below(rng, 2) ? longest : rng_between(rng, least, longest);
    s.first_pos[at] = n - s.n_queries[at];
    return s;
}

static void run(const struct shape *s, bool decode, bool paged, struct rng *rng)
{
    const char *what = decode ? paged ? "paged decode" : "decode" : paged ? "paged prefill" : "prefill";
    uint32_t n_splits = 0;
    struct problem p;
    CUresult rc;

    if (decode)
        n_splits =
            rng_below(rng, 2) ? kern_cuda_decode_splits(gpu.kernels, s->n_seqs, s->n_kv_heads) : rng_between(rng, 1, 9);
    problem_open(&p, s, paged, n_splits, rng);
    buffers_send();
    const uint32_t most =
        p.max_queries + (rng_below(rng, 4) == 0 ? rng_below(rng, 300) : 0); /* an upper bound will do */
    if (paged)
        rc = decode ? kern_cuda_decode_paged(gpu.kernels, gpu.stream, &p.params)
                    : kern_cuda_prefill_paged(gpu.kernels, gpu.stream, &p.params, most);
    else
        rc = decode ? kern_cuda_decode(gpu.kernels, gpu.stream, &p.params.attention)
                    : kern_cuda_prefill(gpu.kernels, gpu.stream, &p.params.attention, most);
    ck_assert_msg(rc == CUDA_SUCCESS, "%s: %s; %s", what, cuda_error_name(gpu.cu, rc), shape_text(s));
    buffers_fetch(shape_text(s));
    check_all(&p, what);
    problem_close(&p);
}

/* ---- tests --------------------------------------------------------------------------------------------------- */

static void rounds(const char *name, int loop, bool decode, bool paged)
{
    const uint32_t dtype = (uint32_t)loop / N_TILES, tile = paged ? PAGED_TILE : (uint32_t)loop % N_TILES;
    struct rng rng = rng_for(name, loop);

    for (long i = scaled(on_gpu(8, 3)); i > 0; i--) {
        const struct shape s = draw(dtype, tile, decode, paged, &rng);
        run(&s, decode, paged, &rng);
    }
}

START_TEST(prefill_agrees_with_the_formula)
{
    rounds("prefill", _i, false, false);
}
END_TEST

START_TEST(decode_agrees_with_the_formula)
{
    rounds("decode", _i, true, false);
}
END_TEST

START_TEST(attention_through_a_block_table)
{
    rounds("paged prefill", _i, false, true);
    rounds("paged decode", _i, true, true);
}
END_TEST

START_TEST(long_contexts)
{
    const uint32_t dtype = (uint32_t)_i / N_TILES, tile = (uint32_t)_i % N_TILES;
    struct rng rng = rng_for("long", _i);

    for (uint32_t i = 0; i < 4; i++) {
        const bool decode = i % 2 == 0, paged = i / 2 == 1;
        if (paged && (tile != PAGED_TILE || dtype == KERN_F32))
            continue;
        const struct shape s = draw_long(dtype, tile, decode, paged, &rng);
        run(&s, decode, paged, &rng);
    }
}
END_TEST

TCase *attention_cases(void)
{
    TCase *cases = tcase_create("attention");
    tcase_add_loop_test(cases, prefill_agrees_with_the_formula, 0, N_VARIANTS);
    tcase_add_loop_test(cases, decode_agrees_with_the_formula, 0, N_VARIANTS);
    tcase_add_loop_test(cases, attention_through_a_block_table, 0, KERN_F32 * N_TILES); /* f16 and bf16 */
    tcase_add_loop_test(cases, long_contexts, 0, N_VARIANTS);
    return cases;
}
