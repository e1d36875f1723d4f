/* SPDX-License-Identifier: Apache-2.0 */
#include "forward_cpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dequant.h"
#include "kernels/attention.h"
#include "ops.h"
#include "status.h"

/* Where a token of the pass belongs. */
struct place {
    uint32_t item;
    uint32_t pos;
};

struct forward_cpu {
    struct forward seam;
    const struct model *m;
    struct kern_pool *pool;
    struct matmul *mm;
    struct kern_attention_params attention;
    uint32_t max_tokens;
    float *theta; /* [rope_dims / 2] */

    /* Rows of the tokens of a pass, [max_tokens] each. */
    float *x;       /* the residual stream, n_embd */
    float *normed;  /* n_embd */
    float *q, *att; /* n_heads × head_dim */
    float *k, *v;   /* n_kv_heads × head_dim */
    float *delta;   /* n_embd: what a half of a layer adds to x */
    float *gate, *up;
    float *turn; /* rope_dims: cos and sin of each pair */
    struct place *places;

    /* For the items of a pass; grown as needed. */
    struct kern_attention_item *items;
    float *last, *logits; /* the rows whose logits are wanted: n_embd, n_vocab */
    uint32_t max_items;
    void *scratch; /* kern_attention()'s */
    size_t scratch_bytes;

    /* The pass that is running. */
    const struct forward_item *run;
    const struct model_layer *layer;
    uint32_t layer_index;
};

/* ---- rows ---------------------------------------------------------------------------------------------------- */

static uint32_t max_of(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static float *rows(uint32_t n, size_t width)
{
    return aligned_alloc(64, (n * width * sizeof(float) + 63) / 64 * 64);
}

static bool alloc_rows(struct forward_cpu *f)
{
    const struct model *m = f->m;
    const uint32_t n = f->max_tokens;
    const size_t q = (size_t)m->n_heads * m->head_dim, kv = (size_t)m->n_kv_heads * m->head_dim;
    f->theta = rows(1, m->rope_dims);
    f->x = rows(n, m->n_embd);
    f->normed = rows(n, m->n_embd);
    f->q = rows(n, q);
    f->att = rows(n, q);
    f->k = rows(n, kv);
    f->v = rows(n, kv);
    f->delta = rows(n, m->n_embd);
    f->gate = rows(n, m->n_ff);
    f->up = rows(n, m->n_ff);
    f->turn = rows(n, m->rope_dims);
    f->places = calloc(n, sizeof *f->places);
    return f->theta && f->x && f->normed && f->q && f->att && f->k && f->v && f->delta && f->gate && f->up && f->turn &&
           f->places;
}

/* ---- one token at a time ------------------------------------------------------------------------------------- */

static void for_tokens(struct forward_cpu *f, uint32_t n, void (*body)(void *, uint32_t, uint32_t))
{
    if (n == 1)
        body(f, 0, 0); /* not worth waking a thread */
    else
        kern_pool_run(f->pool, n, body, f);
}

static void norm_for_attention(const struct forward_cpu *f, uint32_t i)
{
    const struct model *m = f->m;
    ops_rms_norm(f->x + (size_t)i * m->n_embd, f->layer->attn_norm->data, m->n_embd, m->norm_eps,
                 f->normed + (size_t)i * m->n_embd);
}

static void embed_body(void *ctx, uint32_t i, uint32_t thread)
{
    (void)thread;
    struct forward_cpu *f = ctx;
    const struct model *m = f->m;
    const struct forward_item *item = &f->run[f->places[i].item];
    engine_token token = item->tokens[f->places[i].pos - item->first_pos];
    const char *row =
        (const char *)m->token_embd->data + (uint64_t)token * gguf_type_bytes(m->token_embd->type, m->n_embd);
    engine_dequant(m->token_embd->type, row, m->n_embd, f->x + (size_t)i * m->n_embd);
    ops_rope_turn(f->theta, m->rope_dims, f->places[i].pos, f->turn + (size_t)i * m->rope_dims);
    norm_for_attention(f, i);
}

static struct kern_tensor cache_tensor(const struct forward_cpu *f, const struct kvmm_layout *l, uint32_t kv)
{
    return (struct kern_tensor){.base = kvmm_layout_at(l, f->layer_index, kv),
                                .page_stride = l->page_stride,
                                .token_stride = l->token_stride,
                                .head_stride = l->head_stride,
                                .page_tokens = l->page_tokens};
}

static void rope_and_store_body(void *ctx, uint32_t i, uint32_t thread)
{
    (void)thread;
    struct forward_cpu *f = ctx;
    const struct model *m = f->m;
    const size_t q = (size_t)m->n_heads * m->head_dim, kv = (size_t)m->n_kv_heads * m->head_dim;
    const float *turn = f->turn + (size_t)i * m->rope_dims;
    ops_rope(f->q + i * q, m->n_heads, m->head_dim, m->rope_dims, turn);
    ops_rope(f->k + i * kv, m->n_kv_heads, m->head_dim, m->rope_dims, turn);
    const struct kvmm_layout *layout = &f->run[f->places[i].item].layout;
    struct kern_tensor k = cache_tensor(f, layout, 0), v = cache_tensor(f, layout, 1);
    kern_store(&f->attention, &k, f->places[i].pos, 1, f->k + i * kv, kv);
    kern_store(&f->attention, &v, f->places[i].pos, 1, f->v + i * kv, kv);
}

static void add_attention_body(void *ctx, uint32_t i, uint32_t thread)
{
    (void)thread;
    struct forward_cpu *f = ctx;
    const struct model *m = f->m;
    float *x = f->x + (size_t)i * m->n_embd;
    ops_add(x, f->delta + (size_t)i * m->n_embd, m->n_embd);
    ops_rms_norm(x, f->layer->ffn_norm->data, m->n_embd, m->norm_eps, f->normed + (size_t)i * m->n_embd);
}

static void swiglu_body(void *ctx, uint32_t i, uint32_t thread)
{
    (void)thread;
    struct forward_cpu *f = ctx;
    ops_swiglu(f->gate + (size_t)i * f->m->n_ff, f->up + (size_t)i * f->m->n_ff, f->m->n_ff);
}

/* f->layer is the next one already; NULL after the last. */
static void add_ffn_body(void *ctx, uint32_t i, uint32_t thread)
{
    (void)thread;
    struct forward_cpu *f = ctx;
    ops_add(f->x + (size_t)i * f->m->n_embd, f->delta + (size_t)i * f->m->n_embd, f->m->n_embd);
    if (f->layer)
        norm_for_attention(f, i);
}

/* ---- the pass ------------------------------------------------------------------------------------------------ */

static void project(struct forward_cpu *f, const struct matmul_plan *plan, const struct gguf_tensor *w, const float *x,
                    float *y, uint32_t n)
{
    struct matmul_job job = {.plan = plan, .w = w, .y_stride = plan->out};
    job.y = y;
    matmul_run(f->mm, &job, 1, x, plan->in, n);
}

static int attend(struct forward_cpu *f, uint32_t n_items)
{
    for (uint32_t i = 0; i < n_items; i++) {
        f->items[i].k = cache_tensor(f, &f->run[i].layout, 0);
        f->items[i].v = cache_tensor(f, &f->run[i].layout, 1);
    }
    return kern_attention(&f->attention, f->items, n_items, f->scratch, f->pool);
}

static int run_layer(struct forward_cpu *f, uint32_t n, uint32_t n_items)
{
    const struct model *m = f->m;
    const struct model_layer *l = f->layer;
    const struct matmul_job qkv[] = {
        {.plan = &m->plan_q, .w = l->attn_q, .y = f->q, .y_stride = m->plan_q.out},
        {.plan = &m->plan_kv, .w = l->attn_k, .y = f->k, .y_stride = m->plan_kv.out},
        {.plan = &m->plan_kv, .w = l->attn_v, .y = f->v, .y_stride = m->plan_kv.out},
    };
    const struct matmul_job gate_up[] = {
        {.plan = &m->plan_gate, .w = l->ffn_gate, .y = f->gate, .y_stride = m->n_ff},
        {.plan = &m->plan_gate, .w = l->ffn_up, .y = f->up, .y_stride = m->n_ff},
    };
    matmul_run(f->mm, qkv, 3, f->normed, m->n_embd, n);
    for_tokens(f, n, rope_and_store_body);
    int rc = attend(f, n_items);
    if (rc != 0)
        return rc;
    project(f, &m->plan_attn_output, l->attn_output, f->att, f->delta, n);
    for_tokens(f, n, add_attention_body);
    matmul_run(f->mm, gate_up, 2, f->normed, m->n_embd, n);
    for_tokens(f, n, swiglu_body);
    project(f, &m->plan_down, l->ffn_down, f->gate, f->delta, n);

    f->layer_index++;
    f->layer = f->layer_index < m->n_layers ? &m->layers[f->layer_index] : NULL;
    for_tokens(f, n, add_ffn_body);
    return 0;
}

static void write_logits(struct forward_cpu *f, uint32_t n_items)
{
    const struct model *m = f->m;
    uint32_t n = 0, row = 0;
    for (uint32_t i = 0; i < n_items; i++) {
        row += f->run[i].n_tokens;
        if (f->run[i].logits)
            ops_rms_norm(f->x + (size_t)(row - 1) * m->n_embd, m->output_norm->data, m->n_embd, m->norm_eps,
                         f->last + (size_t)n++ * m->n_embd);
    }
    if (n == 0)
        return;
    project(f, &m->plan_output, m->output, f->last, f->logits, n);
    n = 0;
    for (uint32_t i = 0; i < n_items; i++) {
        if (f->run[i].logits)
            memcpy(f->run[i].logits, f->logits + (size_t)n++ * m->n_vocab, m->n_vocab * sizeof(float));
    }
}

static int grow_items(struct forward_cpu *f, uint32_t n)
{
    if (n <= f->max_items)
        return 0;
    free(f->items);
    free(f->last);
    free(f->logits);
    f->max_items = 0;
    f->items = calloc(n, sizeof *f->items);
    f->last = rows(n, f->m->n_embd);
    f->logits = rows(n, f->m->n_vocab);
    if (!f->items || !f->last || !f->logits)
        return -1;
    f->max_items = n;
    return 0;
}

/* Everything that can fail. */
static int prepare(struct forward_cpu *f, const struct forward_item *items, uint32_t n_items, struct engine_error *err)
{
    const size_t q = (size_t)f->m->n_heads * f->m->head_dim;
    if (grow_items(f, n_items) != 0)
        return engine_broke(err, "out of memory for a step of %u conversations", n_items);
    uint32_t row = 0;
    for (uint32_t i = 0; i < n_items; i++) {
        f->items[i] = (struct kern_attention_item){.k = cache_tensor(f, &items[i].layout, 0),
                                                   .v = cache_tensor(f, &items[i].layout, 1),
                                                   .first_pos = items[i].first_pos,
                                                   .n_queries = items[i].n_tokens,
                                                   .q = f->q + row * q,
                                                   .out = f->att + row * q,
                                                   .q_stride = q,
                                                   .out_stride = q};
        for (uint32_t t = 0; t < items[i].n_tokens; t++)
            f->places[row++] = (struct place){.item = i, .pos = items[i].first_pos + t};
    }
    size_t bytes = kern_attention_scratch(&f->attention, f->items, n_items, kern_pool_size(f->pool));
    if (bytes == 0)
        return engine_broke(err, "attention refuses %u heads of %u dimensions over %u", f->attention.n_heads,
                            f->attention.head_dim, f->attention.n_kv_heads);
    if (bytes > f->scratch_bytes) {
        free(f->scratch);
        f->scratch_bytes = 0;
        bytes = (bytes + bytes / 2 + 63) / 64 * 64; /* a growing sequence would grow it at each step */
        f->scratch = aligned_alloc(64, bytes);
        if (!f->scratch)
            return engine_broke(err, "out of memory: attention needs %zu bytes of scratch", bytes);
        f->scratch_bytes = bytes;
    }
    return 0;
}

static int run_pass(struct forward *fwd, const struct forward_item *items, uint32_t n_items, struct engine_error *err)
{
    struct forward_cpu *f = (struct forward_cpu *)fwd;
    f->run = items;
    f->layer_index = 0;
    f->layer = &f->m->layers[0];
    int rc = prepare(f, items, n_items, err);
    if (rc != 0)
        return rc;
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_items; i++)
        n += items[i].n_tokens;
    for_tokens(f, n, embed_body);
    while (f->layer) {
        rc = run_layer(f, n, n_items);
        if (rc != 0)
            return engine_broke(err, "attention in layer %u: %s", f->layer_index, strerror(-rc));
    }
    write_logits(f, n_items);
    return 0;
}

static int already_done(struct forward *fwd, struct engine_error *err)
{
    (void)fwd;
    (void)err;
    return 0;
}

/* ---- open and close ------------------------------------------------------------------------------------------ */

static void close_pass(struct forward *fwd)
{
    struct forward_cpu *f = (struct forward_cpu *)fwd;
    void *owned[] = {f->theta, f->x,  f->normed, f->q,      f->att,   f->k,    f->v,      f->delta,
                     f->gate,  f->up, f->turn,   f->places, f->items, f->last, f->logits, f->scratch};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
    matmul_close(&f->mm);
    free(f);
}

static const struct forward_ops CPU = {.queue = run_pass, .wait = already_done, .close = close_pass};

int forward_cpu_open(const struct model *model, struct kern_pool *pool, enum kvmm_dtype kv_type, uint32_t max_tokens,
                     struct forward **fwd, struct engine_error *err)
{
    static const enum kern_dtype dtypes[] = {[KVMM_F16] = KERN_F16, [KVMM_BF16] = KERN_BF16, [KVMM_F32] = KERN_F32};
    struct forward_cpu *f = calloc(1, sizeof *f);
    if (!f)
        return engine_broke(err, "out of memory");
    f->seam.ops = &CPU;
    f->m = model;
    f->pool = pool;
    f->max_tokens = max_tokens;
    f->attention = (struct kern_attention_params){.n_heads = model->n_heads,
                                                  .n_kv_heads = model->n_kv_heads,
                                                  .head_dim = model->head_dim,
                                                  .dtype = dtypes[kv_type],
                                                  .isa = kern_isa_best(),
                                                  .scale = (float)(1.0 / sqrt(model->head_dim))};
    uint32_t max_in = max_of(max_of(model->n_embd, model->n_ff), model->n_heads * model->head_dim);
    if (!alloc_rows(f) || matmul_open(pool, max_in, &f->mm) != 0) {
        close_pass(&f->seam);
        return engine_broke(err, "out of memory for steps of %u tokens", max_tokens);
    }
    ops_rope_theta(model->rope_base, model->rope_dims, f->theta);
    *fwd = &f->seam;
    return 0;
}
