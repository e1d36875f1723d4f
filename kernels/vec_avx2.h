/* SPDX-License-Identifier: Apache-2.0
 *
 * Vectors of 8 floats in AVX2, FMA and F16C. The operations are described in vec_avx512.h. */
#ifndef KERN_VEC_H
#define KERN_VEC_H

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "ahead.h"
#include "compiler.h"
#include "exp2_poly.h"
#include "tile.h"

#define VL 8
typedef __m256 vec;

static INLINE vec vec_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static INLINE void vec_store(float *p, vec a)
{
    _mm256_storeu_ps(p, a);
}

static INLINE vec vec_set1(float x)
{
    return _mm256_set1_ps(x);
}

static INLINE vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

static INLINE vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

static INLINE vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

static INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static INLINE vec vec_abs(vec a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

static INLINE vec vec_lesser(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}

static INLINE vec vec_greater(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

static INLINE float vec_lane0(vec a)
{
    return _mm256_cvtss_f32(a);
}

static INLINE float vec_hsum(vec a)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

static INLINE vec vec_first_lanes(vec a, uint32_t n)
{
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 keep = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lanes));
    return _mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), a, keep);
}

static INLINE bool vec_any(vec a)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ)) != 0;
}

static INLINE bool vec_any_nan(const vec s[KERN_BLOCK / VL])
{
    vec nan = _mm256_setzero_ps();
    UNROLL(4)
    for (int j = 0; j < KERN_BLOCK / VL; j += 2)
        nan = _mm256_or_ps(nan, _mm256_cmp_ps(s[j], s[j + 1], _CMP_UNORD_Q));
    return _mm256_movemask_ps(nan) != 0;
}

static INLINE vec vec_max(const vec s[KERN_BLOCK / VL])
{
    vec a = s[0];
    UNROLL(7)
    for (int j = 1; j < KERN_BLOCK / VL; j++)
        a = _mm256_max_ps(a, s[j]);
    return a;
}

static INLINE float vec_hmax(vec a)
{
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

static INLINE bool vec_any_at_least(vec a, float least)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, _mm256_set1_ps(least), _CMP_GE_OQ)) != 0;
}

static INLINE vec vec_exp2(vec x)
{
    const vec n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const vec f = _mm256_sub_ps(x, n);
    vec y = _mm256_set1_ps(EXP2_C6);
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(EXP2_C5));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(EXP2_C4));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(EXP2_C3));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(EXP2_C2));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(EXP2_C1));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(1));
    /* 2ⁿ as bits: n + 127 is 1 … 127 where x ≥ -126; a NaN in y stays one times any 2ⁿ that is not zero */
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    const vec power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    const vec counts = _mm256_cmp_ps(x, _mm256_set1_ps(KERN_LEAST_EXPONENT), _CMP_NLT_UQ);
    return _mm256_and_ps(_mm256_mul_ps(y, power), counts);
}

static INLINE vec vec_widen(enum kern_dtype dtype, const uint8_t *p, uint32_t n)
{
    uint8_t part[VL * sizeof(float)];

    if (n < VL) {
        memset(part, 0, sizeof(part));
        memcpy(part, p, n * (dtype == KERN_F32 ? 4u : 2u));
        p = part;
    }
    if (dtype == KERN_F32)
        return _mm256_loadu_ps((const float *)p);
    const __m128i halves = _mm_loadu_si128((const __m128i *)p);
    if (dtype == KERN_F16)
        return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

static INLINE void vec_narrow(enum kern_dtype dtype, void *dst, vec a, uint32_t n)
{
    __m128i halves;

    if (dtype == KERN_F32) {
        float part[VL];
        _mm256_storeu_ps(part, a);
        memcpy(dst, part, n * sizeof(float));
        return;
    }
    if (dtype == KERN_F16) {
        halves = _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    } else {
        const __m256i u = _mm256_castps_si256(a);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
        const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
        const __m256i top = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
        halves = _mm_packus_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    }
    if (n == VL) {
        _mm_storeu_si128(dst, halves);
    } else {
        uint16_t part[VL];
        _mm_storeu_si128((__m128i *)part, halves);
        memcpy(dst, part, n * sizeof(uint16_t));
    }
}

static INLINE void transpose_8(vec r[8])
{
    vec a[8];

    UNROLL(2)
    for (int i = 0; i < 2; i++) { /* 4 × 4 floats in each 128-bit lane */
        const vec lo01 = _mm256_unpacklo_ps(r[4 * i], r[4 * i + 1]);
        const vec hi01 = _mm256_unpackhi_ps(r[4 * i], r[4 * i + 1]);
        const vec lo23 = _mm256_unpacklo_ps(r[4 * i + 2], r[4 * i + 3]);
        const vec hi23 = _mm256_unpackhi_ps(r[4 * i + 2], r[4 * i + 3]);
        a[4 * i] = _mm256_shuffle_ps(lo01, lo23, 0x44);
        a[4 * i + 1] = _mm256_shuffle_ps(lo01, lo23, 0xee);
        a[4 * i + 2] = _mm256_shuffle_ps(hi01, hi23, 0x44);
        a[4 * i + 3] = _mm256_shuffle_ps(hi01, hi23, 0xee);
    }
    UNROLL(4)
    for (int j = 0; j < 4; j++) {
        r[j] = _mm256_permute2f128_ps(a[j], a[4 + j], 0x20);
        r[4 + j] = _mm256_permute2f128_ps(a[j], a[4 + j], 0x31);
    }
}

typedef void vec_use(void *ctx, uint32_t d, vec x);

static INLINE void vec_transpose(enum kern_dtype dtype, const uint8_t *const *rows, uint32_t n, uint32_t dim,
                                 vec_use *use, void *ctx, struct ahead *ahead)
{
    const uint32_t element_size = dtype == KERN_F32 ? 4 : 2;

    for (uint32_t first = 0; first < dim; first += VL) {
        const uint32_t width = dim - first < VL ? dim - first : VL;
        vec r[VL];
        ahead_fetch(ahead, VL * VL * element_size);
        if (n == VL && width == VL) {
            UNROLL(8)
            for (uint32_t i = 0; i < VL; i++)
                r[i] = vec_widen(dtype, rows[i] + first * element_size, VL);
        } else {
            for (uint32_t i = 0; i < VL; i++)
                r[i] = i < n ? vec_widen(dtype, rows[i] + first * element_size, width) : _mm256_setzero_ps();
        }
        transpose_8(r);
        UNROLL(8)
        for (uint32_t d = 0; d < VL; d++)
            if (d < width)
                use(ctx, first + d, r[d]);
    }
}

#endif
