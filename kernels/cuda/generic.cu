/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention for any types, strides and head dims, plain and slow: a block takes one query and head, a warp of it every
 * fourth key, a lane every 32nd dim. Element-wide loads, no tensor cores. */
#include "elements.cuh"
#include "kernels/cuda/params.h"
#include "rows.cuh"

#define GENERIC_WARPS 4u
#define LANE_DIMS     8u /* 256 / 32 */

/* Joins the warps' m, l and o, and writes the row. Shared: m[warps], l[warps], o[warps][head_dim]. */
DEVICE void generic_join(const struct kern_cu_attention &p, uint64_t row, float m, float l, const float (&o)[LANE_DIMS])
{
    const uint32_t lane = thread_index() % 32;
    const uint32_t warp = thread_index() / 32;
    const uint32_t head_dim = p.cache.head_dim;
    float *all_m = shared_at<float>(0);
    float *all_l = all_m + GENERIC_WARPS;
    float *all_o = all_l + GENERIC_WARPS;

    if (lane == 0) {
        all_m[warp] = m;
        all_l[warp] = l;
    }
    UNROLL
    for (uint32_t j = 0; j < LANE_DIMS; j++)
        if (lane + 32 * j < head_dim)
            all_o[warp * head_dim + lane + 32 * j] = o[j];
    block_barrier();
    float top = -INFINITY;
    float sum = 0;
    float factor[GENERIC_WARPS];
    for (uint32_t w = 0; w < GENERIC_WARPS; w++)
        top = fmaxf(top, all_m[w]);
    UNROLL
    for (uint32_t w = 0; w < GENERIC_WARPS; w++) {
        factor[w] = all_m[w] == -INFINITY ? 0 : exp2_fast(all_m[w] - top);
        sum += all_l[w] * factor[w];
    }
    for (uint32_t d = thread_index(); d < head_dim; d += n_threads()) {
        float x = 0;
        UNROLL
        for (uint32_t w = 0; w < GENERIC_WARPS; w++)
            x += all_o[w * head_dim + d] * factor[w];
        store(p.out, row + d, p.out_type, x / sum);
    }
}

/* Grid: queries, heads, sequences. */
KERNEL(128, 1) kern_cu_generic(PARAM struct kern_cu_attention p)
{
    const struct kern_cu_seq seq = at<const struct kern_cu_seq>(p.seqs)[block_z()];
    const uint32_t query = block_x();
    const uint32_t head = block_y();
    const uint32_t head_dim = p.cache.head_dim;
    const uint32_t lane = thread_index() % 32;

    if (query >= seq.n_queries)
        return;
    const cache_rows rows(p.cache, seq, head / (p.n_heads / p.cache.n_kv_heads));
    const uint64_t row = (static_cast<uint64_t>(seq.first_row + query) * p.n_heads + head) * head_dim;
    const float scale = p.scale * 1.44269504f; /* log₂ e: weights are powers of two */
    float q[LANE_DIMS];
    float o[LANE_DIMS];
    float m = -INFINITY;
    float l = 0;

    UNROLL
    for (uint32_t j = 0; j < LANE_DIMS; j++) {
        q[j] = lane + 32 * j < head_dim ? load(p.q, row + lane + 32 * j, p.cache.dtype) * scale : 0;
        o[j] = 0;
    }
    for (uint32_t t = thread_index() / 32; t <= seq.first_pos + query; t += GENERIC_WARPS) {
        const uint64_t key = rows.row(t);
        float s = 0;
        UNROLL
        for (uint32_t j = 0; j < LANE_DIMS; j++)
            if (lane + 32 * j < head_dim)
                s += q[j] * load(key, lane + 32 * j, p.cache.dtype);
        for (uint32_t lanes = 16; lanes > 0; lanes /= 2)
            s += shuffle_xor(s, lanes);
        const float top = fmaxf(m, s);
        const float old = m == -INFINITY ? 0 : exp2_fast(m - top);
        const float weight = exp2_fast(s - top);
        m = top;
        l = l * old + weight;
        UNROLL
        for (uint32_t j = 0; j < LANE_DIMS; j++)
            if (lane + 32 * j < head_dim)
                o[j] = o[j] * old + weight * load(key + p.cache.kv_stride, lane + 32 * j, p.cache.dtype);
    }
    generic_join(p, row, m, l, o);
}
