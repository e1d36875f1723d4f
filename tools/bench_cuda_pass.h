/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention over all layers of a cache: its queries, its results, and the launches. Functions as in bench_cuda.h. */
#ifndef TOOLS_BENCH_CUDA_PASS_H
#define TOOLS_BENCH_CUDA_PASS_H

#include "tools/bench_cuda_cache.h"

struct cuda_pass_buffers {
    const struct cuda_cache *cache;
    uint32_t n_queries; /* of each sequence; 1: decode */
    uint32_t n_splits;
    CUdeviceptr q, out; /* of the cache's type, [n_seqs × n_queries][n_heads × head_dim] */
    CUdeviceptr partial;
    size_t out_bytes;
};

/* Bytes of the device that the buffers take. */
uint64_t cuda_pass_bytes(const struct cuda_cache_want *want, uint32_t n_queries);

/* The cache stays open meanwhile. On failure nothing is left. */
bool cuda_pass_open(const struct cuda_cache *cache, uint32_t n_queries, struct cuda_pass_buffers *pass);
/* Waits for what was queued. Zeros are ignored. */
void cuda_pass_close(struct cuda_pass_buffers *pass);

/* One layer, as kern_cuda_decode() and kern_cuda_prefill() are told; cuda_cache_tell() has been called. */
struct kern_cu_attention cuda_pass_layer(const struct cuda_pass_buffers *pass, uint32_t layer);

/* Queues all layers, one after the other. ctx: struct cuda_pass_buffers, for bench_cuda_work. Can be captured. */
CUresult cuda_pass_queue(void *ctx);

#endif
