/* SPDX-License-Identifier: Apache-2.0
 *
 * A Llama model: hyperparameters and weights of a GGUF file, all checked against each other. Immutable after open. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "gguf.h"
#include "kernels/attention.h"
#include "matmul.h"

struct model_layer {
    const struct gguf_tensor *attn_norm, *attn_q, *attn_k, *attn_v, *attn_output;
    const struct gguf_tensor *ffn_norm, *ffn_gate, *ffn_up, *ffn_down;
};

struct model {
    struct gguf *file; /* owned */

    uint32_t n_vocab, n_embd, n_layers, n_ff;
    uint32_t n_heads, n_kv_heads, head_dim; /* n_heads × head_dim need not be n_embd */
    uint32_t context_length;
    uint32_t rope_dims; /* the first of each head's, even; the others are not turned */
    float rope_base;
    float norm_eps;

    const struct gguf_tensor *token_embd, *output_norm;
    const struct gguf_tensor *output; /* token_embd where the file has no output.weight */
    struct model_layer *layers;       /* [n_layers] */

    struct matmul_plan plan_q, plan_kv, plan_attn_output, plan_gate, plan_down, plan_output;
};

/* -1: err names the file, and the key or tensor at fault. Everything in the file must be understood: another
 * architecture, a rope scaling or a tensor that is not of the plain Llama layer is an error, not ignored. */
int model_open(const char *path, struct model **model, struct engine_error *err);
void model_close(struct model **model); /* sets NULL; NULL is ignored */

#endif
