/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner products for any number of rows and dimensions, from those for a constant number (products_*.h). */
#ifndef KERN_ROWS_H
#define KERN_ROWS_H

static INLINE uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Addresses of n tokens' rows from `first` on. */
static void row_addresses(const struct kern_tensor *tensor, uint32_t kv_head, uint32_t first, uint32_t n,
                          const uint8_t **rows)
{
    const uint8_t *base = (const uint8_t *)tensor->base + kv_head * tensor->head_stride;
    uint32_t slot = first % tensor->page_tokens;
    const uint8_t *page = base + (size_t)(first / tensor->page_tokens) * tensor->page_stride;

    for (uint32_t i = 0; i < n; i++) {
        rows[i] = page + slot * tensor->token_stride;
        if (++slot == tensor->page_tokens) {
            slot = 0;
            page += tensor->page_stride;
        }
    }
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
    switch (n) {
    case 1:
        scores_of(1, t, rows);
        break;
    case 2:
        scores_of(2, t, rows);
        break;
    case 3:
        scores_of(3, t, rows);
        break;
    case 4:
        scores_of(4, t, rows);
        break;
    case 5:
        scores_of(5, t, rows);
        break;
    default:
        break;
    }
}

/* The block's keys [key, key + n) to n_rows rows, all dimensions: VALUE_VECTORS vectors at a time, the rest one by one. */
static INLINE void values_of(uint32_t n_rows, const struct kern_tile *t, const uint16_t *rows, uint32_t key, uint32_t n,
                             float *acc)
{
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
        values_block(n_rows, VALUE_VECTORS, weights, at, v + d, t->dim_pad, n);
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++)
            at[r] += VALUE_VECTORS * VL;
    }
    for (; d < t->dim_pad; d += VL) {
        values_block(n_rows, 1, weights, at, v + d, t->dim_pad, n);
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++)
            at[r] += VL;
    }
}

static void values_of_group(const struct kern_tile *t, uint32_t row, uint32_t key, uint32_t n, float *acc)
{
    const uint16_t rows[1] = {(uint16_t)row};

    values_of(1, t, rows, key, n, acc);
}

/* All keys of the block to n rows. */
static void values_of_rows(const struct kern_tile *t, const uint16_t *rows, uint32_t n, float *acc)
{
    for (; n >= 6; n -= 6, rows += 6)
        values_of(6, t, rows, 0, KERN_BLOCK, acc);
    switch (n) {
    case 1:
        values_of(1, t, rows, 0, KERN_BLOCK, acc);
        break;
    case 2:
        values_of(2, t, rows, 0, KERN_BLOCK, acc);
        break;
    case 3:
        values_of(3, t, rows, 0, KERN_BLOCK, acc);
        break;
    case 4:
        values_of(4, t, rows, 0, KERN_BLOCK, acc);
        break;
    case 5:
        values_of(5, t, rows, 0, KERN_BLOCK, acc);
        break;
    default:
        break;
    }
}

#endif
