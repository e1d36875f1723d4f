/* SPDX-License-Identifier: Apache-2.0
 *
 * Each attention kernel, emulated, agrees with the formula in double precision, through the launches of kernels/cuda.c: any
 * layout, page, lengths and groups; nothing but attended rows is read. So do the C forms. */
#include <check.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "tests/kernels/cuda_shapes.hpp"
#include "tests/support/scale.h"

static const uint32_t PAGES[] = {16, 16, 1, 7, 64};
static const uint32_t TILE_DIMS[4][4] = {{8, 16, 24, 32}, {40, 48, 64, 64}, {72, 80, 128, 128}, {136, 192, 256, 256}};
static const char *const TYPES[] = {"f16", "bf16"};
static const int TILES[] = {32, 64, 128, 256};

static struct kern_cuda *open_kernels()
{
    struct kern_cuda *k = nullptr;
    ck_assert_int_eq(kern_cuda_open_image(emulated_driver(), 0, "", &k), CUDA_SUCCESS);
    device.error.clear();
    device.launched.clear();
    return k;
}

/* A variant has a dtype and a tile; the rest is drawn. `budget` bounds rows × keys × dims of the whole. */
static shape draw(random_numbers &random, uint32_t variant, bool decode)
{
    shape s;

    s.dtype = variant / 4;
    s.head_dim = TILE_DIMS[variant % 4][random.below(4)];
    s.layout = static_cast<layout>(random.below(3));
    s.out_type = random.below(3);
    s.n_kv_heads = random.between(1, 3);
    s.group = random.between(1, 8);
    if (random.below(8) == 0)
        s.group = random.between(9, 20);
    s.page_tokens = PAGES[random.below(5)];
    s.sharpness = random.below(3) == 0 ? 6.0f : 1.0f;
    const uint32_t n_seqs = random.between(1, 3);
    for (uint32_t i = 0; i < n_seqs; i++) {
        const uint32_t past = random.below(3) == 0 ? 0 : random.below(decode ? 600 : 150);
        const uint32_t n = decode ? 1 : random.between(1, 1 + 200 / s.group);
        s.seqs.push_back({past, n});
    }
    return s;
}

static void check(const char *what, const problem &p, const shape &s)
{
    ck_assert_msg(device.error.empty(), "%s: %s; %s", what, device.error.c_str(), s.text().c_str());
    const double error = p.worst_error();
    if (getenv("KVMM_TEST_VERBOSE"))
        printf("%-28s error %.1e of %.0e: %s\n", what, error, tolerance(s), s.text().c_str());
    ck_assert_msg(error <= tolerance(s), "%s: error %g; %s", what, error, s.text().c_str());
}

/* Runs it by the kernels, and by the C forms, whose order of threads and bits do not vary. */
static void run_both(const shape &s, random_numbers &random, bool decode, const std::string &expected)
{
    const uint32_t n_splits = decode ? random.between(1, 9) : 1;
    problem p(s, random, n_splits);
    struct kern_cuda *k = open_kernels();

    for (bool plain_c : {false, true}) {
        device.plain_c = plain_c;
        device.seed = random.below(2) == 0 ? 0 : random.next();
        device.may_read = [&p](uintptr_t address) { return p.may_read(address); };
        p.poison_output();
        const CUresult rc =
            decode ? kern_cuda_decode(k, nullptr, &p.params) : kern_cuda_prefill(k, nullptr, &p.params, p.max_queries);
        ck_assert_int_eq(rc, CUDA_SUCCESS);
        ck_assert_str_eq(device.launched.front().c_str(), expected.c_str());
        check((expected + (plain_c ? " in C" : "")).c_str(), p, s);
    }
    device.may_read = nullptr;
    kern_cuda_close(&k);
}

static void run_variant(uint32_t variant, bool decode, uint64_t seed, long rounds)
{
    const std::string name = std::string("kern_cu_") + (decode ? "decode" : "prefill") + "_" + TYPES[variant / 4] +
                             "_" + std::to_string(TILES[variant % 4]);
    random_numbers random(seed);

    printf("%s: seed %llu\n", name.c_str(), static_cast<unsigned long long>(seed));
    for (long i = 0; i < rounds; i++)
        run_both(draw(random, variant, decode), random, decode, name);
}

static uint64_t seed_of(int loop)
{
    const char *text = getenv("KVMM_TEST_SEED");
    return (text ? strtoull(text, nullptr, 10) : 1) * 1000 + static_cast<uint64_t>(loop);
}

START_TEST(prefill_agrees_with_the_formula)
{
    run_variant(static_cast<uint32_t>(_i), false, seed_of(_i), scaled(6));
}
END_TEST

START_TEST(decode_agrees_with_the_formula)
{
    run_variant(static_cast<uint32_t>(_i), true, seed_of(100 + _i), scaled(12));
}
END_TEST

/* f32, rows that are no multiples of 16 bytes, head dims that are no multiples of 8. */
START_TEST(generic_agrees_with_the_formula)
{
    random_numbers random(seed_of(200 + _i));

    for (long i = 0; i < scaled(6); i++) {
        shape s = draw(random, random.below(8), _i % 2 == 1);
        switch (random.below(3)) {
        case 0:
            s.dtype = KERN_F32;
            break;
        case 1:
            s.layout = layout::ODD;
            break;
        default:
            s.head_dim = s.head_dim - random.between(1, 7);
        }
        run_both(s, random, _i % 2 == 1, "kern_cu_generic");
    }
}
END_TEST

/* Moves each sequence's pages to places of their own in a pool, in some order, and points the sequences there. */
class paged_copy
{
  public:
    paged_copy(const problem &p, const shape &s, random_numbers &random)
    {
        const struct kern_cu_cache &c = p.params.cache;
        auto *seqs = reinterpret_cast<struct kern_cu_seq *>(p.params.seqs);
        uint32_t n_pages = 0;

        params = {};
        params.attention = p.params;
        for (const sequence_shape &seq : s.seqs)
            params.table_stride =
                std::max(params.table_stride, (seq.first_pos + seq.n_queries - 1) / c.page_tokens + 1);
        n_pages = params.table_stride * p.params.n_seqs;
        std::vector<uint32_t> order(n_pages);
        for (uint32_t i = 0; i < n_pages; i++) {
            order[i] = i;
            std::swap(order[i], order[random.below(i + 1)]);
        }
        table = order;
        pool.assign(n_pages * c.page_stride / 16 + 1, {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}});
        for (uint32_t i = 0; i < p.params.n_seqs; i++) {
            const uint64_t from = seqs[i].base + c.group * seqs[i].group_stride;
            const uint64_t base = reinterpret_cast<uint64_t>(pool.data());
            for (uint32_t t = 0; t < seqs[i].first_pos + seqs[i].n_queries; t++)
                for (uint32_t kv = 0; kv < 2; kv++)
                    for (uint32_t h = 0; h < c.n_kv_heads; h++)
                        memcpy(reinterpret_cast<void *>(base + row_offset(c, kv, t % c.page_tokens, h) +
                                                        order[i * params.table_stride + t / c.page_tokens] *
                                                            c.page_stride),
                               reinterpret_cast<const void *>(from + row_offset(c, kv, t, h)), c.head_dim * 2);
            seqs[i].base = base - c.group * seqs[i].group_stride;
        }
        params.block_table = reinterpret_cast<uint64_t>(table.data());
    }

    struct kern_cu_paged params;

  private:
    struct alignas(16) unit {
        uint32_t words[4];
    };
    std::vector<unit> pool;
    std::vector<uint32_t> table;
};

START_TEST(attention_through_a_block_table)
{
    random_numbers random(seed_of(400 + _i));

    for (long i = 0; i < scaled(6); i++) {
        const bool decode = _i % 2 == 1;
        const shape s = draw(random, _i / 2 == 0 ? 2 : 6, decode);
        problem p(s, random, 3);
        paged_copy paged(p, s, random);
        struct kern_cuda *k = open_kernels();
        for (bool plain_c : {false, true}) {
            device.plain_c = plain_c;
            p.poison_output();
            ck_assert_int_eq(decode ? kern_cuda_decode_paged(k, nullptr, &paged.params)
                                    : kern_cuda_prefill_paged(k, nullptr, &paged.params, p.max_queries),
                             CUDA_SUCCESS);
            check(device.launched.front().c_str(), p, s);
        }
        kern_cuda_close(&k);
    }
}
END_TEST

/* A sequence of many pages in many splits, most of them at work. */
START_TEST(decode_of_a_long_sequence)
{
    random_numbers random(seed_of(300));
    shape s = draw(random, 2, true);

    s.n_kv_heads = 1;
    s.group = 4;
    s.seqs = {{3000, 1}, {15, 1}, {16, 1}};
    problem p(s, random, 7);
    struct kern_cuda *k = open_kernels();
    device.may_read = [&p](uintptr_t address) { return p.may_read(address); };
    ck_assert_int_eq(kern_cuda_decode(k, nullptr, &p.params), CUDA_SUCCESS);
    check("decode", p, s);
    kern_cuda_close(&k);
}
END_TEST

int main()
{
    Suite *suite = suite_create("cuda_attention");
    TCase *tc = tcase_create("attention");
    tcase_set_timeout(tc, 600);
    tcase_add_loop_test(tc, prefill_agrees_with_the_formula, 0, 8);
    tcase_add_loop_test(tc, decode_agrees_with_the_formula, 0, 8);
    tcase_add_loop_test(tc, generic_agrees_with_the_formula, 0, 2);
    tcase_add_loop_test(tc, attention_through_a_block_table, 0, 4);
    tcase_add_test(tc, decode_of_a_long_sequence);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
