/* SPDX-License-Identifier: Apache-2.0
 *
 * Which frames have memory when: blank ones, those that an engine gave advice about, tentative allocations, torch's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shim/include/kvmm/shim.h"
#include "tests/shim/cuda_engine.h"

static size_t resident(void)
{
    ck_assert_uint_eq(engine_info().resident_bytes, engine_usage().handles * FRAME);
    return engine_info().resident_bytes / FRAME;
}

static int advise(CUdeviceptr at, size_t bytes, int advice)
{
    int (*kvmm)(void *, size_t, int);
    *(void **)&kvmm = dlsym(RTLD_DEFAULT, "kvmm_advise");
    ck_assert_ptr_nonnull(kvmm);
    return kvmm((void *)(uintptr_t)at, bytes, advice);
}

static void launch(CUdeviceptr cache, uint64_t first, uint64_t n, uint64_t before, uint64_t after)
{
    struct engine_step step = {cache + first * 8, first, n, before, after};
    OK(engine_launch(&step, NULL));
    OK(engine.cu.synchronize(NULL));
}

#define WORDS (FRAME / 8) /* of a frame */

/* ---- blank frames ---- */

START_TEST(only_what_is_touched_has_memory_until_a_kernel_is_launched)
{
    unsigned char byte = 1;
    uint64_t word = 5;
    engine_start(ENGINE_DLSYM);
    CUdeviceptr cache = engine_cache();
    ck_assert_uint_eq(resident(), 0);
    OK(engine.cu.fill_async(cache, 0, CACHE, NULL));
    OK(engine.cu.fill(cache, 0, 3 * FRAME));
    OK(engine.cu.fill32_async(cache + FRAME, 0, WORDS * 2 * 4, NULL));
    ck_assert_uint_eq(resident(), 0);
    OK(engine.cu.to_device(cache + 2 * FRAME - 4, &word, sizeof word)); /* the end of one, the start of the next */
    ck_assert_uint_eq(resident(), 2);
    OK(engine.cu.to_host(&byte, cache + 5 * FRAME, 1));
    ck_assert_uint_eq(byte, 0);
    ck_assert_uint_eq(resident(), 3);
    OK(engine.cu.fill(cache + 6 * FRAME, 0, FRAME + 100)); /* one whole frame stays blank; the piece is written */
    ck_assert_uint_eq(resident(), 4);
    OK(engine.cu.fill(cache + 8 * FRAME, 1, 1));
    ck_assert_uint_eq(resident(), 5);
    OK(engine.cu.fill(cache, 0, CACHE)); /* what has memory is cleared by the driver */
    ck_assert_uint_eq(resident(), 5);
    launch(cache, 0, CACHE_WORDS, 0, 1);
    ck_assert_uint_eq(resident(), N_FRAMES);
    OK(engine.cu.fill32_async(cache, 0x01020304, CACHE / 4, NULL));
    OK(engine.cu.to_host(&word, cache + CACHE - 8, 8));
    ck_assert_uint_eq(word, 0x0102030401020304u);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

/* Frames that were never touched are not moved either. */
START_TEST(a_suspend_moves_only_what_has_memory)
{
    uint64_t word = 77;
    engine_start(ENGINE_DLSYM);
    CUdeviceptr cache = engine_cache();
    OK(engine.cu.fill_async(cache, 0, CACHE, NULL));
    OK(engine.cu.to_device(cache + 3 * FRAME, &word, 8));
    engine_suspend();
    ck_assert_uint_eq(engine_info().host_bytes, FRAME);
    ck_assert_uint_eq(engine_info().blank_bytes, (N_FRAMES - 1) * FRAME);
    engine_resume();
    ck_assert_uint_eq(resident(), 1);
    word = 0;
    OK(engine.cu.to_host(&word, cache + 3 * FRAME, 8));
    ck_assert_uint_eq(word, 77);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

/* A copy over the end of a cache, or from one into another, is seen whole. */
START_TEST(copies_between_caches_bring_both)
{
    engine_start(ENGINE_GET_THREAD);
    CUdeviceptr a = engine_cache(), b = engine_cache();
    launch(a, 0, CACHE_WORDS, 0, 1);
    ck_assert_int_eq(advise(a, 4 * FRAME, KVMM_COLD), 0);
    ck_assert_int_eq(advise(b, 4 * FRAME, KVMM_FREE), 0);
    size_t before = resident();
    OK(engine.cu.on_device_async(b, a, 2 * FRAME, NULL));
    OK(engine.cu.copy_async(b + 2 * FRAME, a + 2 * FRAME, FRAME, NULL));
    OK(engine.cu.synchronize(NULL));
    ck_assert_uint_eq(resident(), before + 6);
    engine_expect(b, 0, 3 * WORDS, 1);
    OK(engine.cu.free(a));
    OK(engine.cu.free(b));
    engine_end();
}
END_TEST

/* ---- advice ---- */

START_TEST(cold_frames_leave_and_stay_away_until_they_are_needed)
{
    engine_start(ENGINE_GET_12);
    CUdeviceptr cache = engine_cache();
    OK(engine.cu.fill(cache, 0, CACHE));
    launch(cache, 0, CACHE_WORDS, 0, 1);
    ck_assert_int_eq(advise(cache + 1, 4 * FRAME, KVMM_COLD), 0); /* whole frames: three */
    ck_assert_uint_eq(resident(), N_FRAMES - 3);
    launch(cache, 4 * WORDS, WORDS, 1, 2); /* launches don't bring them back: so it was promised */
    ck_assert_uint_eq(resident(), N_FRAMES - 3);
    engine_suspend();
    engine_resume();
    ck_assert_uint_eq(resident(), N_FRAMES - 3);
    ck_assert_int_eq(advise(cache + 2 * FRAME, 1, KVMM_WILLNEED), 0);
    ck_assert_uint_eq(resident(), N_FRAMES - 2);
    launch(cache, 2 * WORDS, WORDS, 1, 3);
    engine_expect(cache + FRAME, WORDS, WORDS, 1); /* a copy brings its frame, too */
    ck_assert_uint_eq(resident(), N_FRAMES - 1);
    engine_expect(cache + 2 * FRAME, 2 * WORDS, WORDS, 3);
    ck_assert_int_eq(advise(cache, CACHE, KVMM_WILLNEED), 0);
    ck_assert_uint_eq(resident(), N_FRAMES);
    engine_expect(cache + 3 * FRAME, 3 * WORDS, WORDS, 1);
    engine_expect(cache + 4 * FRAME, 4 * WORDS, WORDS, 2);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

START_TEST(free_frames_cost_nothing_until_they_are_needed)
{
    engine_start(ENGINE_DLSYM);
    CUdeviceptr cache = engine_cache();
    launch(cache, 0, CACHE_WORDS, 0, 1);
    ck_assert_int_eq(advise(cache + 2 * FRAME, CACHE - 2 * FRAME, KVMM_FREE), 0); /* the half frame at the end, too */
    ck_assert_uint_eq(resident(), 2);
    launch(cache, 0, 2 * WORDS, 1, 2);
    ck_assert_uint_eq(resident(), 2);
    ck_assert_int_eq(advise(cache, 4 * FRAME, KVMM_WILLNEED), 0);
    ck_assert_uint_eq(resident(), 4);
    engine_expect(cache + 2 * FRAME, 0, WORDS, 0);
    ck_assert_int_eq(advise(cache, FRAME, KVMM_COLD), 0);
    ck_assert_int_eq(advise(cache, FRAME, KVMM_FREE), 0); /* what is away is dropped */
    ck_assert_uint_eq(engine_info().host_bytes, 0);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

START_TEST(bad_advice_is_refused)
{
    CUdeviceptr own;
    engine_start(ENGINE_DLSYM);
    CUdeviceptr cache = engine_cache();
    OK(engine.cu.alloc(&own, 4096));
    ck_assert_int_eq(advise(own, 4096, KVMM_COLD), -ENOENT);
    ck_assert_int_eq(advise(cache, CACHE + 1, KVMM_COLD), -EINVAL);
    ck_assert_int_eq(advise(cache + FRAME, CACHE, KVMM_FREE), -EINVAL);
    ck_assert_int_eq(advise(cache, CACHE, 3), -EINVAL);
    ck_assert_int_eq(advise(cache, SIZE_MAX, KVMM_WILLNEED), -EINVAL);
    ck_assert_int_eq(advise(cache, 0, KVMM_COLD), 0);
    engine_suspend();
    ck_assert_int_eq(advise(cache, CACHE, KVMM_WILLNEED), -EBUSY);
    ck_assert_int_eq(advise(cache, CACHE, KVMM_COLD), 0);
    engine_resume();
    OK(engine.cu.free(own));
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

/* With a budget more may be asked for than fits. meson.build: KVMM_DEVICE_MEMORY of 32 frames. */
START_TEST(a_budget_holds)
{
    char budget[] = "32";
    engine_start(ENGINE_DLSYM);
    CUdeviceptr a = engine_cache(), b = engine_cache();
    ck_assert_uint_eq(engine_info().memory_bytes, strtoul(budget, NULL, 10) * FRAME);
    struct engine_step step = {a, 0, CACHE_WORDS, 0, 1};
    FAILS(engine_launch(&step, NULL), CUDA_ERROR_OUT_OF_MEMORY); /* it might use both */
    ck_assert_uint_eq(resident(), 0);
    ck_assert_int_eq(advise(b, CACHE, KVMM_FREE), 0);
    launch(a, 0, CACHE_WORDS, 0, 1);
    ck_assert_uint_eq(resident(), N_FRAMES);
    ck_assert_int_eq(advise(b, CACHE, KVMM_WILLNEED), -ENOSPC);
    ck_assert_int_eq(advise(a, CACHE, KVMM_COLD), 0);
    ck_assert_int_eq(advise(b, CACHE, KVMM_WILLNEED), 0);
    launch(b, 0, CACHE_WORDS, 0, 7);
    FAILS(engine.cu.to_device(a, &step, CACHE), CUDA_ERROR_OUT_OF_MEMORY);
    ck_assert_uint_eq(engine_info().peak_bytes, N_FRAMES * FRAME);
    ck_assert_int_eq(advise(b, CACHE, KVMM_COLD), 0);
    engine_expect(a, 0, CACHE_WORDS, 1);
    OK(engine.cu.free(a));
    OK(engine.cu.free(b));
    engine_end();
}
END_TEST

/* ---- spans ---- */

/* The first and the last byte that a copy of so many rows and layers touches, one by one. */
static struct shim_cuda_span touched(CUdeviceptr at, size_t pitch, size_t rows, const size_t from[3],
                                     const size_t extent[3])
{
    CUdeviceptr low = UINT64_MAX, high = 0;
    for (size_t z = from[2]; z < from[2] + extent[2]; z++) {
        for (size_t y = from[1]; y < from[1] + extent[1]; y++) {
            for (size_t x = from[0]; x < from[0] + extent[0]; x++) {
                CUdeviceptr byte = at + (z * rows + y) * pitch + x;
                low = byte < low ? byte : low;
                high = byte > high ? byte : high;
            }
        }
    }
    return high ? (struct shim_cuda_span){low, high - low + 1} : (struct shim_cuda_span){0};
}

static void expect_span(struct shim_cuda_span is, struct shim_cuda_span expected)
{
    ck_assert_uint_eq(is.start, expected.start);
    ck_assert_uint_eq(is.bytes, expected.bytes);
}

START_TEST(copies_of_rows_and_layers_touch_from_their_first_to_their_last_byte)
{
    shim_test_find(&engine.shim);
    const CUdeviceptr at = 0x700000000, other = 0x800000000;
    for (size_t i = 0; i < 3 * 3 * 3 * 3 * 2; i++) {
        const size_t from[3] = {i % 3 * 5, i / 3 % 3, i % 2}, extent[3] = {i / 9 % 3 * 7, i / 27 % 3, 1 + i / 81 % 2};
        const size_t flat_from[3] = {from[0], from[1], 0}, flat[3] = {extent[0], extent[1], 1}, zero[3] = {0, 0, 0};
        CUDA_MEMCPY2D two = {.srcXInBytes = from[0],
                             .srcY = from[1],
                             .srcMemoryType = CU_MEMORYTYPE_UNIFIED,
                             .srcDevice = at,
                             .srcPitch = 40,
                             .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                             .dstDevice = other,
                             .dstPitch = 64,
                             .WidthInBytes = extent[0],
                             .Height = extent[1]};
        struct shim_cuda_spans spans = engine.shim.spans_2d(&two);
        expect_span(spans.of[0], touched(other, 64, 0, zero, flat));
        expect_span(spans.of[1], touched(at, 40, 0, flat_from, flat));
        two.dstMemoryType = CU_MEMORYTYPE_HOST;
        two.srcMemoryType = CU_MEMORYTYPE_ARRAY;
        spans = engine.shim.spans_2d(&two);
        ck_assert_uint_eq(spans.of[0].bytes + spans.of[1].bytes, 0);
        CUDA_MEMCPY3D three = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                               .dstXInBytes = from[0],
                               .dstY = from[1],
                               .dstZ = from[2],
                               .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
                               .dstDevice = at,
                               .dstPitch = 48,
                               .dstHeight = 6,
                               .WidthInBytes = extent[0],
                               .Height = extent[1],
                               .Depth = extent[2]};
        spans = engine.shim.spans_3d(&three);
        expect_span(spans.of[0], touched(at, 48, 6, from, extent));
        ck_assert_uint_eq(spans.of[1].bytes, 0);
        CUDA_MEMCPY3D_PEER peer = {.srcXInBytes = from[0],
                                   .srcY = from[1],
                                   .srcZ = from[2],
                                   .srcMemoryType = CU_MEMORYTYPE_DEVICE,
                                   .srcDevice = at,
                                   .srcPitch = 32,
                                   .srcHeight = 5,
                                   .dstMemoryType = CU_MEMORYTYPE_ARRAY,
                                   .WidthInBytes = extent[0],
                                   .Height = extent[1],
                                   .Depth = extent[2]};
        spans = engine.shim.spans_peer(&peer);
        expect_span(spans.of[1], touched(at, 32, 5, from, extent));
        ck_assert_uint_eq(spans.of[0].bytes, 0);
        expect_span(engine.shim.span_rows(at, 100, extent[0], extent[1]), touched(at, 100, 0, zero, flat));
    }
    ck_assert_uint_eq(engine.shim.spans_2d(NULL).of[0].bytes, 0);
}
END_TEST

/* ---- other allocations ---- */

/* meson.build: KVMM_SELECT=cleared:1M. */
START_TEST(what_is_cleared_at_once_is_the_cache_and_nothing_else)
{
    uint64_t word = 3;
    engine_start(ENGINE_GET_12);
    CUdeviceptr cache = engine_cache(), weights = engine_cache(), compute = engine_cache(), scratch = engine_cache();
    OK(engine.cu.to_device(weights, &word, sizeof word));
    OK(engine.cu.fill(scratch, 0, FRAME)); /* not all of it */
    OK(engine.cu.fill_async(cache, 0, CACHE, CU_STREAM_PER_THREAD));
    launch(compute, 0, CACHE_WORDS, 0, 1);
    OK(engine.cu.fill(weights, 0, CACHE)); /* too late */
    OK(engine.cu.fill(compute, 0, CACHE));
    launch(compute, 0, CACHE_WORDS, 0, 1);
    ck_assert_int_eq(advise(weights, CACHE, KVMM_COLD), -ENOENT);
    engine_suspend();
    ck_assert_uint_eq(engine_info().host_bytes + engine_info().swapped_bytes, N_FRAMES * FRAME);
    ck_assert_uint_eq(engine_info().resident_bytes, (uint64_t)3 * N_FRAMES * FRAME);
    OK(engine.cu.to_host(&word, weights, sizeof word)); /* never leaves, and its copies don't wait */
    ck_assert_uint_eq(word, 0);
    engine_resume();
    launch(cache, 0, CACHE_WORDS, 0, 9);
    engine_expect(compute, 0, CACHE_WORDS, 1);
    OK(engine.cu.free(cache));
    OK(engine.cu.free(weights));
    OK(engine.cu.free(compute));
    OK(engine.cu.free(scratch));
    engine_end();
}
END_TEST

/* meson.build: KVMM_SELECT=none. */
START_TEST(what_torch_allocates_is_the_cache)
{
    void *(*torch_malloc)(ptrdiff_t, int, void *);
    void (*torch_free)(void *, ptrdiff_t, int, void *);
    CUdeviceptr own;
    engine_start(ENGINE_LINKED + 1);
    *(void **)&torch_malloc = dlsym(RTLD_DEFAULT, "kvmm_torch_malloc");
    *(void **)&torch_free = dlsym(RTLD_DEFAULT, "kvmm_torch_free");
    ck_assert(torch_malloc && torch_free);
    OK(engine_alloc(&own, CACHE));
    ck_assert_uint_eq(engine_info().n_ranges, 0);
    ck_assert_ptr_null(torch_malloc(0, 0, NULL));
    ck_assert_ptr_null(torch_malloc((ptrdiff_t)CACHE, 1, NULL)); /* not the current device */
    void *small = torch_malloc(512, 0, NULL);
    ck_assert_ptr_nonnull(small);
    launch((uintptr_t)small, 0, 64, 0, 1);
    engine_suspend();
    ck_assert_uint_eq(engine_info().host_bytes, FRAME);
    engine_resume();
    void *cache = torch_malloc((ptrdiff_t)CACHE, 0, NULL);
    ck_assert_ptr_nonnull(cache);
    launch((uintptr_t)cache, 0, CACHE_WORDS, 0, 1);
    ck_assert_uint_eq(resident(), N_FRAMES + 1);
    engine_suspend();
    ck_assert_uint_eq(engine_usage().handles, 0);
    ck_assert_uint_eq(engine_info().host_bytes, 11 * FRAME); /* host memory has grown with the cache, to its budget */
    engine_resume();
    engine_expect((uintptr_t)cache, 0, CACHE_WORDS, 1);
    torch_free(cache, (ptrdiff_t)CACHE, 0, NULL);
    torch_free(small, 512, 0, NULL);
    torch_free(NULL, 0, 0, NULL);
    OK(engine.cu.free(own));
    engine_end();
}
END_TEST

START_TEST(without_virtual_memory_management_the_engine_goes_on_without_kvmm)
{
    engine_start(ENGINE_DLSYM);
    CUdeviceptr cache = 0;
    OK(engine_alloc(&cache, CACHE));
    OK(engine.cu.fill(cache, 0, CACHE));
    ck_assert_uint_eq(engine_info().n_ranges, 0);
    launch(cache, 0, CACHE_WORDS, 0, 1);
    engine_suspend(); /* nothing is there to be moved */
    engine_resume();
    engine_expect(cache, 0, CACHE_WORDS, 1);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

int main(void)
{
    const char *text = getenv("TEST_ENVIRONMENT");
    const TTest *const usual[] = {
        only_what_is_touched_has_memory_until_a_kernel_is_launched,
        a_suspend_moves_only_what_has_memory,
        copies_between_caches_bring_both,
        cold_frames_leave_and_stay_away_until_they_are_needed,
        free_frames_cost_nothing_until_they_are_needed,
        bad_advice_is_refused,
        copies_of_rows_and_layers_touch_from_their_first_to_their_last_byte,
        NULL,
    };
    const struct {
        const char *environment;
        const TTest *tests[2];
    } others[] = {
        {"budget", {a_budget_holds, NULL}},
        {"cleared", {what_is_cleared_at_once_is_the_cache_and_nothing_else, NULL}},
        {"torch", {what_torch_allocates_is_the_cache, NULL}},
        {"no vmm", {without_virtual_memory_management_the_engine_goes_on_without_kvmm, NULL}},
    };
    for (size_t i = 0; text && i < sizeof others / sizeof *others; i++) {
        if (strcmp(others[i].environment, text) == 0)
            return engine_run("shim cuda frames", others[i].tests, 60);
    }
    return engine_run("shim cuda frames", usual, 60);
}
