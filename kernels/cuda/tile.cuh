/* SPDX-License-Identifier: Apache-2.0
 *
 * What a warp does with a tile of keys in shared memory: scores, online softmax and sums for 16 × M rows on the tensor cores
 * (Dao, FlashAttention-2, 2023). Prefill and decode differ in who loads which keys, not in this.
 *
 * A tile in shared memory is rows of D elements in chunks of 16 bytes. A chunk's place is its number XOR that of its row,
 * so that the 8 rows that one matrix of load_matrix() reads, and the 8 chunks that a quarter warp stores, lie in different
 * banks. */
#ifndef KERN_TILE_CUH
#define KERN_TILE_CUH

#include "elements.cuh"

/* The byte of a tile at which a chunk is. Rows of 64 bytes share a line of banks by two. */
template <int D> DEVICE uint32_t chunk_at(uint32_t row, uint32_t chunk)
{
    const uint32_t turn = D >= 64 ? row % 8 : row / 2 % 4;

    return row * (D * 2) + ((chunk ^ turn) * 16);
}

/* Queues the copy of rows first … first + ROWS − 1 of a cache to a tile, by THREADS threads of which this is `thread`. Rows
 * from `end` on, and dims from head_dim on, become zeros without a read: no address of theirs is even formed. */
template <int D, int ROWS, int THREADS, typename Rows>
DEVICE void load_tile(uint32_t tile, const Rows &rows, uint64_t offset, uint32_t first, uint32_t end, uint32_t head_dim,
                      uint32_t thread)
{
    const uint32_t chunk = thread % (D / 8);
    const bool inside = chunk * 8 < head_dim;
    const uint64_t at_chunk = offset + (inside ? chunk * 16 : 0);

    UNROLL
    for (int i = 0; i < ROWS * (D / 8) / THREADS; i++) {
        const uint32_t row = thread / (D / 8) + i * (THREADS / (D / 8));
        const bool real = first + row < end;
        const uint64_t from = rows.row(real ? first + row : end - 1) + at_chunk;
        copy_async(tile + chunk_at<D>(row, chunk), at<const void>(from), real && inside);
    }
}

/* Rows of a warp are 16 × M; this lane has of each 16 rows two: lane / 4 and lane / 4 + 8. */
template <typename T, int D, int M> struct attention {
    float o[M][D / 8][4]; /* as mma() lays out c: 8 dims each */
    float m[M][2];        /* greatest score so far, unscaled */
    float l[M][2];        /* sum of weights of this lane's columns */

    DEVICE attention()
    {
        UNROLL
        for (int i = 0; i < M; i++) {
            UNROLL
            for (int c = 0; c < D / 8; c++)
                o[i][c][0] = o[i][c][1] = o[i][c][2] = o[i][c][3] = 0;
            m[i][0] = m[i][1] = -INFINITY;
            l[i][0] = l[i][1] = 0;
        }
    }

    /* s = queries × keys; the warp's queries start at `q`. s is laid out as c of mma(): rows × 8 keys each. */
    template <int N> DEVICE void score(float (&s)[M][N / 8][4], uint32_t q, uint32_t keys) const
    {
        const uint32_t lane = thread_index() % 32;
        /* A lane's rows all have one turn, so one place in the row serves all; the next chunks are a XOR away. Matrices of
         * q: rows 0-7, rows 8-15 of the first 8 dims, then of the next 8; of keys: keys 0-7 by the first 8 dims, by the
         * next 8, then keys 8-15. */
        const uint32_t q_row = lane % 16;
        const uint32_t key_row = lane % 8 + lane / 16 * 8;
        const uint32_t q_place = chunk_at<D>(q_row, lane / 16) - q_row * (D * 2);
        const uint32_t key_place = chunk_at<D>(key_row, lane / 8 % 2) - key_row * (D * 2);

        q += q_row * (D * 2);
        keys += key_row * (D * 2);
        UNROLL
        for (int i = 0; i < M; i++) {
            UNROLL
            for (int n = 0; n < N / 8; n++)
                s[i][n][0] = s[i][n][1] = s[i][n][2] = s[i][n][3] = 0;
        }
        UNROLL
        for (int d = 0; d < D / 16; d++) {
            uint32_t a[M][4];
            UNROLL
            for (int i = 0; i < M; i++)
                load_matrix(a[i], q + (q_place ^ d * 32) + i * 16 * (D * 2));
            UNROLL
            for (int n = 0; n < N / 16; n++) {
                uint32_t b[4];
                load_matrix(b, keys + (key_place ^ d * 32) + n * 16 * (D * 2));
                UNROLL
                for (int i = 0; i < M; i++) {
                    T::mma(s[i][2 * n], a[i], b[0], b[1]);
                    T::mma(s[i][2 * n + 1], a[i], b[2], b[3]);
                }
            }
        }
    }

    /* Keys from ends(r) on do not count for row r of the warp's; the tile's first key is `first`. */
    template <int N, typename Ends> static DEVICE void mask(float (&s)[M][N / 8][4], uint32_t first, const Ends &ends)
    {
        const uint32_t lane = thread_index() % 32;

        UNROLL
        for (int i = 0; i < M; i++) {
            UNROLL
            for (int half = 0; half < 2; half++) {
                const uint32_t end = ends(i * 16 + half * 8 + lane / 4);
                UNROLL
                for (int n = 0; n < N / 8; n++) {
                    UNROLL
                    for (int j = 0; j < 2; j++)
                        if (first + n * 8 + lane % 4 * 2 + j >= end)
                            s[i][n][2 * half + j] = -INFINITY;
                }
            }
        }
    }

    /* Turns scores into weights 2^((s − m) × scale), after what was summed is brought to the new m. */
    template <int N> DEVICE void weigh(float (&s)[M][N / 8][4], float scale)
    {
        float factor[M][2];
        bool changed = false;

        UNROLL
        for (int i = 0; i < M; i++) {
            UNROLL
            for (int half = 0; half < 2; half++) {
                float top = m[i][half];
                UNROLL
                for (int n = 0; n < N / 8; n++)
                    top = fmaxf(top, fmaxf(s[i][n][2 * half], s[i][n][2 * half + 1]));
                top = fmaxf(top, shuffle_xor(top, 1));
                top = fmaxf(top, shuffle_xor(top, 2));
                const float base = top == -INFINITY ? 0 : top * scale; /* no −∞ − −∞ where no key counted yet */
                factor[i][half] = exp2_fast(m[i][half] * scale - base);
                changed |= top > m[i][half];
                m[i][half] = top;
                float sum = 0;
                UNROLL
                for (int n = 0; n < N / 8; n++) {
                    s[i][n][2 * half] = exp2_fast(s[i][n][2 * half] * scale - base);
                    s[i][n][2 * half + 1] = exp2_fast(s[i][n][2 * half + 1] * scale - base);
                    sum += s[i][n][2 * half] + s[i][n][2 * half + 1];
                }
                l[i][half] = l[i][half] * factor[i][half] + sum;
            }
        }
        if (!warp_any(changed)) /* the greatest score is found early, as a rule */
            return;
        UNROLL
        for (int i = 0; i < M; i++) {
            UNROLL
            for (int c = 0; c < D / 8; c++) {
                o[i][c][0] *= factor[i][0];
                o[i][c][1] *= factor[i][0];
                o[i][c][2] *= factor[i][1];
                o[i][c][3] *= factor[i][1];
            }
        }
    }

    /* o += weights × values. */
    template <int N> DEVICE void accumulate(const float (&s)[M][N / 8][4], uint32_t values)
    {
        const uint32_t lane = thread_index() % 32;
        const uint32_t row = lane % 16; /* matrices: keys 0-7, keys 8-15 of 8 dims, then of the next 8 */
        const uint32_t place = chunk_at<D>(row, lane / 16) - row * (D * 2);

        values += row * (D * 2);
        UNROLL
        for (int n = 0; n < N / 16; n++) {
            uint32_t a[M][4]; /* c of two 8 keys is a of 16 */
            UNROLL
            for (int i = 0; i < M; i++) {
                a[i][0] = T::pair(s[i][2 * n][0], s[i][2 * n][1]);
                a[i][1] = T::pair(s[i][2 * n][2], s[i][2 * n][3]);
                a[i][2] = T::pair(s[i][2 * n + 1][0], s[i][2 * n + 1][1]);
                a[i][3] = T::pair(s[i][2 * n + 1][2], s[i][2 * n + 1][3]);
            }
            UNROLL
            for (int c = 0; c < D / 8; c += 2) {
                uint32_t b[4];
                load_matrix_transposed(b, values + (place ^ c * 16) + n * 16 * (D * 2));
                UNROLL
                for (int i = 0; i < M; i++) {
                    T::mma(o[i][c], a[i], b[0], b[1]);
                    T::mma(o[i][c + 1], a[i], b[2], b[3]);
                }
            }
        }
    }

    /* l of whole rows, to each of their lanes. */
    DEVICE void sum_weights()
    {
        UNROLL
        for (int i = 0; i < M; i++) {
            UNROLL
            for (int half = 0; half < 2; half++) {
                l[i][half] += shuffle_xor(l[i][half], 1);
                l[i][half] += shuffle_xor(l[i][half], 2);
            }
        }
    }
};

/* Rows of a kv head's tile: row r is query r / g, head r % g. */
struct query_rows {
    uint64_t base; /* of row 0, as an index of q and out rows: × head_dim elements */
    uint32_t n_heads, group;

    DEVICE query_rows(const struct kern_cu_attention &p, const struct kern_cu_seq &seq, uint32_t kv_head)
        : n_heads(p.n_heads), group(p.n_heads / p.cache.n_kv_heads)
    {
        base = static_cast<uint64_t>(seq.first_row) * n_heads + kv_head * group;
    }
    DEVICE uint64_t index(uint32_t row) const
    {
        return base + static_cast<uint64_t>(row / group) * n_heads + row % group;
    }
};

/* Queues the copy of query rows first … to a tile; zeros from row `end` on. */
template <int D, int ROWS, int THREADS>
DEVICE void load_queries(uint32_t tile, const struct kern_cu_attention &p, const query_rows &queries, uint32_t first,
                         uint32_t end)
{
    const uint32_t chunk = thread_index() % (D / 8);
    const bool inside = chunk * 8 < p.cache.head_dim;

    for (uint32_t row = thread_index() / (D / 8); row < ROWS; row += THREADS / (D / 8)) {
        const bool real = first + row < end;
        const uint64_t index = queries.index(real ? first + row : end - 1);
        const uint64_t from = p.q + (index * p.cache.head_dim + (inside ? chunk * 8 : 0)) * 2;
        copy_async(tile + chunk_at<D>(row, chunk), at<const void>(from), real && inside);
    }
}

#endif
