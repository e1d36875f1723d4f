/* SPDX-License-Identifier: Apache-2.0
 *
 * Shapes of attention problems on a device, drawn at random, and the memory of K and V for them. */
#ifndef TESTS_GPU_SHAPES_H
#define TESTS_GPU_SHAPES_H

#include "tests/gpu/device.h"

enum { MAX_SEQS = 6, N_LAYERS = 2 };

/* As kvmm's layouts; and rows at odd multiples of the element, which no vector fits. */
enum strides { PAGE_MAJOR, TOKEN_MAJOR, LAYER_MAJOR, ODD };

struct shape {
    enum strides strides;
    uint32_t dtype, out_type;             /* of K, V and queries; of the result */
    uint32_t head_dim, n_kv_heads, group; /* `group` query heads to a kv head */
    uint32_t page_tokens, n_seqs;
    float sharpness; /* about the deviation of the scores */
    uint32_t first_pos[MAX_SEQS], n_queries[MAX_SEQS];
};

/* Valid until the next call. */
const char *shape_text(const struct shape *s);
uint32_t shape_rows(const struct shape *s);

/* The strides of the shape's last layer. */
struct kern_cu_cache shape_cache(const struct shape *s);

/* K and V of so many pages, all NaN, and as much NaN behind as a tile of keys could read beyond them. */
struct kv_memory {
    struct buffer *buffer;
    uint64_t group_stride;
};
void kv_memory_open(struct kv_memory *m, const struct kern_cu_cache *c, uint32_t n_pages, enum access access);
/* Where row (kv, page, slot in the page, head) starts in the buffer, in bytes. */
size_t kv_row(const struct kern_cu_cache *c, const struct kv_memory *m, uint32_t kv, uint32_t page, uint32_t slot,
              uint32_t head);

#endif
