/* SPDX-License-Identifier: Apache-2.0
 *
 * --device, as its users meet it: on the software driver, and where a GPU can't be used for one reason or another. The path
 * of kvmm-engine is the first argument. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_support.h"
#include "engine_support.h"
#include "program.h"

static const char *program;
static char small_path[256];

static void run(struct result *r, const char *device, const char *option, const char *value)
{
    const char *args[] = {"generate", "-m",          small_path, "-p",   "one",  "-p",  "two", "-n",
                          "12",       "--print-ids", "--device", device, option, value, NULL};
    program_run(r, program, args, NULL);
}

/* ---- a GPU that can't be used -------------------------------------------------------------------------------- */

static const struct trouble {
    const char *variable, *value;
    const char *reason;
} TROUBLES[] = {
    {"KVMM_LIBCUDA", "/nonexistent/libcuda.so.1", "no CUDA driver: /nonexistent/libcuda.so.1"},
    {"KVMM_LIBCUDA", "libm.so.6", "CUDA driver libm.so.6 is too old"},
    {"SIMCUDA_VERSION", "11020", "is too old: it has no "},
    {"SIMCUDA_DEVICES", "0", "CUDA_ERROR_NO_DEVICE"},
    {"SIMCUDA_VMM", "0", "no virtual memory management: CUDA_ERROR_NOT_SUPPORTED"},
    {"SIMCUDA_CAPABILITY", "75", "compute capability 7.5, and the kernels need 8.0: CUDA_ERROR_NO_BINARY_FOR_GPU"},
    {"SIMCUDA_FAIL", "cuDeviceGetCount:1:214", "cuDeviceGetCount: CUDA_ERROR_ECC_UNCORRECTABLE"},
    {"KVMM_LIBCUBLAS", "/nonexistent/libcublas.so.13", "cuBLAS is not there: /nonexistent/libcublas.so.13"},
    {"KVMM_LIBCUBLAS", "libm.so.6", "libm.so.6 is too old: it has no cublasCreate_v2"},
};

START_TEST(a_gpu_that_cant_be_used_is_one_line_and_status_2)
{
    static struct result r;
    const struct trouble *t = &TROUBLES[_i];
    ck_assert_int_eq(setenv(t->variable, t->value, 1), 0);
    run(&r, "cuda", NULL, NULL);
    ck_assert_msg(r.status == 2, "%s=%s: status %d, \"%s\"", t->variable, t->value, r.status, r.err);
    ck_assert_msg(one_line(r.err), "%s=%s: not one line: \"%s\"", t->variable, t->value, r.err);
    ck_assert_msg(strncmp(r.err, "kvmm-engine: cuda:0: ", 21) == 0, "\"%s\"", r.err);
    ck_assert_msg(strstr(r.err, t->reason) != NULL, "%s=%s: \"%s\" does not say \"%s\"", t->variable, t->value, r.err,
                  t->reason);
    ck_assert_str_eq(r.out, "");
}
END_TEST

START_TEST(auto_takes_the_host_then_and_says_so)
{
    static struct result host, r;
    const struct trouble *t = &TROUBLES[_i];
    run(&host, "host", NULL, NULL);
    ck_assert_int_eq(setenv(t->variable, t->value, 1), 0);
    run(&r, "auto", NULL, NULL);
    ck_assert_msg(r.status == 0, "%s=%s: status %d, \"%s\"", t->variable, t->value, r.status, r.err);
    ck_assert_msg(one_line(r.err) && strstr(r.err, "--device auto takes the host: cuda:0: "), "\"%s\"", r.err);
    ck_assert_msg(strstr(r.err, t->reason) != NULL, "\"%s\" does not say \"%s\"", r.err, t->reason);
    ck_assert_str_eq(r.out, host.out);
}
END_TEST

/* ---- a GPU that fails ---------------------------------------------------------------------------------------- */

static const struct failure {
    const char *variable, *value;
    int status;
    const char *reason;
} FAILURES[] = {
    {"SIMCUDA_MEMORY", "3000000", 2, "CUDA_ERROR_OUT_OF_MEMORY"},
    {"SIMCUDA_MEMORY", "33900000", 2, "bytes for the weights: CUDA_ERROR_OUT_OF_MEMORY"},
    {"SIMCUDA_FAIL", "cuLaunchKernel:40:719", 1, "CUDA_ERROR_LAUNCH_FAILED"},
    {"SIMCUDA_FAIL", "cuGraphInstantiateWithFlags:1:2", 2, "cuGraphInstantiateWithFlags for a pass: CUDA_ERROR_OUT_OF"},
    {"SIMCUDA_FAIL", "cuModuleLoadData:1:209", 1, "loading for the kernels: CUDA_ERROR_NO_BINARY_FOR_GPU"},
    {"SIMCUDA_FAIL", "cuMemcpyHtoDAsync:9:214", 1, "cuMemcpyHtoDAsync for the weights: CUDA_ERROR_ECC_UNCORRECTABLE"},
    {"SIMCUBLAS_FAIL", "cublasGemmEx:30:13", 1, "cublasGemmEx of 4 tokens by a matrix of 128 × 64: CUBLAS_STATUS_"},
    {"SIMCUBLAS_FAIL", "cublasCreate_v2:1:3", 2, "cublasCreate: CUBLAS_STATUS_ALLOC_FAILED"},
};

START_TEST(a_failure_is_one_line)
{
    static struct result r;
    const struct failure *f = &FAILURES[_i];
    ck_assert_int_eq(setenv(f->variable, f->value, 1), 0);
    run(&r, "cuda:0", NULL, NULL);
    ck_assert_msg(r.status == f->status, "%s=%s: status %d, \"%s\"", f->variable, f->value, r.status, r.err);
    ck_assert_msg(one_line(r.err), "%s=%s: not one line: \"%s\"", f->variable, f->value, r.err);
    ck_assert_msg(strstr(r.err, f->reason) != NULL, "%s=%s: \"%s\" does not say \"%s\"", f->variable, f->value, r.err,
                  f->reason);
}
END_TEST

static const struct option {
    const char *name, *value, *reason;
} OPTIONS[] = {
    {"--frame", "64KiB", "--frame: frames of cuda:0 are 2 MiB"},
    {"--device-memory", "1MiB", "in frames of 2 MiB), the budget is 0 bytes"},
    {"--device-memory", "2MiB", "need 4 MiB in all"},
};

START_TEST(budgets_count_in_frames_of_the_gpu)
{
    static struct result r;
    run(&r, "cuda", OPTIONS[_i].name, OPTIONS[_i].value);
    ck_assert_msg(r.status == 2 && one_line(r.err) && strstr(r.err, OPTIONS[_i].reason), "status %d, \"%s\"", r.status,
                  r.err);
}
END_TEST

/* ---- answers ------------------------------------------------------------------------------------------------- */

START_TEST(the_answers_are_the_host_s)
{
    static const char *const devices[] = {"cuda", "cuda:0", "auto"};
    static struct result host, r;
    run(&host, "host", "--stats", NULL);
    ck_assert_msg(host.status == 0 && !strstr(host.err, "captured"), "%s", host.err);
    for (int i = 0; i < 3; i++) {
        run(&r, devices[i], "--stats", NULL);
        ck_assert_msg(r.status == 0, "%s", r.err);
        ck_assert_str_eq(r.out, host.out);
        ck_assert_msg(strstr(r.err, "1 captured, ") && strstr(r.err, "frames of 2 MiB"), "%s", r.err);
    }
    run(&r, "cuda", NULL, NULL);
    ck_assert_str_eq(r.err, "");
}
END_TEST

/* Words that nobody wrote before. */
static void write_document(const char *path)
{
    FILE *f = fopen(path, "we");
    uint64_t state = 5;
    ck_assert_ptr_nonnull(f);
    for (int i = 0; i < 2000; i++)
        (void)fputc(i % 7 == 6 ? ' ' : 'a' + (int)(test_random(&state) % 26), f);
    ck_assert_int_eq(fclose(f), 0);
}

START_TEST(documents_are_recalled)
{
    static struct result r;
    char model[256], text[256];
    (void)snprintf(model, sizeof model, "%s", test_path("recall.gguf"));
    (void)snprintf(text, sizeof text, "%s", test_path("document.txt"));
    write_document(text);
    const char *const make[] = {"make-recall-model", model, "--context", "4096", NULL};
    program_run(&r, program, make, NULL);
    ck_assert_msg(r.status == 0, "%s", r.err);
    const char *const demo[] = {"recall-demo", "-m", model,        "--device", "cuda", "--swap-dir", test_dir(),
                                "--answer",    "8",  "--passages", "1",        text,   NULL};
    program_run(&r, program, demo, NULL);
    ck_assert_msg(r.status == 0, "%s%s", r.err, r.out);
    ck_assert_msg(strstr(r.out, "Frames of 2 MiB"), "%s", r.out);
}
END_TEST

static void write_model(void)
{
    struct small_model m;
    small_model_init(&m);
    (void)snprintf(small_path, sizeof small_path, "%s", test_path("small.gguf"));
    small_model_write(&m, small_path);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        (void)fputs("usage: cuda_cli_test PATH-OF-KVMM-ENGINE\n", stderr);
        return 2;
    }
    program = argv[1];
    const int skip = cuda_test_skip();
    if (skip)
        return skip;
    Suite *suite = suite_create("--device");
    TCase *cases = tcase_create("all");
    tcase_set_timeout(cases, 120);
    tcase_add_unchecked_fixture(cases, write_model, NULL);
    tcase_add_loop_test(cases, a_gpu_that_cant_be_used_is_one_line_and_status_2, 0,
                        (int)(sizeof TROUBLES / sizeof *TROUBLES));
    tcase_add_loop_test(cases, auto_takes_the_host_then_and_says_so, 0, (int)(sizeof TROUBLES / sizeof *TROUBLES));
    tcase_add_loop_test(cases, a_failure_is_one_line, 0, (int)(sizeof FAILURES / sizeof *FAILURES));
    tcase_add_loop_test(cases, budgets_count_in_frames_of_the_gpu, 0, (int)(sizeof OPTIONS / sizeof *OPTIONS));
    tcase_add_test(cases, the_answers_are_the_host_s);
    tcase_add_test(cases, documents_are_recalled);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
