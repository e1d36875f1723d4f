/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything that device code has and plain C++ has not: indices, barriers, shuffles, shared memory, asynchronous copies and
 * the tensor cores' instructions. The kernels use these functions only, so that tests/kernels/cuda_emulation, which has a
 * header of the same name, can compile them for the CPU. Section numbers are those of the PTX ISA 8.7.
 *
 * Shared memory is one block of dynamic bytes, aligned to 128; addresses in it are 32-bit (the shared window's). Collectives
 * are called by all 32 lanes of a warp, the barrier by all threads of a block. */
#ifndef KERN_DEVICE_CUH
#define KERN_DEVICE_CUH

#include <math.h>
#include <stdint.h>

/* A kernel for blocks of at most so many threads, of which so many blocks should fit a multiprocessor. */
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define DEVICE                  __device__ __forceinline__
#define PARAM                   const __grid_constant__
#define UNROLL                  _Pragma("unroll")

DEVICE uint32_t thread_index()
{
    return threadIdx.x;
}
DEVICE uint32_t n_threads()
{
    return blockDim.x;
}
DEVICE uint32_t block_x()
{
    return blockIdx.x;
}
DEVICE uint32_t block_y()
{
    return blockIdx.y;
}
DEVICE uint32_t block_z()
{
    return blockIdx.z;
}
DEVICE uint32_t grid_x()
{
    return gridDim.x;
}
DEVICE uint32_t grid_y()
{
    return gridDim.y;
}

/* What a device address points to. */
template <typename T> DEVICE T *at(uint64_t address)
{
    return reinterpret_cast<T *>(address);
}

extern __shared__ __align__(128) unsigned char kern_shared[];

template <typename T> DEVICE T *shared_at(uint32_t byte)
{
    return reinterpret_cast<T *>(kern_shared + byte);
}
/* The address of the shared memory's first byte, for copy_async() and load_matrix(). */
DEVICE uint32_t shared_address()
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(kern_shared));
}

DEVICE void block_barrier()
{
    __syncthreads();
}
DEVICE void warp_barrier()
{
    __syncwarp();
}
DEVICE float shuffle_xor(float x, uint32_t lanes)
{
    return __shfl_xor_sync(0xffffffffu, x, static_cast<int>(lanes));
}
DEVICE uint32_t shuffle_xor(uint32_t x, uint32_t lanes)
{
    return __shfl_xor_sync(0xffffffffu, x, static_cast<int>(lanes));
}
DEVICE bool warp_any(bool x)
{
    return __any_sync(0xffffffffu, x) != 0;
}

/* Queues a copy of 16 bytes from global to shared memory, both aligned to 16, past L1; if not `real`, nothing is read and
 * zeros are written (9.7.9.25.3.1: src-size 0). */
DEVICE void copy_async(uint32_t shared, const void *global, bool real)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(__cvta_generic_to_global(global)),
                 "r"(real ? 16 : 0)
                 : "memory");
}
/* Ends a group of this thread's copies, which may be empty. */
DEVICE void copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Waits until at most N of this thread's groups are under way. Other threads see the bytes after a barrier. */
template <int N> DEVICE void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Four 8 × 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8, and gets of each matrix
 * row lane / 4, columns 2 × (lane % 4) and the next (9.7.14.5.15). */
DEVICE void load_matrix(uint32_t (&r)[4], uint32_t shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}
/* The same of each matrix's transpose. */
DEVICE void load_matrix_transposed(uint32_t (&r)[4], uint32_t shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}

/* c += a × b: a is 16 × 16, b 16 × 8, c 16 × 8 in f32, as fragments of m16n8k16 (9.7.14.5.8). With row = lane / 4 and
 * pair = 2 × (lane % 4): a[0] (row, pair), a[1] (row + 8, pair), a[2] (row, pair + 8), a[3] (row + 8, pair + 8), each with
 * the next column above it; b0 (rows pair, pair + 1; column row), b1 (rows pair + 8, pair + 9); c[0], c[1] (row; pair,
 * pair + 1), c[2], c[3] (row + 8). */
DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DEVICE float f32_of_f16(uint16_t x)
{
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
DEVICE float f32_of_bf16(uint16_t x)
{
    return __uint_as_float(static_cast<uint32_t>(x) << 16);
}
/* Two elements in one register, low in the low half; to nearest even (9.7.9.21). */
DEVICE uint32_t f16_pair(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
DEVICE uint32_t bf16_pair(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* 2^x within 2 units in the last place; 0 for −∞ and below −126. */
DEVICE float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
