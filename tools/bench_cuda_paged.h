/* SPDX-License-Identifier: Apache-2.0
 *
 * The rival: the same pages of the same sequences, in one plain allocation and in random order, found through a block table
 * as in vLLM, for the same kernel with a table. Functions as in bench_cuda.h. */
#ifndef TOOLS_BENCH_CUDA_PAGED_H
#define TOOLS_BENCH_CUDA_PAGED_H

#include "tools/bench_cuda_pass.h"

struct cuda_paged {
    const struct cuda_pass_buffers *pass; /* queries and results are in the same place */
    CUdeviceptr pool;                     /* [group][page] */
    CUdeviceptr table;                    /* u32 [n_seqs][n_pages] */
    CUdeviceptr seqs;
    uint32_t n_pages; /* of a sequence */
};

/* In a step of the cache, which has max_tokens: copies its pages. On failure nothing is left. */
bool cuda_paged_open(const struct cuda_pass_buffers *pass, struct cuda_paged *paged);
/* Waits for what was queued. Zeros are ignored. */
void cuda_paged_close(struct cuda_paged *paged);

/* Queues all layers. ctx: struct cuda_paged. */
CUresult cuda_paged_queue(void *ctx);

/* Runs both; false, with a line, if their results differ by more than the order of sums explains. */
bool cuda_paged_check(struct cuda_paged *paged, struct cuda_pass_buffers *pass);

#endif
