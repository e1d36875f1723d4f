/* SPDX-License-Identifier: Apache-2.0
 *
 * Functions of the driver that take device addresses and that the shim leaves alone: X(name, why). Beside them, all forms of
 * before CUDA 3.2, whose addresses have 32 bits and can't be a cache's. */
#ifndef TESTS_SHIM_CUDA_ABI_LEFT_H
#define TESTS_SHIM_CUDA_ABI_LEFT_H

#define CUDA_ABI_LEFT(X)                                                                                               \
    /* other kinds of memory, which no rule selects and which don't come from a cache */                               \
    X(cuMemAllocPitch, "rows with padding: images, not a cache")                                                       \
    X(cuMemAllocManaged, "managed memory")                                                                             \
    X(cuMemAdvise, "managed memory")                                                                                   \
    X(cuMemPrefetchAsync, "managed memory")                                                                            \
    X(cuMemPrefetchBatchAsync, "managed memory")                                                                       \
    X(cuMemDiscardBatchAsync, "managed memory")                                                                        \
    X(cuMemDiscardAndPrefetchBatchAsync, "managed memory")                                                             \
    X(cuMemRangeGetAttribute, "managed memory")                                                                        \
    X(cuMemRangeGetAttributes, "managed memory")                                                                       \
    X(cuStreamAttachMemAsync, "managed memory")                                                                        \
    X(cuMemAllocAsync, "pools")                                                                                        \
    X(cuMemAllocFromPoolAsync, "pools")                                                                                \
    X(cuMemPoolExportPointer, "pools")                                                                                 \
    X(cuMemPoolImportPointer, "pools")                                                                                 \
    X(cuGraphAddMemFreeNode, "pools")                                                                                  \
    X(cuGraphMemFreeNodeGetParams, "pools")                                                                            \
    X(cuMemAddressReserve, "virtual memory of the engine's own")                                                       \
    X(cuMemAddressFree, "virtual memory of the engine's own")                                                          \
    X(cuMemMap, "virtual memory of the engine's own")                                                                  \
    X(cuMemUnmap, "virtual memory of the engine's own")                                                                \
    X(cuMemSetAccess, "virtual memory of the engine's own")                                                            \
    X(cuMemGetAccess, "virtual memory of the engine's own")                                                            \
    X(cuMulticastBindAddr, "multicast objects")                                                                        \
    X(cuMemHostGetDevicePointer, "host memory")                                                                        \
    X(cuModuleGetGlobal, "memory of modules")                                                                          \
    X(cuLibraryGetGlobal, "memory of modules")                                                                         \
    X(cuLibraryGetManaged, "memory of modules")                                                                        \
    X(cuGraphicsResourceGetMappedPointer, "memory of other interfaces")                                                \
    X(cuExternalMemoryGetMappedBuffer, "memory of other interfaces")                                                   \
    /* not for memory of the kind that a cache is: the driver refuses them, and says so */                             \
    X(cuIpcGetMemHandle, "legacy IPC has no virtual memory")                                                           \
    X(cuIpcOpenMemHandle, "memory of other processes")                                                                 \
    X(cuIpcCloseMemHandle, "memory of other processes")                                                                \
    X(cuMemGetHandleForAddressRange, "exported memory")                                                                \
    X(cuPointerSetAttribute, "sets nothing of virtual memory")                                                         \
    X(cuTexRefSetAddress, "textures by reference")                                                                     \
    X(cuTexRefSetAddress2D, "textures by reference")                                                                   \
    X(cuTexRefGetAddress, "textures by reference")                                                                     \
    /* touch no memory */                                                                                              \
    X(cuLaunchHostFunc, "runs on the CPU")                                                                             \
    X(cuOccupancyMaxActiveClusters, "asks")                                                                            \
    X(cuOccupancyMaxPotentialClusterSize, "asks")                                                                      \
    X(cuGraphMemcpyNodeGetParams, "asks")                                                                              \
    X(cuGraphMemsetNodeGetParams, "asks")                                                                              \
    X(cuGraphBatchMemOpNodeGetParams, "asks")                                                                          \
    X(cuGraphAddBatchMemOpNode, "its addresses are looked at when it runs: a launch of the graph")                     \
    X(cuGraphBatchMemOpNodeSetParams, "likewise")                                                                      \
    X(cuGraphExecBatchMemOpNodeSetParams, "likewise")

#endif
