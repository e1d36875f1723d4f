/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of a pass, queued in their order on the GPU's stream, and the memory between them. All that changes from
 * one pass to the next of the same shape is in device memory (struct cuda_step), so that the queue of operations can be
 * captured once and replayed. */
#ifndef ENGINE_CUDA_PASS_H
#define ENGINE_CUDA_PASS_H

#include "cuda_step.h"
#include "cuda_weights.h"

struct cuda_pass {
    const struct cuda_gpu *gpu;
    const struct model *m;
    const struct cuda_weights *w;
    const struct cuda_step *step;
    struct kern_cu_cache cache; /* the strides of a sequence; group and layer_offset of layer 0 */
    size_t layer_stride;
    uint32_t layers_per_group;

    CUdeviceptr memory; /* holds all of the rows below, [max_rows] each */
    CUdeviceptr x;      /* the residual stream, f32 n_embd */
    CUdeviceptr normed; /* n_embd, of the type of what it is multiplied with */
    CUdeviceptr q, k, v;
    CUdeviceptr turned;   /* q, turned: n_heads × head_dim of the cache's type */
    CUdeviceptr attended; /* the same, of the type of attn_output */
    CUdeviceptr delta;    /* f32 n_embd: what a half of a layer adds to x */
    CUdeviceptr gate, up; /* f32 n_ff */
    CUdeviceptr swiglu;   /* n_ff, of the type of ffn_down */
    CUdeviceptr turn;     /* f32 rope_dims */

    /* Grown as needed, when nothing is queued; a captured pass holds their addresses. */
    CUdeviceptr logits, partial;
    uint64_t logits_bytes, partial_bytes;
};

/* All that is named is used, not owned. On failure nothing is left. */
int cuda_pass_open(const struct cuda_gpu *gpu, const struct model *model, const struct cuda_weights *weights,
                   const struct cuda_step *step, enum kvmm_dtype kv_type, struct cuda_pass *pass,
                   struct engine_error *err);
void cuda_pass_close(struct cuda_pass *pass);

/* Takes the strides for the passes to come; true if they are others than before. */
bool cuda_pass_set_layout(struct cuda_pass *pass, const struct kvmm_layout *layout);

/* Whether the pass that is filled in has one query in each sequence, and so the kernels of decoding. */
bool cuda_pass_is_decode(const struct cuda_pass *pass);

/* Makes room for the pass that is filled in. *moved: addresses have changed. Precondition: nothing is queued. */
int cuda_pass_grow(struct cuda_pass *pass, bool *moved, struct engine_error *err);

/* Queues the operations of the pass that is filled in and uploaded in front of them, up to its logits on the device:
 * f32 [n_wanted][n_vocab]. pass: a struct cuda_pass. */
int cuda_pass_queue(void *pass, struct engine_error *err);

#endif
