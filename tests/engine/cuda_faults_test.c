/* SPDX-License-Identifier: Apache-2.0
 *
 * Each call of the driver and of cuBLAS that a GPU's passes make, failed once in turn: the run ends with one line that names
 * the error, and nothing is left behind. On simcuda only. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cublas.h"
#include "cuda_support.h"
#include "engine_support.h"
#include "forward_cuda.h"

enum { N_SEQS = 2, PROMPT = 20, RANGE_TOKENS = 64 };

static char small_path[256];
static const struct simcuda_control *sim;
static struct model *model;
static struct engine_error err;

static void open_model(void)
{
    ASSERT_OK(model_open(small_path, &model, &err), err);
    sim = cuda_test_sim();
}

/* Page-major, f16. */
static struct kvmm_layout layout_at(uint64_t base)
{
    struct kvmm_layout l = {.base = cuda_test_pointer(base), .elem_bytes = 2, .page_tokens = 16, .n_groups = 1};
    l.layers_per_group = model->n_layers;
    l.token_stride = model->head_dim * l.elem_bytes;
    l.head_stride = 16 * l.token_stride;
    l.kv_stride = model->n_kv_heads * l.head_stride;
    l.layer_stride = 2 * l.kv_stride;
    l.page_stride = l.layers_per_group * l.layer_stride;
    l.group_stride = RANGE_TOKENS / 16 * l.page_stride;
    return l;
}

// NOLINTNEXTLINE(readability-non-const-parameter): logits are written by the forward
static int run_pass(struct forward *f, const uint64_t *ranges, uint32_t first, uint32_t n, float *logits)
{
    static const engine_token tokens[PROMPT] = {1, 40, 41, 42, 43, 44, 45, 46, 47, 48};
    struct forward_item items[N_SEQS];
    for (uint32_t i = 0; i < N_SEQS; i++)
        items[i] = (struct forward_item){.layout = layout_at(ranges[i]),
                                         .tokens = tokens,
                                         .n_tokens = n,
                                         .first_pos = first,
                                         .logits = logits + (size_t)i * model->n_vocab};
    int rc = forward_queue(f, items, N_SEQS, &err);
    return rc != 0 ? rc : forward_wait(f, &err);
}

/* Everything that a forward does: the upload, a prompt, a plain decoding pass, a captured one, replays. */
static int run_all(const uint64_t *ranges, float *logits)
{
    struct forward *f = NULL;
    int rc = forward_cuda_open(model, NULL, 0, KVMM_F16, 2 * PROMPT, NULL, NULL, &f, &err);
    if (rc == 0)
        rc = run_pass(f, ranges, 0, PROMPT, logits);
    for (uint32_t step = 0; rc == 0 && step < 4; step++)
        rc = run_pass(f, ranges, PROMPT + step, 1, logits);
    forward_close(&f);
    return rc;
}

/* Calls that only give something back: a failure leaves that behind, and there is nothing to say. Besides those whose
 * failure does not matter. */
static bool is_release(const char *name)
{
    static const char *const releases[] = {
        "cuDevicePrimaryCtxRelease", "cuCtxPopCurrent", "cuMemFree",          "cuMemFreeHost",  "cuEventDestroy",
        "cuStreamDestroy",           "cuModuleUnload",  "cuGraphExecDestroy", "cuGraphDestroy", "cublasDestroy_v2"};
    for (size_t i = 0; i < sizeof releases / sizeof *releases; i++) {
        if (strcmp(name, releases[i]) == 0)
            return true;
    }
    return false;
}

/* May be asked in vain: for a line of text, or while all is taken down. */
static bool may_fail_unseen(const char *name)
{
    static const char *const names[] = {"cuDeviceGetName", "cuDriverGetVersion", "cuCtxPushCurrent",
                                        "cuEventRecord",   "cuCtxGetCurrent",    "cuEventSynchronize"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return false;
}

/* Calls that the stand-in for cuBLAS makes: it has its own words for their failure. */
static bool is_cublas_own(const char *name)
{
    return strcmp(name, "cuCtxGetCurrent") == 0 || strcmp(name, "cuStreamIsCapturing") == 0;
}

static void alloc_ranges(uint64_t *ranges)
{
    for (uint32_t i = 0; i < N_SEQS; i++)
        ranges[i] = cuda_test_alloc(layout_at(0).group_stride);
}

static void check_line(const char *what, const char *name)
{
    ck_assert_msg(strstr(err.text, name) != NULL, "%s: \"%s\" does not name %s", what, err.text, name);
    ck_assert_msg(strncmp(err.text, "cuda:0: ", 8) == 0 && !strchr(err.text, '\n'), "%s: \"%s\"", what, err.text);
}

START_TEST(a_failed_driver_call_is_one_line_and_no_leak)
{
    uint64_t ranges[N_SEQS], n_failed = 0;
    open_model();
    alloc_ranges(ranges);
    float *logits = calloc((size_t)N_SEQS * model->n_vocab, sizeof *logits);
    ck_assert_ptr_nonnull(logits);
    ASSERT_OK(run_all(ranges, logits), err); /* what is made once, is made now */
    const struct simcuda_usage before = cuda_test_usage();
    const char *name;
    for (size_t f = 0; (name = sim->function_name(f)); f++) {
        const uint64_t calls_before = sim->calls(name);
        ASSERT_OK(run_all(ranges, logits), err);
        const uint64_t n = sim->calls(name) - calls_before;
        for (uint64_t nth = 1; nth <= n && !is_release(name); nth++) {
            char what[80];
            (void)snprintf(what, sizeof what, "call %llu of %llu of %s", (unsigned long long)nth, (unsigned long long)n,
                           name);
            ck_assert_int_eq(sim->fail_range(name, nth, nth, CUDA_ERROR_ECC_UNCORRECTABLE), CUDA_SUCCESS);
            err.text[0] = '\0';
            int rc = run_all(ranges, logits);
            sim->fail_clear();
            if (rc != 0)
                check_line(what, is_cublas_own(name) ? "CUBLAS_STATUS_" : "CUDA_ERROR_ECC_UNCORRECTABLE");
            else
                ck_assert_msg(may_fail_unseen(name), "%s failed, and nobody said so", what);
            n_failed += rc != 0;
            cuda_test_nothing_left(&before, what);
        }
    }
    ck_assert_uint_gt(n_failed, 100);
    free(logits);
    model_close(&model);
}
END_TEST

START_TEST(a_failed_call_of_cublas_is_one_line_and_no_leak)
{
    static const char *const names[] = {
#define X(name, params) #name,
        CUBLAS_FUNCTIONS(X)
#undef X
    };
    void (*inject)(const char *, uint64_t, int);
    uint64_t (*handles)(void);
    uint64_t ranges[N_SEQS];
    open_model();
    alloc_ranges(ranges);
    float *logits = calloc((size_t)N_SEQS * model->n_vocab, sizeof *logits);
    *(void **)&inject = cuda_test_blas_symbol("simcublas_fail");
    *(void **)&handles = cuda_test_blas_symbol("simcublas_handles");
    ASSERT_OK(run_all(ranges, logits), err);
    const struct simcuda_usage before = cuda_test_usage();
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        for (uint64_t nth = 1;; nth++) {
            if (is_release(names[f]))
                break;
            inject(names[f], nth, CUBLAS_STATUS_EXECUTION_FAILED);
            int rc = run_all(ranges, logits);
            inject(names[f], 0, 0);
            ck_assert_uint_eq(handles(), 0);
            cuda_test_nothing_left(&before, names[f]);
            if (rc == 0)
                break; /* past the last call */
            check_line(names[f], "CUBLAS_STATUS_EXECUTION_FAILED");
        }
    }
    free(logits);
    model_close(&model);
}
END_TEST

/* At every size of the device's memory the run ends in one of two ways. */
START_TEST(too_little_memory_says_how_much_was_asked_for)
{
    uint64_t ranges[N_SEQS];
    open_model();
    alloc_ranges(ranges);
    float *logits = calloc((size_t)N_SEQS * model->n_vocab, sizeof *logits);
    const struct simcuda_usage before = cuda_test_usage();
    uint32_t n_refused = 0, n_worked = 0;
    for (uint64_t room = 0; room < 40u << 20; room += 192u << 10) {
        sim->set_memory(before.device_bytes + room);
        int rc = run_all(ranges, logits);
        if (rc != 0) {
            ck_assert_int_eq(rc, ENGINE_BAD_INPUT);
            check_line("too little memory", "CUDA_ERROR_OUT_OF_MEMORY");
            ck_assert_ptr_nonnull(strstr(err.text, " bytes for "));
        }
        n_refused += rc != 0;
        n_worked += rc == 0;
        cuda_test_nothing_left(&before, "too little memory");
    }
    ck_assert(n_refused > 10 && n_worked > 10);
    free(logits);
    model_close(&model);
}
END_TEST

START_TEST(memory_that_runs_out_later_fails_one_pass)
{
    uint64_t ranges[N_SEQS];
    struct forward *f;
    open_model();
    alloc_ranges(ranges);
    float *logits = calloc((size_t)N_SEQS * model->n_vocab, sizeof *logits);
    ASSERT_OK(forward_cuda_open(model, NULL, 0, KVMM_F16, 2 * PROMPT, NULL, NULL, &f, &err), err);
    sim->set_memory(cuda_test_usage().device_bytes);
    ck_assert_int_eq(run_pass(f, ranges, 0, PROMPT, logits), ENGINE_BAD_INPUT);
    check_line("later", "bytes for logits: CUDA_ERROR_OUT_OF_MEMORY");
    sim->set_memory(1u << 30);
    ASSERT_OK(run_pass(f, ranges, 0, PROMPT, logits), err);
    forward_close(&f);
    free(logits);
    model_close(&model);
}
END_TEST

START_TEST(a_lost_device_ends_the_pass)
{
    uint64_t ranges[N_SEQS];
    struct forward *f;
    open_model();
    alloc_ranges(ranges);
    float *logits = calloc((size_t)N_SEQS * model->n_vocab, sizeof *logits);
    ASSERT_OK(forward_cuda_open(model, NULL, 0, KVMM_F16, 2 * PROMPT, NULL, NULL, &f, &err), err);
    ASSERT_OK(run_pass(f, ranges, 0, PROMPT, logits), err);
    sim->lose_device(CUDA_ERROR_LAUNCH_FAILED);
    for (uint32_t step = 0; step < 3; step++) {
        ck_assert_int_eq(run_pass(f, ranges, PROMPT + step, 1, logits), ENGINE_FAILED);
        check_line("a lost device", "CUDA_ERROR_LAUNCH_FAILED");
    }
    forward_close(&f); /* and it ends */
    free(logits);
    model_close(&model);
}
END_TEST

static void write_model(void)
{
    struct small_model m;
    small_model_init(&m);
    m.n_layers = 2;
    (void)snprintf(small_path, sizeof small_path, "%s", test_path("small.gguf"));
    small_model_write(&m, small_path);
}

int main(void)
{
    const int skip = cuda_test_skip();
    if (skip)
        return skip;
    Suite *suite = suite_create("failing GPUs");
    TCase *cases = tcase_create("all");
    tcase_set_timeout(cases, 240);
    tcase_add_unchecked_fixture(cases, write_model, NULL);
    tcase_add_test(cases, a_failed_driver_call_is_one_line_and_no_leak);
    tcase_add_test(cases, a_failed_call_of_cublas_is_one_line_and_no_leak);
    tcase_add_test(cases, too_little_memory_says_how_much_was_asked_for);
    tcase_add_test(cases, memory_that_runs_out_later_fails_one_pass);
    tcase_add_test(cases, a_lost_device_ends_the_pass);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
