/* SPDX-License-Identifier: Apache-2.0
 *
 * The driver functions that kvmm calls, the only list of them: X(name, version, parameters). The name is the one that
 * cuGetProcAddress takes, without "cu"; the version is the CUDA version whose form of the function is meant, as
 * cuGetProcAddress counts it (major × 1000 + minor × 10): cuMemAlloc of 3020 is the symbol cuMemAlloc_v2. All return
 * CUresult. tests/driver compares names, versions and prototypes with the toolkit's cudaTypedefs.h. */
#define CUDA_DRIVER_FUNCTIONS(X)                                                                                       \
    X(Init, 2000, (unsigned flags))                                                                                    \
    X(DriverGetVersion, 2020, (int *version))                                                                          \
    X(GetErrorName, 6000, (CUresult error, const char **name))                                                         \
    X(GetErrorString, 6000, (CUresult error, const char **text))                                                       \
    X(DeviceGetCount, 2000, (int *count))                                                                              \
    X(DeviceGet, 2000, (CUdevice * device, int ordinal))                                                               \
    X(DeviceGetName, 2000, (char *name, int length, CUdevice device))                                                  \
    X(DeviceTotalMem, 3020, (size_t * bytes, CUdevice device))                                                         \
    X(DeviceGetAttribute, 2000, (int *value, CUdevice_attribute attribute, CUdevice device))                           \
    X(DevicePrimaryCtxRetain, 7000, (CUcontext * context, CUdevice device))                                            \
    X(DevicePrimaryCtxRelease, 11000, (CUdevice device))                                                               \
    X(CtxPushCurrent, 4000, (CUcontext context))                                                                       \
    X(CtxPopCurrent, 4000, (CUcontext * context))                                                                      \
    X(CtxGetCurrent, 4000, (CUcontext * context))                                                                      \
    X(CtxSetCurrent, 4000, (CUcontext context))                                                                        \
    X(CtxGetDevice, 2000, (CUdevice * device))                                                                         \
    X(CtxSynchronize, 2000, (void))                                                                                    \
    X(ThreadExchangeStreamCaptureMode, 10010, (CUstreamCaptureMode * mode))                                            \
    X(MemGetInfo, 3020, (size_t * free, size_t * total))                                                               \
    X(MemAlloc, 3020, (CUdeviceptr * ptr, size_t bytes))                                                               \
    X(MemFree, 3020, (CUdeviceptr ptr))                                                                                \
    X(MemHostAlloc, 2020, (void **ptr, size_t bytes, unsigned flags))                                                  \
    X(MemFreeHost, 2000, (void *ptr))                                                                                  \
    X(MemHostRegister, 6050, (void *ptr, size_t bytes, unsigned flags))                                                \
    X(MemHostUnregister, 4000, (void *ptr))                                                                            \
    X(MemGetAllocationGranularity, 10020,                                                                              \
      (size_t * granularity, const CUmemAllocationProp *prop, CUmemAllocationGranularity_flags option))                \
    X(MemAddressReserve, 10020,                                                                                        \
      (CUdeviceptr * ptr, size_t bytes, size_t alignment, CUdeviceptr hint, unsigned long long flags))                 \
    X(MemAddressFree, 10020, (CUdeviceptr ptr, size_t bytes))                                                          \
    X(MemCreate, 10020,                                                                                                \
      (CUmemGenericAllocationHandle * handle, size_t bytes, const CUmemAllocationProp *prop,                           \
       unsigned long long flags))                                                                                      \
    X(MemRelease, 10020, (CUmemGenericAllocationHandle handle))                                                        \
    X(MemMap, 10020,                                                                                                   \
      (CUdeviceptr ptr, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags))   \
    X(MemUnmap, 10020, (CUdeviceptr ptr, size_t bytes))                                                                \
    X(MemSetAccess, 10020, (CUdeviceptr ptr, size_t bytes, const CUmemAccessDesc *desc, size_t count))                 \
    X(MemcpyHtoDAsync, 3020, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))                        \
    X(MemcpyDtoHAsync, 3020, (void *to, CUdeviceptr from, size_t bytes, CUstream stream))                              \
    X(MemcpyDtoDAsync, 3020, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))                        \
    X(MemsetD8Async, 3020, (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream))                       \
    X(StreamCreateWithPriority, 5050, (CUstream * stream, unsigned flags, int priority))                               \
    X(StreamDestroy, 4000, (CUstream stream))                                                                          \
    X(StreamWaitEvent, 3020, (CUstream stream, CUevent event, unsigned flags))                                         \
    X(StreamQuery, 2000, (CUstream stream))                                                                            \
    X(StreamSynchronize, 2000, (CUstream stream))                                                                      \
    X(EventCreate, 2000, (CUevent * event, unsigned flags))                                                            \
    X(EventDestroy, 4000, (CUevent event))                                                                             \
    X(EventRecord, 2000, (CUevent event, CUstream stream))                                                             \
    X(EventQuery, 2000, (CUevent event))                                                                               \
    X(EventSynchronize, 2000, (CUevent event))                                                                         \
    X(EventElapsedTime, 2000, (float *milliseconds, CUevent start, CUevent end))                                       \
    X(ModuleLoadData, 2000, (CUmodule * module, const void *image))                                                    \
    X(ModuleUnload, 2000, (CUmodule module))                                                                           \
    X(ModuleGetFunction, 2000, (CUfunction * function, CUmodule module, const char *name))                             \
    X(FuncSetAttribute, 9000, (CUfunction function, CUfunction_attribute attribute, int value))                        \
    X(OccupancyMaxActiveBlocksPerMultiprocessor, 6050,                                                                 \
      (int *blocks, CUfunction function, int block_size, size_t shared_bytes))                                         \
    X(LaunchKernel, 4000,                                                                                              \
      (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,     \
       unsigned block_z, unsigned shared_bytes, CUstream stream, void **params, void **extra))                         \
    X(StreamBeginCapture, 10010, (CUstream stream, CUstreamCaptureMode mode))                                          \
    X(StreamEndCapture, 10000, (CUstream stream, CUgraph * graph))                                                     \
    X(GraphInstantiateWithFlags, 11040, (CUgraphExec * exec, CUgraph graph, unsigned long long flags))                 \
    X(GraphLaunch, 10000, (CUgraphExec exec, CUstream stream))                                                         \
    X(GraphExecDestroy, 10000, (CUgraphExec exec))                                                                     \
    X(GraphDestroy, 10000, (CUgraph graph))
