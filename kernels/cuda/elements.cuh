/* SPDX-License-Identifier: Apache-2.0
 *
 * Elements by type: at run time for the kernels that move a row or two, at compile time for the attention tiles. */
#ifndef KERN_ELEMENTS_CUH
#define KERN_ELEMENTS_CUH

#include <device.cuh>

/* enum kern_dtype */
#define TYPE_F16  0u
#define TYPE_BF16 1u
#define TYPE_F32  2u

struct f16 {
    static DEVICE uint32_t pair(float low, float high)
    {
        return f16_pair(low, high);
    }
    static DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
    {
        mma_f16(c, a, b0, b1);
    }
};

struct bf16 {
    static DEVICE uint32_t pair(float low, float high)
    {
        return bf16_pair(low, high);
    }
    static DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
    {
        mma_bf16(c, a, b0, b1);
    }
};

/* So many elements as one access: of f32 up to 4, of the others up to 8. */
template <typename T, int N> struct alignas(sizeof(T) * N) vector {
    T at[N];
};

DEVICE uint32_t element_bytes(uint32_t type)
{
    return type == TYPE_F32 ? 4 : 2;
}

/* True if N elements of this type starting at a multiple of N from `address` are one access. */
template <int N> DEVICE bool aligned(uint64_t address, uint32_t type)
{
    return address % (element_bytes(type) * N) == 0;
}

template <int N> DEVICE void load(float (&x)[N], uint64_t address, uint64_t index, uint32_t type)
{
    if (type == TYPE_F32) {
        const vector<float, N> v = *at<const vector<float, N>>(address + index * 4);
        UNROLL
        for (int i = 0; i < N; i++)
            x[i] = v.at[i];
    } else {
        const vector<uint16_t, N> v = *at<const vector<uint16_t, N>>(address + index * 2);
        UNROLL
        for (int i = 0; i < N; i++)
            x[i] = type == TYPE_F16 ? f32_of_f16(v.at[i]) : f32_of_bf16(v.at[i]);
    }
}

DEVICE float load(uint64_t address, uint64_t index, uint32_t type)
{
    float x[1];
    load<1>(x, address, index, type);
    return x[0];
}

template <int N> DEVICE void store(uint64_t address, uint64_t index, uint32_t type, const float (&x)[N])
{
    if (type == TYPE_F32) {
        vector<float, N> v;
        UNROLL
        for (int i = 0; i < N; i++)
            v.at[i] = x[i];
        *at<vector<float, N>>(address + index * 4) = v;
    } else {
        vector<uint16_t, N> v;
        UNROLL
        for (int i = 0; i < N; i++)
            v.at[i] = static_cast<uint16_t>(type == TYPE_F16 ? f16_pair(x[i], 0) : bf16_pair(x[i], 0));
        *at<vector<uint16_t, N>>(address + index * 2) = v;
    }
}

DEVICE void store(uint64_t address, uint64_t index, uint32_t type, float x)
{
    const float one[1] = {x};
    store<1>(address, index, type, one);
}

/* The sum over a block, to every thread; the first n_threads() / 32 floats of shared memory are its scratch. */
DEVICE float block_sum(float x)
{
    float *sums = shared_at<float>(0);

    for (uint32_t lanes = 16; lanes > 0; lanes /= 2)
        x += shuffle_xor(x, lanes);
    if (thread_index() % 32 == 0)
        sums[thread_index() / 32] = x;
    block_barrier();
    x = 0;
    for (uint32_t warp = 0; warp < n_threads() / 32; warp++)
        x += sums[warp];
    return x;
}

#endif
