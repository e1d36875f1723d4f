/* SPDX-License-Identifier: Apache-2.0
 *
 * What the shim sees of ggml: the functions that it looks for, with ggml's signatures. */
#include "tests/shim/ggml_like.h"

#include <stdlib.h>

struct ggml_tensor *ggml_get_first_tensor(const struct ggml_context *ctx)
{
    return ctx->n_tensors ? (struct ggml_tensor *)&ctx->tensors[0] : NULL;
}

struct ggml_tensor *ggml_get_next_tensor(const struct ggml_context *ctx, struct ggml_tensor *tensor)
{
    return tensor + 1 < ctx->tensors + ctx->n_tensors ? tensor + 1 : NULL;
}

const char *ggml_get_name(const struct ggml_tensor *tensor)
{
    return tensor->name;
}

size_t ggml_nbytes(const struct ggml_tensor *tensor)
{
    return tensor->bytes;
}

__attribute__((noinline)) static void *ggml_like_aligned_malloc(size_t bytes)
{
    void *address = NULL;
    int error = posix_memalign(&address, 64, bytes);
    return error ? NULL : address;
}

struct ggml_backend_buffer *ggml_backend_alloc_ctx_tensors_from_buft(struct ggml_context *ctx,
                                                                     struct ggml_backend_buffer_type *buft)
{
    size_t bytes = 0;
    for (int i = 0; i < ctx->n_tensors; i++)
        bytes += ctx->tensors[i].bytes;
    free(malloc(100));
    void *address = ggml_like_aligned_malloc(bytes);
    __asm__ volatile("" ::: "memory");
    return address;
}
