/* SPDX-License-Identifier: Apache-2.0
 *
 * How the recall model works. A llama of 3 layers with 4 heads, feed-forward weights zero, vocabulary: bytes.
 *
 * Residual: 18 slots of C dimensions, then TEXT and CONTROL (dimensions). Slot i < 17 is to hold the code of the byte
 * i positions back, slot 17 the answer. The embedding puts the byte's own code in slot 0 and KAPPA in TEXT (in CONTROL
 * for <unk>, <s>, </s>, which share one code of their own). All codes have the same norm, so at each layer the residual
 * has one norm for all tokens, and the norm's weight undoes the RMS norm.
 *
 * Codes: integer points x ∈ Z^C with |x|² = N, chosen greedily, each the farthest from those before it; printable ASCII,
 * newline and tab come first. Integers up to 256 are exact in f16 and in bf16, so copying a code through V is exact:
 * storing it rounds away the norm's error. As angles between codes, 1 − cos is at least
 *     head_dim 64:  C = 3, N = 42521: 0.043 among the common bytes, 0.0145 among all
 *     head_dim 128: C = 6, N = 12:    0.333 and 0.167
 *
 * RoPE: base 2^96, so pair j turns by θ_j = 8^−j a token (head_dim 64; 8^(−j/2) for 128), which is exact in f32 (for
 * even j). The first pairs carry position. From pair 8 (16) on they turn by less than 0.008 rad in 131072 tokens and
 * carry content.
 *
 * Layers 1 and 2, looking back: keys are constant on the position pairs, and so are queries, weighted and turned back
 * by L·θ_j for lag L, so that position s scores A · Σ w_j cos((t − s − L) θ_j), which peaks at s = t − L. With the
 * weights below, any other lag up to 2^20 is lower by 0.89 A (1.9 A): A makes that 240. Tokens of TEXT only have this
 * key; CONTROL has another, on the slowest pair, that scores 120 below the peak. So a head whose lag reaches back past
 * the start finds <s>, and "nothing yet" has a code too. e^−120 is 0 in f32: attention is hard, one position or none.
 *     layer 1, heads with lags 1, 2, 3, 4: V = slot 0, to slots 1, 2, 3, 4
 *     layer 2, heads with lags 4, 8, 12:   V = slots 1…4, to slots 5…8, 9…12, 13…16; the fourth writes nothing
 * Rounding the keys to f16 moves such a score by 4 at most (bf16: 30), small against 120.
 *
 * Layer 3, finding the passage: query = slots 0…15, key = slots 1…16, on the content pairs: the score is the sum of
 * 16 dot products of codes, highest where the 16 bytes before s are those up to t. One wrong byte, of the nearest code,
 * costs GAP = 115. V = slot 0: the byte that followed, to slot 17. The other heads look at their own position and
 * write nothing. If the 16 bytes stand more than once with different sequels, the answer is a mixture.
 *
 * Output: logits γ · code · slot 17; the nearest code is lower by 19 (head_dim 64) or more. Printable ASCII stands in
 * the vocabulary twice, as a character and as a byte token; the byte token's row is 15/16 of the character's, so that
 * what is generated is tokenized to the same ids again. Control tokens have rows of zeros and are never the best.
 *
 * The same file in llama.cpp, with its f16 cache, quotes the same (tried up to 32,000 tokens).
 *
 * Nothing here depends on the machine: integers, and doubles under + − × ÷ only (no libm, no contraction). */
#include "recall_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_write.h"

#define N_LAYERS    3
#define N_HEADS     4
#define N_FF        32
#define N_CODES     257 /* of the 256 bytes, and of the control tokens */
#define CONTROL     256
#define N_COMMON    97
#define N_SLOTS     18
#define ANSWER      17
#define MAX_CODE    6 /* dimensions */
#define MAX_POINTS  8192
#define PRINTABLE   95 /* ' ' … '~' */
#define FIRST_BYTE  3  /* the token of byte 0; 0 … 2 are <unk>, <s>, </s> */
#define FIRST_CHAR  (FIRST_BYTE + 256)
#define N_VOCAB     (FIRST_CHAR + PRINTABLE)
#define MAX_CONTEXT (1U << 20)
#define EPSILON     1e-5
#define PEAK_GAP    240.0 /* layers 1 and 2: from the peak to the next lag; CONTROL is half way */
#define MATCH_GAP   115.0 /* layer 3: one byte of the nearest code */

struct shape { /* what head_dim decides */
    uint32_t head_dim, n_embd;
    int code_dims, norm2; /* C, N */
    int n_position;       /* position pairs in use */
    int first_content;    /* pair */
    double turn;          /* θ_j / θ_(j+1) */
    double weights[12];   /* w_j */
    double lag_gap;       /* Σ w_j (1 − cos(Δ θ_j)), its least over all Δ in 1 … MAX_CONTEXT */
    double code_gap;      /* N − the largest dot product of two codes */
    double kappa, gamma;
    double position_key, content_key; /* scale on the key's side, powers of two */
    double sqrt_head_dim;
};

static const struct shape shapes[] = {
    {.head_dim = 64,
     .n_embd = 64,
     .code_dims = 3,
     .norm2 = 42521,
     .n_position = 7,
     .first_content = 8,
     .turn = 8.0,
     .weights = {2, 3, 3, 3, 3, 3, 3},
     .lag_gap = 0.893,
     .code_gap = 616,
     .kappa = 64,
     .gamma = 1.0 / 32,
     .position_key = 64,
     .content_key = 1,
     .sqrt_head_dim = 8.0},
    {.head_dim = 128,
     .n_embd = 128,
     .code_dims = 6,
     .norm2 = 12,
     .n_position = 12,
     .first_content = 16,
     .turn = 0x1.6a09e667f3bcdp+1, /* √8 */
     .weights = {4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
     .lag_gap = 1.909,
     .code_gap = 2,
     .kappa = 4,
     .gamma = 64,
     .position_key = 64,
     .content_key = 8,
     .sqrt_head_dim = 0x1.6a09e667f3bcdp+3}, /* √128 */
};

/* ------------------------------------------------------------------------------------------------------------ codes */

struct point {
    int x[MAX_CODE];
};

struct points {
    struct point *at; /* MAX_POINTS */
    int n;
    int dims;
};

static int dot(const struct points *points, const struct point *a, const struct point *b)
{
    int sum = 0;
    for (int i = 0; i < points->dims; i++)
        sum += a->x[i] * b->x[i];
    return sum;
}

/* All integer points with squares that sum to `left` from dimension `dim` on. */
static void enumerate(struct points *points, struct point *point, int dim, int left)
{
    int root = 0;
    while ((root + 1) * (root + 1) <= left)
        root++;
    if (dim < points->dims - 1) {
        for (int x = -root; x <= root; x++) {
            point->x[dim] = x;
            enumerate(points, point, dim + 1, left - x * x);
        }
        return;
    }
    for (int x = -root; root * root == left && x <= root; x += root > 0 ? 2 * root : 1) {
        point->x[dim] = x;
        if (points->n < MAX_POINTS)
            points->at[points->n++] = *point;
    }
}

/* The i-th of the bytes, the common ones first; CONTROL is the last. */
static int byte_by_rank(int i)
{
    static const uint8_t others[] = {'\n', '\t'};
    int rank = 0;
    if (i < PRINTABLE)
        return ' ' + i;
    if (i < N_COMMON)
        return others[i - PRINTABLE];
    for (int byte = 0; byte < 256; byte++) {
        bool common = (byte >= ' ' && byte <= '~') || byte == '\n' || byte == '\t';
        if (!common && rank++ == i - N_COMMON)
            return byte;
    }
    return CONTROL;
}

/* codes[b]: of byte b, or of CONTROL. */
static int choose_codes(const struct shape *shape, struct point *codes)
{
    int rc = -1;
    struct points points = {.at = calloc(MAX_POINTS, sizeof(struct point)), .dims = shape->code_dims};
    int *nearest = calloc(MAX_POINTS, sizeof(*nearest)); /* largest dot product with a chosen one */
    struct point scratch = {{0}};
    if (points.at == NULL || nearest == NULL)
        goto free_points;
    enumerate(&points, &scratch, 0, shape->norm2);
    for (int i = 0; i < points.n; i++)
        nearest[i] = -shape->norm2;
    for (int rank = 0; rank < N_CODES; rank++) {
        int best = 0;
        for (int i = 1; i < points.n; i++)
            if (nearest[i] < nearest[best])
                best = i;
        codes[byte_by_rank(rank)] = points.at[best];
        for (int i = 0; i < points.n; i++) {
            int d = dot(&points, &points.at[i], &points.at[best]);
            nearest[i] = d > nearest[i] ? d : nearest[i];
        }
    }
    rc = 0;
free_points:
    free(nearest);
    free(points.at);
    return rc;
}

/* ---------------------------------------------------------------------------------------------------------- weights */

struct layer {
    float *norm, *q, *k, *v, *o, *ffn_norm, *gate, *up, *down;
};

struct model {
    const struct shape *shape;
    uint32_t n_kv_heads, context_length;
    struct point codes[N_CODES];
    float *block; /* all weights */
    float *embedding, *output_norm, *output;
    struct layer layers[N_LAYERS];
};

/* The residual's dimensions. */
static uint32_t slot_dim(const struct model *model, int slot, int i)
{
    return (uint32_t)(slot * model->shape->code_dims + i);
}

static uint32_t text_dim(const struct model *model)
{
    return slot_dim(model, N_SLOTS, 0);
}

static uint32_t control_dim(const struct model *model)
{
    return text_dim(model) + 1;
}

/* Element of a projection from the residual to `rows` outputs. */
static float *weight(const struct model *model, float *matrix, uint32_t row, uint32_t in)
{
    return &matrix[(size_t)row * model->shape->n_embd + in];
}

/* √x by Newton's steps, so that no library's rounding comes in. */
static double root(double x)
{
    double r = x > 1 ? x : 1;
    for (int i = 0; i < 200; i++)
        r = (r + x / r) / 2;
    return r;
}

/* What undoes the RMS norm of a residual with n_codes slots in use. */
static float norm_weight(const struct shape *shape, int n_codes)
{
    double sum = (double)n_codes * shape->norm2 + shape->kappa * shape->kappa;
    return (float)root(sum / shape->n_embd + EPSILON);
}

static void fill(float *out, size_t n, float value)
{
    for (size_t i = 0; i < n; i++)
        out[i] = value;
}

/* cos and sin of lag · θ, θ ≤ 1: the series for θ, then lag turns. */
static void turn_by(double theta, int lag, double *cosine, double *sine)
{
    double c = 0, s = 0, term = 1; /* term = θ^i / i! */
    for (int i = 0; i < 24; i += 2) {
        double sign = i % 4 == 0 ? 1 : -1;
        c += sign * term;
        term = term * theta / (i + 1);
        s += sign * term;
        term = term * theta / (i + 2);
    }
    *cosine = 1;
    *sine = 0;
    for (int i = 0; i < lag; i++) {
        double next = *cosine * c - *sine * s;
        *sine = *sine * c + *cosine * s;
        *cosine = next;
    }
}

/* Queries of `head` that peak at `lag`, and CONTROL's score half a gap below. */
static void look_back_query(const struct model *model, struct layer *layer, uint32_t head, int lag)
{
    const struct shape *shape = model->shape;
    uint32_t row = head * shape->head_dim;
    double unit = PEAK_GAP / shape->lag_gap; /* A */
    double per_key = unit * shape->sqrt_head_dim / shape->position_key / shape->kappa;
    double theta = 1, peak = 0;
    for (int j = 0; j < shape->n_position; j++, theta /= shape->turn) {
        double cosine, sine;
        turn_by(theta, lag, &cosine, &sine);
        peak += unit * shape->weights[j];
        for (uint32_t in = text_dim(model); in <= control_dim(model); in++) {
            *weight(model, layer->q, row + 2 * (uint32_t)j, in) = (float)(per_key * shape->weights[j] * cosine);
            *weight(model, layer->q, row + 2 * (uint32_t)j + 1, in) = (float)(per_key * shape->weights[j] * -sine);
        }
    }
    double control = (peak - PEAK_GAP / 2) * shape->sqrt_head_dim / shape->position_key / shape->kappa;
    for (uint32_t in = text_dim(model); in <= control_dim(model); in++)
        *weight(model, layer->q, row + shape->head_dim - 2, in) = (float)control;
}

/* The key that says where a token is. */
static void position_key(const struct model *model, struct layer *layer, uint32_t kv_head)
{
    const struct shape *shape = model->shape;
    uint32_t row = kv_head * shape->head_dim;
    for (int j = 0; j < shape->n_position; j++)
        *weight(model, layer->k, row + 2 * (uint32_t)j, text_dim(model)) = (float)(shape->position_key / shape->kappa);
}

static void control_key(const struct model *model, struct layer *layer, uint32_t kv_head)
{
    const struct shape *shape = model->shape;
    *weight(model, layer->k, (kv_head + 1) * shape->head_dim - 2, control_dim(model)) =
        (float)(shape->position_key / shape->kappa);
}

/* V of kv_head = n slots from `first` on. */
static void read_slots(const struct model *model, struct layer *layer, uint32_t kv_head, int first, int n)
{
    uint32_t row = kv_head * model->shape->head_dim;
    for (int i = 0; i < n * model->shape->code_dims; i++)
        *weight(model, layer->v, row + (uint32_t)i, slot_dim(model, first, i)) = 1;
}

/* What `head` read goes to n slots from `first` on. */
static void write_slots(const struct model *model, struct layer *layer, uint32_t head, int first, int n)
{
    const struct shape *shape = model->shape;
    for (int i = 0; i < n * shape->code_dims; i++)
        layer->o[(size_t)slot_dim(model, first, i) * N_HEADS * shape->head_dim + head * shape->head_dim + (size_t)i] =
            1;
}

static void fill_look_back(const struct model *model, struct layer *layer, int stride, int first, int n)
{
    for (uint32_t kv_head = 0; kv_head < model->n_kv_heads; kv_head++) {
        position_key(model, layer, kv_head);
        control_key(model, layer, kv_head);
        read_slots(model, layer, kv_head, first, n);
    }
    for (uint32_t head = 0; head < N_HEADS; head++) {
        int lag = (int)(head + 1) * stride;
        if (lag + n > RECALL_LOOKBACK + 1) { /* nothing is left for it to do */
            look_back_query(model, layer, head, 0);
            continue;
        }
        look_back_query(model, layer, head, lag);
        write_slots(model, layer, head, first + lag, n);
    }
}

static void fill_match(const struct model *model, struct layer *layer)
{
    const struct shape *shape = model->shape;
    double query = MATCH_GAP * shape->sqrt_head_dim / shape->code_gap / shape->content_key;
    uint32_t content = 2 * (uint32_t)shape->first_content;
    for (int i = 0; i < RECALL_LOOKBACK * shape->code_dims; i++) {
        *weight(model, layer->q, content + (uint32_t)i, slot_dim(model, 0, i)) = (float)query;
        for (uint32_t kv_head = 0; kv_head < model->n_kv_heads; kv_head++)
            *weight(model, layer->k, kv_head * shape->head_dim + content + (uint32_t)i, slot_dim(model, 1, i)) =
                (float)shape->content_key;
    }
    for (uint32_t kv_head = 0; kv_head < model->n_kv_heads; kv_head++) {
        position_key(model, layer, kv_head);
        read_slots(model, layer, kv_head, 0, 1);
    }
    for (uint32_t head = 1; head < N_HEADS; head++)
        look_back_query(model, layer, head, 0);
    write_slots(model, layer, 0, ANSWER, 1);
}

/* -1: none, a control token. */
static int token_byte(uint32_t token)
{
    if (token >= FIRST_CHAR)
        return (int)(token - FIRST_CHAR) + ' ';
    return (int)token - FIRST_BYTE >= 0 ? (int)token - FIRST_BYTE : -1;
}

static void fill_vocabulary(const struct model *model)
{
    const struct shape *shape = model->shape;
    for (uint32_t token = 0; token < N_VOCAB; token++) {
        int byte = token_byte(token);
        bool doubled = token < FIRST_CHAR && byte >= ' ' && byte <= '~';
        double row = shape->gamma * (doubled ? 15.0 / 16 : 1);
        for (int i = 0; i < shape->code_dims; i++) {
            int x = model->codes[byte >= 0 ? byte : CONTROL].x[i];
            *weight(model, model->embedding, token, slot_dim(model, 0, i)) = (float)x;
            *weight(model, model->output, token, slot_dim(model, ANSWER, i)) = byte >= 0 ? (float)(row * x) : 0;
        }
        *weight(model, model->embedding, token, byte >= 0 ? text_dim(model) : control_dim(model)) = (float)shape->kappa;
    }
}

static float *take(float **at, size_t n)
{
    float *taken = *at;
    *at += n;
    return taken;
}

/* Zeros, cut up. */
static int allocate_weights(struct model *model)
{
    size_t e = model->shape->n_embd, q = N_HEADS * (size_t)model->shape->head_dim;
    size_t kv = (size_t)model->n_kv_heads * model->shape->head_dim;
    size_t layer_floats = 2 * e + 2 * e * q + 2 * e * kv + 3 * e * N_FF;
    model->block = calloc(2 * e * N_VOCAB + e + N_LAYERS * layer_floats, sizeof(float));
    if (model->block == NULL)
        return -1;
    float *at = model->block;
    model->embedding = take(&at, e * N_VOCAB);
    model->output = take(&at, e * N_VOCAB);
    model->output_norm = take(&at, e);
    for (int i = 0; i < N_LAYERS; i++) {
        struct layer *layer = &model->layers[i];
        layer->norm = take(&at, e);
        layer->ffn_norm = take(&at, e);
        layer->q = take(&at, e * q);
        layer->o = take(&at, e * q);
        layer->k = take(&at, e * kv);
        layer->v = take(&at, e * kv);
        layer->gate = take(&at, e * N_FF);
        layer->up = take(&at, e * N_FF);
        layer->down = take(&at, e * N_FF);
    }
    return 0;
}

static void fill_weights(struct model *model)
{
    static const int slots_in_use[N_LAYERS] = {1, 5, 17};
    size_t e = model->shape->n_embd;
    fill_vocabulary(model);
    for (int i = 0; i < N_LAYERS; i++) {
        fill(model->layers[i].norm, e, norm_weight(model->shape, slots_in_use[i]));
        fill(model->layers[i].ffn_norm, e, 1);
    }
    fill(model->output_norm, e, norm_weight(model->shape, N_SLOTS));
    fill_look_back(model, &model->layers[0], 1, 0, 1);
    fill_look_back(model, &model->layers[1], 4, 1, 4);
    fill_match(model, &model->layers[2]);
}

/* --------------------------------------------------------------------------------------------------------- the file */

static void describe_model(const struct model *model, struct gguf_writer *writer)
{
    const struct shape *shape = model->shape;
    gguf_add_string(writer, "general.architecture", "llama");
    gguf_add_string(writer, "general.name", "kvmm recall");
    gguf_add_u32(writer, "general.file_type", 0); /* all F32 */
    gguf_add_u32(writer, "llama.vocab_size", N_VOCAB);
    gguf_add_u32(writer, "llama.context_length", model->context_length);
    gguf_add_u32(writer, "llama.embedding_length", shape->n_embd);
    gguf_add_u32(writer, "llama.block_count", N_LAYERS);
    gguf_add_u32(writer, "llama.feed_forward_length", N_FF);
    gguf_add_u32(writer, "llama.attention.head_count", N_HEADS);
    gguf_add_u32(writer, "llama.attention.head_count_kv", model->n_kv_heads);
    gguf_add_u32(writer, "llama.attention.key_length", shape->head_dim);
    gguf_add_u32(writer, "llama.attention.value_length", shape->head_dim);
    gguf_add_f32(writer, "llama.attention.layer_norm_rms_epsilon", (float)EPSILON);
    gguf_add_u32(writer, "llama.rope.dimension_count", shape->head_dim);
    gguf_add_f32(writer, "llama.rope.freq_base", 0x1p96F);
}

static void describe_vocabulary(struct gguf_writer *writer)
{
    enum { NORMAL = 1, UNKNOWN = 2, CONTROL_TOKEN = 3, BYTE = 6 };
    static const char hex[] = "0123456789ABCDEF";
    static const char *const specials[FIRST_BYTE] = {"<unk>", "<s>", "</s>"};
    char texts[N_VOCAB][8] = {{0}};
    const char *tokens[N_VOCAB];
    float scores[N_VOCAB] = {0};
    int32_t types[N_VOCAB];
    for (uint32_t token = 0; token < N_VOCAB; token++) {
        int byte = token_byte(token);
        tokens[token] = texts[token];
        if (token < FIRST_BYTE) {
            tokens[token] = specials[token];
            types[token] = token == 0 ? UNKNOWN : CONTROL_TOKEN;
        } else if (token < FIRST_CHAR) {
            memcpy(texts[token], (char[]){'<', '0', 'x', hex[byte >> 4], hex[byte & 15], '>'}, 6);
            types[token] = BYTE;
        } else {
            memcpy(texts[token], byte == ' ' ? "\xe2\x96\x81" : (char[]){(char)byte, 0, 0}, 3);
            types[token] = NORMAL;
        }
    }
    gguf_add_string(writer, "tokenizer.ggml.model", "llama");
    gguf_add_strings(writer, "tokenizer.ggml.tokens", tokens, N_VOCAB);
    gguf_add_f32s(writer, "tokenizer.ggml.scores", scores, N_VOCAB);
    gguf_add_i32s(writer, "tokenizer.ggml.token_type", types, N_VOCAB);
    gguf_add_u32(writer, "tokenizer.ggml.unknown_token_id", 0);
    gguf_add_u32(writer, "tokenizer.ggml.bos_token_id", 1);
    gguf_add_u32(writer, "tokenizer.ggml.eos_token_id", 2);
    gguf_add_bool(writer, "tokenizer.ggml.add_bos_token", true);
    gguf_add_bool(writer, "tokenizer.ggml.add_eos_token", false);
    gguf_add_bool(writer, "tokenizer.ggml.add_space_prefix", false);
}

static void add_matrix(struct gguf_writer *writer, const char *name, uint64_t in, uint64_t out, const float *data)
{
    gguf_add_tensor(writer, name, GGUF_F32, 2, (uint64_t[]){in, out}, data);
}

static void add_layer(const struct model *model, struct gguf_writer *writer, int i)
{
    const struct layer *layer = &model->layers[i];
    uint64_t e = model->shape->n_embd, q = N_HEADS * (uint64_t)model->shape->head_dim;
    uint64_t kv = (uint64_t)model->n_kv_heads * model->shape->head_dim;
    char name[64];
    struct {
        const char *suffix;
        uint64_t in, out;
        const float *data;
    } matrices[] = {{"attn_q", e, q, layer->q},         {"attn_k", e, kv, layer->k},
                    {"attn_v", e, kv, layer->v},        {"attn_output", q, e, layer->o},
                    {"ffn_gate", e, N_FF, layer->gate}, {"ffn_up", e, N_FF, layer->up},
                    {"ffn_down", N_FF, e, layer->down}};
    snprintf(name, sizeof(name), "blk.%d.attn_norm.weight", i);
    gguf_add_tensor(writer, name, GGUF_F32, 1, &e, layer->norm);
    snprintf(name, sizeof(name), "blk.%d.ffn_norm.weight", i);
    gguf_add_tensor(writer, name, GGUF_F32, 1, &e, layer->ffn_norm);
    for (size_t k = 0; k < sizeof(matrices) / sizeof(matrices[0]); k++) {
        snprintf(name, sizeof(name), "blk.%d.%s.weight", i, matrices[k].suffix);
        add_matrix(writer, name, matrices[k].in, matrices[k].out, matrices[k].data);
    }
}

static int save(const struct model *model, const char *path, struct engine_error *err)
{
    struct gguf_writer *writer;
    struct engine_error why;
    uint64_t e = model->shape->n_embd;
    if (gguf_writer_open(&writer, &why) != 0)
        return engine_fail(err, "%s: %s", path, why.text);
    describe_model(model, writer);
    describe_vocabulary(writer);
    add_matrix(writer, "token_embd.weight", e, N_VOCAB, model->embedding);
    for (int i = 0; i < N_LAYERS; i++)
        add_layer(model, writer, i);
    gguf_add_tensor(writer, "output_norm.weight", GGUF_F32, 1, &e, model->output_norm);
    add_matrix(writer, "output.weight", e, N_VOCAB, model->output);
    int rc = gguf_writer_save(writer, path, err);
    gguf_writer_close(&writer);
    return rc;
}

void recall_config_init(struct recall_config *config)
{
    *config = (struct recall_config){.head_dim = 64, .n_kv_heads = 4, .context_length = 131072};
}

static int check_config(const char *path, const struct recall_config *config, const struct shape **shape,
                        struct engine_error *err)
{
    *shape = config->head_dim == 64 ? &shapes[0] : &shapes[1];
    if (config->head_dim != (*shape)->head_dim)
        return engine_fail(err, "%s: a recall model's head_dim is 64 or 128, not %u", path, config->head_dim);
    if (config->n_kv_heads != 1 && config->n_kv_heads != 2 && config->n_kv_heads != 4)
        return engine_fail(err, "%s: a recall model has 1, 2 or 4 KV heads, not %u", path, config->n_kv_heads);
    if (config->context_length <= RECALL_LOOKBACK || config->context_length > MAX_CONTEXT)
        return engine_fail(err, "%s: a recall model's context is %d to %u tokens, not %u", path, RECALL_LOOKBACK + 1,
                           MAX_CONTEXT, config->context_length);
    return 0;
}

int recall_model_write(const char *path, const struct recall_config *config, struct engine_error *err)
{
    struct model model = {.n_kv_heads = config->n_kv_heads, .context_length = config->context_length};
    if (check_config(path, config, &model.shape, err) != 0)
        return -1;
    if (choose_codes(model.shape, model.codes) != 0 || allocate_weights(&model) != 0)
        return engine_fail(err, "%s: no memory to make the model", path);
    fill_weights(&model);
    int rc = save(&model, path, err);
    free(model.block);
    return rc;
}
