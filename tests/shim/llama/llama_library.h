/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of llama.cpp's C interface that the tests use, loaded from a folder of prebuilt libraries.
 *
 * Its header isn't needed, so that any version with these functions will do. What is passed by value is the difficulty:
 * - Parameter structs are only ever made by the library's own functions for defaults and passed back, in a struct with room
 *   to spare. On x86-64 (System V ABI, 3.2.3) a struct over 16 bytes is returned through a pointer and passed by copying it
 *   to the stack, so that a larger one is as good.
 * - Their first four members have been the same for long; two more are found by the pattern of the defaults around them, and
 *   a pattern that isn't there is an error. What was set is asked for again afterwards, where there is a question for it.
 * - llama_batch has been the same since its sixth member came. */
#ifndef TESTS_SHIM_LLAMA_LIBRARY_H
#define TESTS_SHIM_LLAMA_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct llama_any_params {
    uint8_t bytes[1024];
};

struct llama_batch {
    int32_t n_tokens;
    int32_t *token;
    float *embd;
    int32_t *pos;
    int32_t *n_seq_id;
    int32_t **seq_id;
    int8_t *logits;
};

typedef void *llama_model, *llama_context, *llama_memory;

/* X(result, name, parameters) */
#define LLAMA_FUNCTIONS(X)                                                                                             \
    X(void, llama_backend_init, (void))                                                                                \
    X(void, llama_log_set, (void (*)(int, const char *, void *), void *))                                              \
    X(struct llama_any_params, llama_model_default_params, (void))                                                     \
    X(struct llama_any_params, llama_context_default_params, (void))                                                   \
    X(llama_model, llama_model_load_from_file, (const char *, struct llama_any_params))                                \
    X(void, llama_model_free, (llama_model))                                                                           \
    X(llama_context, llama_init_from_model, (llama_model, struct llama_any_params))                                    \
    X(void, llama_free, (llama_context))                                                                               \
    X(uint32_t, llama_n_ctx, (llama_context))                                                                          \
    X(uint32_t, llama_n_ctx_seq, (llama_context))                                                                      \
    X(uint32_t, llama_n_batch, (llama_context))                                                                        \
    X(uint32_t, llama_n_seq_max, (llama_context))                                                                      \
    X(void, llama_set_n_threads, (llama_context, int32_t, int32_t))                                                    \
    X(const void *, llama_model_get_vocab, (llama_model))                                                              \
    X(int32_t, llama_vocab_n_tokens, (const void *))                                                                   \
    X(int32_t, llama_tokenize, (const void *, const char *, int32_t, int32_t *, int32_t, bool, bool))                  \
    X(struct llama_batch, llama_batch_init, (int32_t, int32_t, int32_t))                                               \
    X(void, llama_batch_free, (struct llama_batch))                                                                    \
    X(int32_t, llama_decode, (llama_context, struct llama_batch))                                                      \
    X(float *, llama_get_logits_ith, (llama_context, int32_t))                                                         \
    X(llama_memory, llama_get_memory, (llama_context))                                                                 \
    X(void, llama_memory_clear, (llama_memory, bool))                                                                  \
    X(bool, llama_memory_seq_rm, (llama_memory, int32_t, int32_t, int32_t))                                            \
    X(void, llama_memory_seq_cp, (llama_memory, int32_t, int32_t, int32_t, int32_t))                                   \
    X(void, llama_memory_seq_add, (llama_memory, int32_t, int32_t, int32_t, int32_t))                                  \
    X(size_t, llama_state_get_size, (llama_context))                                                                   \
    X(size_t, llama_state_get_data, (llama_context, uint8_t *, size_t))                                                \
    X(size_t, llama_state_set_data, (llama_context, const uint8_t *, size_t))                                          \
    X(size_t, llama_state_seq_save_file, (llama_context, const char *, int32_t, const int32_t *, size_t))              \
    X(size_t, llama_state_seq_load_file, (llama_context, const char *, int32_t, int32_t *, size_t, size_t *))

#define LLAMA_MEMBER(result, name, parameters) result(*name) parameters;
struct llama_library {
    LLAMA_FUNCTIONS(LLAMA_MEMBER)
};
#undef LLAMA_MEMBER

/* Loads libllama and the CPU back end that suits this machine from folder. global: with RTLD_GLOBAL, as a program that
 * links the libraries has them; else RTLD_LOCAL, as Node loads them. Of what llama.cpp logs, errors go to stderr. On failure
 * false and one line in reason[size]. */
bool llama_library_open(struct llama_library *library, const char *folder, bool global, char *reason, size_t size);

struct llama_context_wish {
    uint32_t n_ctx, n_batch, n_seq_max;
    int flash; /* -1: the library decides; 0, 1 */
    bool unified;
};

/* The defaults with these changes. False and a reason if the struct isn't laid out in a way that is known. */
bool llama_library_context_params(const struct llama_library *library, const struct llama_context_wish *wish,
                                  struct llama_any_params *params, char *reason, size_t size);

#endif
