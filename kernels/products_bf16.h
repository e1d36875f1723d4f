/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner products by AVX512_BF16's vdpbf16ps, which adds two products of bf16 in f32, for a cache in bf16. K and V are
 * exact as they are. q would lose too much as one bf16 where scores are large, so it goes in as two, the rounded value
 * and what is left: 16 bits, at the price of f32. A weight is rounded to one bf16 and the sum is of rounded weights,
 * which leaves an error of at most 2⁻⁹ of each V: a quarter of what V itself lost on its way into the cache.
 * The instruction takes denormals as zero. */
#ifndef KERN_PRODUCTS_H
#define KERN_PRODUCTS_H

#define PRODUCT_ROWS 6

static INLINE uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static INLINE uint32_t word_at(const void *p)
{
    uint32_t u;
    memcpy(&u, p, sizeof(u));
    return u;
}

static INLINE __m512bh pairs_set1(const void *p)
{
    return (__m512bh)_mm512_set1_epi32((int)word_at(p));
}

static INLINE vec widen_16(__m256bh a)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)a), 16));
}

/* [dim_pad] f32 to [dim_pad] bf16 and [dim_pad] bf16 of what rounding left. */
static void prepare_query(const struct kern_tile *t, uint32_t r)
{
    const float *src = t->plain_q + (size_t)r * t->dim_pad;
    uint16_t *dst = (uint16_t *)(t->q + (size_t)r * t->dim_pad);

    for (uint32_t d = 0; d < t->dim_pad; d += VL) {
        const vec x = vec_load(src + d);
        const __m256bh high = _mm512_cvtneps_pbh(x);
        const __m256bh low = _mm512_cvtneps_pbh(vec_sub(x, widen_16(high)));
        _mm256_storeu_si256((__m256i *)(dst + d), (__m256i)high);
        _mm256_storeu_si256((__m256i *)(dst + t->dim_pad + d), (__m256i)low);
    }
}

/* 16 pairs of dimensions of VL keys from dimension `first` on; zeros where there are not so many. */
static INLINE void load_pairs(const struct kern_tile *t, const uint8_t *const *rows, uint32_t n, uint32_t first,
                              struct ahead *ahead, __m512i r[16])
{
    const uint32_t left = t->p->head_dim - first;

    ahead_fetch(ahead, 16 * 64);
    if (n == VL && left >= 32)
        load_words(rows, first * 2, r);
    else
        load_some_words(rows, n, first * 2, left * 2, r);
}

/* t->k: [dimension / 2][KERN_BLOCK] pairs of dimensions. Odd dimensions end in a pair with zero. */
static void load_keys(const struct kern_tile *t, const uint8_t *const *rows, uint32_t n, struct ahead *ahead)
{
    const uint32_t n_pairs = (t->p->head_dim + 1) / 2;
    __m512i r[16];

    for (uint32_t i = 0; i < KERN_BLOCK; i += VL)
        for (uint32_t first = 0; first < n_pairs; first += 16) {
            load_pairs(t, rows + i, min_u32(n > i ? n - i : 0, VL), 2 * first, ahead, r);
            UNROLL(16)
            for (uint32_t w = 0; w < 16; w++)
                if (first + w < n_pairs)
                    _mm512_storeu_si512(t->k + (size_t)(first + w) * KERN_BLOCK + i, r[w]);
        }
}

/* As scores_block(), by the same chains, for the block's n keys straight from the cache. */
static INLINE void scores_direct(uint32_t n_rows, const struct kern_tile *t, const float *const *q,
                                 enum kern_dtype dtype, const uint8_t *const *rows, uint32_t n, struct ahead *ahead,
                                 float *const *scores)
{
    const uint32_t n_pairs = (t->p->head_dim + 1) / 2;
    __m512i r16[16];

    (void)dtype;
    for (uint32_t i = 0; i < n; i += VL) {
        vec sum[PRODUCT_ROWS];
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++)
            sum[r] = vec_set1(0);
        for (uint32_t first = 0; first < n_pairs; first += 16) {
            load_pairs(t, rows + i, min_u32(n - i, VL), 2 * first, ahead, r16);
            UNROLL(16)
            for (uint32_t w = 0; w < 16; w++) {
                UNROLL(6)
                for (uint32_t r = 0; r < n_rows; r++) {
                    /* beyond the last dimension all pairs are zeros, so any pair of q will do */
                    const float *at = q[r] + min_u32(first + w, n_pairs - 1);
                    sum[r] = _mm512_dpbf16_ps(sum[r], pairs_set1(at), (__m512bh)r16[w]);
                    sum[r] = _mm512_dpbf16_ps(sum[r], pairs_set1(at + t->dim_pad / 2), (__m512bh)r16[w]);
                }
            }
        }
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++)
            vec_store(scores[r] + i, sum[r]);
    }
}

static INLINE const float *values_from(const struct kern_tile *t, uint32_t key)
{
    return t->v + (size_t)(key / 2) * t->dim_pad;
}

static INLINE const float *weights_from(const struct kern_tile *t, uint32_t row, uint32_t key)
{
    return t->scores + (size_t)row * KERN_BLOCK + key / 2;
}

/* VL pairs of an element of one key and one of the next. */
static INLINE __m512i pair_of(const uint8_t *even, const uint8_t *odd)
{
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)even));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)odd));

    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* t->v: [key / 2][dim_pad] pairs of keys. `key` is even. An odd number ends in a pair with zero. */
static void load_values(const struct kern_tile *t, const uint8_t *const *rows, uint32_t key, uint32_t n,
                        struct ahead *ahead)
{
    const uint32_t dim = t->p->head_dim;

    for (uint32_t i = key; i < key + n; i += 2) {
        float *dst = t->v + (size_t)(i / 2) * t->dim_pad;
        ahead_fetch(ahead, dim * 2 * sizeof(uint16_t));
        for (uint32_t d = 0; d < t->dim_pad; d += VL) {
            const __mmask16 mask = dim - d >= VL ? 0xffff : (__mmask16)((1u << (dim - d)) - 1);
            const __m256i even = _mm256_maskz_loadu_epi16(mask, rows[i] + d * sizeof(uint16_t));
            __m512i pair = _mm512_cvtepu16_epi32(even);
            if (i + 1 < key + n) {
                const __m256i odd = _mm256_maskz_loadu_epi16(mask, rows[i + 1] + d * sizeof(uint16_t));
                pair = _mm512_or_si512(pair, _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
            }
            _mm512_storeu_si512(dst + d, pair);
        }
    }
}

static INLINE void scores_block(uint32_t n_rows, const struct kern_tile *t, const float *const *q, const float *k,
                                float *const *scores)
{
    const uint32_t dim = t->p->head_dim;
    vec sum[PRODUCT_ROWS][SCORE_VECTORS];

    UNROLL(6)
    for (uint32_t r = 0; r < n_rows; r++) {
        UNROLL(4)
        for (uint32_t j = 0; j < SCORE_VECTORS; j++)
            sum[r][j] = vec_set1(0);
    }
    for (uint32_t pair = 0; pair < (dim + 1) / 2; pair++) {
        __m512bh key[SCORE_VECTORS];
        UNROLL(4)
        for (uint32_t j = 0; j < SCORE_VECTORS; j++)
            key[j] = (__m512bh)_mm512_loadu_si512(k + (size_t)pair * KERN_BLOCK + j * VL);
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++) {
            const __m512bh high = pairs_set1(q[r] + pair);
            const __m512bh low = pairs_set1(q[r] + t->dim_pad / 2 + pair);
            UNROLL(4)
            for (uint32_t j = 0; j < SCORE_VECTORS; j++) {
                sum[r][j] = _mm512_dpbf16_ps(sum[r][j], high, key[j]);
                sum[r][j] = _mm512_dpbf16_ps(sum[r][j], low, key[j]);
            }
        }
    }
    UNROLL(6)
    for (uint32_t r = 0; r < n_rows; r++) {
        UNROLL(4)
        for (uint32_t j = 0; j < SCORE_VECTORS; j++)
            vec_store(scores[r] + j * VL, sum[r][j]);
    }
}

/* Over the first half of the row's scores. */
static INLINE vec store_weights(float *weights, const vec w[KERN_BLOCK / VL])
{
    vec sum = vec_set1(0);

    UNROLL(4)
    for (uint32_t j = 0; j < KERN_BLOCK / VL; j++) {
        const __m256bh rounded = _mm512_cvtneps_pbh(w[j]);
        _mm256_storeu_si256((__m256i *)(weights + j * VL / 2), (__m256i)rounded);
        sum = vec_add(sum, widen_16(rounded));
    }
    return sum;
}

static INLINE void values_block(uint32_t n_rows, uint32_t n_vectors, const float *const *weights, float *const *acc,
                                bool direct, const float *v, uint32_t v_stride, enum kern_dtype dtype,
                                struct block_rows *rows, uint32_t from, uint32_t n)
{
    const uint32_t step = VL * sizeof(uint16_t);
    vec sum[PRODUCT_ROWS][VALUE_VECTORS];

    (void)dtype;
    UNROLL(6)
    for (uint32_t r = 0; r < n_rows; r++) {
        UNROLL(4)
        for (uint32_t j = 0; j < n_vectors; j++)
            sum[r][j] = vec_load(acc[r] + j * VL);
    }
    for (uint32_t i = 0; i < n; i += 2) {
        __m512i value[VALUE_VECTORS];
        if (direct)
            ahead_fetch(&rows->ahead, n_vectors * step * 2);
        UNROLL(4)
        for (uint32_t j = 0; j < n_vectors; j++) {
            value[j] = direct ? pair_of(rows->now[i] + from + j * step, rows->now[i + 1] + from + j * step)
                              : _mm512_loadu_si512(v + (size_t)(i / 2) * v_stride + j * VL);
            if (i + 1 == n) /* the second key is not this row's: not even a weight of zero may meet it */
                value[j] = _mm512_and_si512(value[j], _mm512_set1_epi32(0xffff));
        }
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++) {
            const __m512bh x = pairs_set1(weights[r] + i / 2);
            UNROLL(4)
            for (uint32_t j = 0; j < n_vectors; j++)
                sum[r][j] = _mm512_dpbf16_ps(sum[r][j], x, (__m512bh)value[j]);
        }
    }
    UNROLL(6)
    for (uint32_t r = 0; r < n_rows; r++) {
        UNROLL(4)
        for (uint32_t j = 0; j < n_vectors; j++)
            vec_store(acc[r] + j * VL, sum[r][j]);
    }
}

#endif
