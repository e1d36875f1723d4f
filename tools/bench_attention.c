/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench attention`: the CPU's attention kernels beside what the machine can do. Decode must read K and V once, so
 * its yardstick is the read bandwidth; prefill must multiply and add, so its yardstick is the peak arithmetic of f32.
 * Both are measured in the same round, before the kernels; a round goes over everything once, in turn. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "kernels/attention.h"
#include "tools/bench.h"
#include "tools/bench_attention_cuda.h"
#include "tools/bench_peaks.h"
#include "tools/bench_spread.h"
#include "tools/command.h"

#define NAME "kvmm bench attention"

enum { MOST_ROUNDS = 100, N_LAYERS = 4, PAGE_TOKENS = 16, CONTEXT = 16384, PREFILL_QUERIES = 128 };

enum layout { PAGE_MAJOR, TOKEN_MAJOR, LAYER_MAJOR, N_LAYOUTS };
static const char *const layout_names[] = {"page-major", "token-major", "layer-major"};

static const struct shape {
    const char *name;
    uint32_t n_heads, n_kv_heads, head_dim;
} shapes[] = {
    {"llama-3-8b", 32, 8, 128},
    {"recall", 4, 4, 64},
};
enum { N_SHAPES = 2 };

static const struct type {
    const char *name;
    enum kern_dtype dtype;
} types[] = {{"f16", KERN_F16}, {"bf16", KERN_BF16}};
enum { N_TYPES = 2 };

enum work { DECODE, PREFILL, N_WORKS };
static const char *const work_names[] = {"decode", "prefill"};
static const char *const yardstick_names[] = {"read bandwidth", "peak arithmetic"};

struct options {
    uint64_t n_rounds, n_threads;
    bool json;
    struct attention_cuda_options cuda;
};

/* One line of the result. */
struct row {
    const struct shape *shape;
    const struct type *type;
    enum layout layout;
    enum work work;
    double rate[MOST_ROUNDS];  /* bytes/s or FLOP/s */
    double ratio[MOST_ROUNDS]; /* to the yardstick of the round */
};
enum { N_ROWS = N_SHAPES * N_TYPES * N_LAYOUTS * N_WORKS };

struct bench {
    struct options options;
    struct kern_pool *pool;
    unsigned char *cache; /* of one shape and type at a time, N_LAYERS layers */
    size_t cache_bytes;
    float *q, *out;
    void *scratch;
    size_t scratch_bytes;
    struct row rows[N_ROWS];
    double bandwidth[MOST_ROUNDS], arithmetic[MOST_ROUNDS];
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- the work ---- */

/* Strides as a kvmm_layout has them: all layers in a page, in a token, or each layer by itself. */
static struct kern_tensor tensor_of(const struct bench *bench, const struct shape *shape, enum layout layout,
                                    uint32_t layer, uint32_t kv)
{
    const size_t row = (size_t)shape->head_dim * 2, heads = shape->n_kv_heads;
    struct kern_tensor t = {.page_tokens = PAGE_TOKENS};
    size_t offset = 0;
    if (layout == TOKEN_MAJOR) {
        t.head_stride = row;
        t.token_stride = row * heads * 2 * N_LAYERS;
        t.page_stride = t.token_stride * PAGE_TOKENS;
        offset = (layer * 2 + kv) * row * heads;
    } else {
        const size_t plane = row * heads * PAGE_TOKENS;
        t.token_stride = row;
        t.head_stride = row * PAGE_TOKENS;
        t.page_stride = plane * 2 * (layout == PAGE_MAJOR ? N_LAYERS : 1);
        offset = layout == PAGE_MAJOR ? (layer * 2 + kv) * plane
                                      : layer * (plane * 2 * (CONTEXT / PAGE_TOKENS)) + kv * plane;
    }
    t.base = bench->cache + offset;
    return t;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Uniform in [-1.7, 1.7): variance 1, so that scores have it too and no weight vanishes. */
static float random_float(uint64_t *state)
{
    return ((float)(next_random(state) >> 40) / (float)(1 << 24) - 0.5f) * 3.4641f;
}

/* Every element is drawn alike, so one content does for all layouts. */
static void fill_cache(struct bench *bench, const struct shape *shape, const struct type *type)
{
    uint64_t state = 88172645463325252u;
    enum { N_SOME = 4096, ROW = 16 };
    float drawn[N_SOME];
    uint16_t some[N_SOME];
    for (size_t i = 0; i < N_SOME; i++)
        drawn[i] = random_float(&state);
    const struct kern_attention_params one_head = {
        .n_heads = 1, .n_kv_heads = 1, .head_dim = ROW, .dtype = type->dtype};
    const struct kern_tensor rows = {
        .base = some, .token_stride = ROW * 2, .page_stride = ROW * 2, .head_stride = ROW * 2, .page_tokens = 1};
    kern_store(&one_head, &rows, 0, N_SOME / ROW, drawn, ROW);
    bench->cache_bytes = (size_t)CONTEXT * N_LAYERS * 2 * shape->n_kv_heads * shape->head_dim * 2;
    for (size_t at = 0; at < bench->cache_bytes; at += 2 * 997)
        memcpy(bench->cache + at, some + next_random(&state) % 3000,
               bench->cache_bytes - at < 2 * 997 ? bench->cache_bytes - at : 2 * 997);
}

/* Seconds for one pass over the layers; less than 0 if memory is out. */
static double attend(struct bench *bench, const struct row *row)
{
    const struct shape *shape = row->shape;
    const struct kern_attention_params params = {
        .n_heads = shape->n_heads,
        .n_kv_heads = shape->n_kv_heads,
        .head_dim = shape->head_dim,
        .dtype = row->type->dtype,
        .isa = kern_isa_best(),
        .scale = 1 / sqrtf((float)shape->head_dim),
    };
    const uint32_t n_queries = row->work == DECODE ? 1 : PREFILL_QUERIES;
    const uint32_t n_layers = row->work == DECODE ? N_LAYERS : 1;
    double start = now_s();
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        struct kern_attention_item item = {
            .k = tensor_of(bench, shape, row->layout, layer, 0),
            .v = tensor_of(bench, shape, row->layout, layer, 1),
            .first_pos = CONTEXT - n_queries,
            .n_queries = n_queries,
            .q = bench->q,
            .out = bench->out,
            .q_stride = (size_t)shape->n_heads * shape->head_dim,
            .out_stride = (size_t)shape->n_heads * shape->head_dim,
        };
        size_t scratch = kern_attention_scratch(&params, &item, 1, kern_pool_size(bench->pool));
        if (scratch > bench->scratch_bytes) {
            free(bench->scratch);
            bench->scratch_bytes = (scratch + 63) / 64 * 64;
            bench->scratch = aligned_alloc(64, bench->scratch_bytes);
            if (!bench->scratch)
                return -1;
            start = now_s();
        }
        if (kern_attention(&params, &item, 1, bench->scratch, bench->pool) != 0)
            return -1;
    }
    return now_s() - start;
}

/* Bytes of K and V that decode must read, or the multiply-adds of prefill as FLOP. */
static double amount(const struct row *row)
{
    const struct shape *shape = row->shape;
    if (row->work == DECODE)
        return (double)CONTEXT * N_LAYERS * 2 * shape->n_kv_heads * shape->head_dim * 2;
    double pairs = 0;
    for (uint32_t i = 0; i < PREFILL_QUERIES; i++)
        pairs += CONTEXT - PREFILL_QUERIES + i + 1;
    return pairs * 4 * shape->n_heads * shape->head_dim;
}

static int run_round(struct bench *bench, uint64_t round)
{
    for (int s = 0; s < N_SHAPES; s++) {
        for (int t = 0; t < N_TYPES; t++) {
            fill_cache(bench, &shapes[s], &types[t]);
            double bandwidth = peaks_read_bandwidth(bench->pool, bench->cache, bench->cache_bytes, 3);
            double arithmetic = peaks_arithmetic(bench->pool, 2);
            bench->bandwidth[round] = fmax(bench->bandwidth[round], bandwidth);
            bench->arithmetic[round] = fmax(bench->arithmetic[round], arithmetic);
            for (int i = 0; i < N_LAYOUTS * N_WORKS; i++) {
                struct row *row = &bench->rows[(s * N_TYPES + t) * N_LAYOUTS * N_WORKS + i];
                double first = attend(bench, row), second = attend(bench, row);
                if (first <= 0 || second <= 0) {
                    fprintf(stderr, NAME ": out of memory\n");
                    return COMMAND_FAILED;
                }
                row->rate[round] = amount(row) / fmin(first, second);
            }
        }
    }
    for (int i = 0; i < N_ROWS; i++) {
        struct row *row = &bench->rows[i];
        row->ratio[round] = row->rate[round] / (row->work == DECODE ? bench->bandwidth : bench->arithmetic)[round];
    }
    return COMMAND_DONE;
}

/* ---- the result: spreads sort what they are of, and nothing after them needs the rounds' order ---- */

static void print_json(struct bench *bench)
{
    size_t n = bench->options.n_rounds;
    json_t *rows = json_array();
    for (int i = 0; i < N_ROWS; i++) {
        struct row *row = &bench->rows[i];
        json_array_append_new(
            rows, json_pack("{s:s, s:s, s:s, s:s, s:o, s:o}", "work", work_names[row->work], "shape", row->shape->name,
                            "kv_type", row->type->name, "layout", layout_names[row->layout],
                            row->work == DECODE ? "bytes_per_s" : "flop_per_s", spread_json(spread_of(row->rate, n)),
                            row->work == DECODE ? "ratio_to_read_bandwidth" : "ratio_to_peak_arithmetic",
                            spread_json(spread_of(row->ratio, n))));
    }
    json_t *root =
        json_pack("{s:s, s:I, s:I, s:s, s:I, s:I, s:o, s:o, s:o}", "bench", "attention", "rounds", (json_int_t)n,
                  "threads", (json_int_t)kern_pool_size(bench->pool), "isa", kern_isa_name(kern_isa_best()),
                  "context_tokens", (json_int_t)CONTEXT, "prefill_query_tokens", (json_int_t)PREFILL_QUERIES,
                  "read_bandwidth_bytes_per_s", spread_json(spread_of(bench->bandwidth, n)),
                  "peak_arithmetic_flop_per_s", spread_json(spread_of(bench->arithmetic, n)), "rows", rows);
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(root);
}

static void print_table(struct bench *bench)
{
    size_t n = bench->options.n_rounds;
    printf("context of %d tokens, %u threads, %s; %zu rounds in turn\n", CONTEXT, kern_pool_size(bench->pool),
           kern_isa_name(kern_isa_best()), n);
    printf("read bandwidth %.1f GB/s, peak arithmetic of f32 %.0f GFLOP/s (medians)\n\n",
           spread_of(bench->bandwidth, n).median * 1e-9, spread_of(bench->arithmetic, n).median * 1e-9);
    for (int work = 0; work < N_WORKS; work++) {
        printf("%-8s %-11s %-5s %-12s %10s   of the %s: min, median, max\n", work_names[work], "shape", "type",
               "layout", work == DECODE ? "GB/s" : "GFLOP/s", yardstick_names[work]);
        for (int i = 0; i < N_ROWS; i++) {
            struct row *row = &bench->rows[i];
            if (row->work != (enum work)work)
                continue;
            struct spread ratio = spread_of(row->ratio, n);
            printf("%-8s %-11s %-5s %-12s %10.1f   %.2f  %.2f  %.2f\n", "", row->shape->name, row->type->name,
                   layout_names[row->layout], spread_of(row->rate, n).median * 1e-9, ratio.least, ratio.median,
                   ratio.most);
        }
        putchar('\n');
    }
}

/* ---- the command ---- */

static int run(struct bench *bench)
{
    size_t largest = (size_t)CONTEXT * N_LAYERS * 2 * 8 * 128 * 2, queries = (size_t)PREFILL_QUERIES * 32 * 128;
    bench->cache = aligned_alloc(2 << 20, largest);
    bench->q = malloc(queries * sizeof(float));
    bench->out = malloc(queries * sizeof(float));
    if (!bench->cache || !bench->q || !bench->out || kern_pool_open((uint32_t)bench->options.n_threads, &bench->pool)) {
        fprintf(stderr, NAME ": out of memory\n");
        return COMMAND_FAILED;
    }
    uint64_t state = 1234567;
    for (size_t i = 0; i < queries; i++)
        bench->q[i] = random_float(&state);
    struct row *row = bench->rows;
    for (int s = 0; s < N_SHAPES; s++)
        for (int t = 0; t < N_TYPES; t++)
            for (int layout = 0; layout < N_LAYOUTS; layout++)
                for (int work = 0; work < N_WORKS; work++) {
                    *row = (struct row){.shape = &shapes[s], .type = &types[t]};
                    row->layout = (enum layout)layout;
                    row++->work = (enum work)work;
                }
    for (uint64_t round = 0; round < bench->options.n_rounds; round++) {
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\rround %llu of %llu ", (unsigned long long)round + 1,
                    (unsigned long long)bench->options.n_rounds);
        int status = run_round(bench, round);
        if (status != COMMAND_DONE)
            return status;
    }
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r                      \r");
    if (bench->options.json)
        print_json(bench);
    else
        print_table(bench);
    return command_finish_output(NAME);
}

enum { KEY_JSON = 'j', KEY_ROUNDS = 'n', KEY_THREADS = 't' };

static const struct argp_option option_list[] = {
    {"json", KEY_JSON, NULL, 0, "print JSON", 0},
    {"rounds", KEY_ROUNDS, "N", 0, "rounds in which all are measured in turn (default: 7)", 0},
    {"threads", KEY_THREADS, "N", 0, "threads (default: one for each CPU)", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &options->cuda;
        return 0;
    case ARGP_KEY_END:
        if (options->cuda.any && !options->cuda.on_cuda)
            return command_complain(state, "sizes and names can be chosen with --device cuda:N only");
        if (options->n_threads && options->cuda.on_cuda)
            return command_complain(state, "--threads is for the CPU, not for --device cuda:N");
        return 0;
    case ARGP_KEY_ARG:
        return command_complain(state, "'%s': it takes no arguments", arg);
    case KEY_JSON:
        options->json = true;
        return 0;
    case KEY_ROUNDS:
        if (!command_number(arg, 1, MOST_ROUNDS, &options->n_rounds))
            return command_complain(state, "--rounds takes a number from 1 to %d, not '%s'", MOST_ROUNDS, arg);
        return 0;
    case KEY_THREADS:
        if (!command_number(arg, 1, 1024, &options->n_threads))
            return command_complain(state, "--threads takes a number from 1 to 1024, not '%s'", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{.argp = &attention_cuda_argp}, {0}};

static const struct argp parser = {
    .options = option_list,
    .parser = parse_option,
    .children = children,
    .doc = "Measure attention: decode as a ratio of the bandwidth of memory, prefill as a ratio of the peak "
           "arithmetic, both measured in the same run, for each cache layout. On the CPU that is read bandwidth and "
           "f32; on a GPU the bandwidth of a copy, read and written, and dense matrix products by cuBLAS.",
};

int bench_attention(int argc, char **argv)
{
    struct options options = {.n_rounds = 7};
    options.cuda = attention_cuda_defaults();
    if (!command_parse(&parser, argc, argv, 0, &options))
        return COMMAND_BAD_USAGE;
    if (options.cuda.on_cuda) {
        options.cuda.n_rounds = (uint32_t)options.n_rounds;
        options.cuda.json = options.json;
        return bench_attention_cuda(&options.cuda);
    }
    struct bench *bench = calloc(1, sizeof(*bench));
    if (!bench) {
        fprintf(stderr, NAME ": out of memory\n");
        return COMMAND_FAILED;
    }
    bench->options = options;
    int status = run(bench);
    kern_pool_close(&bench->pool);
    free(bench->scratch);
    free(bench->out);
    free(bench->q);
    free(bench->cache);
    free(bench);
    return status;
}
