/* SPDX-License-Identifier: Apache-2.0
 *
 * What `kvmm bench policy` should find, computed the plain way: every choice looks at every block. It shares no code with the
 * policies, the simulation or the optimum; blocks are the unit of all sizes. */
#ifndef TESTS_TOOLS_POLICY_BRUTE_H
#define TESTS_TOOLS_POLICY_BRUTE_H

#include <stdint.h>

struct brute_request {
    uint64_t at_ms;
    uint32_t n;
    uint32_t *ids; /* below brute_trace.n_ids */
};

struct brute_trace {
    struct brute_request *requests;
    uint32_t n, n_ids;
};

enum { BRUTE_DEVICE, BRUTE_HOST, BRUTE_NVME, BRUTE_TIERS };
#define BRUTE_UNLIMITED UINT32_MAX

struct brute_result {
    uint64_t hits[BRUTE_TIERS];
    uint64_t device_to_host, device_to_nvme, host_to_nvme, host_to_device, nvme_to_device;
    uint64_t computed, dropped;
};

/* n_ghosts: blocks that are remembered after they left the last tier; a power of two. */
void brute_simulate(const struct brute_trace *trace, const char *policy, const uint32_t sizes[BRUTE_TIERS],
                    uint32_t n_ghosts, struct brute_result *result);

/* Hits of the cache of so many blocks that lets go what is used again latest. */
uint64_t brute_optimum(const struct brute_trace *trace, uint32_t size);

#endif
