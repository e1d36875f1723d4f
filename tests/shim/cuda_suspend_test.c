/* SPDX-License-Identifier: Apache-2.0
 *
 * Suspend and resume from outside, while an engine works and when they can't be had. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim/include/kvmm/shim.h"
#include "swap/backend.h"
#include "tests/shim/cuda_engine.h"
#include "tests/support/scale.h"

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void launch_all(CUdeviceptr cache, uint64_t before, uint64_t after)
{
    struct engine_step step = {cache, 0, CACHE_WORDS, before, after};
    OK(engine_launch(&step, NULL));
    OK(engine.cu.synchronize(NULL));
}

/* ---- while it works ---- */

#define N_WORKERS 3
#define PART      (CACHE_WORDS / N_WORKERS) /* words of the cache that one worker has for itself */

struct worker {
    pthread_t thread;
    CUcontext context;
    CUdeviceptr cache;
    unsigned number;
    uint64_t seed, round, n_steps, n_wrong;
};

static atomic_bool done;

/* A worker's part has words of one round; each step makes them of the next, by a kernel, a copy from the host, a copy to the
 * host and back, or a clear. */
static void work_once(struct worker *w, uint64_t *pinned, CUstream stream)
{
    CUdeviceptr at = w->cache + w->number * PART * sizeof(uint64_t);
    uint64_t first = w->number * PART, next = w->round + 1;
    struct engine_step step = {at, first, PART, w->round, next};
    switch (next_random(&w->seed) % 6) {
    case 0:
        for (uint64_t i = 0; i < PART; i++)
            pinned[i] = engine_word(first + i, next);
        OK(engine.cu.to_device_async(at, pinned, PART * sizeof *pinned, stream));
        OK(engine.cu.synchronize(stream)); /* pinned is the engine's again */
        break;
    case 1:
        OK(engine.cu.to_host_async(pinned, at, PART * sizeof *pinned, stream));
        OK(engine.cu.synchronize(stream));
        for (uint64_t i = 0; i < PART; i++)
            w->n_wrong += pinned[i] != engine_word(first + i, w->round);
        next = w->round;
        break;
    case 2:
        OK(engine.cu.fill_async(at, 0, PART * sizeof *pinned, stream));
        next = 0;
        break;
    default:
        OK(engine_launch(&step, stream));
    }
    w->round = next;
    w->n_steps++;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    CUstream stream;
    void *pinned;
    OK(engine.cu.set_current(w->context));
    OK(engine.cu.stream_create(&stream, 1));
    OK(engine.cu.host_alloc(&pinned, PART * sizeof(uint64_t), 0));
    while (!done)
        work_once(w, pinned, stream);
    OK(engine.cu.synchronize(stream));
    OK(engine.cu.host_free(pinned));
    OK(engine.cu.stream_destroy(stream));
    return NULL;
}

START_TEST(an_engine_that_is_suspended_all_the_time_never_sees_a_wrong_byte)
{
    struct worker workers[N_WORKERS];
    CUcontext context;
    uint64_t seed = 20240607, n_steps = 0, n_moved = 0;
    long rounds = scaled(1000);
    engine_start(ENGINE_GET_12);
    engine.sim.set_delays(seed, 100);
    OK(engine.cu.retain(&context, 0));
    CUdeviceptr cache = engine_cache();
    OK(engine.cu.fill_async(cache, 0, CACHE, NULL));
    for (unsigned i = 0; i < N_WORKERS; i++) {
        workers[i] = (struct worker){.context = context, .cache = cache, .number = i, .seed = seed + i};
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (long i = 0; i < rounds; i++) {
        usleep((useconds_t)(next_random(&seed) % 400));
        engine_suspend();
        struct shim_cuda_info info = engine_info();
        ck_assert_uint_eq(info.resident_bytes, 0);
        ck_assert_uint_eq(engine_usage().handles, 0);
        n_moved += info.host_bytes + info.swapped_bytes;
        if (next_random(&seed) % 4 == 0)
            usleep((useconds_t)(next_random(&seed) % 300));
        engine_resume();
    }
    done = true;
    for (unsigned i = 0; i < N_WORKERS; i++) {
        ck_assert_int_eq(pthread_join(workers[i].thread, NULL), 0);
        engine_expect(cache + i * PART * 8, i * PART, PART, workers[i].round);
        ck_assert_uint_eq(workers[i].n_wrong, 0);
        n_steps += workers[i].n_steps;
    }
    printf("%ld suspends, %llu steps, %llu MiB moved out\n", rounds, (unsigned long long)n_steps,
           (unsigned long long)n_moved >> 20);
    ck_assert_uint_ge(n_steps, (uint64_t)rounds); /* it did work in between */
    ck_assert_uint_eq(engine_info().n_resumes, (uint64_t)rounds);
    OK(engine.cu.free(cache));
    OK(engine.cu.release(0));
    engine_end();
}
END_TEST

/* ---- what waits and what doesn't ---- */

struct call {
    pthread_t thread;
    CUdeviceptr cache;
    CUcontext context;
    atomic_int state; /* 1: called, 2: returned */
    CUresult rc;
};

static void *call_launch(void *arg)
{
    struct call *call = arg;
    struct engine_step step = {call->cache, 0, CACHE_WORDS, 1, 2};
    OK(engine.cu.set_current(call->context));
    call->state = 1;
    call->rc = engine_launch(&step, NULL);
    call->state = 2;
    return NULL;
}

START_TEST(a_launch_waits_for_the_resume_and_other_work_does_not)
{
    struct call call = {0};
    unsigned char bytes[4096];
    CUdeviceptr own;
    engine_start(ENGINE_DLSYM);
    OK(engine.cu.retain(&call.context, 0));
    call.cache = engine_cache();
    OK(engine.cu.alloc(&own, sizeof bytes));
    OK(engine.cu.fill(call.cache, 0, CACHE));
    launch_all(call.cache, 0, 1);
    engine_suspend();
    engine_suspend(); /* it is the state already */
    ck_assert_int_eq(pthread_create(&call.thread, NULL, call_launch, &call), 0);
    OK(engine.cu.fill(own, 9, sizeof bytes));
    OK(engine.cu.to_host(bytes, own, sizeof bytes));
    ck_assert_uint_eq(bytes[17], 9);
    while (call.state == 0)
        usleep(100);
    usleep(30000);
    ck_assert_int_eq(call.state, 1);
    engine_resume();
    engine_resume();
    pthread_join(call.thread, NULL);
    OK(call.rc);
    OK(engine.cu.synchronize(NULL));
    engine_expect(call.cache, 0, CACHE_WORDS, 2);
    OK(engine.cu.free(call.cache));
    OK(engine.cu.free(own));
    OK(engine.cu.release(0));
    engine_end();
}
END_TEST

/* meson.build: KVMM_SUSPENDED=fail. */
START_TEST(with_fail_a_call_on_a_suspended_cache_fails_and_may_be_made_again)
{
    engine_start(ENGINE_DLSYM);
    CUdeviceptr cache = engine_cache();
    struct engine_step step = {cache, 0, CACHE_WORDS, 0, 1};
    uint64_t word = 1;
    CUdeviceptr other;
    OK(engine.cu.fill(cache, 0, CACHE));
    OK(engine_launch(&step, NULL));
    engine_suspend();
    FAILS(engine_launch(&step, NULL), CUDA_ERROR_DEVICE_UNAVAILABLE);
    FAILS(engine.cu.to_host(&word, cache, sizeof word), CUDA_ERROR_DEVICE_UNAVAILABLE);
    FAILS(engine.cu.fill_async(cache, 0, CACHE, NULL), CUDA_ERROR_DEVICE_UNAVAILABLE);
    FAILS(engine.cu.fill_async(cache, 1, CACHE, NULL), CUDA_ERROR_DEVICE_UNAVAILABLE);
    FAILS(engine_alloc(&other, CACHE), CUDA_ERROR_DEVICE_UNAVAILABLE);
    FAILS(engine.cu.begin_capture(CU_STREAM_PER_THREAD, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_ERROR_DEVICE_UNAVAILABLE);
    engine_resume();
    OK(engine.cu.to_host(&word, cache, sizeof word));
    ck_assert_uint_eq(word, engine_word(0, 1));
    engine_expect(cache, 0, CACHE_WORDS, 1);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

START_TEST(a_suspended_cache_can_be_freed)
{
    engine_start(ENGINE_DLSYM);
    CUdeviceptr cache = engine_cache(), other = engine_cache();
    launch_all(cache, 0, 1);
    launch_all(other, 0, 1);
    engine_suspend();
    OK(engine.cu.free(cache));
    FAILS(engine.cu.free(cache), CUDA_ERROR_INVALID_VALUE);
    FAILS(engine.cu.free(other + FRAME), CUDA_ERROR_INVALID_VALUE);
    engine_resume();
    engine_expect(other, 0, CACHE_WORDS, 1);
    engine_suspend();
    OK(engine.cu.free(other));
    engine_resume(); /* nothing is left, and nobody waits for ever */
    cache = engine_cache();
    launch_all(cache, 0, 3);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

START_TEST(what_was_not_freed_goes_with_its_context)
{
    CUcontext context;
    engine_start(ENGINE_DLSYM);
    launch_all(engine_cache(), 0, 1);
    engine_suspend();
    engine_resume();
    OK(engine.cu.module_unload(engine.module));
    OK(engine.cu.release(0));
    ck_assert_uint_eq(engine_usage().reservations, 0);
    ck_assert_uint_eq(engine_usage().handles + engine_usage().registrations, 0);
    OK(engine.cu.retain(&context, 0));
    OK(engine.cu.set_current(context));
    OK(engine.cu.module_load(&engine.module, ".version 8.0"));
    engine_end();
}
END_TEST

/* CUDA does not live on in a child; but what the child calls at its end must not wait for the parent's resume. */
START_TEST(a_forked_child_waits_for_nobody)
{
    int status = -1;
    engine_start(ENGINE_DLSYM);
    CUdeviceptr cache = engine_cache(), other;
    struct engine_step step = {cache, 0, CACHE_WORDS, 0, 1};
    launch_all(cache, 0, 1);
    engine_suspend();
    pid_t child = fork();
    if (child == 0) {
        bool good = engine_launch(&step, NULL) == CUDA_ERROR_NOT_INITIALIZED &&
                    engine.cu.free(cache) == CUDA_ERROR_NOT_INITIALIZED &&
                    engine.cu.release(0) == CUDA_ERROR_NOT_INITIALIZED &&
                    engine_alloc(&other, CACHE) == CUDA_ERROR_NOT_INITIALIZED && !engine_info().suspended;
        _exit(good ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    engine_resume();
    engine_expect(cache, 0, CACHE_WORDS, 1);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

/* ---- work that does not end, captures ---- */

START_TEST(a_suspend_that_waits_too_long_changes_nothing)
{
    char reason[256] = "";
    engine_start(ENGINE_DLSYM);
    CUdeviceptr cache = engine_cache();
    CUstream stream;
    OK(engine.cu.stream_create(&stream, 1));
    launch_all(cache, 0, 1);
    engine.sim.hold(stream);
    struct engine_step step = {cache, 0, CACHE_WORDS, 1, 2};
    OK(engine_launch(&step, stream));
    ck_assert_int_eq(engine.shim.suspend(50, reason, sizeof reason), -ETIMEDOUT);
    ck_assert_msg(strstr(reason, "did not end in time") != NULL, "%s", reason);
    ck_assert(!engine_info().suspended);
    ck_assert_uint_eq(engine_info().resident_bytes, N_FRAMES * FRAME);
    step.before = 2;
    step.after = 3;
    OK(engine_launch(&step, stream)); /* the gate is open again */
    ck_assert_int_eq(engine.shim.suspend(50, reason, sizeof reason), -ETIMEDOUT);
    engine.sim.release(stream);
    engine_suspend();
    engine_resume();
    OK(engine.cu.synchronize(stream));
    engine_expect(cache, 0, CACHE_WORDS, 3);
    OK(engine.cu.stream_destroy(stream));
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

static void *read_a_word(void *arg)
{
    struct call *call = arg;
    uint64_t word = 0;
    OK(engine.cu.set_current(call->context));
    call->rc = engine.cu.to_host(&word, call->cache, sizeof word);
    call->state = word == engine_word(0, 1) ? 2 : 1;
    return NULL;
}

/* The driver may have looked at the memory and not yet queued what uses it. */
START_TEST(a_suspend_waits_for_calls_that_are_in_the_driver)
{
    char reason[256] = "";
    struct call call = {0};
    engine_start(ENGINE_DLSYM);
    OK(engine.cu.retain(&call.context, 0));
    call.cache = engine_cache();
    launch_all(call.cache, 0, 1);
    engine.sim.hold(NULL);
    uint64_t n_calls = engine.sim.calls("cuMemcpyDtoH");
    ck_assert_int_eq(pthread_create(&call.thread, NULL, read_a_word, &call), 0);
    while (engine.sim.calls("cuMemcpyDtoH") == n_calls)
        usleep(100);
    ck_assert_int_eq(engine.shim.suspend(50, reason, sizeof reason), -ETIMEDOUT);
    ck_assert_msg(strstr(reason, "calls") != NULL, "%s", reason);
    engine.sim.release(NULL);
    engine_suspend();
    pthread_join(call.thread, NULL);
    OK(call.rc);
    ck_assert_int_eq(call.state, 2);
    engine_resume();
    OK(engine.cu.free(call.cache));
    OK(engine.cu.release(0));
    engine_end();
}
END_TEST

START_TEST(a_suspend_waits_for_the_end_of_a_capture_and_graphs_run_after_a_resume)
{
    char reason[256] = "";
    CUgraph graph;
    CUgraphExec exec;
    CUstream stream;
    engine_start(ENGINE_GET_THREAD);
    CUdeviceptr cache = engine_cache(), second = engine_cache();
    OK(engine.cu.stream_create(&stream, 1));
    struct engine_step step = {cache, 0, CACHE_WORDS, 0, 1};
    void *memory = (void *)(uintptr_t)second; /* NOLINT(performance-no-int-to-ptr) */
    OK(engine.cu.fill(second, 1, CACHE));
    ck_assert_int_eq(engine.shim.advise(memory, CACHE, KVMM_COLD, reason, sizeof reason), 0);
    OK(engine.cu.begin_capture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    ck_assert_int_eq(engine.shim.advise(memory, CACHE / 2, KVMM_WILLNEED, reason, sizeof reason),
                     0);                               /* spoils nothing */
    OK(engine.cu.fill_async(cache, 0, CACHE, stream)); /* is not left out: it runs at each launch */
    OK(engine_launch(&step, stream));
    OK(engine.cu.on_device_async(second, cache, CACHE, stream));
    ck_assert_int_eq(engine.shim.suspend(50, reason, sizeof reason), -ETIMEDOUT);
    ck_assert_msg(strstr(reason, "captures") != NULL, "%s", reason);
    ck_assert_int_eq(engine.shim.advise(memory, CACHE, KVMM_COLD, reason, sizeof reason), -EBUSY);
    FAILS(engine.cu.free(second), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    OK(engine.cu.end_capture(stream, &graph));
    OK(engine.cu.instantiate(&exec, graph, 0));
    for (int i = 0; i < 3; i++) {
        engine_suspend();
        engine_resume();
        OK(engine.cu.graph_launch(exec, stream));
        OK(engine.cu.graph_launch(exec, stream));
    }
    OK(engine.cu.synchronize(stream));
    engine_expect(cache, 0, CACHE_WORDS, 1);
    engine_expect(second, 0, CACHE_WORDS, 1);
    /* A capture that goes with its stream. */
    OK(engine.cu.begin_capture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(engine.cu.stream_destroy(stream));
    engine_suspend();
    engine_resume();
    OK(engine.cu.exec_destroy(exec));
    OK(engine.cu.graph_destroy(graph));
    OK(engine.cu.free(cache));
    OK(engine.cu.free(second));
    engine_end();
}
END_TEST

/* ---- want of room ---- */

START_TEST(two_engines_share_a_device_in_turn)
{
    char reason[256] = "";
    CUdeviceptr other = 0;
    engine_start(ENGINE_DLSYM);
    uint64_t used = engine_usage().device_bytes;
    engine.sim.set_memory(used + N_FRAMES * FRAME); /* room for one */
    CUdeviceptr cache = engine_cache();
    OK(engine.cu.fill(cache, 0, CACHE));
    FAILS(engine.cu.alloc(&other, (size_t)900 << 10),
          0); /* below the threshold: the driver's own, and there is room yet */
    struct engine_step step = {cache, 0, CACHE_WORDS, 0, 1};
    FAILS(engine_launch(&step, NULL), CUDA_ERROR_OUT_OF_MEMORY); /* the driver's answer for memory that isn't there */
    ck_assert_uint_eq(engine_info().resident_bytes, 0);
    OK(engine.cu.free(other));
    for (uint64_t round = 0; round < 10; round++) {
        launch_all(cache, round, round + 1);
        engine_suspend();
        OK(engine.cu.alloc(&other, (size_t)900 << 10)); /* the other engine takes the device */
        OK(engine.cu.fill(other, 3, (size_t)900 << 10));
        ck_assert_int_eq(engine.shim.resume(reason, sizeof reason), -ENOMEM);
        ck_assert_msg(strstr(reason, "cuMemCreate") != NULL, "%s", reason);
        ck_assert(engine_info().suspended);
        ck_assert_uint_eq(engine_usage().handles, 0); /* it holds no part of what it could not have whole */
        OK(engine.cu.free(other));
        engine_resume();
    }
    engine_expect(cache, 0, CACHE_WORDS, 10);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

START_TEST(more_than_the_device_has_is_refused_at_once)
{
    CUdeviceptr first, second = 0;
    engine_start(ENGINE_DLSYM);
    engine.sim.set_memory(engine_usage().device_bytes + N_FRAMES * FRAME + 3 * FRAME);
    first = engine_cache();
    FAILS(engine_alloc(&second, CACHE), CUDA_ERROR_OUT_OF_MEMORY); /* the first has none yet, but it is spoken for */
    ck_assert_uint_eq(second, 0);
    OK(engine.cu.free(first));
    OK(engine_alloc(&second, CACHE));
    OK(engine.cu.free(second));
    engine_end();
}
END_TEST

/* Without room for all of it outside, all of it stays. meson.build: KVMM_HOST_MEMORY, no swap file. */
START_TEST(a_cache_that_fits_nowhere_stays)
{
    char reason[256] = "";
    engine_start(ENGINE_DLSYM);
    CUdeviceptr cache = engine_cache();
    launch_all(cache, 0, 1);
    ck_assert_int_eq(engine.shim.suspend(1000, reason, sizeof reason), -ENOSPC);
    ck_assert_msg(strstr(reason, "18 frames") != NULL, "%s", reason);
    ck_assert(!engine_info().suspended);
    launch_all(cache, 1, 2);
    engine_expect(cache, 0, CACHE_WORDS, 2);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

/* ---- a bad disk ---- */

START_TEST(a_frame_that_cannot_be_read_back_is_an_error_and_never_wrong_bytes)
{
    char reason[256] = "";
    const struct swap_faults corrupt = {.seed = 5, .corrupt_ppm = 1000000};
    uint64_t word = 7;
    engine_start(ENGINE_DLSYM);
    CUdeviceptr cache = engine_cache();
    launch_all(cache, 0, 1);
    engine.shim.set_swap_faults(&corrupt);
    engine_suspend();
    ck_assert_uint_eq(engine_info().swapped_bytes, (N_FRAMES - 11) * FRAME);
    ck_assert_int_eq(engine.shim.resume(reason, sizeof reason), -EBADMSG);
    ck_assert_msg(strstr(reason, "7 frames") != NULL, "%s", reason);
    ck_assert_uint_eq(engine_info().lost_bytes, (N_FRAMES - 11) * FRAME);
    struct engine_step step = {cache, 0, CACHE_WORDS, 0, 2};
    FAILS(engine_launch(&step, NULL), CUDA_ERROR_ECC_UNCORRECTABLE);
    FAILS(engine.cu.to_host(&word, cache + (N_FRAMES - 1) * FRAME, sizeof word), CUDA_ERROR_ECC_UNCORRECTABLE);
    ck_assert_uint_eq(word, 7);
    engine_expect(cache, 0, FRAME / 8, 1); /* what came back is right */
    OK(engine.cu.fill(cache, 0, CACHE));   /* whose old bytes nobody needs: the range is whole again */
    ck_assert_uint_eq(engine_info().lost_bytes, 0);
    OK(engine_launch(&step, NULL));
    OK(engine.cu.synchronize(NULL));
    engine_expect(cache, 0, CACHE_WORDS, 2);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

START_TEST(a_disk_that_refuses_writes_leaves_the_engine_as_it_was)
{
    char reason[256] = "";
    const struct swap_faults full = {.fail_after = 3, .fail_errno = ENOSPC};
    const struct swap_faults some = {.seed = 3, .write_error_ppm = 200000};
    engine_start(ENGINE_DLSYM);
    CUdeviceptr cache = engine_cache();
    engine.shim.set_swap_faults(_i ? &some : &full);
    launch_all(cache, 0, 1);
    int rc = engine.shim.suspend(1000, reason, sizeof reason);
    if (_i == 0) {
        ck_assert_int_ne(rc, 0);
        ck_assert(!engine_info().suspended);
        ck_assert_uint_eq(engine_info().resident_bytes, N_FRAMES * FRAME);
    } else if (rc == 0) { /* written elsewhere */
        engine_resume();
    }
    launch_all(cache, 1, 2);
    engine_expect(cache, 0, CACHE_WORDS, 2);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

/* ---- from outside ---- */

/* Runs `kvmm COMMAND PID …` on this process; its exit status. */
static int kvmm(const char *command, const char *more)
{
    char line[512];
    snprintf(line, sizeof line, "LD_PRELOAD= %s %s %d %s", getenv("KVMM_TOOL"), command, (int)getpid(), more);
    int status = system(line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* `kvmm ls` names this process with a cache on a GPU. */
static int kvmm_lists_a_gpu(void)
{
    char line[512];
    snprintf(line, sizeof line, "LD_PRELOAD= %s ls | grep -w %d | grep -q cuda:0", getenv("KVMM_TOOL"), (int)getpid());
    int status = system(line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* meson.build: KVMM_TOOL. */
START_TEST(the_commands_reach_an_engine)
{
    char span[64];
    engine_start(ENGINE_GET_12);
    CUdeviceptr cache = engine_cache();
    launch_all(cache, 0, 1);
    ck_assert_int_eq(kvmm("suspend", "--wait 20000"), 0);
    ck_assert(engine_info().suspended);
    ck_assert_uint_eq(engine_usage().handles, 0);
    ck_assert_int_eq(kvmm("resume", ""), 0);
    ck_assert(!engine_info().suspended);
    snprintf(span, sizeof span, "%#llx %zu cold", cache, 2 * FRAME);
    ck_assert_int_eq(kvmm("advise", span), 0);
    ck_assert_uint_eq(engine_usage().handles, N_FRAMES - 2);
    engine_expect(cache, 0, CACHE_WORDS, 1);
    ck_assert_int_eq(kvmm_lists_a_gpu(), 0);
    OK(engine.cu.free(cache));
    engine_end();
}
END_TEST

/* Which tests an environment is for: TEST_ENVIRONMENT. */
int main(void)
{
    const char *text = getenv("TEST_ENVIRONMENT");
    Suite *suite = suite_create("shim cuda suspend");
    TCase *tcase = tcase_create("suspend");
    tcase_set_timeout(tcase, 120);
    if (text && strcmp(text, "fail") == 0) {
        tcase_add_test(tcase, with_fail_a_call_on_a_suspended_cache_fails_and_may_be_made_again);
    } else if (text && strcmp(text, "control") == 0) {
        tcase_add_test(tcase, the_commands_reach_an_engine);
    } else if (text && strcmp(text, "no swap") == 0) {
        tcase_add_test(tcase, a_cache_that_fits_nowhere_stays);
    } else {
        tcase_add_test(tcase, an_engine_that_is_suspended_all_the_time_never_sees_a_wrong_byte);
        tcase_add_test(tcase, a_launch_waits_for_the_resume_and_other_work_does_not);
        tcase_add_test(tcase, a_suspended_cache_can_be_freed);
        tcase_add_test(tcase, what_was_not_freed_goes_with_its_context);
        tcase_add_test(tcase, a_forked_child_waits_for_nobody);
        tcase_add_test(tcase, a_suspend_that_waits_too_long_changes_nothing);
        tcase_add_test(tcase, a_suspend_waits_for_calls_that_are_in_the_driver);
        tcase_add_test(tcase, a_suspend_waits_for_the_end_of_a_capture_and_graphs_run_after_a_resume);
        tcase_add_test(tcase, two_engines_share_a_device_in_turn);
        tcase_add_test(tcase, more_than_the_device_has_is_refused_at_once);
        tcase_add_test(tcase, a_frame_that_cannot_be_read_back_is_an_error_and_never_wrong_bytes);
        tcase_add_loop_test(tcase, a_disk_that_refuses_writes_leaves_the_engine_as_it_was, 0, 2);
    }
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
