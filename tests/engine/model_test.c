/* SPDX-License-Identifier: Apache-2.0
 *
 * A model file is understood whole or refused with a line that names the file and what is wrong in it. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_support.h"

static void add_string(struct gguf_writer *w, void *arg)
{
    const char *const *pair = arg;
    gguf_add_string(w, pair[0], pair[1]);
}

struct number {
    const char *key;
    double value;
    bool is_float;
};

static void add_number(struct gguf_writer *w, void *arg)
{
    const struct number *n = arg;
    if (n->is_float)
        gguf_add_f32(w, n->key, (float)n->value);
    else
        gguf_add_u32(w, n->key, (uint32_t)n->value);
}

static void add_tensor(struct gguf_writer *w, void *arg)
{
    static const float zeros[4096];
    const struct gguf_tensor *t = arg;
    gguf_add_tensor(w, t->name.text, t->type, t->n_dims, t->dims, zeros);
}

#define TENSOR(text, type_, n, ...)                                                                                    \
    &(struct gguf_tensor)                                                                                              \
    {                                                                                                                  \
        .name = {(text), sizeof(text) - 1}, .type = (type_), .n_dims = (n), .dims = { __VA_ARGS__ }                    \
    }
#define NUMBER(...)                                                                                                    \
    &(struct number)                                                                                                   \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }

static const char *const MAMBA[] = {"general.architecture", "mamba"};
static const char *const YARN[] = {"llama.rope.scaling.type", "yarn"};

static const struct wrong {
    const char *without;
    void (*also)(struct gguf_writer *, void *);
    const void *arg;
    const char *reason; /* must stand in the error's line */
} WRONG[] = {
    {"general.architecture", NULL, NULL, "general.architecture"},
    {"general.architecture", add_string, MAMBA, "mamba"},
    {NULL, add_string, YARN, "yarn"},
    {NULL, add_number, NUMBER("llama.rope.scale_linear", 2, true), "scale_linear"},
    {NULL, add_number, NUMBER("llama.expert_count", 8, false), "8 experts"},
    {"llama.embedding_length", NULL, NULL, "llama.embedding_length"},
    {"llama.embedding_length", add_number, NUMBER("llama.embedding_length", 0, false), "llama.embedding_length"},
    {"llama.embedding_length", add_number, NUMBER("llama.embedding_length", 65, false), "token_embd"},
    {"llama.embedding_length", add_number, NUMBER("llama.embedding_length", 4294967295.0, false), "embedding_length"},
    {"llama.block_count", NULL, NULL, "llama.block_count"},
    {"llama.block_count", add_number, NUMBER("llama.block_count", 4, false), "blk.3."},
    {"llama.block_count", add_number, NUMBER("llama.block_count", 2, false), "blk.2."},
    {"llama.block_count", add_number, NUMBER("llama.block_count", 100000, false), "llama.block_count"},
    {"llama.feed_forward_length", NULL, NULL, "llama.feed_forward_length"},
    {"llama.feed_forward_length", add_number, NUMBER("llama.feed_forward_length", 97, false), "ffn_"},
    {"llama.context_length", NULL, NULL, "llama.context_length"},
    {"llama.context_length", add_number, NUMBER("llama.context_length", 0, false), "llama.context_length"},
    {"llama.attention.head_count", NULL, NULL, "llama.attention.head_count"},
    {"llama.attention.head_count", add_number, NUMBER("llama.attention.head_count", 3, false), "3 heads"},
    {"llama.attention.head_count_kv", add_number, NUMBER("llama.attention.head_count_kv", 3, false), "3 KV heads"},
    {"llama.attention.head_count_kv", add_number, NUMBER("llama.attention.head_count_kv", 1, false), "attn_k"},
    {"llama.attention.value_length", add_number, NUMBER("llama.attention.value_length", 16, false), "16 of V"},
    {"llama.attention.key_length", add_number, NUMBER("llama.attention.key_length", 512, false), "key_length"},
    {NULL, add_number, NUMBER("llama.rope.dimension_count", 7, false), "dimension_count is 7"},
    {NULL, add_number, NUMBER("llama.rope.dimension_count", 34, false), "dimension_count is 34"},
    {NULL, add_number, NUMBER("llama.rope.freq_base", 0, true), "freq_base"},
    {"llama.attention.layer_norm_rms_epsilon", NULL, NULL, "layer_norm_rms_epsilon"},
    {"token_embd.weight", NULL, NULL, "token_embd.weight"},
    {"token_embd.weight", add_tensor, TENSOR("token_embd.weight", GGUF_F32, 2, 64, 60), "output.weight"},
    {"output_norm.weight", NULL, NULL, "output_norm.weight"},
    {"output_norm.weight", add_tensor, TENSOR("output_norm.weight", GGUF_F32, 1, 63), "output_norm.weight"},
    {"output_norm.weight", add_tensor, TENSOR("output_norm.weight", GGUF_F16, 1, 64), "F16"},
    {"blk.1.attn_q.weight", NULL, NULL, "blk.1.attn_q.weight"},
    {"blk.2.ffn_norm.weight", add_tensor, TENSOR("blk.2.ffn_norm.weight", GGUF_F32, 2, 64, 2), "blk.2.ffn_norm"},
    {NULL, add_tensor, TENSOR("rope_freqs.weight", GGUF_F32, 1, 16), "rope_freqs.weight"},
    {NULL, add_tensor, TENSOR("blk.0.attn_q.bias", GGUF_F32, 1, 128), "blk.0.attn_q.bias"},
};

START_TEST(wrong_models_are_refused)
{
    const struct wrong *wrong = &WRONG[_i];
    struct small_model m;
    small_model_init(&m);
    m.without = wrong->without;
    m.also = wrong->also;
    union {
        const void *in;
        void *out;
    } arg = {.in = wrong->arg};
    m.arg = arg.out;
    small_model_write(&m, test_path("wrong.gguf"));
    struct engine_error err = {""};
    struct model *model = NULL;
    ck_assert_int_eq(model_open(test_path("wrong.gguf"), &model, &err), ENGINE_BAD_INPUT);
    ck_assert_ptr_null(model);
    ck_assert_msg(strstr(err.text, "wrong.gguf") && strstr(err.text, wrong->reason), "\"%s\" does not say \"%s\"",
                  err.text, wrong->reason);
    ck_assert_ptr_null(strchr(err.text, '\n'));
}
END_TEST

START_TEST(hyperparameters_are_read)
{
    struct small_model m;
    struct engine_error err;
    struct model *model;
    small_model_init(&m);
    m.also = add_number;
    m.arg = NUMBER("llama.rope.freq_base", 500000, true);
    small_model_write(&m, test_path("right.gguf"));
    ASSERT_OK(model_open(test_path("right.gguf"), &model, &err), err);
    ck_assert_uint_eq(model->n_vocab, SMALL_VOCAB);
    ck_assert_uint_eq(model->n_heads * model->head_dim, 128);
    ck_assert_uint_eq(model->rope_dims, 32);
    ck_assert_float_eq(model->rope_base, 500000);
    ck_assert_ptr_ne(model->output, model->token_embd);
    ck_assert_uint_eq(model->plan_q.in, 64);
    ck_assert_uint_eq(model->plan_q.out, 128);
    model_close(&model);
    ck_assert_ptr_null(model);
}
END_TEST

START_TEST(what_may_be_missing_has_its_default)
{
    struct small_model m;
    struct engine_error err;
    struct model *model;
    small_model_init(&m);
    m.tied = true;
    m.head_dim = 0;
    m.n_kv_heads = m.n_heads;
    m.without = "llama.attention.head_count_kv";
    small_model_write(&m, test_path("right.gguf"));
    ASSERT_OK(model_open(test_path("right.gguf"), &model, &err), err);
    ck_assert_ptr_eq(model->output, model->token_embd);
    ck_assert_uint_eq(model->head_dim, m.n_embd / m.n_heads);
    ck_assert_uint_eq(model->n_kv_heads, m.n_heads);
    ck_assert_float_eq(model->rope_base, 10000);
    model_close(&model);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model");
    TCase *cases = tcase_create("all");
    tcase_set_timeout(cases, 60);
    tcase_add_loop_test(cases, wrong_models_are_refused, 0, (int)(sizeof WRONG / sizeof *WRONG));
    tcase_add_test(cases, hyperparameters_are_read);
    tcase_add_test(cases, what_may_be_missing_has_its_default);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
