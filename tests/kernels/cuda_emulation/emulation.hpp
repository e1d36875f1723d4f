/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs the CUDA kernels' sources on the CPU. Each thread of a block is a fiber; blocks run one after another. What hardware
 * only punishes sometimes is always an error here: lanes that don't reach a collective together, a barrier that a thread
 * never reaches, addresses out of shared memory or not aligned. Shared memory is full of NaNs when a block starts, and the
 * target of an asynchronous copy is from its start until it was waited for and a barrier was passed, so that a missing wait
 * or barrier shows in the result. Between two barriers threads run in turn, or in an order that follows from a seed.
 *
 * Not thread-safe: one launch at a time. */
#ifndef TESTS_CUDA_EMULATION_H
#define TESTS_CUDA_EMULATION_H

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace emulation
{

struct launch {
    std::function<void()> kernel; /* what each thread runs */
    uint32_t grid[3] = {1, 1, 1};
    uint32_t threads = 32; /* a multiple of 32, at most 256 */
    uint32_t shared_bytes = 0;
    uint64_t seed = 0;                               /* 0: threads run in turn */
    std::function<bool(uintptr_t address)> may_read; /* if any: which 16 bytes asynchronous copies may read */
};

/* "", or what was wrong; the first error ends the launch. */
std::string run(const launch &l);

/* ---- what device.cuh is made of -------------------------------------------------------------------------------- */

struct place {
    uint32_t thread, n_threads;
    uint32_t block[3], grid[3];
};
const place &here();

unsigned char *shared_memory(uint32_t byte);
/* Not 0, so that an offset that was taken for an address shows. */
constexpr uint32_t SHARED_ADDRESS = 1024;

enum class collective {
    BLOCK_BARRIER,
    WARP_BARRIER,
    SHUFFLE,
    ANY,
    LOAD_MATRIX,
    LOAD_MATRIX_TRANSPOSED,
    MMA_F16,
    MMA_BF16
};

struct shuffle_words {
    uint32_t value, lanes, result;
};
struct any_words {
    bool value, result;
};
struct matrix_words {
    uint32_t address, rows[4];
};
struct mma_words {
    float *c;
    const uint32_t *a;
    uint32_t b[2];
};
/* Waits for the others of the warp, or of the block; `words` is the struct of this collective, or NULL. */
void meet(collective what, void *words);

void copy_async(uint32_t shared, const void *global, bool real);
void copy_commit();
void copy_wait(unsigned n);

/* ---- the parts of it ------------------------------------------------------------------------------------------- */

/* What the lanes of a warp do once all have met. `words`: of each lane. Returns NULL or what was wrong. */
const char *warp_collective(collective what, void *const (&words)[32]);

/* NULL, or what is wrong with an access of 16 bytes at this shared address. */
const char *shared_fault(uint32_t address);

float f16_value(uint16_t x);
uint16_t f16_bits(float x);
float bf16_value(uint16_t x);
uint16_t bf16_bits(float x);

} // namespace emulation

#endif
