/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pass is told about its tokens, as one block in page-locked memory and its copy on the device: one upload a pass,
 * always to the same addresses, so that a captured pass finds the new values. */
#ifndef ENGINE_CUDA_STEP_H
#define ENGINE_CUDA_STEP_H

#include "cuda_gpu.h"
#include "forward.h"

struct cuda_step {
    void *host;
    CUdeviceptr device;
    uint32_t max_rows;

    /* The pass that was filled in. */
    uint32_t n_seqs, n_rows, n_wanted; /* n_wanted: rows whose logits are wanted */
    uint32_t max_queries;              /* of one sequence */
    size_t bytes;
    /* On the device. */
    CUdeviceptr seqs;    /* struct kern_cu_seq [n_seqs] */
    CUdeviceptr tokens;  /* u32 [n_rows] */
    CUdeviceptr row_seq; /* u32 [n_rows] */
    CUdeviceptr wanted;  /* u32 [n_wanted] */
};

/* For passes of at most max_rows tokens in all. On failure *step is as it was. */
int cuda_step_open(const struct cuda_gpu *gpu, uint32_t max_rows, struct cuda_step *step, struct engine_error *err);
void cuda_step_close(const struct cuda_gpu *gpu, struct cuda_step *step);

/* Fills the block in. Precondition: no upload of it is on its way. */
void cuda_step_fill(struct cuda_step *step, const struct forward_item *items, uint32_t n_items);
/* Queues the upload. */
int cuda_step_upload(const struct cuda_gpu *gpu, const struct cuda_step *step, struct engine_error *err);

#endif
