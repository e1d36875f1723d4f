/* SPDX-License-Identifier: Apache-2.0
 *
 * Launches refuse what is out of bounds and pass on what the driver says; the C forms give the same bits however a sequence
 * is cut. */
#include <check.h>

#include <cstdlib>
#include <functional>
#include <string>

#include "tests/kernels/cuda_shapes.hpp"

static struct kern_cuda *kernels;

static shape plain_shape(uint32_t dtype)
{
    shape s;
    s.layout = layout::PAGE_MAJOR;
    s.dtype = dtype;
    s.out_type = KERN_F32;
    s.head_dim = 40;
    s.n_kv_heads = 2;
    s.group = 3;
    s.page_tokens = 7;
    s.sharpness = 2;
    s.seqs = {{0, 83}};
    return s;
}

static void open_kernels()
{
    device = emulated_device();
    device.plain_c = true;
    ck_assert_int_eq(kern_cuda_open_image(emulated_driver(), 0, "", &kernels), CUDA_SUCCESS);
}

static void close_kernels()
{
    kern_cuda_close(&kernels);
    kern_cuda_close(&kernels); /* of none is nothing */
}

START_TEST(attention_refuses_what_is_out_of_bounds)
{
    random_numbers random(1);
    problem p(plain_shape(KERN_F16), random, 2);
    const std::function<void(struct kern_cu_attention &)> faults[] = {
        [](struct kern_cu_attention &a) { a.cache.head_dim = 0; },
        [](struct kern_cu_attention &a) { a.cache.head_dim = 257; },
        [](struct kern_cu_attention &a) { a.cache.dtype = 3; },
        [](struct kern_cu_attention &a) { a.cache.page_tokens = 0; },
        [](struct kern_cu_attention &a) { a.cache.n_kv_heads = 0; },
        [](struct kern_cu_attention &a) { a.cache.token_stride++; },
        [](struct kern_cu_attention &a) { a.cache.layer_offset++; },
        [](struct kern_cu_attention &a) { a.n_heads = 5; },
        [](struct kern_cu_attention &a) { a.n_heads = 0; },
        [](struct kern_cu_attention &a) { a.out_type = 3; },
        [](struct kern_cu_attention &a) { a.scale = 0; },
        [](struct kern_cu_attention &a) { a.n_seqs = 65536; },
        [](struct kern_cu_attention &a) { a.q = 0; },
        [](struct kern_cu_attention &a) { a.out = 0; },
        [](struct kern_cu_attention &a) { a.seqs = 0; },
    };

    for (const auto &fault : faults) {
        struct kern_cu_attention a = p.params;
        fault(a);
        ck_assert_int_eq(kern_cuda_prefill(kernels, nullptr, &a, 1), CUDA_ERROR_INVALID_VALUE);
        ck_assert_int_eq(kern_cuda_decode(kernels, nullptr, &a), CUDA_ERROR_INVALID_VALUE);
    }
    struct kern_cu_attention a = p.params;
    a.n_splits = 0;
    ck_assert_int_eq(kern_cuda_decode(kernels, nullptr, &a), CUDA_ERROR_INVALID_VALUE);
    a = p.params;
    a.partial = 0;
    ck_assert_int_eq(kern_cuda_decode(kernels, nullptr, &a), CUDA_ERROR_INVALID_VALUE);
    struct kern_cu_paged paged = {p.params, 1, 1, 0}; /* of a head_dim that no paged kernel has */
    ck_assert_int_eq(kern_cuda_prefill_paged(kernels, nullptr, &paged, 1), CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(kern_cuda_decode_paged(kernels, nullptr, &paged), CUDA_ERROR_INVALID_VALUE);
    ck_assert_uint_eq(device.launched.size(), 0);
}
END_TEST

START_TEST(others_refuse_what_is_out_of_bounds)
{
    const struct kern_cu_embed embed = {1, 1, 1, 3, 8, 1, 0};
    const struct kern_cu_turn turn = {1, 1, 1, 1, 3, 1};
    const struct kern_cu_norm norm = {1, 0, 1, 0, 1, 0, 0, 1, 0};
    const struct kern_cu_swiglu swiglu = {1, 1, 0, 8, 1, 0, 0};
    const struct kern_cu_argmax argmax = {1, 0, 8, 1};
    const struct kern_cu_gather gather = {1, 8, 1, 0};
    struct kern_cu_append append = {};

    append.cache.head_dim = 8;
    ck_assert_int_eq(kern_cuda_embed(kernels, nullptr, &embed), CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(kern_cuda_turn(kernels, nullptr, &turn), CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(kern_cuda_norm(kernels, nullptr, &norm), CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(kern_cuda_swiglu(kernels, nullptr, &swiglu), CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(kern_cuda_argmax(kernels, nullptr, &argmax), CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(kern_cuda_gather(kernels, nullptr, &gather), CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(kern_cuda_append(kernels, nullptr, &append), CUDA_ERROR_INVALID_VALUE);
    ck_assert_uint_eq(device.launched.size(), 0);
}
END_TEST

START_TEST(no_rows_are_no_launch)
{
    const struct kern_cu_argmax argmax = {1, 1, 8, 0};
    const struct kern_cu_gather gather = {1, 16, 0, 0};

    ck_assert_int_eq(kern_cuda_argmax(kernels, nullptr, &argmax), CUDA_SUCCESS);
    ck_assert_int_eq(kern_cuda_gather(kernels, nullptr, &gather), CUDA_SUCCESS);
    ck_assert_uint_eq(device.launched.size(), 0);
}
END_TEST

START_TEST(the_drivers_error_is_the_callers)
{
    random_numbers random(1);
    problem p(plain_shape(KERN_F16), random, 2);

    device.fails = CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    ck_assert_int_eq(kern_cuda_prefill(kernels, nullptr, &p.params, 83), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    ck_assert_int_eq(kern_cuda_decode(kernels, nullptr, &p.params), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
}
END_TEST

START_TEST(an_old_device_has_no_kernels)
{
    struct kern_cuda *k = nullptr;

    device.major = 7;
    ck_assert_int_eq(kern_cuda_open_image(emulated_driver(), 0, "", &k), CUDA_ERROR_NO_BINARY_FOR_GPU);
    ck_assert_ptr_null(k);
    device.major = 8;
    ck_assert_int_eq(kern_cuda_open(emulated_driver(), 0, &k),
                     kern_cuda_built() ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED);
    kern_cuda_close(&k);
}
END_TEST

START_TEST(splits_fill_the_device)
{
    for (uint32_t seqs = 1; seqs <= 300; seqs += seqs < 20 ? 1 : 37)
        for (uint32_t heads = 1; heads <= 32; heads *= 2) {
            const uint32_t n = kern_cuda_decode_splits(kernels, seqs, heads);
            ck_assert_uint_ge(n, 1);
            ck_assert_uint_le(n, 128);
            ck_assert_msg(n >= 100 || n * seqs * heads >= 132, "%u sequences, %u heads: %u splits", seqs, heads, n);
        }
    ck_assert_uint_eq(kern_cuda_decode_splits(kernels, 0, 8), 1);
}
END_TEST

/* For f16, bf16 and f32: a sequence at once and in chunks of some sizes, by the C forms and by the kernels; by the C forms
 * one token at a time by decode too. (Decode's kernels sum in an order of their own.) */
START_TEST(bits_do_not_depend_on_chunks)
{
    random_numbers random(static_cast<uint64_t>(_i) + 1);
    problem p(plain_shape(static_cast<uint32_t>(_i % 3)), random, 4);
    device.plain_c = _i < 3;
    auto *seq = reinterpret_cast<struct kern_cu_seq *>(p.params.seqs);
    const uint32_t n = seq->n_queries;

    ck_assert_int_eq(kern_cuda_prefill(kernels, nullptr, &p.params, n), CUDA_SUCCESS);
    const std::vector<unsigned char> whole = p.output;
    for (uint32_t chunk : {1u, 5u, 32u, 50u}) {
        const bool decode = chunk == 1 && device.plain_c;
        p.poison_output();
        for (uint32_t first = 0; first < n; first += chunk) {
            seq->first_pos = seq->first_row = first;
            seq->n_queries = n - first < chunk ? n - first : chunk;
            ck_assert_int_eq(decode ? kern_cuda_decode(kernels, nullptr, &p.params)
                                    : kern_cuda_prefill(kernels, nullptr, &p.params, chunk),
                             CUDA_SUCCESS);
        }
        ck_assert_msg(p.output == whole, "chunks of %u", chunk);
    }
}
END_TEST

int main()
{
    Suite *suite = suite_create("cuda_launch");
    TCase *tc = tcase_create("launch");
    tcase_set_timeout(tc, 120);
    tcase_add_checked_fixture(tc, open_kernels, close_kernels);
    tcase_add_test(tc, attention_refuses_what_is_out_of_bounds);
    tcase_add_test(tc, others_refuse_what_is_out_of_bounds);
    tcase_add_test(tc, no_rows_are_no_launch);
    tcase_add_test(tc, the_drivers_error_is_the_callers);
    tcase_add_test(tc, an_old_device_has_no_kernels);
    tcase_add_test(tc, splits_fill_the_device);
    tcase_add_loop_test(tc, bits_do_not_depend_on_chunks, 0, 6);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
