/* SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <stddef.h>
#include <stdio.h>

#include "tools/bench_shim.h"
#include "tools/bench_spread.h"
#include "tools/units.h"

static const char *const runner_names[] = {"plain", "shim", "linux_swap", "mapped_file"};

/* A figure of a round. */
typedef double (*figure)(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner);

/* Over the rounds of the part that the runner took part in; one at least. */
static struct spread spread_over(const struct shim_bench *bench, enum shim_part part, figure of,
                                 enum shim_runner runner)
{
    double values[MOST_ROUNDS];
    uint64_t n = bench->n_done[part][runner];
    for (uint64_t i = 0; i < n; i++)
        values[i] = of(bench, &bench->rounds[i], runner);
    return spread_of(values, n);
}

static double fits(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    return round->fits_tokens_per_s[runner];
}

static double fits_ratio(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    return round->fits_tokens_per_s[runner] / round->fits_tokens_per_s[RUN_PLAIN];
}

static double fits_cpu_ratio(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    return round->fits_cpu[runner] / round->fits_cpu[RUN_PLAIN];
}

static double first_ms(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    return round->first_token[runner] * 1e3;
}

static double second_ms(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    return round->second_token[runner] * 1e3;
}

static double first_ratio(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    return round->first_token[runner] / round->first_token[RUN_SHIM];
}

/* The disk was measured while the short tokens were, a few minutes later at most. */
static double first_to_disk(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    return round->first_token[runner] * round->disk_bytes_per_s / (double)bench->options.bytes;
}

static double short_ms(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    return round->short_token[runner] * 1e3;
}

static double short_ratio(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    return round->short_token[runner] / round->short_token[RUN_SHIM];
}

/* To the time that the missing quarter takes at the disk's full speed. */
static double short_to_disk(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    double missing = (double)(bench->options.bytes - bench->budget_short);
    return round->short_token[runner] * round->disk_bytes_per_s / missing;
}

static double disk_chunk(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    return round->disk_chunk_bytes_per_s;
}

static double disk_block(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    return round->disk_block_bytes_per_s;
}

static double fault_us(const struct shim_bench *bench, const struct shim_round *round, enum shim_runner runner)
{
    return (runner == RUN_SHIM ? round->fault : round->bare_fault) * 1e6;
}

static json_t *runners_json(const struct shim_bench *bench, enum shim_part part, figure of)
{
    json_t *object = json_object();
    const enum shim_runner first = part == PART_FITS ? RUN_PLAIN : RUN_SHIM;
    const enum shim_runner last = part == PART_FITS ? RUN_SHIM : RUN_MMAP;
    for (enum shim_runner runner = first; runner <= last; runner++)
        json_object_set_new(object, runner_names[runner],
                            bench->n_done[part][runner] > 0
                                ? spread_json(spread_over(bench, part, of, runner))
                                : json_pack("{s:s}", "skipped", bench->why_not[part][runner]));
    return object;
}

void shim_bench_print_json(const struct shim_bench *bench)
{
    json_t *memory = json_object();
    for (enum shim_runner runner = RUN_SHIM; runner < N_RUNNERS; runner++)
        json_object_set_new(memory, runner_names[runner], json_integer((json_int_t)bench->memory_bytes[runner]));
    json_t *root = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
        "s:o}",
        "bench", "shim", "rounds", (json_int_t)bench->options.n_rounds, "conversation_bytes",
        (json_int_t)bench->options.bytes, "threads", (json_int_t)bench->options.n_threads, "chunk_bytes",
        (json_int_t)bench->options.chunk, "budget_one_bytes", (json_int_t)bench->budget_one, "budget_short_bytes",
        (json_int_t)bench->budget_short, "fits_tokens_per_s", runners_json(bench, PART_FITS, fits), "fits_ratio",
        spread_json(spread_over(bench, PART_FITS, fits_ratio, RUN_SHIM)), "fits_cpu_time_ratio",
        spread_json(spread_over(bench, PART_FITS, fits_cpu_ratio, RUN_SHIM)), "switch_first_token_ms",
        runners_json(bench, PART_TURNS, first_ms), "switch_later_token_ms", runners_json(bench, PART_TURNS, second_ms),
        "switch_time_to_shim", runners_json(bench, PART_TURNS, first_ratio), "switch_time_to_disk",
        runners_json(bench, PART_TURNS, first_to_disk), "memory_held_bytes", memory, "short_token_ms",
        runners_json(bench, PART_SHORT, short_ms), "short_time_to_shim", runners_json(bench, PART_SHORT, short_ratio),
        "short_time_to_missing_quarter_at_disk_speed", runners_json(bench, PART_SHORT, short_to_disk),
        "disk_bytes_per_s_in_chunks", spread_json(spread_over(bench, PART_FITS, disk_chunk, RUN_SHIM)),
        "disk_bytes_per_s_in_2_mib", spread_json(spread_over(bench, PART_FITS, disk_block, RUN_SHIM)), "fault_us",
        spread_json(spread_over(bench, PART_FITS, fault_us, RUN_SHIM)), "bare_userfaultfd_fault_us",
        spread_json(spread_over(bench, PART_FITS, fault_us, RUN_PLAIN)));
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(root);
}

static void print_spread(struct spread spread, int decimals)
{
    printf("  %8.*f (%.*f–%.*f)", decimals, spread.median, decimals, spread.least, decimals, spread.most);
}

static void print_rivals(const struct shim_bench *bench, enum shim_part part, figure time, figure to_shim,
                         figure to_disk, figure later)
{
    static const char *const titles[] = {"", "kvmm", "Linux swap", "mapped file"};
    for (enum shim_runner runner = RUN_SHIM; runner < N_RUNNERS; runner++) {
        printf("  %-12s", titles[runner]);
        if (bench->n_done[part][runner] == 0) {
            printf("  skipped: %s\n", bench->why_not[part][runner]);
            continue;
        }
        print_spread(spread_over(bench, part, time, runner), 1);
        printf(" ms");
        print_spread(spread_over(bench, part, to_disk, runner), 2);
        printf(" of the disk's time");
        if (runner != RUN_SHIM) {
            print_spread(spread_over(bench, part, to_shim, runner), 2);
            printf(" × kvmm's");
        }
        if (later != NULL)
            printf("  then %.1f ms", spread_over(bench, part, later, runner).median);
        if (bench->why_not[part][runner] != NULL)
            printf("  (%llu rounds: %s)", (unsigned long long)bench->n_done[part][runner],
                   bench->why_not[part][runner]);
        putchar('\n');
    }
}

void shim_bench_print_table(const struct shim_bench *bench)
{
    char conversation[UNITS_TEXT], chunk[UNITS_TEXT], one[UNITS_TEXT], shorter[UNITS_TEXT];
    printf("conversations of %s, %llu threads, chunks of %s, files in %s; %llu rounds: median (min–max)\n",
           units_bytes(conversation, bench->options.bytes), (unsigned long long)bench->options.n_threads,
           units_bytes(chunk, bench->options.chunk), bench->options.dir, (unsigned long long)bench->options.n_rounds);
    printf("the disk: %.0f MB/s in chunks, %.0f MB/s in 2 MiB\n",
           spread_over(bench, PART_FITS, disk_chunk, RUN_SHIM).median * 1e-6,
           spread_over(bench, PART_FITS, disk_block, RUN_SHIM).median * 1e-6);
    printf("\neverything fits, tokens/s\n  without     ");
    print_spread(spread_over(bench, PART_FITS, fits, RUN_PLAIN), 1);
    printf("\n  with        ");
    print_spread(spread_over(bench, PART_FITS, fits, RUN_SHIM), 1);
    printf("\n  ratio       ");
    print_spread(spread_over(bench, PART_FITS, fits_ratio, RUN_SHIM), 4);
    printf("\n  CPU time    ");
    print_spread(spread_over(bench, PART_FITS, fits_cpu_ratio, RUN_SHIM), 4);
    printf(" × that without");
    printf("\n\n4 conversations in turn, memory %s: the first token after a switch, and the mean of those after it\n",
           units_bytes(one, bench->budget_one));
    print_rivals(bench, PART_TURNS, first_ms, first_ratio, first_to_disk, second_ms);
    printf("  held        ");
    for (enum shim_runner runner = RUN_SHIM; runner < N_RUNNERS; runner++)
        if (bench->n_done[PART_TURNS][runner] > 0)
            printf("  %s", units_bytes(one, bench->memory_bytes[runner]));
    printf("\n\n1 conversation, memory %s: a token\n", units_bytes(shorter, bench->budget_short));
    print_rivals(bench, PART_SHORT, short_ms, short_ratio, short_to_disk, NULL);
    printf("\na fault on a fresh chunk, µs\n  kvmm        ");
    print_spread(spread_over(bench, PART_FITS, fault_us, RUN_SHIM), 1);
    printf("\n  userfaultfd ");
    print_spread(spread_over(bench, PART_FITS, fault_us, RUN_PLAIN), 1);
    putchar('\n');
}
