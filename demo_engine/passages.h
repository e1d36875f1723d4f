/* SPDX-License-Identifier: Apache-2.0
 *
 * Choosing what to ask a recall model for: passages of a document that its beginning determines. The model goes on by
 * the last RECALL_LOOKBACK tokens, so a passage is fair to ask for if, at each of its tokens, those before it are
 * followed by the same token wherever they stand in the document. */
#ifndef ENGINE_PASSAGES_H
#define ENGINE_PASSAGES_H

#include <stdint.h>

#include "status.h"
#include "tokenizer.h"

struct passage {
    uint32_t start; /* of what is asked: the cue, then what must follow it */
    uint32_t n_cue; /* ≥ RECALL_LOOKBACK */
    uint32_t n_answer;
};

/* The fair passages nearest to n places spread evenly over the document's tokens, the first at its beginning, the last
 * at its end. ENGINE_BAD_INPUT: the document is too short or has none (the line does not name it). */
int passages_choose(const engine_token *tokens, uint32_t n_tokens, uint32_t n_cue, uint32_t n_answer,
                    struct passage *passages, uint32_t n, struct engine_error *err);

#endif
