/* SPDX-License-Identifier: Apache-2.0
 *
 * Passes captured as CUDA graphs, one for each shape. A shape's first pass runs plainly: what libraries set up at a first
 * call they may not do in a capture. Its second is captured; from then on it is replayed. Sequences may grow and change in
 * between, since a pass finds them in device memory. */
#ifndef ENGINE_CUDA_GRAPH_H
#define ENGINE_CUDA_GRAPH_H

#include "cuda_gpu.h"

/* What is baked into a captured pass, besides addresses that stay. */
struct cuda_shape {
    uint32_t n_seqs, n_wanted;
};

#define CUDA_GRAPHS 16

struct cuda_graphs {
    struct cuda_graph {
        struct cuda_shape shape;
        CUgraphExec exec;   /* NULL: its first pass has run plainly */
        uint64_t last_used; /* 0: a free place */
    } at[CUDA_GRAPHS];
    uint64_t clock;
    uint64_t captures, replays; /* since open */
};

/* Queues a pass of this shape: queue(ctx, err) queues it on the GPU's stream, always in the same way. */
int cuda_graphs_run(struct cuda_graphs *graphs, const struct cuda_gpu *gpu, struct cuda_shape shape,
                    int (*queue)(void *ctx, struct engine_error *err), void *ctx, struct engine_error *err);

/* Forgets all, as when an address changes. Precondition: no replay is queued. */
void cuda_graphs_drop(struct cuda_graphs *graphs, const struct cuda_gpu *gpu);

#endif
