/* SPDX-License-Identifier: Apache-2.0
 *
 * Decode attention: a block takes all query heads of a kv head (up to 16 at once) and one split of the keys, so that K and
 * V are read once. It is bound by memory: each warp has a ring of its own of 16 keys, then their values, by turns, and
 * waits for nothing but its own copies. The lengths come from device memory; the grid does not depend on them. */
#include "elements.cuh"
#include "kernels/cuda/params.h"
#include "kernels/cuda/tiles.h"
#include "rows.cuh"
#include "tile.cuh"

#define DECODE_WARPS KERN_CU_ATTENTION_WARPS

struct split_weights {
    float m, l;
};

/* The places in `partial` of head `head` of sequence `seq`; kernels/cuda/tiles.h has the shape. */
DEVICE uint64_t first_split(const struct kern_cu_attention &p, uint32_t seq, uint32_t head)
{
    return (static_cast<uint64_t>(seq) * p.n_heads + head) * p.n_splits;
}
DEVICE float *split_sums(const struct kern_cu_attention &p, uint64_t split)
{
    return at<float>(p.partial) + split * p.cache.head_dim;
}
DEVICE struct split_weights *split_weights_at(const struct kern_cu_attention &p, uint64_t split)
{
    const uint64_t n = static_cast<uint64_t>(p.n_seqs) * p.n_heads * p.n_splits;
    return at<struct split_weights>(p.partial + n * p.cache.head_dim * sizeof(float)) + split;
}

template <typename T, int D, typename Rows> struct decode {
    static constexpr int KEYS = KERN_CU_DECODE_KEYS;
    static constexpr int SLOTS = KERN_CU_DECODE_SLOTS(D);
    static constexpr uint32_t TILE_BYTES = KEYS * D * 2;

    const Rows rows;
    const uint64_t kv_stride;
    const uint32_t head_dim, end;
    const uint32_t ring;      /* shared address of this warp's first slot */
    uint32_t load_key;        /* the first key of the next tile to load */
    bool load_values;         /* its values are next */
    uint32_t load_slot, slot; /* of the next tile to load, to use */

    DEVICE decode(const struct kern_cu_attention &p, const Rows &r, uint32_t first, uint32_t e)
        : rows(r), kv_stride(p.cache.kv_stride), head_dim(p.cache.head_dim), end(e),
          ring(shared_address() + KERN_CU_DECODE_ROWS * D * 2 + thread_index() / 32 * (SLOTS * TILE_BYTES)),
          load_key(first), load_values(false), load_slot(0), slot(0)
    {
    }

    DEVICE void load_next()
    {
        if (load_key < end) {
            load_tile<D, KEYS, 32>(ring + load_slot * TILE_BYTES, rows, load_values ? kv_stride : 0, load_key, end,
                                   head_dim, thread_index() % 32);
            load_slot = (load_slot + 1) % SLOTS;
            load_key += load_values ? KEYS * DECODE_WARPS : 0;
            load_values = !load_values;
        }
        copy_commit();
    }

    DEVICE uint32_t next_tile()
    {
        const uint32_t tile = ring + slot * TILE_BYTES;

        copy_wait<SLOTS - 2>();
        warp_barrier();
        load_next(); /* into the slot that every lane is done with */
        slot = (slot + 1) % SLOTS;
        return tile;
    }

    DEVICE void walk(attention<T, D, 1> &sums, uint32_t first, float scale)
    {
        for (; first < end; first += KEYS * DECODE_WARPS) {
            float s[1][KEYS / 8][4];

            const uint32_t keys = next_tile();
            sums.template score<KEYS>(s, shared_address(), keys);
            if (first + KEYS > end)
                sums.template mask<KEYS>(s, first, [this](uint32_t) { return end; });
            sums.template weigh<KEYS>(s, scale);
            const uint32_t values = next_tile();
            sums.template accumulate<KEYS>(s, values);
        }
    }
};

/* A warp's m, l and o to shared memory, over the tiles that no warp needs any more: o[warps][16][D + 8]; 8 floats of padding
 * keep rows apart in the banks. */
template <typename T, int D> DEVICE void share_sums(const attention<T, D, 1> &sums, float scale)
{
    const uint32_t lane = thread_index() % 32;
    const uint32_t warp_row = thread_index() / 32 * KERN_CU_DECODE_ROWS;

    UNROLL
    for (int half = 0; half < 2; half++) {
        const uint32_t row = warp_row + half * 8 + lane / 4;
        float *o = shared_at<float>(0) + row * (D + 8) + lane % 4 * 2;
        UNROLL
        for (int c = 0; c < D / 8; c++)
            *reinterpret_cast<vector<float, 2> *>(o + c * 8) = {{sums.o[0][c][2 * half], sums.o[0][c][2 * half + 1]}};
        if (lane % 4 == 0)
            shared_at<struct split_weights>(KERN_CU_DECODE_TILES(D))[row] = {sums.m[0][half] * scale, sums.l[0][half]};
    }
}

/* Joins the warps' sums of the block's first n rows and writes them to `partial`. */
template <int D> DEVICE void store_split(const struct kern_cu_attention &p, uint32_t head, uint32_t n)
{
    const struct split_weights *weights = shared_at<const struct split_weights>(KERN_CU_DECODE_TILES(D));

    for (uint32_t i = thread_index(); i < n * D; i += DECODE_WARPS * 32) {
        const uint32_t row = i / D;
        const uint64_t split = first_split(p, block_z(), head + row) + block_x();
        float top = -INFINITY;
        float l = 0;
        float o = 0;
        UNROLL
        for (uint32_t w = 0; w < DECODE_WARPS; w++)
            top = fmaxf(top, weights[w * KERN_CU_DECODE_ROWS + row].m);
        UNROLL
        for (uint32_t w = 0; w < DECODE_WARPS; w++) {
            const struct split_weights of = weights[w * KERN_CU_DECODE_ROWS + row];
            const float factor = of.m == -INFINITY ? 0 : exp2_fast(of.m - top);
            l += of.l * factor;
            o += shared_at<const float>(0)[(w * KERN_CU_DECODE_ROWS + row) * (D + 8) + i % D] * factor;
        }
        if (i % D < p.cache.head_dim)
            split_sums(p, split)[i % D] = o;
        if (i % D == 0)
            *split_weights_at(p, split) = {top, l};
    }
}

/* Grid: splits; kv heads × parts of 16 of their query heads; sequences. */
template <typename T, int D, typename Rows>
DEVICE void decode_block(const struct kern_cu_attention &p, uint64_t block_table = 0, uint32_t table_stride = 0)
{
    const struct kern_cu_seq seq = at<const struct kern_cu_seq>(p.seqs)[block_z()];
    const uint64_t table = block_table + static_cast<uint64_t>(block_z()) * table_stride * sizeof(uint32_t);
    const uint32_t kv_head = block_y() % p.cache.n_kv_heads;
    const uint32_t part = block_y() / p.cache.n_kv_heads * KERN_CU_DECODE_ROWS;
    const query_rows queries(p, seq, kv_head);
    const uint32_t n = queries.group - part < KERN_CU_DECODE_ROWS ? queries.group - part : KERN_CU_DECODE_ROWS;
    const uint32_t n_keys = seq.first_pos + 1;
    const uint32_t share =
        ((n_keys - 1) / p.n_splits + KERN_CU_DECODE_KEYS) / KERN_CU_DECODE_KEYS * KERN_CU_DECODE_KEYS;
    const uint32_t begin = block_x() * share;
    const float scale = p.scale * 1.44269504f; /* log₂ e */

    if (begin >= n_keys) {
        if (thread_index() < n)
            *split_weights_at(p, first_split(p, block_z(), kv_head * queries.group + part + thread_index()) +
                                     block_x()) = {-INFINITY, 0};
        return;
    }
    const uint32_t first = begin + thread_index() / 32 * KERN_CU_DECODE_KEYS;
    decode<T, D, Rows> keys(p, Rows(p.cache, seq, kv_head, table), first,
                            n_keys - begin < share ? n_keys : begin + share);
    attention<T, D, 1> sums;

    load_queries<D, KERN_CU_DECODE_ROWS, DECODE_WARPS * 32>(shared_address(), p, queries, part, part + n);
    copy_commit();
    UNROLL
    for (int i = 0; i < keys.SLOTS - 1; i++)
        keys.load_next();
    copy_wait<decode<T, D, Rows>::SLOTS - 1>();
    block_barrier(); /* the queries are there */
    keys.walk(sums, first, scale);
    sums.sum_weights();
    block_barrier(); /* no warp reads queries, keys or values any more */
    share_sums(sums, scale);
    block_barrier();
    store_split<D>(p, kv_head * queries.group + part, n);
}

#define DECODE(type, d)                                                                                                \
    KERNEL(128, 2) kern_cu_decode_##type##_##d(PARAM struct kern_cu_attention p)                                       \
    {                                                                                                                  \
        decode_block<type, d, cache_rows>(p);                                                                          \
    }
DECODE(f16, 32)
DECODE(f16, 64)
DECODE(f16, 128)
DECODE(f16, 256)
DECODE(bf16, 32)
DECODE(bf16, 64)
DECODE(bf16, 128)
DECODE(bf16, 256)

#define PAGED(type)                                                                                                    \
    KERNEL(128, 2) kern_cu_decode_paged_##type##_128(PARAM struct kern_cu_paged p)                                     \
    {                                                                                                                  \
        decode_block<type, 128, paged_rows>(p.attention, p.block_table, p.table_stride);                               \
    }
PAGED(f16)
PAGED(bf16)
#undef PAGED

/* Grid: heads, sequences. A thread has every n_threads()th dim; the weights are the same for all. */
KERNEL(256, 1) kern_cu_combine(PARAM struct kern_cu_attention p)
{
    const struct kern_cu_seq &seq = at<const struct kern_cu_seq>(p.seqs)[block_y()];
    const uint64_t first = first_split(p, block_y(), block_x());
    const struct split_weights *weights = split_weights_at(p, first);
    const uint64_t to = (static_cast<uint64_t>(seq.first_row) * p.n_heads + block_x()) * p.cache.head_dim;
    float top = -INFINITY;

    for (uint32_t i = 0; i < p.n_splits; i++)
        top = fmaxf(top, weights[i].m);
    for (uint32_t d = thread_index(); d < p.cache.head_dim; d += n_threads()) {
        float o = 0;
        float l = 0;
        for (uint32_t i = 0; i < p.n_splits; i++) {
            if (weights[i].m == -INFINITY)
                continue;
            const float factor = exp2_fast(weights[i].m - top);
            l += weights[i].l * factor;
            o += split_sums(p, first + i)[d] * factor;
        }
        store(p.out, to + d, p.out_type, o / l);
    }
}
