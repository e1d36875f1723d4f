/* SPDX-License-Identifier: Apache-2.0
 *
 * The C forms behind kernels/cuda/reference.h, and what they share. */
#ifndef KERN_CUDA_REFERENCE_FORMS_H
#define KERN_CUDA_REFERENCE_FORMS_H

#include "kernels/attention.h"
#include "kernels/convert.h"
#include "kernels/cuda/params.h"

typedef void *(*reference_at)(uint64_t address);

void reference_embed(const void *params, reference_at at);
void reference_turn(const void *params, reference_at at);
void reference_norm(const void *params, reference_at at);
void reference_append(const void *params, reference_at at);
void reference_swiglu(const void *params, reference_at at);
void reference_argmax(const void *params, reference_at at);
void reference_gather(const void *params, reference_at at);
void reference_prefill(const void *params, reference_at at);
void reference_decode(const void *params, reference_at at);
void reference_prefill_paged(const void *params, reference_at at);
void reference_decode_paged(const void *params, reference_at at);
void reference_combine(const void *params, reference_at at);

static inline uint64_t reference_bytes(uint32_t type)
{
    return type == KERN_F32 ? 4 : 2;
}

/* n elements at `row`, which is host memory, from and to f32. */
static inline void reference_load(float *x, const void *row, uint32_t n, uint32_t type)
{
    const uint16_t *halves = row;

    if (type == KERN_F32)
        memcpy(x, row, n * sizeof(float));
    else if (type == KERN_F16)
        for (uint32_t i = 0; i < n; i++)
            x[i] = kern_f32_of_f16(halves[i]);
    else
        for (uint32_t i = 0; i < n; i++)
            x[i] = kern_f32_of_bf16(halves[i]);
}

static inline void reference_store(void *row, uint32_t type, const float *x, uint32_t n)
{
    uint16_t *halves = row;

    if (type == KERN_F32)
        memcpy(row, x, n * sizeof(float));
    else if (type == KERN_F16)
        for (uint32_t i = 0; i < n; i++)
            halves[i] = kern_f16_of_f32(x[i]);
    else
        for (uint32_t i = 0; i < n; i++)
            halves[i] = kern_bf16_of_f32(x[i]);
}

static inline uint32_t reference_index(reference_at at, uint64_t array, uint32_t i)
{
    return *(const uint32_t *)at(array + i * sizeof(uint32_t));
}

static inline struct kern_cu_seq reference_seq(reference_at at, uint64_t seqs, uint32_t i)
{
    return *(const struct kern_cu_seq *)at(seqs + i * sizeof(struct kern_cu_seq));
}

/* Where K of a token and head is, in the page at `page`; V is kv_stride behind. */
static inline uint64_t reference_row(const struct kern_cu_cache *cache, const struct kern_cu_seq *seq, uint32_t page,
                                     uint32_t token, uint32_t head)
{
    return seq->base + cache->group * seq->group_stride + cache->layer_offset + page * cache->page_stride +
           token % cache->page_tokens * cache->token_stride + head * cache->head_stride;
}

#endif
