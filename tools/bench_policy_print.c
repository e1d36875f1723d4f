/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench policy`: what comes out, as tables or JSON. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "tools/bench_policy.h"
#include "tools/command.h"
#include "tools/units.h"

static const char *const tier_names[N_POLICY_TIERS] = {"device", "host", "nvme"};
/* The tiers down to each, together. */
static const char *const down_to_names[N_POLICY_TIERS] = {"device", "device_and_host", "all"};
static const char *const way_fields[N_POLICY_WAYS] = {"device_to_host", "device_to_nvme", "host_to_nvme",
                                                      "host_to_device", "nvme_to_device"};

static double rate(uint64_t hits, const struct policy_trace *trace)
{
    return (double)hits / (double)trace->n_blocks;
}

/* Hits in the tiers down to `tier`. */
static uint64_t down_to(const struct policy_result *result, int tier)
{
    uint64_t hits = 0;
    for (int i = 0; i <= tier; i++)
        hits += result->hits[i];
    return hits;
}

static double of_optimum(const struct policy_report *report, const struct policy_result *result, int tier)
{
    uint64_t most = report->optimum[tier];
    return most > 0 ? (double)down_to(result, tier) / (double)most : 1;
}

static uint64_t span_ns(const struct policy_trace *trace)
{
    return trace->requests[trace->n_requests - 1].at_ns - trace->requests[0].at_ns;
}

/* ---- JSON ---- */

/* Blocks, in bytes. */
static json_t *blocks_json(uint64_t blocks)
{
    uint64_t bytes = blocks * POLICY_BLOCK_BYTES;
    return json_integer((json_int_t)bytes);
}

static json_t *policy_json(const struct policy_report *report, const char *name, const struct policy_result *result)
{
    const struct policy_trace *trace = &report->trace;
    json_t *hits = json_object(), *rates = json_object(), *shares = json_object(), *moved = json_object();
    for (int tier = 0; tier < N_POLICY_TIERS; tier++) {
        json_object_set_new(hits, tier_names[tier], json_integer((json_int_t)result->hits[tier]));
        json_object_set_new(rates, tier_names[tier], json_real(rate(result->hits[tier], trace)));
        json_object_set_new(shares, down_to_names[tier], json_real(of_optimum(report, result, tier)));
    }
    json_object_set_new(rates, "all", json_real(rate(down_to(result, POLICY_NVME), trace)));
    for (int way = 0; way < N_POLICY_WAYS; way++)
        json_object_set_new(moved, way_fields[way], blocks_json(result->moved[way]));
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:I, s:I}", "policy", name, "hits_blocks", hits, "hit_rate", rates,
                     "of_optimum", shares, "moved_bytes", moved, "computed_blocks", (json_int_t)result->computed,
                     "dropped_blocks", (json_int_t)result->dropped);
}

static json_t *trace_json(const struct policy_options *options, const struct policy_report *report)
{
    const struct policy_trace *trace = &report->trace;
    json_t *optimum = json_object(), *rates = json_object(), *policies = json_array();
    for (int tier = 0; tier < N_POLICY_TIERS; tier++) {
        json_object_set_new(optimum, down_to_names[tier], json_integer((json_int_t)report->optimum[tier]));
        json_object_set_new(rates, down_to_names[tier], json_real(rate(report->optimum[tier], trace)));
    }
    for (size_t i = 0; i < options->n_names; i++)
        json_array_append_new(policies, policy_json(report, options->names[i], &report->results[i]));
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:o, s:o}", "trace", trace->path, "requests",
                     (json_int_t)trace->n_requests, "blocks", (json_int_t)trace->n_blocks, "distinct_blocks",
                     (json_int_t)trace->n_distinct, "longest_request_blocks",
                     (json_int_t)trace->requests[trace->longest].n, "span_s", (double)span_ns(trace) * 1e-9,
                     "unlimited_hit_rate", rate(report->unlimited, trace), "optimum_hits_blocks", optimum,
                     "optimum_hit_rate", rates, "policies", policies);
}

int policy_print_json(const struct policy_options *options, const struct policy_report *reports, size_t n)
{
    json_t *sizes = json_object(), *traces = json_array();
    for (int tier = 0; tier < N_POLICY_TIERS; tier++)
        json_object_set_new(sizes, tier_names[tier],
                            options->sizes.blocks[tier] == POLICY_UNLIMITED ? json_null()
                                                                            : blocks_json(options->sizes.blocks[tier]));
    for (size_t i = 0; i < n; i++)
        json_array_append_new(traces, trace_json(options, &reports[i]));
    json_t *root = json_pack("{s:i, s:I, s:o, s:I, s:o}", "block_tokens", (int)POLICY_BLOCK_TOKENS, "block_bytes",
                             (json_int_t)POLICY_BLOCK_BYTES, "tier_bytes", sizes, "ghosts",
                             (json_int_t)options->sizes.ghosts, "traces", traces);
    if (!root || json_dumpf(root, stdout, JSON_INDENT(2)) != 0) {
        fprintf(stderr, POLICY_COMMAND ": the result could not be printed\n");
        json_decref(root);
        return COMMAND_FAILED;
    }
    putchar('\n');
    json_decref(root);
    return command_finish_output(POLICY_COMMAND);
}

/* ---- tables ---- */

static const char *size_text(char *text, const struct policy_options *options, int tier)
{
    if (options->sizes.blocks[tier] == POLICY_UNLIMITED)
        return "unlimited";
    return units_bytes(text, options->sizes.blocks[tier] * POLICY_BLOCK_BYTES);
}

static void print_row(const char *name, const struct policy_report *report, const struct policy_result *result)
{
    printf("%-10s", name);
    for (int tier = 0; tier < N_POLICY_TIERS; tier++)
        printf("  %6.3f", rate(result->hits[tier], &report->trace));
    printf("  %6.3f ", rate(down_to(result, POLICY_NVME), &report->trace));
    for (int tier = 0; tier < N_POLICY_TIERS; tier++)
        printf("  %6.3f", of_optimum(report, result, tier));
    putchar(' ');
    for (int way = 0; way < N_POLICY_WAYS; way++) {
        char text[UNITS_TEXT];
        printf("  %10s", units_bytes(text, result->moved[way] * POLICY_BLOCK_BYTES));
    }
    putchar('\n');
}

static void print_optimum(const struct policy_report *report)
{
    printf("%-10s", "optimum");
    for (int tier = 0; tier < N_POLICY_TIERS; tier++)
        printf("  %6.3f", rate(report->optimum[tier] - (tier > 0 ? report->optimum[tier - 1] : 0), &report->trace));
    printf("  %6.3f\n", rate(report->optimum[POLICY_NVME], &report->trace));
}

static void print_table(const struct policy_options *options, const struct policy_report *report)
{
    const struct policy_trace *trace = &report->trace;
    char distinct[UNITS_TEXT], span[UNITS_TEXT];
    printf("%s: %" PRIu32 " requests in %s, %" PRIu64 " blocks, of them %" PRIu32
           " distinct (%s); without a limit %.3f are found\n",
           trace->path, trace->n_requests, units_elapsed(span, span_ns(trace)), trace->n_blocks, trace->n_distinct,
           units_bytes(distinct, trace->n_distinct * POLICY_BLOCK_BYTES), rate(report->unlimited, trace));
    printf("%-10s  %-31s   %-22s   %s\n", "", "blocks found in", "of the optimum in", "moved");
    printf("%-10s  %6s  %6s  %6s  %6s   %6s  %6s  %6s   %10s  %10s  %10s  %10s  %10s\n", "policy", "device", "host",
           "nvme", "all", "device", "+ host", "+ nvme", "dev->host", "dev->nvme", "host->nvme", "host->dev",
           "nvme->dev");
    for (size_t i = 0; i < options->n_names; i++)
        print_row(options->names[i], report, &report->results[i]);
    print_optimum(report);
}

int policy_print_tables(const struct policy_options *options, const struct policy_report *reports, size_t n)
{
    char device[UNITS_TEXT], host[UNITS_TEXT], nvme[UNITS_TEXT], block[UNITS_TEXT];
    printf("blocks of %u tokens, %s; device %s, host %s, nvme %s\n", POLICY_BLOCK_TOKENS,
           units_bytes(block, POLICY_BLOCK_BYTES), size_text(device, options, POLICY_DEVICE),
           size_text(host, options, POLICY_HOST), size_text(nvme, options, POLICY_NVME));
    for (size_t i = 0; i < n; i++) {
        putchar('\n');
        print_table(options, &reports[i]);
    }
    return command_finish_output(POLICY_COMMAND);
}
