/* SPDX-License-Identifier: Apache-2.0
 *
 * A test engine that finds the driver in each way in which engines do, and what its tests have in common. The tests run with
 * the shim preloaded (meson.build), each in a process of its own (Check forks before CUDA is touched). */
#ifndef TESTS_SHIM_CUDA_ENGINE_H
#define TESTS_SHIM_CUDA_ENGINE_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shim/cuda/abi.h"
#include "tests/shim/cuda_control.h"
#include "tests/shim/cuda_dlsym.h"
#include "tests/simcuda/simcuda.h"

#define FRAME ((size_t)64 << 10)                       /* SIMCUDA_GRANULARITY of the tests */
#define CACHE (((size_t)1 << 20) + 3 * FRAME / 2 + 24) /* 18 frames, the last one half used */

#define N_FRAMES 18

#define OK(call)            ck_assert_int_eq(call, CUDA_SUCCESS)
#define FAILS(call, result) ck_assert_int_eq(call, result)

/* X(member, name, symbol, suffix of the other form, version, version of the other form, parameters). */
#define ENGINE_FUNCTIONS(X)                                                                                            \
    X(init, cuInit, cuInit, , 2000, 2000, (unsigned flags))                                                            \
    X(retain, cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, , 7000, 7000, (CUcontext *, CUdevice))               \
    X(release, cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, , 11000, 11000, (CUdevice))                    \
    X(set_current, cuCtxSetCurrent, cuCtxSetCurrent, , 4000, 4000, (CUcontext))                                        \
    X(mem_info, cuMemGetInfo, cuMemGetInfo_v2, , 3020, 3020, (size_t *, size_t *))                                     \
    X(alloc, cuMemAlloc, cuMemAlloc_v2, , 3020, 3020, (CUdeviceptr *, size_t))                                         \
    X(free, cuMemFree, cuMemFree_v2, , 3020, 3020, (CUdeviceptr))                                                      \
    X(address_range, cuMemGetAddressRange, cuMemGetAddressRange_v2, , 3020, 3020,                                      \
      (CUdeviceptr *, size_t *, CUdeviceptr))                                                                          \
    X(attribute, cuPointerGetAttribute, cuPointerGetAttribute, , 4000, 4000,                                           \
      (void *, CUpointer_attribute, CUdeviceptr))                                                                      \
    X(attributes, cuPointerGetAttributes, cuPointerGetAttributes, , 7000, 7000,                                        \
      (unsigned, CUpointer_attribute *, void **, CUdeviceptr))                                                         \
    X(host_alloc, cuMemHostAlloc, cuMemHostAlloc, , 2020, 2020, (void **, size_t, unsigned))                           \
    X(host_free, cuMemFreeHost, cuMemFreeHost, , 2000, 2000, (void *))                                                 \
    X(to_device, cuMemcpyHtoD, cuMemcpyHtoD_v2, _ptds, 3020, 7000, (CUdeviceptr, const void *, size_t))                \
    X(to_host, cuMemcpyDtoH, cuMemcpyDtoH_v2, _ptds, 3020, 7000, (void *, CUdeviceptr, size_t))                        \
    X(on_device_async, cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2, _ptsz, 3020, 7000,                                     \
      (CUdeviceptr, CUdeviceptr, size_t, CUstream))                                                                    \
    X(to_device_async, cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, _ptsz, 3020, 7000,                                     \
      (CUdeviceptr, const void *, size_t, CUstream))                                                                   \
    X(to_host_async, cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, _ptsz, 3020, 7000,                                       \
      (void *, CUdeviceptr, size_t, CUstream))                                                                         \
    X(copy_async, cuMemcpyAsync, cuMemcpyAsync, _ptsz, 4000, 7000, (CUdeviceptr, CUdeviceptr, size_t, CUstream))       \
    X(fill, cuMemsetD8, cuMemsetD8_v2, _ptds, 3020, 7000, (CUdeviceptr, unsigned char, size_t))                        \
    X(fill_async, cuMemsetD8Async, cuMemsetD8Async, _ptsz, 3020, 7000, (CUdeviceptr, unsigned char, size_t, CUstream)) \
    X(fill32_async, cuMemsetD32Async, cuMemsetD32Async, _ptsz, 3020, 7000, (CUdeviceptr, unsigned, size_t, CUstream))  \
    X(launch, cuLaunchKernel, cuLaunchKernel, _ptsz, 4000, 7000,                                                       \
      (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **))  \
    X(stream_create, cuStreamCreate, cuStreamCreate, , 2000, 2000, (CUstream *, unsigned))                             \
    X(stream_destroy, cuStreamDestroy, cuStreamDestroy_v2, , 4000, 4000, (CUstream))                                   \
    X(synchronize, cuStreamSynchronize, cuStreamSynchronize, _ptsz, 2000, 7000, (CUstream))                            \
    X(begin_capture, cuStreamBeginCapture, cuStreamBeginCapture_v2, _ptsz, 10010, 10010,                               \
      (CUstream, CUstreamCaptureMode))                                                                                 \
    X(end_capture, cuStreamEndCapture, cuStreamEndCapture, _ptsz, 10000, 10000, (CUstream, CUgraph *))                 \
    X(instantiate, cuGraphInstantiateWithFlags, cuGraphInstantiateWithFlags, , 11040, 11040,                           \
      (CUgraphExec *, CUgraph, unsigned long long))                                                                    \
    X(graph_launch, cuGraphLaunch, cuGraphLaunch, _ptsz, 10000, 10000, (CUgraphExec, CUstream))                        \
    X(graph_destroy, cuGraphDestroy, cuGraphDestroy, , 10000, 10000, (CUgraph))                                        \
    X(exec_destroy, cuGraphExecDestroy, cuGraphExecDestroy, , 10000, 10000, (CUgraphExec))                             \
    X(module_load, cuModuleLoadData, cuModuleLoadData, , 2000, 2000, (CUmodule *, const void *))                       \
    X(module_unload, cuModuleUnload, cuModuleUnload, , 2000, 2000, (CUmodule))                                         \
    X(get_function, cuModuleGetFunction, cuModuleGetFunction, , 2000, 2000, (CUfunction *, CUmodule, const char *))

struct engine_driver {
#define X(member, name, symbol, suffix, version, thread_version, params) CUresult(*member) params;
    ENGINE_FUNCTIONS(X)
#undef X
};

enum engine_way {
    ENGINE_LINKED,       /* libcuda is a dependency of the program */
    ENGINE_DLSYM,        /* dlopen, and dlsym of each symbol */
    ENGINE_DLSYM_THREAD, /* the same, of the forms whose stream 0 is the thread's own */
    ENGINE_GET_11,       /* cuGetProcAddress with four arguments */
    ENGINE_GET_12,       /* cuGetProcAddress_v2 */
    ENGINE_GET_THREAD,   /* the same, with the flag for the other forms */
    ENGINE_GET_NESTED,   /* cuGetProcAddress_v2 asked for itself first */
    ENGINE_N_WAYS
};
extern const char *const engine_way_names[ENGINE_N_WAYS];

struct engine {
    struct engine_driver cu;
    struct simcuda_control sim;
    struct shim_test shim;
    CUmodule module;
    CUfunction step; /* the kernel of struct engine_step */
    struct simcuda_usage before;
};
extern struct engine engine;

/* Finds everything, makes the device's context current, and has the kernel. */
void engine_start(enum engine_way way);
/* Ends it: no violation, and what the driver counts is as it was before the start. */
void engine_end(void);

/* What the kernel does with each of the n words at `at`: it must be engine_word(its index, before), and becomes
 * engine_word(its index, after). Words that are wrong are counted. */
struct engine_step {
    CUdeviceptr at; /* of the words of this step */
    uint64_t first; /* index of the first */
    uint64_t n, before, after;
};
CUresult engine_launch(const struct engine_step *step, CUstream stream);
uint64_t engine_word(uint64_t index, uint64_t round); /* round 0: zero */
uint64_t engine_n_wrong(void);

/* Reads `bytes` at `at` with the driver and compares them with the words of the round. */
void engine_expect(CUdeviceptr at, uint64_t first, size_t n, uint64_t round);

/* What the tests' rule selects: allocations by this function. */
CUresult engine_alloc(CUdeviceptr *ptr, size_t bytes);
/* A cache of CACHE bytes. */
CUdeviceptr engine_cache(void);

#define CACHE_WORDS (CACHE / sizeof(uint64_t))

static inline struct simcuda_usage engine_usage(void)
{
    struct simcuda_usage usage;
    engine.sim.get_usage(&usage);
    return usage;
}

static inline struct shim_cuda_info engine_info(void)
{
    struct shim_cuda_info info;
    engine.shim.get_info(&info);
    return info;
}

/* The shim's figures are what there is. While no call is under way. */
void engine_check(void);

void engine_suspend(void);
void engine_resume(void);

/* CK_NORMAL run of one suite; tests ends with NULL. Every test runs with engine_start(way) and engine_end(). */
int engine_run(const char *name, const TTest *const *tests, int timeout_s);

#endif
