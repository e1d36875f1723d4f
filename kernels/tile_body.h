/* SPDX-License-Identifier: Apache-2.0
 *
 * The template of all tile_*.c: flash attention (Dao et al., 2022) for a tile of rows over one split. Included once by
 * each, after its vectors (vec_*.h) and its inner products (products_*.h, rows.h).
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
 * V. Splits are computed apart, so each would have to find that greatest score anew; therefore they all begin with the
 * row's floor, the greatest score in its newest two blocks (of its newest split), which each can find for itself. */
#ifndef KERN_TILE_BODY_H
#define KERN_TILE_BODY_H

#include <string.h>

#include "screen.h"

#define VECTORS    (KERN_BLOCK / VL) /* of a row's scores in a block */
#define GROUPS     (KERN_BLOCK / KERN_GROUP)
#define ALL_GROUPS ((1u << GROUPS) - 1)

/* Keys that row r attends to in the block. */
static INLINE uint32_t keys_in_block(const struct kern_tile *t, uint32_t r, uint32_t block)
{
    return min_u32(t->limits[r] - block, KERN_BLOCK);
}

/* Row r's scores of its n keys in a block, -∞ beyond. False if none of them can count; else raises max to the greatest,
 * or makes it NaN if one is. */
static INLINE bool load_scores(const struct kern_tile *t, uint32_t r, uint32_t n, vec s[VECTORS], float *max)
{
    const float *scores = t->scores + (size_t)r * KERN_BLOCK;

    UNROLL(16)
    for (uint32_t j = 0; j < VECTORS; j++)
        s[j] = vec_load(scores + j * VL);
    if (n < KERN_BLOCK)
        for (uint32_t j = 0; j < VECTORS; j++)
            s[j] = vec_first_lanes(s[j], n > j * VL ? min_u32(n - j * VL, VL) : 0);
    const vec lane_max = vec_max(s);
    const bool nan = vec_any_nan(s);
    if (!nan && !vec_any_at_least(vec_sub(lane_max, vec_set1(*max)), KERN_LEAST_EXPONENT))
        return false;
    const float block_max = nan ? __builtin_nanf("") : vec_hmax(lane_max);
    if (!(block_max <= *max))
        *max = block_max;
    return true;
}

/* Turns row r's scores of its n keys in a block into weights. Returns the groups that have a weight other than zero. */
static uint8_t weigh(const struct kern_tile *t, uint32_t r, uint32_t n, const struct kern_rows *part)
{
    float *sums = t->lane_sums + (size_t)r * KERN_MAX_LANES;
    vec s[VECTORS];
    float max = part->max[r];

    if (!load_scores(t, r, n, s, &max))
        return 0;
    if (max != part->max[r]) {
        const vec shrink = vec_set1(vec_lane0(vec_exp2(vec_set1(part->max[r] - max))));
        float *acc = part->acc + (size_t)r * t->dim_pad;
        vec_store(sums, vec_mul(vec_load(sums), shrink));
        for (uint32_t d = 0; d < t->dim_pad; d += VL)
            vec_store(acc + d, vec_mul(vec_load(acc + d), shrink));
        part->max[r] = max;
    }
    uint8_t groups = 0;
    UNROLL(16)
    for (uint32_t j = 0; j < VECTORS; j++) {
        s[j] = vec_exp2(vec_sub(s[j], vec_set1(max)));
        groups |= (uint8_t)(vec_any(s[j]) << (j * VL / KERN_GROUP));
    }
    vec_store(sums, vec_add(vec_load(sums), store_weights(t->scores + (size_t)r * KERN_BLOCK, s)));
    /* where the row's maximum is NaN, so are the weights beyond its keys */
    return groups & (uint8_t)((1u << (n + KERN_GROUP - 1) / KERN_GROUP) - 1);
}

/* Adds weights × V of the block's keys to the accumulators of the active rows. */
static void add_values(const struct kern_tile *t, uint32_t n_active, uint32_t block, float *acc)
{
    uint32_t n_full = 0;

    for (uint32_t i = 0; i < n_active; i++) {
        const uint16_t r = t->active[i];
        const uint32_t n = keys_in_block(t, r, block);
        if (n == KERN_BLOCK && t->groups[r] == ALL_GROUPS) {
            t->full[n_full++] = r;
            continue;
        }
        for (uint32_t g = 0; t->groups[r] >> g != 0; g++)
            if (t->groups[r] >> g & 1)
                values_of_group(t, r, g * KERN_GROUP, min_u32(n - g * KERN_GROUP, KERN_GROUP), acc);
    }
    values_of_rows(t, t->full, n_full, acc);
}

/* The rows in [first, end) whose scores in the block are to be computed. */
static uint32_t choose_rows(const struct kern_tile *t, uint32_t first, uint32_t end, uint32_t block, bool screened,
                            const float *max)
{
    const float *bounds = t->bounds + block % KERN_SPLIT / KERN_BLOCK;
    uint32_t n = 0;

    for (uint32_t r = first; r < end; r++) {
        t->active[n] = (uint16_t)r;
        n += !(screened && bounds[(size_t)r * KERN_SPLIT_BLOCKS] - max[r] < KERN_LEAST_EXPONENT);
    }
    return n;
}

/* The scores of active rows, all of one KV head, in a block. */
static void score_block(const struct kern_tile *t, uint32_t kv_head, uint32_t n_active, uint32_t block)
{
    struct block_rows rows;
    const uint32_t n_keys = keys_in_block(t, t->active[n_active - 1], block);

    block_addresses(t, &t->item->k, kv_head, block, n_keys, &rows);
    if (n_active <= PRODUCT_ROWS) {
        scores_of_few_rows(t, t->active, n_active, &rows, n_keys);
        return;
    }
    load_keys(t, rows.now, n_keys, &rows.ahead);
    scores_of_rows(t, t->active, n_active);
}

static void attend_block(const struct kern_tile *t, uint32_t kv_head, uint32_t n_active, uint32_t block,
                         const struct kern_rows *part)
{
    const uint32_t split = block / KERN_SPLIT * KERN_SPLIT;
    struct block_rows rows;
    uint8_t groups = 0;
    bool all_full = t->p->head_dim == t->dim_pad; /* few rows are read by whole vectors */

    score_block(t, kv_head, n_active, block);
    for (uint32_t i = 0; i < n_active; i++) {
        const uint16_t r = t->active[i];
        t->groups[r] = weigh(t, r, keys_in_block(t, r, block), part);
        groups |= t->groups[r];
        all_full = all_full && t->groups[r] == ALL_GROUPS && keys_in_block(t, r, block) == KERN_BLOCK;
        if (t->limits[r] - block <= 2 * KERN_BLOCK && t->limits[r] - split <= KERN_SPLIT)
            t->floors[r] = part->max[r];
    }
    if (groups == 0)
        return;
    const uint32_t n_keys = keys_in_block(t, t->active[n_active - 1], block);
    block_addresses(t, &t->item->v, kv_head, block, n_keys, &rows);
    if (all_full && n_active <= PRODUCT_ROWS) {
        values_of_few_rows(t, t->active, n_active, part->acc, &rows);
        return;
    }
    for (uint32_t g = 0; g < GROUPS; g++)
        if (groups >> g & 1)
            load_values(t, rows.now, g * KERN_GROUP, min_u32(n_keys - g * KERN_GROUP, KERN_GROUP), &rows.ahead);
    add_values(t, n_active, block, part->acc);
}

/* Where row r's query is in the item. */
static void locate_row(const struct kern_tile *t, uint32_t r, uint32_t *query, size_t *at)
{
    const uint32_t row = t->first_row + r % t->head_rows;
    const uint32_t head = (t->kv_head + r / t->head_rows) * t->group + row % t->group;

    *query = row / t->group;
    *at = (size_t)head * t->p->head_dim;
}

static void tile_begin(struct kern_tile *t)
{
    const struct kern_attention_item *item = t->item;
    const uint32_t dim = t->p->head_dim;
    const float scale = t->p->scale * 0x1.715476p0f; /* log2 e: weights are powers of two */

    for (uint32_t r = 0; r < t->n_rows; r++) {
        float *dst = t->plain_q + (size_t)r * t->dim_pad;
        uint32_t query;
        size_t at;
        locate_row(t, r, &query, &at);
        t->limits[r] = item->first_pos + query + 1;
        for (uint32_t d = 0; d < dim; d++)
            dst[d] = item->q[query * item->q_stride + at + d] * scale;
        for (uint32_t d = dim; d < t->dim_pad; d++)
            dst[d] = 0;
        prepare_query(t, r);
    }
}

/* The first of the newest two blocks of row r's newest split; its last one is the block of its last key. */
static uint32_t floor_begin(const struct kern_tile *t, uint32_t r)
{
    const uint32_t last = t->limits[r] - 1;
    const uint32_t block = last / KERN_BLOCK * KERN_BLOCK;

    return block % KERN_SPLIT ? block - KERN_BLOCK : block;
}

static void find_floors_in(struct kern_tile *t, uint32_t head, uint32_t block)
{
    uint32_t n = 0;

    for (uint32_t r = head * t->head_rows; r < (head + 1) * t->head_rows; r++)
        if (block < t->limits[r] && block >= floor_begin(t, r))
            t->active[n++] = (uint16_t)r;
    if (n > 0)
        score_block(t, t->kv_head + head, n, block);
    for (uint32_t i = 0; i < n; i++) {
        const uint16_t r = t->active[i];
        vec s[VECTORS];
        load_scores(t, r, keys_in_block(t, r, block), s, &t->floors[r]);
    }
}

static void tile_find_floors(struct kern_tile *t)
{
    const uint32_t oldest = floor_begin(t, 0);

    for (uint32_t r = 0; r < t->n_rows; r++)
        t->floors[r] = KERN_NO_MAX;
    for (uint32_t block = (t->limits[t->n_rows - 1] - 1) / KERN_BLOCK * KERN_BLOCK;; block -= KERN_BLOCK) {
        for (uint32_t head = 0; head < t->n_kv_heads; head++)
            find_floors_in(t, head, block);
        if (block == oldest)
            break;
    }
}

static void clear_rows(struct kern_tile *t, uint32_t begin, const struct kern_rows *part)
{
    memset(part->acc, 0, (size_t)t->n_rows * t->dim_pad * sizeof(float));
    memset(t->lane_sums, 0, (size_t)t->n_rows * KERN_MAX_LANES * sizeof(float));
    for (uint32_t r = 0; r < t->n_rows; r++)
        part->max[r] = t->limits[r] > begin && t->limits[r] - begin > KERN_SPLIT ? t->floors[r] : KERN_NO_MAX;
}

static void tile_split(struct kern_tile *t, uint32_t split, const struct kern_rows *part)
{
    const uint32_t begin = split * KERN_SPLIT;
    const uint32_t end = min_u32(t->limits[t->n_rows - 1] - begin, KERN_SPLIT) + begin;
    uint32_t first_row = t->head_rows; /* of a head that sees a key of the block */
    uint32_t n_scored = 0;
    uint32_t n_rows = 0;

    clear_rows(t, begin, part);
    const bool screened = screen_split(t, begin, end);
    for (uint32_t block = (end - 1) / KERN_BLOCK * KERN_BLOCK;; block -= KERN_BLOCK) {
        while (first_row > 0 && t->limits[first_row - 1] > block)
            first_row--;
        for (uint32_t head = 0; head < t->n_kv_heads; head++) {
            const uint32_t base = head * t->head_rows;
            const uint32_t n_active = choose_rows(t, base + first_row, base + t->head_rows, block, screened, part->max);
            if (n_active > 0)
                attend_block(t, t->kv_head + head, n_active, block, part);
            n_scored += n_active;
            n_rows += t->head_rows - first_row;
        }
        if (block == begin)
            break;
    }
    if (screened)
        screen_learn(t, n_scored, n_rows);
    for (uint32_t r = 0; r < t->n_rows; r++)
        part->sum[r] = vec_hsum(vec_load(t->lane_sums + (size_t)r * KERN_MAX_LANES));
}

static void tile_fold(struct kern_tile *t, const struct kern_rows *total, const struct kern_rows *part)
{
    for (uint32_t r = 0; r < t->n_rows; r++) {
        float *to = total->acc + (size_t)r * t->dim_pad;
        const float *from = part->acc + (size_t)r * t->dim_pad;
        const float gap = part->max[r] - total->max[r];
        if (part->sum[r] == 0 || gap < KERN_LEAST_EXPONENT)
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

static void tile_finish(struct kern_tile *t, const struct kern_rows *total)
{
    const struct kern_attention_item *item = t->item;

    for (uint32_t r = 0; r < t->n_rows; r++) {
        const float *acc = total->acc + (size_t)r * t->dim_pad;
        uint32_t query;
        size_t at;
        locate_row(t, r, &query, &at);
        for (uint32_t d = 0; d < t->p->head_dim; d++)
            item->out[query * item->out_stride + at + d] = acc[d] / total->sum[r];
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

#define TILE_OPS(two)                                                                                                  \
    {                                                                                                                  \
        .two_queries = (two), .begin = tile_begin, .find_floors = tile_find_floors, .split = tile_split,               \
        .fold = tile_fold, .finish = tile_finish, .narrow = tile_narrow                                                \
    }

#endif
