/* SPDX-License-Identifier: Apache-2.0
 *
 * How attention is cut into blocks: what the kernels and their launches must agree on. `d` is a padded head dim: 32, 64, 128
 * or 256. Shared memory stays below the 99 KiB of sm_86 and lets two blocks or more live on a multiprocessor of sm_80.
 *
 * A "row" is one query of one head. The heads that share a kv head are rows of one tile, so that their keys are read once:
 * row r of a kv head is query r / g, head r % g of its g heads. */
#ifndef KERN_CUDA_TILES_H
#define KERN_CUDA_TILES_H

#define KERN_CU_ATTENTION_WARPS 4

/* Prefill: a block takes so many rows and walks over the keys by so many, through a ring of tiles in flight. */
#define KERN_CU_PREFILL_ROWS(d) ((d) < 256 ? 128 : 64)
#define KERN_CU_PREFILL_KEYS(d) ((d) < 256 ? 64 : 32)
#define KERN_CU_PREFILL_SLOTS   3
#define KERN_CU_PREFILL_SHARED(d)                                                                                      \
    (2 * (d) * (KERN_CU_PREFILL_ROWS(d) + KERN_CU_PREFILL_SLOTS * KERN_CU_PREFILL_KEYS(d)))

/* Decode: a block takes up to 16 heads of a kv head and one split of the keys; each of its warps has 16 keys of four and a
 * ring of its own. At the end shared memory holds the warps' m and l, and, over the rest, their sums. */
#define KERN_CU_DECODE_ROWS     16
#define KERN_CU_DECODE_KEYS     16
#define KERN_CU_DECODE_SLOTS(d) ((d) < 256 ? 4 : 2)
#define KERN_CU_DECODE_TILES(d)                                                                                        \
    (2 * (d) * (KERN_CU_DECODE_ROWS + KERN_CU_ATTENTION_WARPS * KERN_CU_DECODE_SLOTS(d) * KERN_CU_DECODE_KEYS))
#define KERN_CU_DECODE_SHARED(d) (KERN_CU_DECODE_TILES(d) + KERN_CU_ATTENTION_WARPS * KERN_CU_DECODE_ROWS * 8)

/* Generic: m and l of each warp, and a row of f32 of each. */
#define KERN_CU_GENERIC_SHARED(head_dim) (KERN_CU_ATTENTION_WARPS * (8 + 4 * (head_dim)))

/* `partial`: f32 o[n_seqs][n_heads][n_splits][head_dim], then struct { f32 m, l } [n_seqs][n_heads][n_splits]. Weights are
 * 2^(score × scale × log₂ e − m), o and l their sums; m is −∞ where a split has no keys, and its o is not written. */

#endif
