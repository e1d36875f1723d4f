/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests of the kernels on whatever CUDA driver is there: simcuda, where KVMM_LIBCUDA names it, or a GPU's. The device's
 * primary context, a stream, and buffers that lie both on the device and in pinned memory. One thread. */
#ifndef TESTS_GPU_DEVICE_H
#define TESTS_GPU_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/attention.h"
#include "kernels/cuda.h"

/* Between test_device_open() and test_device_close(). */
struct test_device {
    const struct cuda_driver *cu;
    CUstream stream;
    struct kern_cuda *kernels;
};
extern struct test_device gpu;

/* 0: tests can run. Else the exit status for main(), which has said why they can't. Starts a GPU's driver, and then keeps
 * Check from forking, which CUDA does not survive; leaves simcuda to the children. */
int test_device_skip(void);
bool test_device_is_simulated(void);
/* A checked fixture. Closing demands that simcuda saw no violation. */
void test_device_open(void);
void test_device_close(void);

/* What the kernel may do to a buffer. */
enum access {
    INPUT, /* only read; ends with its last byte, so that a sanitizer sees a read behind it */
    OUTPUT /* written; bytes behind it, which must stay as they are, are 0xff */
};

/* `bytes` at `at` on the device; `host` is what is sent, `got` what came back, both pinned. All bytes are 0xff at first,
 * which is NaN in every type of float. */
struct buffer {
    CUdeviceptr at;
    unsigned char *host, *got;
    size_t bytes, guard;
    enum access access;
};

/* A new buffer; lives until buffers_free(), which frees all. Never NULL; `bytes` may be 0. */
struct buffer *buffer_new(size_t bytes, enum access access);
struct buffer *buffer_copy_of(const void *from, size_t bytes); /* an INPUT */
/* Queues the copies of all buffers to the device; between them, a test queues its launches. */
void buffers_send(void);
/* Gets all back and waits for it. Inputs must have stayed as they were, and so must what lies behind outputs. */
void buffers_fetch(const char *what);
void buffers_free(void);

/* Elements of enum kern_dtype. */
uint32_t type_bytes(uint32_t type);
void store_element(unsigned char *first, size_t i, uint32_t type, float x);
float load_element(const unsigned char *first, size_t i, uint32_t type);
const char *type_name(uint32_t type);
/* n elements, normally distributed. */
struct rng;
void fill_normal(struct buffer *b, size_t n, uint32_t type, struct rng *rng);
/* Elements that came back are near `want`, as near as one rounding and a short sum in f32 allow. */
void expect_elements(const struct buffer *b, uint32_t type, const double *want, size_t n, const char *what);

/* splitmix64 (Steele, Lea and Flood, 2014): the same numbers everywhere. */
struct rng {
    uint64_t state;
};
/* Seeded by KVMM_TEST_SEED, or else 1, and by `stream`; prints the seed beside the name. */
struct rng rng_for(const char *name, int stream);
uint32_t rng_below(struct rng *rng, uint32_t n);
uint32_t rng_between(struct rng *rng, uint32_t least, uint32_t most);
float rng_normal(struct rng *rng);

/* malloc'd, or the test has failed. */
void *test_alloc(size_t n, size_t bytes);

#endif
