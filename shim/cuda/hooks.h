/* SPDX-License-Identifier: Apache-2.0
 *
 * Every driver function that the shim interposes: the one list behind the exported hooks, the table of the real functions,
 * what dlsym and cuGetProcAddress are answered, and the checks of tests/shim/cuda_abi_*.
 *
 *     PASS(symbol, name, version, parameters, arguments, touch)                  passes, after what `touch` says
 *     PASS2(symbol, suffix, name, version, thread_version, parameters, arguments, touch)
 *     OWN(symbol, name, version, parameters)                                     written by hand
 *     OWN2(symbol, suffix, name, version, thread_version, parameters)
 *
 * `symbol` is what a linker and dlsym see; `name` and `version` what cuGetProcAddress is asked for. The rows with a 2 are two
 * functions: symbol##suffix is the form whose stream 0 is the calling thread's own, from thread_version on.
 *
 * What a call touches, and so waits for and has made resident first:
 *     ONE(at, bytes), TWO(at, bytes, at, bytes), MANY(at[], at[], bytes[], n), ROWS(at, pitch, width, height): device spans
 *     SPANS(kind)   the spans of the structure *copy
 *     ANY           anything: the whole cache, as far as the engine didn't promise otherwise
 *
 * Not here, because they can't name memory of a cache: the forms of before CUDA 3.2, with addresses of 32 bits; pools
 * (cuMemAllocAsync) and virtual memory management, which engines that use them manage themselves; managed memory; arrays and
 * textures; legacy IPC. tests/shim/cuda_abi_left.h names each, and a new function in cuda.h fails the test until it is here or
 * there. cuGetExportTable is left alone. Source: cuda.h and cudaTypedefs.h of CUDA 13.0. */
#ifndef SHIM_CUDA_HOOKS_H
#define SHIM_CUDA_HOOKS_H

#include "shim/cuda/abi.h"

#define SHIM_CUDA_HOOKS(PASS, PASS2, OWN, OWN2)                                                                        \
    /* looking functions up; contexts */                                                                               \
    OWN(cuGetProcAddress, cuGetProcAddress, 11030,                                                                     \
        (const char *symbol, void **function, int version, cuuint64_t flags))                                          \
    OWN(cuGetProcAddress_v2, cuGetProcAddress, 12000,                                                                  \
        (const char *symbol, void **function, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *found))   \
    OWN(cuCtxCreate_v2, cuCtxCreate, 3020, (CUcontext * context, unsigned flags, CUdevice device))                     \
    OWN(cuCtxCreate_v3, cuCtxCreate, 11040,                                                                            \
        (CUcontext * context, CUexecAffinityParam * affinities, int n, unsigned flags, CUdevice device))               \
    OWN(cuCtxCreate_v4, cuCtxCreate, 12050,                                                                            \
        (CUcontext * context, CUctxCreateParams * how, unsigned flags, CUdevice device))                               \
    OWN(cuCtxDestroy_v2, cuCtxDestroy, 4000, (CUcontext context))                                                      \
    OWN(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, 7000, (CUcontext * context, CUdevice device))              \
    OWN(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease, 7000, (CUdevice device))                                 \
    OWN(cuDevicePrimaryCtxRelease_v2, cuDevicePrimaryCtxRelease, 11000, (CUdevice device))                             \
    OWN(cuDevicePrimaryCtxReset, cuDevicePrimaryCtxReset, 7000, (CUdevice device))                                     \
    OWN(cuDevicePrimaryCtxReset_v2, cuDevicePrimaryCtxReset, 11000, (CUdevice device))                                 \
    /* memory and its addresses */                                                                                     \
    OWN(cuMemAlloc_v2, cuMemAlloc, 3020, (CUdeviceptr * ptr, size_t bytes))                                            \
    OWN(cuMemFree_v2, cuMemFree, 3020, (CUdeviceptr ptr))                                                              \
    OWN2(cuMemFreeAsync, _ptsz, cuMemFreeAsync, 11020, 11020, (CUdeviceptr ptr, CUstream stream))                      \
    OWN(cuMemGetInfo_v2, cuMemGetInfo, 3020, (size_t * free_bytes, size_t * total))                                    \
    OWN(cuMemGetAddressRange_v2, cuMemGetAddressRange, 3020, (CUdeviceptr * base, size_t * bytes, CUdeviceptr ptr))    \
    OWN(cuPointerGetAttribute, cuPointerGetAttribute, 4000,                                                            \
        (void *data, CUpointer_attribute attribute, CUdeviceptr ptr))                                                  \
    OWN(cuPointerGetAttributes, cuPointerGetAttributes, 7000,                                                          \
        (unsigned n, CUpointer_attribute *attributes, void **data, CUdeviceptr ptr))                                   \
    /* copies */                                                                                                       \
    PASS2(cuMemcpyHtoD_v2, _ptds, cuMemcpyHtoD, 3020, 7000, (CUdeviceptr to, const void *from, size_t bytes),          \
          (to, from, bytes), ONE(to, bytes))                                                                           \
    PASS2(cuMemcpyHtoDAsync_v2, _ptsz, cuMemcpyHtoDAsync, 3020, 7000,                                                  \
          (CUdeviceptr to, const void *from, size_t bytes, CUstream stream), (to, from, bytes, stream),                \
          ONE(to, bytes))                                                                                              \
    PASS2(cuMemcpyDtoH_v2, _ptds, cuMemcpyDtoH, 3020, 7000, (void *to, CUdeviceptr from, size_t bytes),                \
          (to, from, bytes), ONE(from, bytes))                                                                         \
    PASS2(cuMemcpyDtoHAsync_v2, _ptsz, cuMemcpyDtoHAsync, 3020, 7000,                                                  \
          (void *to, CUdeviceptr from, size_t bytes, CUstream stream), (to, from, bytes, stream), ONE(from, bytes))    \
    PASS2(cuMemcpyDtoD_v2, _ptds, cuMemcpyDtoD, 3020, 7000, (CUdeviceptr to, CUdeviceptr from, size_t bytes),          \
          (to, from, bytes), TWO(to, bytes, from, bytes))                                                              \
    PASS2(cuMemcpyDtoDAsync_v2, _ptsz, cuMemcpyDtoDAsync, 3020, 7000,                                                  \
          (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream), (to, from, bytes, stream),                \
          TWO(to, bytes, from, bytes))                                                                                 \
    PASS2(cuMemcpy, _ptds, cuMemcpy, 4000, 7000, (CUdeviceptr to, CUdeviceptr from, size_t bytes), (to, from, bytes),  \
          TWO(to, bytes, from, bytes))                                                                                 \
    PASS2(cuMemcpyAsync, _ptsz, cuMemcpyAsync, 4000, 7000,                                                             \
          (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream), (to, from, bytes, stream),                \
          TWO(to, bytes, from, bytes))                                                                                 \
    PASS2(cuMemcpyPeer, _ptds, cuMemcpyPeer, 4000, 7000,                                                               \
          (CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context, size_t bytes),              \
          (to, to_context, from, from_context, bytes), TWO(to, bytes, from, bytes))                                    \
    PASS2(cuMemcpyPeerAsync, _ptsz, cuMemcpyPeerAsync, 4000, 7000,                                                     \
          (CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context, size_t bytes,               \
           CUstream stream),                                                                                           \
          (to, to_context, from, from_context, bytes, stream), TWO(to, bytes, from, bytes))                            \
    PASS2(cuMemcpyDtoA_v2, _ptds, cuMemcpyDtoA, 3020, 7000,                                                            \
          (CUarray to, size_t offset, CUdeviceptr from, size_t bytes), (to, offset, from, bytes), ONE(from, bytes))    \
    PASS2(cuMemcpyAtoD_v2, _ptds, cuMemcpyAtoD, 3020, 7000,                                                            \
          (CUdeviceptr to, CUarray from, size_t offset, size_t bytes), (to, from, offset, bytes), ONE(to, bytes))      \
    PASS2(cuMemcpy2D_v2, _ptds, cuMemcpy2D, 3020, 7000, (const CUDA_MEMCPY2D *copy), (copy), SPANS(2d))                \
    PASS2(cuMemcpy2DUnaligned_v2, _ptds, cuMemcpy2DUnaligned, 3020, 7000, (const CUDA_MEMCPY2D *copy), (copy),         \
          SPANS(2d))                                                                                                   \
    PASS2(cuMemcpy2DAsync_v2, _ptsz, cuMemcpy2DAsync, 3020, 7000, (const CUDA_MEMCPY2D *copy, CUstream stream),        \
          (copy, stream), SPANS(2d))                                                                                   \
    PASS2(cuMemcpy3D_v2, _ptds, cuMemcpy3D, 3020, 7000, (const CUDA_MEMCPY3D *copy), (copy), SPANS(3d))                \
    PASS2(cuMemcpy3DAsync_v2, _ptsz, cuMemcpy3DAsync, 3020, 7000, (const CUDA_MEMCPY3D *copy, CUstream stream),        \
          (copy, stream), SPANS(3d))                                                                                   \
    PASS2(cuMemcpy3DPeer, _ptds, cuMemcpy3DPeer, 4000, 7000, (const CUDA_MEMCPY3D_PEER *copy), (copy), SPANS(peer))    \
    PASS2(cuMemcpy3DPeerAsync, _ptsz, cuMemcpy3DPeerAsync, 4000, 7000,                                                 \
          (const CUDA_MEMCPY3D_PEER *copy, CUstream stream), (copy, stream), SPANS(peer))                              \
    PASS2(cuMemcpyBatchAsync, _ptsz, cuMemcpyBatchAsync, 12080, 12080,                                                 \
          (CUdeviceptr * to, CUdeviceptr * from, size_t * bytes, size_t n, CUmemcpyAttributes * attributes,            \
           size_t * first, size_t n_attributes, size_t * failed, CUstream stream),                                     \
          (to, from, bytes, n, attributes, first, n_attributes, failed, stream), MANY(to, from, bytes, n))             \
    PASS2(cuMemcpyBatchAsync_v2, _ptsz, cuMemcpyBatchAsync, 13000, 13000,                                              \
          (CUdeviceptr * to, CUdeviceptr * from, size_t * bytes, size_t n, CUmemcpyAttributes * attributes,            \
           size_t * first, size_t n_attributes, CUstream stream),                                                      \
          (to, from, bytes, n, attributes, first, n_attributes, stream), MANY(to, from, bytes, n))                     \
    PASS2(cuMemcpy3DBatchAsync, _ptsz, cuMemcpy3DBatchAsync, 12080, 12080,                                             \
          (size_t n, CUDA_MEMCPY3D_BATCH_OP * copies, size_t * failed, unsigned long long flags, CUstream stream),     \
          (n, copies, failed, flags, stream), ANY)                                                                     \
    PASS2(cuMemcpy3DBatchAsync_v2, _ptsz, cuMemcpy3DBatchAsync, 13000, 13000,                                          \
          (size_t n, CUDA_MEMCPY3D_BATCH_OP * copies, unsigned long long flags, CUstream stream),                      \
          (n, copies, flags, stream), ANY)                                                                             \
    /* fills */                                                                                                        \
    OWN2(cuMemsetD8_v2, _ptds, cuMemsetD8, 3020, 7000, (CUdeviceptr to, unsigned char value, size_t n))                \
    OWN2(cuMemsetD8Async, _ptsz, cuMemsetD8Async, 3020, 7000,                                                          \
         (CUdeviceptr to, unsigned char value, size_t n, CUstream stream))                                             \
    OWN2(cuMemsetD16_v2, _ptds, cuMemsetD16, 3020, 7000, (CUdeviceptr to, unsigned short value, size_t n))             \
    OWN2(cuMemsetD16Async, _ptsz, cuMemsetD16Async, 3020, 7000,                                                        \
         (CUdeviceptr to, unsigned short value, size_t n, CUstream stream))                                            \
    OWN2(cuMemsetD32_v2, _ptds, cuMemsetD32, 3020, 7000, (CUdeviceptr to, unsigned value, size_t n))                   \
    OWN2(cuMemsetD32Async, _ptsz, cuMemsetD32Async, 3020, 7000,                                                        \
         (CUdeviceptr to, unsigned value, size_t n, CUstream stream))                                                  \
    PASS2(cuMemsetD2D8_v2, _ptds, cuMemsetD2D8, 3020, 7000,                                                            \
          (CUdeviceptr to, size_t pitch, unsigned char value, size_t width, size_t height),                            \
          (to, pitch, value, width, height), ROWS(to, pitch, width, height))                                           \
    PASS2(cuMemsetD2D8Async, _ptsz, cuMemsetD2D8Async, 3020, 7000,                                                     \
          (CUdeviceptr to, size_t pitch, unsigned char value, size_t width, size_t height, CUstream stream),           \
          (to, pitch, value, width, height, stream), ROWS(to, pitch, width, height))                                   \
    PASS2(cuMemsetD2D16_v2, _ptds, cuMemsetD2D16, 3020, 7000,                                                          \
          (CUdeviceptr to, size_t pitch, unsigned short value, size_t width, size_t height),                           \
          (to, pitch, value, width, height), ROWS(to, pitch, width * 2, height))                                       \
    PASS2(cuMemsetD2D16Async, _ptsz, cuMemsetD2D16Async, 3020, 7000,                                                   \
          (CUdeviceptr to, size_t pitch, unsigned short value, size_t width, size_t height, CUstream stream),          \
          (to, pitch, value, width, height, stream), ROWS(to, pitch, width * 2, height))                               \
    PASS2(cuMemsetD2D32_v2, _ptds, cuMemsetD2D32, 3020, 7000,                                                          \
          (CUdeviceptr to, size_t pitch, unsigned value, size_t width, size_t height),                                 \
          (to, pitch, value, width, height), ROWS(to, pitch, width * 4, height))                                       \
    PASS2(cuMemsetD2D32Async, _ptsz, cuMemsetD2D32Async, 3020, 7000,                                                   \
          (CUdeviceptr to, size_t pitch, unsigned value, size_t width, size_t height, CUstream stream),                \
          (to, pitch, value, width, height, stream), ROWS(to, pitch, width * 4, height))                               \
    /* what may touch any memory */                                                                                    \
    PASS2(cuLaunchKernel, _ptsz, cuLaunchKernel, 4000, 7000,                                                           \
          (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, \
           unsigned block_z, unsigned shared_bytes, CUstream stream, void **params, void **extra),                     \
          (function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, params, extra), ANY)     \
    PASS2(cuLaunchKernelEx, _ptsz, cuLaunchKernelEx, 11060, 11060,                                                     \
          (const CUlaunchConfig *config, CUfunction function, void **params, void **extra),                            \
          (config, function, params, extra), ANY)                                                                      \
    PASS2(cuLaunchCooperativeKernel, _ptsz, cuLaunchCooperativeKernel, 9000, 9000,                                     \
          (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, \
           unsigned block_z, unsigned shared_bytes, CUstream stream, void **params),                                   \
          (function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, params), ANY)            \
    PASS(cuLaunchCooperativeKernelMultiDevice, cuLaunchCooperativeKernelMultiDevice, 9000,                             \
         (CUDA_LAUNCH_PARAMS * launches, unsigned n, unsigned flags), (launches, n, flags), ANY)                       \
    PASS(cuLaunch, cuLaunch, 2000, (CUfunction function), (function), ANY)                                             \
    PASS(cuLaunchGrid, cuLaunchGrid, 2000, (CUfunction function, int width, int height), (function, width, height),    \
         ANY)                                                                                                          \
    PASS(cuLaunchGridAsync, cuLaunchGridAsync, 2000, (CUfunction function, int width, int height, CUstream stream),    \
         (function, width, height, stream), ANY)                                                                       \
    PASS2(cuGraphLaunch, _ptsz, cuGraphLaunch, 10000, 10000, (CUgraphExec exec, CUstream stream), (exec, stream), ANY) \
    PASS2(cuStreamWriteValue32, _ptsz, cuStreamWriteValue32, 8000, 8000,                                               \
          (CUstream stream, CUdeviceptr at, cuuint32_t value, unsigned flags), (stream, at, value, flags),             \
          ONE(at, sizeof value))                                                                                       \
    PASS2(cuStreamWriteValue32_v2, _ptsz, cuStreamWriteValue32, 11070, 11070,                                          \
          (CUstream stream, CUdeviceptr at, cuuint32_t value, unsigned flags), (stream, at, value, flags),             \
          ONE(at, sizeof value))                                                                                       \
    PASS2(cuStreamWaitValue32, _ptsz, cuStreamWaitValue32, 8000, 8000,                                                 \
          (CUstream stream, CUdeviceptr at, cuuint32_t value, unsigned flags), (stream, at, value, flags),             \
          ONE(at, sizeof value))                                                                                       \
    PASS2(cuStreamWaitValue32_v2, _ptsz, cuStreamWaitValue32, 11070, 11070,                                            \
          (CUstream stream, CUdeviceptr at, cuuint32_t value, unsigned flags), (stream, at, value, flags),             \
          ONE(at, sizeof value))                                                                                       \
    PASS2(cuStreamWriteValue64, _ptsz, cuStreamWriteValue64, 9000, 9000,                                               \
          (CUstream stream, CUdeviceptr at, cuuint64_t value, unsigned flags), (stream, at, value, flags),             \
          ONE(at, sizeof value))                                                                                       \
    PASS2(cuStreamWriteValue64_v2, _ptsz, cuStreamWriteValue64, 11070, 11070,                                          \
          (CUstream stream, CUdeviceptr at, cuuint64_t value, unsigned flags), (stream, at, value, flags),             \
          ONE(at, sizeof value))                                                                                       \
    PASS2(cuStreamWaitValue64, _ptsz, cuStreamWaitValue64, 9000, 9000,                                                 \
          (CUstream stream, CUdeviceptr at, cuuint64_t value, unsigned flags), (stream, at, value, flags),             \
          ONE(at, sizeof value))                                                                                       \
    PASS2(cuStreamWaitValue64_v2, _ptsz, cuStreamWaitValue64, 11070, 11070,                                            \
          (CUstream stream, CUdeviceptr at, cuuint64_t value, unsigned flags), (stream, at, value, flags),             \
          ONE(at, sizeof value))                                                                                       \
    PASS2(cuStreamBatchMemOp, _ptsz, cuStreamBatchMemOp, 8000, 8000,                                                   \
          (CUstream stream, unsigned n, CUstreamBatchMemOpParams *ops, unsigned flags), (stream, n, ops, flags), ANY)  \
    PASS2(cuStreamBatchMemOp_v2, _ptsz, cuStreamBatchMemOp, 11070, 11070,                                              \
          (CUstream stream, unsigned n, CUstreamBatchMemOpParams *ops, unsigned flags), (stream, n, ops, flags), ANY)  \
    PASS2(cuMemBatchDecompressAsync, _ptsz, cuMemBatchDecompressAsync, 12060, 12060,                                   \
          (CUmemDecompressParams * params, size_t n, unsigned flags, size_t *failed, CUstream stream),                 \
          (params, n, flags, failed, stream), ANY)                                                                     \
    /* nodes of graphs, whose addresses the driver looks at when they are made */                                      \
    PASS(cuGraphAddMemcpyNode, cuGraphAddMemcpyNode, 10000,                                                            \
         (CUgraphNode * node, CUgraph graph, const CUgraphNode *after, size_t n, const CUDA_MEMCPY3D *copy,            \
          CUcontext context),                                                                                          \
         (node, graph, after, n, copy, context), SPANS(3d))                                                            \
    PASS(cuGraphAddMemsetNode, cuGraphAddMemsetNode, 10000,                                                            \
         (CUgraphNode * node, CUgraph graph, const CUgraphNode *after, size_t n, const CUDA_MEMSET_NODE_PARAMS *fill,  \
          CUcontext context),                                                                                          \
         (node, graph, after, n, fill, context), ANY)                                                                  \
    PASS(cuGraphAddNode, cuGraphAddNode, 12020,                                                                        \
         (CUgraphNode * node, CUgraph graph, const CUgraphNode *after, size_t n, CUgraphNodeParams *params),           \
         (node, graph, after, n, params), ANY)                                                                         \
    PASS(cuGraphAddNode_v2, cuGraphAddNode, 12030,                                                                     \
         (CUgraphNode * node, CUgraph graph, const CUgraphNode *after, const CUgraphEdgeData *edges, size_t n,         \
          CUgraphNodeParams *params),                                                                                  \
         (node, graph, after, edges, n, params), ANY)                                                                  \
    PASS(cuGraphMemcpyNodeSetParams, cuGraphMemcpyNodeSetParams, 10000, (CUgraphNode node, const CUDA_MEMCPY3D *copy), \
         (node, copy), SPANS(3d))                                                                                      \
    PASS(cuGraphMemsetNodeSetParams, cuGraphMemsetNodeSetParams, 10000,                                                \
         (CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS *fill), (node, fill), ANY)                                   \
    PASS(cuGraphNodeSetParams, cuGraphNodeSetParams, 12020, (CUgraphNode node, CUgraphNodeParams * params),            \
         (node, params), ANY)                                                                                          \
    PASS(cuGraphExecMemcpyNodeSetParams, cuGraphExecMemcpyNodeSetParams, 10020,                                        \
         (CUgraphExec exec, CUgraphNode node, const CUDA_MEMCPY3D *copy, CUcontext context),                           \
         (exec, node, copy, context), SPANS(3d))                                                                       \
    PASS(cuGraphExecMemsetNodeSetParams, cuGraphExecMemsetNodeSetParams, 10020,                                        \
         (CUgraphExec exec, CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS *fill, CUcontext context),                 \
         (exec, node, fill, context), ANY)                                                                             \
    PASS(cuGraphExecNodeSetParams, cuGraphExecNodeSetParams, 12020,                                                    \
         (CUgraphExec exec, CUgraphNode node, CUgraphNodeParams * params), (exec, node, params), ANY)                  \
    /* captures: what is queued while one goes on does not run, and its end must not wait for a resume */              \
    OWN2(cuStreamBeginCapture, _ptsz, cuStreamBeginCapture, 10000, 10000, (CUstream stream))                           \
    OWN2(cuStreamBeginCapture_v2, _ptsz, cuStreamBeginCapture, 10010, 10010,                                           \
         (CUstream stream, CUstreamCaptureMode mode))                                                                  \
    OWN2(cuStreamBeginCaptureToGraph, _ptsz, cuStreamBeginCaptureToGraph, 12030, 12030,                                \
         (CUstream stream, CUgraph graph, const CUgraphNode *after, const CUgraphEdgeData *edges, size_t n,            \
          CUstreamCaptureMode mode))                                                                                   \
    OWN2(cuStreamEndCapture, _ptsz, cuStreamEndCapture, 10000, 10000, (CUstream stream, CUgraph * graph))              \
    OWN(cuStreamDestroy_v2, cuStreamDestroy, 4000, (CUstream stream))

#endif
