/* SPDX-License-Identifier: Apache-2.0
 *
 * One pass of the model over runs of tokens of several sequences, wherever it is computed. Knows where each sequence's
 * K and V lie (kvmm_layout), and nothing of residency: the caller holds a step open on all of them.
 *
 * A pass is queued, then waited for. Between the two its step may end, with the pass's stream: so that the memory manager
 * knows when the pages may move, and the caller need not wait to tell it.
 *
 * Not from two threads at once. Results: enum engine_status, with one line in err. */
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

#include <kvmm/kvmm.h>

#include "gguf.h"
#include "tokenizer.h"

struct forward_item {
    struct kvmm_layout layout;  /* in all items of a forward alike, but for base and group_stride */
    const engine_token *tokens; /* [n_tokens], each in the vocabulary */
    uint32_t n_tokens;          /* ≥ 1 */
    uint32_t first_pos;         /* tokens before these, whose K and V are in the cache */
    float *logits;              /* output, [n_vocab], of the last token; NULL: not wanted */
};

struct forward;

struct forward_ops {
    /* Queues a pass that writes the K and V of all tokens: at least one, at most as many in all as the forward was opened
     * for. The items are used until forward_wait() returns. Precondition: no pass is queued. On failure the K and V of
     * these tokens are not to be used; what was queued of the pass may still run, in front of what `stream` says. */
    int (*queue)(struct forward *fwd, const struct forward_item *items, uint32_t n_items, struct engine_error *err);
    /* Waits for the pass that was queued, and writes its logits. On failure there are none, as above. */
    int (*wait)(struct forward *fwd, struct engine_error *err);
    void (*close)(struct forward *fwd); /* waits for what was queued */
};

struct forward {
    const struct forward_ops *ops;
    void *stream; /* for kvmm_step_end(): where passes are queued; NULL on the host */
    /* Since open: passes captured as a graph, and passes that were replays of one; 0 on the host. */
    uint64_t n_captures, n_replays;
};

static inline int forward_queue(struct forward *fwd, const struct forward_item *items, uint32_t n_items,
                                struct engine_error *err)
{
    return fwd->ops->queue(fwd, items, n_items, err);
}

static inline int forward_wait(struct forward *fwd, struct engine_error *err)
{
    return fwd->ops->wait(fwd, err);
}

/* Sets NULL; NULL is ignored. */
static inline void forward_close(struct forward **fwd)
{
    if (fwd && *fwd)
        (*fwd)->ops->close(*fwd);
    if (fwd)
        *fwd = NULL;
}

#endif
