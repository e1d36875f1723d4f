/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels of a pass beside attention, emulated and in their C forms, do what kernels/cuda/params.h says: of all types, at
 * widths that vectors divide and at others, in buffers that end where their last element does. */
#include <check.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/kernels/cuda_shapes.hpp"
#include "tests/support/scale.h"
extern "C" {
#include "kernels/convert.h"
}

static struct kern_cuda *kernels;

/* n elements of a type behind which poison is, and which poison fills at first. `odd`: not aligned for vectors. */
class buffer
{
  public:
    buffer(uint32_t t, size_t count, bool odd = false)
        : type(t), n(count), bytes((n + 5) * width() + 16, 0xff), first(odd ? width() : 0)
    {
    }
    uint64_t address()
    {
        return (reinterpret_cast<uint64_t>(bytes.data()) + 15) / 16 * 16 + first;
    }
    void fill(random_numbers &random)
    {
        for (size_t i = 0; i < n; i++)
            set(i, random.normal());
    }
    void set(size_t i, float x)
    {
        const uint16_t half = type == KERN_F16 ? kern_f16_of_f32(x) : kern_bf16_of_f32(x);
        memcpy(reinterpret_cast<void *>(address() + i * width()),
               type == KERN_F32 ? static_cast<void *>(&x) : (void *)&half, width());
    }
    double get(size_t i)
    {
        float x = 0;
        uint16_t half;
        memcpy(&x, reinterpret_cast<void *>(address() + i * width()), type == KERN_F32 ? 4 : 0);
        memcpy(&half, reinterpret_cast<void *>(address() + i * width()), 2);
        return type == KERN_F32 ? x : type == KERN_F16 ? kern_f32_of_f16(half) : kern_f32_of_bf16(half);
    }
    /* All elements are near `want`, as near as the type allows; nothing was written behind them. */
    void expect(const std::vector<double> &want, const char *what)
    {
        const double unit = type == KERN_F32 ? 4e-6 : type == KERN_F16 ? 6e-4 : 5e-3;
        for (size_t i = 0; i < n; i++)
            ck_assert_msg(fabs(get(i) - want[i]) <= unit * (fabs(want[i]) + 1e-3), "%s: element %zu is %g, not %g",
                          what, i, get(i), want[i]);
        for (uint64_t at = address() + n * width(); at < address() + (n + 2) * width(); at++)
            ck_assert_uint_eq(*reinterpret_cast<unsigned char *>(at), 0xff);
    }

    const uint32_t type;
    const size_t n;

  private:
    size_t width() const
    {
        return type == KERN_F32 ? 4 : 2;
    }
    std::vector<unsigned char> bytes;
    size_t first;
};

static uint64_t address_of(const void *x)
{
    return reinterpret_cast<uint64_t>(x);
}

static void succeeded(CUresult rc)
{
    ck_assert_int_eq(rc, CUDA_SUCCESS);
    ck_assert_msg(device.error.empty(), "%s", device.error.c_str());
}

/* Calls body(random, plain C?) for many seeds. */
template <typename Body> static void repeat(const char *name, Body body)
{
    ck_assert_int_eq(kern_cuda_open_image(emulated_driver(), 0, "", &kernels), CUDA_SUCCESS);
    for (long seed = 1; seed <= scaled(40); seed++) {
        random_numbers random(static_cast<uint64_t>(seed));
        printf("%s: seed %ld\n", name, seed);
        device.plain_c = seed % 4 == 0;
        device.seed = seed % 3 == 0 ? random.next() : 0;
        body(random);
    }
    kern_cuda_close(&kernels);
    ck_assert_ptr_null(kernels);
}

static uint32_t draw_width(random_numbers &random)
{
    return random.below(2) ? 4 * random.between(1, 400) : random.between(1, 1100);
}

START_TEST(embed)
{
    repeat("embed", [](random_numbers &random) {
        struct kern_cu_embed p = {};
        p.width = draw_width(random);
        p.n_rows = random.between(1, 9);
        p.table_type = random.below(3);
        buffer table(p.table_type, size_t{50} * p.width, random.below(4) == 0);
        buffer x(KERN_F32, size_t{p.n_rows} * p.width);
        std::vector<uint32_t> tokens;
        std::vector<double> want;
        table.fill(random);
        for (uint32_t i = 0; i < p.n_rows; i++) {
            tokens.push_back(random.below(50));
            for (uint32_t j = 0; j < p.width; j++)
                want.push_back(table.get(size_t{tokens[i]} * p.width + j));
        }
        p.tokens = address_of(tokens.data());
        p.table = table.address();
        p.x = x.address();
        succeeded(kern_cuda_embed(kernels, nullptr, &p));
        x.expect(want, "embed");
    });
}
END_TEST

START_TEST(norm)
{
    repeat("norm", [](random_numbers &random) {
        const uint32_t n_x = random.between(1, 9);
        const bool chosen = random.below(3) == 0;
        const bool adds = random.below(2) == 0;
        struct kern_cu_norm p = {};
        p.width = draw_width(random);
        p.n_rows = chosen ? random.between(1, 5) : n_x;
        p.out_type = random.below(3);
        p.eps = 1e-5f;
        buffer x(KERN_F32, size_t{n_x} * p.width, random.below(4) == 0);
        buffer delta(KERN_F32, size_t{n_x} * p.width);
        buffer weight(KERN_F32, p.width);
        buffer out(p.out_type, size_t{p.n_rows} * p.width);
        std::vector<uint32_t> rows;
        std::vector<double> want_x;
        std::vector<double> want;
        x.fill(random);
        delta.fill(random);
        weight.fill(random);
        for (size_t i = 0; i < x.n; i++)
            want_x.push_back(x.get(i) + (adds && !chosen ? delta.get(i) : 0));
        for (uint32_t i = 0; i < p.n_rows; i++) {
            rows.push_back(random.below(n_x));
            const double *row = &want_x[size_t{chosen ? rows[i] : i} * p.width];
            double sum = 0;
            for (uint32_t j = 0; j < p.width; j++)
                sum += row[j] * row[j];
            for (uint32_t j = 0; j < p.width; j++)
                want.push_back(row[j] / sqrt(sum / p.width + static_cast<double>(p.eps)) * weight.get(j));
        }
        p.x = x.address();
        p.delta = adds ? delta.address() : 0;
        p.weight = weight.address();
        p.rows = chosen ? address_of(rows.data()) : 0;
        p.out = !chosen && random.below(4) == 0 ? 0 : out.address();
        succeeded(kern_cuda_norm(kernels, nullptr, &p));
        x.expect(want_x, "norm: x");
        if (p.out)
            out.expect(want, "norm");
    });
}
END_TEST

START_TEST(swiglu)
{
    repeat("swiglu", [](random_numbers &random) {
        struct kern_cu_swiglu p = {};
        p.width = draw_width(random);
        p.n_rows = random.between(1, 9);
        p.out_type = random.below(3);
        device.n_multiprocessors = random.below(2) ? 1 : 132; /* one block goes over its part several times */
        buffer gate(KERN_F32, size_t{p.n_rows} * p.width);
        buffer up(KERN_F32, gate.n, random.below(4) == 0);
        buffer out(p.out_type, gate.n);
        std::vector<double> want;
        gate.fill(random);
        up.fill(random);
        for (size_t i = 0; i < gate.n; i++)
            want.push_back(gate.get(i) / (1 + exp(-gate.get(i))) * up.get(i));
        p.gate = gate.address();
        p.up = up.address();
        p.out = out.address();
        succeeded(kern_cuda_swiglu(kernels, nullptr, &p));
        out.expect(want, "swiglu");
    });
}
END_TEST

START_TEST(argmax)
{
    repeat("argmax", [](random_numbers &random) {
        struct kern_cu_argmax p = {};
        p.width = draw_width(random);
        p.n_rows = random.between(1, 9);
        const bool nothing = random.below(8) == 0; /* all NaN */
        std::vector<float> logits(size_t{p.n_rows} * p.width);
        std::vector<uint32_t> out(p.n_rows + 1, 0xffffffff);
        std::vector<uint32_t> want;
        for (float &x : logits)
            x = nothing || random.below(7) == 0 ? NAN : static_cast<float>(random.below(40)) - 60; /* many are equal */
        for (uint32_t row = 0; row < p.n_rows; row++) {
            uint32_t best = 0;
            float greatest = -INFINITY;
            for (uint32_t i = 0; i < p.width; i++)
                if (logits[size_t{row} * p.width + i] > greatest) {
                    greatest = logits[size_t{row} * p.width + i];
                    best = i;
                }
            want.push_back(best);
        }
        p.logits = address_of(logits.data());
        p.out = address_of(out.data());
        succeeded(kern_cuda_argmax(kernels, nullptr, &p));
        for (uint32_t row = 0; row < p.n_rows; row++)
            ck_assert_uint_eq(out[row], want[row]);
        ck_assert_uint_eq(out[p.n_rows], 0xffffffff);
    });
}
END_TEST

START_TEST(gather)
{
    repeat("gather", [](random_numbers &random) {
        struct kern_cu_gather p = {};
        const size_t unit = 4; /* f32 in 16 bytes */
        p.n = random.between(1, 20);
        p.bytes = size_t{16} * random.between(1, 3000);
        device.n_multiprocessors = random.below(2) ? 1 : 132;
        const size_t each = p.bytes / 16 * unit;
        buffer from(KERN_F32, p.n * each);
        buffer to(KERN_F32, p.n * each);
        std::vector<struct kern_cu_copy> copies;
        std::vector<double> want(from.n);
        from.fill(random);
        const uint32_t turn = random.below(p.n);
        for (uint32_t i = 0; i < p.n; i++) {
            const uint32_t target = (i + turn) % p.n;
            copies.push_back({from.address() + i * p.bytes, to.address() + target * p.bytes});
            for (size_t j = 0; j < each; j++)
                want[target * each + j] = from.get(i * each + j);
        }
        p.copies = address_of(copies.data());
        succeeded(kern_cuda_gather(kernels, nullptr, &p));
        to.expect(want, "gather");
    });
}
END_TEST

int main()
{
    Suite *suite = suite_create("cuda_pass");
    TCase *tc = tcase_create("pass");
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, embed);
    tcase_add_test(tc, norm);
    tcase_add_test(tc, swiglu);
    tcase_add_test(tc, argmax);
    tcase_add_test(tc, gather);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
