/* SPDX-License-Identifier: Apache-2.0
 *
 * What each CUDA kernel is told: one struct a kernel, passed by value as its only parameter, the same for the device code
 * (*.cu), for the launches (kernels/cuda.c) and for the plain C forms of the kernels (kernels/cuda/reference.c).
 *
 * Addresses are device addresses. Matrices are row-major without gaps: [rows][width]. A "row" is a token of the pass;
 * `n_rows` counts them. Element types are enum kern_dtype (0 f16, 1 bf16, 2 f32). Nothing here knows pages or residency. */
#ifndef KERN_CUDA_PARAMS_H
#define KERN_CUDA_PARAMS_H

#include <stdint.h>

/* One sequence's part of a pass: an element of an array in device memory, so that a captured graph finds new values in
 * the same place. Its tokens are rows [first_row, first_row + n_queries), at positions first_pos …; row i attends to
 * positions 0 … first_pos + i. */
struct kern_cu_seq {
    uint64_t base;         /* of its range: kvmm_layout.base */
    uint64_t group_stride; /* bytes: kvmm_layout.group_stride */
    uint32_t first_pos;
    uint32_t n_queries; /* ≥ 1 */
    uint32_t first_row;
    uint32_t reserved;
};

/* K and V of one layer, in the strides of kvmm_layout, in bytes. Element (kv, token, head, dim) of a sequence is at
 *   seq.base + group * seq.group_stride + layer_offset + kv * kv_stride + (token / page_tokens) * page_stride
 *            + (token % page_tokens) * token_stride + head * head_stride + dim * element size.
 * base and group_stride are multiples of 16, as frames are. Any other strides that are multiples of the element size are
 * right; where all of them and head_dim × element size are multiples of 16 bytes, rows are read as vectors. */
struct kern_cu_cache {
    uint64_t layer_offset;
    uint64_t kv_stride, page_stride, token_stride, head_stride;
    uint32_t group;
    uint32_t page_tokens; /* ≥ 1 */
    uint32_t n_kv_heads;
    uint32_t head_dim; /* 1 … 256 */
    uint32_t dtype;    /* of K and V */
    uint32_t reserved;
};

/* kern_cu_embed: x[row] = table[tokens[row]], as f32. */
struct kern_cu_embed {
    uint64_t tokens; /* u32 [n_rows] */
    uint64_t table;  /* table_type [n_vocab][width] */
    uint64_t x;      /* f32 [n_rows][width] */
    uint32_t table_type, width, n_rows, reserved;
};

/* kern_cu_turn: turn[row][2j] = cos(pos × theta[j]), [2j + 1] = sin; the angle in double, once a pass for all layers. */
struct kern_cu_turn {
    uint64_t seqs;    /* struct kern_cu_seq [n_seqs] */
    uint64_t row_seq; /* u32 [n_rows]: which sequence a row belongs to */
    uint64_t theta;   /* f32 [rope_dims / 2] */
    uint64_t turn;    /* f32 [n_rows][rope_dims] */
    uint32_t rope_dims, n_rows;
};

/* kern_cu_norm: x[row] += delta[row] if delta is not 0 (x is updated in place); then
 * out[i] = x[row] / sqrt(mean(x[row]²) + eps) × weight. With rows, row = rows[i] and nothing is added: the rows whose
 * logits are wanted; without, row = i. */
struct kern_cu_norm {
    uint64_t x;      /* f32 [][width] */
    uint64_t delta;  /* f32 [n_rows][width], or 0 */
    uint64_t weight; /* f32 [width] */
    uint64_t rows;   /* u32 [n_rows], or 0 */
    uint64_t out;    /* out_type [n_rows][width], or 0: only add */
    float eps;
    uint32_t width, n_rows, out_type;
};

/* kern_cu_append: turns q and k by `turn` (pairs 2j, 2j + 1, of the first rope_dims of each head), writes q as q_type, and
 * k and v, rounded to nearest even, into the cache at each row's position. */
struct kern_cu_append {
    struct kern_cu_cache cache;
    uint64_t seqs, row_seq, turn;
    uint64_t q;     /* f32 [n_rows][n_heads × head_dim] */
    uint64_t k, v;  /* f32 [n_rows][n_kv_heads × head_dim] */
    uint64_t q_out; /* q_type [n_rows][n_heads × head_dim] */
    uint32_t n_heads, rope_dims, n_rows, q_type;
};

/* kern_cu_prefill, kern_cu_decode, kern_cu_generic: causal attention of all rows, query head h over
 * kv head h / (n_heads / n_kv_heads); sums in f32. Decode: every sequence has one query; keys are cut into n_splits parts
 * whose results lie in `partial` until kern_cu_combine joins them. Generic: any types and strides, plain and slow. */
struct kern_cu_attention {
    struct kern_cu_cache cache;
    uint64_t seqs;
    uint64_t q;       /* cache.dtype [n_rows][n_heads × head_dim] */
    uint64_t out;     /* out_type, same shape */
    uint64_t partial; /* decode: f32, kern_cuda_decode_scratch() bytes; else 0 */
    uint32_t n_heads, n_seqs, out_type;
    uint32_t n_splits; /* decode */
    float scale;       /* > 0 */
    uint32_t reserved;
};

/* kern_cu_prefill_paged, kern_cu_decode_paged: the same over a cache behind a block table, so that what a table costs can be
 * measured: where a sequence's page n is meant, it is page block_table[s × table_stride + n], s the sequence's index. */
struct kern_cu_paged {
    struct kern_cu_attention attention;
    uint64_t block_table; /* u32 [n_seqs][table_stride] */
    uint32_t table_stride, reserved;
};

/* kern_cu_swiglu: out = silu(gate) × up. */
struct kern_cu_swiglu {
    uint64_t gate, up; /* f32 [n_rows][width] */
    uint64_t out;      /* out_type */
    uint32_t width, n_rows, out_type, reserved;
};

/* kern_cu_argmax: out[row] = the index of the greatest of logits[row]; the lowest of equals. NaN counts as −∞. */
struct kern_cu_argmax {
    uint64_t logits; /* f32 [n_rows][width] */
    uint64_t out;    /* u32 [n_rows] */
    uint32_t width, n_rows;
};

/* kern_cu_gather: copies n blocks of `bytes` bytes (a multiple of 16) between addresses aligned to 16: gather and scatter
 * of frames and of block tables in one launch. */
struct kern_cu_copy {
    uint64_t from, to;
};
struct kern_cu_gather {
    uint64_t copies; /* struct kern_cu_copy [n] */
    uint64_t bytes;
    uint32_t n, reserved;
};

#endif
