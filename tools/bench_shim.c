/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_shim.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shim/config.h"
#include "shim/pager/pager.h"
#include "tools/bench.h"
#include "tools/command.h"
#include "tools/shim_file.h"

#define N_LAYERS  16
#define ROW_BYTES 2048 /* 8 heads of 128, f16 */

uint64_t shim_bench_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void shim_bench_progress(const char *format, ...)
{
    if (!isatty(STDERR_FILENO))
        return;
    fputs("\r\033[K", stderr);
    if (format == NULL)
        return;
    va_list arguments;
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
}

/* Which rivals can run, and how much each gets. */
static int prepare(struct shim_bench *bench)
{
    uint64_t bytes = bench->options.bytes;
    bench->shape = (struct engine_shape){
        .n_layers = N_LAYERS,
        .n_tokens = (uint32_t)(bytes / (2 * N_LAYERS * ROW_BYTES)),
        .n_conversations = 4,
        .row_bytes = ROW_BYTES,
        .n_threads = (uint32_t)bench->options.n_threads,
    };
    bench->options.bytes = (uint64_t)2 * N_LAYERS * ROW_BYTES * bench->shape.n_tokens;
    bench->budget_one = bytes + bytes / 16;
    bench->budget_short = bytes / 4 * 3;
    int result = limit_open(&bench->limit, bench->options.dir);
    if (result < 0)
        return result;
    if (bench->options.alone)
        (void)snprintf(bench->limit.why_no_group, sizeof(bench->limit.why_no_group), "asked for");
    else
        limit_make_groups(&bench->limit);
    bool grouped = bench->limit.why_no_group[0] == '\0';
    if (grouped)
        limit_make_swap(&bench->limit, 8 * bytes); /* half of it is enough, but full swap space is slow */
    for (enum shim_part part = PART_TURNS; part < N_PARTS; part++) {
        bench->why_not[part][RUN_MMAP] = grouped ? NULL : bench->limit.why_no_group;
        bench->why_not[part][RUN_SWAP] =
            grouped && bench->limit.why_no_swap[0] != '\0' ? bench->limit.why_no_swap : bench->why_not[part][RUN_MMAP];
    }
    return 0;
}

static int run(struct shim_bench *bench)
{
    if (bench->options.command != NULL)
        return shim_bench_command(bench);
    int result = prepare(bench);
    if (result < 0)
        fprintf(stderr, SHIM_BENCH_NAME ": %s\n", strerrordesc_np(-result));
    else
        result = shim_bench_rounds(bench);
    limit_close(&bench->limit);
    if (result < 0)
        return COMMAND_FAILED;
    if (bench->options.json)
        shim_bench_print_json(bench);
    else
        shim_bench_print_table(bench);
    return command_finish_output(SHIM_BENCH_NAME);
}

enum {
    KEY_DIR = 'd',
    KEY_JSON = 'j',
    KEY_ROUNDS = 'n',
    KEY_MEMORY = 'm',
    KEY_THREADS = 't',
    KEY_CHUNK = 'c',
    KEY_SHIM = 's',
    KEY_ALONE = 'a'
};

static const struct argp_option option_list[] = {
    {"alone", KEY_ALONE, NULL, 0, "without Linux swap and the mapped file: nothing needs root", 0},
    {"dir", KEY_DIR, "DIR", 0, "where the files are made (default: $TMPDIR, or /var/tmp)", 0},
    {"json", KEY_JSON, NULL, 0, "print JSON", 0},
    {"rounds", KEY_ROUNDS, "N", 0, "rounds in which all are measured in turn (default: 7)", 0},
    {"memory", KEY_MEMORY, "SIZE", 0,
     "what a conversation takes (default: 256M); for a COMMAND: its cache's budget (default: none)", 0},
    {"threads", KEY_THREADS, "N", 0, "threads of the small engine (default: one for each CPU, at most 8)", 0},
    {"chunk", KEY_CHUNK, "SIZE", 0,
     "the shim's chunk (default: what it takes by itself "
     "for three quarters of the memory)",
     0},
    {"shim", KEY_SHIM, "FILE", 0, "the shim (default: the one of this kvmm)", 0},
    {0},
};

static bool parse_size(const char *text, uint64_t least, uint64_t most, uint64_t *bytes)
{
    uint64_t number;
    if (!shim_config_bytes(text, &number) || number < least || number > most)
        return false;
    *bytes = number;
    return true;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    const uint64_t mib = (uint64_t)1 << 20;
    struct shim_options *options = state->input;
    switch (key) {
    case KEY_DIR:
        options->dir = arg;
        return 0;
    case KEY_ALONE:
        options->alone = true;
        return 0;
    case KEY_JSON:
        options->json = true;
        return 0;
    case KEY_SHIM:
        options->shim = arg;
        return 0;
    case KEY_ROUNDS:
        if (!command_number(arg, 1, MOST_ROUNDS, &options->n_rounds))
            return command_complain(state, "--rounds takes a number from 1 to %d, not '%s'", MOST_ROUNDS, arg);
        return 0;
    case KEY_THREADS:
        if (!command_number(arg, 1, 64, &options->n_threads))
            return command_complain(state, "--threads takes a number from 1 to 64, not '%s'", arg);
        return 0;
    case KEY_MEMORY:
        if (!parse_size(arg, 4 * mib, mib << 18, &options->budget))
            return command_complain(state, "--memory takes a size from 4M to 256G, not '%s'", arg);
        return 0;
    case KEY_CHUNK:
        if (!parse_size(arg, 4096, 2 * mib, &options->chunk) || (options->chunk & (options->chunk - 1)) != 0)
            return command_complain(state, "--chunk takes a power of two from 4K to 2M, not '%s'", arg);
        return 0;
    case ARGP_KEY_ARGS:
        options->command = state->argv + state->next;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp parser = {
    .options = option_list,
    .parser = parse_option,
    .args_doc = "[-- COMMAND...]",
    .doc = "Measure engines with and without the shim, in turn: a small engine that does to its KV cache what decoding "
           "does, with everything in memory, with conversations in turn, and with too little memory, beside Linux swap "
           "and a mapped file under the same limit (which need root; the swap file is the machine's for that time) and "
           "beside the disk's own speed.\n\nOr an engine of yours: a COMMAND whose last line is JSON with "
           "\"tokens_per_s\".",
};

int bench_shim(int argc, char **argv)
{
    const char *temporary = getenv("TMPDIR");
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    struct shim_options options = {
        .dir = temporary == NULL || *temporary == '\0' ? "/var/tmp" : temporary,
        .n_rounds = 7,
        .n_threads = (uint64_t)(cpus < 1   ? 1
                                : cpus > 8 ? 8
                                           : cpus),
    };
    if (!command_parse(&parser, argc, argv, ARGP_IN_ORDER, &options))
        return COMMAND_BAD_USAGE;
    char shim[PATH_MAX];
    if (options.shim == NULL) {
        if (!shim_file_find(shim, sizeof(shim))) {
            fprintf(stderr, SHIM_BENCH_NAME ": there is no " SHIM_FILE_NAME " beside this kvmm; --shim names one\n");
            return COMMAND_FAILED;
        }
        options.shim = shim;
    }
    options.bytes = options.budget != 0 ? options.budget : (uint64_t)256 << 20;
    if (options.chunk == 0)
        options.chunk = shim_pager_chunk(options.bytes / 4 * 3, 0);
    struct shim_bench *bench = calloc(1, sizeof(*bench));
    if (bench == NULL) {
        fprintf(stderr, SHIM_BENCH_NAME ": no memory\n");
        return COMMAND_FAILED;
    }
    bench->options = options;
    int status = run(bench);
    free(bench);
    return status;
}
