/* SPDX-License-Identifier: Apache-2.0
 *
 * The SentencePiece-style tokenizer of "llama" GGUF models (tokenizer.ggml.model = "llama"): spaces become U+2581, the
 * best-scored adjacent pair is merged until none is left, characters without a token fall back to byte tokens.
 * Equal to llama.cpp's on the same file. Immutable after open. */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include "gguf.h"

typedef int32_t engine_token;

struct tokenizer;

int tokenizer_open(const struct gguf *file, struct tokenizer **tok, struct engine_error *err);
void tokenizer_close(struct tokenizer **tok);

uint32_t tokenizer_n_vocab(const struct tokenizer *tok);
engine_token tokenizer_bos(const struct tokenizer *tok); /* -1: the model has none */
engine_token tokenizer_eos(const struct tokenizer *tok);
bool tokenizer_add_bos(const struct tokenizer *tok); /* tokenizer.ggml.add_bos_token; default true */

/* Text of any bytes (len of them) to at most len + 2 tokens, written to a malloc'd array that the caller frees. The
 * dummy space in front is added if the model says so (tokenizer.ggml.add_space_prefix; default true) and `start` says
 * that the text begins a prompt. O(n log n). -1 only if memory is out. */
int tokenizer_encode(const struct tokenizer *tok, const char *text, size_t len, bool start, bool add_bos,
                     engine_token **tokens, size_t *n, struct engine_error *err);

/* The token's text, U+2581 back to a space, byte tokens as their byte, control tokens as nothing; written to buf
 * without a terminator; returns its length, and writes nothing if that is over size. */
size_t tokenizer_decode(const struct tokenizer *tok, engine_token token, char *buf, size_t size);

#endif
