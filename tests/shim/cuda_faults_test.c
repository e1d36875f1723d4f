/* SPDX-License-Identifier: Apache-2.0
 *
 * Every call of the driver fails once, in turn, while an engine lives its life under the shim: the engine sees an error and
 * does it again, or nothing at all; no byte is wrong; and nothing is left behind. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim/include/kvmm/shim.h"
#include "tests/shim/cuda_engine.h"
#include "tests/support/scale.h"

#define TRIES 4

static const char *failing; /* for messages */
static uint64_t failing_nth, n_errors;

/* Makes the call until it succeeds; a call that the driver failed once may fail once. */
#define INSIST(call)                                                                                                   \
    do {                                                                                                               \
        int rc_ = -1;                                                                                                  \
        for (int tries_ = 0; rc_ && tries_ < TRIES; tries_++) {                                                        \
            rc_ = (int)(call);                                                                                         \
            n_errors += rc_ != 0;                                                                                      \
        }                                                                                                              \
        if (rc_)                                                                                                       \
            ck_abort_msg("%s: %d again and again, when call %llu of %s failed", #call, rc_,                            \
                         (unsigned long long)failing_nth, failing);                                                    \
    } while (0)

static void launch(CUdeviceptr cache, uint64_t before, CUstream stream)
{
    struct engine_step step = {cache, 0, CACHE_WORDS, before, before + 1};
    INSIST(engine_launch(&step, stream));
}

static void expect(CUdeviceptr cache, uint64_t first, uint64_t n, uint64_t round)
{
    static uint64_t words[CACHE_WORDS];
    INSIST(engine.cu.to_host(words, cache + first * sizeof *words, n * sizeof *words));
    for (uint64_t i = 0; i < n; i++) {
        if (words[i] != engine_word(first + i, round))
            ck_abort_msg("word %llu is wrong after call %llu of %s failed", (unsigned long long)(first + i),
                         (unsigned long long)failing_nth, failing);
    }
}

static int suspend(void)
{
    char reason[256] = "";
    int rc = engine.shim.suspend(20000, reason, sizeof reason);
    ck_assert_int_eq(engine_info().suspended, rc == 0);
    ck_assert(rc == 0 || *reason);
    return rc;
}

static int resume(void)
{
    char reason[256] = "";
    return engine.shim.resume(reason, sizeof reason);
}

static int advise(CUdeviceptr at, size_t bytes, int advice)
{
    char reason[256] = "";
    int rc = engine.shim.advise((void *)(uintptr_t)at, bytes, advice, reason, sizeof reason);
    return rc == -ENOENT ? 0 : rc; /* the allocation stayed with the driver: said, and no cache */
}

/* A graph of one launch; what was begun is ended whatever fails. */
static void run_graph(CUdeviceptr cache, uint64_t before, CUstream stream)
{
    struct engine_step step = {cache, 0, CACHE_WORDS, before, before + 1};
    CUgraph graph = NULL;
    CUgraphExec exec;
    CUresult rc = CUDA_ERROR_UNKNOWN;
    for (int tries = 0; rc != CUDA_SUCCESS && tries < TRIES; tries++) {
        INSIST(engine.cu.begin_capture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
        rc = engine_launch(&step, stream);
        INSIST(engine.cu.end_capture(stream, &graph));
        if (rc != CUDA_SUCCESS)
            INSIST(engine.cu.graph_destroy(graph));
    }
    OK(rc);
    INSIST(engine.cu.instantiate(&exec, graph, 0));
    INSIST(suspend());
    INSIST(resume());
    INSIST(engine.cu.graph_launch(exec, stream));
    INSIST(engine.cu.synchronize(stream));
    INSIST(engine.cu.exec_destroy(exec));
    INSIST(engine.cu.graph_destroy(graph));
}

static void live(void)
{
    static uint64_t again[CACHE_WORDS];
    CUdeviceptr cache = 0;
    CUstream stream;
    size_t half = CACHE / 2 / FRAME * FRAME, free_bytes, total;
    INSIST(engine.cu.stream_create(&stream, 1));
    INSIST(engine_alloc(&cache, CACHE));
    INSIST(engine.cu.fill_async(cache, 0, CACHE, stream));
    launch(cache, 0, stream);
    INSIST(engine.cu.mem_info(&free_bytes, &total));
    INSIST(suspend());
    INSIST(resume());
    launch(cache, 1, stream);
    INSIST(engine.cu.synchronize(stream));
    expect(cache, 0, CACHE_WORDS, 2);
    INSIST(advise(cache, half, KVMM_COLD));
    INSIST(suspend());
    INSIST(resume());
    expect(cache, 0, 1000, 2); /* brings a part of it */
    INSIST(advise(cache, half, KVMM_WILLNEED));
    INSIST(advise(cache, CACHE, KVMM_FREE));
    INSIST(engine.cu.fill_async(cache, 0, half, stream));
    INSIST(engine.cu.synchronize(stream));
    for (uint64_t i = 0; i < CACHE_WORDS; i++)
        again[i] = engine_word(i, 3);
    INSIST(engine.cu.to_device(cache, again, CACHE));
    run_graph(cache, 3, stream);
    expect(cache, 0, CACHE_WORDS, 4);
    INSIST(engine.cu.free(cache));
    INSIST(engine.cu.stream_destroy(stream));
}

static void expect_nothing_left(const struct simcuda_usage *before)
{
    char text[256];
    struct simcuda_usage now = engine_usage();
    engine_check();
    if (engine.sim.violations(text, sizeof text))
        ck_abort_msg("%s, when call %llu of %s failed", text, (unsigned long long)failing_nth, failing);
    if (memcmp(&now, before, sizeof now) != 0 || engine_info().n_ranges || engine_info().range_bytes)
        ck_abort_msg(
            "left when call %llu of %s failed: %llu bytes, %llu handles, %llu mappings, %llu reservations, %llu "
            "streams, %llu events, %llu registrations, %llu allocations, %llu pinned",
            (unsigned long long)failing_nth, failing, (unsigned long long)now.device_bytes,
            (unsigned long long)now.handles, (unsigned long long)now.mappings, (unsigned long long)now.reservations,
            (unsigned long long)now.streams, (unsigned long long)now.events, (unsigned long long)now.registrations,
            (unsigned long long)now.allocations, (unsigned long long)now.host_allocs);
}

static void fail_one(const char *name, uint64_t nth, CUresult error)
{
    struct simcuda_usage before = engine_usage();
    failing = name;
    failing_nth = nth;
    OK(engine.sim.fail_range(name, nth, nth, error));
    live();
    engine.sim.fail_clear();
    expect_nothing_left(&before);
}

/* All of the first, then fewer: what is called hundreds of times is called in the same places. */
static uint64_t next_call(uint64_t nth)
{
    return nth < 10 ? nth + 1 : nth + nth / 3 + 1;
}

START_TEST(each_call_of_the_driver_fails_once)
{
    uint64_t n_calls[256], n_cases = 0;
    struct simcuda_usage before;
    engine_start(ENGINE_GET_12);
    engine.sim.set_delays(0, 0);
    size_t n = 0;
    for (const char *name; n < 256 && (name = engine.sim.function_name(n)); n++)
        n_calls[n] = engine.sim.calls(name);
    failing = "nothing";
    before = engine_usage();
    live();
    expect_nothing_left(&before);
    ck_assert_uint_eq(n_errors, 0);
    ck_assert_uint_eq(engine_info().peak_bytes, N_FRAMES * FRAME); /* it was kvmm's */
    for (size_t i = 0; i < n; i++) {
        const char *name = engine.sim.function_name(i);
        n_calls[i] = engine.sim.calls(name) - n_calls[i];
    }
    for (size_t i = 0; i < n; i++) {
        const char *name = engine.sim.function_name(i);
        uint64_t step = (uint64_t)scaled(1000) / 1000 ? 1 : 8;
        for (uint64_t nth = 1; nth <= n_calls[i]; nth = next_call(nth) * step) {
            fail_one(name, nth, nth % 2 ? CUDA_ERROR_UNKNOWN : CUDA_ERROR_OUT_OF_MEMORY);
            n_cases++;
        }
    }
    printf("%llu calls failed, %llu errors seen\n", (unsigned long long)n_cases, (unsigned long long)n_errors);
    ck_assert_uint_gt(n_cases, 50);
    ck_assert_uint_gt(n_errors, 0);
    engine_end();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {each_call_of_the_driver_fails_once, NULL};
    return engine_run("shim cuda faults", tests, 240);
}
