/* SPDX-License-Identifier: Apache-2.0
 *
 * Prefill attention: a block takes PREFILL_ROWS rows of a kv head (kernels/cuda/tiles.h) and walks over their keys from the
 * oldest on. Tiles of K and V go by turns through one ring in shared memory: while one is used, those behind it are under
 * way. One barrier a tile says both that its bytes are there and that the slot of the one before is free. */
#include "elements.cuh"
#include "kernels/cuda/params.h"
#include "kernels/cuda/tiles.h"
#include "rows.cuh"
#include "tile.cuh"

/* How many keys a row of a warp sees; padding sees what the block's last row sees. Divided anew for the few tiles at the
 * diagonal: registers are scarce. */
struct causal_ends {
    uint32_t first_end, warp_first, last, group;

    DEVICE uint32_t operator()(uint32_t row) const
    {
        return first_end + (warp_first + row < last ? warp_first + row : last) / group;
    }
};

template <typename T, int D, typename Rows> struct prefill {
    static constexpr int ROWS = KERN_CU_PREFILL_ROWS(D);
    static constexpr int KEYS = KERN_CU_PREFILL_KEYS(D);
    static constexpr int SLOTS = KERN_CU_PREFILL_SLOTS;
    static constexpr int THREADS = KERN_CU_ATTENTION_WARPS * 32;
    static constexpr int M = ROWS / KERN_CU_ATTENTION_WARPS / 16;
    static constexpr uint32_t TILE_BYTES = KEYS * D * 2;

    const Rows rows;
    const uint64_t kv_stride;
    const uint32_t head_dim, n_keys;
    const uint32_t ring;      /* shared address of the first slot */
    uint32_t loads;           /* tiles whose copies were queued; K and V alternate */
    uint32_t load_slot, slot; /* of the next tile to load, to use */

    DEVICE prefill(const struct kern_cu_attention &p, const Rows &r, uint32_t n)
        : rows(r), kv_stride(p.cache.kv_stride), head_dim(p.cache.head_dim), n_keys(n),
          ring(shared_address() + ROWS * D * 2), loads(0), load_slot(0), slot(0)
    {
    }

    /* Queues the next tile, and ends a group of copies in any case, so that waiting is counting. */
    DEVICE void load_next()
    {
        const uint32_t first = loads / 2 * KEYS;

        if (first < n_keys) {
            load_tile<D, KEYS, THREADS>(ring + load_slot * TILE_BYTES, rows, loads % 2 ? kv_stride : 0, first, n_keys,
                                        head_dim, thread_index());
            loads++;
            load_slot = load_slot + 1 == SLOTS ? 0 : load_slot + 1;
        }
        copy_commit();
    }

    /* The next tile's shared address, once it is there. */
    DEVICE uint32_t next_tile()
    {
        const uint32_t tile = ring + slot * TILE_BYTES;

        copy_wait<SLOTS - 2>();
        block_barrier();
        load_next(); /* into the slot that every warp is done with */
        slot = slot + 1 == SLOTS ? 0 : slot + 1;
        return tile;
    }

    DEVICE void walk(attention<T, D, M> &sums, uint32_t q, const causal_ends &ends, float scale)
    {
        const uint32_t least_end = ends(0);

        for (uint32_t first = 0; first < n_keys; first += KEYS) {
            float s[M][KEYS / 8][4];

            const uint32_t keys = next_tile();
            sums.template score<KEYS>(s, q, keys);
            if (first + KEYS > least_end)
                sums.template mask<KEYS>(s, first, ends);
            sums.template weigh<KEYS>(s, scale);
            const uint32_t values = next_tile();
            sums.template accumulate<KEYS>(s, values);
        }
    }
};

/* Writes a warp's 16 × M rows from `first` on; rows from n_rows on are padding. */
template <typename T, int D, int M>
DEVICE void store_rows(const struct kern_cu_attention &p, const query_rows &queries, const attention<T, D, M> &sums,
                       uint32_t first, uint32_t n_rows)
{
    const uint32_t lane = thread_index() % 32;

    UNROLL
    for (int i = 0; i < M; i++) {
        UNROLL
        for (int half = 0; half < 2; half++) {
            const uint32_t row = first + i * 16 + half * 8 + lane / 4;
            if (row >= n_rows)
                continue;
            const uint64_t to = queries.index(row) * p.cache.head_dim;
            const float weight = 1 / sums.l[i][half];
            UNROLL
            for (uint32_t c = 0; c < D / 8; c++) {
                const float x[2] = {sums.o[i][c][2 * half] * weight, sums.o[i][c][2 * half + 1] * weight};
                if (c * 8 < p.cache.head_dim)
                    store<2>(p.out, to + c * 8 + lane % 4 * 2, p.out_type, x);
            }
        }
    }
}

/* Grid: tiles of the longest sequence's rows, the longest first; kv heads; sequences. */
template <typename T, int D, typename Rows>
DEVICE void prefill_block(const struct kern_cu_attention &p, uint64_t block_table = 0, uint32_t table_stride = 0)
{
    typedef prefill<T, D, Rows> block;
    const struct kern_cu_seq seq = at<const struct kern_cu_seq>(p.seqs)[block_z()];
    const uint64_t table = block_table + static_cast<uint64_t>(block_z()) * table_stride * sizeof(uint32_t);
    const query_rows queries(p, seq, block_y());
    const uint32_t n_rows = seq.n_queries * queries.group;
    const uint32_t first = (grid_x() - 1 - block_x()) * block::ROWS;
    const uint32_t warp_first = first + thread_index() / 32 * (16 * block::M);

    if (first >= n_rows)
        return;
    const uint32_t last = first + block::ROWS < n_rows ? first + block::ROWS - 1 : n_rows - 1;
    block keys(p, Rows(p.cache, seq, block_y(), table), seq.first_pos + last / queries.group + 1);
    attention<T, D, block::M> sums;

    load_queries<D, block::ROWS, block::THREADS>(shared_address(), p, queries, first, n_rows);
    UNROLL
    for (int i = 0; i < block::SLOTS - 1; i++)
        keys.load_next();
    keys.walk(sums, shared_address() + (warp_first - first) * (D * 2),
              causal_ends{seq.first_pos + 1, warp_first, last, queries.group}, p.scale * 1.44269504f /* log₂ e */);
    sums.sum_weights();
    store_rows(p, queries, sums, warp_first, n_rows);
}

#define PREFILL(type, d)                                                                                               \
    KERNEL(128, 2) kern_cu_prefill_##type##_##d(PARAM struct kern_cu_attention p)                                      \
    {                                                                                                                  \
        prefill_block<type, d, cache_rows>(p);                                                                         \
    }
PREFILL(f16, 32)
PREFILL(f16, 64)
PREFILL(f16, 128)
PREFILL(f16, 256)
PREFILL(bf16, 32)
PREFILL(bf16, 64)
PREFILL(bf16, 128)
PREFILL(bf16, 256)

#define PAGED(type)                                                                                                    \
    KERNEL(128, 2) kern_cu_prefill_paged_##type##_128(PARAM struct kern_cu_paged p)                                    \
    {                                                                                                                  \
        prefill_block<type, 128, paged_rows>(p.attention, p.block_table, p.table_stride);                              \
    }
PAGED(f16)
PAGED(bf16)
#undef PAGED
