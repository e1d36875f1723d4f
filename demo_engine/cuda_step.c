/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_step.h"

#include <string.h>

/* The block: sequences, then three arrays of u32; a pass of n_rows tokens has at most as many sequences and wanted rows. */
static size_t block_bytes(uint32_t n_seqs, uint32_t n_rows, uint32_t n_wanted)
{
    return n_seqs * sizeof(struct kern_cu_seq) + (2 * (size_t)n_rows + n_wanted) * sizeof(uint32_t);
}

int cuda_step_open(const struct cuda_gpu *gpu, uint32_t max_rows, struct cuda_step *step, struct engine_error *err)
{
    const size_t bytes = block_bytes(max_rows, max_rows, max_rows);
    struct cuda_step new = {.max_rows = max_rows};
    int rc = cuda_gpu_alloc_pinned(gpu, bytes, "what a pass is told", &new.host, err);
    if (rc == 0)
        rc = cuda_gpu_alloc(gpu, bytes, "what a pass is told", &new.device, err);
    if (rc != 0)
        cuda_step_close(gpu, &new);
    else
        *step = new;
    return rc;
}

void cuda_step_close(const struct cuda_gpu *gpu, struct cuda_step *step)
{
    cuda_gpu_free(gpu, &step->device);
    cuda_gpu_free_pinned(gpu, &step->host);
}

static void count(struct cuda_step *s, const struct forward_item *items, uint32_t n_items)
{
    s->n_seqs = n_items;
    s->n_rows = s->n_wanted = s->max_queries = 0;
    for (uint32_t i = 0; i < n_items; i++) {
        s->n_rows += items[i].n_tokens;
        s->n_wanted += items[i].logits != NULL;
        if (items[i].n_tokens > s->max_queries)
            s->max_queries = items[i].n_tokens;
    }
}

void cuda_step_fill(struct cuda_step *s, const struct forward_item *items, uint32_t n_items)
{
    count(s, items, n_items);
    s->bytes = block_bytes(s->n_seqs, s->n_rows, s->n_wanted);
    struct kern_cu_seq *seqs = s->host;
    uint32_t *tokens = (uint32_t *)(void *)(seqs + s->n_seqs), *row_seq = tokens + s->n_rows,
             *wanted = row_seq + s->n_rows;
    s->seqs = s->device;
    s->tokens = s->seqs + s->n_seqs * sizeof *seqs;
    s->row_seq = s->tokens + s->n_rows * sizeof *tokens;
    s->wanted = s->row_seq + s->n_rows * sizeof *row_seq;

    uint32_t row = 0;
    for (uint32_t i = 0; i < n_items; i++) {
        const struct forward_item *item = &items[i];
        seqs[i] = (struct kern_cu_seq){.base = (uint64_t)(uintptr_t)item->layout.base,
                                       .group_stride = item->layout.group_stride,
                                       .first_pos = item->first_pos,
                                       .n_queries = item->n_tokens,
                                       .first_row = row};
        for (uint32_t t = 0; t < item->n_tokens; t++, row++) {
            tokens[row] = (uint32_t)item->tokens[t];
            row_seq[row] = i;
        }
        if (item->logits)
            *wanted++ = row - 1;
    }
}

int cuda_step_upload(const struct cuda_gpu *gpu, const struct cuda_step *s, struct engine_error *err)
{
    CUresult rc = gpu->cu->MemcpyHtoDAsync(s->device, s->host, s->bytes, gpu->stream);
    return rc == CUDA_SUCCESS ? 0 : cuda_gpu_failure(gpu, rc, "cuMemcpyHtoDAsync", "what a pass is told", err);
}
