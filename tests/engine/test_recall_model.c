/* SPDX-License-Identifier: Apache-2.0
 *
 * The recall model, read back from its file: the numbers that its construction rests on, and a plain simulation of a
 * llama in f32 with keys and values rounded to f16, which must quote from its context. */
#include "recall_model.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>

#include "format_support.h"
#include "tokenizer.h"

#define N_LAYERS     3
#define N_HEADS      4
#define N_VOCAB      (3 + 256 + 95)
#define MAX_CAPACITY 65536
#define UNDERFLOW    104 /* e^−104 is 0 in f32 */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SLOW 1
#endif
#endif
#ifndef SLOW
#define SLOW 0
#endif

/* --------------------------------------------------------------------------------------------------- the simulation */

/* To the nearest binary16, ties to even; no infinities come up here. */
static float to_f16(float x)
{
    uint32_t bits;
    if (fabsf(x) < 0x1p-14F)
        return rintf(x * 0x1p24F) * 0x1p-24F;
    memcpy(&bits, &x, sizeof(bits));
    bits = (bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fffU;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* A matrix without its zeros: row after row. */
struct sparse {
    uint32_t n_rows;
    uint32_t *starts; /* n_rows + 1 */
    uint32_t *cols;
    float *values;
};

struct layer {
    const float *norm;
    struct sparse q, k, v, o;
    float *keys;   /* [kv_head][dim][position]: dots over many positions are sums of columns */
    float *values; /* [kv_head][position][dim] */
};

struct model {
    struct gguf *file;
    struct tokenizer *tok;
    uint32_t head_dim, n_embd, n_kv_heads, capacity;
    float freq_base, epsilon;
    double thetas[64]; /* radians a token */
    const float *embedding, *output_norm;
    struct sparse output;
    struct layer layers[N_LAYERS];
    uint32_t n;   /* positions so far */
    float margin; /* by which the last answer's best byte beat the next */
};

static const float *floats(const struct model *m, const char *name, uint64_t in, uint64_t out)
{
    const struct gguf_tensor *tensor = gguf_tensor(m->file, name);
    ck_assert_msg(tensor != NULL && tensor->type == GGUF_F32, "no %s in f32", name);
    ck_assert_msg(tensor->dims[0] == in && tensor->dims[1] == out, "%s has a wrong shape", name);
    return tensor->data;
}

static struct sparse compress(const float *matrix, uint32_t in, uint32_t out)
{
    struct sparse s = {.n_rows = out, .starts = calloc(out + 1, sizeof(uint32_t))};
    s.cols = calloc((size_t)in * out, sizeof(*s.cols));
    s.values = calloc((size_t)in * out, sizeof(*s.values));
    ck_assert(s.starts != NULL && s.cols != NULL && s.values != NULL);
    for (uint32_t row = 0, n = 0; row < out; row++) {
        for (uint32_t col = 0; col < in; col++)
            if (matrix[(size_t)row * in + col] != 0) {
                s.cols[n] = col;
                s.values[n++] = matrix[(size_t)row * in + col];
            }
        s.starts[row + 1] = n;
    }
    return s;
}

static void free_sparse(struct sparse *s)
{
    free(s->starts);
    free(s->cols);
    free(s->values);
}

static void multiply(const struct sparse *s, const float *x, float *y)
{
    for (uint32_t row = 0; row < s->n_rows; row++) {
        float sum = 0;
        for (uint32_t i = s->starts[row]; i < s->starts[row + 1]; i++)
            sum += s->values[i] * x[s->cols[i]];
        y[row] = sum;
    }
}

static const float *layer_floats(const struct model *m, int i, const char *part, uint64_t in, uint64_t out)
{
    char name[64];
    snprintf(name, sizeof(name), "blk.%d.%s.weight", i, part);
    return floats(m, name, in, out);
}

static void assert_zero(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        FORMAT_ASSERT(values[i] == 0, "element %zu is not zero", i);
}

static uint32_t number(const struct model *m, const char *key)
{
    uint32_t value = 0;
    ck_assert_msg(gguf_u32(m->file, key, &value), "no %s", key);
    return value;
}

static void load_layer(struct model *m, int i)
{
    struct layer *layer = &m->layers[i];
    uint32_t e = m->n_embd, q = N_HEADS * m->head_dim, kv = m->n_kv_heads * m->head_dim;
    uint32_t ff = number(m, "llama.feed_forward_length");
    layer->norm = layer_floats(m, i, "attn_norm", e, 1);
    layer->q = compress(layer_floats(m, i, "attn_q", e, q), e, q);
    layer->k = compress(layer_floats(m, i, "attn_k", e, kv), e, kv);
    layer->v = compress(layer_floats(m, i, "attn_v", e, kv), e, kv);
    layer->o = compress(layer_floats(m, i, "attn_output", q, e), q, e);
    layer_floats(m, i, "ffn_norm", e, 1);
    assert_zero(layer_floats(m, i, "ffn_gate", e, ff), (size_t)e * ff); /* so the simulation can leave it out */
    assert_zero(layer_floats(m, i, "ffn_up", e, ff), (size_t)e * ff);
    assert_zero(layer_floats(m, i, "ffn_down", ff, e), (size_t)e * ff);
    layer->keys = calloc((size_t)kv * m->capacity, sizeof(float));
    layer->values = calloc((size_t)kv * m->capacity, sizeof(float));
    ck_assert(layer->keys != NULL && layer->values != NULL);
}

/* Writes, reads and checks a model; room for `capacity` positions. */
static struct model *load(uint32_t head_dim, uint32_t n_kv_heads, uint32_t capacity)
{
    struct recall_config config;
    struct engine_error err;
    struct gguf_string arch;
    struct model *m = calloc(1, sizeof(*m));
    ck_assert_ptr_nonnull(m);
    recall_config_init(&config);
    config.head_dim = head_dim;
    config.n_kv_heads = n_kv_heads;
    ck_assert_msg(recall_model_write(format_path("recall.gguf"), &config, &err) == 0, "%s", err.text);
    ck_assert_msg(gguf_open(format_path("recall.gguf"), &m->file, &err) == 0, "%s", err.text);
    ck_assert_msg(tokenizer_open(m->file, &m->tok, &err) == 0, "%s", err.text);
    ck_assert(gguf_string(m->file, "general.architecture", &arch) && memcmp(arch.text, "llama", 5) == 0);
    ck_assert_uint_eq(number(m, "llama.block_count"), N_LAYERS);
    ck_assert_uint_eq(number(m, "llama.attention.head_count"), N_HEADS);
    ck_assert_uint_eq(number(m, "llama.attention.key_length"), head_dim);
    ck_assert_uint_eq(number(m, "llama.attention.value_length"), head_dim);
    ck_assert_uint_eq(number(m, "llama.rope.dimension_count"), head_dim);
    ck_assert_uint_eq(number(m, "llama.context_length"), 131072);
    ck_assert_uint_eq(number(m, "llama.attention.head_count_kv"), n_kv_heads);
    ck_assert_uint_eq(tokenizer_n_vocab(m->tok), N_VOCAB);
    ck_assert(gguf_f32(m->file, "llama.rope.freq_base", &m->freq_base));
    ck_assert(gguf_f32(m->file, "llama.attention.layer_norm_rms_epsilon", &m->epsilon));
    m->head_dim = head_dim;
    m->n_kv_heads = n_kv_heads;
    m->n_embd = number(m, "llama.embedding_length");
    m->capacity = capacity;
    m->embedding = floats(m, "token_embd.weight", m->n_embd, N_VOCAB);
    m->output_norm = floats(m, "output_norm.weight", m->n_embd, 1);
    m->output = compress(floats(m, "output.weight", m->n_embd, N_VOCAB), m->n_embd, N_VOCAB);
    for (uint32_t j = 0; j < head_dim / 2; j++)
        m->thetas[j] = pow(m->freq_base, -2.0 * j / head_dim);
    for (int i = 0; i < N_LAYERS; i++)
        load_layer(m, i);
    return m;
}

static void unload(struct model *m)
{
    for (int i = 0; i < N_LAYERS; i++) {
        struct layer *layer = &m->layers[i];
        free_sparse(&layer->q);
        free_sparse(&layer->k);
        free_sparse(&layer->v);
        free_sparse(&layer->o);
        free(layer->keys);
        free(layer->values);
    }
    free_sparse(&m->output);
    tokenizer_close(&m->tok);
    gguf_close(&m->file);
    free(m);
}

static void rms_norm(const struct model *m, const float *x, const float *weights, float *out)
{
    float sum = 0;
    for (uint32_t i = 0; i < m->n_embd; i++)
        sum += x[i] * x[i];
    float scale = 1 / sqrtf(sum / (float)m->n_embd + m->epsilon);
    for (uint32_t i = 0; i < m->n_embd; i++)
        out[i] = x[i] * scale * weights[i];
}

/* Pairs (2j, 2j + 1) of each head, angles as llama.cpp computes them. */
static void rope(const struct model *m, float *x, uint32_t n_heads, uint32_t position)
{
    float step = powf(m->freq_base, -2.0F / (float)m->head_dim), angle = (float)position;
    for (uint32_t j = 0; j < m->head_dim; j += 2, angle *= step) {
        float c = cosf(angle), s = sinf(angle);
        for (uint32_t head = 0; head < n_heads; head++) {
            float *pair = &x[head * m->head_dim + j], a = pair[0], b = pair[1];
            pair[0] = a * c - b * s;
            pair[1] = a * s + b * c;
        }
    }
}

static void store(struct model *m, struct layer *layer, const float *normed)
{
    float k[4 * 128] = {0}, v[4 * 128] = {0};
    multiply(&layer->k, normed, k);
    multiply(&layer->v, normed, v);
    rope(m, k, m->n_kv_heads, m->n);
    for (uint32_t i = 0; i < m->n_kv_heads * m->head_dim; i++) {
        layer->keys[(size_t)i * m->capacity + m->n] = to_f16(k[i]);
        layer->values[((size_t)(i / m->head_dim) * m->capacity + m->n) * m->head_dim + i % m->head_dim] = to_f16(v[i]);
    }
}

#define CHUNK 256 /* positions at a time, so that their scores stay near */

/* The scores of positions first … first + n - 1 (n ≤ CHUNK); returns the highest. */
static float score_chunk(const struct model *m, const float *keys, const float *q, uint32_t first, uint32_t n,
                         float *scores)
{
    float highest[8];
    for (uint32_t s = 0; s < CHUNK; s++)
        scores[s] = s < n ? 0 : -INFINITY;
    for (uint32_t d = 0; d < m->head_dim; d++) {
        const float *key = &keys[(size_t)d * m->capacity + first];
        float scaled = q[d] / sqrtf((float)m->head_dim);
        for (uint32_t s = 0; scaled != 0 && s < n; s++)
            scores[s] += scaled * key[s];
    }
    for (int lane = 0; lane < 8; lane++)
        highest[lane] = -INFINITY;
    for (uint32_t s = 0; s < CHUNK; s += 8)
        for (int lane = 0; lane < 8; lane++)
            highest[lane] = scores[s + lane] > highest[lane] ? scores[s + lane] : highest[lane];
    for (int lane = 1; lane < 8; lane++)
        highest[0] = fmaxf(highest[0], highest[lane]);
    return highest[0];
}

/* Softmax over positions 0 … m->n. */
static void attend(const struct model *m, const struct layer *layer, const float *q, uint32_t kv_head, float *out)
{
    static float scores[MAX_CAPACITY], highest[MAX_CAPACITY / CHUNK];
    const float *keys = &layer->keys[(size_t)kv_head * m->head_dim * m->capacity];
    uint32_t n = m->n + 1;
    float peak = -INFINITY, sum = 0;
    for (uint32_t first = 0; first < n; first += CHUNK) {
        uint32_t in_chunk = n - first < CHUNK ? n - first : CHUNK;
        highest[first / CHUNK] = score_chunk(m, keys, q, first, in_chunk, scores + first);
        peak = fmaxf(peak, highest[first / CHUNK]);
    }
    memset(out, 0, m->head_dim * sizeof(*out));
    for (uint32_t s = 0; s < n; s++) {
        if (highest[s / CHUNK] < peak - UNDERFLOW)
            s += CHUNK - 1 - s % CHUNK;
        else if (scores[s] >= peak - UNDERFLOW) {
            float weight = expf(scores[s] - peak);
            const float *value = &layer->values[((size_t)kv_head * m->capacity + s) * m->head_dim];
            sum += weight;
            for (uint32_t d = 0; d < m->head_dim; d++)
                out[d] += weight * value[d];
        }
    }
    for (uint32_t d = 0; d < m->head_dim; d++)
        out[d] /= sum;
}

/* The token's byte; -1 for control tokens. */
static int byte_of(const struct model *m, uint32_t token)
{
    char c;
    return tokenizer_decode(m->tok, (engine_token)token, &c, 1) == 1 ? (uint8_t)c : -1;
}

/* The best token; the margin is over the best of all other bytes. */
static engine_token pick(struct model *m, const float *logits)
{
    uint32_t best = 0;
    float next = -INFINITY;
    for (uint32_t i = 1; i < N_VOCAB; i++)
        if (logits[i] > logits[best])
            best = i;
    for (uint32_t i = 0; i < N_VOCAB; i++)
        if (byte_of(m, i) != byte_of(m, best))
            next = fmaxf(next, logits[i]);
    m->margin = logits[best] - next;
    return (engine_token)best;
}

/* Takes one token in. Returns the greedy next one, or -1 if no answer is wanted: then the last layer attends to
 * nothing, which no key depends on. */
static engine_token step(struct model *m, engine_token token, bool answer)
{
    float x[128], normed[128], q[N_HEADS * 128] = {0}, heads[N_HEADS * 128], added[128], logits[N_VOCAB];
    FORMAT_ASSERT(m->n < m->capacity && m->capacity <= MAX_CAPACITY, "no room for position %u", m->n);
    memcpy(x, m->embedding + (size_t)token * m->n_embd, m->n_embd * sizeof(float));
    for (int i = 0; i < N_LAYERS; i++) {
        struct layer *layer = &m->layers[i];
        rms_norm(m, x, layer->norm, normed);
        store(m, layer, normed);
        if (i == N_LAYERS - 1 && !answer)
            break;
        multiply(&layer->q, normed, q);
        rope(m, q, N_HEADS, m->n);
        for (uint32_t head = 0; head < N_HEADS; head++)
            attend(m, layer, q + head * m->head_dim, head / (N_HEADS / m->n_kv_heads), heads + head * m->head_dim);
        multiply(&layer->o, heads, added);
        for (uint32_t k = 0; k < m->n_embd; k++)
            x[k] += added[k];
    }
    m->n++;
    if (!answer)
        return -1;
    rms_norm(m, x, m->output_norm, normed);
    multiply(&m->output, normed, logits);
    return pick(m, logits);
}

/* Takes a text in; returns the answer after its last byte. */
static engine_token feed(struct model *m, const char *text, size_t len)
{
    engine_token *ids, next = -1;
    size_t n;
    struct engine_error err;
    ck_assert_int_eq(tokenizer_encode(m->tok, text, len, false, m->n == 0, &ids, &n, &err), 0);
    for (size_t i = 0; i < n; i++)
        next = step(m, ids[i], i + 1 == n);
    free(ids);
    return next;
}

/* Asks for what follows text[start …] and compares n bytes. */
static void assert_quotes(struct model *m, const char *text, size_t start, size_t n)
{
    const char *want = text + start + RECALL_LOOKBACK;
    engine_token next = feed(m, text + start, RECALL_LOOKBACK);
    for (size_t i = 0; i < n; i++) {
        int byte = byte_of(m, (uint32_t)next);
        ck_assert_msg(byte == (uint8_t)want[i], "%zu bytes after %zu came 0x%02x, not 0x%02x (\"%.20s\")", i, start,
                      (unsigned)byte, (uint8_t)want[i], want + i);
        ck_assert_msg(m->margin > 15, "margin %g", (double)m->margin);
        next = step(m, next, true);
    }
}

/* ------------------------------------------------------------------------------------------------------------- codes */

/* 1 − cos of the two tokens' embeddings. */
static double apart(const struct model *m, uint32_t a, uint32_t b)
{
    double dot = 0, norm = 0;
    for (uint32_t i = 0; i < m->n_embd; i++) {
        double x = m->embedding[(size_t)a * m->n_embd + i], y = m->embedding[(size_t)b * m->n_embd + i];
        if (i >= 18 * (m->head_dim == 64 ? 3U : 6U)) /* past the slots: text or control */
            continue;
        dot += x * y;
        norm += x * x;
    }
    return 1 - dot / norm;
}

static bool common(uint32_t byte)
{
    return (byte >= ' ' && byte <= '~') || byte == '\n' || byte == '\t';
}

/* The gap of the nearest codes, as the construction says; equal norms; whole numbers that f16 and bf16 hold. */
static void check_codes(uint32_t head_dim, double all_gap, double common_gap)
{
    struct model *m = load(head_dim, 4, 1);
    double norm = 0;
    for (uint32_t i = 0; i < m->n_embd; i++)
        norm += (double)m->embedding[i] * m->embedding[i];
    for (uint32_t token = 0; token < N_VOCAB; token++) {
        double sum = 0;
        for (uint32_t i = 0; i < m->n_embd; i++) {
            float x = m->embedding[(size_t)token * m->n_embd + i];
            FORMAT_ASSERT(x == rintf(x) && fabsf(x) <= 256, "token %u has a code with %g", token, (double)x);
            sum += (double)x * x;
        }
        ck_assert(sum == norm);
    }
    for (uint32_t a = 3; a < 3 + 256; a++)
        for (uint32_t b = 2; b < a; b++) { /* 2: </s>, the control tokens' code */
            double gap = apart(m, a, b);
            FORMAT_ASSERT(gap >= all_gap, "codes %u and %u: %g", a, b, gap);
            if (b > 2 && common(a - 3) && common(b - 3))
                FORMAT_ASSERT(gap >= common_gap, "codes %u and %u: %g", a, b, gap);
        }
    for (uint32_t c = ' '; c <= '~'; c++)
        ck_assert(apart(m, 3 + c, 259 + c - ' ') == 0);
    unload(m);
}

START_TEST(codes_are_apart)
{
    check_codes(64, 0.0144, 0.043);
    check_codes(128, 0.166, 0.333);
}
END_TEST

/* --------------------------------------------------------------------------------------------------------- positions */

/* A head's query and the keys of text and of control, before RoPE, of a look-back layer. */
struct look_back {
    float q[128], text[128], control[128];
};

static struct look_back look_back(const struct model *m, int layer, uint32_t head)
{
    struct look_back out;
    float q[N_HEADS * 128], k[4 * 128], x[128] = {0};
    uint32_t text = 18 * (m->head_dim == 64 ? 3U : 6U);
    x[text] = m->embedding[(size_t)3 * m->n_embd + text]; /* what a norm leaves of it */
    ck_assert(x[text] > 0);
    multiply(&m->layers[layer].q, x, q);
    memcpy(out.q, q + head * m->head_dim, sizeof(float) * m->head_dim);
    multiply(&m->layers[layer].k, x, k);
    memcpy(out.text, k, sizeof(float) * m->head_dim);
    x[text + 1] = x[text];
    x[text] = 0;
    multiply(&m->layers[layer].q, x, q); /* the same query for both */
    for (uint32_t i = 0; i < m->head_dim; i++)
        FORMAT_ASSERT(q[head * m->head_dim + i] == out.q[i], "text and control ask differently");
    multiply(&m->layers[layer].k, x, k);
    memcpy(out.control, k, sizeof(float) * m->head_dim);
    return out;
}

/* A key at position s as the cache holds it. */
static void stored_key(const struct model *m, const float *key, uint32_t s, float *stored)
{
    for (uint32_t j = 0; j < m->head_dim; j += 2) {
        double angle = s * m->thetas[j / 2];
        stored[j] = to_f16((float)(key[j] * cos(angle) - key[j + 1] * sin(angle)));
        stored[j + 1] = to_f16((float)(key[j] * sin(angle) + key[j + 1] * cos(angle)));
    }
}

/* The score of a query at position t. */
static double score(const struct model *m, const float *q, const float *stored, uint32_t t)
{
    double sum = 0;
    for (uint32_t j = 0; j < m->head_dim; j += 2) {
        if (stored[j] == 0 && stored[j + 1] == 0)
            continue;
        double angle = t * m->thetas[j / 2], c = cos(angle), s = sin(angle);
        sum += (q[j] * c - q[j + 1] * s) * stored[j] + (q[j] * s + q[j + 1] * c) * stored[j + 1];
    }
    return sum / sqrt(m->head_dim);
}

/* The head's lag wins by more than underflow over <s>, and <s> over every other distance up to 131072. */
static void check_lag(const struct model *m, int layer, uint32_t head, uint32_t lag)
{
    static const uint32_t places[] = {12, 70001, 900001};
    const uint32_t n_distances = (uint32_t)scaled(SLOW ? 16384 : 131072);
    struct look_back heads = look_back(m, layer, head);
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        uint32_t s = places[i];
        float text[128] = {0}, control[128] = {0};
        stored_key(m, heads.text, s, text);
        stored_key(m, heads.control, s, control);
        double peak = score(m, heads.q, text, s + lag), start = score(m, heads.q, control, s + lag);
        ck_assert_msg(peak - start > UNDERFLOW + 10, "peak %g, <s> %g", peak, start);
        for (uint32_t distance = 0; distance <= n_distances; distance++) {
            double other = score(m, heads.q, text, s + distance);
            FORMAT_ASSERT(distance == lag || start - other > UNDERFLOW + 10, "distance %u: %g of %g", distance, other,
                          peak);
        }
        start = score(m, heads.q, control, s + 131072); /* the context's first position, seen from its last */
        ck_assert_msg(peak - start > UNDERFLOW + 10, "peak %g, <s> far away %g", peak, start);
    }
}

START_TEST(heads_look_back_by_their_lag)
{
    static const uint32_t lags[2][N_HEADS] = {{1, 2, 3, 4}, {4, 8, 12, 0}};
    struct model *m = load(_i < 2 ? 64 : 128, 1, 1);
    for (uint32_t head = 0; head < N_HEADS; head++)
        check_lag(m, _i % 2, head, lags[_i % 2][head]);
    unload(m);
}
END_TEST

/* ----------------------------------------------------------------------------------------------------------- quoting */

/* Any bytes, also ones that UTF-8 does not have; from the start, from the middle, from near the end. */
START_TEST(random_bytes_are_quoted)
{
    static const struct {
        uint32_t head_dim, n_kv_heads;
    } shapes[] = {{64, 1}, {64, 2}, {64, 4}, {128, 1}, {128, 4}};
    uint64_t seed = 11 + (uint64_t)_i;
    char text[400];
    struct model *m = load(shapes[_i].head_dim, shapes[_i].n_kv_heads, 1000);
    for (size_t i = 0; i < sizeof(text); i++) {
        do
            text[i] = (char)format_random(&seed);
        while ((uint8_t)text[i] >= 0xe2 &&
               (uint8_t)text[i] <= 0xe2); /* no U+2581, which is a space to the vocabulary */
    }
    feed(m, text, sizeof(text));
    assert_quotes(m, text, 0, 60);
    assert_quotes(m, text, 133, 200);
    assert_quotes(m, text, 352, 30); /* past what was quoted: the end of a quote has another sequel */
    unload(m);
}
END_TEST

/* Whether all that follows `window` (RECALL_LOOKBACK bytes) in text is `next`. */
static bool always_followed_by(const char *text, size_t len, const char *window, char next)
{
    const char *end = text + len, *at = text;
    while ((at = memmem(at, (size_t)(end - at), window, RECALL_LOOKBACK)) != NULL) {
        if (at + RECALL_LOOKBACK == end || at[RECALL_LOOKBACK] != next)
            return false;
        at++;
    }
    return true;
}

/* How many bytes follow text[start … + 16) before 16 bytes stand more than once in text with different sequels, where
 * the answer is a mixture. */
static size_t quotable(const char *text, size_t len, size_t start)
{
    size_t n = 0;
    if (len < RECALL_LOOKBACK || start > len - RECALL_LOOKBACK)
        return 0;
    for (const char *window = text + start; window + RECALL_LOOKBACK < text + len; window++, n++)
        if (!always_followed_by(text, len, window, window[RECALL_LOOKBACK]))
            break;
    return n;
}

/* Quotes n bytes from some passages of which that many can be quoted. */
static void quote_passages(const char *text, size_t len, size_t n, int passages)
{
    struct model *m = load(64, 4, (uint32_t)len + 2 + (uint32_t)passages * (uint32_t)(n + 40));
    feed(m, text, len);
    int found = 0;
    for (int i = 0; i < passages; i++)
        for (size_t start = len * (size_t)i / (size_t)passages; start < len * (size_t)(i + 1) / (size_t)passages;
             start++)
            if (quotable(text, len, start) >= n) {
                feed(m, "\n\n> ", 4);
                assert_quotes(m, text, start, n);
                found++;
                break;
            }
    ck_assert_int_ge(found, passages - 1);
    unload(m);
}

START_TEST(the_licence_is_quoted)
{
    size_t len = 0;
    char *text = format_read_file(KVMM_SOURCE_DIR "/LICENSE", &len);
    ck_assert_ptr_nonnull(text);
    quote_passages(text, SLOW ? 1500 : len, 100, 3);
    free(text);
}
END_TEST

START_TEST(a_long_text_is_quoted)
{
    size_t len = 0;
    const char *path = "/usr/share/common-licenses/GPL-3";
    char *text = SLOW ? NULL : format_read_file(path, &len);
    if (text == NULL) {
        fprintf(stderr, "skipped: %s\n", SLOW ? "too slow under a sanitizer" : "no GPL-3 here");
        return;
    }
    ck_assert_uint_gt(len, 20000);
    quote_passages(text, 20000, 60, 4);
    free(text);
}
END_TEST

/* ---------------------------------------------------------------------------------------------------------- the file */

START_TEST(text_is_one_token_a_byte_both_ways)
{
    struct model *m = load(64, 4, 1);
    engine_token *ids;
    size_t n;
    struct engine_error err;
    char text[256 + 3];
    size_t len = 0;
    for (int c = 1; c < 128; c++)
        text[len++] = (char)c;
    text[len++] = (char)0xc3; /* é */
    text[len++] = (char)0xa9;
    ck_assert_int_eq(tokenizer_encode(m->tok, text, len, true, true, &ids, &n, &err), 0);
    ck_assert_uint_eq(n, len + 1);
    ck_assert_int_eq(ids[0], 1);
    for (size_t i = 0; i < len; i++) {
        bool printable = text[i] >= ' ' && text[i] <= '~';
        ck_assert_int_eq(byte_of(m, (uint32_t)ids[i + 1]), (uint8_t)text[i]);
        ck_assert_int_eq(ids[i + 1], printable ? 259 + text[i] - ' ' : 3 + (uint8_t)text[i]);
    }
    free(ids);
    unload(m);
}
END_TEST

static uint64_t file_hash(const char *path)
{
    size_t size;
    char *data = format_read_file(path, &size);
    uint64_t h = 14695981039346656037U; /* FNV-1a */
    ck_assert_ptr_nonnull(data);
    for (size_t i = 0; i < size; i++)
        h = (h ^ (uint8_t)data[i]) * 1099511628211U;
    free(data);
    return h;
}

START_TEST(the_bytes_are_the_same_everywhere)
{
    struct recall_config config;
    struct engine_error err;
    recall_config_init(&config);
    ck_assert_int_eq(recall_model_write(format_path("a.gguf"), &config, &err), 0);
    ck_assert_uint_eq(file_hash(format_path("a.gguf")), 7804941640023650087U);
    config.head_dim = 128;
    config.n_kv_heads = 1;
    ck_assert_int_eq(recall_model_write(format_path("a.gguf"), &config, &err), 0);
    ck_assert_uint_eq(file_hash(format_path("a.gguf")), 14663295926807792475U);
}
END_TEST

static void assert_not_made(const char *path, uint32_t head_dim, uint32_t n_kv_heads, uint32_t context,
                            const char *reason)
{
    struct recall_config config = {head_dim, n_kv_heads, context};
    struct engine_error err;
    int files = format_count_files();
    ck_assert_int_eq(recall_model_write(path, &config, &err), -1);
    format_assert_error(&err, path);
    ck_assert_msg(strstr(err.text, reason) != NULL, "\"%s\" does not say \"%s\"", err.text, reason);
    ck_assert_int_eq(format_count_files(), files);
}

START_TEST(what_cannot_be_made_is_refused)
{
    assert_not_made(format_path("x"), 96, 4, 1024, "head_dim is 64 or 128, not 96");
    assert_not_made(format_path("x"), 64, 3, 1024, "1, 2 or 4 KV heads, not 3");
    assert_not_made(format_path("x"), 64, 0, 1024, "1, 2 or 4 KV heads, not 0");
    assert_not_made(format_path("x"), 64, 4, 16, "context is 17 to 1048576 tokens, not 16");
    assert_not_made(format_path("x"), 64, 4, 1048577, "not 1048577");
    assert_not_made(format_path("no/such/dir"), 64, 4, 1024, "No such file");
    assert_not_made(format_dir, 64, 4, 1024, "cannot rename");
}
END_TEST

START_TEST(a_full_disk_leaves_nothing)
{
    struct rlimit limit = {.rlim_cur = 100000, .rlim_max = 100000}; /* writing stops in the middle */
    ck_assert(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    format_write_file(format_path("kept"), "kept", 4);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_not_made(format_path("kept"), 64, 4, 1024, "cannot write: File too large");
    size_t size = 0;
    char *data = format_read_file(format_path("kept"), &size);
    ck_assert_ptr_nonnull(data);
    ck_assert(size == 4 && memcmp(data, "kept", 4) == 0);
    free(data);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recall model");
    TCase *tc = tcase_create("recall model");
    tcase_set_timeout(tc, 150);
    tcase_add_test(tc, codes_are_apart);
    tcase_add_loop_test(tc, heads_look_back_by_their_lag, 0, 4);
    tcase_add_loop_test(tc, random_bytes_are_quoted, 0, 5);
    tcase_add_test(tc, the_licence_is_quoted);
    tcase_add_test(tc, a_long_text_is_quoted);
    tcase_add_test(tc, text_is_one_token_a_byte_both_ways);
    tcase_add_test(tc, the_bytes_are_the_same_everywhere);
    tcase_add_test(tc, what_cannot_be_made_is_refused);
    tcase_add_test(tc, a_full_disk_leaves_nothing);
    suite_add_tcase(suite, tc);
    return format_run(suite);
}
