/* SPDX-License-Identifier: Apache-2.0
 *
 * The seam between the planner (attention.c: which rows, which splits, which thread) and the arithmetic (tile_*.c: one
 * file for each kern_isa level, all from the template tile_body.h).
 *
 * A row is one query of one query head. The rows of a KV head lie query by query, and inside a query head by head. A tile
 * is a run of a KV head's rows, the same of one or more KV heads, KV head by KV head: many rows of one head share what is
 * done to K and V; where rows are few, many heads share the way through memory. What a row's result is depends on its own
 * query and keys alone, never on the tile it is in. */
#ifndef KERN_TILE_H
#define KERN_TILE_H

#include <stdbool.h>

#include "attention.h"

/* Rows of a prefill tile. They share the conversion of K and V, some thousand instructions a block, so there should be
 * many; their q, accumulators and scores should stay in the second-level cache. */
#define KERN_TILE_ROWS 256

/* Keys in a group that is added to the output, or left out because all its weights are zero. */
#define KERN_GROUP 16

#define KERN_MAX_LANES 16

/* Weights below 2⁻¹²⁶ are zero: the least normal f32, so that no arithmetic on denormals slows the loops. */
#define KERN_LEAST_EXPONENT (-126.0f)

/* Softmax state of a tile's rows over some of their keys. */
struct kern_rows {
    float *max; /* [rows] greatest score, in units of log 2, or the row's floor if that is greater */
    float *sum; /* [rows] of the weights 2^(score - max) */
    float *acc; /* [rows][dim_pad] weights × V */
};
#define KERN_NO_MAX (-0x1.fffffep127f) /* not -∞: a score of -∞ minus it is a number */

/* Blocks in a split: one vector's worth at the widest. */
#define KERN_SPLIT_BLOCKS (KERN_SPLIT / KERN_BLOCK)

/* When a tile computes bounds of scores (screen.h). */
struct kern_screen {
    uint32_t wait;  /* splits to go without */
    uint32_t pause; /* wait after the next failure */
};

struct kern_tile {
    const struct kern_attention_params *p;
    const struct kern_attention_item *item;
    uint32_t kv_head; /* the first of n_kv_heads */
    uint32_t n_kv_heads;
    uint32_t first_row; /* of the KV head's n_queries × group; the tile has head_rows from this on */
    uint32_t head_rows;
    uint32_t n_rows;  /* n_kv_heads × head_rows */
    uint32_t group;   /* query heads for each KV head */
    uint32_t dim_pad; /* head_dim up to a multiple of 16 */
    struct kern_screen screen;

    /* One thread's scratch, each part aligned to 64. */
    float *q;         /* [rows][dim_pad] × scale × log2 e, padded with zeros, in the form that the products take */
    float *plain_q;   /* the same in f32; = q where that is the form */
    float *k;         /* [head_dim][KERN_BLOCK]: a block of keys, transposed */
    float *v;         /* [KERN_BLOCK][dim_pad] */
    float *scores;    /* [rows][KERN_BLOCK]: scores, then weights */
    float *lane_sums; /* [rows][KERN_MAX_LANES] */
    float *floors;    /* [rows] */
    float *bounds;    /* [rows][KERN_SPLIT_BLOCKS] no score of the block is above this */
    float *boxes;     /* [2][head_dim][KERN_SPLIT_BLOCKS] middle and half width of what a block's keys span */
    uint32_t *limits; /* [rows] keys that a row attends to: its position + 1 */
    uint8_t *groups;  /* [rows] bit g: group g of the block has a weight other than zero */
    uint16_t *active; /* [rows] those whose scores are computed in this block */
    uint16_t *full;   /* [rows] those among them with weights in all groups */
};

struct kern_tile_ops {
    bool two_queries; /* the products take q in a form of their own */
    /* Fills q and limits. */
    void (*begin)(struct kern_tile *t);
    /* Fills floors. Not needed where all splits are done one after the other from the newest on. */
    void (*find_floors)(struct kern_tile *t);
    /* The rows' state over the keys of split `split`. Reads and, for rows whose newest split this is, fills floors. */
    void (*split)(struct kern_tile *t, uint32_t split, const struct kern_rows *part);
    /* Takes a split's state into total. To be called from the newest split to the oldest. */
    void (*fold)(struct kern_tile *t, const struct kern_rows *total, const struct kern_rows *part);
    /* total to item->out. */
    void (*finish)(struct kern_tile *t, const struct kern_rows *total);
    /* n elements of f32, rounded to nearest even in dtype. */
    void (*narrow)(enum kern_dtype dtype, void *dst, const float *src, uint32_t n);
};

/* The arithmetic for a level that this CPU has. */
const struct kern_tile_ops *kern_tile_ops(enum kern_isa isa, enum kern_dtype dtype);

extern const struct kern_tile_ops kern_tile_scalar;
#if defined(__x86_64__)
extern const struct kern_tile_ops kern_tile_avx2;
extern const struct kern_tile_ops kern_tile_avx512;
extern const struct kern_tile_ops kern_tile_avx512_bf16; /* KERN_BF16 only */
#endif

/* True if the CPU and the operating system have this level. */
bool kern_isa_usable(enum kern_isa isa);

#endif
