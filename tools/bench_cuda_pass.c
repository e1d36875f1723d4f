/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_cuda_pass.h"

#include <math.h>

#define MOST_SPLITS 128u /* kern_cuda_decode_splits() gives no more */

static uint64_t rows_bytes(const struct cuda_cache_want *want, uint32_t n_queries)
{
    return (uint64_t)want->n_seqs * n_queries * want->shape->n_heads * want->shape->head_dim * 2;
}

uint64_t cuda_pass_bytes(const struct cuda_cache_want *want, uint32_t n_queries)
{
    const uint64_t partial = n_queries == 1 ? kern_cuda_decode_scratch(want->n_seqs, want->shape->n_heads,
                                                                       want->shape->head_dim, MOST_SPLITS)
                                            : 0;
    return 2 * rows_bytes(want, n_queries) + partial;
}

bool cuda_pass_open(const struct cuda_cache *cache, uint32_t n_queries, struct cuda_pass_buffers *pass)
{
    const struct bench_cuda *gpu = cache->gpu;
    const struct cuda_shape *shape = cache->of.shape;
    *pass = (struct cuda_pass_buffers){.cache = cache, .n_queries = n_queries};
    pass->out_bytes = rows_bytes(&cache->of, n_queries);
    if (!bench_cuda_alloc(gpu, pass->out_bytes, "the queries", &pass->q) ||
        !bench_cuda_alloc(gpu, pass->out_bytes, "the results", &pass->out) ||
        !bench_cuda_fill(gpu, pass->q, pass->out_bytes, cache->of.type))
        goto err_close;
    if (n_queries == 1) {
        pass->n_splits = kern_cuda_decode_splits(gpu->kernels, cache->of.n_seqs, shape->n_kv_heads);
        const size_t bytes =
            kern_cuda_decode_scratch(cache->of.n_seqs, shape->n_heads, shape->head_dim, pass->n_splits);
        if (!bench_cuda_alloc(gpu, bytes, "the splits' results", &pass->partial))
            goto err_close;
    }
    return true;

err_close:
    cuda_pass_close(pass);
    return false;
}

void cuda_pass_close(struct cuda_pass_buffers *pass)
{
    if (!pass->cache)
        return;
    (void)pass->cache->gpu->cu->StreamSynchronize(pass->cache->gpu->stream);
    bench_cuda_free(pass->cache->gpu, &pass->q);
    bench_cuda_free(pass->cache->gpu, &pass->out);
    bench_cuda_free(pass->cache->gpu, &pass->partial);
    *pass = (struct cuda_pass_buffers){0};
}

struct kern_cu_attention cuda_pass_layer(const struct cuda_pass_buffers *pass, uint32_t layer)
{
    const struct cuda_cache_want *of = &pass->cache->of;
    return (struct kern_cu_attention){
        .cache = cuda_cache_layer(pass->cache, layer),
        .seqs = pass->cache->seqs,
        .q = pass->q,
        .out = pass->out,
        .partial = pass->partial,
        .n_heads = of->shape->n_heads,
        .n_seqs = of->n_seqs,
        .out_type = of->type,
        .n_splits = pass->n_splits,
        .scale = 1 / sqrtf((float)of->shape->head_dim),
    };
}

CUresult cuda_pass_queue(void *ctx)
{
    const struct cuda_pass_buffers *pass = ctx;
    const struct bench_cuda *gpu = pass->cache->gpu;
    CUresult rc = CUDA_SUCCESS;
    for (uint32_t layer = 0; layer < pass->cache->of.n_layers && rc == CUDA_SUCCESS; layer++) {
        const struct kern_cu_attention p = cuda_pass_layer(pass, layer);
        rc = pass->n_queries == 1 ? kern_cuda_decode(gpu->kernels, gpu->stream, &p)
                                  : kern_cuda_prefill(gpu->kernels, gpu->stream, &p, pass->n_queries);
    }
    return rc;
}
