/* SPDX-License-Identifier: Apache-2.0
 *
 * A K and V cache of one layer in a layout of choice, in memory where everything that no token owns is poison: NaN bytes
 * in between, and addresses that cannot be read right behind the last token's row. */
#ifndef TEST_KERNELS_CACHE_H
#define TEST_KERNELS_CACHE_H

#include "kernels/attention.h"
#include "tests/support/scale.h"

enum cache_layout {
    CACHE_PAGE_MAJOR,  /* [page][k|v][head][page_tokens][dim] */
    CACHE_TOKEN_MAJOR, /* [token][k|v][head][dim] */
    CACHE_ODD,         /* token-major, with gaps that are multiples of the element only */
    CACHE_FENCED,      /* each token's K ends where a memory page ends and the next one is unreadable, so each V */
    CACHE_LAYOUTS
};

struct cache {
    struct kern_tensor k, v;
    void *memory;
    size_t memory_bytes;
};

/* Shapes for which a layout is made; n_tokens rows are given room. Fails the test if memory is out. */
void cache_open(struct cache *cache, enum cache_layout layout, const struct kern_attention_params *p,
                uint32_t page_tokens, uint32_t n_tokens);
void cache_close(struct cache *cache);

/* Stores tokens [first, first + n) of k and v, both [n][n_kv_heads * head_dim]. */
void cache_fill(const struct cache *cache, const struct kern_attention_params *p, uint32_t first, uint32_t n,
                const float *k, const float *v);

/* The same numbers on every machine: splitmix64 (Steele, Lea and Flood, 2014). */
struct rng {
    uint64_t state;
};
uint64_t rng_next(struct rng *rng);
uint32_t rng_below(struct rng *rng, uint32_t n);
/* About normal, mean 0, deviation 1. */
float rng_normal(struct rng *rng);
void rng_fill(struct rng *rng, float *dst, size_t n, float deviation);

/* kern_attention() with scratch of its own. */
int attend(const struct kern_attention_params *p, const struct kern_attention_item *items, size_t n_items,
           struct kern_pool *pool);

#endif
