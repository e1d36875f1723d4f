/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench NAME`: measures a part of kvmm on this machine. */
#include <stdio.h>
#include <string.h>

#include "tools/bench.h"
#include "tools/command.h"

#define NAME "kvmm bench"

static const struct bench {
    const char *name;
    int (*run)(int argc, char **argv);
} benches[] = {
#ifdef TOOLS_HAVE_BENCH_ATTENTION
    {"attention", bench_attention},
#endif
    {"device", bench_device},
#ifdef TOOLS_HAVE_BENCH_SWAP
    {"shim", bench_shim},
    {"shim-engine", bench_shim_engine},
    {"swap", bench_swap},
#endif
    {NULL, NULL},
};

struct options {
    char *name;
    int first; /* index of name in argv: the bench's own arguments follow */
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        options->name = arg;
        options->first = state->next - 1;
        state->next = state->argc; /* the rest is the bench's */
        return 0;
    case ARGP_KEY_NO_ARGS:
        return command_complain(state, "which one? `kvmm bench --help' lists them");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp parser = {
    .parser = parse_option,
    .args_doc = "NAME [ARGUMENT...]",
    .doc = "Measure a part of kvmm on this machine.\v"
#ifdef TOOLS_HAVE_BENCH_ATTENTION
           "  attention  the attention kernels on each cache layout, on the CPU or a GPU\n"
#endif
           "  device     what mapping costs on a CUDA device, call by call\n"
#ifdef TOOLS_HAVE_BENCH_SWAP
           "  shim       engines with and without the shim, beside Linux swap and a mapped file\n"
           "  swap       the host and NVMe tiers, beside what the disk itself can do\n"
#endif
           "`kvmm bench NAME --help' has its arguments.",
};

int command_bench(int argc, char **argv)
{
    struct options options = {0};
    if (!command_parse(&parser, argc, argv, ARGP_IN_ORDER, &options))
        return COMMAND_BAD_USAGE;
    for (const struct bench *bench = benches; bench->name; bench++)
        if (strcmp(bench->name, options.name) == 0) {
            char name[32]; /* begins each complaint */
            (void)snprintf(name, sizeof name, NAME " %s", bench->name);
            argv[options.first] = name;
            return bench->run(argc - options.first, argv + options.first);
        }
    fprintf(stderr, NAME ": there is no bench '%s' in this build\n", options.name);
    return COMMAND_BAD_USAGE;
}
