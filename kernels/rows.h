/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner products for any number of rows and dimensions, from those for a constant number (products_*.h). */
#ifndef KERN_ROWS_H
#define KERN_ROWS_H

static void scores_of_rows(const struct kern_tile *t, uint32_t first_row)
{
    const uint32_t dim = t->p->head_dim;

    for (uint32_t i = 0; i < KERN_BLOCK; i += SCORE_VECTORS * VL)
        for (uint32_t r = first_row; r < t->n_rows; r += PRODUCT_ROWS) {
            const float *q = t->q + (size_t)r * t->dim_pad;
            float *scores = t->scores + (size_t)r * KERN_BLOCK + i;
            switch (t->n_rows - r) {
            case 1:
                scores_block(1, q, t->dim_pad, t->k + i, dim, scores);
                break;
            case 2:
                scores_block(2, q, t->dim_pad, t->k + i, dim, scores);
                break;
            case 3:
                scores_block(3, q, t->dim_pad, t->k + i, dim, scores);
                break;
            case 4:
                scores_block(4, q, t->dim_pad, t->k + i, dim, scores);
                break;
            case 5:
                scores_block(5, q, t->dim_pad, t->k + i, dim, scores);
                break;
            default:
                scores_block(6, q, t->dim_pad, t->k + i, dim, scores);
            }
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
