/* SPDX-License-Identifier: Apache-2.0
 *
 * Picks the next token from logits. */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include "tokenizer.h"

struct sampler_config {
    float temperature; /* 0: the highest logit, and of equals the lowest id; no random number is drawn then */
    float top_p;       /* (0, 1]: the fewest most likely tokens whose probabilities reach this; 1: all */
    uint64_t seed;
    uint64_t stream; /* two samplers of one seed and different streams draw independent numbers */
};

struct sampler;

/* -1: a number is out of its bounds, or memory is out. */
int sampler_open(const struct sampler_config *config, uint32_t n_vocab, struct sampler **sampler,
                 struct engine_error *err);
void sampler_close(struct sampler **sampler); /* sets NULL; NULL is ignored */

/* The next token; -1 if a logit is not a number or infinite: nothing can be picked from a broken distribution. */
engine_token sampler_pick(struct sampler *sampler, const float *logits);

#endif
