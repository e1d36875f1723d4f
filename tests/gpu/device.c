/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/gpu/device.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/convert.h"
#include "tests/simcuda/simcuda.h"

enum { MAX_BUFFERS = 64, GUARD = 256, POISON = 0xff, SKIPPED = 77, LEAST_MAJOR = 8 };

#define OK(call) ck_assert_int_eq(call, CUDA_SUCCESS)

struct test_device gpu;
static struct buffer buffers[MAX_BUFFERS];
static size_t n_buffers;

/* ---- the device ---------------------------------------------------------------------------------------------- */

bool test_device_is_simulated(void)
{
    const char *name = getenv("KVMM_LIBCUDA");
    return name && strstr(name, "/simcuda/");
}

static int skipped(const char *why)
{
    (void)printf("skipped: %s\n", why);
    return SKIPPED;
}

int test_device_skip(void)
{
    const struct cuda_driver *cu;
    char reason[CUDA_DRIVER_REASON];
    int major = 0;

    if (!kern_cuda_built())
        return skipped("built without CUDA kernels, because there is no nvcc");
    if (test_device_is_simulated())
        return 0;
    if (cuda_driver_get(&cu, reason) != CUDA_DRIVER_OK)
        return skipped(reason);
    if (cu->DeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0) != CUDA_SUCCESS ||
        major < LEAST_MAJOR)
        return skipped("device 0 is older than the kernels' sm_80");
    return setenv("CK_FORK", "no", 1) == 0 ? 0 : EXIT_FAILURE;
}

void test_device_open(void)
{
    char reason[CUDA_DRIVER_REASON];
    CUdevice device;
    CUcontext context;

    ck_assert_msg(cuda_driver_get(&gpu.cu, reason) == CUDA_DRIVER_OK, "%s", reason);
    OK(gpu.cu->DeviceGet(&device, 0));
    OK(gpu.cu->DevicePrimaryCtxRetain(&context, device));
    OK(gpu.cu->CtxPushCurrent(context));
    OK(gpu.cu->StreamCreateWithPriority(&gpu.stream, CU_STREAM_NON_BLOCKING, 0));
    OK(kern_cuda_open(gpu.cu, device, &gpu.kernels));
}

void test_device_close(void)
{
    struct simcuda_control sim;
    struct simcuda_usage usage;
    char text[256];
    CUcontext context;

    buffers_free();
    kern_cuda_close(&gpu.kernels);
    ck_assert_ptr_null(gpu.kernels);
    OK(gpu.cu->StreamDestroy(gpu.stream));
    OK(gpu.cu->CtxPopCurrent(&context));
    OK(gpu.cu->DevicePrimaryCtxRelease(0));
    if (!test_device_is_simulated())
        return;
    ck_assert_msg(simcuda_find(&sim), "KVMM_LIBCUDA is not simcuda");
    ck_assert_msg(sim.violations(text, sizeof text) == 0, "violation: %s", text);
    sim.get_usage(&usage);
    ck_assert_uint_eq(usage.modules + usage.allocations + usage.host_allocs + usage.contexts, 0);
}

/* ---- buffers ------------------------------------------------------------------------------------------------- */

static unsigned char *pinned(size_t bytes)
{
    void *at;
    OK(gpu.cu->MemHostAlloc(&at, bytes, 0));
    return at;
}

struct buffer *buffer_new(size_t bytes, enum access access)
{
    ck_assert_uint_lt(n_buffers, MAX_BUFFERS);
    struct buffer *b = &buffers[n_buffers];
    const size_t guard = access == OUTPUT || bytes == 0 ? GUARD : 0;

    *b = (struct buffer){.bytes = bytes, .guard = guard, .access = access};
    OK(gpu.cu->MemAlloc(&b->at, bytes + guard));
    b->host = pinned(bytes + guard);
    b->got = pinned(bytes + guard);
    memset(b->host, POISON, bytes + guard);
    n_buffers++;
    return b;
}

struct buffer *buffer_copy_of(const void *from, size_t bytes)
{
    struct buffer *b = buffer_new(bytes, INPUT);
    if (bytes > 0)
        memcpy(b->host, from, bytes);
    return b;
}

void buffers_send(void)
{
    for (size_t i = 0; i < n_buffers; i++)
        OK(gpu.cu->MemcpyHtoDAsync(buffers[i].at, buffers[i].host, buffers[i].bytes + buffers[i].guard, gpu.stream));
}

void buffers_fetch(const char *what)
{
    for (size_t i = 0; i < n_buffers; i++)
        OK(gpu.cu->MemcpyDtoHAsync(buffers[i].got, buffers[i].at, buffers[i].bytes + buffers[i].guard, gpu.stream));
    const CUresult rc = gpu.cu->StreamSynchronize(gpu.stream);
    ck_assert_msg(rc == CUDA_SUCCESS, "%s: %s", what, cuda_error_name(gpu.cu, rc));
    for (size_t i = 0; i < n_buffers; i++) {
        const struct buffer *b = &buffers[i];
        const size_t from = b->access == OUTPUT ? b->bytes : 0;
        ck_assert_msg(memcmp(b->got + from, b->host + from, b->bytes + b->guard - from) == 0,
                      "%s: buffer %zu of %zu bytes: written %s", what, i, b->bytes,
                      from > 0 ? "behind its end" : "though it is an input");
    }
}

void buffers_free(void)
{
    while (n_buffers > 0) {
        const struct buffer *b = &buffers[--n_buffers];
        OK(gpu.cu->MemFree(b->at));
        OK(gpu.cu->MemFreeHost(b->host));
        OK(gpu.cu->MemFreeHost(b->got));
    }
}

/* ---- elements ------------------------------------------------------------------------------------------------ */

uint32_t type_bytes(uint32_t type)
{
    return type == KERN_F32 ? 4 : 2;
}

const char *type_name(uint32_t type)
{
    return type == KERN_F32 ? "f32" : type == KERN_F16 ? "f16" : "bf16";
}

void store_element(unsigned char *first, size_t i, uint32_t type, float x)
{
    const uint16_t half = type == KERN_F16 ? kern_f16_of_f32(x) : kern_bf16_of_f32(x);
    if (type == KERN_F32)
        memcpy(first + i * sizeof x, &x, sizeof x);
    else
        memcpy(first + i * sizeof half, &half, sizeof half);
}

float load_element(const unsigned char *first, size_t i, uint32_t type)
{
    float x;
    uint16_t half;
    if (type == KERN_F32) {
        memcpy(&x, first + i * sizeof x, sizeof x);
        return x;
    }
    memcpy(&half, first + i * sizeof half, sizeof half);
    return type == KERN_F16 ? kern_f32_of_f16(half) : kern_f32_of_bf16(half);
}

void fill_normal(struct buffer *b, size_t n, uint32_t type, struct rng *rng)
{
    for (size_t i = 0; i < n; i++)
        store_element(b->host, i, type, rng_normal(rng));
}

void expect_elements(const struct buffer *b, uint32_t type, const double *want, size_t n, const char *what)
{
    const double unit = type == KERN_F32 ? 4e-6 : type == KERN_F16 ? 6e-4 : 5e-3;
    for (size_t i = 0; i < n; i++) {
        const double got = (double)load_element(b->got, i, type);
        ck_assert_msg(fabs(got - want[i]) <= unit * (fabs(want[i]) + 1e-3), "%s: %s element %zu of %zu is %g, not %g",
                      what, type_name(type), i, n, got, want[i]);
    }
}

/* ---- numbers ------------------------------------------------------------------------------------------------- */

static uint64_t next(struct rng *rng)
{
    uint64_t z = (rng->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct rng rng_for(const char *name, int stream)
{
    const char *text = getenv("KVMM_TEST_SEED");
    const uint64_t seed = text ? strtoull(text, NULL, 10) : 1;
    struct rng rng = {seed * 1000003 + (uint64_t)stream};

    (void)printf("%s %d: KVMM_TEST_SEED=%llu\n", name, stream, (unsigned long long)seed);
    return rng;
}

uint32_t rng_below(struct rng *rng, uint32_t n)
{
    return (uint32_t)(((next(rng) >> 32) * n) >> 32);
}

uint32_t rng_between(struct rng *rng, uint32_t least, uint32_t most)
{
    return least + rng_below(rng, most - least + 1);
}

float rng_normal(struct rng *rng)
{
    const uint64_t bits = next(rng);
    int32_t sum = 0; /* of four 16-bit uniforms: deviation 65536 / √3 */
    for (unsigned i = 0; i < 4; i++)
        sum += (int32_t)(bits >> (16 * i) & 0xffff) - 32768;
    return (float)sum * (1.7320508f / 65536);
}

void *test_alloc(size_t n, size_t bytes)
{
    void *at = calloc(n > 0 ? n : 1, bytes);
    ck_assert_ptr_nonnull(at);
    return at;
}
