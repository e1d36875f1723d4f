/* SPDX-License-Identifier: Apache-2.0
 *
 * The shape of a tile. OpenBLAS has, for AVX-512 CPUs, kernels that read small matrices in place, without packing them
 * first: 110 GFLOP/s on one Zen 4 core at 4 tokens, where the packed path gives 12 to 30 because each weight is copied
 * for few uses. They serve rows × tokens × in up to half a million or so, which sets tile_rows. Elsewhere the packed
 * path runs: its kernels for Haswell and Zen sum the columns of 16 tokens in two orders, those of 4 in one. */
#include "matmul.h"

#include <cblas.h>
#include <stdlib.h>
#include <string.h>

#include "dequant.h"

#define TILE_MULTIPLY_ADDS 500000
#define MAX_TILE_ROWS      64
#define GROUP_TOKENS       128 /* tokens for which a dequantised tile is used before the next one */

struct thread_tile {
    float *weights; /* [tile_rows][in] */
    float *x;       /* [tile_tokens][in], zero-padded */
    float *y;       /* [tile_tokens][tile_rows] */
};

struct matmul {
    struct kern_pool *pool;
    uint32_t n_threads;
    struct thread_tile *tiles; /* [n_threads] */
};

/* y[token][rows] = x[token][in] · w[row][in], column-major for BLAS: yᵀ = w · xᵀ. */
static void tile_gemm(uint32_t rows, uint32_t tokens, uint32_t in, const float *w, const float *x, size_t x_stride,
                      float *y, size_t y_stride)
{
    cblas_sgemm(CblasColMajor, CblasTrans, CblasNoTrans, (blasint)rows, (blasint)tokens, (blasint)in, 1.0f, w,
                (blasint)in, x, (blasint)x_stride, 0.0f, y, (blasint)y_stride);
}

static uint32_t tile_rows_for(uint32_t in)
{
    uint32_t rows = TILE_MULTIPLY_ADDS / MATMUL_TILE_TOKENS / in;
    if (rows >= MAX_TILE_ROWS)
        return MAX_TILE_ROWS;
    if (rows >= 16)
        return rows / 16 * 16;
    return rows >= 4 ? rows / 4 * 4 : 4;
}

/* Numbers in [-1, 1) with all mantissa bits in play, so that another order of summation shows. */
static void fill(float *x, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)((int32_t)(seed >> 32) >> 7) * 0x1p-24f;
    }
}

/* Whether the same token gets the same bits in each column of a tile of this shape. buf: see matmul_plan_make(). */
static bool columns_agree(uint32_t rows, uint32_t in, float *buf)
{
    const uint32_t n = MATMUL_TILE_TOKENS;
    float *w = buf, *x = w + (size_t)rows * in, *token = x + (size_t)n * in, *y = token + in;
    float *first = y + (size_t)n * rows;
    fill(w, (size_t)rows * in, 1);
    fill(token, in, 2);
    for (uint32_t column = 0; column < n; column++) {
        fill(x, (size_t)n * in, 3 + column);
        memcpy(x + (size_t)column * in, token, in * sizeof *x);
        tile_gemm(rows, n, in, w, x, in, y, rows);
        if (column == 0)
            memcpy(first, y, rows * sizeof *y);
        else if (memcmp(first, y + (size_t)column * rows, rows * sizeof *y) != 0)
            return false;
    }
    return true;
}

int matmul_plan_make(uint32_t in, uint32_t out, struct matmul_plan *plan)
{
    uint32_t rows = tile_rows_for(in);
    if (rows > out)
        rows = out;
    const size_t n = MATMUL_TILE_TOKENS;
    float *buf = malloc(((size_t)rows * in + (n + 1) * in + (n + 1) * rows) * sizeof *buf);
    if (!buf)
        return -1;
    openblas_set_num_threads(1);
    bool agree = columns_agree(rows, in, buf) && (out % rows == 0 || columns_agree(out % rows, in, buf));
    free(buf);
    *plan =
        (struct matmul_plan){.in = in, .out = out, .tile_rows = rows, .tile_tokens = agree ? MATMUL_TILE_TOKENS : 1};
    return 0;
}

/* ---- running ------------------------------------------------------------------------------------------------- */

static bool alloc_tile(struct thread_tile *tile, uint32_t max_in)
{
    size_t weights = (size_t)tile_rows_for(max_in) * max_in; /* a smaller `in` can have the larger tile */
    if (weights < TILE_MULTIPLY_ADDS / MATMUL_TILE_TOKENS)
        weights = TILE_MULTIPLY_ADDS / MATMUL_TILE_TOKENS;
    tile->weights = malloc(weights * sizeof(float));
    tile->x = malloc((size_t)MATMUL_TILE_TOKENS * max_in * sizeof(float));
    tile->y = malloc((size_t)MATMUL_TILE_TOKENS * MAX_TILE_ROWS * sizeof(float));
    return tile->weights && tile->x && tile->y;
}

int matmul_open(struct kern_pool *pool, uint32_t max_in, struct matmul **mm)
{
    struct matmul *m = calloc(1, sizeof *m);
    if (!m)
        return -1;
    m->pool = pool;
    m->n_threads = kern_pool_size(pool);
    m->tiles = calloc(m->n_threads, sizeof *m->tiles);
    bool ok = m->tiles != NULL;
    for (uint32_t i = 0; ok && i < m->n_threads; i++)
        ok = alloc_tile(&m->tiles[i], max_in);
    if (!ok) {
        matmul_close(&m);
        return -1;
    }
    openblas_set_num_threads(1);
    *mm = m;
    return 0;
}

void matmul_close(struct matmul **mm)
{
    if (!mm || !*mm)
        return;
    struct matmul *m = *mm;
    for (uint32_t i = 0; m->tiles && i < m->n_threads; i++) {
        free(m->tiles[i].weights);
        free(m->tiles[i].x);
        free(m->tiles[i].y);
    }
    free(m->tiles);
    free(m);
    *mm = NULL;
}

struct loop {
    struct matmul *mm;
    const struct matmul_job *jobs;
    uint32_t n_jobs;
    const float *x;
    size_t x_stride;
    uint32_t n_tokens, n_groups;
};

static uint32_t row_tiles(const struct matmul_plan *plan)
{
    return (plan->out + plan->tile_rows - 1) / plan->tile_rows;
}

/* Tokens [from, from + n), n ≤ tile_tokens, of rows [row, row + rows). */
static void one_tile(const struct loop *l, const struct matmul_job *job, struct thread_tile *tile, const float *w,
                     uint32_t row, uint32_t rows, uint32_t from, uint32_t n)
{
    const struct matmul_plan *plan = job->plan;
    const float *x = l->x + (size_t)from * l->x_stride;
    float *y = job->y + (size_t)from * job->y_stride + row;
    if (n == plan->tile_tokens) {
        tile_gemm(rows, n, plan->in, w, x, l->x_stride, y, job->y_stride);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        memcpy(tile->x + (size_t)i * plan->in, x + (size_t)i * l->x_stride, plan->in * sizeof *x);
    memset(tile->x + (size_t)n * plan->in, 0, (size_t)(plan->tile_tokens - n) * plan->in * sizeof *x);
    tile_gemm(rows, plan->tile_tokens, plan->in, w, tile->x, plan->in, tile->y, rows);
    for (uint32_t i = 0; i < n; i++)
        memcpy(y + (size_t)i * job->y_stride, tile->y + (size_t)i * rows, rows * sizeof *y);
}

static void loop_body(void *ctx, uint32_t index, uint32_t thread)
{
    const struct loop *l = ctx;
    const struct matmul_job *job = l->jobs;
    while (index >= row_tiles(job->plan) * l->n_groups) {
        index -= row_tiles(job->plan) * l->n_groups;
        job++;
    }
    const struct matmul_plan *plan = job->plan;
    struct thread_tile *tile = &l->mm->tiles[thread];
    uint32_t row = index / l->n_groups * plan->tile_rows;
    uint32_t rows = plan->out - row < plan->tile_rows ? plan->out - row : plan->tile_rows;

    uint64_t row_bytes = gguf_type_bytes(job->w->type, plan->in);
    const void *src = (const char *)job->w->data + row * row_bytes;
    const float *w = src;
    if (job->w->type != GGUF_F32) {
        engine_dequant(job->w->type, src, (size_t)rows * plan->in, tile->weights);
        w = tile->weights;
    }
    uint32_t from = index % l->n_groups * GROUP_TOKENS;
    uint32_t end = l->n_tokens - from < GROUP_TOKENS ? l->n_tokens : from + GROUP_TOKENS;
    for (; from < end; from += plan->tile_tokens)
        one_tile(l, job, tile, w, row, rows, from, end - from < plan->tile_tokens ? end - from : plan->tile_tokens);
}

void matmul_run(struct matmul *mm, const struct matmul_job *jobs, uint32_t n_jobs, const float *x, size_t x_stride,
                uint32_t n_tokens)
{
    struct loop l = {.mm = mm,
                     .jobs = jobs,
                     .n_jobs = n_jobs,
                     .x = x,
                     .x_stride = x_stride,
                     .n_tokens = n_tokens,
                     .n_groups = (n_tokens + GROUP_TOKENS - 1) / GROUP_TOKENS};
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_jobs; i++)
        n += row_tiles(jobs[i].plan) * l.n_groups;
    kern_pool_run(mm->pool, n, loop_body, &l);
}
