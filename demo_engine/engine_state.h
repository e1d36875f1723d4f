/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine's own files share: engine.c opens, engine_run.c steps, conversation.c keeps the tokens. */
#ifndef ENGINE_ENGINE_STATE_H
#define ENGINE_ENGINE_STATE_H

#include "engine.h"
#include "forward.h"
#include "kernels/pool.h"

/* A conversation's part in a step. */
struct engine_part {
    struct conversation *c;
    uint32_t first;   /* tokens computed before */
    uint32_t n;       /* tokens to compute, from there */
    bool in_the_step; /* it fitted */
};

struct engine {
    struct model *model;
    struct tokenizer *tokenizer;
    struct kern_pool *pool;
    struct forward *forward; /* NULL before the cache is open */
    kvmm *mm;                /* as well */
    uint32_t chunk;
    struct engine_stats stats;

    /* A step in the making, [max_parts] each; grown as needed. */
    struct engine_part *parts;
    struct kvmm_want *wants;
    struct forward_item *items;
    uint32_t max_parts;
};

struct conversation {
    struct engine *engine;
    kvmm_seq *seq;
    engine_token *tokens; /* [max_tokens]; the first kvmm_seq_length(seq) are computed, the others pending */
    uint32_t length;
    uint32_t max_tokens;
    uint32_t computed_once; /* tokens below this were computed before: if again, it is a recomputation */
    float *logits;          /* [n_vocab] */
    bool has_logits;        /* they are the last token's */
};

/* The status of a kvmm call that failed, with kvmm_errmsg() behind `what` in err. */
int engine_kvmm_failure(int status, const char *what, struct engine_error *err);

#endif
