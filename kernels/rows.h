/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner products for any number of rows and dimensions, from those for a constant number (products_*.h). */
#ifndef KERN_ROWS_H
#define KERN_ROWS_H

#include "dispatch.h"

/* Addresses of n tokens' rows from `first` on. */
static void row_addresses(const struct kern_tensor *tensor, uint32_t kv_head, uint32_t first, uint32_t n,
                          const uint8_t **rows)
{
    const uint32_t slot = first % tensor->page_tokens;
    const uint8_t *page = (const uint8_t *)tensor->base + kv_head * tensor->head_stride +
                          (size_t)(first / tensor->page_tokens) * tensor->page_stride;
    const uint8_t *at = page + slot * tensor->token_stride;

    for (uint32_t i = 0, left = tensor->page_tokens - slot; i < n; left = tensor->page_tokens) {
        const uint32_t end = min_u32(n - i, left) + i;
        for (; i < end; i++, at += tensor->token_stride)
            rows[i] = at;
        page += tensor->page_stride;
        at = page;
    }
}

/* Next comes the same block of the next KV head, or after the last one the next block of the first. */
static void block_addresses(const struct kern_tile *t, const struct kern_tensor *tensor, uint32_t kv_head,
                            uint32_t block, uint32_t n, struct block_rows *rows)
{
    const bool more_heads = kv_head + 1 < t->kv_head + t->n_kv_heads;
    const bool more = more_heads || block % KERN_SPLIT != 0;
    const uint32_t next = more_heads || !more ? block : block - KERN_BLOCK;
    const uint32_t n_next = !more ? 0 : more_heads ? n : KERN_BLOCK;

    row_addresses(tensor, kv_head, block, n, rows->now);
    row_addresses(tensor, more_heads ? kv_head + 1 : t->kv_head, next, n_next, rows->next);
    rows->ahead = (struct ahead){
        .rows = rows->next, .n_rows = n_next, .row_bytes = t->p->head_dim * (t->p->dtype == KERN_F32 ? 4u : 2u)};
}

/* n_rows rows against all keys of the block. */
static INLINE void scores_of(uint32_t n_rows, const struct kern_tile *t, const uint16_t *rows)
{
    const float *q[PRODUCT_ROWS];
    float *scores[PRODUCT_ROWS];

    UNROLL(6)
    for (uint32_t r = 0; r < n_rows; r++) {
        q[r] = t->q + (size_t)rows[r] * t->dim_pad;
        scores[r] = t->scores + (size_t)rows[r] * KERN_BLOCK;
    }
    for (uint32_t i = 0; i < KERN_BLOCK; i += SCORE_VECTORS * VL) {
        scores_block(n_rows, t, q, t->k + i, scores);
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++)
            scores[r] += SCORE_VECTORS * VL;
    }
}

static void scores_of_rows(const struct kern_tile *t, const uint16_t *rows, uint32_t n)
{
    for (; n >= 6; n -= 6, rows += 6)
        scores_of(6, t, rows);
    BY_COUNT(n, scores_of, t, rows);
}

/* The same for at most PRODUCT_ROWS rows, straight from the cache: for so few, storing the transposed keys and loading
 * them again is more work than the products. */
static INLINE void scores_of_few(enum kern_dtype dtype, const struct kern_tile *t, const uint16_t *rows, uint32_t n,
                                 struct block_rows *keys, uint32_t n_keys)
{
    const float *q[PRODUCT_ROWS];
    float *scores[PRODUCT_ROWS];

    for (uint32_t r = 0; r < PRODUCT_ROWS; r++) {
        const uint32_t row = rows[min_u32(r, n - 1)];
        q[r] = t->q + (size_t)row * t->dim_pad;
        scores[r] = t->scores + (size_t)row * KERN_BLOCK;
    }
    BY_COUNT(n, scores_direct, t, q, dtype, keys->now, n_keys, &keys->ahead, scores);
}

static void scores_of_few_rows(const struct kern_tile *t, const uint16_t *rows, uint32_t n, struct block_rows *keys,
                               uint32_t n_keys)
{
    BY_DTYPE(t->p->dtype, scores_of_few, t, rows, n, keys, n_keys);
}

/* The block's keys [key, key + n) to n_rows rows, all dimensions: VALUE_VECTORS vectors at a time, the rest one by one. If
 * direct, the keys' values are taken from the cache, at cache->now[0 … n). */
static INLINE void values_of(uint32_t n_rows, const struct kern_tile *t, const uint16_t *rows, uint32_t key, uint32_t n,
                             float *acc, bool direct, enum kern_dtype dtype, struct block_rows *cache)
{
    const uint32_t element_size = dtype == KERN_F32 ? 4 : 2;
    const float *v = values_from(t, key);
    const float *weights[PRODUCT_ROWS];
    float *at[PRODUCT_ROWS];
    uint32_t d = 0;

    UNROLL(6)
    for (uint32_t r = 0; r < n_rows; r++) {
        weights[r] = weights_from(t, rows[r], key);
        at[r] = acc + (size_t)rows[r] * t->dim_pad;
    }
    for (; d + VALUE_VECTORS * VL <= t->dim_pad; d += VALUE_VECTORS * VL) {
        values_block(n_rows, VALUE_VECTORS, weights, at, direct, v + d, t->dim_pad, dtype, cache, d * element_size, n);
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++)
            at[r] += VALUE_VECTORS * VL;
    }
    for (; d < t->dim_pad; d += VL) {
        values_block(n_rows, 1, weights, at, direct, v + d, t->dim_pad, dtype, cache, d * element_size, n);
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++)
            at[r] += VL;
    }
}

static void values_of_group(const struct kern_tile *t, uint32_t row, uint32_t key, uint32_t n, float *acc)
{
    const uint16_t rows[1] = {(uint16_t)row};

    values_of(1, t, rows, key, n, acc, false, KERN_F32, NULL);
}

static INLINE void values_of_some(enum kern_dtype dtype, const struct kern_tile *t, const uint16_t *rows, uint32_t n,
                                  float *acc, bool direct, struct block_rows *cache)
{
    for (; n >= 6; n -= 6, rows += 6)
        values_of(6, t, rows, 0, KERN_BLOCK, acc, direct, dtype, cache);
    BY_COUNT(n, values_of, t, rows, 0, KERN_BLOCK, acc, direct, dtype, cache);
}

/* All keys of the block to n rows. */
static void values_of_rows(const struct kern_tile *t, const uint16_t *rows, uint32_t n, float *acc)
{
    values_of_some(KERN_F32, t, rows, n, acc, false, NULL);
}

/* The same, but straight from the cache: for so few rows that widening a value once for each is less than storing it. */
static void values_of_few_rows(const struct kern_tile *t, const uint16_t *rows, uint32_t n, float *acc,
                               struct block_rows *cache)
{
    BY_DTYPE(t->p->dtype, values_of_some, t, rows, n, acc, true, cache);
}

#endif
