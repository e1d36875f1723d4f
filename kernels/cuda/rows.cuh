/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the rows of a cache lie: kernels/cuda/params.h's formula, with a division by page_tokens that is a multiplication. */
#ifndef KERN_ROWS_CUH
#define KERN_ROWS_CUH

#include <device.cuh>

#include "kernels/cuda/params.h"

/* K of one head of one sequence; V lies kv_stride behind. */
struct cache_rows {
    uint64_t base;
    uint64_t page_stride, token_stride;
    uint32_t page_tokens;
    uint32_t
        magic; /* token / page_tokens = token × magic >> shift, for tokens below 2³¹ (Granlund, Montgomery, 1994) */
    uint32_t shift;

    DEVICE cache_rows(const struct kern_cu_cache &cache, const struct kern_cu_seq &seq, uint32_t head, uint64_t = 0)
        : base(seq.base + cache.group * seq.group_stride + cache.layer_offset + head * cache.head_stride),
          page_stride(cache.page_stride), token_stride(cache.token_stride), page_tokens(cache.page_tokens)
    {
        uint32_t bits = 0;
        while (bits < 31 && (1u << bits) < page_tokens)
            bits++;
        shift = 31 + bits;
        /* at most 2³¹ × 2^bits / page_tokens, rounded up: below 2³², as 2^bits < 2 × page_tokens */
        magic = static_cast<uint32_t>(((1ull << shift) + page_tokens - 1) / page_tokens);
    }

    DEVICE uint32_t page_of(uint32_t token) const
    {
        return static_cast<uint32_t>(static_cast<uint64_t>(token) * magic >> shift);
    }
    DEVICE uint64_t row(uint32_t token) const
    {
        const uint32_t page = page_of(token);

        return base + page * page_stride + (token - page * page_tokens) * token_stride;
    }
};

/* The same through the block table of a sequence. */
struct paged_rows : cache_rows {
    uint64_t table;

    DEVICE paged_rows(const struct kern_cu_cache &cache, const struct kern_cu_seq &seq, uint32_t head, uint64_t t)
        : cache_rows(cache, seq, head), table(t)
    {
    }
    DEVICE uint64_t row(uint32_t token) const
    {
        const uint32_t page = page_of(token);

        return base + at<const uint32_t>(table)[page] * page_stride + (token - page * page_tokens) * token_stride;
    }
};

#endif
