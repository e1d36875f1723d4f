/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/shim/ggml_like.h"

void *llama_like_buffer(struct ggml_context *ctx)
{
    void *buffer = ggml_backend_alloc_ctx_tensors_from_buft(ctx, NULL);
    __asm__ volatile("" ::: "memory");
    return buffer;
}
