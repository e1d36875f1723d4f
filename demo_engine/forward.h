/* SPDX-License-Identifier: Apache-2.0
 *
 * One pass of the model over runs of tokens of several sequences. Knows where each sequence's K and V lie
 * (kvmm_layout), and nothing of residency: the caller holds a step open on all of them.
 *
 * A token's K, V and logits have the same bits whatever else is in the pass, however its sequence was cut into passes,
 * in any layout and with any number of threads. */
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

#include <kvmm/kvmm.h>

#include "kernels/pool.h"
#include "model.h"
#include "tokenizer.h"

struct forward_item {
    struct kvmm_layout layout;
    const engine_token *tokens; /* [n_tokens], each in the vocabulary */
    uint32_t n_tokens;          /* ≥ 1 */
    uint32_t first_pos;         /* tokens before these, whose K and V are in the cache */
    float *logits;              /* output, [n_vocab], of the last token; NULL: not wanted */
};

struct forward;

/* For passes of at most max_tokens tokens in all. Model and pool are used, not owned. ENGINE_FAILED if memory is out. */
int forward_open(const struct model *model, struct kern_pool *pool, enum kvmm_dtype kv_type, uint32_t max_tokens,
                 struct forward **fwd, struct engine_error *err);
void forward_close(struct forward **fwd); /* sets NULL; NULL is ignored */

/* Writes the K and V of all tokens, and the logits. Not from two threads at once. On ENGINE_FAILED (memory is out) no
 * logits were written, and the K and V of these tokens are not to be used. */
int forward_run(struct forward *fwd, const struct forward_item *items, uint32_t n_items, struct engine_error *err);

#endif
