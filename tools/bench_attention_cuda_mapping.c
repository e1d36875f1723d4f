/* SPDX-License-Identifier: Apache-2.0
 *
 * What it costs a decode step that its sequences grow: pages mapped on demand, a background thread ahead of the steps,
 * against all of them mapped up front; and the step as a graph that was captured once, though the sequences grow, against
 * launches. As in an engine, the next step begins when the last one's results are there. */
#include "tools/bench_attention_cuda.h"
#include "tools/bench_cuda_pass.h"

#include <stdio.h>
#include <string.h>

struct growth {
    struct attention_cuda *bench;
    struct mapping_row *row;
    struct cuda_cache up_front, on_demand;
    struct cuda_pass_buffers up_front_pass, on_demand_pass;
    CUgraphExec graph; /* of on_demand_pass */
    void *results[2];  /* pinned: a step's, of the graph and of launches */
};

/* Queues the step that brings token `length`, and ends it. */
static bool step(struct growth *g, enum mapping_way way, uint32_t length)
{
    struct cuda_cache *cache = way == MAPPED_UP_FRONT ? &g->up_front : &g->on_demand;
    struct cuda_pass_buffers *pass = way == MAPPED_UP_FRONT ? &g->up_front_pass : &g->on_demand_pass;
    const struct bench_cuda *gpu = &g->bench->gpu;
    if (!cuda_cache_begin(cache, way == MAPPED_UP_FRONT ? cache->of.max_tokens : length + 1))
        return false;
    CUresult rc = cuda_cache_tell(cache, length, 1);
    if (rc == CUDA_SUCCESS)
        rc = way == MAPPED_ON_DEMAND_GRAPH ? gpu->cu->GraphLaunch(g->graph, gpu->stream) : cuda_pass_queue(pass);
    return bench_cuda_good(gpu, rc, "a decode step") && cuda_cache_end(cache);
}

static bool time_steps(struct growth *g, enum mapping_way way, double *seconds)
{
    const struct bench_cuda *gpu = &g->bench->gpu;
    const uint32_t context = g->row->context, n = g->row->n_steps;
    float ms;
    if (way != MAPPED_UP_FRONT && !cuda_cache_truncate(&g->on_demand, context))
        return false;
    if (!bench_cuda_good(gpu, gpu->cu->EventRecord(gpu->begin, gpu->stream), "cuEventRecord"))
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (!step(g, way, context + i) ||
            !bench_cuda_good(gpu, gpu->cu->EventRecord(gpu->end, gpu->stream), "cuEventRecord") ||
            !bench_cuda_good(gpu, gpu->cu->EventSynchronize(gpu->end), "a decode step"))
            return false;
    if (!bench_cuda_good(gpu, gpu->cu->EventElapsedTime(&ms, gpu->begin, gpu->end), "cuEventElapsedTime"))
        return false;
    *seconds = (double)ms * 1e-3 / n;
    return true;
}

/* ---- the graph ----------------------------------------------------------------------------------------------- */

static bool capture(struct growth *g)
{
    const struct bench_cuda *gpu = &g->bench->gpu;
    CUgraph graph = NULL;
    /* Thread-local: kvmm's background thread goes on mapping meanwhile. */
    CUresult rc = gpu->cu->StreamBeginCapture(gpu->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    if (!bench_cuda_good(gpu, rc, "cuStreamBeginCapture"))
        return false;
    const CUresult queued = cuda_pass_queue(&g->on_demand_pass);
    rc = gpu->cu->StreamEndCapture(gpu->stream, &graph);
    bool good = bench_cuda_good(gpu, queued, "a captured pass") && bench_cuda_good(gpu, rc, "cuStreamEndCapture");
    if (good) {
        rc = gpu->cu->GraphInstantiateWithFlags(&g->graph, graph, 0);
        good = bench_cuda_good(gpu, rc, "cuGraphInstantiateWithFlags");
    }
    if (graph)
        (void)gpu->cu->GraphDestroy(graph);
    return good;
}

/* The results of the step that brings token `length`, which is begun already. */
static bool results_of(struct growth *g, enum mapping_way way, void *to)
{
    const struct bench_cuda *gpu = &g->bench->gpu;
    const struct cuda_pass_buffers *pass = &g->on_demand_pass;
    CUresult rc = gpu->cu->MemsetD8Async(pass->out, 0, pass->out_bytes, gpu->stream);
    if (rc == CUDA_SUCCESS)
        rc = way == MAPPED_ON_DEMAND_GRAPH ? gpu->cu->GraphLaunch(g->graph, gpu->stream)
                                           : cuda_pass_queue(&g->on_demand_pass);
    if (rc == CUDA_SUCCESS)
        rc = gpu->cu->MemcpyDtoHAsync(to, pass->out, pass->out_bytes, gpu->stream);
    return bench_cuda_good(gpu, rc, "a decode step");
}

/* Whether a graph that was captured before the sequences grew gives the bits that launches give, at each length. */
static bool replays_right(struct growth *g)
{
    const struct bench_cuda *gpu = &g->bench->gpu;
    if (!cuda_cache_truncate(&g->on_demand, g->row->context))
        return false;
    for (uint32_t length = g->row->context; length < g->row->context + g->row->n_steps; length++) {
        if (!cuda_cache_begin(&g->on_demand, length + 1) ||
            !bench_cuda_good(gpu, cuda_cache_tell(&g->on_demand, length, 1), "cuMemcpyHtoDAsync") ||
            !results_of(g, MAPPED_ON_DEMAND_GRAPH, g->results[0]) || !results_of(g, MAPPED_ON_DEMAND, g->results[1]) ||
            !cuda_cache_end(&g->on_demand) ||
            !bench_cuda_good(gpu, gpu->cu->StreamSynchronize(gpu->stream), "a decode step"))
            return false;
        if (memcmp(g->results[0], g->results[1], g->on_demand_pass.out_bytes) != 0) {
            fprintf(stderr, "%s: cuda:%d: at %u tokens a replayed graph gave other results than launches\n",
                    gpu->command, gpu->ordinal, length + 1);
            return false;
        }
    }
    return true;
}

/* ---- all of it ----------------------------------------------------------------------------------------------- */

static struct cuda_cache_want want_of(const struct attention_cuda *bench, const struct mapping_row *row)
{
    return (struct cuda_cache_want){.shape = row->shape,
                                    .type = row->type,
                                    .layout = row->layout,
                                    .n_layers = bench->options.n_layers,
                                    .n_seqs = row->batch,
                                    .max_tokens = row->context + row->n_steps,
                                    .map_ahead_tokens = KVMM_MAP_AHEAD_AUTO};
}

/* Filled up to n_tokens. */
static bool open_cache(struct growth *g, uint32_t map_ahead_tokens, uint32_t n_tokens, struct cuda_cache *cache,
                       struct cuda_pass_buffers *pass)
{
    struct cuda_cache_want want = want_of(g->bench, g->row);
    want.map_ahead_tokens = map_ahead_tokens;
    return cuda_cache_open(&g->bench->gpu, &want, cache) && cuda_cache_begin(cache, n_tokens) &&
           cuda_cache_fill(cache, n_tokens) && cuda_cache_end(cache) && cuda_pass_open(cache, 1, pass);
}

static bool open_growth(struct growth *g)
{
    const struct bench_cuda *gpu = &g->bench->gpu;
    const uint32_t context = g->row->context;
    if (!open_cache(g, 0, context + g->row->n_steps, &g->up_front, &g->up_front_pass) ||
        !open_cache(g, KVMM_MAP_AHEAD_AUTO, context, &g->on_demand, &g->on_demand_pass))
        return false;
    for (int i = 0; i < 2; i++)
        if (!bench_cuda_good(gpu, gpu->cu->MemHostAlloc(&g->results[i], g->on_demand_pass.out_bytes, 0),
                             "cuMemHostAlloc"))
            return false;
    return capture(g);
}

static void close_growth(struct growth *g)
{
    const struct cuda_driver *cu = g->bench->gpu.cu;
    cuda_pass_close(&g->on_demand_pass);
    cuda_pass_close(&g->up_front_pass);
    if (g->graph)
        (void)cu->GraphExecDestroy(g->graph);
    for (int i = 0; i < 2; i++)
        if (g->results[i])
            (void)cu->MemFreeHost(g->results[i]);
    cuda_cache_close(&g->on_demand);
    cuda_cache_close(&g->up_front);
}

/* Halves the batch until two caches fit. */
static bool fit(const struct attention_cuda *bench, struct mapping_row *row)
{
    size_t room;
    if (!bench_cuda_free_memory(&bench->gpu, &room))
        return false;
    for (;; row->batch /= 2) {
        const struct cuda_cache_want want = want_of(bench, row);
        if (2 * (cuda_cache_bytes(&bench->gpu, &want) + cuda_pass_bytes(&want, 1)) <= room / 10 * 9)
            return true;
        if (row->batch == 1)
            break;
    }
    fprintf(stderr, "%s: cuda:%d: %zu bytes of device memory are free, too little for two sequences of %u tokens\n",
            bench->gpu.command, bench->gpu.ordinal, room, row->context + row->n_steps);
    return false;
}

bool attention_measure_mapping(struct attention_cuda *bench, struct mapping_row *row)
{
    struct growth growth = {.bench = bench, .row = row};
    if (!fit(bench, row))
        return false;
    bool done = open_growth(&growth) && replays_right(&growth); /* which warms up, too */
    for (uint32_t round = 0; round < bench->options.n_rounds && done; round++)
        for (int way = 0; way < N_MAPPING_WAYS && done; way++)
            done = time_steps(&growth, (enum mapping_way)way, &row->seconds[way][round]);
    close_growth(&growth);
    return done;
}
