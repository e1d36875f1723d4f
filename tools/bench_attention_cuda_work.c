/* SPDX-License-Identifier: Apache-2.0
 *
 * Decode and prefill of sequences that are all in place, beside the yardsticks and the rivals: a round measures each of
 * them once, in turn. */
#include "tools/bench_attention_cuda.h"
#include "tools/bench_cuda_paged.h"

#include <stdio.h>

/* One of those who do the same work on the same numbers. */
struct contender {
    const char *what;
    CUresult (*queue)(void *ctx);
    void *ctx;
};

const char *const contender_names[N_CONTENDERS] = {[CONTENDER_KVMM] = "kvmm", [CONTENDER_PAGED] = "paged"};

double attention_kv_bytes(const struct cuda_shape *shape, uint32_t n_layers, uint32_t batch, uint32_t context)
{
    return 2.0 * 2 * shape->n_kv_heads * shape->head_dim * n_layers * batch * context;
}

double attention_prefill_flop(const struct cuda_shape *shape, uint32_t n_layers, uint32_t batch, uint32_t context)
{
    const double pairs = 0.5 * context * (context + 1.0);
    return 4.0 * shape->n_heads * shape->head_dim * pairs * n_layers * batch;
}

static struct cuda_cache_want want_of(const struct attention_cuda *bench, const struct attention_row *row)
{
    return (struct cuda_cache_want){.shape = row->shape,
                                    .type = row->type,
                                    .layout = row->layout,
                                    .n_layers = bench->options.n_layers,
                                    .n_seqs = row->batch,
                                    .max_tokens = row->context};
}

static uint32_t queries_of(const struct attention_row *row)
{
    return row->work == ATTENTION_DECODE ? 1 : row->context;
}

/* Halves the batch, then the context, until nine tenths of the free memory hold it. */
static bool fit(const struct attention_cuda *bench, struct attention_row *row)
{
    size_t room;
    if (!bench_cuda_free_memory(&bench->gpu, &room))
        return false;
    for (;;) {
        const struct cuda_cache_want want = want_of(bench, row);
        const uint64_t bytes =
            cuda_cache_bytes(&bench->gpu, &want) * N_CONTENDERS + cuda_pass_bytes(&want, queries_of(row));
        if (bytes <= room / 10 * 9)
            return true;
        if (row->batch > 1)
            row->batch /= 2;
        else if (row->context / 2 >= CUDA_CACHE_PAGE_TOKENS)
            row->context = row->context / 2 / CUDA_CACHE_PAGE_TOKENS * CUDA_CACHE_PAGE_TOKENS;
        else
            break;
    }
    fprintf(stderr, "%s: cuda:%d: %zu bytes of device memory are free, too little for one sequence of %d tokens\n",
            bench->gpu.command, bench->gpu.ordinal, room, CUDA_CACHE_PAGE_TOKENS);
    return false;
}

static bool measure_rounds(struct attention_cuda *bench, struct attention_row *row, const struct contender *contenders)
{
    const struct bench_cuda *gpu = &bench->gpu;
    unsigned repeats[N_CONTENDERS];
    for (int i = 0; i < N_CONTENDERS; i++) {
        const struct bench_cuda_work work = {contenders[i].queue, contenders[i].ctx, contenders[i].what};
        if (!bench_cuda_warm(gpu, &work, &repeats[i]))
            return false;
    }
    for (uint32_t round = 0; round < bench->options.n_rounds; round++) {
        if (!cuda_peaks_copy(&bench->peaks, &row->copy[round]))
            return false;
        if (row->work == ATTENTION_PREFILL && gpu->handle &&
            !cuda_peaks_matrix(&bench->peaks, row->type, &row->matrix[round]))
            return false;
        for (int i = 0; i < N_CONTENDERS; i++) {
            const struct bench_cuda_work work = {contenders[i].queue, contenders[i].ctx, contenders[i].what};
            if (!bench_cuda_time(gpu, &work, repeats[i], &row->seconds[i][round]))
                return false;
        }
    }
    return true;
}

/* In a step in which all is resident. */
static bool measure_in_step(struct attention_cuda *bench, struct attention_row *row, struct cuda_cache *cache)
{
    struct cuda_pass_buffers pass;
    struct cuda_paged paged = {0};
    if (!cuda_pass_open(cache, queries_of(row), &pass))
        return false;
    const struct contender contenders[N_CONTENDERS] = {
        [CONTENDER_KVMM] = {"attention on ranges", cuda_pass_queue, &pass},
        [CONTENDER_PAGED] = {"attention through a block table", cuda_paged_queue, &paged},
    };
    const CUresult rc = cuda_cache_tell(cache, row->context - pass.n_queries, pass.n_queries);
    const bool done = bench_cuda_good(&bench->gpu, rc, "cuMemcpyHtoDAsync") && cuda_paged_open(&pass, &paged) &&
                      cuda_paged_check(&paged, &pass) && measure_rounds(bench, row, contenders);
    cuda_paged_close(&paged);
    cuda_pass_close(&pass);
    return done;
}

bool attention_measure(struct attention_cuda *bench, struct attention_row *row)
{
    if (!fit(bench, row))
        return false;
    const struct cuda_cache_want want = want_of(bench, row);
    struct cuda_cache cache;
    if (!cuda_cache_open(&bench->gpu, &want, &cache))
        return false;
    /* New tokens are written in the step that brings them, and read in a later one. */
    const bool done = cuda_cache_begin(&cache, row->context) && cuda_cache_fill(&cache, row->context) &&
                      cuda_cache_end(&cache) && cuda_cache_begin(&cache, row->context) &&
                      measure_in_step(bench, row, &cache) && cuda_cache_end(&cache);
    cuda_cache_close(&cache);
    return done;
}
