/* SPDX-License-Identifier: Apache-2.0 */
#include "conversation.h"

#include <stdlib.h>
#include <string.h>

#include "engine_state.h"

int conversation_open(struct engine *engine, uint32_t max_tokens, struct conversation **conversation,
                      struct engine_error *err)
{
    const struct model *m = engine->model;
    if (max_tokens < 1 || max_tokens > m->context_length)
        return engine_fail(err, "%s: a conversation of %u tokens does not fit the model's context of %u",
                           gguf_path(m->file), max_tokens, m->context_length);
    if (!engine->mm)
        return engine_fail(err, "the cache is not open");
    struct conversation *c = calloc(1, sizeof *c);
    if (c) {
        c->tokens = calloc(max_tokens, sizeof *c->tokens);
        c->logits = calloc(m->n_vocab, sizeof *c->logits);
    }
    if (!c || !c->tokens || !c->logits) {
        conversation_close(&c);
        return engine_broke(err, "out of memory for a conversation of %u tokens", max_tokens);
    }
    c->engine = engine;
    c->max_tokens = max_tokens;
    int rc = kvmm_seq_create(engine->mm, max_tokens, &c->seq);
    if (rc != KVMM_OK) {
        conversation_close(&c);
        return engine_kvmm_failure(rc, "no room for a conversation", err);
    }
    *conversation = c;
    return 0;
}

void conversation_close(struct conversation **c)
{
    if (!c || !*c)
        return;
    (void)kvmm_seq_destroy(&(*c)->seq); /* in no step between calls */
    free((*c)->tokens);
    free((*c)->logits);
    free(*c);
    *c = NULL;
}

struct engine *conversation_engine(const struct conversation *c)
{
    return c->engine;
}

uint32_t conversation_length(const struct conversation *c)
{
    return c->length;
}

uint32_t conversation_max_tokens(const struct conversation *c)
{
    return c->max_tokens;
}

const engine_token *conversation_tokens(const struct conversation *c)
{
    return c->tokens;
}

const float *conversation_logits(const struct conversation *c)
{
    return c->has_logits ? c->logits : NULL;
}

kvmm_seq *conversation_seq(const struct conversation *c)
{
    return c->seq;
}

int conversation_push(struct conversation *c, const engine_token *tokens, size_t n, struct engine_error *err)
{
    if (n > c->max_tokens - c->length)
        return engine_fail(err, "%llu tokens do not fit a conversation of at most %u",
                           (unsigned long long)n + c->length, c->max_tokens);
    const uint32_t n_vocab = c->engine->model->n_vocab;
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= n_vocab)
            return engine_fail(err, "token %d is not in the vocabulary of %u", tokens[i], n_vocab);
    }
    if (n == 0)
        return 0;
    memcpy(c->tokens + c->length, tokens, n * sizeof *tokens);
    c->length += (uint32_t)n;
    c->has_logits = false;
    return 0;
}

int conversation_append(struct conversation *c, const engine_token *tokens, size_t n, engine_progress progress,
                        void *user, struct engine_error *err)
{
    int rc = conversation_push(c, tokens, n, err);
    return rc != 0 ? rc : engine_run(c->engine, &c, 1, ENGINE_PREFILL, progress, user, err);
}

int conversation_append_text(struct conversation *c, const char *text, size_t len, engine_progress progress, void *user,
                             struct engine_error *err)
{
    const struct tokenizer *tok = c->engine->tokenizer;
    const bool start = c->length == 0;
    engine_token *tokens;
    size_t n;
    if (tokenizer_encode(tok, text, len, start, start && tokenizer_add_bos(tok), &tokens, &n, err) != 0)
        return ENGINE_FAILED;
    int rc = conversation_append(c, tokens, n, progress, user, err);
    free(tokens);
    return rc;
}

/* ---- generating ---------------------------------------------------------------------------------------------- */

/* Adds the next token of a conversation that has logits. */
static int pick(struct conversation *c, struct sampler *sampler, engine_token *token, struct engine_error *err)
{
    *token = sampler_pick(sampler, c->logits);
    if (*token < 0)
        return engine_broke(err, "%s: the model computed a logit that is not a finite number",
                            gguf_path(c->engine->model->file));
    return conversation_push(c, token, 1, err);
}

/* The conversations that still generate, and where they are in the caller's arrays. */
struct live {
    struct conversation **c;
    uint32_t *index;
    uint32_t n;
};

/* One token for each; those that are full or were told to stop leave. */
static int pick_each(struct live *live, struct sampler *const *sampler, conversation_on_token on_token,
                     void *const *user, struct engine_error *err)
{
    uint32_t left = 0;
    for (uint32_t i = 0; i < live->n; i++) {
        const uint32_t k = live->index[i];
        engine_token token;
        int rc = pick(live->c[i], sampler[k], &token, err);
        if (rc != 0)
            return rc;
        bool more = !on_token || on_token(user[k], token);
        if (!more || live->c[i]->length == live->c[i]->max_tokens)
            continue;
        live->c[left] = live->c[i];
        live->index[left++] = k;
    }
    live->n = left;
    return 0;
}

int conversation_generate_batch(struct engine *engine, struct conversation *const *c, struct sampler *const *sampler,
                                uint32_t n_conversations, uint32_t n, conversation_on_token on_token, void *const *user,
                                struct engine_error *err)
{
    if (n_conversations == 0)
        return 0;
    struct live live = {.c = calloc(n_conversations, sizeof(struct conversation *)),
                        .index = calloc(n_conversations, sizeof *live.index)};
    int rc = 0;
    if (!live.c || !live.index) {
        rc = engine_broke(err, "out of memory for %u conversations", n_conversations);
        goto free_live;
    }
    for (uint32_t i = 0; rc == 0 && i < n_conversations; i++) {
        if (c[i]->length == 0)
            rc = engine_fail(err, "nothing can be generated from an empty conversation");
        if (c[i]->length == c[i]->max_tokens)
            continue;
        live.c[live.n] = c[i];
        live.index[live.n++] = i;
    }
    for (uint32_t step = 0; rc == 0 && step < n && live.n > 0; step++) {
        rc = engine_run(engine, live.c, live.n, ENGINE_DECODE, NULL, NULL, err);
        if (rc == 0)
            rc = pick_each(&live, sampler, on_token, user, err);
    }
free_live:
    free((void *)live.c);
    free(live.index);
    return rc;
}

struct capture {
    engine_token *out;
    uint32_t n;
    conversation_on_token on_token;
    void *user;
};

static bool capture_token(void *user, engine_token token)
{
    struct capture *capture = user;
    if (capture->out)
        capture->out[capture->n] = token;
    capture->n++;
    return !capture->on_token || capture->on_token(capture->user, token);
}

int conversation_generate(struct conversation *c, struct sampler *sampler, uint32_t n, engine_token *out,
                          uint32_t *n_out, conversation_on_token on_token, void *user, struct engine_error *err)
{
    struct capture capture = {.on_token = on_token, .user = user};
    capture.out = out;
    void *capture_user = &capture;
    int rc = conversation_generate_batch(c->engine, &c, &sampler, 1, n, capture_token, &capture_user, err);
    if (n_out)
        *n_out = capture.n;
    return rc;
}

/* ---- truncate, suspend, resume ------------------------------------------------------------------------------- */

int conversation_truncate(struct conversation *c, uint32_t n, struct engine_error *err)
{
    if (n > c->length)
        return engine_fail(err, "a conversation of %u tokens can't be cut to %u", c->length, n);
    if (n < kvmm_seq_length(c->seq)) {
        int rc = kvmm_seq_truncate(c->seq, n);
        if (rc != KVMM_OK)
            return engine_kvmm_failure(rc, "a conversation can't be cut", err);
    }
    if (n < c->length)
        c->has_logits = false;
    if (n < c->computed_once)
        c->computed_once = n;
    c->length = n;
    return 0;
}

int conversation_suspend(struct conversation *c, struct engine_error *err)
{
    int rc = kvmm_seq_suspend(c->seq);
    return rc == KVMM_OK ? 0 : engine_kvmm_failure(rc, "a conversation can't be suspended", err);
}

int conversation_resume(struct conversation *c, struct engine_error *err)
{
    int rc = kvmm_seq_resume(c->seq);
    return rc == KVMM_OK || rc == KVMM_ERR_DATA_LOST ? 0
                                                     : engine_kvmm_failure(rc, "a conversation can't be resumed", err);
}
