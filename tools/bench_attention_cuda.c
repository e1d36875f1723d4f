/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench attention --device cuda:N`: the CUDA attention kernels over sequences of kvmm, beside what the GPU can do at
 * most. Decode must read K and V once, so its yardstick is the bandwidth of a copy on the device; prefill must multiply
 * and add, so its yardstick is the rate of dense matrix products by cuBLAS. */
#include "tools/bench_attention_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/command.h"

#define NAME "kvmm bench attention"

enum { MOST_LAYERS = 128, MOST_STEPS = 65536, MOST_BATCH = 4096, MOST_CONTEXT = 1 << 22, MOST_ORDINAL = 1023 };

static const struct cuda_shape shapes[] = {{"llama-3-8b", 32, 8, 128}, {"qwen2.5-7b", 28, 4, 128}};
static const char *const shape_names[] = {"llama-3-8b", "qwen2.5-7b"};
static const char *const type_names[] = {[KERN_F16] = "f16", [KERN_BF16] = "bf16"};
static const char *const layout_names[] = {"page-major", "token-major", "layer-major"};
enum { N_SHAPES = 2, N_TYPES = 2, N_LAYOUTS = 3 };
enum { GROWTH_BATCH = 16, GROWTH_CONTEXT = 8192 };

struct attention_cuda_options attention_cuda_defaults(void)
{
    return (struct attention_cuda_options){
        .batches = {3, {1, 16, 64}},
        .contexts = {3, {1024, 8192, 32768}},
        .prefills = {3, {2048, 8192, 16384}},
        .n_layers = 4,
        .n_steps = 256,
        .shape = -1,
        .type = -1,
        .layout = -1,
    };
}

/* ---- what is measured ---------------------------------------------------------------------------------------- */

static bool chosen(int which, int wanted)
{
    return wanted < 0 || wanted == which;
}

static void add_rows(struct attention_cuda *bench, struct attention_row row)
{
    const struct attention_cuda_options *o = &bench->options;
    for (uint32_t b = 0; b < o->batches.n; b++)
        for (uint32_t c = 0; c < o->contexts.n; c++) {
            row.work = ATTENTION_DECODE;
            row.batch = row.wanted_batch = o->batches.of[b];
            row.context = row.wanted_context = o->contexts.of[c];
            bench->rows[bench->n_rows++] = row;
        }
    for (uint32_t p = 0; p < o->prefills.n; p++) {
        row.work = ATTENTION_PREFILL;
        row.batch = row.wanted_batch = 1;
        row.context = row.wanted_context = o->prefills.of[p];
        bench->rows[bench->n_rows++] = row;
    }
}

/* Growth: the size that the targets are set for, or what comes nearest among those asked for. */
static uint32_t growth_size(const struct attention_sizes *sizes, uint32_t wanted)
{
    uint32_t best = sizes->of[0];
    for (uint32_t i = 1; i < sizes->n; i++)
        if (sizes->of[i] <= wanted && (sizes->of[i] > best || best > wanted))
            best = sizes->of[i];
    return best;
}

static void add_growth(struct attention_cuda *bench, const struct attention_row *row)
{
    const struct attention_cuda_options *o = &bench->options;
    const uint32_t batch = growth_size(&o->batches, GROWTH_BATCH);
    bench->mappings[bench->n_mappings++] = (struct mapping_row){.shape = row->shape,
                                                                .type = row->type,
                                                                .layout = row->layout,
                                                                .batch = batch,
                                                                .wanted_batch = batch,
                                                                .context = growth_size(&o->contexts, GROWTH_CONTEXT),
                                                                .n_steps = o->n_steps};
}

static bool plan(struct attention_cuda *bench)
{
    const struct attention_cuda_options *o = &bench->options;
    const size_t each = (size_t)o->batches.n * o->contexts.n + o->prefills.n;
    bench->rows = calloc(N_SHAPES * N_TYPES * N_LAYOUTS * each, sizeof *bench->rows);
    bench->mappings = calloc(N_SHAPES * N_TYPES * N_LAYOUTS, sizeof *bench->mappings);
    if (!bench->rows || !bench->mappings) {
        fprintf(stderr, NAME ": out of memory\n");
        return false;
    }
    for (int s = 0; s < N_SHAPES; s++)
        for (int t = 0; t < N_TYPES; t++)
            for (int l = 0; l < N_LAYOUTS; l++)
                if (chosen(s, o->shape) && chosen(t, o->type) && chosen(l, o->layout)) {
                    const struct attention_row row = {
                        .shape = &shapes[s], .type = (enum kern_dtype)t, .layout = (enum kvmm_layout_kind)l};
                    add_rows(bench, row);
                    /* A type changes nothing about frames; a shape does. */
                    if (bench->n_mappings == 0 || bench->mappings[0].type == row.type)
                        add_growth(bench, &row);
                }
    return true;
}

/* Line `n` of `of` is next; n == of: none is. */
static void show_progress(size_t n, size_t of)
{
    if (!isatty(STDERR_FILENO))
        return;
    if (n < of)
        fprintf(stderr, "\r%zu of %zu ", n + 1, of);
    else
        fprintf(stderr, "\r                    \r");
}

static bool measure(struct attention_cuda *bench)
{
    const size_t n = bench->n_rows + bench->n_mappings;
    bool done = true;
    for (size_t i = 0; i < n && done; i++) {
        show_progress(i, n);
        done = i < bench->n_rows ? attention_measure(bench, &bench->rows[i])
                                 : attention_measure_mapping(bench, &bench->mappings[i - bench->n_rows]);
    }
    show_progress(n, n);
    return done;
}

int bench_attention_cuda(const struct attention_cuda_options *options)
{
    struct attention_cuda bench = {.options = *options};
    int status = COMMAND_FAILED;
    (void)snprintf(bench.device_text, sizeof bench.device_text, "cuda:%d", options->ordinal);
    if (!bench_cuda_open(NAME, options->ordinal, &bench.gpu))
        return COMMAND_FAILED;
    if (plan(&bench) && cuda_peaks_open(&bench.gpu, &bench.peaks) && measure(&bench)) {
        if (options->json)
            attention_print_json(&bench);
        else
            attention_print_table(&bench);
        status = command_finish_output(NAME);
    }
    cuda_peaks_close(&bench.peaks);
    bench_cuda_close(&bench.gpu);
    free(bench.mappings);
    free(bench.rows);
    return status;
}

/* ---- the arguments ------------------------------------------------------------------------------------------- */

enum {
    KEY_DEVICE = 'd',
    KEY_BATCH = 256, /* and on: no short ones */
    KEY_CONTEXT,
    KEY_PREFILL,
    KEY_LAYERS,
    KEY_STEPS,
    KEY_SHAPE,
    KEY_TYPE,
    KEY_LAYOUT
};

static const struct argp_option option_list[] = {
    {"device", KEY_DEVICE, "DEVICE", 0, "host (default) or cuda:N; cuda is cuda:0", 0},
    {NULL, 0, NULL, 0, "On a CUDA device:", 1},
    {"batch", KEY_BATCH, "N[,N...]", 0, "sequences that are decoded together (default: 1,16,64)", 1},
    {"context", KEY_CONTEXT, "N[,N...]", 0, "their tokens, multiples of 16 (default: 1024,8192,32768)", 1},
    {"prefill", KEY_PREFILL, "N[,N...]", 0, "tokens of a prefill, multiples of 16 (default: 2048,8192,16384)", 1},
    {"layers", KEY_LAYERS, "N", 0, "layers of the cache (default: 4)", 1},
    {"steps", KEY_STEPS, "N", 0, "decode steps in which sequences grow, a multiple of 16 (default: 256)", 1},
    {"shape", KEY_SHAPE, "NAME", 0, "only llama-3-8b or qwen2.5-7b", 1},
    {"type", KEY_TYPE, "NAME", 0, "only f16 or bf16", 1},
    {"layout", KEY_LAYOUT, "NAME", 0, "only page-major, token-major or layer-major", 1},
    {0},
};

/* N[,N...], each from step to most and a multiple of step. */
static error_t parse_sizes(struct argp_state *state, const char *option, char *arg, uint32_t step, uint32_t most,
                           struct attention_sizes *sizes)
{
    struct attention_sizes new = {0};
    char *rest = strdup(arg), *left = rest;
    bool good = rest != NULL;
    while (good && left) {
        uint64_t n = 0;
        const char *one = strsep(&left, ",");
        good = new.n < ATTENTION_MOST_SIZES &&command_number(one, step, most, &n) && n % step == 0;
        if (good)
            new.of[new.n++] = (uint32_t)n;
    }
    free(rest);
    if (!good)
        return command_complain(state, "%s takes up to %d numbers from %u to %u%s, not '%s'", option,
                                ATTENTION_MOST_SIZES, step, most, step > 1 ? ", multiples of 16" : "", arg);
    *sizes = new;
    return 0;
}

static error_t parse_number(struct argp_state *state, const char *option, char *arg, uint32_t step, uint32_t most,
                            uint32_t *number)
{
    uint64_t n;
    if (!command_number(arg, step, most, &n) || n % step != 0)
        return command_complain(state, "%s takes a number from %u to %u%s, not '%s'", option, step, most,
                                step > 1 ? ", a multiple of 16" : "", arg);
    *number = (uint32_t)n;
    return 0;
}

static error_t parse_name(struct argp_state *state, const char *option, const char *arg, const char *const *names,
                          int n, int *which)
{
    for (int i = 0; i < n; i++)
        if (strcmp(arg, names[i]) == 0) {
            *which = i;
            return 0;
        }
    return command_complain(state, "%s: there is no '%s'; --help has the names", option, arg);
}

static error_t parse_device(struct argp_state *state, const char *arg, struct attention_cuda_options *options)
{
    uint64_t ordinal = 0;
    options->on_cuda = strncmp(arg, "cuda", 4) == 0;
    if (strcmp(arg, "host") == 0 || strcmp(arg, "cuda") == 0 ||
        (strncmp(arg, "cuda:", 5) == 0 && command_number(arg + 5, 0, MOST_ORDINAL, &ordinal))) {
        options->ordinal = (int)ordinal;
        return 0;
    }
    return command_complain(state, "--device takes host, cuda or cuda:N, not '%s'", arg);
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct attention_cuda_options *options = state->input;
    const uint32_t page = CUDA_CACHE_PAGE_TOKENS;
    options->any = options->any || (key >= KEY_BATCH && key <= KEY_LAYOUT);
    switch (key) {
    case KEY_DEVICE:
        return parse_device(state, arg, options);
    case KEY_BATCH:
        return parse_sizes(state, "--batch", arg, 1, MOST_BATCH, &options->batches);
    case KEY_CONTEXT:
        return parse_sizes(state, "--context", arg, page, MOST_CONTEXT, &options->contexts);
    case KEY_PREFILL:
        return parse_sizes(state, "--prefill", arg, page, MOST_CONTEXT, &options->prefills);
    case KEY_LAYERS:
        return parse_number(state, "--layers", arg, 1, MOST_LAYERS, &options->n_layers);
    case KEY_STEPS:
        return parse_number(state, "--steps", arg, page, MOST_STEPS, &options->n_steps);
    case KEY_SHAPE:
        return parse_name(state, "--shape", arg, shape_names, N_SHAPES, &options->shape);
    case KEY_TYPE:
        return parse_name(state, "--type", arg, type_names, N_TYPES, &options->type);
    case KEY_LAYOUT:
        return parse_name(state, "--layout", arg, layout_names, N_LAYOUTS, &options->layout);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp attention_cuda_argp = {.options = option_list, .parser = parse_option};
