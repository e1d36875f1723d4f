/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine's tests share: seeded numbers, a small model with random weights, the real one if it is there. */
#ifndef TESTS_ENGINE_SUPPORT_H
#define TESTS_ENGINE_SUPPORT_H

#include <check.h>

#include "tests/support/scale.h"
#include "conversation.h"
#include "engine.h"
#include "gguf_write.h"

/* ---- numbers ---- */

uint64_t test_random(uint64_t *state);
/* In [-1, 1). */
float test_random_float(uint64_t *state);
/* n elements of a GGUF type, of magnitude `size` or less, malloc'd. */
void *test_random_elements(enum gguf_type type, size_t n, float size, uint64_t *state);

/* ---- models ---- */

/* A Llama model over a vocabulary of bytes. Fields of 0 leave the key or tensor out where that is allowed. */
struct small_model {
    uint32_t n_embd, n_layers, n_ff, n_heads, n_kv_heads, head_dim, context;
    enum gguf_type type; /* of the matrices */
    bool tied;           /* no output.weight */
    uint64_t seed;
    const char *without;                           /* key or tensor that is not written */
    void (*also)(struct gguf_writer *, void *arg); /* more keys or tensors */
    void *arg;
};
void small_model_init(struct small_model *m);
/* Writes it to path. */
void small_model_write(const struct small_model *m, const char *path);
#define SMALL_VOCAB 259 /* <unk>, <s>, </s>, the bytes */

/* A directory that is removed with all files in it at the end of the process. */
const char *test_dir(void);
/* test_dir()/name, static. */
const char *test_path(const char *name);

/* stories260K.gguf in KVMM_SHARED or beside the source tree; NULL if it isn't there. */
const char *stories_path(void);

/* ---- engines ---- */

struct engine *test_engine(const char *model, uint32_t threads, uint32_t chunk);
/* With the cache open: frames of 64 KiB. */
struct engine *test_engine_with_cache(const char *model, uint32_t threads, uint32_t chunk,
                                      const struct engine_cache_config *config);

/* Tokens of a text as a prompt begins; malloc'd. */
engine_token *test_encode(const struct engine *engine, const char *text, size_t *n);

/* The conversation's K and V as bytes, [layer][k|v][head][token][dim], malloc'd: the same in every layout. */
void *test_kv_bytes(struct conversation *c, size_t *bytes);

/* ck_assert on rc == 0, with the error's line. */
#define ASSERT_OK(rc, err) ck_assert_msg((rc) == 0, "%s", (err).text)

int test_run(Suite *suite);

#endif
