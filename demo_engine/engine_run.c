/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <time.h>

#include "engine_state.h"

static uint64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t pending(const struct conversation *c)
{
    return c->length - kvmm_seq_length(c->seq);
}

static int grow_parts(struct engine *e, uint32_t n, struct engine_error *err)
{
    if (n <= e->max_parts)
        return 0;
    free(e->parts);
    free(e->wants);
    free(e->items);
    e->max_parts = 0;
    e->parts = calloc(n, sizeof *e->parts);
    e->wants = calloc(n, sizeof *e->wants);
    e->items = calloc(n, sizeof *e->items);
    if (!e->parts || !e->wants || !e->items)
        return engine_broke(err, "out of memory for a step of %u conversations", n);
    e->max_parts = n;
    return 0;
}

/* A conversation that lost its logits to a truncate gets them by computing its last token again. */
static int want_logits(struct conversation *c, struct engine_error *err)
{
    if (c->has_logits || c->length == 0 || pending(c) > 0)
        return 0;
    int rc = kvmm_seq_truncate(c->seq, c->length - 1);
    if (rc != KVMM_OK)
        return engine_kvmm_failure(rc, "a conversation can't be cut", err);
    c->computed_once = c->length - 1;
    return 0;
}

/* Fills parts and wants with the next `chunk` pending tokens; returns the number of parts. */
static uint32_t plan_step(struct engine *e, struct conversation *const *conversations, uint32_t n)
{
    uint32_t n_parts = 0, left = e->chunk;
    for (uint32_t i = 0; i < n && left > 0; i++) {
        struct conversation *c = conversations[i];
        uint32_t take = pending(c) < left ? pending(c) : left;
        if (take == 0)
            continue;
        uint32_t first = kvmm_seq_length(c->seq);
        e->parts[n_parts] = (struct engine_part){.c = c, .first = first, .n = take};
        e->wants[n_parts] = (struct kvmm_want){.seq = c->seq, .n_tokens = first + take};
        n_parts++;
        left -= take;
    }
    return n_parts;
}

/* Cuts the conversations that lost data to what is left; the rest is pending then. True if there were any. */
static int cut_lost(struct engine *e, uint32_t n_parts, bool *any, struct engine_error *err)
{
    *any = false;
    for (uint32_t i = 0; i < n_parts; i++) {
        if (e->wants[i].status != KVMM_ERR_DATA_LOST)
            continue;
        struct kvmm_seq_info info;
        kvmm_seq_get_info(e->wants[i].seq, &info);
        int rc = kvmm_seq_truncate(e->wants[i].seq, info.valid_tokens);
        if (rc != KVMM_OK)
            return engine_kvmm_failure(rc, "a conversation that lost data can't be cut", err);
        e->stats.data_losses++;
        *any = true;
    }
    return 0;
}

static void count(struct engine *e, const struct engine_part *part, enum engine_phase phase)
{
    if (phase == ENGINE_PREFILL)
        e->stats.prefill_tokens += part->n;
    else
        e->stats.decode_tokens += part->n;
    uint32_t end = part->first + part->n, known = part->c->computed_once;
    if (part->first < known)
        e->stats.recomputed_tokens += (end < known ? end : known) - part->first;
    if (end > known)
        part->c->computed_once = end;
}

/* Queues the pass over the parts that are in the step, with the step open. */
static int queue_pass(struct engine *e, uint32_t n_parts, struct engine_error *err)
{
    uint32_t n_items = 0;
    for (uint32_t i = 0; i < n_parts; i++) {
        struct engine_part *part = &e->parts[i];
        part->in_the_step = e->wants[i].status == KVMM_OK;
        if (!part->in_the_step)
            continue;
        struct forward_item *item = &e->items[n_items++];
        *item = (struct forward_item){
            .tokens = part->c->tokens + part->first, .n_tokens = part->n, .first_pos = part->first};
        kvmm_seq_layout(part->c->seq, &item->layout);
        if (part->first + part->n == part->c->length)
            item->logits = part->c->logits;
    }
    return forward_queue(e->forward, e->items, n_items, err);
}

/* After a failed pass: the tokens that the step's end declared computed are not. */
static void uncompute(struct engine *e, uint32_t n_parts)
{
    for (uint32_t i = 0; i < n_parts; i++) {
        if (e->parts[i].in_the_step)
            (void)kvmm_seq_truncate(e->parts[i].c->seq, e->parts[i].first);
    }
}

static int run_step(struct engine *e, uint32_t n_parts, enum engine_phase phase, uint64_t *n_computed,
                    struct engine_error *err)
{
    kvmm_step *step;
    int rc = kvmm_step_begin(e->mm, e->wants, n_parts, KVMM_STEP_PARTIAL, &step);
    if (rc != KVMM_OK) {
        int status = engine_kvmm_failure(rc, "a step can't begin", err); /* before kvmm_errmsg() is another call's */
        bool lost;
        if (cut_lost(e, n_parts, &lost, err) != 0 || !lost)
            return status;
        return 0; /* they are pending again */
    }
    rc = queue_pass(e, n_parts, err);
    int end = kvmm_step_end(&step, e->forward->stream);
    if (rc == 0)
        rc = forward_wait(e->forward, err);
    if (rc != 0) {
        uncompute(e, n_parts);
        return rc;
    }
    if (end != KVMM_OK)
        return engine_kvmm_failure(end, "a step did not end", err);
    for (uint32_t i = 0; i < n_parts; i++) {
        if (!e->parts[i].in_the_step)
            continue;
        count(e, &e->parts[i], phase);
        e->parts[i].c->has_logits = pending(e->parts[i].c) == 0;
        *n_computed += e->parts[i].n;
    }
    bool lost;
    return cut_lost(e, n_parts, &lost, err);
}

int engine_run(struct engine *e, struct conversation *const *conversations, uint32_t n, enum engine_phase phase,
               engine_progress progress, void *user, struct engine_error *err)
{
    int rc = grow_parts(e, n, err);
    uint64_t total = 0, done = 0;
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = want_logits(conversations[i], err);
        total += pending(conversations[i]);
    }
    uint64_t start = now_ns();
    uint32_t n_parts;
    while (rc == 0 && (n_parts = plan_step(e, conversations, n)) > 0) {
        rc = run_step(e, n_parts, phase, &done, err);
        if (rc == 0 && progress)
            progress(user, done < total ? done : total, total);
    }
    *(phase == ENGINE_PREFILL ? &e->stats.prefill_ns : &e->stats.decode_ns) += now_ns() - start;
    return rc;
}
