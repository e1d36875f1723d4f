/* SPDX-License-Identifier: Apache-2.0
 *
 * Checksums: one value for the same bytes and seed, whichever way it is made; another for anything else. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "support.h"
#include "swap/checksum.h"

enum { BYTES = 256 << 10 };

START_TEST(is_xxh3)
{
    unsigned char *block = new_block(BYTES);
    fill_block(block, BYTES, 1, 2);
    for (size_t n = 0; n < BYTES; n += 4096 + n / 2)
        ck_assert_uint_eq(swap_checksum(42, block, n), XXH3_64bits_withSeed(block, n, 42));
    free(block);
}
END_TEST

START_TEST(copying_makes_the_same)
{
    unsigned char *block = new_block(BYTES), *copy = new_block(BYTES);
    fill_block(block, BYTES, 3, 4);
    for (size_t n = 4096; n <= BYTES; n += 4096) {
        memset(copy, 0, BYTES);
        ck_assert_uint_eq(swap_checksum_copy(n, copy, block, n), swap_checksum(n, block, n));
        ck_assert_mem_eq(copy, block, n);
        for (size_t i = n; i < BYTES; i += 4096)
            ck_assert_uint_eq(copy[i], 0);
    }
    free(block);
    free(copy);
}
END_TEST

START_TEST(one_bit_changes_it)
{
    unsigned char *block = new_block(BYTES);
    fill_block(block, BYTES, 5, 6);
    uint64_t right = swap_checksum(7, block, BYTES), random = 8;
    for (int i = 0; i < scaled(300); i++) {
        size_t bit = random_next(&random) % (BYTES * 8u);
        block[bit / 8] ^= (unsigned char)(1u << bit % 8);
        ck_assert_uint_ne(swap_checksum(7, block, BYTES), right);
        block[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    ck_assert_uint_eq(swap_checksum(7, block, BYTES), right);
    free(block);
}
END_TEST

START_TEST(seeds_tell_stamps_apart)
{
    /* Also those that are alike in a sum or an exclusive or. */
    enum { SIDE = 8, N = SIDE * SIDE * SIDE };
    uint64_t seeds[N];
    int n = 0;
    for (uint64_t store = 0; store < SIDE; store++)
        for (uint64_t key = 0; key < SIDE; key++)
            for (uint32_t generation = 0; generation < SIDE; generation++)
                seeds[n++] = swap_checksum_seed(store, key, generation);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < i; j++)
            ck_assert_uint_ne(seeds[i], seeds[j]);
    /* A block of zeros has another checksum under each. */
    unsigned char *zeros = new_block(4096);
    ck_assert_uint_ne(swap_checksum(seeds[0], zeros, 4096), swap_checksum(seeds[1], zeros, 4096));
    ck_assert_uint_ne(swap_checksum(seeds[0], zeros, 4096), 0);
    free(zeros);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("checksum");
    tcase_add_test(tests, is_xxh3);
    tcase_add_test(tests, copying_makes_the_same);
    tcase_add_test(tests, one_bit_changes_it);
    tcase_add_test(tests, seeds_tell_stamps_apart);
    return run_suite("swap checksum", tests);
}
