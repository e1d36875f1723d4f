/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench policy`, in parts: traces of requests, the simulation of a prefix cache in three tiers under one of kvmm's
 * policies, and Belady's optimum. What returns bool has said on stderr, in one line, why it is false. */
#ifndef TOOLS_BENCH_POLICY_H
#define TOOLS_BENCH_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POLICY_COMMAND "kvmm bench policy" /* begins each line on stderr */

/* Mooncake's blocks, at the geometry of Llama-3-8B in bf16: 16 tokens of 32 layers of K and V of 8 heads of 128. */
#define POLICY_PAGE_TOKENS  16u
#define POLICY_PAGE_BYTES   ((uint64_t)2 << 20)
#define POLICY_BLOCK_TOKENS 512u
#define POLICY_BLOCK_BYTES  (POLICY_BLOCK_TOKENS / POLICY_PAGE_TOKENS * POLICY_PAGE_BYTES)

struct policy_request {
    uint64_t at_ns;
    uint64_t first; /* of its blocks, in policy_trace.blocks */
    uint32_t n;     /* at least one */
    uint32_t line;  /* of the file, from 1 */
};

/* Blocks are numbered from 0 without gaps; equal numbers are equal prefixes, so a block always follows the same one. */
struct policy_trace {
    const char *path;
    struct policy_request *requests; /* in order of time */
    uint32_t n_requests;
    uint32_t *blocks; /* of all requests; no request has one twice */
    uint64_t n_blocks;
    uint32_t n_distinct;
    uint32_t longest; /* the request with the most blocks */
};

/* bench_policy_trace.c: a trace in Mooncake's format (JSON, a request a line), packed by gzip or not. Its path is lent. On
 * failure nothing is left. */
bool policy_trace_read(const char *path, struct policy_trace *trace);
void policy_trace_free(struct policy_trace *trace);

enum policy_tier { POLICY_DEVICE, POLICY_HOST, POLICY_NVME, N_POLICY_TIERS };
#define POLICY_UNLIMITED UINT32_MAX

struct policy_sizes {
    uint32_t blocks[N_POLICY_TIERS]; /* POLICY_UNLIMITED: as many as there are */
    uint32_t ghosts;                 /* blocks that left the last tier and are remembered; a power of two */
};

enum policy_way {
    POLICY_DEVICE_TO_HOST,
    POLICY_DEVICE_TO_NVME,
    POLICY_HOST_TO_NVME,
    POLICY_HOST_TO_DEVICE,
    POLICY_NVME_TO_DEVICE,
    N_POLICY_WAYS
};

struct policy_result {
    uint64_t hits[N_POLICY_TIERS]; /* blocks found in each tier */
    uint64_t moved[N_POLICY_WAYS]; /* blocks */
    uint64_t computed;             /* blocks that were not found */
    uint64_t dropped;              /* blocks that left the last tier */
};

/* bench_policy_sim.c: replays the trace under a policy of vmm/policy.h. The device holds the longest request. */
bool policy_simulate(const struct policy_trace *trace, const char *policy, const struct policy_sizes *sizes,
                     struct policy_result *result);

/* bench_policy_optimum.c: the hits of Belady's MIN in one cache of so many blocks. */
bool policy_optimum(const struct policy_trace *trace, uint32_t blocks, uint64_t *hits);

enum { POLICY_MOST_NAMES = 8 };

struct policy_options {
    const char *names[POLICY_MOST_NAMES];
    size_t n_names;
    uint64_t bytes[N_POLICY_TIERS]; /* UINT64_MAX: unlimited */
    struct policy_sizes sizes;      /* the same in blocks */
    bool json;
};

/* All that was found out about one trace. */
struct policy_report {
    struct policy_trace trace;
    struct policy_result results[POLICY_MOST_NAMES]; /* of each name */
    uint64_t optimum[N_POLICY_TIERS];                /* hits of MIN in the tiers down to this one together */
    uint64_t unlimited;                              /* hits of a cache without end */
};

/* bench_policy_print.c: the exit status. */
int policy_print_json(const struct policy_options *options, const struct policy_report *reports, size_t n);
int policy_print_tables(const struct policy_options *options, const struct policy_report *reports, size_t n);

/* On stderr, if that is a terminal: what is under way, in percent. NULL wipes it. */
void policy_progress(const char *what, uint64_t done, uint64_t of);

#endif
