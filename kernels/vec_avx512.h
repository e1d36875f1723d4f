/* SPDX-License-Identifier: Apache-2.0
 *
 * Vectors of 16 floats in AVX-512 F, BW, DQ, VL. */
#ifndef KERN_VEC_H
#define KERN_VEC_H

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "ahead.h"
#include "compiler.h"
#include "exp2_poly.h"
#include "tile.h"

#define VL 16
typedef __m512 vec;

static INLINE vec vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static INLINE void vec_store(float *p, vec a)
{
    _mm512_storeu_ps(p, a);
}

static INLINE vec vec_set1(float x)
{
    return _mm512_set1_ps(x);
}

static INLINE vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

static INLINE vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

static INLINE vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

static INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static INLINE vec vec_abs(vec a)
{
    return _mm512_abs_ps(a);
}

/* Of numbers; with a NaN, either. */
static INLINE vec vec_lesser(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}

static INLINE vec vec_greater(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

static INLINE float vec_lane0(vec a)
{
    return _mm512_cvtss_f32(a);
}

static INLINE float vec_hsum(vec a)
{
    return _mm512_reduce_add_ps(a);
}

/* Lanes n … become -∞. */
static INLINE vec vec_first_lanes(vec a, uint32_t n)
{
    return _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), (__mmask16)((1u << n) - 1), a);
}

/* A lane is not zero (a NaN is not). */
static INLINE bool vec_any(vec a)
{
    return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ) != 0;
}

static INLINE bool vec_any_nan(const vec s[KERN_BLOCK / VL])
{
    return (_mm512_cmp_ps_mask(s[0], s[1], _CMP_UNORD_Q) | _mm512_cmp_ps_mask(s[2], s[3], _CMP_UNORD_Q)) != 0;
}

/* The greatest number of each lane. */
static INLINE vec vec_max(const vec s[KERN_BLOCK / VL])
{
    return _mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3]));
}

static INLINE float vec_hmax(vec a)
{
    return _mm512_reduce_max_ps(a);
}

/* A lane is at least `least`. */
static INLINE bool vec_any_at_least(vec a, float least)
{
    return _mm512_cmp_ps_mask(a, _mm512_set1_ps(least), _CMP_GE_OQ) != 0;
}

/* 2^x for x ≤ 0, zero where x < -126. */
static INLINE vec vec_exp2(vec x)
{
    const vec n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const vec f = _mm512_sub_ps(x, n);
    vec y = _mm512_set1_ps(EXP2_C6);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(EXP2_C5));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(EXP2_C4));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(EXP2_C3));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(EXP2_C2));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(EXP2_C1));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1));
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(KERN_LEAST_EXPONENT), _CMP_NLT_UQ), y, n);
}

/* The first n elements at p as f32, n ≤ VL; the other lanes are zero and their memory is not read. */
static INLINE vec vec_widen(enum kern_dtype dtype, const uint8_t *p, uint32_t n)
{
    const __mmask16 mask = (__mmask16)((1u << n) - 1);

    if (dtype == KERN_F32)
        return _mm512_maskz_loadu_ps(mask, p);
    const __m256i halves = _mm256_maskz_loadu_epi16(mask, p);
    if (dtype == KERN_F16)
        return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

static INLINE void vec_narrow(enum kern_dtype dtype, void *dst, vec a, uint32_t n)
{
    const __mmask16 mask = (__mmask16)((1u << n) - 1);

    if (dtype == KERN_F32) {
        _mm512_mask_storeu_ps(dst, mask, a);
        return;
    }
    __m256i halves;
    if (dtype == KERN_F16) {
        halves = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    } else { /* not vcvtneps2bf16: it flushes denormals */
        const __m512i u = _mm512_castps_si512(a);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
        __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
        rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
        halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
    }
    _mm256_mask_storeu_epi16(dst, mask, halves);
}

static INLINE __m512i load_two(const uint8_t *low, const uint8_t *high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)low)),
                              _mm256_loadu_si256((const __m256i *)high), 1);
}

/* 16 words of 16 keys' rows, transposed: r[w] lane i is word w, counted from byte `at` on, of key i. Words 0 … 7, then
 * 8 … 15: of each 8, the 4 × 4 words in each 128-bit lane, then the lanes. */
static INLINE void load_words(const uint8_t *const *rows, uint32_t at, __m512i r[16])
{
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);

    UNROLL(2)
    for (uint32_t w = 0; w < 16; w += 8) {
        __m512i y[8]; /* y[i], i < 4: lanes of words i, 4 + i of keys 0 … 3, of keys 8 … 11; y[4 + i]: of 4 …, 12 … */
        UNROLL(2)
        for (uint32_t i = 0; i < 8; i += 4) {
            const __m512i a = load_two(rows[i] + at + 4 * w, rows[i + 8] + at + 4 * w);
            const __m512i b = load_two(rows[i + 1] + at + 4 * w, rows[i + 9] + at + 4 * w);
            const __m512i c = load_two(rows[i + 2] + at + 4 * w, rows[i + 10] + at + 4 * w);
            const __m512i d = load_two(rows[i + 3] + at + 4 * w, rows[i + 11] + at + 4 * w);
            const __m512i lo_ab = _mm512_unpacklo_epi32(a, b);
            const __m512i hi_ab = _mm512_unpackhi_epi32(a, b);
            const __m512i lo_cd = _mm512_unpacklo_epi32(c, d);
            const __m512i hi_cd = _mm512_unpackhi_epi32(c, d);
            y[i] = _mm512_unpacklo_epi64(lo_ab, lo_cd);
            y[i + 1] = _mm512_unpackhi_epi64(lo_ab, lo_cd);
            y[i + 2] = _mm512_unpacklo_epi64(hi_ab, hi_cd);
            y[i + 3] = _mm512_unpackhi_epi64(hi_ab, hi_cd);
        }
        UNROLL(4)
        for (uint32_t i = 0; i < 4; i++) {
            r[w + i] = _mm512_permutex2var_epi64(y[i], first, y[4 + i]);
            r[w + 4 + i] = _mm512_permutex2var_epi64(y[i], second, y[4 + i]);
        }
    }
}

/* The same where there are n keys only, or n_bytes bytes: the rest is zeros and not read. */
static INLINE void load_some_words(const uint8_t *const *rows, uint32_t n, uint32_t at, uint32_t n_bytes, __m512i r[16])
{
    uint8_t part[16][64] = {{0}};
    const uint8_t *part_rows[16];

    for (uint32_t i = 0; i < 16; i++) {
        if (i < n)
            memcpy(part[i], rows[i] + at, n_bytes < 64 ? n_bytes : 64);
        part_rows[i] = part[i];
    }
    load_words(part_rows, 0, r);
}

/* use(ctx, d, x) for d = 0 … dim - 1 in this order, lane i of x being element d of key i, for VL keys of which n exist;
 * the others' are zeros. Meanwhile as many bytes are fetched ahead. */
typedef void vec_use(void *ctx, uint32_t d, vec x);

static INLINE void vec_transpose(enum kern_dtype dtype, const uint8_t *const *rows, uint32_t n, uint32_t dim,
                                 vec_use *use, void *ctx, struct ahead *ahead)
{
    const __m512i even_then_odd = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28,
                                                   26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    __m512i r[16];

    if (dtype == KERN_F32) {
        for (uint32_t first = 0; first < dim; first += 16) {
            ahead_fetch(ahead, 16 * 64);
            if (n == 16 && dim - first >= 16)
                load_words(rows, first * 4, r);
            else
                load_some_words(rows, n, first * 4, (dim - first) * 4, r);
            UNROLL(16)
            for (uint32_t i = 0; i < 16; i++)
                if (first + i < dim)
                    use(ctx, first + i, _mm512_castsi512_ps(r[i]));
        }
        return;
    }
    /* Two elements are a word, so one transposition serves 32 dimensions. */
    for (uint32_t first = 0; first < dim; first += 32) {
        ahead_fetch(ahead, 16 * 64);
        if (n == 16 && dim - first >= 32)
            load_words(rows, first * 2, r);
        else
            load_some_words(rows, n, first * 2, (dim - first) * 2, r);
        UNROLL(16)
        for (uint32_t w = 0; w < 16; w++) {
            const uint32_t d = first + 2 * w;
            vec even, odd;
            if (dtype == KERN_F16) {
                const __m512i halves = _mm512_permutexvar_epi16(even_then_odd, r[w]);
                even = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
                odd = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
            } else {
                even = _mm512_castsi512_ps(_mm512_slli_epi32(r[w], 16));
                odd = _mm512_castsi512_ps(_mm512_and_si512(r[w], _mm512_set1_epi32((int)0xffff0000)));
            }
            if (d < dim)
                use(ctx, d, even);
            if (d + 1 < dim)
                use(ctx, d + 1, odd);
        }
    }
}

#endif
