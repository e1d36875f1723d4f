/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_peaks.h"

#include <stdint.h>
#include <time.h>

/* Where results go, so that nothing is left out as unused. */
static volatile uint64_t integer_sink;
static volatile float float_sink;

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#define PIECE_BYTES ((size_t)256 << 10) /* a piece of work: small enough to share evenly, large enough to stream */

struct reading {
    const uint64_t *words;
};

static void read_piece(void *ctx, uint32_t i, uint32_t thread)
{
    const struct reading *reading = ctx;
    const size_t n = PIECE_BYTES / sizeof(uint64_t);
    const uint64_t *words = reading->words + i * n;
    uint64_t sums[32] = {0}; /* independent, so that loads are all that is waited for */
    for (size_t at = 0; at < n; at += 32)
        for (size_t lane = 0; lane < 32; lane++)
            sums[lane] += words[at + lane];
    uint64_t sum = 0;
    for (size_t lane = 0; lane < 32; lane++)
        sum += sums[lane];
    integer_sink = sum;
}

double peaks_read_bandwidth(struct kern_pool *pool, const void *memory, size_t bytes, int tries)
{
    struct reading reading = {memory};
    uint32_t n = (uint32_t)(bytes / PIECE_BYTES);
    double best = 0;
    for (int i = 0; i < tries; i++) {
        double start = now_s();
        kern_pool_run(pool, n, read_piece, &reading);
        double rate = (double)n * (double)PIECE_BYTES / (now_s() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

#define ROUNDS 2000000u /* about 10 ms */
#define CHAINS 12u      /* independent ones, more than latency × width of any FMA unit */

#ifdef __clang__
#define UNROLLED
#else
#define UNROLLED optimize("O3"),
#endif

/* One body for each vector width; the compiler keeps the chains in registers and contracts a * b + c. */
#define DEFINE_MULTIPLY_ADD(name, bytes, isa)                                                                          \
    typedef float name##_vector __attribute__((vector_size(bytes)));                                                   \
    __attribute__((UNROLLED target(isa))) static void name(void *ctx, uint32_t i, uint32_t thread)                     \
    {                                                                                                                  \
        name##_vector chains[CHAINS], scale = {0}, step = {0};                                                         \
        scale += 0.999f;                                                                                               \
        step += 0.001f * (float)(i + 1);                                                                               \
        for (uint32_t c = 0; c < CHAINS; c++)                                                                          \
            chains[c] = step * (float)c;                                                                               \
        for (uint32_t r = 0; r < ROUNDS; r++)                                                                          \
            for (uint32_t c = 0; c < CHAINS; c++)                                                                      \
                chains[c] = chains[c] * scale + step;                                                                  \
        name##_vector sum = {0};                                                                                       \
        for (uint32_t c = 0; c < CHAINS; c++)                                                                          \
            sum += chains[c];                                                                                          \
        float_sink = sum[0];                                                                                           \
    }

#ifdef __x86_64__
DEFINE_MULTIPLY_ADD(multiply_add_512, 64, "avx512f")
DEFINE_MULTIPLY_ADD(multiply_add_256, 32, "avx2,fma")
#endif

typedef float plain_vector __attribute__((vector_size(16)));
static void multiply_add_plain(void *ctx, uint32_t i, uint32_t thread)
{
    plain_vector chains[CHAINS] = {{0}}, step = {0};
    step += 0.001f * (float)(i + 1);
    for (uint32_t r = 0; r < ROUNDS; r++)
        for (uint32_t c = 0; c < CHAINS; c++)
            chains[c] = chains[c] * 0.999f + step;
    plain_vector sum = {0};
    for (uint32_t c = 0; c < CHAINS; c++)
        sum += chains[c];
    float_sink = sum[0];
}

double peaks_arithmetic(struct kern_pool *pool, int tries)
{
    void (*body)(void *ctx, uint32_t i, uint32_t thread) = multiply_add_plain;
    double lanes = 4;
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f")) {
        body = multiply_add_512;
        lanes = 16;
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        body = multiply_add_256;
        lanes = 8;
    }
#endif
    uint32_t n = kern_pool_size(pool);
    double best = 0;
    for (int i = 0; i < tries; i++) {
        double start = now_s();
        kern_pool_run(pool, n, body, NULL);
        double rate = 2.0 * lanes * CHAINS * ROUNDS * n / (now_s() - start);
        best = rate > best ? rate : best;
    }
    return best;
}
