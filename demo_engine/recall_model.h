/* SPDX-License-Identifier: Apache-2.0
 *
 * A model that is constructed, not trained: it quotes from its context. Given the first bytes of a passage that stands
 * earlier in the context, it goes on with the passage, verbatim, at any distance. One wrong page breaks the quote, so
 * it shows a cache that loses or mixes up anything. How it works is said in recall_model.c. */
#ifndef ENGINE_RECALL_MODEL_H
#define ENGINE_RECALL_MODEL_H

#include "gguf.h"

struct recall_config {
    uint32_t head_dim;       /* 64 (default) or 128: more dimensions make codes that survive coarser KV types */
    uint32_t n_kv_heads;     /* 1, 2 or 4 (default): the same answers, a larger cache */
    uint32_t context_length; /* default 131072 */
};
#define RECALL_LOOKBACK 16 /* bytes that must match before the model goes on with what followed them */

void recall_config_init(struct recall_config *config);

/* Writes the model to path (through a temporary file beside it, renamed at the end). The same config gives the same
 * bytes on every machine. -1: err names the path and the reason; nothing is left behind. */
int recall_model_write(const char *path, const struct recall_config *config, struct engine_error *err);

#endif
