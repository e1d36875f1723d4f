/* SPDX-License-Identifier: Apache-2.0
 *
 * The prompts of a command line, in their order: texts and files. */
#ifndef ENGINE_PROMPTS_H
#define ENGINE_PROMPTS_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"
#include "tokenizer.h"

struct prompt {
    char name[64];    /* "prompt 2", or the file's name, cut */
    const char *text; /* any bytes */
    size_t len;
    char *owned; /* text, if it was read from a file */
    engine_token *tokens;
    size_t n_tokens;
};

struct prompts {
    struct prompt *at;
    uint32_t n;
};

int prompts_add_text(struct prompts *prompts, const char *text, struct engine_error *err);
/* path "-": standard input. ENGINE_BAD_INPUT: the file can't be read. */
int prompts_add_file(struct prompts *prompts, const char *path, struct engine_error *err);

/* Fills tokens, each prompt as the start of a conversation. ENGINE_BAD_INPUT: one has no tokens, or more than
 * context; the line names both numbers. */
int prompts_encode(struct prompts *prompts, const struct tokenizer *tok, uint32_t context, struct engine_error *err);

void prompts_free(struct prompts *prompts); /* and empties it */

#endif
