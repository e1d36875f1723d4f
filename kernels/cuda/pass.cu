/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pass does beside products and attention: embedding, norms, activation, the greatest logit. Each moves every byte
 * once; accesses are of 16 bytes where addresses and widths allow. */
#include "elements.cuh"
#include "kernels/cuda/params.h"

template <int N> DEVICE void embed_row(const struct kern_cu_embed &p)
{
    const uint32_t row = block_x();
    const uint64_t token = at<const uint32_t>(p.tokens)[row];
    float x[N];

    for (uint32_t i = thread_index() * N; i < p.width; i += n_threads() * N) {
        load<N>(x, p.table, token * p.width + i, p.table_type);
        store<N>(p.x, static_cast<uint64_t>(row) * p.width + i, TYPE_F32, x);
    }
}

KERNEL(256, 1) kern_cu_embed(PARAM struct kern_cu_embed p)
{
    if (p.width % 4 == 0 && aligned<4>(p.table, p.table_type) && aligned<4>(p.x, TYPE_F32))
        embed_row<4>(p);
    else
        embed_row<1>(p);
}

/* One thread a row and pair. */
KERNEL(256, 1) kern_cu_turn(PARAM struct kern_cu_turn p)
{
    const uint32_t n_pairs = p.rope_dims / 2;
    const uint64_t i = static_cast<uint64_t>(block_x()) * n_threads() + thread_index();

    if (i >= static_cast<uint64_t>(p.n_rows) * n_pairs)
        return;
    const uint32_t row = static_cast<uint32_t>(i / n_pairs);
    const struct kern_cu_seq &seq = at<const struct kern_cu_seq>(p.seqs)[at<const uint32_t>(p.row_seq)[row]];
    const uint32_t pos = seq.first_pos + (row - seq.first_row);
    const double angle = static_cast<double>(pos) * at<const float>(p.theta)[i % n_pairs];
    float *turn = at<float>(p.turn) + 2 * i;

    turn[0] = static_cast<float>(cos(angle));
    turn[1] = static_cast<float>(sin(angle));
}

template <int N> DEVICE void norm_row(const struct kern_cu_norm &p)
{
    const uint64_t to = static_cast<uint64_t>(block_x()) * p.width;
    const uint64_t from = p.rows ? static_cast<uint64_t>(at<const uint32_t>(p.rows)[block_x()]) * p.width : to;
    const bool add = p.delta && !p.rows;
    float x[N];
    float more[N];
    float sum = 0;

    for (uint32_t i = thread_index() * N; i < p.width; i += n_threads() * N) {
        load<N>(x, p.x, from + i, TYPE_F32);
        if (add) {
            load<N>(more, p.delta, to + i, TYPE_F32);
            UNROLL
            for (int j = 0; j < N; j++)
                x[j] += more[j];
            store<N>(p.x, from + i, TYPE_F32, x);
        }
        UNROLL
        for (int j = 0; j < N; j++)
            sum += x[j] * x[j];
    }
    if (!p.out)
        return;
    const float factor = 1 / sqrtf(block_sum(sum) / static_cast<float>(p.width) + p.eps);
    for (uint32_t i = thread_index() * N; i < p.width; i += n_threads() * N) { /* each thread reads what it wrote */
        load<N>(x, p.x, from + i, TYPE_F32);
        load<N>(more, p.weight, i, TYPE_F32);
        UNROLL
        for (int j = 0; j < N; j++)
            x[j] = x[j] * factor * more[j];
        store<N>(p.out, to + i, p.out_type, x);
    }
}

KERNEL(256, 1) kern_cu_norm(PARAM struct kern_cu_norm p)
{
    if (p.width % 4 == 0 && (p.x | p.delta | p.weight) % 16 == 0 && aligned<4>(p.out, p.out_type))
        norm_row<4>(p);
    else
        norm_row<1>(p);
}

template <int N> DEVICE void swiglu_part(const struct kern_cu_swiglu &p)
{
    const uint64_t n = static_cast<uint64_t>(p.n_rows) * p.width;
    const uint64_t step = static_cast<uint64_t>(grid_x()) * n_threads() * N;
    float gate[N];
    float up[N];

    for (uint64_t i = (static_cast<uint64_t>(block_x()) * n_threads() + thread_index()) * N; i < n; i += step) {
        load<N>(gate, p.gate, i, TYPE_F32);
        load<N>(up, p.up, i, TYPE_F32);
        UNROLL
        for (int j = 0; j < N; j++)
            up[j] *= gate[j] / (1 + expf(-gate[j]));
        store<N>(p.out, i, p.out_type, up);
    }
}

KERNEL(256, 1) kern_cu_swiglu(PARAM struct kern_cu_swiglu p)
{
    if (p.width % 4 == 0 && (p.gate | p.up) % 16 == 0 && aligned<4>(p.out, p.out_type))
        swiglu_part<4>(p);
    else
        swiglu_part<1>(p);
}

/* The greater of two, the lower index of equals. */
DEVICE void keep_greater(float &best, uint32_t &index, float x, uint32_t i)
{
    if (x > best || (x == best && i < index)) {
        best = x;
        index = i;
    }
}

KERNEL(256, 1) kern_cu_argmax(PARAM struct kern_cu_argmax p)
{
    const float *logits = at<const float>(p.logits) + static_cast<uint64_t>(block_x()) * p.width;
    const uint32_t n_warps = n_threads() / 32;
    float *values = shared_at<float>(0);
    uint32_t *indices = shared_at<uint32_t>(n_warps * 4);
    float best = -INFINITY; /* a NaN never is the greater */
    uint32_t index = thread_index() < p.width ? thread_index() : 0;

    for (uint32_t i = thread_index(); i < p.width; i += n_threads())
        keep_greater(best, index, logits[i], i);
    for (uint32_t lanes = 16; lanes > 0; lanes /= 2) {
        const float x = shuffle_xor(best, lanes);
        const uint32_t i = shuffle_xor(index, lanes);
        keep_greater(best, index, x, i);
    }
    if (thread_index() % 32 == 0) {
        values[thread_index() / 32] = best;
        indices[thread_index() / 32] = index;
    }
    block_barrier();
    if (thread_index() > 0)
        return;
    for (uint32_t warp = 1; warp < n_warps; warp++)
        keep_greater(best, index, values[warp], indices[warp]);
    at<uint32_t>(p.out)[block_x()] = index;
}

/* Blocks in y take copies, in x parts of a copy. */
KERNEL(256, 1) kern_cu_gather(PARAM struct kern_cu_gather p)
{
    typedef vector<uint32_t, 4> unit;
    const uint64_t n_units = p.bytes / sizeof(unit);
    const uint64_t step = static_cast<uint64_t>(grid_x()) * n_threads();

    for (uint32_t c = block_y(); c < p.n; c += grid_y()) {
        const struct kern_cu_copy copy = at<const struct kern_cu_copy>(p.copies)[c];
        for (uint64_t i = static_cast<uint64_t>(block_x()) * n_threads() + thread_index(); i < n_units; i += step)
            at<unit>(copy.to)[i] = at<const unit>(copy.from)[i];
    }
}
