/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows that are turned and put into the cache arrive at their places, rounded once; all else in the cache stays as it was. */
#include <check.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "tests/kernels/cuda_shapes.hpp"
#include "tests/support/scale.h"

/* A pass of some sequences and what its kernels are told. */
struct append_case {
    shape of;
    struct kern_cu_append params;
    struct kern_cu_turn turn;
    std::vector<std::unique_ptr<cache_memory>> caches;
    std::vector<struct kern_cu_seq> seqs;
    std::vector<uint32_t> row_seq;
    std::vector<float> theta, turns, q, k, v;
    std::vector<unsigned char> q_out;
};

static shape draw(random_numbers &random)
{
    shape s;
    const uint32_t pages[] = {1, 7, 16};

    s.layout = static_cast<layout>(random.below(4));
    s.dtype = random.below(3);
    s.out_type = random.below(3); /* of q */
    s.head_dim = random.between(1, 130);
    s.n_kv_heads = random.between(1, 3);
    s.group = random.between(1, 4);
    s.page_tokens = pages[random.below(3)];
    s.sharpness = 1;
    for (uint32_t n = random.between(1, 3); n > 0; n--)
        s.seqs.push_back({random.below(40), random.between(1, 20)});
    return s;
}

static uint32_t bytes_of(uint32_t type)
{
    return type == KERN_F32 ? 4 : 2;
}

static void prepare(append_case &c, random_numbers &random)
{
    const uint32_t n_heads = c.of.n_kv_heads * c.of.group;
    const uint32_t rope_dims = random.below(4) == 0 ? 0 : 2 * random.below(c.of.head_dim / 2 + 1);
    uint32_t n_rows = 0;

    c.params = {};
    c.turn = {};
    c.params.cache = cache_of(c.of);
    for (uint32_t i = 0; i < c.of.seqs.size(); i++) {
        const sequence_shape &seq = c.of.seqs[i];
        c.caches.emplace_back(new cache_memory(c.of, c.params.cache, seq.first_pos + seq.n_queries, random));
        c.seqs.push_back({c.caches[i]->base, c.caches[i]->group_stride, seq.first_pos, seq.n_queries, n_rows, 0});
        c.row_seq.insert(c.row_seq.end(), seq.n_queries, i);
        n_rows += seq.n_queries;
    }
    for (uint32_t j = 0; j < rope_dims / 2; j++)
        c.theta.push_back(powf(10000, -2.0f * static_cast<float>(j) / static_cast<float>(rope_dims)));
    c.turns.assign(size_t{n_rows} * rope_dims + 1, NAN);
    for (auto *x : {&c.k, &c.v})
        for (size_t i = 0; i < size_t{n_rows} * c.of.n_kv_heads * c.of.head_dim; i++)
            x->push_back(random.normal());
    for (size_t i = 0; i < size_t{n_rows} * n_heads * c.of.head_dim; i++)
        c.q.push_back(random.normal());
    c.q_out.assign(c.q.size() * bytes_of(c.of.out_type), 0xff);
    c.turn.seqs = c.params.seqs = reinterpret_cast<uint64_t>(c.seqs.data());
    c.turn.row_seq = c.params.row_seq = reinterpret_cast<uint64_t>(c.row_seq.data());
    c.turn.theta = reinterpret_cast<uint64_t>(c.theta.data());
    c.turn.turn = c.params.turn = reinterpret_cast<uint64_t>(c.turns.data());
    c.turn.rope_dims = c.params.rope_dims = rope_dims;
    c.turn.n_rows = c.params.n_rows = n_rows;
    c.params.q = reinterpret_cast<uint64_t>(c.q.data());
    c.params.k = reinterpret_cast<uint64_t>(c.k.data());
    c.params.v = reinterpret_cast<uint64_t>(c.v.data());
    c.params.q_out = reinterpret_cast<uint64_t>(c.q_out.data());
    c.params.n_heads = n_heads;
    c.params.q_type = c.of.out_type;
}

/* What dim d of a head must be; `from` is the head's first. */
static double turned(const append_case &c, const float *from, uint32_t d, uint32_t pos)
{
    if (d >= c.params.rope_dims)
        return from[d];
    const double angle = static_cast<double>(pos) * static_cast<double>(c.theta[d / 2]);
    const float *pair = from + d / 2 * 2;
    return d % 2 == 0 ? pair[0] * cos(angle) - pair[1] * sin(angle) : pair[0] * sin(angle) + pair[1] * cos(angle);
}

static void expect_near(const void *at, uint32_t type, double want, const shape &s)
{
    const double unit = type == KERN_F32 ? 1e-6 : type == KERN_F16 ? 6e-4 : 5e-3;
    const double got = load_element(at, type);
    ck_assert_msg(fabs(got - want) <= unit * (fabs(want) + 1), "%g, not %g; %s", got, want, s.text().c_str());
}

static void check_row(const append_case &c, uint32_t row)
{
    const uint32_t dims = c.of.head_dim;
    const struct kern_cu_seq &seq = c.seqs[c.row_seq[row]];
    const uint32_t pos = seq.first_pos + row - seq.first_row;
    const uint64_t base = seq.base + c.params.cache.group * seq.group_stride;

    for (uint32_t h = 0; h < c.params.n_heads; h++)
        for (uint32_t d = 0; d < dims; d++) {
            const size_t head = (size_t{row} * c.params.n_heads + h) * dims;
            expect_near(&c.q_out[(head + d) * bytes_of(c.of.out_type)], c.of.out_type, turned(c, &c.q[head], d, pos),
                        c.of);
        }
    for (uint32_t h = 0; h < c.of.n_kv_heads; h++)
        for (uint32_t d = 0; d < dims; d++) {
            const size_t head = (size_t{row} * c.of.n_kv_heads + h) * dims;
            const uint64_t k = base + row_offset(c.params.cache, 0, pos, h) + d * bytes_of(c.of.dtype);
            const uint64_t v = base + row_offset(c.params.cache, 1, pos, h) + d * bytes_of(c.of.dtype);
            expect_near(reinterpret_cast<void *>(k), c.of.dtype, turned(c, &c.k[head], d, pos), c.of);
            float rounded;
            store_element(&rounded, c.of.dtype, c.v[head + d]);
            ck_assert_float_eq(load_element(reinterpret_cast<void *>(v), c.of.dtype),
                               load_element(&rounded, c.of.dtype));
        }
}

/* Every row of the past, as bits. */
static std::vector<float> past(const append_case &c)
{
    std::vector<float> all;
    for (const struct kern_cu_seq &seq : c.seqs)
        for (uint32_t kv = 0; kv < 2; kv++)
            for (uint32_t t = 0; t < seq.first_pos; t++)
                for (uint32_t i = 0; i < c.of.n_kv_heads * c.of.head_dim; i++) {
                    const uint64_t row = seq.base + c.params.cache.group * seq.group_stride +
                                         row_offset(c.params.cache, kv, t, i / c.of.head_dim);
                    all.push_back(load_element(reinterpret_cast<void *>(row + i % c.of.head_dim * bytes_of(c.of.dtype)),
                                               c.of.dtype));
                }
    return all;
}

START_TEST(rows_arrive_turned_and_rounded)
{
    struct kern_cuda *kernels = nullptr;

    ck_assert_int_eq(kern_cuda_open_image(emulated_driver(), 0, "", &kernels), CUDA_SUCCESS);
    for (long seed = 1; seed <= scaled(60); seed++) {
        random_numbers random(static_cast<uint64_t>(seed));
        append_case c;
        printf("append: seed %ld\n", seed);
        device.plain_c = seed % 3 == 0;
        device.seed = seed % 2 == 0 ? random.next() : 0;
        c.of = draw(random);
        prepare(c, random);
        const std::vector<float> before = past(c);
        ck_assert_int_eq(kern_cuda_turn(kernels, nullptr, &c.turn), CUDA_SUCCESS);
        ck_assert_int_eq(kern_cuda_append(kernels, nullptr, &c.params), CUDA_SUCCESS);
        ck_assert_msg(device.error.empty(), "%s", device.error.c_str());
        for (uint32_t row = 0; row < c.params.n_rows; row++)
            check_row(c, row);
        ck_assert(before == past(c));
    }
    kern_cuda_close(&kernels);
}
END_TEST

int main()
{
    Suite *suite = suite_create("cuda_append");
    TCase *tc = tcase_create("append");
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, rows_arrive_turned_and_rounded);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
