/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_cuda_cache.h"

#include <stdio.h>
#include <stdlib.h>

/* With a background thread, for each sequence and group: a frame that is mapped ahead, and one that is kept clear. */
#define SPARE_FRAMES 2

static struct kvmm_geometry geometry_of(const struct cuda_cache_want *want)
{
    return (struct kvmm_geometry){
        .n_layers = want->n_layers,
        .n_kv_heads = want->shape->n_kv_heads,
        .head_dim = want->shape->head_dim,
        .page_tokens = CUDA_CACHE_PAGE_TOKENS,
        .dtype = want->type == KERN_F16 ? KVMM_F16 : KVMM_BF16,
        .layout = want->layout,
        .layers_per_group = 1,
    };
}

uint64_t cuda_cache_bytes(const struct bench_cuda *gpu, const struct cuda_cache_want *want)
{
    const struct kvmm_geometry geometry = geometry_of(want);
    const uint64_t groups = want->layout == KVMM_LAYER_MAJOR ? want->n_layers : 1;
    const uint64_t spare = want->map_ahead_tokens > 0 ? SPARE_FRAMES * groups * gpu->frame_bytes : 0;
    return (kvmm_geometry_bytes(&geometry, gpu->frame_bytes, want->max_tokens) + spare) * want->n_seqs;
}

static bool good(const struct cuda_cache *cache, int rc, const char *call)
{
    if (rc == KVMM_OK)
        return true;
    fprintf(stderr, "%s: cuda:%d: %s: %s: %s\n", cache->gpu->command, cache->gpu->ordinal, call, kvmm_status_name(rc),
            kvmm_errmsg());
    return false;
}

static bool open_manager(struct cuda_cache *cache)
{
    struct kvmm_config config;
    char device[32];
    kvmm_config_init(&config);
    config.geometry = geometry_of(&cache->of);
    (void)snprintf(device, sizeof device, "cuda:%d", cache->gpu->ordinal);
    config.device = device;
    config.frame_bytes = cache->gpu->frame_bytes;
    config.device_memory = cuda_cache_bytes(cache->gpu, &cache->of);
    config.map_ahead_tokens = cache->of.map_ahead_tokens;
    config.name = "bench attention";
    return good(cache, kvmm_open(&config, &cache->mm), "kvmm_open");
}

static bool make_sequences(struct cuda_cache *cache)
{
    const uint32_t n = cache->of.n_seqs;
    const struct cuda_driver *cu = cache->gpu->cu;
    void *pinned = NULL;
    cache->wants = calloc(n, sizeof *cache->wants);
    if (!cache->wants) {
        fprintf(stderr, "%s: out of memory\n", cache->gpu->command);
        return false;
    }
    if (!bench_cuda_good(cache->gpu, cu->MemHostAlloc(&pinned, n * sizeof *cache->host, 0), "cuMemHostAlloc"))
        return false;
    cache->host = pinned;
    if (!bench_cuda_alloc(cache->gpu, n * sizeof *cache->host, "the sequences", &cache->seqs))
        return false;
    for (uint32_t s = 0; s < n; s++) {
        if (!good(cache, kvmm_seq_create(cache->mm, cache->of.max_tokens, &cache->wants[s].seq), "kvmm_seq_create"))
            return false;
        kvmm_seq_layout(cache->wants[s].seq, &cache->layout);
        cache->host[s] = (struct kern_cu_seq){.base = (uint64_t)(uintptr_t)cache->layout.base,
                                              .group_stride = cache->layout.group_stride};
    }
    return true;
}

bool cuda_cache_open(const struct bench_cuda *gpu, const struct cuda_cache_want *want, struct cuda_cache *cache)
{
    *cache = (struct cuda_cache){.gpu = gpu, .of = *want};
    if (open_manager(cache) && make_sequences(cache))
        return true;
    cuda_cache_close(cache);
    return false;
}

void cuda_cache_close(struct cuda_cache *cache)
{
    if (!cache->gpu)
        return;
    if (cache->step)
        (void)cuda_cache_end(cache);
    (void)cache->gpu->cu->StreamSynchronize(cache->gpu->stream);
    (void)good(cache, kvmm_close(&cache->mm), "kvmm_close");
    bench_cuda_free(cache->gpu, &cache->seqs);
    if (cache->host)
        (void)cache->gpu->cu->MemFreeHost(cache->host);
    free(cache->wants);
    *cache = (struct cuda_cache){0};
}

/* ---- steps --------------------------------------------------------------------------------------------------- */

bool cuda_cache_begin(struct cuda_cache *cache, uint32_t n_tokens)
{
    for (uint32_t s = 0; s < cache->of.n_seqs; s++)
        cache->wants[s].n_tokens = n_tokens;
    return good(cache, kvmm_step_begin(cache->mm, cache->wants, cache->of.n_seqs, 0, &cache->step), "kvmm_step_begin");
}

bool cuda_cache_end(struct cuda_cache *cache)
{
    return good(cache, kvmm_step_end(&cache->step, cache->gpu->stream), "kvmm_step_end");
}

bool cuda_cache_truncate(struct cuda_cache *cache, uint32_t n_tokens)
{
    for (uint32_t s = 0; s < cache->of.n_seqs; s++)
        if (!good(cache, kvmm_seq_truncate(cache->wants[s].seq, n_tokens), "kvmm_seq_truncate"))
            return false;
    return true;
}

bool cuda_cache_fill(const struct cuda_cache *cache, uint32_t n_tokens)
{
    const size_t bytes = (size_t)(n_tokens / CUDA_CACHE_PAGE_TOKENS) * cache->layout.page_stride;
    for (uint32_t s = 0; s < cache->of.n_seqs; s++)
        for (uint32_t group = 0; group < cache->layout.n_groups; group++)
            if (!bench_cuda_fill(cache->gpu, cache->host[s].base + group * cache->layout.group_stride, bytes,
                                 cache->of.type))
                return false;
    return true;
}

/* ---- what kernels are told ----------------------------------------------------------------------------------- */

CUresult cuda_cache_tell(struct cuda_cache *cache, uint32_t first_pos, uint32_t n_queries)
{
    for (uint32_t s = 0; s < cache->of.n_seqs; s++) {
        cache->host[s].first_pos = first_pos;
        cache->host[s].n_queries = n_queries;
        cache->host[s].first_row = s * n_queries;
    }
    return cache->gpu->cu->MemcpyHtoDAsync(cache->seqs, cache->host, cache->of.n_seqs * sizeof *cache->host,
                                           cache->gpu->stream);
}

struct kern_cu_cache cuda_cache_layer(const struct cuda_cache *cache, uint32_t layer)
{
    const struct kvmm_layout *layout = &cache->layout;
    return (struct kern_cu_cache){
        .layer_offset = (layer % layout->layers_per_group) * layout->layer_stride,
        .group = layer / layout->layers_per_group,
        .kv_stride = layout->kv_stride,
        .page_stride = layout->page_stride,
        .token_stride = layout->token_stride,
        .head_stride = layout->head_stride,
        .page_tokens = layout->page_tokens,
        .n_kv_heads = cache->of.shape->n_kv_heads,
        .head_dim = cache->of.shape->head_dim,
        .dtype = cache->of.type,
    };
}
