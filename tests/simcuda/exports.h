/* SPDX-License-Identifier: Apache-2.0
 *
 * Every driver function that simcuda exports: the one list behind the prototypes, the table of cuGetProcAddress, the call
 * counts and the faults. X(id, symbol, name, version, rules, parameters): `symbol` is what a linker sees, `name` and
 * `version` what cuGetProcAddress is asked for; `rules` (enum sim_rules) is what must hold before the function looks at its
 * parameters. P(id, symbol, parameters) lists the forms in which stream 0 is the calling thread's own.
 * Source: cuda.h and cudaTypedefs.h of CUDA 13.0. */
#ifndef SIMCUDA_EXPORTS_H
#define SIMCUDA_EXPORTS_H

/* Parameters of calls that kvmm itself never makes, so that cuda_abi.h has no need of their types. The list can be read
 * after cuda.h too, for a check against it. */
#ifdef CUDA_VERSION
typedef CUpointer_attribute sim_pointer_attribute;
typedef CUstreamCaptureStatus sim_capture_status;
#else
#include "vmm/driver/cuda_abi.h"
typedef unsigned sim_pointer_attribute;
typedef int sim_capture_status; /* 0 none, 1 active, 2 invalidated */
#endif

#define SIMCUDA_EXPORTS(X)                                                                                             \
    X(Init, cuInit, cuInit, 2000, SIM_ANY_TIME, (unsigned flags))                                                      \
    X(DriverGetVersion, cuDriverGetVersion, cuDriverGetVersion, 2020, SIM_ANY_TIME, (int *version))                    \
    X(GetErrorName, cuGetErrorName, cuGetErrorName, 6000, SIM_ANY_TIME, (CUresult error, const char **name))           \
    X(GetErrorString, cuGetErrorString, cuGetErrorString, 6000, SIM_ANY_TIME, (CUresult error, const char **text))     \
    X(GetProcAddress, cuGetProcAddress, cuGetProcAddress, 11030, SIM_ANY_TIME,                                         \
      (const char *symbol, void **function, int version, uint64_t flags))                                              \
    X(GetProcAddress_v2, cuGetProcAddress_v2, cuGetProcAddress, 12000, SIM_ANY_TIME,                                   \
      (const char *symbol, void **function, int version, uint64_t flags, CUdriverProcAddressQueryResult *found))       \
    X(DeviceGetCount, cuDeviceGetCount, cuDeviceGetCount, 2000, SIM_AFTER_INIT, (int *count))                          \
    X(DeviceGet, cuDeviceGet, cuDeviceGet, 2000, SIM_AFTER_INIT, (CUdevice * device, int ordinal))                     \
    X(DeviceGetName, cuDeviceGetName, cuDeviceGetName, 2000, SIM_AFTER_INIT,                                           \
      (char *name, int length, CUdevice device))                                                                       \
    X(DeviceTotalMem, cuDeviceTotalMem_v2, cuDeviceTotalMem, 3020, SIM_AFTER_INIT, (size_t * bytes, CUdevice device))  \
    X(DeviceGetAttribute, cuDeviceGetAttribute, cuDeviceGetAttribute, 2000, SIM_AFTER_INIT,                            \
      (int *value, CUdevice_attribute attribute, CUdevice device))                                                     \
    X(DevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, 7000, SIM_AFTER_INIT,                \
      (CUcontext * context, CUdevice device))                                                                          \
    X(DevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, cuDevicePrimaryCtxRelease, 11000, SIM_AFTER_INIT,         \
      (CUdevice device))                                                                                               \
    X(CtxPushCurrent, cuCtxPushCurrent_v2, cuCtxPushCurrent, 4000, SIM_AFTER_INIT, (CUcontext context))                \
    X(CtxPopCurrent, cuCtxPopCurrent_v2, cuCtxPopCurrent, 4000, SIM_AFTER_INIT, (CUcontext * context))                 \
    X(CtxGetCurrent, cuCtxGetCurrent, cuCtxGetCurrent, 4000, SIM_AFTER_INIT, (CUcontext * context))                    \
    X(CtxSetCurrent, cuCtxSetCurrent, cuCtxSetCurrent, 4000, SIM_AFTER_INIT, (CUcontext context))                      \
    X(CtxGetDevice, cuCtxGetDevice, cuCtxGetDevice, 2000, SIM_IN_CONTEXT, (CUdevice * device))                         \
    X(CtxSynchronize, cuCtxSynchronize, cuCtxSynchronize, 2000, SIM_UNSAFE, (void))                                    \
    X(MemGetInfo, cuMemGetInfo_v2, cuMemGetInfo, 3020, SIM_IN_CONTEXT, (size_t * free, size_t * total))                \
    X(MemAlloc, cuMemAlloc_v2, cuMemAlloc, 3020, SIM_UNSAFE, (CUdeviceptr * ptr, size_t bytes))                        \
    X(MemFree, cuMemFree_v2, cuMemFree, 3020, SIM_UNSAFE, (CUdeviceptr ptr))                                           \
    X(MemHostAlloc, cuMemHostAlloc, cuMemHostAlloc, 2020, SIM_UNSAFE, (void **ptr, size_t bytes, unsigned flags))      \
    X(MemFreeHost, cuMemFreeHost, cuMemFreeHost, 2000, SIM_UNSAFE, (void *ptr))                                        \
    X(MemHostRegister, cuMemHostRegister_v2, cuMemHostRegister, 6050, SIM_UNSAFE,                                      \
      (void *ptr, size_t bytes, unsigned flags))                                                                       \
    X(MemHostUnregister, cuMemHostUnregister, cuMemHostUnregister, 4000, SIM_UNSAFE, (void *ptr))                      \
    X(PointerGetAttribute, cuPointerGetAttribute, cuPointerGetAttribute, 4000, SIM_IN_CONTEXT,                         \
      (void *data, sim_pointer_attribute attribute, CUdeviceptr ptr))                                                  \
    X(PointerGetAttributes, cuPointerGetAttributes, cuPointerGetAttributes, 7000, SIM_IN_CONTEXT,                      \
      (unsigned n, sim_pointer_attribute *attributes, void **data, CUdeviceptr ptr))                                   \
    X(MemGetAddressRange, cuMemGetAddressRange_v2, cuMemGetAddressRange, 3020, SIM_IN_CONTEXT,                         \
      (CUdeviceptr * base, size_t * bytes, CUdeviceptr ptr))                                                           \
    X(MemGetAllocationGranularity, cuMemGetAllocationGranularity, cuMemGetAllocationGranularity, 10020,                \
      SIM_AFTER_INIT,                                                                                                  \
      (size_t * granularity, const CUmemAllocationProp *prop, CUmemAllocationGranularity_flags option))                \
    X(MemAddressReserve, cuMemAddressReserve, cuMemAddressReserve, 10020, SIM_AFTER_INIT,                              \
      (CUdeviceptr * ptr, size_t bytes, size_t alignment, CUdeviceptr hint, unsigned long long flags))                 \
    X(MemAddressFree, cuMemAddressFree, cuMemAddressFree, 10020, SIM_AFTER_INIT, (CUdeviceptr ptr, size_t bytes))      \
    X(MemCreate, cuMemCreate, cuMemCreate, 10020, SIM_AFTER_INIT,                                                      \
      (CUmemGenericAllocationHandle * handle, size_t bytes, const CUmemAllocationProp *prop,                           \
       unsigned long long flags))                                                                                      \
    X(MemRelease, cuMemRelease, cuMemRelease, 10020, SIM_AFTER_INIT, (CUmemGenericAllocationHandle handle))            \
    X(MemMap, cuMemMap, cuMemMap, 10020, SIM_AFTER_INIT,                                                               \
      (CUdeviceptr ptr, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags))   \
    X(MemUnmap, cuMemUnmap, cuMemUnmap, 10020, SIM_AFTER_INIT, (CUdeviceptr ptr, size_t bytes))                        \
    X(MemSetAccess, cuMemSetAccess, cuMemSetAccess, 10020, SIM_AFTER_INIT,                                             \
      (CUdeviceptr ptr, size_t bytes, const CUmemAccessDesc *desc, size_t count))                                      \
    X(MemcpyHtoD, cuMemcpyHtoD_v2, cuMemcpyHtoD, 3020, SIM_UNSAFE, (CUdeviceptr to, const void *from, size_t bytes))   \
    X(MemcpyDtoH, cuMemcpyDtoH_v2, cuMemcpyDtoH, 3020, SIM_UNSAFE, (void *to, CUdeviceptr from, size_t bytes))         \
    X(MemcpyDtoD, cuMemcpyDtoD_v2, cuMemcpyDtoD, 3020, SIM_UNSAFE, (CUdeviceptr to, CUdeviceptr from, size_t bytes))   \
    X(MemsetD8, cuMemsetD8_v2, cuMemsetD8, 3020, SIM_UNSAFE, (CUdeviceptr to, unsigned char value, size_t bytes))      \
    X(MemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, cuMemcpyHtoDAsync, 3020, SIM_IN_CONTEXT,                                  \
      (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))                                               \
    X(MemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, cuMemcpyDtoHAsync, 3020, SIM_IN_CONTEXT,                                  \
      (void *to, CUdeviceptr from, size_t bytes, CUstream stream))                                                     \
    X(MemcpyDtoDAsync, cuMemcpyDtoDAsync_v2, cuMemcpyDtoDAsync, 3020, SIM_IN_CONTEXT,                                  \
      (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))                                               \
    X(MemsetD8Async, cuMemsetD8Async, cuMemsetD8Async, 3020, SIM_IN_CONTEXT,                                           \
      (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream))                                            \
    X(MemsetD32Async, cuMemsetD32Async, cuMemsetD32Async, 3020, SIM_IN_CONTEXT,                                        \
      (CUdeviceptr to, unsigned value, size_t n, CUstream stream))                                                     \
    X(Memcpy, cuMemcpy, cuMemcpy, 4000, SIM_UNSAFE, (CUdeviceptr to, CUdeviceptr from, size_t bytes))                  \
    X(MemcpyAsync, cuMemcpyAsync, cuMemcpyAsync, 4000, SIM_IN_CONTEXT,                                                 \
      (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))                                               \
    X(StreamCreate, cuStreamCreate, cuStreamCreate, 2000, SIM_IN_CONTEXT, (CUstream * stream, unsigned flags))         \
    X(StreamCreateWithPriority, cuStreamCreateWithPriority, cuStreamCreateWithPriority, 5050, SIM_IN_CONTEXT,          \
      (CUstream * stream, unsigned flags, int priority))                                                               \
    X(StreamDestroy, cuStreamDestroy_v2, cuStreamDestroy, 4000, SIM_IN_CONTEXT, (CUstream stream))                     \
    X(StreamWaitEvent, cuStreamWaitEvent, cuStreamWaitEvent, 3020, SIM_IN_CONTEXT,                                     \
      (CUstream stream, CUevent event, unsigned flags))                                                                \
    X(StreamQuery, cuStreamQuery, cuStreamQuery, 2000, SIM_UNSAFE, (CUstream stream))                                  \
    X(StreamSynchronize, cuStreamSynchronize, cuStreamSynchronize, 2000, SIM_UNSAFE, (CUstream stream))                \
    X(EventCreate, cuEventCreate, cuEventCreate, 2000, SIM_IN_CONTEXT, (CUevent * event, unsigned flags))              \
    X(EventDestroy, cuEventDestroy_v2, cuEventDestroy, 4000, SIM_IN_CONTEXT, (CUevent event))                          \
    X(EventRecord, cuEventRecord, cuEventRecord, 2000, SIM_IN_CONTEXT, (CUevent event, CUstream stream))               \
    X(EventQuery, cuEventQuery, cuEventQuery, 2000, SIM_UNSAFE, (CUevent event))                                       \
    X(EventSynchronize, cuEventSynchronize, cuEventSynchronize, 2000, SIM_UNSAFE, (CUevent event))                     \
    X(EventElapsedTime, cuEventElapsedTime, cuEventElapsedTime, 2000, SIM_IN_CONTEXT,                                  \
      (float *milliseconds, CUevent start, CUevent end))                                                               \
    X(ModuleLoadData, cuModuleLoadData, cuModuleLoadData, 2000, SIM_UNSAFE, (CUmodule * module, const void *image))    \
    X(ModuleUnload, cuModuleUnload, cuModuleUnload, 2000, SIM_UNSAFE, (CUmodule module))                               \
    X(ModuleGetFunction, cuModuleGetFunction, cuModuleGetFunction, 2000, SIM_IN_CONTEXT,                               \
      (CUfunction * function, CUmodule module, const char *name))                                                      \
    X(FuncSetAttribute, cuFuncSetAttribute, cuFuncSetAttribute, 9000, SIM_IN_CONTEXT,                                  \
      (CUfunction function, CUfunction_attribute attribute, int value))                                                \
    X(OccupancyMaxActiveBlocksPerMultiprocessor, cuOccupancyMaxActiveBlocksPerMultiprocessor,                          \
      cuOccupancyMaxActiveBlocksPerMultiprocessor, 6050, SIM_IN_CONTEXT,                                               \
      (int *blocks, CUfunction function, int block_size, size_t shared_bytes))                                         \
    X(LaunchKernel, cuLaunchKernel, cuLaunchKernel, 4000, SIM_IN_CONTEXT,                                              \
      (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,     \
       unsigned block_z, unsigned shared_bytes, CUstream stream, void **params, void **extra))                         \
    X(LaunchHostFunc, cuLaunchHostFunc, cuLaunchHostFunc, 10000, SIM_IN_CONTEXT,                                       \
      (CUstream stream, CUhostFn function, void *user))                                                                \
    X(ThreadExchangeStreamCaptureMode, cuThreadExchangeStreamCaptureMode, cuThreadExchangeStreamCaptureMode, 10010,    \
      SIM_AFTER_INIT, (CUstreamCaptureMode * mode))                                                                    \
    X(StreamIsCapturing, cuStreamIsCapturing, cuStreamIsCapturing, 10000, SIM_IN_CONTEXT,                              \
      (CUstream stream, sim_capture_status * status))                                                                  \
    X(StreamBeginCapture, cuStreamBeginCapture_v2, cuStreamBeginCapture, 10010, SIM_IN_CONTEXT,                        \
      (CUstream stream, CUstreamCaptureMode mode))                                                                     \
    X(StreamEndCapture, cuStreamEndCapture, cuStreamEndCapture, 10000, SIM_IN_CONTEXT,                                 \
      (CUstream stream, CUgraph * graph))                                                                              \
    X(GraphInstantiateWithFlags, cuGraphInstantiateWithFlags, cuGraphInstantiateWithFlags, 11040, SIM_IN_CONTEXT,      \
      (CUgraphExec * exec, CUgraph graph, unsigned long long flags))                                                   \
    X(GraphLaunch, cuGraphLaunch, cuGraphLaunch, 10000, SIM_IN_CONTEXT, (CUgraphExec exec, CUstream stream))           \
    X(GraphExecDestroy, cuGraphExecDestroy, cuGraphExecDestroy, 10000, SIM_AFTER_INIT, (CUgraphExec exec))             \
    X(GraphDestroy, cuGraphDestroy, cuGraphDestroy, 10000, SIM_AFTER_INIT, (CUgraph graph))

#define SIMCUDA_PER_THREAD_EXPORTS(P)                                                                                  \
    P(MemcpyHtoD, cuMemcpyHtoD_v2_ptds, (CUdeviceptr to, const void *from, size_t bytes))                              \
    P(MemcpyDtoH, cuMemcpyDtoH_v2_ptds, (void *to, CUdeviceptr from, size_t bytes))                                    \
    P(MemcpyDtoD, cuMemcpyDtoD_v2_ptds, (CUdeviceptr to, CUdeviceptr from, size_t bytes))                              \
    P(MemsetD8, cuMemsetD8_v2_ptds, (CUdeviceptr to, unsigned char value, size_t bytes))                               \
    P(MemcpyHtoDAsync, cuMemcpyHtoDAsync_v2_ptsz, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))   \
    P(MemcpyDtoHAsync, cuMemcpyDtoHAsync_v2_ptsz, (void *to, CUdeviceptr from, size_t bytes, CUstream stream))         \
    P(MemcpyDtoDAsync, cuMemcpyDtoDAsync_v2_ptsz, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))   \
    P(Memcpy, cuMemcpy_ptds, (CUdeviceptr to, CUdeviceptr from, size_t bytes))                                         \
    P(MemcpyAsync, cuMemcpyAsync_ptsz, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))              \
    P(MemsetD32Async, cuMemsetD32Async_ptsz, (CUdeviceptr to, unsigned value, size_t n, CUstream stream))              \
    P(MemsetD8Async, cuMemsetD8Async_ptsz, (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream))       \
    P(StreamWaitEvent, cuStreamWaitEvent_ptsz, (CUstream stream, CUevent event, unsigned flags))                       \
    P(StreamQuery, cuStreamQuery_ptsz, (CUstream stream))                                                              \
    P(StreamSynchronize, cuStreamSynchronize_ptsz, (CUstream stream))                                                  \
    P(EventRecord, cuEventRecord_ptsz, (CUevent event, CUstream stream))                                               \
    P(LaunchKernel, cuLaunchKernel_ptsz,                                                                               \
      (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,     \
       unsigned block_z, unsigned shared_bytes, CUstream stream, void **params, void **extra))                         \
    P(LaunchHostFunc, cuLaunchHostFunc_ptsz, (CUstream stream, CUhostFn function, void *user))                         \
    P(StreamIsCapturing, cuStreamIsCapturing_ptsz, (CUstream stream, sim_capture_status * status))                     \
    P(StreamBeginCapture, cuStreamBeginCapture_v2_ptsz, (CUstream stream, CUstreamCaptureMode mode))                   \
    P(StreamEndCapture, cuStreamEndCapture_ptsz, (CUstream stream, CUgraph * graph))                                   \
    P(GraphLaunch, cuGraphLaunch_ptsz, (CUgraphExec exec, CUstream stream))

#ifndef CUDA_VERSION
#define SIM_EXPORT __attribute__((visibility("default")))

#define X(id, symbol, name, version, rules, params) SIM_EXPORT CUresult symbol params;
SIMCUDA_EXPORTS(X)
#undef X
#define P(id, symbol, params) SIM_EXPORT CUresult symbol params;
SIMCUDA_PER_THREAD_EXPORTS(P)
#undef P
#endif

#endif
