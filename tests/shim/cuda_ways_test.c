/* SPDX-License-Identifier: Apache-2.0
 *
 * However an engine finds the driver, its cache is kvmm's: it costs nothing until it is used, is what the driver says of it,
 * goes at a suspend, and has the same bytes at the same addresses after a resume. */
#include <stdlib.h>

#include "tests/shim/cuda_engine.h"
#include "tests/shim/standin_cudart.h"

#define WEIGHTS ((size_t)96 << 10) /* below the threshold: the engine's own */

static void check_address(CUdeviceptr cache)
{
    CUdeviceptr base = 0, start = 0;
    size_t bytes = 0, size = 0;
    unsigned type = 0;
    int device = -1;
    CUpointer_attribute which[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_RANGE_SIZE};
    void *data[] = {&type, &size};
    OK(engine.cu.address_range(&base, &bytes, cache + CACHE / 2));
    ck_assert_uint_eq(base, cache);
    ck_assert_uint_eq(bytes, CACHE);
    OK(engine.cu.attribute(&start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, cache + CACHE - 1));
    ck_assert_uint_eq(start, cache);
    OK(engine.cu.attribute(&device, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, cache));
    ck_assert_int_eq(device, 0);
    OK(engine.cu.attributes(2, which, data, cache + CACHE / 3));
    ck_assert_uint_eq(type, CU_MEMORYTYPE_DEVICE);
    ck_assert_uint_eq(size, CACHE);
}

/* The life of a cache, driven by the functions of the driver that were found. */
static void live(void)
{
    struct engine_step step = {.n = CACHE_WORDS, .after = 1};
    size_t free_before, free_now, total;
    CUdeviceptr weights;
    OK(engine.cu.alloc(&weights, WEIGHTS));
    OK(engine.cu.mem_info(&free_before, &total));
    uint64_t bytes = engine_usage().device_bytes;
    CUdeviceptr cache = engine_cache();
    OK(engine.cu.fill_async(cache, 0, CACHE, NULL));
    ck_assert_uint_eq(engine_usage().device_bytes, bytes); /* cleared, and nowhere */
    OK(engine.cu.mem_info(&free_now, &total));
    ck_assert_uint_eq(free_before - free_now, N_FRAMES * FRAME); /* the engine sees what it would see without kvmm */
    step.at = cache;
    OK(engine_launch(&step, NULL));
    ck_assert_uint_eq(engine_usage().device_bytes, bytes + N_FRAMES * FRAME);
    check_address(cache);
    engine_suspend();
    ck_assert_uint_eq(engine_usage().device_bytes, bytes);
    OK(engine.cu.mem_info(&free_now, &total));
    ck_assert_uint_eq(free_before - free_now, N_FRAMES * FRAME);
    OK(engine.cu.fill_async(weights, 7, WEIGHTS, NULL)); /* no business of the cache's */
    engine_resume();
    step.before = 1;
    step.after = 2;
    OK(engine_launch(&step, NULL));
    OK(engine.cu.synchronize(NULL));
    engine_expect(cache, 0, CACHE_WORDS, 2);
    OK(engine.cu.free(cache));
    OK(engine.cu.free(weights));
}

START_TEST(each_way_leads_to_the_shim)
{
#ifdef ENGINE_IS_LINKED
    const enum engine_way way = ENGINE_LINKED;
    if (_i != ENGINE_LINKED)
        return;
#else
    const enum engine_way way = _i;
    if (_i == ENGINE_LINKED)
        return;
#endif
    engine_start(way);
    live();
    engine_end();
}
END_TEST

#ifndef ENGINE_IS_LINKED
START_TEST(a_runtime_that_finds_the_driver_as_cudart_does_leads_to_the_shim)
{
    void *cache = NULL, *pinned = NULL;
    size_t free_before, free_now, total;
    engine_start(ENGINE_DLSYM);
    OK(standin_open(_i == 1));
    OK(standin_mem_get_info(&free_before, &total));
    OK(standin_malloc(&cache, CACHE));
    OK(standin_memset_async(cache, 0, CACHE, CU_STREAM_PER_THREAD));
    ck_assert_uint_eq(engine_usage().handles, 0);
    OK(standin_mem_get_info(&free_now, &total));
    ck_assert_uint_eq(free_before - free_now, N_FRAMES * FRAME);
    struct engine_step step = {(uintptr_t)cache, 0, CACHE_WORDS, 0, 5};
    void *params[] = {&step};
    OK(standin_launch(engine.step, params, NULL));
    ck_assert_uint_eq(engine_usage().handles, N_FRAMES);
    engine_suspend();
    ck_assert_uint_eq(engine_usage().handles, 0);
    engine_resume();
    OK(engine.cu.host_alloc(&pinned, CACHE, 0));
    OK(standin_memcpy_async(pinned, cache, CACHE, NULL));
    OK(standin_stream_synchronize(NULL));
    size_t n_wrong = 0;
    for (size_t i = 0; i < CACHE_WORDS; i++)
        n_wrong += ((uint64_t *)pinned)[i] != engine_word(i, 5);
    ck_assert_uint_eq(n_wrong, 0);
    OK(engine.cu.host_free(pinned));
    OK(standin_free(cache));
    OK(standin_close());
    engine_end();
}
END_TEST

/* A name that is not quite one of the hooks', a version that has another form: the driver's answer, untouched. */
START_TEST(only_exact_names_are_exchanged)
{
    engine_start(ENGINE_DLSYM);
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD), *function = NULL;
    CUresult (*get)(const char *, void **, int, uint64_t, CUdriverProcAddressQueryResult *);
    CUdriverProcAddressQueryResult found;
    *(void **)&get = dlsym(library, "cuGetProcAddress_v2");
    ck_assert_ptr_null(dlsym(library, "cuMemAlloc_v"));
    ck_assert_ptr_null(dlsym(library, "cuMemAlloc_v22"));
    ck_assert_ptr_null(dlsym(library, "cuMemAllocPitch_v2")); /* simcuda has none: a hook must not hide that */
    OK(get("cuMemAlloc_v2", &function, 12000, 0, &found));
    ck_assert_int_eq(found, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    OK(get("cuMemAlloc", &function, 2000, 0, &found));
    ck_assert_int_eq(found, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    OK(get("cuMemAlloc", &function, 12000, 0, &found)); /* newer than the form: the same form */
    ck_assert_ptr_eq(function, *(void **)&engine.cu.alloc);
    FAILS(get("cuMemAlloc", &function, 99000, 0, &found), CUDA_ERROR_INVALID_VALUE);
    ck_assert_ptr_ne(dlsym(library, "cuEventQuery"), NULL);
    dlclose(library);
    engine_end();
}
END_TEST
#endif

int main(void)
{
    Suite *suite = suite_create("shim cuda ways");
    TCase *tcase = tcase_create("ways");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, each_way_leads_to_the_shim, 0, ENGINE_N_WAYS);
#ifndef ENGINE_IS_LINKED
    tcase_add_loop_test(tcase, a_runtime_that_finds_the_driver_as_cudart_does_leads_to_the_shim, 0, 2);
    tcase_add_test(tcase, only_exact_names_are_exchanged);
#endif
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
