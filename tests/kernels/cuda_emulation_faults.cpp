/* SPDX-License-Identifier: Apache-2.0
 *
 * The emulation finds the faults that the tests of the kernels rely on it to find. */
#include <check.h>

#include <cstdlib>
#include <string>

#include "tests/kernels/cuda_emulation/device.cuh"

alignas(16) static uint32_t source[32 * 4];
static uint32_t seen[64];

static std::string run(void (*kernel)(), uint64_t seed, uint32_t threads = 64)
{
    emulation::launch l;
    l.kernel = kernel;
    l.threads = threads;
    l.shared_bytes = 1024;
    l.seed = seed;
    for (uint32_t i = 0; i < 32 * 4; i++)
        source[i] = i;
    return emulation::run(l);
}

static bool contains(const std::string &text, const char *part)
{
    return text.find(part) != std::string::npos;
}

/* Each of the first 32 threads copies 16 bytes, and reads its neighbour's first word. */
template <bool WAIT, bool BARRIER> static void neighbours()
{
    if (thread_index() < 32)
        copy_async(shared_address() + thread_index() * 16, &source[thread_index() * 4], true);
    copy_commit();
    if (WAIT)
        copy_wait<0>();
    if (BARRIER)
        block_barrier();
    if (thread_index() < 32)
        seen[thread_index()] = *shared_at<uint32_t>((thread_index() + 1) % 32 * 16);
}

static uint32_t wrong_neighbours()
{
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < 32; i++)
        wrong += seen[i] != (i + 1) % 32 * 4;
    return wrong;
}

START_TEST(a_copy_is_seen_after_wait_and_barrier_only)
{
    for (uint64_t seed = 0; seed < 4; seed++) {
        ck_assert(run(neighbours<true, true>, seed) == "");
        ck_assert_uint_eq(wrong_neighbours(), 0);
        ck_assert(run(neighbours<false, true>, seed) == "");
        ck_assert_uint_eq(wrong_neighbours(), 32);
        ck_assert(run(neighbours<true, false>, seed) == "");
        ck_assert_uint_ne(wrong_neighbours(), 0);
    }
}
END_TEST

/* Stores go through shared memory without a barrier: right in turn, wrong in some other order. */
static void unordered_exchange()
{
    *shared_at<uint32_t>(thread_index() * 4) = thread_index();
    warp_any(true);
    if (thread_index() >= 32)
        seen[thread_index()] = *shared_at<uint32_t>((thread_index() - 32) * 4);
}

START_TEST(a_missing_barrier_shows_in_some_order)
{
    uint32_t wrong = 0;
    for (uint64_t seed = 1; seed < 20; seed++) {
        ck_assert(run(unordered_exchange, seed) == "");
        for (uint32_t i = 32; i < 64; i++)
            wrong += seen[i] != i - 32;
    }
    ck_assert_uint_gt(wrong, 0);
}
END_TEST

static void parted_lanes()
{
    if (thread_index() % 32 < 16)
        shuffle_xor(1u, 1);
    else
        warp_any(true);
}

static void early_exit()
{
    if (thread_index() == 5)
        return;
    block_barrier();
}

static void beyond_shared()
{
    copy_async(shared_address() + 1024 - 16 + thread_index() * 16, source, true);
}

static void unaligned_row()
{
    uint32_t r[4];
    load_matrix(r, shared_address() + 8);
}

START_TEST(what_hardware_leaves_undefined_is_an_error)
{
    for (uint64_t seed = 0; seed < 3; seed++) {
        ck_assert(contains(run(parted_lanes, seed), "threads part"));
        ck_assert(contains(run(early_exit, seed), "threads part"));
        ck_assert(contains(run(beyond_shared, seed), "out of shared memory"));
        ck_assert(contains(run(unaligned_row, seed), "not a multiple of 16"));
    }
    ck_assert(run(unaligned_row, 0, 48) != "");
}
END_TEST

/* A product with one 1 in a and b's elements all different tells where each element must lie. */
static float product[16][8];
static uint32_t one_row, one_column;

static void one_product()
{
    const uint32_t row = thread_index() / 4;
    const uint32_t pair = thread_index() % 4 * 2;
    uint32_t a[4];
    uint32_t b[2];
    float c[4] = {0, 0, 0, 0};

    for (uint32_t i = 0; i < 4; i++) {
        const bool here = row + i % 2 * 8 == one_row;
        const uint32_t column = pair + i / 2 * 8;
        a[i] = f16_pair(here && column == one_column ? 1 : 0, here && column + 1 == one_column ? 1 : 0);
    }
    for (uint32_t i = 0; i < 2; i++) {
        const float k = static_cast<float>(pair + i * 8) * 8 + static_cast<float>(row);
        b[i] = f16_pair(k, k + 8);
    }
    mma_f16(c, a, b[0], b[1]);
    for (uint32_t i = 0; i < 4; i++)
        product[row + i / 2 * 8][pair + i % 2] = c[i];
}

START_TEST(products_are_those_of_the_fragments)
{
    for (one_row = 0; one_row < 16; one_row++)
        for (one_column = 0; one_column < 16; one_column++) {
            ck_assert(run(one_product, 0, 32) == "");
            for (uint32_t i = 0; i < 16; i++)
                for (uint32_t j = 0; j < 8; j++)
                    ck_assert_float_eq(product[i][j], i == one_row ? static_cast<float>(one_column * 8 + j) : 0);
        }
}
END_TEST

int main()
{
    Suite *suite = suite_create("cuda_emulation_faults");
    TCase *tc = tcase_create("faults");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, a_copy_is_seen_after_wait_and_barrier_only);
    tcase_add_test(tc, a_missing_barrier_shows_in_some_order);
    tcase_add_test(tc, what_hardware_leaves_undefined_is_an_error);
    tcase_add_test(tc, products_are_those_of_the_fragments);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
