/* SPDX-License-Identifier: Apache-2.0
 *
 * Dequantisers, norms, RoPE and SwiGLU against their definitions in double. */
#include "ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dequant.h"
#include "engine_support.h"

/* By the definition of binary16. */
static float f16_value(uint16_t h)
{
    int exponent = h >> 10 & 31;
    double mantissa = h & 1023;
    double sign = h & 0x8000 ? -1 : 1;
    if (exponent == 31)
        return mantissa != 0 ? NAN : (float)(sign * INFINITY);
    return (float)(sign * (exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24)));
}

START_TEST(every_f16_has_its_value)
{
    static uint16_t halves[65536 + 3];
    static float floats[65536 + 3];
    for (uint32_t i = 0; i < 65536 + 3; i++)
        halves[i] = (uint16_t)i;
    engine_dequant(GGUF_F16, halves, 65536 + 3, floats); /* 3: a tail shorter than a vector */
    for (uint32_t i = 0; i < 65536 + 3; i++) {
        float want = f16_value((uint16_t)i);
        ck_assert_msg(isnan(want) ? isnan(floats[i]) : want == floats[i] && signbit(want) == signbit(floats[i]),
                      "f16 %04x is %g", i, (double)floats[i]);
    }
}
END_TEST

START_TEST(q8_0_is_scale_times_int8)
{
    uint8_t blocks[3 * 34];
    static const uint16_t scales[3] = {0x3c00, 0x2e66, 0x8001}; /* 1, 0.0999756, −2^-24 */
    float out[96];
    for (int b = 0; b < 3; b++) {
        memcpy(blocks + b * 34, &scales[b], 2);
        for (int i = 0; i < 32; i++)
            blocks[b * 34 + 2 + i] = (uint8_t)(i * 8 - 128);
    }
    engine_dequant(GGUF_Q8_0, blocks, 96, out);
    for (int i = 0; i < 96; i++)
        ck_assert_float_eq(out[i], f16_value(scales[i / 32]) * (float)(i % 32 * 8 - 128));
}
END_TEST

START_TEST(bf16_is_the_upper_half)
{
    static uint16_t halves[65536 + 5];
    static uint32_t bits[65536 + 5]; /* of floats: NaNs keep theirs */
    for (uint32_t i = 0; i < 65536 + 5; i++)
        halves[i] = (uint16_t)i;
    engine_dequant(GGUF_BF16, halves, 65536 + 5, (float *)bits);
    for (uint32_t i = 0; i < 65536 + 5; i++)
        ck_assert_uint_eq(bits[i], (i & 0xffff) << 16);
}
END_TEST

START_TEST(rms_norm_has_unit_mean_square)
{
    uint64_t state = 5;
    for (uint32_t n = 1; n < 200; n += 13) {
        float x[200], w[200], out[200];
        double sum = 0;
        for (uint32_t i = 0; i < n; i++) {
            x[i] = 30 * test_random_float(&state);
            w[i] = test_random_float(&state);
            sum += (double)x[i] * (double)x[i];
        }
        double scale = 1 / sqrt(sum / n + (double)1e-3f);
        ops_rms_norm(x, w, n, 1e-3f, out);
        for (uint32_t i = 0; i < n; i++)
            ck_assert_double_le(fabs((double)out[i] - (double)x[i] * scale * (double)w[i]), 1e-6);
    }
}
END_TEST

START_TEST(swiglu_is_silu_times_up)
{
    for (int i = -130; i <= 130; i++) {
        const float g = 0.7f * (float)i;
        float gate = g, up = 1.5f;
        ops_swiglu(&gate, &up, 1);
        double want = (double)g / (1 + exp(-(double)g)) * 1.5;
        ck_assert_double_le(fabs((double)gate - want), 1e-6 * fabs(want) + 1e-30);
    }
}
END_TEST

START_TEST(rope_turns_pairs_exactly_at_any_position)
{
    enum { DIMS = 16, HEAD = 24 }; /* the last 8 of each head are not turned */
    static const uint32_t positions[] = {0, 1, 511, 65535, 131071, 1048575};
    float theta[DIMS / 2], turn[DIMS], x[2 * HEAD], before[2 * HEAD];
    ops_rope_theta(10000.0f, DIMS, theta);
    uint64_t state = 9;
    for (size_t k = 0; k < sizeof positions / sizeof *positions; k++) {
        for (int i = 0; i < 2 * HEAD; i++)
            before[i] = x[i] = test_random_float(&state);
        ops_rope_turn(theta, DIMS, positions[k], turn);
        ops_rope(x, 2, HEAD, DIMS, turn);
        for (int i = 0; i < 2 * HEAD; i += 2) {
            int pair = i % HEAD / 2;
            long double angle = pair < DIMS / 2 ? (long double)positions[k] * (long double)theta[pair] : 0;
            double a = before[i], b = before[i + 1];
            double c = (double)cosl(angle), s = (double)sinl(angle);
            ck_assert_double_le(fabs((double)x[i] - (a * c - b * s)), 3e-7);
            ck_assert_double_le(fabs((double)x[i + 1] - (a * s + b * c)), 3e-7);
        }
    }
    for (int j = 0; j < DIMS / 2; j++)
        ck_assert_float_eq(theta[j], (float)pow(10000.0, -2.0 * j / DIMS));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ops");
    TCase *cases = tcase_create("all");
    tcase_add_test(cases, every_f16_has_its_value);
    tcase_add_test(cases, q8_0_is_scale_times_int8);
    tcase_add_test(cases, bf16_is_the_upper_half);
    tcase_add_test(cases, rms_norm_has_unit_mean_square);
    tcase_add_test(cases, swiglu_is_silu_times_up);
    tcase_add_test(cases, rope_turns_pairs_exactly_at_any_position);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
