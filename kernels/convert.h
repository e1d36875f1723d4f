/* SPDX-License-Identifier: Apache-2.0
 *
 * Element conversions in portable C. f16 is IEEE 754 binary16; bf16 is the upper half of a binary32. Narrowing rounds to
 * nearest, ties to even; overflow gives infinity; a NaN keeps its sign and upper payload bits and becomes quiet, as the
 * CPU's own instructions do. */
#ifndef KERN_CONVERT_H
#define KERN_CONVERT_H

#include <stdint.h>
#include <string.h>

static inline uint32_t kern_f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    return u;
}

static inline float kern_f32_of_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof(x));
    return x;
}

static inline float kern_f32_of_bf16(uint16_t h)
{
    return kern_f32_of_bits((uint32_t)h << 16);
}

static inline uint16_t kern_bf16_of_f32(float x)
{
    const uint32_t u = kern_f32_bits(x);

    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float kern_f32_of_f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t rest = (uint32_t)(h & 0x7fffu) << 13;

    if (rest >= 0x0f800000u) /* infinity or NaN: exponent all ones; a NaN comes out quiet */
        return kern_f32_of_bits(sign | 0x70000000u | rest | (rest > 0x0f800000u ? 0x00400000u : 0));
    if (rest >= 0x00800000u)
        return kern_f32_of_bits(sign | (rest + ((127u - 15u) << 23)));
    /* subnormal: h × 2⁻²⁴, exact in f32 */
    const float magnitude = (float)(h & 0x03ffu) * 0x1p-24f;
    return kern_f32_of_bits(sign | kern_f32_bits(magnitude));
}

static inline uint16_t kern_f16_of_f32(float x)
{
    const uint32_t u = kern_f32_bits(x);
    const uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    const uint32_t a = u & 0x7fffffffu;

    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x03ffu));
    if (a >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a >= 0x38800000u) /* ≥ 2⁻¹⁴: normal; a carry out of the mantissa raises the exponent, as it must */
        return (uint16_t)(sign | ((a - ((127u - 15u) << 23) + 0x0fffu + ((a >> 13) & 1u)) >> 13));
    /* Subnormal or zero: adding 0.5 puts the unit 2⁻²⁴ at the f32 mantissa's last bit, and rounds. */
    return (uint16_t)(sign | (kern_f32_bits(kern_f32_of_bits(a) + 0.5f) - 0x3f000000u));
}

#endif
