/* SPDX-License-Identifier: Apache-2.0
 *
 * Types of the driver's interface that only the hooks need, under the names of cuda.h; what kvmm itself calls is in
 * vmm/driver/cuda_abi.h. Where a hook passes a structure on without a look inside, the type is left incomplete. This header
 * may be read after cuda.h, and then says nothing. tests/shim/cuda_abi_* compares.
 * Source: CUDA Driver API reference, versions 11.4 to 13. */
#ifndef SHIM_CUDA_ABI_H
#define SHIM_CUDA_ABI_H

#ifndef CUDA_VERSION

#include "vmm/driver/cuda_abi.h"

typedef uint32_t cuuint32_t;
typedef uint64_t cuuint64_t;
typedef struct CUarray_st *CUarray;
typedef struct CUgraphNode_st *CUgraphNode;
typedef struct CUlaunchConfig_st CUlaunchConfig;
typedef struct CUDA_LAUNCH_PARAMS_st CUDA_LAUNCH_PARAMS;
typedef struct CUDA_MEMSET_NODE_PARAMS_st CUDA_MEMSET_NODE_PARAMS;
typedef struct CUgraphNodeParams_st CUgraphNodeParams;
typedef struct CUgraphEdgeData_st CUgraphEdgeData;
typedef struct CUmemcpyAttributes_st CUmemcpyAttributes;
typedef struct CUDA_MEMCPY3D_BATCH_OP_st CUDA_MEMCPY3D_BATCH_OP;
typedef union CUstreamBatchMemOpParams_union CUstreamBatchMemOpParams;
typedef struct CUmemDecompressParams_st CUmemDecompressParams;
typedef struct CUexecAffinityParam_st CUexecAffinityParam;
typedef struct CUctxCreateParams_st CUctxCreateParams;

typedef enum {
    CU_MEMORYTYPE_HOST = 1,
    CU_MEMORYTYPE_DEVICE = 2,
    CU_MEMORYTYPE_ARRAY = 3,
    CU_MEMORYTYPE_UNIFIED = 4,
} CUmemorytype;

typedef enum {
    CU_POINTER_ATTRIBUTE_CONTEXT = 1,
    CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2,
    CU_POINTER_ATTRIBUTE_DEVICE_POINTER = 3,
    CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9,
    CU_POINTER_ATTRIBUTE_RANGE_START_ADDR = 11,
    CU_POINTER_ATTRIBUTE_RANGE_SIZE = 12,
} CUpointer_attribute;

typedef struct {
    size_t srcXInBytes, srcY;
    CUmemorytype srcMemoryType;
    const void *srcHost;
    CUdeviceptr srcDevice;
    CUarray srcArray;
    size_t srcPitch;
    size_t dstXInBytes, dstY;
    CUmemorytype dstMemoryType;
    void *dstHost;
    CUdeviceptr dstDevice;
    CUarray dstArray;
    size_t dstPitch;
    size_t WidthInBytes, Height;
} CUDA_MEMCPY2D;

/* CUDA_MEMCPY3D has reserved pointers where the form for two contexts has the contexts. */
#define SHIM_CUDA_MEMCPY3D(context_type, src_context, dst_context)                                                     \
    struct {                                                                                                           \
        size_t srcXInBytes, srcY, srcZ, srcLOD;                                                                        \
        CUmemorytype srcMemoryType;                                                                                    \
        const void *srcHost;                                                                                           \
        CUdeviceptr srcDevice;                                                                                         \
        CUarray srcArray;                                                                                              \
        context_type src_context;                                                                                      \
        size_t srcPitch, srcHeight;                                                                                    \
        size_t dstXInBytes, dstY, dstZ, dstLOD;                                                                        \
        CUmemorytype dstMemoryType;                                                                                    \
        void *dstHost;                                                                                                 \
        CUdeviceptr dstDevice;                                                                                         \
        CUarray dstArray;                                                                                              \
        context_type dst_context;                                                                                      \
        size_t dstPitch, dstHeight;                                                                                    \
        size_t WidthInBytes, Height, Depth;                                                                            \
    }
typedef SHIM_CUDA_MEMCPY3D(void *, reserved0, reserved1) CUDA_MEMCPY3D;
typedef SHIM_CUDA_MEMCPY3D(CUcontext, srcContext, dstContext) CUDA_MEMCPY3D_PEER;

/* "The device is busy or unavailable at the moment": what a call on a suspended cache gets with KVMM_SUSPENDED=fail. It is
 * not sticky: the same call may succeed later. */
#define CUDA_ERROR_DEVICE_UNAVAILABLE ((CUresult)46)

#endif

#endif
