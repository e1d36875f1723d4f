/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_cuda_paged.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/convert.h"

#define MOST_COMPARED  ((size_t)4 << 20) /* bytes, the last ones: they have the most tokens before them */
#define MOST_DEVIATION 0.02              /* of the results' norm: twice the bound of bf16 kernels */

/* Pages in random order: pages of one sequence come from everywhere in a pool that is in use. */
static void shuffle(uint32_t *table, uint32_t n)
{
    uint64_t state = 88172645463325252u;
    for (uint32_t i = 0; i < n; i++)
        table[i] = i;
    for (uint32_t i = n; i > 1; i--) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        const uint32_t other = (uint32_t)(state % i), moved = table[i - 1];
        table[i - 1] = table[other];
        table[other] = moved;
    }
}

static bool copy_pages(const struct cuda_paged *paged, const uint32_t *table)
{
    const struct cuda_cache *cache = paged->pass->cache;
    const size_t page = cache->layout.page_stride;
    const uint64_t all_pages = (uint64_t)cache->of.n_seqs * paged->n_pages;
    for (uint32_t s = 0; s < cache->of.n_seqs; s++)
        for (uint32_t group = 0; group < cache->layout.n_groups; group++)
            for (uint32_t p = 0; p < paged->n_pages; p++) {
                const CUdeviceptr from = cache->host[s].base + group * cache->layout.group_stride + p * page;
                const CUdeviceptr to = paged->pool + (group * all_pages + table[(size_t)s * paged->n_pages + p]) * page;
                CUresult rc = cache->gpu->cu->MemcpyDtoDAsync(to, from, page, cache->gpu->stream);
                if (!bench_cuda_good(cache->gpu, rc, "cuMemcpyDtoDAsync"))
                    return false;
            }
    return true;
}

/* As cache->host tells of the ranges, with the pool for each. */
static bool tell(const struct cuda_paged *paged, struct kern_cu_seq *seqs)
{
    const struct cuda_cache *cache = paged->pass->cache;
    const uint32_t n = cache->of.n_seqs, n_queries = paged->pass->n_queries;
    for (uint32_t s = 0; s < n; s++)
        seqs[s] = (struct kern_cu_seq){.base = paged->pool,
                                       .group_stride = (uint64_t)n * paged->n_pages * cache->layout.page_stride,
                                       .first_pos = cache->of.max_tokens - n_queries,
                                       .n_queries = n_queries,
                                       .first_row = s * n_queries};
    return bench_cuda_upload(cache->gpu, paged->seqs, seqs, n * sizeof *seqs);
}

bool cuda_paged_open(const struct cuda_pass_buffers *pass, struct cuda_paged *paged)
{
    const struct cuda_cache *cache = pass->cache;
    const struct bench_cuda *gpu = cache->gpu;
    const uint32_t n_pages = cache->of.max_tokens / CUDA_CACHE_PAGE_TOKENS;
    const size_t n = (size_t)cache->of.n_seqs * n_pages;
    *paged = (struct cuda_paged){.pass = pass, .n_pages = n_pages};
    uint32_t *table = calloc(n, sizeof *table);
    struct kern_cu_seq *seqs = malloc(cache->of.n_seqs * sizeof *seqs);
    bool good = table && seqs;
    if (good)
        shuffle(table, (uint32_t)n);
    else
        fprintf(stderr, "%s: out of memory\n", gpu->command);
    good = good &&
           bench_cuda_alloc(gpu, n * cache->layout.page_stride * cache->layout.n_groups, "the pages", &paged->pool) &&
           bench_cuda_alloc(gpu, n * sizeof *table, "the block table", &paged->table) &&
           bench_cuda_alloc(gpu, cache->of.n_seqs * sizeof *seqs, "the sequences", &paged->seqs) &&
           bench_cuda_upload(gpu, paged->table, table, n * sizeof *table) && copy_pages(paged, table) &&
           tell(paged, seqs);
    free(seqs);
    free(table);
    if (!good)
        cuda_paged_close(paged);
    return good;
}

void cuda_paged_close(struct cuda_paged *paged)
{
    if (!paged->pass)
        return;
    const struct bench_cuda *gpu = paged->pass->cache->gpu;
    (void)gpu->cu->StreamSynchronize(gpu->stream);
    bench_cuda_free(gpu, &paged->pool);
    bench_cuda_free(gpu, &paged->table);
    bench_cuda_free(gpu, &paged->seqs);
    *paged = (struct cuda_paged){0};
}

CUresult cuda_paged_queue(void *ctx)
{
    const struct cuda_paged *paged = ctx;
    const struct cuda_pass_buffers *pass = paged->pass;
    const struct bench_cuda *gpu = pass->cache->gpu;
    CUresult rc = CUDA_SUCCESS;
    for (uint32_t layer = 0; layer < pass->cache->of.n_layers && rc == CUDA_SUCCESS; layer++) {
        struct kern_cu_paged p = {
            .attention = cuda_pass_layer(pass, layer), .block_table = paged->table, .table_stride = paged->n_pages};
        p.attention.seqs = paged->seqs;
        rc = pass->n_queries == 1 ? kern_cuda_decode_paged(gpu->kernels, gpu->stream, &p)
                                  : kern_cuda_prefill_paged(gpu->kernels, gpu->stream, &p, pass->n_queries);
    }
    return rc;
}

/* ---- the check ----------------------------------------------------------------------------------------------- */

static bool run(const struct bench_cuda *gpu, const struct cuda_pass_buffers *pass, CUresult (*queue)(void *ctx),
                void *ctx, void *results, size_t bytes)
{
    CUresult rc = gpu->cu->MemsetD8Async(pass->out, 0, pass->out_bytes, gpu->stream);
    if (rc == CUDA_SUCCESS)
        rc = queue(ctx);
    if (rc == CUDA_SUCCESS)
        rc = gpu->cu->MemcpyDtoHAsync(results, pass->out + pass->out_bytes - bytes, bytes, gpu->stream);
    if (rc == CUDA_SUCCESS)
        rc = gpu->cu->StreamSynchronize(gpu->stream);
    return bench_cuda_good(gpu, rc, "attention through a block table");
}

static bool are_close(const uint16_t *a, const uint16_t *b, size_t n, enum kern_dtype type)
{
    double norm = 0, deviation = 0;
    for (size_t i = 0; i < n; i++) {
        const double x = type == KERN_F16 ? kern_f32_of_f16(a[i]) : kern_f32_of_bf16(a[i]);
        const double y = type == KERN_F16 ? kern_f32_of_f16(b[i]) : kern_f32_of_bf16(b[i]);
        norm += x * x;
        deviation += (x - y) * (x - y);
    }
    return norm > 0 && deviation <= MOST_DEVIATION * MOST_DEVIATION * norm; /* false of NaN, too */
}

bool cuda_paged_check(struct cuda_paged *paged, struct cuda_pass_buffers *pass)
{
    const struct bench_cuda *gpu = pass->cache->gpu;
    const size_t bytes = pass->out_bytes < MOST_COMPARED ? pass->out_bytes : MOST_COMPARED;
    void *results;
    if (!bench_cuda_good(gpu, gpu->cu->MemHostAlloc(&results, 2 * bytes, 0), "cuMemHostAlloc"))
        return false;
    uint16_t *ours = results, *theirs = ours + bytes / 2;
    bool good =
        run(gpu, pass, cuda_pass_queue, pass, ours, bytes) && run(gpu, pass, cuda_paged_queue, paged, theirs, bytes);
    if (good && !are_close(ours, theirs, bytes / 2, pass->cache->of.type)) {
        fprintf(stderr, "%s: cuda:%d: attention through a block table gave other results than on ranges\n",
                gpu->command, gpu->ordinal);
        good = false;
    }
    (void)gpu->cu->MemFreeHost(results);
    return good;
}
