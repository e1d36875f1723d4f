/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench attention --device cuda`, on the software driver: its times mean nothing, but all of it runs. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>
#include <jansson.h>

#include "kernels/cuda.h"
#include "tests/tools/run.h"

#define SMALL "--batch=1,2 --context=32 --prefill=32 --steps=16 --layers=2 --rounds=2 "
#define ONE   "--batch=1 --context=16 --prefill=16 --steps=16 --layers=1 --rounds=1 --shape=qwen2.5-7b --type=f16 "

static json_t *json_of(const char *arguments)
{
    struct run run;
    json_error_t error;
    run_tool(&run, 0, "bench attention --device=cuda --json %s", arguments);
    ck_assert_msg(run.status == 0 && run.err[0] == '\0', "exit %d: %s", run.status, run.err);
    json_t *json = json_loads(run.out, 0, &error);
    ck_assert_msg(json != NULL, "%s in %s", error.text, run.out);
    run_free(&run);
    return json;
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    ck_assert_msg(text != NULL, "there is no text '%s'", name);
    return text;
}

static json_int_t number_of(const json_t *object, const char *name)
{
    const json_t *number = json_object_get(object, name);
    ck_assert_msg(json_is_integer(number), "there is no number '%s'", name);
    return json_integer_value(number);
}

/* A spread of positive figures. */
static void assert_measured(const json_t *object, const char *name)
{
    const json_t *spread = json_object_get(object, name);
    ck_assert_msg(json_is_object(spread), "'%s' is not there", name);
    const double least = json_number_value(json_object_get(spread, "min")),
                 median = json_number_value(json_object_get(spread, "median")),
                 most = json_number_value(json_object_get(spread, "max"));
    ck_assert_msg(0 < least && least <= median && median <= most, "'%s' is %g, %g, %g", name, least, median, most);
}

START_TEST(everything_is_measured_in_each_combination)
{
    json_t *json = json_of(SMALL), *row;
    size_t i;
    ck_assert_str_eq(text_of(json, "device"), "cuda:0");
    ck_assert_str_eq(text_of(json, "device_name"), "simcuda 0");
    ck_assert(json_is_true(json_object_get(json, "simcuda")));
    ck_assert_int_eq(number_of(json, "driver_version"), 12040);
    ck_assert_int_eq(number_of(json, "rounds"), 2);

    const json_t *rows = json_object_get(json, "rows");
    ck_assert_uint_eq(json_array_size(rows), 2 * 2 * 3 * 3); /* shapes, types, layouts, works */
    json_array_foreach(rows, i, row)
    {
        const bool decode = strcmp(text_of(row, "work"), "decode") == 0;
        ck_assert_int_eq(number_of(row, "batch_sequences"), number_of(row, "wanted_batch_sequences"));
        ck_assert_int_eq(number_of(row, "context_tokens"), 32);
        assert_measured(row, "pass_s");
        assert_measured(row, "paged_pass_s");
        assert_measured(row, "ratio_paged_time_to_kvmm_time");
        assert_measured(row, decode ? "bytes_per_s" : "flop_per_s");
        assert_measured(row, decode ? "copy_bandwidth_bytes_per_s" : "matrix_rate_flop_per_s");
        assert_measured(row, decode ? "ratio_to_copy_bandwidth" : "ratio_to_matrix_rate");
    }
    const json_t *growth = json_object_get(json, "growth");
    ck_assert_uint_eq(json_array_size(growth), 2 * 3);
    json_array_foreach(growth, i, row)
    {
        ck_assert_int_eq(number_of(row, "steps"), 16);
        ck_assert(json_is_true(json_object_get(row, "graph_replays_equal_launches")));
        assert_measured(row, "up_front_step_s");
        assert_measured(row, "on_demand_step_s");
        assert_measured(row, "on_demand_graph_step_s");
        assert_measured(row, "ratio_on_demand_to_up_front_time");
        assert_measured(row, "ratio_graph_to_launches_time");
    }
    json_decref(json);
}
END_TEST

START_TEST(the_choice_of_a_combination_is_obeyed)
{
    json_t *json = json_of(ONE "--layout=token-major");
    const json_t *rows = json_object_get(json, "rows"), *growth = json_object_get(json, "growth");
    ck_assert_uint_eq(json_array_size(rows), 2);
    ck_assert_uint_eq(json_array_size(growth), 1);
    for (size_t i = 0; i < 2; i++) {
        ck_assert_str_eq(text_of(json_array_get(rows, i), "layout"), "token-major");
        ck_assert_str_eq(text_of(json_array_get(rows, i), "shape"), "qwen2.5-7b");
        ck_assert_str_eq(text_of(json_array_get(rows, i), "kv_type"), "f16");
    }
    json_decref(json);
}
END_TEST

START_TEST(the_table_says_that_times_mean_nothing)
{
    struct run run;
    run_tool(&run, 0, "bench attention --device=cuda:0 " ONE);
    ck_assert_msg(run.status == 0 && run.err[0] == '\0', "exit %d: %s", run.status, run.err);
    static const char *const parts[] = {"cuda:0: simcuda 0, driver 12.4", "its times mean nothing", "decode", "prefill",
                                        "growth"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        ck_assert_msg(strstr(run.out, parts[i]) != NULL, "no '%s' in %s", parts[i], run.out);
    run_free(&run);
}
END_TEST

START_TEST(without_cublas_its_column_is_not_measured)
{
    ck_assert_int_eq(setenv("KVMM_LIBCUBLAS", "/nowhere/libcublas.so", 1), 0);
    json_t *json = json_of(ONE), *row;
    size_t i;
    ck_assert_ptr_nonnull(strstr(text_of(json, "matrix_rate_not_measured"), "/nowhere/libcublas.so"));
    json_array_foreach(json_object_get(json, "rows"), i, row)
    {
        if (strcmp(text_of(row, "work"), "decode") == 0)
            assert_measured(row, "ratio_to_copy_bandwidth");
        else
            ck_assert(json_is_null(json_object_get(row, "ratio_to_matrix_rate")));
    }
    json_decref(json);
    struct run run;
    run_tool(&run, 0, "bench attention --device=cuda " ONE);
    ck_assert_int_eq(run.status, 0);
    ck_assert_ptr_nonnull(strstr(run.out, "not measured"));
    run_free(&run);
}
END_TEST

START_TEST(what_does_not_fit_is_made_smaller_and_that_is_said)
{
    ck_assert_int_eq(setenv("SIMCUDA_MEMORY", "50331648", 1), 0);
    json_t *json = json_of("--batch=64 --context=64 --prefill=16 --steps=16 --layers=2 --rounds=1 --shape=llama-3-8b "
                           "--type=bf16 --layout=page-major");
    const json_t *row = json_array_get(json_object_get(json, "rows"), 0);
    ck_assert_int_eq(number_of(row, "wanted_batch_sequences"), 64);
    ck_assert_int_lt(number_of(row, "batch_sequences"), 64);
    assert_measured(row, "ratio_to_copy_bandwidth");
    row = json_array_get(json_object_get(json, "growth"), 0);
    ck_assert_int_eq(number_of(row, "wanted_batch_sequences"), 64);
    ck_assert_int_lt(number_of(row, "batch_sequences"), 64);
    json_decref(json);
}
END_TEST

static const struct bad {
    const char *arguments;
    int status;
    const char *names;
} bad_input[] = {
    {"--device=gpu", 2, "'gpu'"},
    {"--device=cuda:", 2, "'cuda:'"},
    {"--device=cuda:-1", 2, "'cuda:-1'"},
    {"--device=cuda:9999", 2, "'cuda:9999'"},
    {"--device", 2, "device"},
    {"--device=cuda:1 " ONE, 1, "cuda:1"},
    {"--context=32", 2, "--device"},
    {"--device=host --batch=2", 2, "--device"},
    {"--device=cuda --threads=2", 2, "--threads"},
    {"--device=cuda --context=17", 2, "'17'"},
    {"--device=cuda --context=0", 2, "'0'"},
    {"--device=cuda --context=", 2, "''"},
    {"--device=cuda --prefill=16,x", 2, "'16,x'"},
    {"--device=cuda --batch=1,,2", 2, "'1,,2'"},
    {"--device=cuda --batch=1,2,3,4,5,6,7,8,9", 2, "'1,2,3,4,5,6,7,8,9'"},
    {"--device=cuda --batch=4097", 2, "'4097'"},
    {"--device=cuda --layers=0", 2, "'0'"},
    {"--device=cuda --steps=8", 2, "'8'"},
    {"--device=cuda --shape=llama", 2, "'llama'"},
    {"--device=cuda --type=f32", 2, "'f32'"},
    {"--device=cuda --layout=heads", 2, "'heads'"},
    {"--device=cuda --rounds=0", 2, "'0'"},
    {"--device=cuda more", 2, "more"},
};

static void assert_one_line(const char *arguments, int status, const char *names)
{
    struct run run;
    run_tool(&run, 0, "bench attention %s", arguments);
    ck_assert_msg(run.status == status, "%s: exit %d: %s", arguments, run.status, run.err);
    ck_assert_msg(run.out[0] == '\0', "%s: %s", arguments, run.out);
    ck_assert_msg(run_count_lines(run.err) == 1 && strncmp(run.err, "kvmm bench attention: ", 22) == 0, "%s: %s",
                  arguments, run.err);
    ck_assert_msg(strstr(run.err, names) != NULL, "%s: %s", arguments, run.err);
    run_free(&run);
}

START_TEST(bad_input_is_named_in_one_line)
{
    assert_one_line(bad_input[_i].arguments, bad_input[_i].status, bad_input[_i].names);
}
END_TEST

/* Of the driver; the first call of each, or one in the middle of the work. */
static const char *const failures[] = {
    "cuDevicePrimaryCtxRetain:1:2",
    "cuStreamCreateWithPriority:1:2",
    "cuModuleLoadData:1:209",
    "cuMemAlloc:1:2",
    "cuMemAlloc:5:2",
    "cuMemAlloc:9:2",
    "cuMemHostAlloc:2:2",
    "cuMemAddressReserve:1:2",
    "cuMemGetInfo:1:999",
    "cuMemcpyDtoDAsync:9:999",
    "cuEventElapsedTime:1:999",
    "cuLaunchKernel:3:719",
    "cuStreamBeginCapture:1:801",
    "cuGraphLaunch:1:719",
    "cuGraphInstantiateWithFlags:1:2",
};

START_TEST(a_failure_of_the_driver_is_told_in_one_line)
{
    ck_assert_int_eq(setenv("SIMCUDA_FAIL", failures[_i], 1), 0);
    assert_one_line("--device=cuda " ONE "--layout=page-major", 1, "CUDA_ERROR_");
}
END_TEST

START_TEST(no_driver_is_told_in_one_line)
{
    ck_assert_int_eq(setenv("KVMM_LIBCUDA", "/nowhere/libcuda.so.1", 1), 0);
    assert_one_line("--device=cuda " ONE, 1, "/nowhere/libcuda.so.1");
}
END_TEST

int main(void)
{
    if (!kern_cuda_built()) {
        puts("skipped: built without CUDA kernels, because there is no nvcc");
        return 77;
    }
    Suite *suite = suite_create("kvmm bench attention --device cuda");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 240);
    tcase_add_test(tests, everything_is_measured_in_each_combination);
    tcase_add_test(tests, the_choice_of_a_combination_is_obeyed);
    tcase_add_test(tests, the_table_says_that_times_mean_nothing);
    tcase_add_test(tests, without_cublas_its_column_is_not_measured);
    tcase_add_test(tests, what_does_not_fit_is_made_smaller_and_that_is_said);
    tcase_add_loop_test(tests, bad_input_is_named_in_one_line, 0, (int)(sizeof bad_input / sizeof bad_input[0]));
    tcase_add_loop_test(tests, a_failure_of_the_driver_is_told_in_one_line, 0,
                        (int)(sizeof failures / sizeof failures[0]));
    tcase_add_test(tests, no_driver_is_told_in_one_line);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
