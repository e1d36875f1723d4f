/* SPDX-License-Identifier: Apache-2.0
 *
 * Vectors of 4 floats in the compilers' portable vector types: one instruction each on SSE2, NEON and the like, plain
 * scalars elsewhere. A multiply-add is rounded twice. The operations are described in vec_avx512.h. */
#ifndef KERN_VEC_H
#define KERN_VEC_H

#include <stdbool.h>
#include <string.h>

#include "ahead.h"
#include "compiler.h"
#include "convert.h"
#include "exp2_poly.h"
#include "tile.h"

#define VL 4
typedef float vec __attribute__((vector_size(16)));
typedef int32_t vec_bits __attribute__((vector_size(16)));

static INLINE vec vec_load(const float *p)
{
    vec a;
    memcpy(&a, p, sizeof(a));
    return a;
}

static INLINE void vec_store(float *p, vec a)
{
    memcpy(p, &a, sizeof(a));
}

static INLINE vec vec_set1(float x)
{
    return (vec){x, x, x, x};
}

static INLINE vec vec_add(vec a, vec b)
{
    return a + b;
}

static INLINE vec vec_sub(vec a, vec b)
{
    return a - b;
}

static INLINE vec vec_mul(vec a, vec b)
{
    return a * b;
}

static INLINE vec vec_fma(vec a, vec b, vec c)
{
    return a * b + c;
}

static INLINE float vec_lane0(vec a)
{
    return a[0];
}

static INLINE float vec_hsum(vec a)
{
    return (a[0] + a[2]) + (a[1] + a[3]);
}

static INLINE vec vec_select(vec_bits mask, vec a, vec b)
{
    return (vec)(((vec_bits)a & mask) | ((vec_bits)b & ~mask));
}

static INLINE vec vec_abs(vec a)
{
    return (vec)((vec_bits)a & 0x7fffffff);
}

static INLINE vec vec_lesser(vec a, vec b)
{
    return vec_select(a < b, a, b);
}

static INLINE vec vec_greater(vec a, vec b)
{
    return vec_select(a > b, a, b);
}

static INLINE bool vec_any_set(vec_bits a)
{
    return (a[0] | a[1] | a[2] | a[3]) != 0;
}

static INLINE vec vec_first_lanes(vec a, uint32_t n)
{
    const int32_t m = (int32_t)n;
    const vec_bits keep = (vec_bits){0, 1, 2, 3} < (vec_bits){m, m, m, m};
    return vec_select(keep, a, vec_set1(-__builtin_inff()));
}

static INLINE bool vec_any(vec a)
{
    return vec_any_set(a != vec_set1(0));
}

static INLINE bool vec_any_nan(const vec s[KERN_BLOCK / VL])
{
    vec_bits nan = {0};
    for (int j = 0; j < KERN_BLOCK / VL; j++)
        nan |= s[j] != s[j]; /* of a NaN alone; NOLINT(misc-redundant-expression) */
    return vec_any_set(nan);
}

static INLINE vec vec_max(const vec s[KERN_BLOCK / VL])
{
    vec a = s[0];
    for (int j = 1; j < KERN_BLOCK / VL; j++)
        a = vec_select(a > s[j], a, s[j]);
    return a;
}

static INLINE float vec_hmax(vec a)
{
    const float x = a[0] > a[2] ? a[0] : a[2];
    const float y = a[1] > a[3] ? a[1] : a[3];
    return x > y ? x : y;
}

static INLINE bool vec_any_at_least(vec a, float least)
{
    return vec_any_set(a >= vec_set1(least));
}

static INLINE vec vec_exp2(vec x)
{
    const vec_bits counts = ~(x < vec_set1(KERN_LEAST_EXPONENT));
    const vec bounded = vec_select(counts, x, vec_set1(0)); /* a NaN stays */
    const vec magic = vec_set1(0x1.8p23f);                  /* adding it rounds to an integer, in the low bits */
    const vec shifted = bounded + magic;
    const vec f = bounded - (shifted - magic);
    vec y = vec_set1(EXP2_C6);
    y = y * f + vec_set1(EXP2_C5);
    y = y * f + vec_set1(EXP2_C4);
    y = y * f + vec_set1(EXP2_C3);
    y = y * f + vec_set1(EXP2_C2);
    y = y * f + vec_set1(EXP2_C1);
    y = y * f + vec_set1(1);
    const vec_bits n = (vec_bits)shifted - (vec_bits)magic;
    const vec power = (vec)((n + 127) << 23);
    return (vec)((vec_bits)(y * power) & counts);
}

static INLINE float widen_one(enum kern_dtype dtype, const uint8_t *p)
{
    uint16_t half;
    float x;

    if (dtype == KERN_F32) {
        memcpy(&x, p, sizeof(x));
        return x;
    }
    memcpy(&half, p, sizeof(half));
    return dtype == KERN_F16 ? kern_f32_of_f16(half) : kern_f32_of_bf16(half);
}

static INLINE vec vec_widen(enum kern_dtype dtype, const uint8_t *p, uint32_t n)
{
    const uint32_t element_size = dtype == KERN_F32 ? 4 : 2;
    vec a = {0};

    for (uint32_t i = 0; i < n; i++)
        a[i] = widen_one(dtype, p + i * element_size);
    return a;
}

static INLINE void vec_narrow(enum kern_dtype dtype, void *dst, vec a, uint32_t n)
{
    if (dtype == KERN_F32) {
        memcpy(dst, &a, n * sizeof(float));
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        const uint16_t half = dtype == KERN_F16 ? kern_f16_of_f32(a[i]) : kern_bf16_of_f32(a[i]);
        memcpy((uint8_t *)dst + i * sizeof(half), &half, sizeof(half));
    }
}

typedef void vec_use(void *ctx, uint32_t d, vec x);

static INLINE void vec_transpose(enum kern_dtype dtype, const uint8_t *const *rows, uint32_t n, uint32_t dim,
                                 vec_use *use, void *ctx, struct ahead *ahead)
{
    const uint32_t element_size = dtype == KERN_F32 ? 4 : 2;

    (void)ahead;
    for (uint32_t d = 0; d < dim; d++) {
        vec x = {0};
        for (uint32_t i = 0; i < n; i++)
            x[i] = widen_one(dtype, rows[i] + d * element_size);
        use(ctx, d, x);
    }
}

#endif
