/* SPDX-License-Identifier: Apache-2.0
 *
 * The planner: cuts the items into tasks for the pool and lays out the scratch. A task is a tile of rows over all its
 * keys, or, where rows are few and keys many, a tile over one split; then the thread that finishes a tile's last split
 * folds them. The cut is for speed and room only: either way the same numbers are folded in the same order. */
#include "attention.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "tile.h"

#define ALIGN 64u

/* A tile of at most this many rows may be cut by splits. */
#define FEW_ROWS 64u
/* … while there are fewer uncut tasks than this for each thread, */
#define TASKS_ENOUGH 16u
/* … and the splits' states take no more than this. */
#define PARTIALS_MAX (64u << 20)

/* An item's share of the tasks; the array lies in the scratch. */
struct item_plan {
    uint32_t first_task;
    uint32_t n_tiles; /* for each KV head; 1 where splits are tasks of their own */
    uint32_t tile_rows;
    uint32_t n_splits; /* tasks of a tile */
    size_t partials;   /* offset of [kv_head][split] states; only if n_splits > 1 */
    size_t pending;    /* index of [kv_head] counters; only if n_splits > 1 */
};

/* Scratch: item plans, then counters of splits done, then states of splits, then a part for each thread. */
struct plan {
    const struct kern_attention_params *p;
    const struct kern_attention_item *items;
    const struct kern_tile_ops *ops;
    size_t n_items;
    uint32_t n_tasks;
    uint32_t group; /* query heads for each KV head */
    uint32_t dim_pad;
    uint32_t max_rows; /* of a tile */
    size_t n_counters;
    /* Offsets of the scratch's parts, then of the parts of one thread's part. */
    size_t counters_at, partials_at, threads_at, bytes;
    size_t q_at, plain_q_at, k_at, v_at, scores_at, sums_at, floors_at, bounds_at, boxes_at, limits_at, groups_at;
    size_t active_at, full_at, part_at, total_at, thread_bytes;
    uint8_t *scratch;
};

static size_t align_up(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static bool params_valid(const struct kern_attention_params *p)
{
    return p->n_kv_heads > 0 && p->n_heads > 0 && p->n_heads % p->n_kv_heads == 0 && p->head_dim > 0 &&
           p->head_dim <= KERN_MAX_HEAD_DIM && (uint32_t)p->dtype <= KERN_F32 && (uint32_t)p->isa <= kern_isa_best();
}

static bool item_valid(const struct kern_attention_params *p, const struct kern_attention_item *item)
{
    const size_t row = (size_t)p->n_heads * p->head_dim;

    return item->k.base && item->v.base && item->k.page_tokens > 0 && item->v.page_tokens > 0 && item->q && item->out &&
           item->n_queries > 0 && item->q_stride >= row && item->out_stride >= row &&
           (uint64_t)item->first_pos + item->n_queries <= UINT32_MAX - KERN_SPLIT &&
           (uint64_t)item->n_queries * (p->n_heads / p->n_kv_heads) <= UINT32_MAX - KERN_TILE_ROWS;
}

static size_t state_floats(const struct plan *plan, uint32_t n_rows)
{
    return align_up((size_t)n_rows * (2 + (size_t)plan->dim_pad) * sizeof(float)) / sizeof(float);
}

static uint32_t rows_of(const struct plan *plan, const struct kern_attention_item *item)
{
    return item->n_queries * plan->group;
}

/* Tasks if no tile is cut by splits; 0 if they are too many to count. */
static uint32_t count_tiles(const struct plan *plan)
{
    uint64_t n = 0;

    for (size_t i = 0; i < plan->n_items; i++)
        n += (uint64_t)plan->p->n_kv_heads * ((rows_of(plan, &plan->items[i]) + KERN_TILE_ROWS - 1) / KERN_TILE_ROWS);
    return n <= UINT32_MAX / 2 ? (uint32_t)n : 0;
}

/* Takes `bytes` at the end of a part that has `*end` so far; returns where they begin. */
static size_t take(size_t *end, size_t bytes)
{
    const size_t begin = *end;

    *end = begin + align_up(bytes);
    return begin;
}

static void lay_out_thread(struct plan *plan)
{
    const size_t rows = plan->max_rows;
    const size_t block = (size_t)plan->dim_pad * KERN_BLOCK * sizeof(float);
    const size_t state = state_floats(plan, plan->max_rows) * sizeof(float);
    size_t end = 0;

    plan->q_at = take(&end, rows * plan->dim_pad * sizeof(float));
    plan->plain_q_at = plan->ops->two_queries ? take(&end, rows * plan->dim_pad * sizeof(float)) : plan->q_at;
    plan->k_at = take(&end, block);
    plan->v_at = take(&end, block);
    plan->scores_at = take(&end, rows * KERN_BLOCK * sizeof(float));
    plan->sums_at = take(&end, rows * KERN_MAX_LANES * sizeof(float));
    plan->floors_at = take(&end, rows * sizeof(float));
    plan->bounds_at = take(&end, rows * KERN_SPLIT_BLOCKS * sizeof(float));
    plan->boxes_at = take(&end, 2 * (size_t)plan->p->head_dim * KERN_SPLIT_BLOCKS * sizeof(float));
    plan->limits_at = take(&end, rows * sizeof(uint32_t));
    plan->groups_at = take(&end, rows);
    plan->active_at = take(&end, rows * sizeof(uint16_t));
    plan->full_at = take(&end, rows * sizeof(uint16_t));
    plan->part_at = take(&end, state);
    plan->total_at = take(&end, state);
    plan->thread_bytes = end;
}

/* Fills the plan, and the item plans if table is given. False if a parameter is out of its bounds. */
static bool make_plan(const struct kern_attention_params *p, const struct kern_attention_item *items, size_t n_items,
                      uint32_t n_threads, struct plan *plan, struct item_plan *table)
{
    if (!params_valid(p))
        return false;
    for (size_t i = 0; i < n_items; i++)
        if (!item_valid(p, &items[i]))
            return false;
    *plan = (struct plan){.p = p,
                          .items = items,
                          .ops = kern_tile_ops(p->isa, p->dtype),
                          .n_items = n_items,
                          .group = p->n_heads / p->n_kv_heads};
    plan->dim_pad = (p->head_dim + 15) / 16 * 16;
    const uint32_t n_tiles = count_tiles(plan);
    if (n_tiles == 0 && n_items > 0)
        return false;

    const bool cut = n_threads > 1 && n_tiles < (uint64_t)n_threads * TASKS_ENOUGH;
    size_t partial_bytes = 0;
    for (size_t i = 0; i < n_items; i++) {
        const uint32_t n_rows = rows_of(plan, &items[i]);
        const uint32_t n_splits = (items[i].first_pos + items[i].n_queries + KERN_SPLIT - 1) / KERN_SPLIT;
        const size_t bytes = state_floats(plan, n_rows) * sizeof(float) * n_splits * p->n_kv_heads;
        struct item_plan own = {.first_task = plan->n_tasks, .n_splits = 1};
        own.n_tiles = (n_rows + KERN_TILE_ROWS - 1) / KERN_TILE_ROWS;
        own.tile_rows = (n_rows + own.n_tiles - 1) / own.n_tiles;
        if (cut && n_rows <= FEW_ROWS && n_splits > 1 && partial_bytes + bytes <= PARTIALS_MAX) {
            own.n_splits = n_splits;
            own.partials = partial_bytes;
            own.pending = plan->n_counters;
            partial_bytes += bytes;
            plan->n_counters += p->n_kv_heads;
        }
        plan->n_tasks += p->n_kv_heads * own.n_tiles * own.n_splits;
        plan->max_rows = min_u32(n_rows > plan->max_rows ? n_rows : plan->max_rows, KERN_TILE_ROWS);
        if (table)
            table[i] = own;
    }
    plan->counters_at = align_up(n_items * sizeof(struct item_plan));
    plan->partials_at = plan->counters_at + align_up(plan->n_counters * sizeof(atomic_uint));
    plan->threads_at = plan->partials_at + partial_bytes;
    lay_out_thread(plan);
    plan->bytes = plan->threads_at + n_threads * plan->thread_bytes;
    return true;
}

static struct kern_rows state_in(const struct plan *plan, uint8_t *at, uint32_t n_rows)
{
    float *acc = (float *)at;

    return (struct kern_rows){
        .acc = acc, .max = acc + (size_t)n_rows * plan->dim_pad, .sum = acc + (size_t)n_rows * (plan->dim_pad + 1)};
}

/* A tile on a thread, and that thread's room for states. */
struct work {
    struct kern_tile tile;
    struct kern_rows part, total;
};

static void begin_tile(const struct plan *plan, const struct kern_attention_item *item, uint32_t kv_head,
                       uint32_t first_row, uint32_t max_rows, uint32_t thread, struct work *work)
{
    uint8_t *at = plan->scratch + plan->threads_at + thread * plan->thread_bytes;
    const uint32_t n_rows = min_u32(rows_of(plan, item) - first_row, max_rows);

    work->tile = (struct kern_tile){.p = plan->p,
                                    .item = item,
                                    .kv_head = kv_head,
                                    .first_row = first_row,
                                    .n_rows = n_rows,
                                    .group = plan->group,
                                    .dim_pad = plan->dim_pad,
                                    .q = (float *)(at + plan->q_at),
                                    .plain_q = (float *)(at + plan->plain_q_at),
                                    .k = (float *)(at + plan->k_at),
                                    .v = (float *)(at + plan->v_at),
                                    .scores = (float *)(at + plan->scores_at),
                                    .lane_sums = (float *)(at + plan->sums_at),
                                    .floors = (float *)(at + plan->floors_at),
                                    .bounds = (float *)(at + plan->bounds_at),
                                    .boxes = (float *)(at + plan->boxes_at),
                                    .limits = (uint32_t *)(at + plan->limits_at),
                                    .groups = at + plan->groups_at,
                                    .active = (uint16_t *)(at + plan->active_at),
                                    .full = (uint16_t *)(at + plan->full_at)};
    work->part = state_in(plan, at + plan->part_at, n_rows);
    work->total = state_in(plan, at + plan->total_at, n_rows);
    plan->ops->begin(&work->tile);
}

static void clear_total(const struct work *work)
{
    memset(work->total.acc, 0, (size_t)work->tile.n_rows * work->tile.dim_pad * sizeof(float));
    for (uint32_t r = 0; r < work->tile.n_rows; r++) {
        work->total.max[r] = KERN_NO_MAX;
        work->total.sum[r] = 0;
    }
}

static void run_tile(const struct plan *plan, const struct kern_attention_item *item, const struct item_plan *own,
                     uint32_t kv_head, uint32_t tile, uint32_t thread)
{
    struct work work;

    begin_tile(plan, item, kv_head, tile * own->tile_rows, own->tile_rows, thread, &work);
    clear_total(&work);
    for (uint32_t split = (work.tile.limits[work.tile.n_rows - 1] - 1) / KERN_SPLIT + 1; split-- > 0;) {
        plan->ops->split(&work.tile, split, &work.part);
        plan->ops->fold(&work.tile, &work.total, &work.part);
    }
    plan->ops->finish(&work.tile, &work.total);
}

/* One split of a tile of few rows; the last one done for its KV head folds them all. */
static void run_split(const struct plan *plan, const struct kern_attention_item *item, const struct item_plan *own,
                      uint32_t kv_head, uint32_t split, uint32_t thread)
{
    const uint32_t n_rows = rows_of(plan, item);
    const size_t state_bytes = state_floats(plan, n_rows) * sizeof(float);
    uint8_t *states = plan->scratch + plan->partials_at + own->partials + kv_head * own->n_splits * state_bytes;
    atomic_uint *done = (atomic_uint *)(plan->scratch + plan->counters_at) + own->pending + kv_head;
    struct work work;

    begin_tile(plan, item, kv_head, 0, n_rows, thread, &work);
    const struct kern_rows state = state_in(plan, states + split * state_bytes, n_rows);
    if (split + 1 < own->n_splits)
        plan->ops->find_floors(&work.tile);
    plan->ops->split(&work.tile, split, &state);
    if (atomic_fetch_add_explicit(done, 1, memory_order_acq_rel) + 1 < own->n_splits)
        return;
    clear_total(&work);
    for (uint32_t i = own->n_splits; i-- > 0;) {
        const struct kern_rows part = state_in(plan, states + i * state_bytes, n_rows);
        plan->ops->fold(&work.tile, &work.total, &part);
    }
    plan->ops->finish(&work.tile, &work.total);
}

/* The item whose tasks hold `task`: the last one that begins at or before it. */
static size_t item_of_task(const struct plan *plan, const struct item_plan *table, uint32_t task)
{
    size_t low = 0;
    size_t high = plan->n_items;

    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (table[middle].first_task <= task)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void run_task(void *ctx, uint32_t task, uint32_t thread)
{
    const struct plan *plan = ctx;
    const struct item_plan *table = (const struct item_plan *)plan->scratch;
    const size_t i = item_of_task(plan, table, task);
    const struct item_plan *own = &table[i];
    const uint32_t n = task - own->first_task;

    /* By KV head, so that threads at work on one share its K and V in the cache; long tiles first, for balance. */
    if (own->n_splits > 1)
        run_split(plan, &plan->items[i], own, n / own->n_splits, own->n_splits - 1 - n % own->n_splits, thread);
    else
        run_tile(plan, &plan->items[i], own, n / own->n_tiles, own->n_tiles - 1 - n % own->n_tiles, thread);
}

size_t kern_attention_scratch(const struct kern_attention_params *p, const struct kern_attention_item *items,
                              size_t n_items, uint32_t n_threads)
{
    struct plan plan;

    return make_plan(p, items, n_items, n_threads, &plan, NULL) ? plan.bytes : 0;
}

int kern_attention(const struct kern_attention_params *p, const struct kern_attention_item *items, size_t n_items,
                   void *scratch, struct kern_pool *pool)
{
    struct plan plan;

    if (n_items == 0)
        return params_valid(p) ? 0 : -EINVAL;
    if (!scratch || (uintptr_t)scratch % ALIGN != 0 ||
        !make_plan(p, items, n_items, kern_pool_size(pool), &plan, scratch))
        return -EINVAL;
    plan.scratch = scratch;
    atomic_uint *counters = (atomic_uint *)(plan.scratch + plan.counters_at);
    for (size_t i = 0; i < plan.n_counters; i++)
        atomic_init(&counters[i], 0);
    kern_pool_run(pool, plan.n_tasks, run_task, &plan);
    return 0;
}

void kern_store(const struct kern_attention_params *p, const struct kern_tensor *dst, uint32_t first_pos,
                uint32_t n_tokens, const float *src, size_t src_stride)
{
    const struct kern_tile_ops *ops = kern_tile_ops(p->isa, p->dtype);

    for (uint32_t i = 0; i < n_tokens; i++) {
        const uint32_t token = first_pos + i;
        uint8_t *row = (uint8_t *)(uintptr_t)dst->base + (size_t)(token / dst->page_tokens) * dst->page_stride +
                       (size_t)(token % dst->page_tokens) * dst->token_stride;
        for (uint32_t h = 0; h < p->n_kv_heads; h++)
            ops->narrow(p->dtype, row + h * dst->head_stride, src + i * src_stride + (size_t)h * p->head_dim,
                        p->head_dim);
    }
}
