/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner products in f32, whatever the cache holds: K and V of a block are widened once for all rows of the tile.
 * PRODUCT_ROWS × the vectors beside it are what the registers hold. */
#ifndef KERN_PRODUCTS_H
#define KERN_PRODUCTS_H

#include "dispatch.h"

#define PRODUCT_ROWS 6

static INLINE uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Brings a row's q into the form that scores_block() takes. */
static void prepare_query(const struct kern_tile *t, uint32_t r)
{
    (void)t; /* q is plain_q */
    (void)r;
}

/* Where a block's values from `key` on, and a row's weights for them, are. */
static INLINE const float *values_from(const struct kern_tile *t, uint32_t key)
{
    return t->v + (size_t)key * t->dim_pad;
}

static INLINE const float *weights_from(const struct kern_tile *t, uint32_t row, uint32_t key)
{
    return t->scores + (size_t)row * KERN_BLOCK + key;
}

static INLINE void store_dimension(void *ctx, uint32_t d, vec x)
{
    vec_store((float *)ctx + (size_t)d * KERN_BLOCK, x);
}

static INLINE void load_keys_of(enum kern_dtype dtype, const struct kern_tile *t, const uint8_t *const *rows,
                                uint32_t n, struct ahead *ahead)
{
    for (uint32_t i = 0; i < KERN_BLOCK; i += VL)
        vec_transpose(dtype, rows + i, min_u32(n > i ? n - i : 0, VL), t->p->head_dim, store_dimension, t->k + i,
                      ahead);
}

static void load_keys(const struct kern_tile *t, const uint8_t *const *rows, uint32_t n, struct ahead *ahead)
{
    BY_DTYPE(t->p->dtype, load_keys_of, t, rows, n, ahead);
}

static INLINE void load_values_of(enum kern_dtype dtype, const struct kern_tile *t, const uint8_t *const *rows,
                                  uint32_t key, uint32_t n, struct ahead *ahead)
{
    const uint32_t dim = t->p->head_dim;
    const uint32_t element_size = dtype == KERN_F32 ? 4 : 2;

    for (uint32_t i = key; i < key + n; i++) {
        float *dst = t->v + (size_t)i * t->dim_pad;
        ahead_fetch(ahead, dim * element_size);
        uint32_t d = 0;
        for (; d + VL <= dim; d += VL)
            vec_store(dst + d, vec_widen(dtype, rows[i] + d * element_size, VL));
        for (; d < t->dim_pad; d += VL)
            vec_store(dst + d, d < dim ? vec_widen(dtype, rows[i] + d * element_size, dim - d) : vec_set1(0));
    }
}

/* Keys [key, key + n) of the block. */
static void load_values(const struct kern_tile *t, const uint8_t *const *rows, uint32_t key, uint32_t n,
                        struct ahead *ahead)
{
    BY_DTYPE(t->p->dtype, load_values_of, t, rows, key, n, ahead);
}

/* Scores of n_rows rows against SCORE_VECTORS × VL keys: one chain over ascending d for each. */
static INLINE void scores_block(uint32_t n_rows, const struct kern_tile *t, const float *const *q, const float *k,
                                float *const *scores)
{
    const uint32_t dim = t->p->head_dim;
    vec sum[PRODUCT_ROWS][SCORE_VECTORS];

    UNROLL(6)
    for (uint32_t r = 0; r < n_rows; r++) {
        UNROLL(4)
        for (uint32_t j = 0; j < SCORE_VECTORS; j++)
            sum[r][j] = vec_set1(0);
    }
    for (uint32_t d = 0; d < dim; d++) {
        vec key[SCORE_VECTORS];
        UNROLL(4)
        for (uint32_t j = 0; j < SCORE_VECTORS; j++)
            key[j] = vec_load(k + (size_t)d * KERN_BLOCK + j * VL);
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++) {
            const vec x = vec_set1(q[r][d]);
            UNROLL(4)
            for (uint32_t j = 0; j < SCORE_VECTORS; j++)
                sum[r][j] = vec_fma(x, key[j], sum[r][j]);
        }
    }
    UNROLL(6)
    for (uint32_t r = 0; r < n_rows; r++) {
        UNROLL(4)
        for (uint32_t j = 0; j < SCORE_VECTORS; j++)
            vec_store(scores[r] + j * VL, sum[r][j]);
    }
}

/* Scores of VL keys as they are transposed. */
struct few_scores {
    uint32_t n_rows;
    const float *const *q;
    vec sum[PRODUCT_ROWS];
};

static INLINE void score_dimension(void *ctx, uint32_t d, vec x)
{
    struct few_scores *s = ctx;

    UNROLL(6)
    for (uint32_t r = 0; r < s->n_rows; r++)
        s->sum[r] = vec_fma(vec_set1(s->q[r][d]), x, s->sum[r]);
}

/* As scores_block(), by the same chains, for the block's n keys straight from the cache. */
static INLINE void scores_direct(uint32_t n_rows, const struct kern_tile *t, const float *const *q,
                                 enum kern_dtype dtype, const uint8_t *const *rows, uint32_t n, struct ahead *ahead,
                                 float *const *scores)
{
    for (uint32_t i = 0; i < n; i += VL) {
        struct few_scores s = {.n_rows = n_rows, .q = q};
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++)
            s.sum[r] = vec_set1(0);
        vec_transpose(dtype, rows + i, min_u32(n - i, VL), t->p->head_dim, score_dimension, &s, ahead);
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++)
            vec_store(scores[r] + i, s.sum[r]);
    }
}

/* Stores a row's weights and returns their sum by lanes. */
static INLINE vec store_weights(float *weights, const vec w[KERN_BLOCK / VL])
{
    vec sum = w[0];

    vec_store(weights, w[0]);
    UNROLL(16)
    for (uint32_t j = 1; j < KERN_BLOCK / VL; j++) {
        vec_store(weights + j * VL, w[j]);
        sum = vec_add(sum, w[j]);
    }
    return sum;
}

/* acc[r] += Σ weights[r][i] × value i, over ascending i < n, for n_vectors vectors of dimensions. Value i is at
 * v + i × v_stride; or, if direct, in the cache's form at rows->now[i] + from. */
static INLINE void values_block(uint32_t n_rows, uint32_t n_vectors, const float *const *weights, float *const *acc,
                                bool direct, const float *v, uint32_t v_stride, enum kern_dtype dtype,
                                struct block_rows *rows, uint32_t from, uint32_t n)
{
    const uint32_t step = VL * (dtype == KERN_F32 ? 4 : 2);
    vec sum[PRODUCT_ROWS][VALUE_VECTORS];

    UNROLL(6)
    for (uint32_t r = 0; r < n_rows; r++) {
        UNROLL(4)
        for (uint32_t j = 0; j < n_vectors; j++)
            sum[r][j] = vec_load(acc[r] + j * VL);
    }
    for (uint32_t i = 0; i < n; i++) {
        vec value[VALUE_VECTORS];
        if (direct)
            ahead_fetch(&rows->ahead, n_vectors * step);
        UNROLL(4)
        for (uint32_t j = 0; j < n_vectors; j++)
            value[j] = direct ? vec_widen(dtype, rows->now[i] + from + j * step, VL)
                              : vec_load(v + (size_t)i * v_stride + j * VL);
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++) {
            const vec x = vec_set1(weights[r][i]);
            UNROLL(4)
            for (uint32_t j = 0; j < n_vectors; j++)
                sum[r][j] = vec_fma(x, value[j], sum[r][j]);
        }
    }
    UNROLL(6)
    for (uint32_t r = 0; r < n_rows; r++) {
        UNROLL(4)
        for (uint32_t j = 0; j < n_vectors; j++)
            vec_store(acc[r] + j * VL, sum[r][j]);
    }
}

#endif
