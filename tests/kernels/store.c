/* SPDX-License-Identifier: Apache-2.0
 *
 * kern_store() rounds to nearest, ties to even, over the whole of both half formats, on every level of the CPU. The
 * oracle knows the formats by their definition only: value(h) as a double, and that the values ascend with h. */
#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"

/* The value of a finite half of `bits` fraction bits and exponents of the given bias, sign bit off. */
static double value(enum kern_dtype dtype, uint32_t h)
{
    const int bits = dtype == KERN_F16 ? 10 : 7;
    const int bias = dtype == KERN_F16 ? 15 : 127;
    const uint32_t fraction = h & ((1u << bits) - 1);
    const int exponent = (int)(h >> bits);

    return exponent == 0 ? ldexp(fraction, 1 - bias - bits) : ldexp(fraction + (1u << bits), exponent - bias - bits);
}

static uint32_t infinity_of(enum kern_dtype dtype)
{
    return dtype == KERN_F16 ? 0x7c00 : 0x7f80;
}

/* Stores n floats as one token's row of n dimensions, a head at a time. */
static void store(enum kern_isa isa, enum kern_dtype dtype, const float *src, uint32_t n, void *dst)
{
    const struct kern_attention_params p = {
        .n_heads = 1, .n_kv_heads = 1, .head_dim = n, .dtype = dtype, .isa = isa, .scale = 1};
    const struct kern_tensor tensor = {.base = dst, .page_tokens = 16};

    kern_store(&p, &tensor, 0, 1, src, n);
}

#define ROW 253 /* not a multiple of any vector */

struct batch {
    enum kern_isa isa;
    enum kern_dtype dtype;
    uint32_t n;
    float src[ROW];
    uint16_t want[ROW];
};

static void batch_flush(struct batch *b)
{
    uint16_t got[ROW + 1];

    memset(got, 0xa5, sizeof(got));
    store(b->isa, b->dtype, b->src, b->n, got);
    for (uint32_t i = 0; i < b->n; i++)
        if (got[i] != b->want[i])
            ck_abort_msg("%s, dtype %d: %a becomes %04x, not %04x", kern_isa_name(b->isa), (int)b->dtype,
                         (double)b->src[i], got[i], b->want[i]);
    ck_assert_uint_eq(got[b->n], 0xa5a5);
    b->n = 0;
}

/* Both signs of x must become h. */
static void batch_add(struct batch *b, float x, uint32_t h)
{
    for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000) {
        b->src[b->n] = sign ? -x : x;
        b->want[b->n] = (uint16_t)(h | sign);
        if (++b->n == ROW)
            batch_flush(b);
    }
}

/* Each value itself; between each two the middle, which goes to the even one, and its neighbours in f32. The value
 * above the greatest is where infinity begins. */
static void check_format(enum kern_isa isa, enum kern_dtype dtype)
{
    struct batch b = {.isa = isa, .dtype = dtype};

    for (uint32_t h = 0; h < infinity_of(dtype); h++) {
        const double here = value(dtype, h);
        const double next = value(dtype, h + 1);
        const float middle = (float)((here + next) / 2);
        batch_add(&b, (float)here, h);
        if ((double)middle != (here + next) / 2) /* bf16's least: half of it is still an f32, so this must not be */
            ck_abort_msg("no middle at %04x", h);
        batch_add(&b, middle, h % 2 ? h + 1 : h);
        batch_add(&b, nextafterf(middle, 0), h);
        if (nextafterf(middle, INFINITY) < INFINITY)
            batch_add(&b, nextafterf(middle, INFINITY), h + 1);
    }
    batch_add(&b, INFINITY, infinity_of(dtype));
    batch_add(&b, 3.402823466e38f, infinity_of(dtype));
    batch_add(&b, 1e-45f, 0);
    if (b.n > 0)
        batch_flush(&b);
}

START_TEST(rounds_to_nearest_even)
{
    check_format((enum kern_isa)_i, KERN_F16);
    check_format((enum kern_isa)_i, KERN_BF16);
}
END_TEST

START_TEST(nan_stays_nan)
{
    static const uint32_t patterns[] = {0x7fc00000, 0x7f800001, 0xff800001, 0x7fffffff, 0xffc00000, 0x7f801fff};

    for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++)
        for (int dtype = KERN_F16; dtype <= KERN_BF16; dtype++) {
            float row[17];
            uint16_t got[17];
            for (int j = 0; j < 17; j++)
                memcpy(&row[j], &patterns[i], sizeof(float));
            store((enum kern_isa)_i, (enum kern_dtype)dtype, row, 17, got);
            for (int j = 0; j < 17; j++) {
                ck_assert_uint_gt(got[j] & 0x7fff, infinity_of((enum kern_dtype)dtype));
                ck_assert_uint_eq(got[j] >> 15, patterns[i] >> 31);
            }
        }
}
END_TEST

START_TEST(f32_is_copied)
{
    struct rng rng = {.state = 3};
    float src[100], dst[101];

    for (uint32_t n = 1; n <= 100; n++) {
        rng_fill(&rng, src, n, 1);
        dst[n] = 5;
        store((enum kern_isa)_i, KERN_F32, src, n, dst);
        ck_assert_mem_eq(src, dst, n * sizeof(float));
        ck_assert_float_eq(dst[n], 5);
    }
}
END_TEST

/* Tokens, heads and pages at their strides, and nothing in between. */
START_TEST(strides)
{
    enum { HEADS = 3, DIM = 5, TOKENS = 11, PAGE = 4 };
    const size_t head = 16, token = 64, page = 512;
    const struct kern_attention_params p = {.n_heads = HEADS,
                                            .n_kv_heads = HEADS,
                                            .head_dim = DIM,
                                            .dtype = KERN_F16,
                                            .isa = (enum kern_isa)_i,
                                            .scale = 1};
    uint8_t memory[3 * 512], want[3 * 512];
    float src[TOKENS][HEADS * DIM + 2];
    const struct kern_tensor tensor = {
        .base = memory, .page_stride = page, .token_stride = token, .head_stride = head, .page_tokens = PAGE};

    memset(memory, 0x77, sizeof(memory));
    memset(want, 0x77, sizeof(want));
    for (uint32_t t = 1; t < TOKENS; t++)
        for (uint32_t i = 0; i < HEADS * DIM; i++) {
            const uint32_t at = t * 100 + i; /* as an f16: 1024 + at is exact, and its bits are 0x6400 + at */
            const uint16_t bits = (uint16_t)(0x6400 + at % 1024);
            src[t][i] = 1024.0f + (float)(at % 1024);
            memcpy(want + t / PAGE * page + t % PAGE * token + i / DIM * head + i % DIM * sizeof(bits), &bits,
                   sizeof(bits));
        }
    kern_store(&p, &tensor, 1, TOKENS - 1, src[1], HEADS * DIM + 2);
    ck_assert_mem_eq(memory, want, sizeof(memory));
}
END_TEST

int main(void)
{
    const int levels = (int)kern_isa_best() + 1;
    Suite *suite = suite_create("store");
    TCase *tcase = tcase_create("rounding");

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, rounds_to_nearest_even, 0, levels);
    tcase_add_loop_test(tcase, nan_stays_nan, 0, levels);
    tcase_add_loop_test(tcase, f32_is_copied, 0, levels);
    tcase_add_loop_test(tcase, strides, 0, levels);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
