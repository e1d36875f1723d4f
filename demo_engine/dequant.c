/* SPDX-License-Identifier: Apache-2.0 */
#include "dequant.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define Q8_0_BLOCK 32
#define Q8_0_BYTES 34 /* f16 scale, 32 × int8 */

static float f32_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float f32_of_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 0x1f;
    uint32_t mantissa = h & 0x3ff;
    if (exponent == 0x1f)
        return f32_of_bits(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0)); /* NaNs made quiet */
    if (exponent)
        return f32_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float magnitude = (float)mantissa * 0x1p-24f; /* zero or subnormal */
    return sign ? -magnitude : magnitude;
}

static uint16_t load_u16(const uint8_t *p)
{
    uint16_t u;
    memcpy(&u, p, sizeof u);
    return u;
}

static void f16_portable(const uint8_t *src, size_t n, float *dst)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = f32_of_f16(load_u16(src + 2 * i));
}

static void bf16_portable(const uint8_t *src, size_t n, float *dst)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = f32_of_bits((uint32_t)load_u16(src + 2 * i) << 16);
}

static void q8_0_portable(const uint8_t *src, size_t n, float *dst)
{
    for (size_t b = 0; b < n / Q8_0_BLOCK; b++, src += Q8_0_BYTES) {
        float scale = f32_of_f16(load_u16(src));
        for (uint32_t i = 0; i < Q8_0_BLOCK; i++)
            dst[b * Q8_0_BLOCK + i] = scale * (float)(int8_t)src[2 + i];
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2,f16c"))) static void f16_avx2(const uint8_t *src, size_t n, float *dst)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(src + 2 * i))));
    f16_portable(src + 2 * i, n - i, dst + i);
}

__attribute__((target("avx2"))) static void bf16_avx2(const uint8_t *src, size_t n, float *dst)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(src + 2 * i)));
        _mm256_storeu_si256((__m256i *)(dst + i), _mm256_slli_epi32(words, 16));
    }
    bf16_portable(src + 2 * i, n - i, dst + i);
}

__attribute__((target("avx2,f16c"))) static void q8_0_avx2(const uint8_t *src, size_t n, float *dst)
{
    for (size_t b = 0; b < n / Q8_0_BLOCK; b++, src += Q8_0_BYTES) {
        __m256 scale = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(load_u16(src))));
        for (uint32_t i = 0; i < Q8_0_BLOCK; i += 8) {
            __m256i q = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(src + 2 + i)));
            _mm256_storeu_ps(dst + b * Q8_0_BLOCK + i, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(q)));
        }
    }
}

static int have_avx2(void)
{
    return __builtin_cpu_supports("avx2"); /* every CPU with AVX2 has F16C; clang 14 can't be asked for that */
}
#else
#define f16_avx2    f16_portable
#define bf16_avx2   bf16_portable
#define q8_0_avx2   q8_0_portable
#define have_avx2() 0
#endif

void engine_dequant(enum gguf_type type, const void *src, size_t n, float *dst)
{
    switch (type) {
    case GGUF_F32:
        memcpy(dst, src, n * sizeof *dst);
        return;
    case GGUF_F16:
        (have_avx2() ? f16_avx2 : f16_portable)(src, n, dst);
        return;
    case GGUF_BF16:
        (have_avx2() ? bf16_avx2 : bf16_portable)(src, n, dst);
        return;
    case GGUF_Q8_0:
        (have_avx2() ? q8_0_avx2 : q8_0_portable)(src, n, dst);
        return;
    }
}
