/* SPDX-License-Identifier: Apache-2.0
 *
 * The planner: cuts the items into tasks for the pool and lays out the scratch.
 * - Many rows (prefill): a task is a tile of one KV head's rows over all its keys.
 * - Few rows (decode): a task is a tile of several KV heads over one split, so that the cache is read in the order in
 *   which it lies; the thread that finishes a tile's last split folds them.
 * The cut is for speed and room only: in any case the same numbers are folded in the same order. */
#include "attention.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "tile.h"

#define ALIGN 64u

/* Rows of a tile of several KV heads, at most. */
#define FEW_ROWS 64u
/* Bytes that the splits' states may take; more tiles than that are not cut. */
#define PARTIALS_MAX (64u << 20)
/* Tasks for each thread that are enough for balance. */
#define TASKS_ENOUGH 4u

/* An item's share of the tasks; the array lies in the scratch. */
struct item_plan {
    uint32_t first_task;
    uint32_t heads, n_chunks;    /* KV heads of a tile; tiles for all heads */
    uint32_t tile_rows, n_tiles; /* of a KV head; tiles for all its rows */
    uint32_t n_splits;           /* tasks of a tile; more than 1 only if n_tiles is 1 */
    /* Only if n_splits > 1: */
    uint32_t unit;   /* index of the first of n_chunks tiles that are cut */
    size_t partials; /* offset of [chunk] floors of the rows, then of [chunk][split] states */
};

/* Scratch: item plans, then counters of splits done, then what splits leave, then a part for each thread. */
struct plan {
    const struct kern_attention_params *p;
    const struct kern_attention_item *items;
    const struct kern_tile_ops *ops;
    size_t n_items;
    uint32_t n_tasks;
    uint32_t group; /* query heads for each KV head */
    uint32_t dim_pad;
    uint32_t max_rows; /* of a tile */
    uint32_t n_units;  /* tiles that are cut by splits */
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

static size_t state_bytes(const struct plan *plan, uint32_t n_rows)
{
    return align_up((size_t)n_rows * (2 + (size_t)plan->dim_pad) * sizeof(float));
}

static size_t floors_bytes(uint32_t n_rows)
{
    return align_up(n_rows * sizeof(float));
}

static uint32_t rows_of(const struct plan *plan, const struct kern_attention_item *item)
{
    return item->n_queries * plan->group;
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
    const size_t state = state_bytes(plan, plan->max_rows);
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

static uint32_t splits_of(const struct kern_attention_item *item)
{
    return (item->first_pos + item->n_queries + KERN_SPLIT - 1) / KERN_SPLIT;
}

/* KV heads that a tile of an item of few rows may have. */
static uint32_t most_heads(const struct plan *plan, uint32_t n_rows)
{
    return n_rows > FEW_ROWS ? 1 : min_u32(FEW_ROWS / n_rows, plan->p->n_kv_heads);
}

/* Cuts an item, but for first_task, unit and partials. chunks_wanted: for balance. */
static struct item_plan cut_item(const struct plan *plan, const struct kern_attention_item *item,
                                 uint32_t chunks_wanted)
{
    const uint32_t n_kv_heads = plan->p->n_kv_heads;
    const uint32_t n_rows = rows_of(plan, item);
    const uint32_t most = most_heads(plan, n_rows);
    struct item_plan own = {.n_splits = n_rows <= FEW_ROWS ? splits_of(item) : 1};

    own.n_chunks = (n_kv_heads + most - 1) / most;
    if (own.n_chunks < chunks_wanted)
        own.n_chunks = min_u32(chunks_wanted, n_kv_heads);
    own.heads = (n_kv_heads + own.n_chunks - 1) / own.n_chunks;
    own.n_chunks = (n_kv_heads + own.heads - 1) / own.heads;
    own.n_tiles = (n_rows + KERN_TILE_ROWS - 1) / KERN_TILE_ROWS;
    own.tile_rows = (n_rows + own.n_tiles - 1) / own.n_tiles;
    return own;
}

/* Bytes of what a cut item's splits leave. */
static size_t partial_bytes_of(const struct plan *plan, const struct item_plan *own)
{
    const uint32_t n_rows = own->tile_rows * own->heads;

    return own->n_chunks * (floors_bytes(n_rows) + own->n_splits * state_bytes(plan, n_rows));
}

/* Fills the plan, and the item plans if table is given. False if a parameter is out of its bounds. */
static bool make_plan(const struct kern_attention_params *p, const struct kern_attention_item *items, size_t n_items,
                      uint32_t n_threads, struct plan *plan, struct item_plan *table)
{
    size_t partial_bytes = 0;
    uint64_t n_tasks = 0;
    uint64_t n_splits = 0;

    if (!params_valid(p))
        return false;
    for (size_t i = 0; i < n_items; i++) {
        if (!item_valid(p, &items[i]))
            return false;
        n_splits += splits_of(&items[i]);
    }
    *plan = (struct plan){.p = p,
                          .items = items,
                          .ops = kern_tile_ops(p->isa, p->dtype),
                          .n_items = n_items,
                          .group = p->n_heads / p->n_kv_heads,
                          .dim_pad = (p->head_dim + 15) / 16 * 16};
    for (size_t i = 0; i < n_items; i++) {
        const uint32_t n_rows = rows_of(plan, &items[i]);
        const uint32_t most_rows = min_u32(most_heads(plan, n_rows) * n_rows, KERN_TILE_ROWS);
        struct item_plan own =
            cut_item(plan, &items[i], (uint32_t)(((uint64_t)n_threads * TASKS_ENOUGH + n_splits - 1) / n_splits));
        if (own.n_splits > 1 && partial_bytes + partial_bytes_of(plan, &own) > PARTIALS_MAX)
            own.n_splits = 1;
        own.first_task = (uint32_t)n_tasks;
        own.unit = plan->n_units;
        own.partials = partial_bytes;
        if (own.n_splits > 1) {
            partial_bytes += partial_bytes_of(plan, &own);
            plan->n_units += own.n_chunks;
        }
        n_tasks += (uint64_t)own.n_chunks * own.n_tiles * own.n_splits;
        if (n_tasks > UINT32_MAX / 2)
            return false;
        plan->max_rows = most_rows > plan->max_rows ? most_rows : plan->max_rows;
        if (table)
            table[i] = own;
    }
    plan->n_tasks = (uint32_t)n_tasks;
    plan->counters_at = align_up(n_items * sizeof(struct item_plan));
    plan->partials_at = plan->counters_at + align_up(plan->n_units * sizeof(atomic_uint));
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

/* Tile `tile` of chunk `chunk` of an item. */
static void begin_tile(const struct plan *plan, size_t i, const struct item_plan *own, uint32_t chunk, uint32_t tile,
                       uint32_t thread, struct work *work)
{
    uint8_t *at = plan->scratch + plan->threads_at + thread * plan->thread_bytes;
    const uint32_t kv_head = chunk * own->heads;
    const uint32_t n_kv_heads = min_u32(own->heads, plan->p->n_kv_heads - kv_head);
    const uint32_t first_row = tile * own->tile_rows;
    const uint32_t head_rows = min_u32(rows_of(plan, &plan->items[i]) - first_row, own->tile_rows);
    const uint32_t n_rows = n_kv_heads * head_rows;

    work->tile = (struct kern_tile){.p = plan->p,
                                    .item = &plan->items[i],
                                    .kv_head = kv_head,
                                    .n_kv_heads = n_kv_heads,
                                    .first_row = first_row,
                                    .head_rows = head_rows,
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

static void run_tile(const struct plan *plan, size_t i, const struct item_plan *own, uint32_t chunk, uint32_t tile,
                     uint32_t thread)
{
    struct work work;

    begin_tile(plan, i, own, chunk, tile, thread, &work);
    clear_total(&work);
    for (uint32_t split = (work.tile.limits[work.tile.n_rows - 1] - 1) / KERN_SPLIT + 1; split-- > 0;) {
        plan->ops->split(&work.tile, split, &work.part);
        plan->ops->fold(&work.tile, &work.total, &work.part);
    }
    plan->ops->finish(&work.tile, &work.total);
}

/* Where a cut tile's floors are; its states follow the floors of all chunks. All chunks have room for a full one. */
static float *floors_of(const struct plan *plan, const struct item_plan *own, uint32_t chunk)
{
    return (float *)(plan->scratch + plan->partials_at + own->partials +
                     chunk * floors_bytes(own->tile_rows * own->heads));
}

static struct kern_rows state_of(const struct plan *plan, const struct item_plan *own, uint32_t chunk, uint32_t split)
{
    const uint32_t n_rows = own->tile_rows * own->heads;
    uint8_t *states = (uint8_t *)floors_of(plan, own, own->n_chunks);

    return state_in(plan, states + ((size_t)chunk * own->n_splits + split) * state_bytes(plan, n_rows), n_rows);
}

/* The floors of a tile that is cut: all its splits need them. */
static void run_floors(void *ctx, uint32_t unit, uint32_t thread)
{
    const struct plan *plan = ctx;
    const struct item_plan *table = (const struct item_plan *)plan->scratch;
    size_t i = 0;
    struct work work;

    while (table[i].n_splits == 1 || unit >= table[i].unit + table[i].n_chunks)
        i++;
    begin_tile(plan, i, &table[i], unit - table[i].unit, 0, thread, &work);
    plan->ops->find_floors(&work.tile);
    memcpy(floors_of(plan, &table[i], unit - table[i].unit), work.tile.floors, work.tile.n_rows * sizeof(float));
}

/* One split of a cut tile; the last one done folds them all. */
static void run_split(const struct plan *plan, size_t i, const struct item_plan *own, uint32_t chunk, uint32_t split,
                      uint32_t thread)
{
    atomic_uint *done = (atomic_uint *)(plan->scratch + plan->counters_at) + own->unit + chunk;
    const struct kern_rows state = state_of(plan, own, chunk, split);
    struct work work;

    begin_tile(plan, i, own, chunk, 0, thread, &work);
    memcpy(work.tile.floors, floors_of(plan, own, chunk), work.tile.n_rows * sizeof(float));
    plan->ops->split(&work.tile, split, &state);
    if (atomic_fetch_add_explicit(done, 1, memory_order_acq_rel) + 1 < own->n_splits)
        return;
    clear_total(&work);
    for (uint32_t j = own->n_splits; j-- > 0;) {
        const struct kern_rows part = state_of(plan, own, chunk, j);
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

    if (own->n_splits > 1)
        run_split(plan, i, own, n % own->n_chunks, own->n_splits - 1 - n / own->n_chunks, thread);
    else /* by KV head, so that threads at work on one share its K and V; long tiles first, for balance */
        run_tile(plan, i, own, n / own->n_tiles, own->n_tiles - 1 - n % own->n_tiles, thread);
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
    for (uint32_t i = 0; i < plan.n_units; i++)
        atomic_init(&counters[i], 0);
    kern_pool_run(pool, plan.n_units, run_floors, &plan);
    kern_pool_run(pool, plan.n_tasks, run_task, &plan);
    return 0;
}

void kern_store(const struct kern_attention_params *p, const struct kern_tensor *dst, uint32_t first_pos,
                uint32_t n_tokens, const float *src, size_t src_stride)
{
    const struct kern_tile_ops *ops = kern_tile_ops(p->isa, p->dtype);

    for (uint32_t i = 0; i < n_tokens; i++) {
        const uint32_t token = first_pos + i;
        uint8_t *row = (uint8_t *)dst->base + (size_t)(token / dst->page_tokens) * dst->page_stride +
                       (size_t)(token % dst->page_tokens) * dst->token_stride;
        for (uint32_t h = 0; h < p->n_kv_heads; h++)
            ops->narrow(p->dtype, row + h * dst->head_stride, src + i * src_stride + (size_t)h * p->head_dim,
                        p->head_dim);
    }
}
