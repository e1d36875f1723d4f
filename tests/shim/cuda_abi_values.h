/* SPDX-License-Identifier: Apache-2.0
 *
 * Every type, member and constant of shim/cuda/abi.h that has a shape: SIZE(type), OFFSET(type, member), VALUE(constant). The
 * table is made twice, once by that header and once by cuda.h. */
#ifndef TESTS_SHIM_CUDA_ABI_VALUES_H
#define TESTS_SHIM_CUDA_ABI_VALUES_H

#include <stddef.h>

#define CUDA_ABI_SIDE(OFFSET, type, side)                                                                              \
    OFFSET(type, side##XInBytes)                                                                                       \
    OFFSET(type, side##Y)                                                                                              \
    OFFSET(type, side##MemoryType)                                                                                     \
    OFFSET(type, side##Host)                                                                                           \
    OFFSET(type, side##Device)                                                                                         \
    OFFSET(type, side##Array)                                                                                          \
    OFFSET(type, side##Pitch)
#define CUDA_ABI_SIDE_3D(OFFSET, type, side)                                                                           \
    CUDA_ABI_SIDE(OFFSET, type, side)                                                                                  \
    OFFSET(type, side##Z)                                                                                              \
    OFFSET(type, side##LOD)                                                                                            \
    OFFSET(type, side##Height)

#define CUDA_ABI_VALUES(SIZE, OFFSET, VALUE)                                                                           \
    SIZE(CUDA_MEMCPY2D)                                                                                                \
    CUDA_ABI_SIDE(OFFSET, CUDA_MEMCPY2D, src)                                                                          \
    CUDA_ABI_SIDE(OFFSET, CUDA_MEMCPY2D, dst)                                                                          \
    OFFSET(CUDA_MEMCPY2D, WidthInBytes)                                                                                \
    OFFSET(CUDA_MEMCPY2D, Height)                                                                                      \
    SIZE(CUDA_MEMCPY3D)                                                                                                \
    CUDA_ABI_SIDE_3D(OFFSET, CUDA_MEMCPY3D, src)                                                                       \
    CUDA_ABI_SIDE_3D(OFFSET, CUDA_MEMCPY3D, dst)                                                                       \
    OFFSET(CUDA_MEMCPY3D, reserved0)                                                                                   \
    OFFSET(CUDA_MEMCPY3D, reserved1)                                                                                   \
    OFFSET(CUDA_MEMCPY3D, WidthInBytes)                                                                                \
    OFFSET(CUDA_MEMCPY3D, Height)                                                                                      \
    OFFSET(CUDA_MEMCPY3D, Depth)                                                                                       \
    SIZE(CUDA_MEMCPY3D_PEER)                                                                                           \
    CUDA_ABI_SIDE_3D(OFFSET, CUDA_MEMCPY3D_PEER, src)                                                                  \
    CUDA_ABI_SIDE_3D(OFFSET, CUDA_MEMCPY3D_PEER, dst)                                                                  \
    OFFSET(CUDA_MEMCPY3D_PEER, srcContext)                                                                             \
    OFFSET(CUDA_MEMCPY3D_PEER, dstContext)                                                                             \
    OFFSET(CUDA_MEMCPY3D_PEER, WidthInBytes)                                                                           \
    OFFSET(CUDA_MEMCPY3D_PEER, Height)                                                                                 \
    OFFSET(CUDA_MEMCPY3D_PEER, Depth)                                                                                  \
    SIZE(cuuint32_t)                                                                                                   \
    SIZE(cuuint64_t)                                                                                                   \
    SIZE(CUmemorytype)                                                                                                 \
    SIZE(CUpointer_attribute)                                                                                          \
    VALUE(CU_MEMORYTYPE_HOST)                                                                                          \
    VALUE(CU_MEMORYTYPE_DEVICE)                                                                                        \
    VALUE(CU_MEMORYTYPE_ARRAY)                                                                                         \
    VALUE(CU_MEMORYTYPE_UNIFIED)                                                                                       \
    VALUE(CU_POINTER_ATTRIBUTE_CONTEXT)                                                                                \
    VALUE(CU_POINTER_ATTRIBUTE_MEMORY_TYPE)                                                                            \
    VALUE(CU_POINTER_ATTRIBUTE_DEVICE_POINTER)                                                                         \
    VALUE(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)                                                                         \
    VALUE(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR)                                                                       \
    VALUE(CU_POINTER_ATTRIBUTE_RANGE_SIZE)                                                                             \
    VALUE(CUDA_ERROR_DEVICE_UNAVAILABLE)

struct cuda_abi_value {
    const char *name;
    long long value;
};
extern const struct cuda_abi_value cuda_abi_of_shim[], cuda_abi_of_toolkit[];
extern const size_t cuda_abi_n_of_shim, cuda_abi_n_of_toolkit;

#define CUDA_ABI_SIZE(type)           {"sizeof " #type, sizeof(type)},
#define CUDA_ABI_OFFSET(type, member) {#type "." #member, offsetof(type, member)},
#define CUDA_ABI_VALUE(constant)      {#constant, constant},

/* Every hook: by the shim's list alone. */
struct cuda_abi_hook {
    const char *symbol, *name;
    int version;
    const char *suffix;
};
extern const struct cuda_abi_hook cuda_abi_hooks[];
extern const size_t cuda_abi_n_hooks;

#endif
