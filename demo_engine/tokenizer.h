/* SPDX-License-Identifier: Apache-2.0
 *
 * The SentencePiece-style tokenizer of "llama" GGUF models (tokenizer.ggml.model = "llama"): spaces become U+2581, the
 * best-scored adjacent pair is merged until none is left, characters without a token fall back to byte tokens.
 *
 * Equal to llama.cpp's on the same file for valid UTF-8; other bytes become byte tokens one by one, where llama.cpp
 * takes along what follows them. Two more differences: control, unknown and byte tokens are never made from text, not
 * even by merging, and user-defined tokens are merged like any other, where llama.cpp cuts them out first. Special
 * tokens in text are not parsed: "<s>" is three characters.
 *
 * Immutable after open, so thread-safe; the file may be closed. */
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

/* Text of any bytes (len of them) to tokens, written to a malloc'd array that the caller frees; at most len + 2 if the
 * vocabulary has U+2581. BOS comes first if add_bos and the model has one. The dummy space in front is added if the
 * model says so (tokenizer.ggml.add_space_prefix; default true), `start` says that the text begins a prompt, and the
 * text is not empty. O(n log n). -1 if memory is out or the text is 512 MiB or longer. */
int tokenizer_encode(const struct tokenizer *tok, const char *text, size_t len, bool start, bool add_bos,
                     engine_token **tokens, size_t *n, struct engine_error *err);

/* The token's text, U+2581 back to a space, byte tokens as their byte, control tokens and ids that do not exist as
 * nothing; written to buf without a terminator; returns its length, and writes nothing if that is over size. */
size_t tokenizer_decode(const struct tokenizer *tok, engine_token token, char *buf, size_t size);

#endif
