/* SPDX-License-Identifier: Apache-2.0
 *
 * The C forms of attention. Keys are visited in blocks from multiples of BLOCK, oldest first, a block's K and V converted
 * once for up to ROWS rows of the same kv head; what a row computes depends on its own query and keys only. */
#include <math.h>

#include "kernels/cuda/reference_forms.h"
#include "kernels/cuda/tiles.h"

#define BLOCK 32
#define ROWS  16
#define LANES 8
#define DIMS  KERN_MAX_HEAD_DIM

/* A query of a head, and what its keys so far sum up to. Dims beyond head_dim are 0. */
struct row {
    float q[DIMS];
    float o[DIMS];
    float m, l;
    uint32_t n_keys;
    uint64_t index; /* query row × n_heads + head: times head_dim its place in q and out */
};

struct block {
    float k[BLOCK][DIMS];
    float v[BLOCK][DIMS];
};

static float product(const float *a, const float *b, uint32_t n)
{
    float sums[LANES] = {0};

    for (uint32_t d = 0; d < n; d += LANES)
        for (uint32_t j = 0; j < LANES; j++)
            sums[j] += a[d + j] * b[d + j];
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

static void add_block(struct row *row, const struct block *block, uint32_t n, uint32_t dims)
{
    float s[BLOCK];
    float top = row->m;

    for (uint32_t t = 0; t < n; t++) {
        s[t] = product(row->q, block->k[t], dims);
        if (!(s[t] <= top)) /* a NaN stays the maximum, and makes the result one */
            top = s[t];
    }
    if (top == -INFINITY)
        return;
    const float old = row->m == -INFINITY ? 0 : exp2f(row->m - top);
    row->m = top;
    row->l *= old;
    for (uint32_t d = 0; d < dims; d++)
        row->o[d] *= old;
    for (uint32_t t = 0; t < n; t++) {
        const float weight = exp2f(s[t] - top);
        row->l += weight;
        for (uint32_t d = 0; d < dims; d++)
            row->o[d] += weight * block->v[t][d];
    }
}

static uint64_t table_of(uint64_t tables, uint32_t stride, uint32_t seq)
{
    return tables ? tables + (uint64_t)seq * stride * sizeof(uint32_t) : 0;
}

static uint32_t padded(uint32_t head_dim)
{
    return (head_dim + LANES - 1) / LANES * LANES;
}

/* Rows [first, first + n) of a kv head of a sequence, complete but for the division by l. table: of the sequence, or 0. */
static void attend(const struct kern_cu_attention *p, const struct kern_cu_seq *seq, uint64_t table, uint32_t kv_head,
                   uint32_t first, uint32_t n, struct row *rows, reference_at at)
{
    const struct kern_cu_cache *cache = &p->cache;
    const uint32_t head_dim = cache->head_dim;
    const uint32_t group = p->n_heads / cache->n_kv_heads;
    struct block block;
    uint32_t n_keys = 0;

    memset(rows, 0, n * sizeof(*rows));
    memset(&block, 0, sizeof(block));
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t query = (first + i) / group;
        rows[i].index = (uint64_t)(seq->first_row + query) * p->n_heads + kv_head * group + (first + i) % group;
        rows[i].n_keys = seq->first_pos + query + 1;
        rows[i].m = -INFINITY;
        reference_load(rows[i].q, at(p->q + rows[i].index * head_dim * reference_bytes(cache->dtype)), head_dim,
                       cache->dtype);
        for (uint32_t d = 0; d < head_dim; d++)
            rows[i].q[d] *= p->scale * 1.44269504f; /* log₂ e */
        n_keys = rows[i].n_keys;                    /* the last has most */
    }
    for (uint32_t t = 0; t < n_keys; t += BLOCK) {
        for (uint32_t j = 0; j < BLOCK && t + j < n_keys; j++) {
            const uint32_t page = (t + j) / cache->page_tokens;
            const uint64_t key =
                reference_row(cache, seq, table ? reference_index(at, table, page) : page, t + j, kv_head);
            reference_load(block.k[j], at(key), head_dim, cache->dtype);
            reference_load(block.v[j], at(key + cache->kv_stride), head_dim, cache->dtype);
        }
        for (uint32_t i = 0; i < n; i++)
            if (t < rows[i].n_keys)
                add_block(&rows[i], &block, rows[i].n_keys - t < BLOCK ? rows[i].n_keys - t : BLOCK, padded(head_dim));
    }
}

static void store_quotient(const struct kern_cu_attention *p, uint64_t index, const float *o, float l, reference_at at)
{
    float x[DIMS];

    for (uint32_t d = 0; d < p->cache.head_dim; d++)
        x[d] = o[d] / l;
    reference_store(at(p->out + index * p->cache.head_dim * reference_bytes(p->out_type)), p->out_type, x,
                    p->cache.head_dim);
}

static void prefill(const struct kern_cu_attention *p, uint64_t table, uint32_t stride, reference_at at)
{
    const uint32_t group = p->n_heads / p->cache.n_kv_heads;
    struct row rows[ROWS];

    for (uint32_t s = 0; s < p->n_seqs; s++) {
        const struct kern_cu_seq seq = reference_seq(at, p->seqs, s);
        const uint32_t n_rows = seq.n_queries * group;

        for (uint32_t h = 0; h < p->cache.n_kv_heads; h++)
            for (uint32_t first = 0; first < n_rows; first += ROWS) {
                const uint32_t n = n_rows - first < ROWS ? n_rows - first : ROWS;
                attend(p, &seq, table_of(table, stride, s), h, first, n, rows, at);
                for (uint32_t i = 0; i < n; i++)
                    store_quotient(p, rows[i].index, rows[i].o, rows[i].l, at);
            }
    }
}

/* m and l of a split lie behind all sums: kernels/cuda/tiles.h. */
struct weights {
    float m, l;
};

static uint64_t sums_of(const struct kern_cu_attention *p, uint64_t split)
{
    return p->partial + split * p->cache.head_dim * sizeof(float);
}

static uint64_t weights_of(const struct kern_cu_attention *p, uint64_t split)
{
    return sums_of(p, (uint64_t)p->n_seqs * p->n_heads * p->n_splits) + split * sizeof(struct weights);
}

/* The first split has all keys, the others none: as good a partition as another, and it sums as prefill does. */
static void store_partial(const struct kern_cu_attention *p, uint64_t seq, const struct row *row, reference_at at)
{
    const uint64_t first = (seq * p->n_heads + row->index % p->n_heads) * p->n_splits;

    memcpy(at(sums_of(p, first)), row->o, p->cache.head_dim * sizeof(float));
    for (uint32_t i = 0; i < p->n_splits; i++) {
        struct weights *w = at(weights_of(p, first + i));
        *w = i == 0 ? (struct weights){row->m, row->l} : (struct weights){-INFINITY, 0};
    }
}

static void decode(const struct kern_cu_attention *p, uint64_t table, uint32_t stride, reference_at at)
{
    const uint32_t group = p->n_heads / p->cache.n_kv_heads;
    struct row rows[ROWS];

    for (uint32_t s = 0; s < p->n_seqs; s++) {
        const struct kern_cu_seq seq = reference_seq(at, p->seqs, s);

        for (uint32_t h = 0; h < p->cache.n_kv_heads; h++)
            for (uint32_t first = 0; first < group; first += ROWS) {
                const uint32_t n = group - first < ROWS ? group - first : ROWS;
                attend(p, &seq, table_of(table, stride, s), h, first, n, rows, at);
                for (uint32_t i = 0; i < n; i++)
                    store_partial(p, s, &rows[i], at);
            }
    }
}

static void combine_row(const struct kern_cu_attention *p, uint64_t index, uint64_t first, reference_at at)
{
    float o[DIMS] = {0};
    float top = -INFINITY;
    float l = 0;

    for (uint32_t i = 0; i < p->n_splits; i++) {
        const struct weights *w = at(weights_of(p, first + i));
        if (!(w->m <= top))
            top = w->m;
    }
    for (uint32_t i = 0; i < p->n_splits; i++) {
        const struct weights *w = at(weights_of(p, first + i));
        if (w->m == -INFINITY)
            continue;
        const float factor = exp2f(w->m - top);
        const float *sums = at(sums_of(p, first + i));
        l += w->l * factor;
        for (uint32_t d = 0; d < p->cache.head_dim; d++)
            o[d] += sums[d] * factor;
    }
    store_quotient(p, index, o, l, at);
}

void reference_combine(const void *params, reference_at at)
{
    const struct kern_cu_attention *p = params;

    for (uint64_t s = 0; s < p->n_seqs; s++) {
        const struct kern_cu_seq seq = reference_seq(at, p->seqs, (uint32_t)s);
        for (uint32_t h = 0; h < p->n_heads; h++)
            combine_row(p, (uint64_t)seq.first_row * p->n_heads + h, (s * p->n_heads + h) * p->n_splits, at);
    }
}

void reference_prefill(const void *params, reference_at at)
{
    prefill(params, 0, 0, at);
}

void reference_decode(const void *params, reference_at at)
{
    decode(params, 0, 0, at);
}

void reference_prefill_paged(const void *params, reference_at at)
{
    const struct kern_cu_paged *p = params;
    prefill(&p->attention, p->block_table, p->table_stride, at);
}

void reference_decode_paged(const void *params, reference_at at)
{
    const struct kern_cu_paged *p = params;
    decode(&p->attention, p->block_table, p->table_stride, at);
}
