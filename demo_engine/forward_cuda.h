/* SPDX-License-Identifier: Apache-2.0
 *
 * Passes on a GPU, over K and V in its memory: all on one stream, decoding as replays of captured graphs. The CPU waits
 * for the end of a pass in forward_wait() only.
 *
 * Repeated in the same chunks and batches, a token's K, V and logits have the same bits. In others they may differ in the
 * last ones: cuBLAS and the attention kernels choose their order of summation by the shape. */
#ifndef ENGINE_FORWARD_CUDA_H
#define ENGINE_FORWARD_CUDA_H

#include "engine.h"
#include "forward.h"
#include "kernels/pool.h"
#include "model.h"

/* On cuda:ordinal, for passes of at most max_tokens tokens in all. Uploads the weights: progress (may be NULL) counts
 * MiB. Model and pool are used, not owned. ENGINE_BAD_INPUT: the device can't be used or has too little memory. */
int forward_cuda_open(const struct model *model, struct kern_pool *pool, int ordinal, enum kvmm_dtype kv_type,
                      uint32_t max_tokens, engine_progress progress, void *user, struct forward **fwd,
                      struct engine_error *err);

#endif
