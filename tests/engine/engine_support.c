/* SPDX-License-Identifier: Apache-2.0 */
#include "engine_support.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_support.h"

/* ---- numbers ------------------------------------------------------------------------------------------------- */

uint64_t test_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

float test_random_float(uint64_t *state)
{
    return (float)((int64_t)test_random(state) >> 39) * 0x1p-24f;
}

/* f16 bits of a normal number or zero, rounded down: enough for weights. */
static uint16_t f16_bits(float f)
{
    int exponent;
    float m = frexpf(fabsf(f), &exponent); /* m in [0.5, 1) */
    if (m == 0 || exponent < -13)
        return 0;
    return (uint16_t)((f < 0 ? 0x8000u : 0u) | (uint32_t)(exponent + 14) << 10 | ((uint32_t)ldexpf(m, 11) & 0x3ffu));
}

void *test_random_elements(enum gguf_type type, size_t n, float size, uint64_t *state)
{
    uint8_t *data = malloc(gguf_type_bytes(type, n));
    ck_assert_ptr_nonnull(data);
    for (size_t i = 0; i < n; i++) {
        float f = test_random_float(state) * size;
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        if (type == GGUF_F32) {
            memcpy(data + 4 * i, &f, sizeof f);
        } else if (type == GGUF_BF16) {
            memcpy(data + 2 * i, &(uint16_t){(uint16_t)(bits >> 16)}, 2);
        } else if (type == GGUF_F16) {
            memcpy(data + 2 * i, &(uint16_t){f16_bits(f)}, 2);
        } else {
            uint8_t *block = data + i / 32 * 34;
            if (i % 32 == 0)
                memcpy(block, &(uint16_t){f16_bits(size / 128 * (1 + fabsf(f)))}, 2);
            block[2 + i % 32] = (uint8_t)test_random(state);
        }
    }
    return data;
}

/* ---- the temporary directory --------------------------------------------------------------------------------- */

static char dir_path[64];
static pid_t dir_owner;

static void remove_dir(void)
{
    if (getpid() != dir_owner)
        return;
    DIR *dir = opendir(dir_path);
    for (struct dirent *d; dir && (d = readdir(dir));)
        (void)unlinkat(dirfd(dir), d->d_name, 0);
    if (dir)
        (void)closedir(dir);
    (void)rmdir(dir_path);
}

const char *test_dir(void)
{
    if (!dir_path[0]) {
        (void)snprintf(dir_path, sizeof dir_path, "/tmp/kvmm-engine-test-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(dir_path));
        dir_owner = getpid();
        (void)atexit(remove_dir);
    }
    return dir_path;
}

const char *test_path(const char *name)
{
    static char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", test_dir(), name);
    return path;
}

const char *stories_path(void)
{
    static char path[4096];
    const char *shared = getenv("KVMM_SHARED");
    (void)snprintf(path, sizeof path, "%s/models/stories260K/stories260K.gguf",
                   shared ? shared : KVMM_SOURCE_ROOT "/../shared");
    return access(path, R_OK) == 0 ? path : NULL;
}

/* ---- the small model ----------------------------------------------------------------------------------------- */

void small_model_init(struct small_model *m)
{
    *m = (struct small_model){.n_embd = 64,
                              .n_layers = 3,
                              .n_ff = 96,
                              .n_heads = 4,
                              .n_kv_heads = 2,
                              .head_dim = 32, /* 4 × 32: not n_embd */
                              .context = 4096,
                              .type = GGUF_F32,
                              .seed = 1};
}

struct writing {
    struct gguf_writer *w;
    const struct small_model *m;
    void *data[1024]; /* lent to the writer */
    size_t n_data;
    uint64_t state;
};

static bool wanted(const struct writing *s, const char *name)
{
    return !s->m->without || strcmp(s->m->without, name) != 0;
}

static void put_u32(struct writing *s, const char *key, uint32_t value)
{
    if (wanted(s, key))
        gguf_add_u32(s->w, key, value);
}

static void put_matrix(struct writing *s, const char *name, uint64_t in, uint64_t out)
{
    ck_assert_uint_lt(s->n_data, sizeof s->data / sizeof *s->data);
    s->data[s->n_data] = test_random_elements(s->m->type, in * out, 2.0f / sqrtf((float)in), &s->state);
    if (wanted(s, name))
        gguf_add_tensor(s->w, name, s->m->type, 2, (const uint64_t[]){in, out}, s->data[s->n_data]);
    s->n_data++;
}

static void put_norm(struct writing *s, const char *name, uint64_t n)
{
    ck_assert_uint_lt(s->n_data, sizeof s->data / sizeof *s->data);
    float *weights = malloc(n * sizeof *weights);
    ck_assert_ptr_nonnull(weights);
    for (uint64_t i = 0; i < n; i++)
        weights[i] = 1 + test_random_float(&s->state) / 4;
    s->data[s->n_data++] = weights;
    if (wanted(s, name))
        gguf_add_tensor(s->w, name, GGUF_F32, 1, &n, weights);
}

static void put_vocabulary(struct writing *s)
{
    static char texts[SMALL_VOCAB][8];
    const char *tokens[SMALL_VOCAB] = {"<unk>", "<s>", "</s>"};
    float scores[SMALL_VOCAB] = {0};
    int32_t types[SMALL_VOCAB] = {2, 3, 3}; /* unknown, control, control */
    for (int b = 0; b < 256; b++) {
        (void)snprintf(texts[b], sizeof texts[b], "<0x%02X>", (unsigned)b);
        tokens[b + 3] = texts[b];
        types[b + 3] = 6; /* byte */
    }
    gguf_add_string(s->w, "tokenizer.ggml.model", "llama");
    gguf_add_strings(s->w, "tokenizer.ggml.tokens", tokens, SMALL_VOCAB);
    gguf_add_f32s(s->w, "tokenizer.ggml.scores", scores, SMALL_VOCAB);
    gguf_add_i32s(s->w, "tokenizer.ggml.token_type", types, SMALL_VOCAB);
    gguf_add_u32(s->w, "tokenizer.ggml.bos_token_id", 1);
    gguf_add_u32(s->w, "tokenizer.ggml.eos_token_id", 2);
    gguf_add_u32(s->w, "tokenizer.ggml.unknown_token_id", 0);
    gguf_add_bool(s->w, "tokenizer.ggml.add_space_prefix", false);
}

static void put_layer(struct writing *s, uint32_t i)
{
    const struct small_model *m = s->m;
    const uint32_t head_dim = m->head_dim ? m->head_dim : m->n_embd / m->n_heads;
    const uint32_t q = m->n_heads * head_dim, kv = m->n_kv_heads * head_dim;
    const struct {
        const char *name;
        uint32_t in, out;
    } matrices[] = {{"attn_q", m->n_embd, q},        {"attn_k", m->n_embd, kv},        {"attn_v", m->n_embd, kv},
                    {"attn_output", q, m->n_embd},   {"ffn_gate", m->n_embd, m->n_ff}, {"ffn_up", m->n_embd, m->n_ff},
                    {"ffn_down", m->n_ff, m->n_embd}};
    char name[64];
    for (size_t k = 0; k < sizeof matrices / sizeof *matrices; k++) {
        (void)snprintf(name, sizeof name, "blk.%u.%s.weight", i, matrices[k].name);
        put_matrix(s, name, matrices[k].in, matrices[k].out);
    }
    (void)snprintf(name, sizeof name, "blk.%u.attn_norm.weight", i);
    put_norm(s, name, m->n_embd);
    (void)snprintf(name, sizeof name, "blk.%u.ffn_norm.weight", i);
    put_norm(s, name, m->n_embd);
}

void small_model_write(const struct small_model *m, const char *path)
{
    struct engine_error err;
    struct writing *s = calloc(1, sizeof *s);
    ck_assert_ptr_nonnull(s);
    s->m = m;
    s->state = m->seed;
    ASSERT_OK(gguf_writer_open(&s->w, &err), err);
    if (wanted(s, "general.architecture"))
        gguf_add_string(s->w, "general.architecture", "llama");
    put_u32(s, "llama.embedding_length", m->n_embd);
    put_u32(s, "llama.block_count", m->n_layers);
    put_u32(s, "llama.feed_forward_length", m->n_ff);
    put_u32(s, "llama.context_length", m->context);
    put_u32(s, "llama.attention.head_count", m->n_heads);
    put_u32(s, "llama.attention.head_count_kv", m->n_kv_heads);
    if (m->head_dim) {
        put_u32(s, "llama.attention.key_length", m->head_dim);
        put_u32(s, "llama.attention.value_length", m->head_dim);
    }
    if (wanted(s, "llama.attention.layer_norm_rms_epsilon"))
        gguf_add_f32(s->w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    put_vocabulary(s);
    put_matrix(s, "token_embd.weight", m->n_embd, SMALL_VOCAB);
    put_norm(s, "output_norm.weight", m->n_embd);
    if (!m->tied)
        put_matrix(s, "output.weight", m->n_embd, SMALL_VOCAB);
    for (uint32_t i = 0; i < m->n_layers; i++)
        put_layer(s, i);
    if (m->also)
        m->also(s->w, m->arg);
    ASSERT_OK(gguf_writer_save(s->w, path, &err), err);
    gguf_writer_close(&s->w);
    for (size_t i = 0; i < s->n_data; i++)
        free(s->data[i]);
    free(s);
}

/* ---- engines ------------------------------------------------------------------------------------------------- */

struct engine *test_engine(const char *model, uint32_t threads, uint32_t chunk)
{
    struct engine_config config;
    struct engine_error err;
    struct engine *engine;
    engine_config_init(&config);
    config.model_path = model;
    config.n_threads = threads;
    config.chunk = chunk;
    ASSERT_OK(engine_open(&config, &engine, &err), err);
    return engine;
}

struct engine *test_engine_with_cache(const char *model, uint32_t threads, uint32_t chunk,
                                      const struct engine_cache_config *config)
{
    struct engine_error err;
    struct engine *engine = test_engine(model, threads, chunk);
    struct engine_cache_config with_frames = *config;
    with_frames.frame_bytes = 64 << 10;
    ASSERT_OK(engine_open_cache(engine, &with_frames, &err), err);
    return engine;
}

engine_token *test_encode(const struct engine *engine, const char *text, size_t *n)
{
    struct engine_error err;
    engine_token *tokens;
    ASSERT_OK(tokenizer_encode(engine_tokenizer(engine), text, strlen(text), true, true, &tokens, n, &err), err);
    return tokens;
}

/* Where the CPU finds the first n tokens of a range: on a GPU a copy, which the caller frees. */
static char *range_bytes(struct conversation *c, const struct kvmm_layout *l, uint32_t n, char **copy)
{
    *copy = NULL;
    if (strncmp(kvmm_device_name(engine_kvmm(conversation_engine(c))), "cuda", 4) != 0 || n == 0)
        return l->base;
    const struct model *m = engine_model(conversation_engine(c));
    const size_t group_bytes = (size_t)((n - 1) / l->page_tokens) * l->page_stride +
                               (size_t)((n - 1) % l->page_tokens) * l->token_stride +
                               (l->layers_per_group - 1) * l->layer_stride + l->kv_stride +
                               (m->n_kv_heads - 1) * l->head_stride + m->head_dim * l->elem_bytes;
    *copy = calloc(l->n_groups, l->group_stride);
    ck_assert_ptr_nonnull(*copy);
    for (uint32_t g = 0; g < l->n_groups; g++) {
        void *group = cuda_test_copy_out((uintptr_t)l->base + g * l->group_stride, group_bytes);
        memcpy(*copy + g * l->group_stride, group, group_bytes);
        free(group);
    }
    return *copy;
}

void *test_kv_bytes(struct conversation *c, size_t *bytes)
{
    const struct model *m = engine_model(conversation_engine(c));
    kvmm_seq *seq = conversation_seq(c);
    const uint32_t n = kvmm_seq_length(seq);
    struct kvmm_want want = {.seq = seq, .n_tokens = n};
    kvmm_step *step;
    ck_assert_int_eq(kvmm_step_begin(engine_kvmm(conversation_engine(c)), &want, 1, 0, &step), KVMM_OK);
    struct kvmm_layout l;
    kvmm_seq_layout(seq, &l);
    char *range;
    l.base = range_bytes(c, &l, n, &range);
    const size_t row = m->head_dim * l.elem_bytes;
    *bytes = (size_t)m->n_layers * 2 * m->n_kv_heads * n * row;
    char *copy = malloc(*bytes + 1), *out = copy;
    ck_assert_ptr_nonnull(copy);
    for (uint32_t layer_kv = 0; layer_kv < 2 * m->n_layers; layer_kv++) {
        const char *base = kvmm_layout_at(&l, layer_kv / 2, layer_kv % 2);
        for (uint32_t head = 0; head < m->n_kv_heads; head++) {
            for (uint32_t t = 0; t < n; t++, out += row)
                memcpy(out,
                       base + t / l.page_tokens * l.page_stride + t % l.page_tokens * l.token_stride +
                           head * l.head_stride,
                       row);
        }
    }
    ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
    free(range);
    return copy;
}

int test_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
