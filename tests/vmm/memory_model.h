/* SPDX-License-Identifier: Apache-2.0
 *
 * What every byte of a sequence must be: a plain model beside the manager. As with a real cache the bytes of a token follow from
 * the tokens up to it, so equal prefixes have equal bytes, whoever wrote them. */
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

#define MODEL_MAX_TOKENS 1024

/* The two arrays are as long for all, since a fork of a fork may show what a longer ancestor had. */
struct model_seq {
    kvmm_seq *seq;
    uint64_t salt; /* that its tokens' stamps begin with */
    uint32_t length;
    uint32_t max_tokens;
    uint32_t *ids;   /* of each token */
    uint64_t *stamp; /* of each token: names what was last written there; 0: nothing ever was */
};

/* max_tokens ≤ MODEL_MAX_TOKENS. False: no memory. */
bool model_open(struct model_seq *m, uint64_t salt, uint32_t max_tokens);
void model_close(struct model_seq *m);
/* Empty, as after open. */
void model_restart(struct model_seq *m, uint64_t salt);
/* The child has the parent's tokens, and may show what the parent had, or its parent, behind them before a truncate. */
void model_fork(struct model_seq *child, const struct model_seq *parent);
/* The token is to be `id` from now on. The one before it is known. */
void model_set(struct model_seq *m, uint32_t token, uint32_t id);

/* Writes, and checks, all elements of a token in every layer, head and of K and V. */
void model_write(const struct kvmm_geometry *g, const struct kvmm_layout *l, const struct model_seq *m, uint32_t token);
bool model_check(const struct kvmm_geometry *g, const struct kvmm_layout *l, const struct model_seq *m, uint32_t token);
/* Whether the token's elements are zero, or what was last written there in this sequence. */
bool model_is_own_or_zero(const struct kvmm_geometry *g, const struct kvmm_layout *l, const struct model_seq *m,
                          uint32_t token);

#endif
