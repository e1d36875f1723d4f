/* SPDX-License-Identifier: Apache-2.0
 *
 * A row's q, k and v after their products: turned, rounded, and k and v put into the cache. One block a row. */
#include "elements.cuh"
#include "kernels/cuda/params.h"
#include "rows.cuh"

/* The pair at dims 2j, 2j + 1 of a head, turned if it is one of the first rope_dims / 2. */
DEVICE void turned_pair(float (&x)[2], const float *from, const float *turn, uint32_t j, uint32_t rope_dims,
                        uint32_t head_dim)
{
    x[0] = from[2 * j];
    x[1] = 2 * j + 1 < head_dim ? from[2 * j + 1] : 0;
    if (2 * j < rope_dims) {
        const float c = turn[2 * j];
        const float s = turn[2 * j + 1];
        const float first = x[0] * c - x[1] * s;
        x[1] = x[0] * s + x[1] * c;
        x[0] = first;
    }
}

DEVICE void store_pair(uint64_t row, uint32_t j, uint32_t type, const float (&x)[2], uint32_t head_dim)
{
    if (2 * j + 1 < head_dim && aligned<2>(row, type)) {
        store<2>(row, 2 * j, type, x);
        return;
    }
    store(row, 2 * j, type, x[0]);
    if (2 * j + 1 < head_dim)
        store(row, 2 * j + 1, type, x[1]);
}

KERNEL(256, 1) kern_cu_append(PARAM struct kern_cu_append p)
{
    const uint32_t row = block_x();
    const uint32_t head_dim = p.cache.head_dim;
    const uint32_t n_kv = p.cache.n_kv_heads;
    const uint32_t head_pairs = (head_dim + 1) / 2;
    const struct kern_cu_seq &seq = at<const struct kern_cu_seq>(p.seqs)[at<const uint32_t>(p.row_seq)[row]];
    const uint32_t pos = seq.first_pos + (row - seq.first_row);
    const uint64_t token = cache_rows(p.cache, seq, 0).row(pos);
    const float *turn = at<const float>(p.turn) + static_cast<uint64_t>(row) * p.rope_dims;
    float x[2];

    for (uint32_t i = thread_index(); i < p.n_heads * head_pairs; i += n_threads()) {
        const uint64_t at_head = (static_cast<uint64_t>(row) * p.n_heads + i / head_pairs) * head_dim;
        turned_pair(x, at<const float>(p.q) + at_head, turn, i % head_pairs, p.rope_dims, head_dim);
        store_pair(p.q_out + at_head * element_bytes(p.q_type), i % head_pairs, p.q_type, x, head_dim);
    }
    for (uint32_t i = thread_index(); i < 2 * n_kv * head_pairs; i += n_threads()) {
        const uint32_t kv = i / (n_kv * head_pairs);
        const uint32_t head = i / head_pairs % n_kv;
        const float *from = at<const float>(kv ? p.v : p.k) + (static_cast<uint64_t>(row) * n_kv + head) * head_dim;
        turned_pair(x, from, turn, i % head_pairs, kv ? 0 : p.rope_dims, head_dim);
        store_pair(token + kv * p.cache.kv_stride + head * p.cache.head_stride, i % head_pairs, p.cache.dtype, x,
                   head_dim);
    }
}
