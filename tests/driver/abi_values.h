/* SPDX-License-Identifier: Apache-2.0
 *
 * Every type, member and constant of vmm/driver/cuda_abi.h: SIZE(type), OFFSET(type, member), VALUE(constant). */
#ifndef TESTS_DRIVER_ABI_VALUES_H
#define TESTS_DRIVER_ABI_VALUES_H

#include <stddef.h>

#define ABI_VALUES(SIZE, OFFSET, VALUE)                                                                                \
    SIZE(CUdevice)                                                                                                     \
    SIZE(CUdeviceptr)                                                                                                  \
    SIZE(CUmemGenericAllocationHandle)                                                                                 \
    SIZE(CUcontext)                                                                                                    \
    SIZE(CUmodule)                                                                                                     \
    SIZE(CUfunction)                                                                                                   \
    SIZE(CUstream)                                                                                                     \
    SIZE(CUevent)                                                                                                      \
    SIZE(CUgraph)                                                                                                      \
    SIZE(CUgraphExec)                                                                                                  \
    SIZE(CUhostFn)                                                                                                     \
    SIZE(CUresult)                                                                                                     \
    VALUE(CUDA_SUCCESS)                                                                                                \
    VALUE(CUDA_ERROR_INVALID_VALUE)                                                                                    \
    VALUE(CUDA_ERROR_OUT_OF_MEMORY)                                                                                    \
    VALUE(CUDA_ERROR_NOT_INITIALIZED)                                                                                  \
    VALUE(CUDA_ERROR_DEINITIALIZED)                                                                                    \
    VALUE(CUDA_ERROR_STUB_LIBRARY)                                                                                     \
    VALUE(CUDA_ERROR_NO_DEVICE)                                                                                        \
    VALUE(CUDA_ERROR_INVALID_DEVICE)                                                                                   \
    VALUE(CUDA_ERROR_INVALID_IMAGE)                                                                                    \
    VALUE(CUDA_ERROR_INVALID_CONTEXT)                                                                                  \
    VALUE(CUDA_ERROR_NO_BINARY_FOR_GPU)                                                                                \
    VALUE(CUDA_ERROR_ECC_UNCORRECTABLE)                                                                                \
    VALUE(CUDA_ERROR_INVALID_HANDLE)                                                                                   \
    VALUE(CUDA_ERROR_NOT_FOUND)                                                                                        \
    VALUE(CUDA_ERROR_NOT_READY)                                                                                        \
    VALUE(CUDA_ERROR_ILLEGAL_ADDRESS)                                                                                  \
    VALUE(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)                                                                          \
    VALUE(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED)                                                                   \
    VALUE(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED)                                                                       \
    VALUE(CUDA_ERROR_LAUNCH_FAILED)                                                                                    \
    VALUE(CUDA_ERROR_NOT_PERMITTED)                                                                                    \
    VALUE(CUDA_ERROR_NOT_SUPPORTED)                                                                                    \
    VALUE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)                                                                       \
    VALUE(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)                                                                       \
    VALUE(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED)                                                                         \
    VALUE(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)                                                                          \
    VALUE(CUDA_ERROR_CAPTURED_EVENT)                                                                                   \
    VALUE(CUDA_ERROR_UNKNOWN)                                                                                          \
    SIZE(CUdevice_attribute)                                                                                           \
    VALUE(CU_DEVICE_ATTRIBUTE_CLOCK_RATE)                                                                              \
    VALUE(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)                                                                    \
    VALUE(CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT)                                                                      \
    VALUE(CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING)                                                                      \
    VALUE(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)                                                                \
    VALUE(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)                                                                \
    VALUE(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)                                                       \
    VALUE(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)                                                     \
    SIZE(CUmemAllocationType)                                                                                          \
    VALUE(CU_MEM_ALLOCATION_TYPE_PINNED)                                                                               \
    SIZE(CUmemAllocationHandleType)                                                                                    \
    VALUE(CU_MEM_HANDLE_TYPE_NONE)                                                                                     \
    SIZE(CUmemLocationType)                                                                                            \
    VALUE(CU_MEM_LOCATION_TYPE_DEVICE)                                                                                 \
    SIZE(CUmemAllocationGranularity_flags)                                                                             \
    VALUE(CU_MEM_ALLOC_GRANULARITY_MINIMUM)                                                                            \
    VALUE(CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)                                                                        \
    SIZE(CUmemAccess_flags)                                                                                            \
    VALUE(CU_MEM_ACCESS_FLAGS_PROT_NONE)                                                                               \
    VALUE(CU_MEM_ACCESS_FLAGS_PROT_READ)                                                                               \
    VALUE(CU_MEM_ACCESS_FLAGS_PROT_READWRITE)                                                                          \
    SIZE(CUmemLocation)                                                                                                \
    OFFSET(CUmemLocation, type)                                                                                        \
    OFFSET(CUmemLocation, id)                                                                                          \
    SIZE(CUmemAllocationProp)                                                                                          \
    OFFSET(CUmemAllocationProp, type)                                                                                  \
    OFFSET(CUmemAllocationProp, requestedHandleTypes)                                                                  \
    OFFSET(CUmemAllocationProp, location)                                                                              \
    OFFSET(CUmemAllocationProp, win32HandleMetaData)                                                                   \
    OFFSET(CUmemAllocationProp, allocFlags)                                                                            \
    OFFSET(CUmemAllocationProp, allocFlags.compressionType)                                                            \
    OFFSET(CUmemAllocationProp, allocFlags.gpuDirectRDMACapable)                                                       \
    OFFSET(CUmemAllocationProp, allocFlags.usage)                                                                      \
    OFFSET(CUmemAllocationProp, allocFlags.reserved)                                                                   \
    SIZE(CUmemAccessDesc)                                                                                              \
    OFFSET(CUmemAccessDesc, location)                                                                                  \
    OFFSET(CUmemAccessDesc, flags)                                                                                     \
    SIZE(CUstream_flags)                                                                                               \
    VALUE(CU_STREAM_DEFAULT)                                                                                           \
    VALUE(CU_STREAM_NON_BLOCKING)                                                                                      \
    SIZE(CUevent_flags)                                                                                                \
    VALUE(CU_EVENT_DEFAULT)                                                                                            \
    VALUE(CU_EVENT_BLOCKING_SYNC)                                                                                      \
    VALUE(CU_EVENT_DISABLE_TIMING)                                                                                     \
    SIZE(CUstreamCaptureMode)                                                                                          \
    VALUE(CU_STREAM_CAPTURE_MODE_GLOBAL)                                                                               \
    VALUE(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)                                                                         \
    VALUE(CU_STREAM_CAPTURE_MODE_RELAXED)                                                                              \
    SIZE(CUfunction_attribute)                                                                                         \
    VALUE(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)                                                             \
    SIZE(CUdriverProcAddressQueryResult)                                                                               \
    VALUE(CU_GET_PROC_ADDRESS_SUCCESS)                                                                                 \
    VALUE(CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND)                                                                        \
    VALUE(CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT)                                                                  \
    VALUE(CU_GET_PROC_ADDRESS_DEFAULT)                                                                                 \
    VALUE(CU_GET_PROC_ADDRESS_LEGACY_STREAM)                                                                           \
    VALUE(CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM)                                                               \
    VALUE(CU_STREAM_LEGACY)                                                                                            \
    VALUE(CU_STREAM_PER_THREAD)                                                                                        \
    VALUE(CU_MEMHOSTALLOC_PORTABLE)                                                                                    \
    VALUE(CU_MEMHOSTREGISTER_PORTABLE)

struct abi_value {
    const char *name; /* a type, "type.member", or a constant */
    long long value;  /* size, offset or value */
};

#define ABI_SIZE(type)           {#type, (long long)sizeof(type)},
#define ABI_OFFSET(type, member) {#type "." #member, (long long)offsetof(type, member)},
#define ABI_VALUE(constant)      {#constant, (long long)(constant)},

extern const struct abi_value abi_of_kvmm[], abi_of_toolkit[];
extern const size_t abi_n_of_kvmm, abi_n_of_toolkit;

#endif
