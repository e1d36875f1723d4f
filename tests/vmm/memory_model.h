/* SPDX-License-Identifier: Apache-2.0
 *
 * What every byte of a sequence must be, computed from (sequence, version, token): a plain model beside the manager. */
#ifndef TESTS_VMM_MEMORY_MODEL_H
#define TESTS_VMM_MEMORY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "kvmm/kvmm.h"

/* A small generator with a visible seed (SplitMix64). */
static inline uint64_t model_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* The tag of a token: what was written when it was appended. */
struct model_seq {
    kvmm_seq *seq;
    uint64_t salt; /* unique to this sequence */
    uint32_t length;
    uint32_t max_tokens;
    uint32_t *version; /* of each token: counts how often it was written */
};

/* Writes, and checks, all elements of a token in every layer, head and of K and V. */
void model_write(const struct kvmm_geometry *g, const struct kvmm_layout *l, const struct model_seq *m, uint32_t token);
bool model_check(const struct kvmm_geometry *g, const struct kvmm_layout *l, const struct model_seq *m, uint32_t token);
/* Whether the token's elements are all zero, or this sequence's own from any earlier version. */
bool model_is_own_or_zero(const struct kvmm_geometry *g, const struct kvmm_layout *l, const struct model_seq *m,
                          uint32_t token);

#endif
