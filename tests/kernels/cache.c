/* SPDX-License-Identifier: Apache-2.0 */
#include "cache.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MEMORY_PAGE ((size_t)4096)

static size_t up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static struct kern_tensor tensor(const uint8_t *base, size_t page_stride, size_t token_stride, size_t head_stride,
                                 uint32_t page_tokens)
{
    return (struct kern_tensor){.base = base,
                                .page_stride = page_stride,
                                .token_stride = token_stride,
                                .head_stride = head_stride,
                                .page_tokens = page_tokens};
}

void cache_open(struct cache *cache, enum cache_layout layout, const struct kern_attention_params *p,
                uint32_t page_tokens, uint32_t n_tokens)
{
    const size_t element = p->dtype == KERN_F32 ? 4 : 2;
    const size_t dims = p->head_dim * element;
    const size_t row = p->n_kv_heads * dims;
    const uint32_t n_pages = (n_tokens + page_tokens - 1) / page_tokens;
    const uint32_t last_page = n_tokens - (n_pages - 1) * page_tokens;
    const size_t fence = 2 * up(row, MEMORY_PAGE);
    size_t page_stride = 0;
    size_t end = 0; /* bytes from the start to behind the last row */
    size_t token = 0;
    size_t v_at = 0;

    switch (layout) {
    case CACHE_PAGE_MAJOR:
        page_stride = 2 * page_tokens * row;
        v_at = page_tokens * row;
        /* the last head's tokens: what lies behind them is of no token */
        end = (n_pages - 1) * page_stride + v_at + (p->n_kv_heads - 1) * page_tokens * dims + last_page * dims;
        break;
    case CACHE_TOKEN_MAJOR:
    case CACHE_ODD:
        token = 2 * row + (layout == CACHE_ODD ? 3 * element : 0);
        page_stride = page_tokens * token + (layout == CACHE_ODD ? 5 * element : 0);
        v_at = row + (layout == CACHE_ODD ? element : 0);
        end = (n_pages - 1) * page_stride + (last_page - 1) * token + v_at + row;
        break;
    default:
        token = 2 * fence;
        page_stride = page_tokens * token;
        end = (n_pages - 1) * page_stride + (last_page - 1) * token + fence + up(row, MEMORY_PAGE);
    }
    cache->memory_bytes = up(end, MEMORY_PAGE) + MEMORY_PAGE;
    cache->memory = mmap(NULL, cache->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(cache->memory, MAP_FAILED);
    memset(cache->memory, 0xff, cache->memory_bytes - MEMORY_PAGE);
    uint8_t *base = cache->memory;
    if (layout == CACHE_FENCED) {
        for (size_t at = fence / 2; at < cache->memory_bytes; at += fence)
            if (mprotect(base + at, at + fence / 2 < cache->memory_bytes ? fence / 2 : MEMORY_PAGE, 0) != 0)
                ck_abort_msg("mprotect: %d", errno);
        base += up(row, MEMORY_PAGE) - row;
        v_at = fence;
    } else {
        ck_assert_int_eq(mprotect(base + cache->memory_bytes - MEMORY_PAGE, MEMORY_PAGE, 0), 0);
        base += up(end, MEMORY_PAGE) - end;
    }
    if (layout == CACHE_PAGE_MAJOR) {
        cache->k = tensor(base, page_stride, dims, page_tokens * dims, page_tokens);
        cache->v = tensor(base + v_at, page_stride, dims, page_tokens * dims, page_tokens);
    } else {
        cache->k = tensor(base, page_stride, token, dims, page_tokens);
        cache->v = tensor(base + v_at, page_stride, token, dims, page_tokens);
    }
}

void cache_close(struct cache *cache)
{
    munmap(cache->memory, cache->memory_bytes);
}

void cache_fill(const struct cache *cache, const struct kern_attention_params *p, uint32_t first, uint32_t n,
                const float *k, const float *v)
{
    const size_t stride = (size_t)p->n_kv_heads * p->head_dim;
    struct kern_attention_params plain = *p;

    plain.isa = KERN_ISA_SCALAR;
    kern_store(&plain, &cache->k, first, n, k, stride);
    kern_store(&plain, &cache->v, first, n, v, stride);
}

uint64_t rng_next(struct rng *rng)
{
    uint64_t z = (rng->state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t rng_below(struct rng *rng, uint32_t n)
{
    return (uint32_t)(((rng_next(rng) >> 32) * n) >> 32);
}

float rng_normal(struct rng *rng)
{
    const uint64_t bits = rng_next(rng);
    int32_t sum = 0; /* of four 16-bit uniforms: deviation 65536 / √3 */

    for (int i = 0; i < 4; i++)
        sum += (int32_t)(bits >> (16 * i) & 0xffff) - 32768;
    return (float)sum * (1.7320508f / 65536);
}

void rng_fill(struct rng *rng, float *dst, size_t n, float deviation)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = rng_normal(rng) * deviation;
}

int attend(const struct kern_attention_params *p, const struct kern_attention_item *items, size_t n_items,
           struct kern_pool *pool)
{
    static void *scratch; /* kept from call to call, full of an earlier call's numbers: uninitialised is the contract */
    static size_t scratch_bytes;
    const size_t bytes = kern_attention_scratch(p, items, n_items, kern_pool_size(pool));

    if (bytes == 0)
        return -EINVAL;
    if (bytes > scratch_bytes) {
        free(scratch);
        scratch = aligned_alloc(64, bytes);
        ck_assert_ptr_nonnull(scratch);
        memset(scratch, 0xff, bytes);
        scratch_bytes = bytes;
    }
    return kern_attention(p, items, n_items, scratch, pool);
}
