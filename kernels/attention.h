/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention over a KV cache of any strides, on the CPU. Knows pointers and strides, not pages or sequences.
 *
 * Results do not depend on how the work is cut: a query's output bits are the same whether its tokens come in one
 * call or one at a time, alone or in a batch, with any number of threads, in any layout. (They may differ between
 * kern_isa levels.) To get that, every query visits the key blocks of KERN_BLOCK tokens in one fixed order with one
 * fixed reduction inside a block, and splits over the sequence lie at multiples of KERN_SPLIT tokens from token 0,
 * combined in one fixed order too: both from the newest to the oldest.
 *
 * Only rows of tokens that a query attends to are read. A NaN in q or K reaches the outputs that attend to it; a NaN in V
 * does so unless the token's weight is below 2^-126. An infinity in K gives what its scores say, but may count as a NaN
 * where bf16 keys meet avx512_bf16.
 */
#ifndef KERN_ATTENTION_H
#define KERN_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#include "pool.h"

enum kern_dtype { KERN_F16 = 0, KERN_BF16 = 1, KERN_F32 = 2 };

/* Which code runs. kern_attention() refuses a level above what the CPU has. */
enum kern_isa {
    KERN_ISA_SCALAR = 0, /* portable C: the plain reference in f32 */
    KERN_ISA_AVX2 = 1,   /* AVX2 + FMA + F16C */
    KERN_ISA_AVX512 = 2, /* F, BW, DQ, VL */
    KERN_ISA_AVX512_BF16 = 3,
    KERN_ISA_AVX512_FP16 = 4 /* runs what the levels below do: a sum kept in f16 errs too much */
};

/* The best level of this CPU. */
enum kern_isa kern_isa_best(void);
/* "scalar", "avx2", "avx512", "avx512_bf16", "avx512_fp16". */
const char *kern_isa_name(enum kern_isa isa);

/* K or V of one layer of one sequence. Element (token, head, dim) is at
 * base + (token / page_tokens) * page_stride + (token % page_tokens) * token_stride + head * head_stride
 *      + dim * sizeof(element). Strides in bytes; dims are contiguous. */
struct kern_tensor {
    const void *base;
    size_t page_stride;
    size_t token_stride;
    size_t head_stride;
    uint32_t page_tokens; /* ≥ 1; any value, 16 is the fast one */
};

/* One sequence's part in a batch: n_queries consecutive tokens, the first at position first_pos. Query i attends to
 * keys 0 … first_pos + i (causal). K and V of all those tokens are already in the cache. */
struct kern_attention_item {
    struct kern_tensor k, v;
    uint32_t first_pos;
    uint32_t n_queries;          /* ≥ 1; 1 is decode, more is prefill */
    const float *q;              /* [n_queries][q_stride], head h at q[i * q_stride + h * head_dim] */
    float *out;                  /* same shape with out_stride; must not overlap q */
    size_t q_stride, out_stride; /* in floats, ≥ n_heads * head_dim */
};

struct kern_attention_params {
    uint32_t n_heads;    /* query heads; a multiple of n_kv_heads */
    uint32_t n_kv_heads; /* query head h reads kv head h / (n_heads / n_kv_heads) */
    uint32_t head_dim;   /* 1 … KERN_MAX_HEAD_DIM; multiples of 16 are the fast ones */
    enum kern_dtype dtype;
    enum kern_isa isa;
    float scale; /* scores are q·k × scale, 1/√head_dim as a rule */
};

#define KERN_BLOCK        64
#define KERN_SPLIT        1024
#define KERN_MAX_HEAD_DIM 256

/* Bytes of scratch that kern_attention() needs for these items and at most this many pool threads; 0 if a parameter is
 * out of its bounds. */
size_t kern_attention_scratch(const struct kern_attention_params *p, const struct kern_attention_item *items,
                              size_t n_items, uint32_t n_threads);

/* Computes all items on `pool` (NULL: on the calling thread). scratch: kern_attention_scratch() bytes, aligned to 64;
 * uninitialised; not shared with a concurrent call. Returns 0, or -EINVAL if a parameter is out of its bounds or the
 * isa is above what the CPU has. */
int kern_attention(const struct kern_attention_params *p, const struct kern_attention_item *items, size_t n_items,
                   void *scratch, struct kern_pool *pool);

/* The yardstick for tests: the same result in double precision throughout, one thread, no blocks. out[i] as doubles,
 * same indexing as item->out. */
void kern_attention_reference(const struct kern_attention_params *p, const struct kern_attention_item *item,
                              double *out);

/* Stores n_tokens rows of f32 K or V, src[i * src_stride + h * head_dim + d], at tokens first_pos … of a cache tensor,
 * rounded to nearest even in dtype. Single-threaded; distinct tokens may be stored concurrently. */
void kern_store(const struct kern_attention_params *p, const struct kern_tensor *dst, uint32_t first_pos,
                uint32_t n_tokens, const float *src, size_t src_stride);

#endif
