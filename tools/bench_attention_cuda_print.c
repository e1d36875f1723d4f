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
    struct spread seconds, paged_seconds, rate, yardstick, ratio;
    struct spread to_paged; /* paged time ÷ kvmm's time: above 1, kvmm is faster */
    bool compared;          /* the yardstick was measured */
};

static struct figures figures_of(const struct attention_cuda *bench, const struct attention_row *row)
{
    const uint32_t n = bench->options.n_rounds;
    const double *yardstick = row->work == ATTENTION_DECODE ? row->copy : row->matrix;
    double seconds[ATTENTION_MOST_ROUNDS], paged[ATTENTION_MOST_ROUNDS], rate[ATTENTION_MOST_ROUNDS],
        peak[ATTENTION_MOST_ROUNDS], ratio[ATTENTION_MOST_ROUNDS], to_paged[ATTENTION_MOST_ROUNDS];
    struct figures f = {.compared = true};
    for (uint32_t i = 0; i < n; i++) {
        seconds[i] = row->seconds[CONTENDER_KVMM][i];
        paged[i] = row->seconds[CONTENDER_PAGED][i];
        rate[i] = rate_of(bench, row, seconds[i]);
        peak[i] = yardstick[i];
        f.compared = f.compared && peak[i] > 0;
        ratio[i] = peak[i] > 0 ? rate[i] / peak[i] : 0;
        to_paged[i] = paged[i] / seconds[i];
    }
    f.seconds = spread_of(seconds, n);
    f.paged_seconds = spread_of(paged, n);
    f.rate = spread_of(rate, n);
    f.yardstick = spread_of(peak, n);
    f.ratio = spread_of(ratio, n);
    f.to_paged = spread_of(to_paged, n);
    return f;
}

struct growth_figures {
    struct spread seconds[N_MAPPING_WAYS];
    struct spread on_demand; /* ÷ up front */
    struct spread graph;     /* ÷ launches */
};

static struct growth_figures growth_of(const struct attention_cuda *bench, const struct mapping_row *row)
{
    const uint32_t n = bench->options.n_rounds;
    double seconds[N_MAPPING_WAYS][ATTENTION_MOST_ROUNDS], on_demand[ATTENTION_MOST_ROUNDS],
        graph[ATTENTION_MOST_ROUNDS];
    struct growth_figures f;
    for (uint32_t i = 0; i < n; i++) {
        for (int way = 0; way < N_MAPPING_WAYS; way++)
            seconds[way][i] = row->seconds[way][i];
        on_demand[i] = seconds[MAPPED_ON_DEMAND][i] / seconds[MAPPED_UP_FRONT][i];
        graph[i] = seconds[MAPPED_ON_DEMAND_GRAPH][i] / seconds[MAPPED_ON_DEMAND][i];
    }
    for (int way = 0; way < N_MAPPING_WAYS; way++)
        f.seconds[way] = spread_of(seconds[way], n);
    f.on_demand = spread_of(on_demand, n);
    f.graph = spread_of(graph, n);
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
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:o, s:o, s:o, s:o, s:o, s:o}", "work", work_names[row->work],
        "shape", row->shape->name, "kv_type", type_names[row->type], "layout", layout_names[row->layout],
        "batch_sequences", (json_int_t)row->batch, "context_tokens", (json_int_t)row->context, "wanted_batch_sequences",
        (json_int_t)row->wanted_batch, "wanted_context_tokens", (json_int_t)row->wanted_context, "kv_bytes",
        attention_kv_bytes(row->shape, bench->options.n_layers, row->batch, row->context), "pass_s",
        spread_json(f.seconds), "paged_pass_s", spread_json(f.paged_seconds), decode ? "bytes_per_s" : "flop_per_s",
        spread_json(f.rate), decode ? "copy_bandwidth_bytes_per_s" : "matrix_rate_flop_per_s",
        spread_or_null(f.yardstick, f.compared), decode ? "ratio_to_copy_bandwidth" : "ratio_to_matrix_rate",
        spread_or_null(f.ratio, f.compared), "ratio_paged_time_to_kvmm_time", spread_json(f.to_paged));
}

static json_t *growth_json(const struct attention_cuda *bench, const struct mapping_row *row)
{
    const struct growth_figures f = growth_of(bench, row);
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:b}", "shape", row->shape->name,
                     "kv_type", type_names[row->type], "layout", layout_names[row->layout], "batch_sequences",
                     (json_int_t)row->batch, "wanted_batch_sequences", (json_int_t)row->wanted_batch, "context_tokens",
                     (json_int_t)row->context, "steps", (json_int_t)row->n_steps, "up_front_step_s",
                     spread_json(f.seconds[MAPPED_UP_FRONT]), "on_demand_step_s",
                     spread_json(f.seconds[MAPPED_ON_DEMAND]), "on_demand_graph_step_s",
                     spread_json(f.seconds[MAPPED_ON_DEMAND_GRAPH]), "ratio_on_demand_to_up_front_time",
                     spread_json(f.on_demand), "ratio_graph_to_launches_time", spread_json(f.graph),
                     "graph_replays_equal_launches", true); /* or else there is no result at all */
}

void attention_print_json(struct attention_cuda *bench)
{
    json_t *rows = json_array(), *growth = json_array();
    for (size_t i = 0; i < bench->n_rows; i++)
        json_array_append_new(rows, row_json(bench, &bench->rows[i]));
    for (size_t i = 0; i < bench->n_mappings; i++)
        json_array_append_new(growth, growth_json(bench, &bench->mappings[i]));
    json_t *root = json_pack("{s:s, s:s, s:s, s:i, s:b, s:o, s:I, s:I, s:o, s:o}", "bench", "attention", "device",
                             bench->device_text, "device_name", bench->gpu.name, "driver_version",
                             bench->gpu.driver_version, "simcuda", bench->gpu.simulated, "matrix_rate_not_measured",
                             bench->gpu.handle ? json_null() : json_string(bench->gpu.no_blas), "rounds",
                             (json_int_t)bench->options.n_rounds, "layers", (json_int_t)bench->options.n_layers, "rows",
                             rows, "growth", growth);
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(root);
}

/* ---- the table ----------------------------------------------------------------------------------------------- */

static void print_spread(struct spread spread)
{
    printf("  %5.2f %5.2f %5.2f", spread.least, spread.median, spread.most);
}

static void print_row(const struct attention_cuda *bench, const struct attention_row *row)
{
    const struct figures f = figures_of(bench, row);
    printf("%-8s %-11s %-5s %-12s %5u %7u %10.3f %10.1f", "", row->shape->name, type_names[row->type],
           layout_names[row->layout], row->batch, row->context, f.seconds.median * 1e3, f.rate.median * 1e-9);
    if (f.compared)
        print_spread(f.ratio);
    else
        printf("  %-17s", "not measured");
    print_spread(f.to_paged);
    if (row->batch != row->wanted_batch || row->context != row->wanted_context)
        printf("  (%u × %u did not fit)", row->wanted_batch, row->wanted_context);
    putchar('\n');
}

static void print_growth(const struct attention_cuda *bench, const struct mapping_row *row)
{
    const struct growth_figures f = growth_of(bench, row);
    printf("%-8s %-11s %-5s %-12s %5u %7u %10.3f %10.3f", "", row->shape->name, type_names[row->type],
           layout_names[row->layout], row->batch, row->context, f.seconds[MAPPED_UP_FRONT].median * 1e3,
           f.seconds[MAPPED_ON_DEMAND].median * 1e3);
    printf("  %5.3f %5.3f %5.3f", f.on_demand.least, f.on_demand.median, f.on_demand.most);
    printf("  %5.3f %5.3f %5.3f", f.graph.least, f.graph.median, f.graph.most);
    if (row->batch != row->wanted_batch)
        printf("  (%u sequences did not fit)", row->wanted_batch);
    putchar('\n');
}

void attention_print_table(struct attention_cuda *bench)
{
    printf("%s: %s, driver %d.%d%s; %u layers, %u rounds in turn; ratios: min, median, max\n", bench->device_text,
           bench->gpu.name, bench->gpu.driver_version / 1000, bench->gpu.driver_version % 1000 / 10,
           bench->gpu.simulated ? " (simcuda: its times mean nothing)" : "", bench->options.n_layers,
           bench->options.n_rounds);
    if (!bench->gpu.handle)
        printf("matrix rate not measured: %s\n", bench->gpu.no_blas);
    for (int work = ATTENTION_DECODE; work <= ATTENTION_PREFILL; work++) {
        printf("\n%-8s %-11s %-5s %-12s %5s %7s %10s %10s  %-17s  %s\n", work_names[work], "shape", "type", "layout",
               "batch", "tokens", "ms", work == ATTENTION_DECODE ? "GB/s" : "GFLOP/s",
               work == ATTENTION_DECODE ? "of copy bandwidth" : "of matrix rate", "paged time / ours");
        for (size_t i = 0; i < bench->n_rows; i++)
            if (bench->rows[i].work == (enum attention_work)work)
                print_row(bench, &bench->rows[i]);
    }
    printf("\n%-8s %-11s %-5s %-12s %5s %7s %10s %10s  %-17s  %s\n", "growth", "shape", "type", "layout", "batch",
           "tokens", "ms mapped", "on demand", "on demand/mapped", "graph/launches");
    for (size_t i = 0; i < bench->n_mappings; i++)
        print_growth(bench, &bench->mappings[i]);
}
