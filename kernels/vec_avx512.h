/* SPDX-License-Identifier: Apache-2.0
 *
 * Vectors of 16 floats in AVX-512 F, BW, DQ, VL. */
#ifndef KERN_VEC_H
#define KERN_VEC_H

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

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

/* Transposes a matrix of 16 × 16 words. */
static INLINE void transpose_16(__m512i r[16])
{
    __m512i a[16];

    UNROLL(4)
    for (int i = 0; i < 4; i++) { /* 4 × 4 words in each 128-bit lane */
        const __m512i lo01 = _mm512_unpacklo_epi32(r[4 * i], r[4 * i + 1]);
        const __m512i hi01 = _mm512_unpackhi_epi32(r[4 * i], r[4 * i + 1]);
        const __m512i lo23 = _mm512_unpacklo_epi32(r[4 * i + 2], r[4 * i + 3]);
        const __m512i hi23 = _mm512_unpackhi_epi32(r[4 * i + 2], r[4 * i + 3]);
        a[4 * i] = _mm512_unpacklo_epi64(lo01, lo23);
        a[4 * i + 1] = _mm512_unpackhi_epi64(lo01, lo23);
        a[4 * i + 2] = _mm512_unpacklo_epi64(hi01, hi23);
        a[4 * i + 3] = _mm512_unpackhi_epi64(hi01, hi23);
    }
    UNROLL(4)
    for (int j = 0; j < 4; j++) { /* then the 4 × 4 lanes */
        const __m512i lo01 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
        const __m512i hi01 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
        const __m512i lo23 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
        const __m512i hi23 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
        r[j] = _mm512_shuffle_i32x4(lo01, lo23, 0x88);
        r[4 + j] = _mm512_shuffle_i32x4(hi01, hi23, 0x88);
        r[8 + j] = _mm512_shuffle_i32x4(lo01, lo23, 0xdd);
        r[12 + j] = _mm512_shuffle_i32x4(hi01, hi23, 0xdd);
    }
}

/* 16 words of 16 keys' rows from byte `at` on, transposed: r[w] lane i is word w of key i. Keys n … and elements from
 * `dim` on are zero and not read; element_size is 2 or 4. */
static INLINE void load_words(const uint8_t *const *rows, uint32_t n, uint32_t first_dim, uint32_t dim,
                              uint32_t element_size, __m512i r[16])
{
    const uint32_t left = dim - first_dim;

    if (n == 16 && left * element_size >= 64) {
        UNROLL(16)
        for (uint32_t i = 0; i < 16; i++)
            r[i] = _mm512_loadu_si512(rows[i] + first_dim * element_size);
    } else {
        const uint64_t mask = left * element_size >= 64 ? ~0ull : (1ull << left * element_size) - 1;
        for (uint32_t i = 0; i < 16; i++)
            r[i] = i < n ? _mm512_maskz_loadu_epi8(mask, rows[i] + first_dim * element_size) : _mm512_setzero_si512();
    }
    transpose_16(r);
}

/* dst[d × KERN_BLOCK + i] = element d of key i, for VL keys of which n exist. */
static INLINE void vec_transpose(enum kern_dtype dtype, const uint8_t *const *rows, uint32_t n, uint32_t dim,
                                 float *dst)
{
    __m512i r[16];

    if (dtype == KERN_F32) {
        for (uint32_t first = 0; first < dim; first += 16) {
            load_words(rows, n, first, dim, 4, r);
            for (uint32_t d = first; d < dim && d < first + 16; d++)
                _mm512_storeu_si512(dst + (size_t)d * KERN_BLOCK, r[d - first]);
        }
        return;
    }
    /* Two elements are a word, so one transposition serves 32 dimensions. */
    for (uint32_t first = 0; first < dim; first += 32) {
        load_words(rows, n, first, dim, 2, r);
        UNROLL(16)
        for (uint32_t w = 0; w < 16; w++) {
            const uint32_t d = first + 2 * w;
            vec even, odd;
            if (dtype == KERN_F16) {
                even = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(r[w]));
                odd = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(r[w], 16)));
            } else {
                even = _mm512_castsi512_ps(_mm512_slli_epi32(r[w], 16));
                odd = _mm512_castsi512_ps(_mm512_and_si512(r[w], _mm512_set1_epi32((int)0xffff0000)));
            }
            if (d < dim)
                vec_store(dst + (size_t)d * KERN_BLOCK, even);
            if (d + 1 < dim)
                vec_store(dst + (size_t)(d + 1) * KERN_BLOCK, odd);
        }
    }
}

#endif
