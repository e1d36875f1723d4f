/* SPDX-License-Identifier: Apache-2.0
 *
 * The template of all tile_*.c: flash attention (Dao et al., 2022) for a tile of rows over one split. Included once by
 * each, after its vectors (vec_*.h) and its inner products (products_*.h).
 *
 * A row's bits depend on the row alone because:
 * - a score is one chain of multiply-adds over ascending dimensions, whatever rows are computed beside it;
 * - blocks lie at multiples of KERN_BLOCK from token 0 and are visited from the newest to the oldest;
 * - weights are added to the accumulator in one chain over ascending keys, and a group of keys whose weights are all
 *   zero is left out, by the row's own weights;
 * - keys above the row's position are never touched: a short block has a shorter chain, not zeros in it.
 *
 * The order from new to old is for speed: the scores near the query are the greatest as a rule, and what lies
 * 2⁻¹²⁶ below the greatest one seen weighs nothing, so a block of such keys costs no exponentials and no products with
 * V. That block's V is then not looked at, so a NaN in it does not reach the output. A NaN in K or in q does. */
#ifndef KERN_TILE_BODY_H
#define KERN_TILE_BODY_H

#include <string.h>

#define VECTORS (KERN_BLOCK / VL) /* of a row's scores in a block */
#define GROUPS  (KERN_BLOCK / KERN_GROUP)

static uint32_t min_u32(uint32_t a, uint32_t b)
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

/* Turns row r's scores of a block into weights. n: its keys in the block, 1 … KERN_BLOCK. Returns the groups that have
 * a weight other than zero. */
static uint8_t weigh(const struct kern_tile *t, uint32_t r, uint32_t n, const struct kern_rows *part)
{
    float *scores = t->scores + (size_t)r * KERN_BLOCK;
    float *sums = t->lane_sums + (size_t)r * KERN_MAX_LANES;
    vec s[VECTORS];
    float max = part->max[r];

    UNROLL(VECTORS)
    for (uint32_t j = 0; j < VECTORS; j++)
        s[j] = vec_load(scores + j * VL);
    if (n < KERN_BLOCK)
        for (uint32_t j = 0; j < VECTORS; j++)
            s[j] = vec_first_lanes(s[j], n > j * VL ? min_u32(n - j * VL, VL) : 0);
    const vec lane_max = vec_max(s);
    const bool nan = vec_any_nan(s);
    if (!nan && !vec_any_at_least(vec_sub(lane_max, vec_set1(max)), KERN_LEAST_EXPONENT))
        return 0;
    const float block_max = nan ? __builtin_nanf("") : vec_hmax(lane_max);
    if (!(block_max <= max)) {
        const float shrink = vec_lane0(vec_exp2(vec_set1(max - block_max)));
        float *acc = part->acc + (size_t)r * t->dim_pad;
        vec_store(sums, vec_mul(vec_load(sums), vec_set1(shrink)));
        for (uint32_t d = 0; d < t->dim_pad; d += VL)
            vec_store(acc + d, vec_mul(vec_load(acc + d), vec_set1(shrink)));
        part->max[r] = max = block_max;
    }
    uint8_t groups = 0;
    for (uint32_t j = 0; j < VECTORS; j++) {
        s[j] = vec_exp2(vec_sub(s[j], vec_set1(max)));
        groups |= (uint8_t)(vec_any(s[j]) << (j * VL / KERN_GROUP));
    }
    vec_store(sums, vec_add(vec_load(sums), store_weights(scores, s)));
    /* where the row's maximum is NaN, so are the weights beyond its keys */
    return groups & (uint8_t)((1u << (n + KERN_GROUP - 1) / KERN_GROUP) - 1);
}

/* Adds weights × V of the block's keys to the accumulators of rows [first_row, n_rows). */
static void add_values(const struct kern_tile *t, uint32_t first_row, uint32_t block, float *acc)
{
    uint32_t n_full = 0;

    for (uint32_t r = first_row; r < t->n_rows; r++) {
        const uint32_t n = min_u32(t->limits[r] - block, KERN_BLOCK);
        if (n == KERN_BLOCK && t->groups[r] == (1u << GROUPS) - 1) {
            t->full_rows[n_full++] = (uint16_t)r;
            continue;
        }
        for (uint32_t g = 0; g < GROUPS; g++)
            if (t->groups[r] >> g & 1)
                values_of_group(t, r, g * KERN_GROUP, min_u32(n - g * KERN_GROUP, KERN_GROUP), acc);
    }
    values_of_rows(t, t->full_rows, n_full, acc);
}

static void attend_block(const struct kern_tile *t, uint32_t first_row, uint32_t block, const struct kern_rows *part)
{
    const uint32_t n_keys = min_u32(t->limits[t->n_rows - 1] - block, KERN_BLOCK);
    const uint8_t *rows[KERN_BLOCK];
    uint8_t groups = 0;

    row_addresses(&t->item->k, t->kv_head, block, n_keys, rows);
    load_keys(t, rows, n_keys);
    scores_of_rows(t, first_row);
    for (uint32_t r = first_row; r < t->n_rows; r++) {
        t->groups[r] = weigh(t, r, min_u32(t->limits[r] - block, KERN_BLOCK), part);
        groups |= t->groups[r];
    }
    if (groups == 0)
        return;
    row_addresses(&t->item->v, t->kv_head, block, n_keys, rows);
    for (uint32_t g = 0; g < GROUPS; g++)
        if (groups >> g & 1)
            load_values(t, rows, g * KERN_GROUP, min_u32(n_keys - g * KERN_GROUP, KERN_GROUP));
    add_values(t, first_row, block, part->acc);
}

static void tile_begin(const struct kern_tile *t)
{
    const struct kern_attention_item *item = t->item;
    const uint32_t dim = t->p->head_dim;
    const float scale = t->p->scale * 0x1.715476p0f; /* log2 e: weights are powers of two */

    for (uint32_t r = 0; r < t->n_rows; r++) {
        const uint32_t query = (t->first_row + r) / t->group;
        const uint32_t head = t->kv_head * t->group + (t->first_row + r) % t->group;
        const float *src = item->q + query * item->q_stride + (size_t)head * dim;
        float *dst = t->q + (size_t)r * t->dim_pad;
        t->limits[r] = item->first_pos + query + 1;
        for (uint32_t d = 0; d < dim; d++)
            dst[d] = src[d] * scale;
        for (uint32_t d = dim; d < t->dim_pad; d++)
            dst[d] = 0;
        prepare_query(dst, t->dim_pad);
    }
}

static void tile_split(const struct kern_tile *t, uint32_t split, const struct kern_rows *part)
{
    const uint32_t begin = split * KERN_SPLIT;
    const uint32_t end = min_u32(t->limits[t->n_rows - 1] - begin, KERN_SPLIT) + begin;
    uint32_t first_row = t->n_rows;

    memset(part->acc, 0, (size_t)t->n_rows * t->dim_pad * sizeof(float));
    memset(t->lane_sums, 0, (size_t)t->n_rows * KERN_MAX_LANES * sizeof(float));
    for (uint32_t r = 0; r < t->n_rows; r++)
        part->max[r] = KERN_NO_MAX;

    for (uint32_t block = (end - 1) / KERN_BLOCK * KERN_BLOCK;; block -= KERN_BLOCK) {
        while (first_row > 0 && t->limits[first_row - 1] > block)
            first_row--;
        attend_block(t, first_row, block, part);
        if (block == begin)
            break;
    }
    for (uint32_t r = 0; r < t->n_rows; r++)
        part->sum[r] = vec_hsum(vec_load(t->lane_sums + (size_t)r * KERN_MAX_LANES));
}

static void tile_fold(const struct kern_tile *t, const struct kern_rows *total, const struct kern_rows *part)
{
    for (uint32_t r = 0; r < t->n_rows; r++) {
        float *to = total->acc + (size_t)r * t->dim_pad;
        const float *from = part->acc + (size_t)r * t->dim_pad;
        const float gap = part->max[r] - total->max[r];
        if (part->max[r] == KERN_NO_MAX || gap < KERN_LEAST_EXPONENT)
            continue;
        const float shrink = gap > 0 ? vec_lane0(vec_exp2(vec_set1(-gap))) : 1;
        const float weight = gap > 0 ? 1 : vec_lane0(vec_exp2(vec_set1(gap)));
        if (!(gap <= 0))
            total->max[r] = part->max[r];
        total->sum[r] = total->sum[r] * shrink + part->sum[r] * weight;
        for (uint32_t d = 0; d < t->dim_pad; d += VL)
            vec_store(to + d,
                      vec_fma(vec_load(from + d), vec_set1(weight), vec_mul(vec_load(to + d), vec_set1(shrink))));
    }
}

static void tile_finish(const struct kern_tile *t, const struct kern_rows *total)
{
    const struct kern_attention_item *item = t->item;
    const uint32_t dim = t->p->head_dim;

    for (uint32_t r = 0; r < t->n_rows; r++) {
        const uint32_t query = (t->first_row + r) / t->group;
        const uint32_t head = t->kv_head * t->group + (t->first_row + r) % t->group;
        const float *acc = total->acc + (size_t)r * t->dim_pad;
        float *out = item->out + query * item->out_stride + (size_t)head * dim;
        for (uint32_t d = 0; d < dim; d++)
            out[d] = acc[d] / total->sum[r];
    }
}

static void tile_narrow(enum kern_dtype dtype, void *dst, const float *src, uint32_t n)
{
    const uint32_t element_size = dtype == KERN_F32 ? 4 : 2;
    uint32_t i = 0;

    for (; i + VL <= n; i += VL)
        vec_narrow(dtype, (uint8_t *)dst + i * element_size, vec_load(src + i), VL);
    if (i < n) {
        float part[VL] = {0};
        memcpy(part, src + i, (n - i) * sizeof(float));
        vec_narrow(dtype, (uint8_t *)dst + i * element_size, vec_load(part), n - i);
    }
}

#define TILE_OPS                                                                                                       \
    {                                                                                                                  \
        .begin = tile_begin, .split = tile_split, .fold = tile_fold, .finish = tile_finish, .narrow = tile_narrow      \
    }

#endif
