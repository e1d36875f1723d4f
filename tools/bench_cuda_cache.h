/* SPDX-License-Identifier: Apache-2.0
 *
 * Sequences of equal length in a kvmm on the GPU, through the public API: ranges of mapped frames, as an engine has them.
 * Functions as in bench_cuda.h. */
#ifndef TOOLS_BENCH_CUDA_CACHE_H
#define TOOLS_BENCH_CUDA_CACHE_H

#include <kvmm/kvmm.h>

#include "tools/bench_cuda.h"

enum { CUDA_CACHE_PAGE_TOKENS = 16 };

struct cuda_shape {
    const char *name;
    uint32_t n_heads, n_kv_heads, head_dim;
};

struct cuda_cache_want {
    const struct cuda_shape *shape;
    enum kern_dtype type;
    enum kvmm_layout_kind layout;
    uint32_t n_layers, n_seqs;
    uint32_t max_tokens;       /* a multiple of CUDA_CACHE_PAGE_TOKENS */
    uint32_t map_ahead_tokens; /* as in kvmm_config */
};

struct cuda_cache {
    const struct bench_cuda *gpu;
    struct cuda_cache_want of;
    kvmm *mm;
    struct kvmm_want *wants; /* [n_seqs], and their sequences */
    kvmm_step *step;         /* open, or NULL */
    struct kvmm_layout layout;
    struct kern_cu_seq *host; /* pinned: what the kernels are told of the sequences */
    CUdeviceptr seqs;         /* the same on the device */
};

/* Bytes of the device that it takes with all its tokens mapped. */
uint64_t cuda_cache_bytes(const struct bench_cuda *gpu, const struct cuda_cache_want *want);

/* Opens the manager and makes the sequences, empty. On failure nothing is left. */
bool cuda_cache_open(const struct bench_cuda *gpu, const struct cuda_cache_want *want, struct cuda_cache *cache);
/* Waits for what was queued. Ends an open step. Zeros are ignored. */
void cuda_cache_close(struct cuda_cache *cache);

/* Begins a step in which all sequences have n_tokens, n_tokens ≥ their length; ends it behind what is queued. */
bool cuda_cache_begin(struct cuda_cache *cache, uint32_t n_tokens);
bool cuda_cache_end(struct cuda_cache *cache);
/* Keeps the first n_tokens of each. Not in a step. */
bool cuda_cache_truncate(struct cuda_cache *cache, uint32_t n_tokens);
/* In a step: queues noise into all pages of tokens [0, n_tokens); n_tokens is a multiple of CUDA_CACHE_PAGE_TOKENS. */
bool cuda_cache_fill(const struct cuda_cache *cache, uint32_t n_tokens);

/* Queues: sequence s has n_queries queries from position first_pos, in rows from s × n_queries. What was queued before
 * with other numbers has run. */
CUresult cuda_cache_tell(struct cuda_cache *cache, uint32_t first_pos, uint32_t n_queries);
/* Where the kernels find `layer`. */
struct kern_cu_cache cuda_cache_layer(const struct cuda_cache *cache, uint32_t layer);

#endif
