/* SPDX-License-Identifier: Apache-2.0
 *
 * A conversation: its tokens, and a kvmm sequence with their K and V. The tokens are the truth: the first
 * kvmm_seq_length() of them are computed, the others are pending and are computed by the next run.
 *
 *     conversation_open(engine, 4096, &c, &err);
 *     conversation_append_text(c, "Once upon a time", 16, progress, bar, &err);     // prefill, in chunks
 *     conversation_generate(c, sampler, 64, out, &n, NULL, NULL, &err);             // decode
 *     conversation_truncate(c, 10, &err);                                           // and back
 */
#ifndef ENGINE_CONVERSATION_H
#define ENGINE_CONVERSATION_H

#include "engine.h"
#include "sampler.h"

/* For at most max_tokens tokens, 1 … the model's context length. The conversation is closed before its engine. */
int conversation_open(struct engine *engine, uint32_t max_tokens, struct conversation **c, struct engine_error *err);
void conversation_close(struct conversation **c); /* sets NULL; NULL is ignored */

struct engine *conversation_engine(const struct conversation *c);
uint32_t conversation_length(const struct conversation *c);
uint32_t conversation_max_tokens(const struct conversation *c);
const engine_token *conversation_tokens(const struct conversation *c); /* valid until the conversation changes */
/* Of the last token, [n_vocab]; NULL if there is none or it is not computed yet. Valid until the next change. */
const float *conversation_logits(const struct conversation *c);
kvmm_seq *conversation_seq(const struct conversation *c);

/* Adds tokens, not yet computed. ENGINE_BAD_INPUT: more than max_tokens (the line names both numbers), or a token
 * outside the vocabulary; nothing was added. */
int conversation_push(struct conversation *c, const engine_token *tokens, size_t n, struct engine_error *err);

/* Adds and computes. If computing fails the tokens stay, pending. */
int conversation_append(struct conversation *c, const engine_token *tokens, size_t n, engine_progress progress,
                        void *user, struct engine_error *err);

/* The text as tokens; the first text of a conversation begins with BOS and the dummy space, if the model wants them. */
int conversation_append_text(struct conversation *c, const char *text, size_t len, engine_progress progress, void *user,
                             struct engine_error *err);

/* Called for each generated token; false ends the generation after it. */
typedef bool (*conversation_on_token)(void *user, engine_token token);

/* Picks n tokens, each added to the conversation and, if out is not NULL, written to out[0 … *n_out). Ends early at
 * max_tokens, or if on_token (may be NULL) says so. The last token stays pending until it is needed. *n_out (may be
 * NULL) counts also on failure. The conversation must not be empty. */
int conversation_generate(struct conversation *c, struct sampler *sampler, uint32_t n, engine_token *out,
                          uint32_t *n_out, conversation_on_token on_token, void *user, struct engine_error *err);

/* The same for several conversations, one token each in a batched step: sampler[i] and on_token's user[i] belong to
 * c[i]. A conversation that ended drops out, the others go on to n tokens each. */
int conversation_generate_batch(struct engine *engine, struct conversation *const *c, struct sampler *const *sampler,
                                uint32_t n_conversations, uint32_t n, conversation_on_token on_token, void *const *user,
                                struct engine_error *err);

/* Keeps the first n tokens, n ≤ the length. */
int conversation_truncate(struct conversation *c, uint32_t n, struct engine_error *err);

/* kvmm_seq_suspend() and kvmm_seq_resume(). Data found lost is not an error here: the next run computes it again. */
int conversation_suspend(struct conversation *c, struct engine_error *err);
int conversation_resume(struct conversation *c, struct engine_error *err);

#endif
