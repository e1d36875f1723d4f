/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_SHIM_GGML_LIKE_H
#define TESTS_SHIM_GGML_LIKE_H

#include <stddef.h>

#define GGML_LIKE_API __attribute__((visibility("default")))

struct ggml_tensor {
    const char *name;
    size_t bytes;
};

struct ggml_context {
    int n_tensors;
    struct ggml_tensor tensors[8];
};

struct ggml_backend_buffer;
struct ggml_backend_buffer_type;

GGML_LIKE_API struct ggml_tensor *ggml_get_first_tensor(const struct ggml_context *ctx);
GGML_LIKE_API struct ggml_tensor *ggml_get_next_tensor(const struct ggml_context *ctx, struct ggml_tensor *tensor);
GGML_LIKE_API const char *ggml_get_name(const struct ggml_tensor *tensor);
GGML_LIKE_API size_t ggml_nbytes(const struct ggml_tensor *tensor);

/* The buffer is the memory itself. */
GGML_LIKE_API struct ggml_backend_buffer *
ggml_backend_alloc_ctx_tensors_from_buft(struct ggml_context *ctx, struct ggml_backend_buffer_type *buft);

/* libllama_like: calls the above, as libllama does. */
GGML_LIKE_API void *llama_like_buffer(struct ggml_context *ctx);

#endif
