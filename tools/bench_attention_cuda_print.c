/* SPDX-License-Identifier: Apache-2.0
 *
 * The result of the bench on a CUDA device, for people and as JSON. Ratios are of the figures of one round. */
#include <stdio.h>

#include <jansson.h>

#include "tools/bench_attention_cuda.h"
#include "tools/bench_spread.h"

static const char *const work_names[] = {[ATTENTION_DECODE] = "decode", [ATTENTION_PREFILL] = "prefill"};
static const char *const type_names[] = {[KERN_F16] = "f16", [KERN_BF16] = "bf16"};
static const char *const layout_names[] = {
    [KVMM_PAGE_MAJOR] = "page-major", [KVMM_TOKEN_MAJOR] = "token-major", [KVMM_LAYER_MAJOR] = "layer-major"};

/* Bytes/s of decode, FLOP/s of prefill. */
static double rate_of(const struct attention_cuda *bench, const struct attention_row *row, double seconds)
{
    double (*amount)(const struct cuda_shape *, uint32_t, uint32_t, uint32_t) =
        row->work == ATTENTION_DECODE ? attention_kv_bytes : attention_prefill_flop;
    return amount(row->shape, bench->options.n_layers, row->batch, row->context) / seconds;
}

struct figures {
    struct spread seconds, rate, yardstick, ratio;
    bool compared; /* the yardstick was measured */
};

static struct figures figures_of(const struct attention_cuda *bench, const struct attention_row *row)
{
    const uint32_t n = bench->options.n_rounds;
    const double *yardstick = row->work == ATTENTION_DECODE ? row->copy : row->matrix;
    double seconds[ATTENTION_MOST_ROUNDS], rate[ATTENTION_MOST_ROUNDS], peak[ATTENTION_MOST_ROUNDS],
        ratio[ATTENTION_MOST_ROUNDS];
    struct figures f = {.compared = true};
    for (uint32_t i = 0; i < n; i++) {
        seconds[i] = row->seconds[CONTENDER_KVMM][i];
        rate[i] = rate_of(bench, row, seconds[i]);
        peak[i] = yardstick[i];
        f.compared = f.compared && peak[i] > 0;
        ratio[i] = peak[i] > 0 ? rate[i] / peak[i] : 0;
    }
    f.seconds = spread_of(seconds, n);
    f.rate = spread_of(rate, n);
    f.yardstick = spread_of(peak, n);
    f.ratio = spread_of(ratio, n);
    return f;
}

/* ---- JSON ---------------------------------------------------------------------------------------------------- */

static json_t *spread_or_null(struct spread spread, bool measured)
{
    return measured ? spread_json(spread) : json_null();
}

static json_t *row_json(const struct attention_cuda *bench, const struct attention_row *row)
{
    const struct figures f = figures_of(bench, row);
    const bool decode = row->work == ATTENTION_DECODE;
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:o, s:o, s:o, s:o}", "work", work_names[row->work], "shape",
        row->shape->name, "kv_type", type_names[row->type], "layout", layout_names[row->layout], "batch_sequences",
        (json_int_t)row->batch, "context_tokens", (json_int_t)row->context, "wanted_batch_sequences",
        (json_int_t)row->wanted_batch, "wanted_context_tokens", (json_int_t)row->wanted_context, "kv_bytes",
        attention_kv_bytes(row->shape, bench->options.n_layers, row->batch, row->context), "pass_s",
        spread_json(f.seconds), decode ? "bytes_per_s" : "flop_per_s", spread_json(f.rate),
        decode ? "copy_bandwidth_bytes_per_s" : "matrix_rate_flop_per_s", spread_or_null(f.yardstick, f.compared),
        decode ? "ratio_to_copy_bandwidth" : "ratio_to_matrix_rate", spread_or_null(f.ratio, f.compared));
    return object;
}

void attention_print_json(struct attention_cuda *bench)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < bench->n_rows; i++)
        json_array_append_new(rows, row_json(bench, &bench->rows[i]));
    json_t *root = json_pack(
        "{s:s, s:s, s:s, s:i, s:b, s:o, s:I, s:I, s:o}", "bench", "attention", "device", "cuda", "device_name",
        bench->gpu.name, "driver_version", bench->gpu.driver_version, "simcuda", bench->gpu.simulated,
        "matrix_rate_not_measured", bench->gpu.handle ? json_null() : json_string(bench->gpu.no_blas), "rounds",
        (json_int_t)bench->options.n_rounds, "layers", (json_int_t)bench->options.n_layers, "rows", rows);
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(root);
}

/* ---- the table ----------------------------------------------------------------------------------------------- */

static void print_row(const struct attention_cuda *bench, const struct attention_row *row)
{
    const struct figures f = figures_of(bench, row);
    printf("%-8s %-11s %-5s %-12s %5u %7u %10.3f %10.1f", "", row->shape->name, type_names[row->type],
           layout_names[row->layout], row->batch, row->context, f.seconds.median * 1e3, f.rate.median * 1e-9);
    if (f.compared)
        printf("   %.2f  %.2f  %.2f", f.ratio.least, f.ratio.median, f.ratio.most);
    else
        printf("   not measured    ");
    if (row->batch != row->wanted_batch || row->context != row->wanted_context)
        printf("   (%u × %u did not fit)", row->wanted_batch, row->wanted_context);
    putchar('\n');
}

void attention_print_table(struct attention_cuda *bench)
{
    printf("cuda:%d: %s, driver %d.%d%s; %u layers, %u rounds in turn\n", bench->gpu.ordinal, bench->gpu.name,
           bench->gpu.driver_version / 1000, bench->gpu.driver_version % 1000 / 10,
           bench->gpu.simulated ? " (simcuda: its times mean nothing)" : "", bench->options.n_layers,
           bench->options.n_rounds);
    if (!bench->gpu.handle)
        printf("matrix rate not measured: %s\n", bench->gpu.no_blas);
    for (int work = ATTENTION_DECODE; work <= ATTENTION_PREFILL; work++) {
        printf("\n%-8s %-11s %-5s %-12s %5s %7s %10s %10s   of the %s: min, median, max\n", work_names[work], "shape",
               "type", "layout", "batch", "tokens", "ms", work == ATTENTION_DECODE ? "GB/s" : "GFLOP/s",
               work == ATTENTION_DECODE ? "copy bandwidth" : "matrix rate");
        for (size_t i = 0; i < bench->n_rows; i++)
            if (bench->rows[i].work == (enum attention_work)work)
                print_row(bench, &bench->rows[i]);
    }
}
