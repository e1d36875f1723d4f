/* SPDX-License-Identifier: Apache-2.0 */
#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "status.h"

/* Bounds that keep every product of two dimensions, and BLAS's int, in range. */
#define MAX_DIM    (1u << 20)
#define MAX_LAYERS 1024
#define MAX_VOCAB  (1u << 24)
#define MAX_TOKENS (1u << 30) /* kvmm_seq_create()'s bound */

static bool same(struct gguf_string s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.text, text, s.len) == 0;
}

/* ---- hyperparameters ----------------------------------------------------------------------------------------- */

static int required_u32(const struct gguf *file, const char *key, uint32_t max, uint32_t *value,
                        struct engine_error *err)
{
    uint32_t v;
    if (!gguf_u32(file, key, &v))
        return engine_fail(err, "%s: %s is missing or not an integer", gguf_path(file), key);
    if (v < 1 || v > max)
        return engine_fail(err, "%s: %s is %u, not 1 to %u", gguf_path(file), key, v, max);
    *value = v;
    return 0;
}

/* As required_u32(), with a value for a missing key; one of a wrong type is an error. */
static int optional_u32(const struct gguf *file, const char *key, uint32_t max, uint32_t missing, uint32_t *value,
                        struct engine_error *err)
{
    uint32_t v = missing;
    if (!gguf_u32(file, key, &v))
        v = missing;
    if (v < 1 || v > max)
        return engine_fail(err, "%s: %s is %u, not 1 to %u", gguf_path(file), key, v, max);
    *value = v;
    return 0;
}

static int check_architecture(const struct gguf *file, struct engine_error *err)
{
    struct gguf_string s;
    if (!gguf_string(file, "general.architecture", &s))
        return engine_fail(err, "%s: general.architecture is missing", gguf_path(file));
    if (!same(s, "llama"))
        return engine_fail(err, "%s: architecture %.*s is not supported, only llama", gguf_path(file),
                           (int)(s.len < 64 ? s.len : 64), s.text);
    uint32_t n;
    if (gguf_u32(file, "llama.expert_count", &n) && n > 0)
        return engine_fail(err, "%s: a mixture of %u experts is not supported", gguf_path(file), n);
    if (gguf_string(file, "llama.rope.scaling.type", &s) && !same(s, "none"))
        return engine_fail(err, "%s: rope scaling \"%.*s\" is not supported", gguf_path(file),
                           (int)(s.len < 64 ? s.len : 64), s.text);
    float scale;
    if (gguf_f32(file, "llama.rope.scale_linear", &scale) && scale != 1.0f)
        return engine_fail(err, "%s: rope scaling (llama.rope.scale_linear %g) is not supported", gguf_path(file),
                           (double)scale);
    return 0;
}

static int read_heads(struct model *m, struct engine_error *err)
{
    const struct gguf *f = m->file;
    if (required_u32(f, "llama.attention.head_count", MAX_DIM, &m->n_heads, err) != 0 ||
        optional_u32(f, "llama.attention.head_count_kv", MAX_DIM, m->n_heads, &m->n_kv_heads, err) != 0)
        return -1;
    if (m->n_heads % m->n_kv_heads != 0)
        return engine_fail(err, "%s: %u heads can't share %u KV heads evenly", gguf_path(f), m->n_heads, m->n_kv_heads);

    uint32_t key_length = 0, value_length;
    bool given = gguf_u32(f, "llama.attention.key_length", &key_length);
    if (!given && m->n_embd % m->n_heads != 0)
        return engine_fail(err, "%s: an embedding of %u does not divide into %u heads", gguf_path(f), m->n_embd,
                           m->n_heads);
    if (optional_u32(f, "llama.attention.key_length", KERN_MAX_HEAD_DIM, m->n_embd / m->n_heads, &m->head_dim, err) !=
            0 ||
        optional_u32(f, "llama.attention.value_length", KERN_MAX_HEAD_DIM, m->n_embd / m->n_heads, &value_length,
                     err) != 0)
        return -1;
    if (value_length != m->head_dim)
        return engine_fail(err, "%s: heads with %u dimensions of K and %u of V are not supported", gguf_path(f),
                           m->head_dim, value_length);
    if ((uint64_t)m->n_heads * m->head_dim > MAX_DIM)
        return engine_fail(err, "%s: %u heads of %u dimensions are more than %u in all", gguf_path(f), m->n_heads,
                           m->head_dim, MAX_DIM);
    return 0;
}

static int read_rope(struct model *m, struct engine_error *err)
{
    const struct gguf *f = m->file;
    if (optional_u32(f, "llama.rope.dimension_count", m->head_dim, m->head_dim, &m->rope_dims, err) != 0)
        return -1;
    if (m->rope_dims % 2 != 0)
        return engine_fail(err, "%s: llama.rope.dimension_count is %u, an odd number", gguf_path(f), m->rope_dims);
    m->rope_base = 10000.0f;
    (void)gguf_f32(f, "llama.rope.freq_base", &m->rope_base);
    if (!(m->rope_base > 0) || !isfinite(m->rope_base))
        return engine_fail(err, "%s: llama.rope.freq_base is %g", gguf_path(f), (double)m->rope_base);
    return 0;
}

static int read_parameters(struct model *m, struct engine_error *err)
{
    const struct gguf *f = m->file;
    if (check_architecture(f, err) != 0 || required_u32(f, "llama.embedding_length", MAX_DIM, &m->n_embd, err) != 0 ||
        required_u32(f, "llama.block_count", MAX_LAYERS, &m->n_layers, err) != 0 ||
        required_u32(f, "llama.feed_forward_length", MAX_DIM, &m->n_ff, err) != 0 ||
        required_u32(f, "llama.context_length", MAX_TOKENS, &m->context_length, err) != 0 || read_heads(m, err) != 0 ||
        read_rope(m, err) != 0)
        return -1;
    if (!gguf_f32(f, "llama.attention.layer_norm_rms_epsilon", &m->norm_eps))
        return engine_fail(err, "%s: llama.attention.layer_norm_rms_epsilon is missing", gguf_path(f));
    if (!(m->norm_eps >= 0) || !isfinite(m->norm_eps))
        return engine_fail(err, "%s: llama.attention.layer_norm_rms_epsilon is %g", gguf_path(f), (double)m->norm_eps);
    return 0;
}

/* ---- tensors ------------------------------------------------------------------------------------------------- */

/* Every tensor that is asked for counts in *found, so that one that nobody asked for is noticed. */
struct tensors {
    const struct gguf *file;
    uint64_t found;
};

static bool words_aligned(const struct gguf_tensor *t)
{
    return (uintptr_t)t->data % (t->type == GGUF_F32 ? 4 : 2) == 0;
}

/* rows 0: a vector of `columns`. */
static int get(struct tensors *ts, const char *name, uint32_t columns, uint32_t rows, const struct gguf_tensor **t,
               struct engine_error *err)
{
    const struct gguf_tensor *found = gguf_tensor(ts->file, name);
    if (!found)
        return engine_fail(err, "%s: tensor %s is missing", gguf_path(ts->file), name);
    bool fits =
        found->dims[0] == columns && found->dims[1] == (rows ? rows : 1) && found->dims[2] == 1 && found->dims[3] == 1;
    if (!fits)
        return engine_fail(err, "%s: tensor %s is %llu × %llu, where the hyperparameters want %u × %u",
                           gguf_path(ts->file), name, (unsigned long long)found->dims[0],
                           (unsigned long long)found->dims[1], columns, rows ? rows : 1);
    if (rows == 0 && found->type != GGUF_F32)
        return engine_fail(err, "%s: tensor %s is %s; a norm must be F32", gguf_path(ts->file), name,
                           gguf_type_name(found->type));
    if (!words_aligned(found))
        return engine_fail(err, "%s: tensor %s is not aligned to its elements", gguf_path(ts->file), name);
    ts->found++;
    *t = found;
    return 0;
}

static int get_layer(struct tensors *ts, const struct model *m, uint32_t i, struct model_layer *l,
                     struct engine_error *err)
{
    const uint32_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
    const struct {
        const char *name;
        uint32_t columns, rows;
        const struct gguf_tensor **t;
    } wanted[] = {
        {"attn_norm", m->n_embd, 0, &l->attn_norm},     {"attn_q", m->n_embd, q, &l->attn_q},
        {"attn_k", m->n_embd, kv, &l->attn_k},          {"attn_v", m->n_embd, kv, &l->attn_v},
        {"attn_output", q, m->n_embd, &l->attn_output}, {"ffn_norm", m->n_embd, 0, &l->ffn_norm},
        {"ffn_gate", m->n_embd, m->n_ff, &l->ffn_gate}, {"ffn_up", m->n_embd, m->n_ff, &l->ffn_up},
        {"ffn_down", m->n_ff, m->n_embd, &l->ffn_down},
    };
    for (size_t k = 0; k < sizeof wanted / sizeof *wanted; k++) {
        char name[64];
        (void)snprintf(name, sizeof name, "blk.%u.%s.weight", i, wanted[k].name);
        if (get(ts, name, wanted[k].columns, wanted[k].rows, wanted[k].t, err) != 0)
            return -1;
    }
    return 0;
}

static bool in_layer(const struct model_layer *l, const struct gguf_tensor *t)
{
    return t == l->attn_norm || t == l->attn_q || t == l->attn_k || t == l->attn_v || t == l->attn_output ||
           t == l->ffn_norm || t == l->ffn_gate || t == l->ffn_up || t == l->ffn_down;
}

/* Names one of those that were not asked for; there is one. */
static int refuse_unknown_tensor(const struct model *m, struct engine_error *err)
{
    for (uint64_t i = 0; i < gguf_n_tensors(m->file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->file, i);
        bool known = t == m->token_embd || t == m->output_norm || t == m->output;
        for (uint32_t l = 0; !known && l < m->n_layers; l++)
            known = in_layer(&m->layers[l], t);
        if (!known)
            return engine_fail(err, "%s: tensor %.*s is not part of a plain Llama model", gguf_path(m->file),
                               (int)(t->name.len < 64 ? t->name.len : 64), t->name.text);
    }
    return engine_fail(err, "%s: a tensor is named twice", gguf_path(m->file));
}

static int read_tensors(struct model *m, struct engine_error *err)
{
    struct tensors ts = {.file = m->file};
    const struct gguf_tensor *embd = gguf_tensor(m->file, "token_embd.weight");
    if (!embd)
        return engine_fail(err, "%s: tensor token_embd.weight is missing", gguf_path(m->file));
    if (embd->dims[1] < 1 || embd->dims[1] > MAX_VOCAB)
        return engine_fail(err, "%s: a vocabulary of %llu tokens is not 1 to %u", gguf_path(m->file),
                           (unsigned long long)embd->dims[1], MAX_VOCAB);
    m->n_vocab = (uint32_t)embd->dims[1];
    if (get(&ts, "token_embd.weight", m->n_embd, m->n_vocab, &m->token_embd, err) != 0 ||
        get(&ts, "output_norm.weight", m->n_embd, 0, &m->output_norm, err) != 0)
        return -1;
    m->output = m->token_embd;
    if (gguf_tensor(m->file, "output.weight") && get(&ts, "output.weight", m->n_embd, m->n_vocab, &m->output, err) != 0)
        return -1;

    m->layers = calloc(m->n_layers, sizeof *m->layers);
    if (!m->layers)
        return engine_broke(err, "%s: out of memory for %u layers", gguf_path(m->file), m->n_layers);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        if (get_layer(&ts, m, i, &m->layers[i], err) != 0)
            return -1;
    }
    return ts.found == gguf_n_tensors(m->file) ? 0 : refuse_unknown_tensor(m, err);
}

static int make_plans(struct model *m, struct engine_error *err)
{
    const uint32_t q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
    if (matmul_plan_make(m->n_embd, q, &m->plan_q) != 0 || matmul_plan_make(m->n_embd, kv, &m->plan_kv) != 0 ||
        matmul_plan_make(q, m->n_embd, &m->plan_attn_output) != 0 ||
        matmul_plan_make(m->n_embd, m->n_ff, &m->plan_gate) != 0 ||
        matmul_plan_make(m->n_ff, m->n_embd, &m->plan_down) != 0 ||
        matmul_plan_make(m->n_embd, m->n_vocab, &m->plan_output) != 0)
        return engine_broke(err, "%s: out of memory", gguf_path(m->file));
    return 0;
}

int model_open(const char *path, struct model **model, struct engine_error *err)
{
    struct model *m = calloc(1, sizeof *m);
    if (!m)
        return engine_broke(err, "%s: out of memory", path);
    int rc = gguf_open(path, &m->file, err);
    if (rc == 0)
        rc = read_parameters(m, err);
    if (rc == 0)
        rc = read_tensors(m, err);
    if (rc == 0)
        rc = make_plans(m, err);
    if (rc != 0) {
        model_close(&m);
        return rc;
    }
    *model = m;
    return 0;
}

void model_close(struct model **model)
{
    if (!model || !*model)
        return;
    free((*model)->layers);
    gguf_close(&(*model)->file);
    free(*model);
    *model = NULL;
}
