/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_graph.h"

static void forget(struct cuda_graph *g, const struct cuda_gpu *gpu)
{
    if (g->exec)
        (void)gpu->cu->GraphExecDestroy(g->exec);
    *g = (struct cuda_graph){0};
}

void cuda_graphs_drop(struct cuda_graphs *graphs, const struct cuda_gpu *gpu)
{
    for (uint32_t i = 0; i < CUDA_GRAPHS; i++)
        forget(&graphs->at[i], gpu);
}

/* The place of this shape, or else the one that was not used for longest. */
static struct cuda_graph *place_of(struct cuda_graphs *graphs, struct cuda_shape shape)
{
    struct cuda_graph *oldest = &graphs->at[0];
    for (uint32_t i = 0; i < CUDA_GRAPHS; i++) {
        struct cuda_graph *g = &graphs->at[i];
        if (g->last_used && g->shape.n_seqs == shape.n_seqs && g->shape.n_wanted == shape.n_wanted)
            return g;
        if (g->last_used < oldest->last_used)
            oldest = g;
    }
    return oldest;
}

/* Ends a capture in any case, or nothing could be freed any more. *graph: NULL on failure. */
static CUresult end_capture(const struct cuda_gpu *gpu, CUgraph *graph)
{
    CUresult rc = gpu->cu->StreamEndCapture(gpu->stream, graph);
    if (rc == CUDA_SUCCESS)
        return rc;
    *graph = NULL;
    if (gpu->cu->StreamEndCapture(gpu->stream, graph) == CUDA_SUCCESS && *graph)
        (void)gpu->cu->GraphDestroy(*graph);
    *graph = NULL;
    return rc;
}

static int capture(const struct cuda_gpu *gpu, int (*queue)(void *ctx, struct engine_error *err), void *ctx,
                   CUgraphExec *exec, struct engine_error *err)
{
    const struct cuda_driver *cu = gpu->cu;
    CUgraph graph = NULL;
    /* Thread-local: libkvmm's threads go on allocating meanwhile. */
    CUresult rc = cu->StreamBeginCapture(gpu->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    if (rc != CUDA_SUCCESS)
        return cuda_gpu_failure(gpu, rc, "cuStreamBeginCapture", "a pass", err);
    int status = queue(ctx, err);
    rc = end_capture(gpu, &graph);
    if (rc != CUDA_SUCCESS)
        return status != 0 ? status : cuda_gpu_failure(gpu, rc, "cuStreamEndCapture", "a pass", err);
    if (status == 0) {
        rc = cu->GraphInstantiateWithFlags(exec, graph, 0);
        if (rc != CUDA_SUCCESS)
            status = cuda_gpu_failure(gpu, rc, "cuGraphInstantiateWithFlags", "a pass", err);
    }
    (void)cu->GraphDestroy(graph);
    return status;
}

int cuda_graphs_run(struct cuda_graphs *graphs, const struct cuda_gpu *gpu, struct cuda_shape shape,
                    int (*queue)(void *ctx, struct engine_error *err), void *ctx, struct engine_error *err)
{
    struct cuda_graph *g = place_of(graphs, shape);
    const bool known = g->last_used && g->shape.n_seqs == shape.n_seqs && g->shape.n_wanted == shape.n_wanted;
    if (!known) {
        forget(g, gpu);
        int status = queue(ctx, err);
        if (status == 0)
            *g = (struct cuda_graph){.shape = shape, .last_used = ++graphs->clock};
        return status;
    }
    g->last_used = ++graphs->clock;
    if (!g->exec) {
        CUgraphExec exec = NULL;
        int status = capture(gpu, queue, ctx, &exec, err);
        if (status != 0)
            return status;
        g->exec = exec;
        graphs->captures++;
    }
    CUresult rc = gpu->cu->GraphLaunch(g->exec, gpu->stream);
    if (rc != CUDA_SUCCESS)
        return cuda_gpu_failure(gpu, rc, "cuGraphLaunch", "a pass", err);
    graphs->replays++;
    return 0;
}
