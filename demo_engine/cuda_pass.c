/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_pass.h"

#include <math.h>
#include <string.h>

/* ---- memory -------------------------------------------------------------------------------------------------- */

#define ALIGN 256u

int cuda_pass_open(const struct cuda_gpu *gpu, const struct model *m, const struct cuda_weights *weights,
                   const struct cuda_step *step, enum kvmm_dtype kv_type, struct cuda_pass *pass,
                   struct engine_error *err)
{
    static const enum kern_dtype dtypes[] = {[KVMM_F16] = KERN_F16, [KVMM_BF16] = KERN_BF16, [KVMM_F32] = KERN_F32};
    const uint64_t q = (uint64_t)m->n_heads * m->head_dim, kv = (uint64_t)m->n_kv_heads * m->head_dim;
    struct cuda_pass p = {.gpu = gpu, .m = m, .w = weights, .step = step};
    p.cache = (struct kern_cu_cache){.n_kv_heads = m->n_kv_heads, .head_dim = m->head_dim, .dtype = dtypes[kv_type]};
    const struct {
        CUdeviceptr *at;
        uint64_t width; /* f32, or room for it */
    } rows[] = {{&p.x, m->n_embd},
                {&p.normed, m->n_embd},
                {&p.q, q},
                {&p.k, kv},
                {&p.v, kv},
                {&p.turned, q},
                {&p.attended, q},
                {&p.delta, m->n_embd},
                {&p.gate, m->n_ff},
                {&p.up, m->n_ff},
                {&p.swiglu, m->n_ff},
                {&p.turn, m->rope_dims}};
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        *rows[i].at = bytes;
        bytes += (step->max_rows * rows[i].width * sizeof(float) + ALIGN - 1) / ALIGN * ALIGN;
    }
    int rc = cuda_gpu_alloc(gpu, bytes, "the rows of a pass", &p.memory, err);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        *rows[i].at += p.memory;
    *pass = p;
    return 0;
}

void cuda_pass_close(struct cuda_pass *p)
{
    if (!p->gpu)
        return;
    cuda_gpu_free(p->gpu, &p->partial);
    cuda_gpu_free(p->gpu, &p->logits);
    cuda_gpu_free(p->gpu, &p->memory);
    *p = (struct cuda_pass){0};
}

bool cuda_pass_set_layout(struct cuda_pass *p, const struct kvmm_layout *l)
{
    struct kern_cu_cache c = p->cache;
    c.kv_stride = l->kv_stride;
    c.page_stride = l->page_stride;
    c.token_stride = l->token_stride;
    c.head_stride = l->head_stride;
    c.page_tokens = l->page_tokens;
    const bool other = memcmp(&c, &p->cache, sizeof c) != 0 || l->layer_stride != p->layer_stride ||
                       l->layers_per_group != p->layers_per_group;
    p->cache = c;
    p->layer_stride = l->layer_stride;
    p->layers_per_group = l->layers_per_group;
    return other;
}

bool cuda_pass_is_decode(const struct cuda_pass *p)
{
    return p->step->max_queries == 1;
}

static int grow(const struct cuda_pass *p, uint64_t bytes, const char *what, CUdeviceptr *at, uint64_t *capacity,
                bool *moved, struct engine_error *err)
{
    if (bytes <= *capacity)
        return 0;
    cuda_gpu_free(p->gpu, at);
    *capacity = 0;
    *moved = true;
    int rc = cuda_gpu_alloc(p->gpu, bytes, what, at, err);
    if (rc == 0)
        *capacity = bytes;
    return rc;
}

static uint32_t n_splits(const struct cuda_pass *p)
{
    return kern_cuda_decode_splits(p->gpu->kernels, p->step->n_seqs, p->m->n_kv_heads);
}

int cuda_pass_grow(struct cuda_pass *p, bool *moved, struct engine_error *err)
{
    const uint64_t logits = (uint64_t)p->step->n_wanted * p->m->n_vocab * sizeof(float);
    *moved = false;
    int rc = grow(p, logits, "logits", &p->logits, &p->logits_bytes, moved, err);
    if (rc != 0 || !cuda_pass_is_decode(p))
        return rc;
    const uint64_t partial = kern_cuda_decode_scratch(p->step->n_seqs, p->m->n_heads, p->m->head_dim, n_splits(p));
    return grow(p, partial, "attention of decoding", &p->partial, &p->partial_bytes, moved, err);
}

/* ---- operations ---------------------------------------------------------------------------------------------- */

static int launched(const struct cuda_pass *p, CUresult rc, const char *kernel, struct engine_error *err)
{
    return rc == CUDA_SUCCESS ? 0 : cuda_gpu_failure(p->gpu, rc, "launching a kernel", kernel, err);
}

static int multiply(const struct cuda_pass *p, const struct cuda_matrix *w, uint32_t in, uint32_t out, CUdeviceptr x,
                    CUdeviceptr y, uint32_t n, struct engine_error *err)
{
    const struct cuda_product product = {.w = w->at, .x = x, .y = y, .type = w->type, .in = in, .out = out, .n = n};
    return cuda_gpu_multiply(p->gpu, &product, err);
}

/* x += delta if delta is not 0, then the norm of x for a matrix of that type. */
static int norm(const struct cuda_pass *p, CUdeviceptr delta, CUdeviceptr weight, enum kern_dtype type,
                struct engine_error *err)
{
    const struct kern_cu_norm params = {.x = p->x,
                                        .delta = delta,
                                        .weight = weight,
                                        .out = p->normed,
                                        .eps = p->m->norm_eps,
                                        .width = p->m->n_embd,
                                        .n_rows = p->step->n_rows,
                                        .out_type = type};
    return launched(p, kern_cuda_norm(p->gpu->kernels, p->gpu->stream, &params), "norm", err);
}

static int begin(const struct cuda_pass *p, struct engine_error *err)
{
    const struct cuda_step *s = p->step;
    const struct kern_cu_embed embed = {.tokens = s->tokens,
                                        .table = p->w->token_embd.at,
                                        .x = p->x,
                                        .table_type = p->w->token_embd.type,
                                        .width = p->m->n_embd,
                                        .n_rows = s->n_rows};
    const struct kern_cu_turn turn = {.seqs = s->seqs,
                                      .row_seq = s->row_seq,
                                      .theta = p->w->theta,
                                      .turn = p->turn,
                                      .rope_dims = p->m->rope_dims,
                                      .n_rows = s->n_rows};
    int rc = launched(p, kern_cuda_embed(p->gpu->kernels, p->gpu->stream, &embed), "embed", err);
    return rc != 0 ? rc : launched(p, kern_cuda_turn(p->gpu->kernels, p->gpu->stream, &turn), "turn", err);
}

static struct kern_cu_cache cache_of(const struct cuda_pass *p, uint32_t layer)
{
    struct kern_cu_cache c = p->cache;
    c.group = layer / p->layers_per_group;
    c.layer_offset = layer % p->layers_per_group * p->layer_stride;
    return c;
}

static int append(const struct cuda_pass *p, uint32_t layer, struct engine_error *err)
{
    const struct kern_cu_append params = {.cache = cache_of(p, layer),
                                          .seqs = p->step->seqs,
                                          .row_seq = p->step->row_seq,
                                          .turn = p->turn,
                                          .q = p->q,
                                          .k = p->k,
                                          .v = p->v,
                                          .q_out = p->turned,
                                          .n_heads = p->m->n_heads,
                                          .rope_dims = p->m->rope_dims,
                                          .n_rows = p->step->n_rows,
                                          .q_type = p->cache.dtype};
    return launched(p, kern_cuda_append(p->gpu->kernels, p->gpu->stream, &params), "append", err);
}

static int attend(const struct cuda_pass *p, uint32_t layer, struct engine_error *err)
{
    const struct cuda_step *s = p->step;
    struct kern_cu_attention params = {.cache = cache_of(p, layer),
                                       .seqs = s->seqs,
                                       .q = p->turned,
                                       .out = p->attended,
                                       .n_heads = p->m->n_heads,
                                       .n_seqs = s->n_seqs,
                                       .out_type = p->w->layers[layer].output.type,
                                       .scale = (float)(1.0 / sqrt(p->m->head_dim))};
    if (!cuda_pass_is_decode(p))
        return launched(p, kern_cuda_prefill(p->gpu->kernels, p->gpu->stream, &params, s->max_queries),
                        "prefill attention", err);
    params.partial = p->partial;
    params.n_splits = n_splits(p);
    return launched(p, kern_cuda_decode(p->gpu->kernels, p->gpu->stream, &params), "decode attention", err);
}

/* delta: what the layer before left to be added to x. */
static int qkv(const struct cuda_pass *p, uint32_t layer, CUdeviceptr delta, struct engine_error *err)
{
    const struct model *m = p->m;
    const struct cuda_layer *l = &p->w->layers[layer];
    const uint32_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim, n = p->step->n_rows;
    int rc = norm(p, delta, l->attn_norm, l->q.type, err);
    if (rc == 0)
        rc = multiply(p, &l->q, m->n_embd, q, p->normed, p->q, n, err);
    if (rc == 0)
        rc = multiply(p, &l->k, m->n_embd, kv, p->normed, p->k, n, err);
    if (rc == 0)
        rc = multiply(p, &l->v, m->n_embd, kv, p->normed, p->v, n, err);
    return rc != 0 ? rc : append(p, layer, err);
}

static int feed_forward(const struct cuda_pass *p, uint32_t layer, struct engine_error *err)
{
    const struct model *m = p->m;
    const struct cuda_layer *l = &p->w->layers[layer];
    const uint32_t n = p->step->n_rows;
    const struct kern_cu_swiglu swiglu = {
        .gate = p->gate, .up = p->up, .out = p->swiglu, .width = m->n_ff, .n_rows = n, .out_type = l->down.type};
    int rc = norm(p, p->delta, l->ffn_norm, l->gate.type, err);
    if (rc == 0)
        rc = multiply(p, &l->gate, m->n_embd, m->n_ff, p->normed, p->gate, n, err);
    if (rc == 0)
        rc = multiply(p, &l->up, m->n_embd, m->n_ff, p->normed, p->up, n, err);
    if (rc == 0)
        rc = launched(p, kern_cuda_swiglu(p->gpu->kernels, p->gpu->stream, &swiglu), "swiglu", err);
    return rc != 0 ? rc : multiply(p, &l->down, m->n_ff, m->n_embd, p->swiglu, p->delta, n, err);
}

static int write_logits(const struct cuda_pass *p, struct engine_error *err)
{
    const struct model *m = p->m;
    const struct cuda_step *s = p->step;
    const struct kern_cu_norm add = {
        .x = p->x, .delta = p->delta, .weight = p->w->output_norm, .width = m->n_embd, .n_rows = s->n_rows};
    const struct kern_cu_norm last = {.x = p->x,
                                      .weight = p->w->output_norm,
                                      .rows = s->wanted,
                                      .out = p->normed,
                                      .eps = m->norm_eps,
                                      .width = m->n_embd,
                                      .n_rows = s->n_wanted,
                                      .out_type = p->w->output.type};
    int rc = launched(p, kern_cuda_norm(p->gpu->kernels, p->gpu->stream, &add), "norm", err);
    if (rc == 0)
        rc = launched(p, kern_cuda_norm(p->gpu->kernels, p->gpu->stream, &last), "norm", err);
    return rc != 0 ? rc : multiply(p, &p->w->output, m->n_embd, m->n_vocab, p->normed, p->logits, s->n_wanted, err);
}

int cuda_pass_queue(void *pass, struct engine_error *err)
{
    const struct cuda_pass *p = pass;
    const struct model *m = p->m;
    int rc = begin(p, err);
    for (uint32_t layer = 0; rc == 0 && layer < m->n_layers; layer++) {
        rc = qkv(p, layer, layer == 0 ? 0 : p->delta, err);
        if (layer + 1 == m->n_layers && p->step->n_wanted == 0)
            return rc; /* the cache has what it was to get */
        if (rc == 0)
            rc = attend(p, layer, err);
        if (rc == 0)
            rc = multiply(p, &p->w->layers[layer].output, m->n_heads * m->head_dim, m->n_embd, p->attended, p->delta,
                          p->step->n_rows, err);
        if (rc == 0)
            rc = feed_forward(p, layer, err);
    }
    return rc != 0 ? rc : write_logits(p, err);
}
