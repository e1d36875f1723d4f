/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_weights.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_upload.h"
#include "ops.h"

/* The tensors in the order of the allocation: first listed with offsets, then, when the memory is there, uploaded. */
struct list {
    struct cuda_tensor *at;
    uint32_t n;
    uint64_t bytes;
};

#define ALIGN          256u /* what cuMemAlloc gives; cuBLAS's fastest kernels want 16 */
#define PER_LAYER      9
#define BESIDES_LAYERS 4 /* theta, output_norm, token_embd, output */

static void add(struct list *list, enum gguf_type from, const void *data, uint64_t n, enum kern_dtype to,
                CUdeviceptr *place) // NOLINT(readability-non-const-parameter): written through, later
{
    list->at[list->n++] =
        (struct cuda_tensor){.from = from, .data = data, .n = n, .to = to, .offset = list->bytes, .place = place};
    list->bytes += (n * cuda_type_bytes(to) + ALIGN - 1) / ALIGN * ALIGN;
}

static void add_norm(struct list *list, const struct gguf_tensor *t, CUdeviceptr *place)
{
    add(list, t->type, t->data, t->dims[0], KERN_F32, place);
}

/* Matrices that multiply the same rows: [n]. */
static void add_matrices(struct list *list, uint32_t n, const struct gguf_tensor *const *t,
                         struct cuda_matrix *const *matrices)
{
    static const enum kern_dtype types[] = {
        [GGUF_F32] = KERN_F32, [GGUF_F16] = KERN_F16, [GGUF_Q8_0] = KERN_F16, [GGUF_BF16] = KERN_BF16};
    enum kern_dtype type = types[t[0]->type];
    for (uint32_t i = 1; i < n; i++) {
        if (types[t[i]->type] != type)
            type = KERN_F32;
    }
    for (uint32_t i = 0; i < n; i++) {
        matrices[i]->type = type;
        add(list, t[i]->type, t[i]->data, t[i]->dims[0] * t[i]->dims[1], type, &matrices[i]->at);
    }
}

static void add_layer(struct list *list, const struct model_layer *l, struct cuda_layer *to)
{
    add_norm(list, l->attn_norm, &to->attn_norm);
    add_matrices(list, 3, (const struct gguf_tensor *const[]){l->attn_q, l->attn_k, l->attn_v},
                 (struct cuda_matrix *const[]){&to->q, &to->k, &to->v});
    add_matrices(list, 1, &l->attn_output, (struct cuda_matrix *const[]){&to->output});
    add_norm(list, l->ffn_norm, &to->ffn_norm);
    add_matrices(list, 2, (const struct gguf_tensor *const[]){l->ffn_gate, l->ffn_up},
                 (struct cuda_matrix *const[]){&to->gate, &to->up});
    add_matrices(list, 1, &l->ffn_down, (struct cuda_matrix *const[]){&to->down});
}

static void add_model(struct list *list, const struct model *m, const float *theta, struct cuda_weights *w)
{
    add(list, GGUF_F32, theta, m->rope_dims / 2, KERN_F32, &w->theta);
    add_matrices(list, 1, &m->token_embd, (struct cuda_matrix *const[]){&w->token_embd});
    for (uint32_t i = 0; i < m->n_layers; i++)
        add_layer(list, &m->layers[i], &w->layers[i]);
    add_norm(list, m->output_norm, &w->output_norm);
    if (m->output != m->token_embd)
        add_matrices(list, 1, &m->output, (struct cuda_matrix *const[]){&w->output});
}

int cuda_weights_open(const struct cuda_gpu *gpu, const struct model *m, struct kern_pool *pool,
                      engine_progress progress, void *user, struct cuda_weights *weights, struct engine_error *err)
{
    struct cuda_weights w = {.layers = calloc(m->n_layers, sizeof *w.layers)};
    struct list list = {.at = calloc(PER_LAYER * (size_t)m->n_layers + BESIDES_LAYERS, sizeof *list.at)};
    float *theta = calloc(m->rope_dims / 2, sizeof *theta);
    int rc = 0;
    if (!w.layers || !list.at || !theta) {
        rc = engine_broke(err, "out of memory for %u layers", m->n_layers);
        goto free_list;
    }
    ops_rope_theta(m->rope_base, m->rope_dims, theta);
    add_model(&list, m, theta, &w);
    rc = cuda_gpu_alloc(gpu, list.bytes, "the weights", &w.memory, err);
    if (rc != 0)
        goto free_list;
    w.bytes = list.bytes;
    for (uint32_t i = 0; i < list.n; i++)
        *list.at[i].place = w.memory + list.at[i].offset;
    if (m->output == m->token_embd)
        w.output = w.token_embd;
    rc = cuda_upload(gpu, pool, list.at, list.n, progress, user, err);
    if (rc != 0)
        cuda_gpu_free(gpu, &w.memory);
free_list:
    free(theta);
    free(list.at);
    if (rc == 0)
        *weights = w;
    else
        free(w.layers);
    return rc;
}

void cuda_weights_close(const struct cuda_gpu *gpu, struct cuda_weights *weights)
{
    cuda_gpu_free(gpu, &weights->memory);
    free(weights->layers);
    *weights = (struct cuda_weights){0};
}
