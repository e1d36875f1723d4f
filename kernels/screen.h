/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks of keys that cannot count, found without their scores. The keys of a block lie in a box, in each dimension
 * between a least and a greatest element; no score in the block is above Σ q·middle + |q|·half width, which costs a
 * thirty-second of the scores themselves (Quest, Tang et al., 2024, ranks pages by the same bound). A row leaves out the
 * blocks whose bound is 2⁻¹²⁶ below its greatest score: their weights would all be zero, so its bits are the same with
 * and without. Heads that look at few positions leave out nearly all; most heads leave out none, and stop asking.
 *
 * Whatever is not a number makes the bound NaN or infinite, and then nothing is left out. */
#ifndef KERN_SCREEN_H
#define KERN_SCREEN_H

#include "rows.h"

/* Fewer rows than this don't pay for the boxes. */
#define SCREEN_ROWS 48u
/* A row must leave out one block in this many. */
#define SCREEN_WORTH 8u
/* Splits without after one that was not worth it; doubled each time. */
#define SCREEN_PAUSE 4u

/* Added to the half width, of the greatest magnitude in the box: more than f32 rounds off in the bound's 512 steps and
 * in the score's 256 (or 512, of q's two halves of 16 bits together), each 2⁻²⁴ of the sum of magnitudes. */
#define SCREEN_MARGIN 2e-4f

static INLINE void box_block_of(enum kern_dtype dtype, const struct kern_tile *t, const uint8_t *const *rows,
                                uint32_t n_keys, float *middles, float *widths)
{
    const uint32_t dim = t->p->head_dim;
    const uint32_t element_size = dtype == KERN_F32 ? 4 : 2;

    for (uint32_t d = 0; d < dim; d += VL) {
        const uint32_t n = min_u32(dim - d, VL);
        float part[2][VL];
        vec least = vec_widen(dtype, rows[0] + d * element_size, n);
        vec greatest = least;
        vec zero = vec_sub(least, least); /* NaN where an element is infinite or NaN, and stays so */
        for (uint32_t i = 1; i < n_keys; i++) {
            const vec x = n == VL ? vec_widen(dtype, rows[i] + d * element_size, VL)
                                  : vec_widen(dtype, rows[i] + d * element_size, n);
            least = vec_lesser(least, x);
            greatest = vec_greater(greatest, x);
            zero = vec_add(zero, vec_sub(x, x));
        }
        const vec middle = vec_add(vec_mul(least, vec_set1(0.5f)), vec_mul(greatest, vec_set1(0.5f)));
        const vec half = vec_sub(greatest, middle);
        const vec magnitude = vec_greater(vec_abs(least), vec_abs(greatest));
        vec_store(part[0], vec_add(middle, zero));
        vec_store(part[1], vec_fma(magnitude, vec_set1(SCREEN_MARGIN), half));
        for (uint32_t i = 0; i < n; i++) {
            middles[(size_t)(d + i) * KERN_SPLIT_BLOCKS] = part[0][i];
            widths[(size_t)(d + i) * KERN_SPLIT_BLOCKS] = part[1][i];
        }
    }
}

static void box_block(const struct kern_tile *t, uint32_t block, uint32_t n_keys)
{
    const uint8_t *rows[KERN_BLOCK];
    float *middles = t->boxes + block % KERN_SPLIT / KERN_BLOCK;
    float *widths = middles + (size_t)t->p->head_dim * KERN_SPLIT_BLOCKS;

    row_addresses(&t->item->k, t->kv_head, block, n_keys, rows);
    BY_DTYPE(t->p->dtype, box_block_of, t, rows, n_keys, middles, widths);
}

/* The bounds of n_rows rows from row r on. */
static INLINE void bound_rows(uint32_t n_rows, const struct kern_tile *t, uint32_t r)
{
    enum { WIDTH = KERN_SPLIT_BLOCKS / VL };
    const uint32_t dim = t->p->head_dim;
    const float *q = t->plain_q + (size_t)r * t->dim_pad;

    for (uint32_t j = 0; j < KERN_SPLIT_BLOCKS; j += VL) {
        const float *middles = t->boxes + j;
        const float *widths = middles + (size_t)dim * KERN_SPLIT_BLOCKS;
        vec sum[PRODUCT_ROWS];
        UNROLL(6)
        for (uint32_t i = 0; i < n_rows; i++)
            sum[i] = vec_set1(0);
        for (uint32_t d = 0; d < dim; d++) {
            const vec middle = vec_load(middles + (size_t)d * KERN_SPLIT_BLOCKS);
            const vec width = vec_load(widths + (size_t)d * KERN_SPLIT_BLOCKS);
            UNROLL(6)
            for (uint32_t i = 0; i < n_rows; i++) {
                const vec x = vec_set1(q[(size_t)i * t->dim_pad + d]);
                sum[i] = vec_fma(x, middle, sum[i]);
                sum[i] = vec_fma(vec_abs(x), width, sum[i]);
            }
        }
        UNROLL(6)
        for (uint32_t i = 0; i < n_rows; i++)
            vec_store(t->bounds + (size_t)(r + i) * KERN_SPLIT_BLOCKS + j,
                      vec_add(sum[i], vec_sub(sum[i], sum[i]))); /* an infinity becomes NaN */
    }
}

/* Fills bounds for the keys [begin, end) of a split. False if it is not worth it. */
static bool screen_split(struct kern_tile *t, uint32_t begin, uint32_t end)
{
    uint32_t r = 0;

    if (t->n_kv_heads > 1 || t->n_rows < SCREEN_ROWS || end - begin <= 2 * KERN_BLOCK)
        return false;
    if (t->screen.wait > 0) {
        t->screen.wait--;
        return false;
    }
    /* blocks that are not there have bounds too, of no meaning; they must not be uninitialised */
    if (end - begin < KERN_SPLIT)
        memset(t->boxes, 0, 2 * (size_t)t->p->head_dim * KERN_SPLIT_BLOCKS * sizeof(float));
    for (uint32_t block = begin; block < end; block += KERN_BLOCK)
        box_block(t, block, min_u32(end - block, KERN_BLOCK));
    for (; r + PRODUCT_ROWS <= t->n_rows; r += PRODUCT_ROWS)
        bound_rows(PRODUCT_ROWS, t, r);
    for (; r < t->n_rows; r++)
        bound_rows(1, t, r);
    return true;
}

/* Of n_rows rows over all blocks of a split, n_scored were not left out. */
static void screen_learn(struct kern_tile *t, uint32_t n_scored, uint32_t n_rows)
{
    if (n_rows - n_scored >= n_rows / SCREEN_WORTH) {
        t->screen.pause = 0;
        return;
    }
    t->screen.pause = t->screen.pause ? 2 * t->screen.pause : SCREEN_PAUSE;
    t->screen.wait = t->screen.pause;
}

#endif
