/* SPDX-License-Identifier: Apache-2.0
 *
 * Random operations on caches, beside a model of plain bytes: copies, fills, kernels, advice, suspends, little memory, and
 * driver calls that fail. What is read is what the model has. KVMM_TEST_SEED is the seed; each run prints its own. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shim/include/kvmm/shim.h"
#include "tests/shim/cuda_engine.h"
#include "tests/support/scale.h"

#define N_CACHES 3
#define MOST     (20 * FRAME)
#define LEAST    ((size_t)1 << 20)

/* What a cache must hold. */
struct model {
    CUdeviceptr at; /* 0: none */
    size_t bytes;
    unsigned char *value, *known; /* known 0: undefined bytes, after FREE and in new memory */
    bool promised[MOST / FRAME + 1];
};

static struct model models[N_CACHES];
static uint64_t random_state;
static CUfunction xor_kernel;
static CUstream stream;
static unsigned char *pinned;
static uint64_t n_done, n_refused;

static uint64_t draw(uint64_t below)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return below ? (z ^ (z >> 31)) % below : 0;
}

struct xor_params {
    CUdeviceptr at;
    uint64_t bytes, key;
};

static void run_xor(const void *params, const struct simcuda_launch *launch)
{
    const struct xor_params *p = params;
    unsigned char *at = engine.sim.host_address(p->at);
    for (uint64_t i = 0; i < p->bytes; i++)
        at[i] ^= (unsigned char)p->key;
}

/* ---- one operation each; false: refused, and nothing has changed ---- */

static struct model *any(void)
{
    for (;;) {
        struct model *m = &models[draw(N_CACHES)];
        if (m->at)
            return m;
    }
}

/* A span that is often whole frames, or all of it. */
static void any_span(const struct model *m, size_t *start, size_t *bytes)
{
    switch (draw(4)) {
    case 0:
        *start = 0;
        *bytes = m->bytes;
        break;
    case 1:
        *start = draw(m->bytes / FRAME) * FRAME;
        *bytes = (1 + draw(m->bytes / FRAME - *start / FRAME)) * FRAME;
        break;
    default:
        *start = draw(m->bytes);
        *bytes = 1 + draw(m->bytes - *start);
    }
}

/* Copies and what is not zero end the promise of the frames that they touch; so does every fill where it covers a part. */
static void use(struct model *m, size_t start, size_t bytes)
{
    for (size_t f = start / FRAME; f <= (start + bytes - 1) / FRAME; f++)
        m->promised[f] = false;
}

static bool write_some(void)
{
    struct model *m = any();
    size_t start, bytes;
    any_span(m, &start, &bytes);
    for (size_t i = 0; i < bytes; i++)
        pinned[i] = (unsigned char)(draw(256));
    if (engine.cu.to_device_async(m->at + start, pinned, bytes, stream) || engine.cu.synchronize(stream))
        return false;
    memcpy(m->value + start, pinned, bytes);
    memset(m->known + start, 1, bytes);
    use(m, start, bytes);
    return true;
}

static void compare(const struct model *m, size_t start, const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (m->known[start + i] && bytes[i] != m->value[start + i])
            ck_abort_msg("byte %zu is %u, not %u, after %llu operations", start + i, bytes[i], m->value[start + i],
                         (unsigned long long)n_done);
    }
}

static bool read_some(void)
{
    struct model *m = any();
    size_t start, bytes;
    any_span(m, &start, &bytes);
    if (engine.cu.to_host(pinned, m->at + start, bytes))
        return false;
    compare(m, start, pinned, bytes);
    use(m, start, bytes);
    return true;
}

static bool fill_some(void)
{
    struct model *m = any();
    size_t start, bytes;
    unsigned char value = draw(3) ? 0 : (unsigned char)draw(256);
    any_span(m, &start, &bytes);
    CUresult rc = draw(2) ? engine.cu.fill_async(m->at + start, value, bytes, stream)
                          : engine.cu.fill(m->at + start, value, bytes);
    memset(m->value + start, value, bytes);
    memset(m->known + start, rc == CUDA_SUCCESS, bytes); /* refused, a part of it may have been filled */
    if (rc)
        return false;
    for (size_t f = start / FRAME; f <= (start + bytes - 1) / FRAME; f++) {
        bool whole = f * FRAME >= start && (start + bytes == m->bytes || (f + 1) * FRAME <= start + bytes);
        m->promised[f] &= value == 0 && whole; /* clearing what is away leaves it away */
    }
    return true;
}

static bool copy_some(void)
{
    struct model *to = any(), *from = any();
    size_t start, bytes;
    if (to == from)
        return true;
    any_span(to->bytes < from->bytes ? to : from, &start, &bytes);
    if (engine.cu.on_device_async(to->at + start, from->at + start, bytes, stream))
        return false;
    memcpy(to->value + start, from->value + start, bytes);
    memcpy(to->known + start, from->known + start, bytes);
    use(to, start, bytes);
    use(from, start, bytes);
    return true;
}

/* On frames that nothing was promised of. */
static bool launch_some(void)
{
    struct model *m = any();
    size_t start, bytes, end;
    any_span(m, &start, &bytes);
    for (end = start; end < start + bytes && !m->promised[end / FRAME];)
        end = (end / FRAME + 1) * FRAME;
    end = end < start + bytes ? end : start + bytes;
    struct xor_params p = {m->at + start, end - start, draw(256)};
    void *params[] = {&p};
    if (end <= start)
        p = (struct xor_params){m->at, 0, 0};
    if (engine.cu.launch(xor_kernel, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL))
        return false;
    for (size_t i = 0; i < p.bytes; i++)
        m->value[start + i] ^= (unsigned char)p.key;
    return true;
}

static bool advise_some(void)
{
    char reason[256] = "";
    struct model *m = any();
    size_t start, bytes;
    int advice = (int)draw(3);
    any_span(m, &start, &bytes);
    if (engine.shim.advise((void *)(uintptr_t)(m->at + start), bytes, advice, reason, sizeof reason)) {
        ck_assert(*reason);
        return false;
    }
    for (size_t f = start / FRAME; f <= (start + bytes - 1) / FRAME; f++) {
        bool whole = f * FRAME >= start && (start + bytes == m->bytes || (f + 1) * FRAME <= start + bytes);
        if (advice == KVMM_WILLNEED)
            m->promised[f] = false;
        else if (whole)
            m->promised[f] = true;
        if (advice == KVMM_FREE && whole)
            memset(m->known + f * FRAME, 0, (f + 1) * FRAME < m->bytes ? FRAME : m->bytes - f * FRAME);
    }
    return true;
}

static bool suspend_and_resume(void)
{
    char reason[256] = "";
    uint64_t frames = engine_usage().handles;
    if (engine.shim.suspend(20000, reason, sizeof reason))
        return false;
    ck_assert_uint_eq(engine_usage().handles, 0);
    for (int tries = 0; tries < 8; tries++) {
        if (engine.shim.resume(reason, sizeof reason) == 0) {
            ck_assert_uint_eq(engine_usage().handles, frames);
            return true;
        }
        engine.sim.set_memory((uint64_t)1 << 30);
    }
    ck_abort_msg("resume: %s", reason);
}

static bool change_memory(void)
{
    engine.sim.set_memory(draw(2) ? (uint64_t)1 << 30 : (20 + draw(40)) * FRAME);
    return true;
}

static bool make_one(struct model *m)
{
    size_t bytes = LEAST + draw(MOST - LEAST);
    CUdeviceptr at = 0;
    uint64_t n_ranges = engine_info().n_ranges;
    if (engine_alloc(&at, bytes))
        return false;
    if (engine_info().n_ranges == n_ranges) { /* a failure of the driver's, which was said: no cache */
        OK(engine.cu.free(at));
        return false;
    }
    m->at = at;
    m->bytes = bytes;
    memset(m->known, 0, bytes);
    memset(m->promised, 0, sizeof m->promised);
    return true;
}

static bool replace(void)
{
    struct model *m = any();
    if (engine.cu.free(m->at))
        return false;
    m->at = 0;
    for (int tries = 0; !make_one(m); tries++) {
        ck_assert_int_lt(tries, 8);
        engine.sim.fail_clear();
        engine.sim.set_memory((uint64_t)1 << 30);
    }
    return true;
}

/* One call of some function will fail some time. */
static bool fail_some(void)
{
    size_t n = 0;
    while (engine.sim.function_name(n))
        n++;
    engine.sim.fail_clear();
    const char *name = engine.sim.function_name(draw(n));
    uint64_t nth = 1 + draw(20);
    if (strcmp(name, "cuStreamSynchronize") != 0) /* the test's own */
        OK(engine.sim.fail_range(name, nth, nth, draw(2) ? CUDA_ERROR_UNKNOWN : CUDA_ERROR_OUT_OF_MEMORY));
    return true;
}

static void do_something(void)
{
    static bool (*const operations[])(void) = {
        write_some,  write_some,  read_some,   read_some,   read_some,          fill_some, fill_some,
        copy_some,   launch_some, launch_some, launch_some, suspend_and_resume, replace,   change_memory,
        advise_some, advise_some, advise_some, advise_some, fail_some,
    };
    n_done++;
    n_refused += !operations[draw(sizeof operations / sizeof *operations)]();
}

START_TEST(what_is_read_is_what_was_written)
{
    const char *text = getenv("KVMM_TEST_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    random_state = text ? strtoull(text, NULL, 10) : (uint64_t)now.tv_nsec + (uint64_t)now.tv_sec * 1000000000u;
    printf("KVMM_TEST_SEED=%llu\n", (unsigned long long)random_state);
    fflush(stdout);
    engine_start(ENGINE_GET_12);
    OK(engine.sim.add_kernel("xor", sizeof(struct xor_params), run_xor));
    OK(engine.cu.get_function(&xor_kernel, engine.module, "xor"));
    OK(engine.cu.stream_create(&stream, 0));
    OK(engine.cu.host_alloc((void **)&pinned, MOST, 0));
    for (int i = 0; i < N_CACHES; i++) {
        models[i].value = calloc(1, MOST);
        models[i].known = calloc(1, MOST);
        ck_assert(make_one(&models[i]));
    }
    long rounds = scaled(2000);
    for (long i = 0; i < rounds; i++)
        do_something();
    engine.sim.fail_clear();
    engine.sim.set_memory((uint64_t)1 << 30);
    OK(engine.cu.synchronize(stream));
    for (int i = 0; i < N_CACHES; i++) {
        OK(engine.cu.to_host(pinned, models[i].at, models[i].bytes));
        compare(&models[i], 0, pinned, models[i].bytes);
        OK(engine.cu.free(models[i].at));
        free(models[i].value);
        free(models[i].known);
    }
    printf("%llu operations, %llu refused\n", (unsigned long long)n_done, (unsigned long long)n_refused);
    ck_assert_uint_lt(n_refused, n_done / 2);
    OK(engine.cu.host_free(pinned));
    OK(engine.cu.stream_destroy(stream));
    engine_end();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {what_is_read_is_what_was_written, NULL};
    return engine_run("shim cuda random", tests, 240);
}
