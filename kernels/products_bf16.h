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

/* t->k: [dimension / 2][KERN_BLOCK] pairs of dimensions. Odd dimensions end in a pair with zero. */
static void load_keys(const struct kern_tile *t, const uint8_t *const *rows, uint32_t n)
{
    const uint32_t dim = t->p->head_dim;
    __m512i r[16];

    for (uint32_t i = 0; i < KERN_BLOCK; i += VL) {
        const uint32_t left = n > i ? n - i : 0;
        for (uint32_t first = 0; first < dim; first += 32) {
            const uint32_t n_words = dim - first < 32 ? (dim - first + 1) / 2 : 16;
            load_words(rows + i, left < VL ? left : VL, first, dim, sizeof(uint16_t), r);
            for (uint32_t w = 0; w < n_words; w++)
                _mm512_storeu_si512(t->k + (size_t)(first / 2 + w) * KERN_BLOCK + i, r[w]);
        }
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

/* t->v: [key / 2][dim_pad] pairs of keys. `key` is even. An odd number ends in a pair with zero. */
static void load_values(const struct kern_tile *t, const uint8_t *const *rows, uint32_t key, uint32_t n)
{
    const uint32_t dim = t->p->head_dim;

    for (uint32_t i = key; i < key + n; i += 2) {
        float *dst = t->v + (size_t)(i / 2) * t->dim_pad;
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
    for (uint32_t r = 0; r < n_rows; r++)
        UNROLL(4)
    for (uint32_t j = 0; j < SCORE_VECTORS; j++)
        sum[r][j] = vec_set1(0);
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
    for (uint32_t r = 0; r < n_rows; r++)
        UNROLL(4)
    for (uint32_t j = 0; j < SCORE_VECTORS; j++)
        vec_store(scores[r] + j * VL, sum[r][j]);
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
                                const float *v, uint32_t v_stride, uint32_t n)
{
    vec sum[PRODUCT_ROWS][VALUE_VECTORS];

    UNROLL(6)
    for (uint32_t r = 0; r < n_rows; r++)
        UNROLL(4)
    for (uint32_t j = 0; j < n_vectors; j++)
        sum[r][j] = vec_load(acc[r] + j * VL);
    for (uint32_t i = 0; i < n; i += 2) {
        __m512bh value[VALUE_VECTORS];
        UNROLL(4)
        for (uint32_t j = 0; j < n_vectors; j++) {
            __m512i pair = _mm512_loadu_si512(v + (size_t)(i / 2) * v_stride + j * VL);
            if (i + 1 == n) /* the second key is not this row's: not even a weight of zero may meet it */
                pair = _mm512_and_si512(pair, _mm512_set1_epi32(0xffff));
            value[j] = (__m512bh)pair;
        }
        UNROLL(6)
        for (uint32_t r = 0; r < n_rows; r++) {
            const __m512bh x = pairs_set1(weights[r] + i / 2);
            UNROLL(4)
            for (uint32_t j = 0; j < n_vectors; j++)
                sum[r][j] = _mm512_dpbf16_ps(sum[r][j], x, value[j]);
        }
    }
    UNROLL(6)
    for (uint32_t r = 0; r < n_rows; r++)
        UNROLL(4)
    for (uint32_t j = 0; j < n_vectors; j++)
        vec_store(acc[r] + j * VL, sum[r][j]);
}

#endif
