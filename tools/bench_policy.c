/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench policy TRACE...`: arguments, and what is done for each trace. */
#include "tools/bench_policy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shim/config.h"
#include "tools/bench.h"
#include "tools/command.h"
#include "vmm/policy.h"

#define REDRAW_NS   100000000u
#define MOST_GHOSTS (1u << 24)

void policy_progress(const char *what, uint64_t done, uint64_t of)
{
    static uint64_t next_ns;
    static bool drawn;
    if (!isatty(STDERR_FILENO))
        return;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    if (what && now_ns >= next_ns) {
        fprintf(stderr, "\r\033[K%s: %llu %%", what, (unsigned long long)(done * 100 / of));
        next_ns = now_ns + REDRAW_NS;
        drawn = true;
    } else if (!what && drawn) {
        fputs("\r\033[K", stderr);
        drawn = false;
    }
}

static bool fits(const struct policy_options *options, const struct policy_trace *trace)
{
    const struct policy_request *longest = &trace->requests[trace->longest];
    if (longest->n <= options->sizes.blocks[POLICY_DEVICE])
        return true;
    fprintf(stderr,
            POLICY_COMMAND ": %s:%u: this request has %u blocks of %llu MiB, more than --device-memory holds: %u\n",
            trace->path, longest->line, longest->n, (unsigned long long)POLICY_BLOCK_BYTES >> 20,
            options->sizes.blocks[POLICY_DEVICE]);
    return false;
}

static bool measure(const struct policy_options *options, const char *path, struct policy_report *report)
{
    if (!policy_trace_read(path, &report->trace))
        return false;
    const struct policy_trace *trace = &report->trace;
    if (!fits(options, trace))
        return false;
    report->unlimited = trace->n_blocks - trace->n_distinct; /* each block is computed once */
    uint64_t blocks = 0;
    for (int tier = 0; tier < N_POLICY_TIERS; tier++) {
        blocks += options->sizes.blocks[tier];
        uint32_t together = blocks < POLICY_UNLIMITED ? (uint32_t)blocks : POLICY_UNLIMITED;
        if (!policy_optimum(trace, together, &report->optimum[tier]))
            return false;
    }
    for (size_t i = 0; i < options->n_names; i++)
        if (!policy_simulate(trace, options->names[i], &options->sizes, &report->results[i]))
            return false;
    return true;
}

enum { KEY_JSON = 'j', KEY_POLICY = 'p', KEY_DEVICE = 'd', KEY_HOST = 'h', KEY_NVME = 'n', KEY_GHOSTS = 'g' };

static const struct argp_option option_list[] = {
    {"policy", KEY_POLICY, "NAME,...", 0, "lru, clock, arc, cost (default: all)", 0},
    {"device-memory", KEY_DEVICE, "SIZE", 0, "for the cache on the device (default: 48G)", 0},
    {"host-memory", KEY_HOST, "SIZE", 0, "of the host tier; 0: none (default: 256G)", 0},
    {"nvme", KEY_NVME, "SIZE", 0, "of the NVMe tier; 0: none (default: 2T)", 0},
    {"ghosts", KEY_GHOSTS, "N", 0,
     "blocks of which the policies remember that they left, a power of two (default: 65536)", 0},
    {"json", KEY_JSON, NULL, 0, "print JSON", 0},
    {0},
};

static error_t take_names(const struct argp_state *state, char *arg, struct policy_options *options)
{
    options->n_names = 0;
    char *save, *name = strtok_r(arg, ",", &save);
    if (!name)
        return command_complain(state, "--policy takes names with commas between them");
    for (; name; name = strtok_r(NULL, ",", &save)) {
        const char *known;
        size_t i = 0;
        while ((known = vmm_policy_name(i)) && strcmp(known, name) != 0)
            i++;
        if (!known)
            return command_complain(state, "there is no policy '%s'; there are lru, clock, arc and cost", name);
        for (i = 0; i < options->n_names; i++)
            if (options->names[i] == known)
                return command_complain(state, "--policy names '%s' twice", name);
        options->names[options->n_names++] = known;
    }
    return 0;
}

static error_t take_size(const struct argp_state *state, const char *option, const char *arg, enum policy_tier tier,
                         struct policy_options *options)
{
    uint64_t bytes;
    if (strcmp(arg, "unlimited") == 0) {
        options->bytes[tier] = UINT64_MAX;
        options->sizes.blocks[tier] = POLICY_UNLIMITED;
        return 0;
    }
    bool good = shim_config_bytes(arg, &bytes) && bytes / POLICY_BLOCK_BYTES < POLICY_UNLIMITED;
    if (!good || (bytes == 0 ? tier == POLICY_DEVICE : bytes < POLICY_BLOCK_BYTES))
        return command_complain(state, "%s takes a size of at least %lluM%s, or unlimited, not '%s'", option,
                                (unsigned long long)POLICY_BLOCK_BYTES >> 20, tier == POLICY_DEVICE ? "" : ", 0", arg);
    options->bytes[tier] = bytes;
    options->sizes.blocks[tier] = (uint32_t)(bytes / POLICY_BLOCK_BYTES);
    return 0;
}

struct arguments {
    struct policy_options options;
    char **paths;
    size_t n_paths;
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct arguments *arguments = state->input;
    struct policy_options *options = &arguments->options;
    uint64_t ghosts;
    switch (key) {
    case KEY_JSON:
        options->json = true;
        return 0;
    case KEY_POLICY:
        return take_names(state, arg, options);
    case KEY_DEVICE:
        return take_size(state, "--device-memory", arg, POLICY_DEVICE, options);
    case KEY_HOST:
        return take_size(state, "--host-memory", arg, POLICY_HOST, options);
    case KEY_NVME:
        return take_size(state, "--nvme", arg, POLICY_NVME, options);
    case KEY_GHOSTS:
        if (!command_number(arg, 1, MOST_GHOSTS, &ghosts) || (ghosts & (ghosts - 1)) != 0)
            return command_complain(state, "--ghosts takes a power of two from 1 to %u, not '%s'", MOST_GHOSTS, arg);
        options->sizes.ghosts = (uint32_t)ghosts;
        return 0;
    case ARGP_KEY_ARGS:
        arguments->paths = state->argv + state->next;
        arguments->n_paths = (size_t)(state->argc - state->next);
        return 0;
    case ARGP_KEY_NO_ARGS:
        return command_complain(state, "which traces? `" POLICY_COMMAND " --help' explains");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp parser = {
    .options = option_list,
    .parser = parse_option,
    .args_doc = "TRACE...",
    .doc =
        "Replay traces of requests in Mooncake's format (JSON lines, gzip or not) through kvmm's replacement policies, "
        "on the traces' clock and without any bytes, and compare the hits of each tier with Belady's optimum. A "
        "block of 512 tokens counts as 64 MiB, as Llama-3-8B's in bf16.",
};

int bench_policy(int argc, char **argv)
{
    struct arguments arguments = {0};
    struct policy_options *options = &arguments.options;
    options->sizes.ghosts = 65536;
    static const uint64_t defaults[N_POLICY_TIERS] = {48ull << 30, 256ull << 30, 2048ull << 30};
    for (int tier = 0; tier < N_POLICY_TIERS; tier++) {
        options->bytes[tier] = defaults[tier];
        options->sizes.blocks[tier] = (uint32_t)(defaults[tier] / POLICY_BLOCK_BYTES);
    }
    for (const char *name; (name = vmm_policy_name(options->n_names)); options->n_names++)
        options->names[options->n_names] = name;
    if (!command_parse(&parser, argc, argv, 0, &arguments))
        return COMMAND_BAD_USAGE;
    struct policy_report *reports = calloc(arguments.n_paths, sizeof *reports);
    if (!reports) {
        fprintf(stderr, POLICY_COMMAND ": out of memory\n");
        return COMMAND_FAILED;
    }
    int status = COMMAND_DONE;
    for (size_t i = 0; i < arguments.n_paths && status == COMMAND_DONE; i++)
        if (!measure(options, arguments.paths[i], &reports[i]))
            status = COMMAND_FAILED;
    if (status == COMMAND_DONE)
        status = options->json ? policy_print_json(options, reports, arguments.n_paths)
                               : policy_print_tables(options, reports, arguments.n_paths);
    for (size_t i = 0; i < arguments.n_paths; i++)
        policy_trace_free(&reports[i].trace);
    free(reports);
    return status;
}
