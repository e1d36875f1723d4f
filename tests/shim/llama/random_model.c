/* SPDX-License-Identifier: Apache-2.0
 *
 * random_model OUT.gguf [LAYERS KV_HEADS]: a model of Llama's kind with random weights, small where it computes and large where
 * it remembers: each token takes 512 bytes of f16 K and V for each KV head of each layer (by default 8 × 8 heads: 32 KiB),
 * beside weights of some 20 MiB, so that runs are about the cache. What it says is noise, but the same noise each time. */
#include <stdio.h>
#include <stdlib.h>

#include "gguf_write.h"

enum { N_EMBD = 128, HEAD_DIM = 128, N_FF = 256, N_VOCAB = 512, MOST_LAYERS = 64, MOST_HEADS = 64 };

struct shape {
    uint32_t n_layers, n_heads;
};

/* Uniform in ±scale, by the generator of Numerical Recipes' "quick and dirty" kind: bits, not statistics, matter. */
static void fill(float *at, size_t n, float scale)
{
    static uint64_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        at[i] = ((float)(state >> 40) / (float)(1 << 23) - 1) * scale;
    }
}

/* The writer borrows what it is given until the file is written; this program ends then. */
static float *numbers(size_t n)
{
    float *at = malloc(n * sizeof(*at));
    if (at == NULL) {
        (void)fputs("random_model: no memory\n", stderr);
        exit(1);
    }
    return at;
}

static void add_matrix(struct gguf_writer *writer, const char *name, uint64_t in, uint64_t out, float scale)
{
    float *weights = numbers(in * out);
    fill(weights, in * out, scale);
    gguf_add_tensor(writer, name, GGUF_F32, 2, (uint64_t[]){in, out}, weights);
}

static void add_norm(struct gguf_writer *writer, const char *name)
{
    float *weights = numbers(N_EMBD);
    for (size_t i = 0; i < N_EMBD; i++)
        weights[i] = 1;
    gguf_add_tensor(writer, name, GGUF_F32, 1, (uint64_t[]){N_EMBD}, weights);
}

static void add_layer(struct gguf_writer *writer, uint32_t layer, const struct shape *shape)
{
    const uint64_t n_rows = (uint64_t)shape->n_heads * HEAD_DIM;
    const struct {
        const char *name;
        uint64_t in, out;
    } matrices[] = {
        {"attn_q", N_EMBD, n_rows},      {"attn_k", N_EMBD, n_rows}, {"attn_v", N_EMBD, n_rows},
        {"attn_output", n_rows, N_EMBD}, {"ffn_gate", N_EMBD, N_FF}, {"ffn_up", N_EMBD, N_FF},
        {"ffn_down", N_FF, N_EMBD},
    };
    char name[64];
    (void)snprintf(name, sizeof(name), "blk.%u.attn_norm.weight", layer);
    add_norm(writer, name);
    (void)snprintf(name, sizeof(name), "blk.%u.ffn_norm.weight", layer);
    add_norm(writer, name);
    for (size_t i = 0; i < sizeof(matrices) / sizeof(matrices[0]); i++) {
        (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", layer, matrices[i].name);
        add_matrix(writer, name, matrices[i].in, matrices[i].out, 0.2F);
    }
}

/* As many ordinary tokens as there are; nothing is ever tokenised. */
static void add_vocabulary(struct gguf_writer *writer)
{
    static char texts[N_VOCAB][16];
    static const char *tokens[N_VOCAB];
    static float scores[N_VOCAB];
    static int32_t types[N_VOCAB];
    enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };
    for (int i = 0; i < N_VOCAB; i++) {
        if (i >= 3 && i < 259)
            (void)snprintf(texts[i], sizeof(texts[i]), "<0x%02X>", (unsigned)i - 3);
        else
            (void)snprintf(texts[i], sizeof(texts[i]), i < 3 ? "<%d>" : "t%d", i);
        tokens[i] = texts[i];
        types[i] = i == 0 ? UNKNOWN : i < 3 ? CONTROL : i < 259 ? BYTE : NORMAL;
    }
    gguf_add_string(writer, "tokenizer.ggml.model", "llama");
    gguf_add_strings(writer, "tokenizer.ggml.tokens", tokens, N_VOCAB);
    gguf_add_f32s(writer, "tokenizer.ggml.scores", scores, N_VOCAB);
    gguf_add_i32s(writer, "tokenizer.ggml.token_type", types, N_VOCAB);
    gguf_add_u32(writer, "tokenizer.ggml.unknown_token_id", 0);
    gguf_add_u32(writer, "tokenizer.ggml.bos_token_id", 1);
    gguf_add_u32(writer, "tokenizer.ggml.eos_token_id", 2);
}

static void add_all(struct gguf_writer *writer, const struct shape *shape)
{
    gguf_add_string(writer, "general.architecture", "llama");
    gguf_add_string(writer, "general.name", "kvmm random");
    gguf_add_u32(writer, "general.file_type", 0); /* all F32 */
    gguf_add_u32(writer, "llama.vocab_size", N_VOCAB);
    gguf_add_u32(writer, "llama.context_length", 1u << 20);
    gguf_add_u32(writer, "llama.embedding_length", N_EMBD);
    gguf_add_u32(writer, "llama.block_count", shape->n_layers);
    gguf_add_u32(writer, "llama.feed_forward_length", N_FF);
    gguf_add_u32(writer, "llama.attention.head_count", shape->n_heads);
    gguf_add_u32(writer, "llama.attention.head_count_kv", shape->n_heads);
    gguf_add_u32(writer, "llama.attention.key_length", HEAD_DIM);
    gguf_add_u32(writer, "llama.attention.value_length", HEAD_DIM);
    gguf_add_u32(writer, "llama.rope.dimension_count", HEAD_DIM);
    gguf_add_f32(writer, "llama.attention.layer_norm_rms_epsilon", 1e-5F);
    gguf_add_f32(writer, "llama.rope.freq_base", 1e6F);
    add_vocabulary(writer);
    add_matrix(writer, "token_embd.weight", N_EMBD, N_VOCAB, 1);
    add_norm(writer, "output_norm.weight");
    add_matrix(writer, "output.weight", N_EMBD, N_VOCAB, 1);
    for (uint32_t layer = 0; layer < shape->n_layers; layer++)
        add_layer(writer, layer, shape);
}

int main(int argc, char **argv)
{
    struct shape shape = {8, 8};
    if (argc == 4) {
        shape.n_layers = (uint32_t)strtoul(argv[2], NULL, 10);
        shape.n_heads = (uint32_t)strtoul(argv[3], NULL, 10);
    }
    if ((argc != 2 && argc != 4) || shape.n_layers < 1 || shape.n_layers > MOST_LAYERS || shape.n_heads < 1 ||
        shape.n_heads > MOST_HEADS) {
        (void)fputs("usage: random_model OUT.gguf [LAYERS KV_HEADS]\n", stderr);
        return 2;
    }
    struct engine_error error;
    struct gguf_writer *writer;
    int result = gguf_writer_open(&writer, &error);
    if (result == 0) {
        add_all(writer, &shape);
        result = gguf_writer_save(writer, argv[1], &error);
        gguf_writer_close(&writer);
    }
    if (result != 0)
        (void)fprintf(stderr, "random_model: %s\n", error.text);
    return result == 0 ? 0 : 1;
}
