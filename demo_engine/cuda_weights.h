/* SPDX-License-Identifier: Apache-2.0
 *
 * A model's weights in device memory, one allocation, uploaded once through page-locked memory. F32, F16 and BF16 stay what
 * they are, Q8_0 becomes f16. Matrices that multiply the same rows have one type: f32, where the file has several. */
#ifndef ENGINE_CUDA_WEIGHTS_H
#define ENGINE_CUDA_WEIGHTS_H

#include "cuda_gpu.h"
#include "engine.h"
#include "kernels/pool.h"
#include "model.h"

struct cuda_matrix {
    CUdeviceptr at;
    enum kern_dtype type;
};

struct cuda_layer {
    CUdeviceptr attn_norm, ffn_norm;
    struct cuda_matrix q, k, v, output, gate, up, down;
};

struct cuda_weights {
    CUdeviceptr memory;
    uint64_t bytes;
    CUdeviceptr theta; /* f32 [rope_dims / 2] */
    CUdeviceptr output_norm;
    struct cuda_matrix token_embd, output;
    struct cuda_layer *layers; /* [n_layers] */
};

/* Waits for the upload. progress (may be NULL) counts MiB. pool: for the conversions. Errors: ENGINE_BAD_INPUT if the
 * device has too little memory (the line says how much it takes), ENGINE_FAILED. On failure nothing is left. */
int cuda_weights_open(const struct cuda_gpu *gpu, const struct model *model, struct kern_pool *pool,
                      engine_progress progress, void *user, struct cuda_weights *weights, struct engine_error *err);
void cuda_weights_close(const struct cuda_gpu *gpu, struct cuda_weights *weights);

#endif
