/* SPDX-License-Identifier: Apache-2.0
 *
 * The functions of kernels/cuda/device.cuh for the emulation: the same names, and semantics by emulation.hpp. */
#ifndef KERN_DEVICE_CUH
#define KERN_DEVICE_CUH

#include <cmath>
#include <cstdint>
#include <cstring>

#include "tests/kernels/cuda_emulation/emulation.hpp"

#define KERNEL(threads, blocks) extern "C" void
#define DEVICE                  inline
#define PARAM                   const
#define UNROLL

using std::cos;
using std::sin;

DEVICE uint32_t thread_index()
{
    return emulation::here().thread;
}
DEVICE uint32_t n_threads()
{
    return emulation::here().n_threads;
}
DEVICE uint32_t block_x()
{
    return emulation::here().block[0];
}
DEVICE uint32_t block_y()
{
    return emulation::here().block[1];
}
DEVICE uint32_t block_z()
{
    return emulation::here().block[2];
}
DEVICE uint32_t grid_x()
{
    return emulation::here().grid[0];
}
DEVICE uint32_t grid_y()
{
    return emulation::here().grid[1];
}

template <typename T> DEVICE T *at(uint64_t address)
{
    return reinterpret_cast<T *>(address);
}
template <typename T> DEVICE T *shared_at(uint32_t byte)
{
    return reinterpret_cast<T *>(emulation::shared_memory(byte));
}
DEVICE uint32_t shared_address()
{
    return emulation::SHARED_ADDRESS;
}

DEVICE void block_barrier()
{
    emulation::meet(emulation::collective::BLOCK_BARRIER, nullptr);
}
DEVICE void warp_barrier()
{
    emulation::meet(emulation::collective::WARP_BARRIER, nullptr);
}
DEVICE uint32_t shuffle_xor(uint32_t x, uint32_t lanes)
{
    emulation::shuffle_words words = {x, lanes, 0};
    emulation::meet(emulation::collective::SHUFFLE, &words);
    return words.result;
}
DEVICE float shuffle_xor(float x, uint32_t lanes)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(x));
    bits = shuffle_xor(bits, lanes);
    memcpy(&x, &bits, sizeof(x));
    return x;
}
DEVICE bool warp_any(bool x)
{
    emulation::any_words words = {x, false};
    emulation::meet(emulation::collective::ANY, &words);
    return words.result;
}

DEVICE void copy_async(uint32_t shared, const void *global, bool real)
{
    emulation::copy_async(shared, global, real);
}
DEVICE void copy_commit()
{
    emulation::copy_commit();
}
template <int N> DEVICE void copy_wait()
{
    emulation::copy_wait(N);
}

DEVICE void load_matrix(uint32_t (&r)[4], uint32_t shared)
{
    emulation::matrix_words words = {shared, {}};
    emulation::meet(emulation::collective::LOAD_MATRIX, &words);
    memcpy(r, words.rows, sizeof(r));
}
DEVICE void load_matrix_transposed(uint32_t (&r)[4], uint32_t shared)
{
    emulation::matrix_words words = {shared, {}};
    emulation::meet(emulation::collective::LOAD_MATRIX_TRANSPOSED, &words);
    memcpy(r, words.rows, sizeof(r));
}
DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    emulation::mma_words words = {c, a, {b0, b1}};
    emulation::meet(emulation::collective::MMA_F16, &words);
}
DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    emulation::mma_words words = {c, a, {b0, b1}};
    emulation::meet(emulation::collective::MMA_BF16, &words);
}

DEVICE float f32_of_f16(uint16_t x)
{
    return emulation::f16_value(x);
}
DEVICE float f32_of_bf16(uint16_t x)
{
    return emulation::bf16_value(x);
}
DEVICE uint32_t f16_pair(float low, float high)
{
    return emulation::f16_bits(low) | static_cast<uint32_t>(emulation::f16_bits(high)) << 16;
}
DEVICE uint32_t bf16_pair(float low, float high)
{
    return emulation::bf16_bits(low) | static_cast<uint32_t>(emulation::bf16_bits(high)) << 16;
}
DEVICE float exp2_fast(float x)
{
    return x < -126 ? 0 : exp2f(x);
}

#endif
