/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/shim/cuda_engine.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct engine engine;

const char *const engine_way_names[ENGINE_N_WAYS] = {
    "linked",
    "dlsym",
    "dlsym, per-thread streams",
    "cuGetProcAddress",
    "cuGetProcAddress_v2",
    "cuGetProcAddress_v2, per-thread streams",
    "cuGetProcAddress_v2 of cuGetProcAddress",
};

typedef CUresult get_proc_v1(const char *symbol, void **function, int version, uint64_t flags);
typedef CUresult get_proc_v2(const char *symbol, void **function, int version, uint64_t flags,
                             CUdriverProcAddressQueryResult *found);

/* ---- finding the driver ---- */

#ifdef ENGINE_IS_LINKED
#define X(member, name, symbol, suffix, version, thread_version, params) extern CUresult symbol params;
ENGINE_FUNCTIONS(X)
#undef X

static void link_all(void)
{
#define X(member, name, symbol, suffix, version, thread_version, params) engine.cu.member = symbol;
    ENGINE_FUNCTIONS(X)
#undef X
}
#else
static void link_all(void)
{
    ck_abort_msg("this program is not linked with libcuda");
}
#endif

static void look_up(void *library, bool per_thread)
{
#define X(member, name, symbol, suffix, version, thread_version, params)                                               \
    *(void **)&engine.cu.member = dlsym(library, (const char *const[]){#symbol, #symbol #suffix}[per_thread]);         \
    ck_assert_msg(engine.cu.member != NULL, "dlsym finds no %s", #symbol);
    ENGINE_FUNCTIONS(X)
#undef X
}

static void ask_v1(get_proc_v1 *get)
{
#define X(member, name, symbol, suffix, version, thread_version, params)                                               \
    OK(get(#name, (void **)&engine.cu.member, version, CU_GET_PROC_ADDRESS_DEFAULT));
    ENGINE_FUNCTIONS(X)
#undef X
}

static void ask_v2(get_proc_v2 *get, bool per_thread)
{
    CUdriverProcAddressQueryResult found;
    uint64_t flags = per_thread ? CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM : CU_GET_PROC_ADDRESS_DEFAULT;
#define X(member, name, symbol, suffix, version, thread_version, params)                                               \
    OK(get(#name, (void **)&engine.cu.member, (const int[]){version, thread_version}[per_thread], flags, &found));     \
    ck_assert_msg(found == CU_GET_PROC_ADDRESS_SUCCESS, "no %s", #name);
    ENGINE_FUNCTIONS(X)
#undef X
}

static void find_driver(enum engine_way way)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    get_proc_v1 *v1;
    get_proc_v2 *v2;
    ck_assert_msg(library != NULL, "%s", dlerror());
    *(void **)&v1 = dlsym(library, "cuGetProcAddress");
    *(void **)&v2 = dlsym(library, "cuGetProcAddress_v2");
    switch (way) {
    case ENGINE_LINKED:
        link_all();
        break;
    case ENGINE_DLSYM:
    case ENGINE_DLSYM_THREAD:
        look_up(library, way == ENGINE_DLSYM_THREAD);
        break;
    case ENGINE_GET_11:
        ask_v1(v1);
        break;
    case ENGINE_GET_NESTED:
        OK(v2("cuGetProcAddress", (void **)&v2, 12000, 0, NULL));
        ask_v2(v2, false);
        break;
    default:
        ask_v2(v2, way == ENGINE_GET_THREAD);
    }
}

/* ---- the kernel ---- */

static atomic_uint_fast64_t n_wrong;

uint64_t engine_word(uint64_t index, uint64_t round)
{
    return round ? (index + 1) * 0x9e3779b97f4a7c15u ^ round * 0xbf58476d1ce4e5b9u : 0;
}

static void run_step(const void *params, const struct simcuda_launch *launch)
{
    const struct engine_step *step = params;
    uint64_t *words = engine.sim.host_address(step->at), wrong = 0;
    for (uint64_t i = 0; i < step->n; i++) {
        wrong += words[i] != engine_word(step->first + i, step->before);
        words[i] = engine_word(step->first + i, step->after);
    }
    atomic_fetch_add(&n_wrong, wrong);
}

uint64_t engine_n_wrong(void)
{
    return atomic_load(&n_wrong);
}

CUresult engine_launch(const struct engine_step *step, CUstream stream)
{
    void *params[] = {(void *)(uintptr_t)step};
    return engine.cu.launch(engine.step, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL);
}

/* ---- start and end ---- */

void engine_start(enum engine_way way)
{
    CUcontext context;
    find_driver(way);
    ck_assert_msg(simcuda_find(&engine.sim), "the driver is not simcuda");
    ck_assert_msg(shim_test_find(&engine.shim), "the shim is not under this process");
    engine.sim.get_usage(&engine.before);
    OK(engine.cu.init(0));
    OK(engine.cu.retain(&context, 0));
    OK(engine.cu.set_current(context));
    OK(engine.sim.add_kernel("step", sizeof(struct engine_step), run_step));
    OK(engine.cu.module_load(&engine.module, ".version 8.0"));
    OK(engine.cu.get_function(&engine.step, engine.module, "step"));
}

void engine_end(void)
{
    char text[256];
    engine.sim.fail_clear();
    OK(engine.cu.module_unload(engine.module));
    OK(engine.cu.release(0));
    engine.cu.set_current(NULL);
    ck_assert_uint_eq(engine_n_wrong(), 0);
    ck_assert_msg(engine.sim.violations(text, sizeof text) == 0, "violation: %s", text);
    struct simcuda_usage now = engine_usage();
    ck_assert_uint_eq(now.allocations, engine.before.allocations);
    ck_assert_uint_eq(now.handles, engine.before.handles);
    ck_assert_uint_eq(now.mappings, engine.before.mappings);
    ck_assert_uint_eq(now.reservations, engine.before.reservations);
    ck_assert_uint_eq(now.host_allocs, engine.before.host_allocs);
    ck_assert_uint_eq(now.registrations, engine.before.registrations);
    ck_assert_uint_eq(now.device_bytes, engine.before.device_bytes);
    ck_assert_mem_eq(&now, &engine.before, sizeof now);
    engine_check();
    ck_assert_uint_eq(engine_info().n_ranges + engine_info().range_bytes, 0);
}

void engine_check(void)
{
    uint64_t n_ranges, n_frames, n_slots;
    struct shim_cuda_info info = engine_info();
    engine.shim.get_totals(&n_ranges, &n_frames, &n_slots);
    if (info.n_ranges != n_ranges || info.range_bytes != n_frames * FRAME ||
        info.host_bytes + info.swapped_bytes != n_slots * FRAME ||
        info.resident_bytes != engine_usage().handles * FRAME)
        ck_abort_msg(
            "%llu ranges of %llu frames, %llu slots, %llu handles; counted are %llu ranges, %llu bytes, of which "
            "%llu in host memory, %llu in the swap file, %llu on the device",
            (unsigned long long)n_ranges, (unsigned long long)n_frames, (unsigned long long)n_slots,
            (unsigned long long)engine_usage().handles, (unsigned long long)info.n_ranges,
            (unsigned long long)info.range_bytes, (unsigned long long)info.host_bytes,
            (unsigned long long)info.swapped_bytes, (unsigned long long)info.resident_bytes);
}

__attribute__((noinline)) CUresult engine_alloc(CUdeviceptr *ptr, size_t bytes)
{
    static atomic_uint n_calls;
    CUresult rc = engine.cu.alloc(ptr, bytes);
    atomic_fetch_add(&n_calls, 1); /* so that this is no tail call, and the function is on the stack */
    return rc;
}

CUdeviceptr engine_cache(void)
{
    CUdeviceptr cache = 0;
    OK(engine_alloc(&cache, CACHE));
    ck_assert_uint_ne(cache, 0);
    ck_assert_uint_eq(cache % FRAME, 0);
    return cache;
}

void engine_expect(CUdeviceptr at, uint64_t first, size_t n, uint64_t round)
{
    uint64_t *words = malloc(n * sizeof *words);
    ck_assert_ptr_nonnull(words);
    OK(engine.cu.to_host(words, at, n * sizeof *words));
    for (size_t i = 0; i < n; i++) { /* an assertion that holds costs a system call, too */
        if (words[i] != engine_word(first + i, round))
            ck_abort_msg("word %zu of round %llu is %llx", i, (unsigned long long)round, (unsigned long long)words[i]);
    }
    free(words);
}

void engine_suspend(void)
{
    char reason[256] = "";
    int rc = engine.shim.suspend(20000, reason, sizeof reason);
    ck_assert_msg(rc == 0, "suspend: %d: %s", rc, reason);
    engine_check();
}

void engine_resume(void)
{
    char reason[256] = "";
    int rc = engine.shim.resume(reason, sizeof reason);
    ck_assert_msg(rc == 0, "resume: %d: %s", rc, reason);
}

int engine_run(const char *name, const TTest *const *tests, int timeout_s)
{
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, timeout_s);
    for (; *tests; tests++)
        tcase_add_test(tcase, *tests);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
