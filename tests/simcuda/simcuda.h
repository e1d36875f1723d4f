/* SPDX-License-Identifier: Apache-2.0
 *
 * simcuda: a strict software libcuda.so.1 over host memory. Besides the driver's functions it exports these, with which a
 * test makes calls fail, reads what was violated, and asks what is still held. A program that has loaded simcuda as its
 * driver finds them through simcuda_find(); one that links it calls them by name. All are thread-safe and may be called
 * before cuInit.
 *
 * Environment, read once, at the process's first call:
 *   SIMCUDA_DEVICES=N      how many devices there are; default 1, at most 8; 0: cuInit gives NO_DEVICE
 *   SIMCUDA_MEMORY=BYTES   memory of each device, for cuMemAlloc and cuMemCreate together; default 2 GiB
 *   SIMCUDA_GRANULARITY=BYTES  of cuMemCreate and cuMemMap; a power of two, 2 MiB by default as on a GPU. Smaller ones let
 *                          tests reckon with small frames
 *   SIMCUDA_VERSION=N      the driver's version, default 12040: cuGetProcAddress finds no function that is newer
 *   SIMCUDA_VMM=0          a device without virtual memory management
 *   SIMCUDA_CAPABILITY=MN  compute capability M.N; default 90
 *   SIMCUDA_SMS=N          multiprocessors; default 132
 *   SIMCUDA_SEED=N         seed of the delays before queued operations; default 1; 0: none
 *   SIMCUDA_DELAY_US=N     the longest of them; default 200
 *   SIMCUDA_FAIL=NAME:NTH:RESULT,…   see simcuda_fail(); NTH may be FIRST-LAST
 *   SIMCUDA_ABORT=1        a violation aborts the process at once
 *   SIMCUDA_QUIET=1        violations are not printed to stderr */
#ifndef SIMCUDA_H
#define SIMCUDA_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/driver/cuda_abi.h"

/* What is live: created or retained and not yet given back. What a destroyed context took with it stays counted: on a GPU
 * it would be gone, but a program that leaves it to that has lost sight of it. */
struct simcuda_usage {
    uint64_t contexts;      /* primary contexts retained, each retain counts */
    uint64_t allocations;   /* cuMemAlloc */
    uint64_t handles;       /* cuMemCreate, not yet released */
    uint64_t memories;      /* physical memory of handles, released or not: lives until its last mapping goes */
    uint64_t mappings;      /* cuMemMap */
    uint64_t reservations;  /* cuMemAddressReserve */
    uint64_t streams;       /* created ones: not stream 0, not a thread's own */
    uint64_t events;        /* cuEventCreate */
    uint64_t registrations; /* cuMemHostRegister */
    uint64_t host_allocs;   /* cuMemHostAlloc */
    uint64_t modules;       /* cuModuleLoadData */
    uint64_t graphs;        /* cuStreamEndCapture */
    uint64_t graph_execs;   /* cuGraphInstantiateWithFlags */
    uint64_t captures;      /* begun and not ended */
    uint64_t device_bytes;  /* of memories and allocations, all devices */
    uint64_t queued;        /* operations queued or running on any stream; 0 is no matter of leaks but of rest */
};

/* How a kernel was launched. */
struct simcuda_launch {
    unsigned grid[3], block[3];
    unsigned shared_bytes;
};

/* A kernel as C: it is told device addresses in *params and finds their bytes by simcuda_host_address(). Runs on the
 * stream's thread; a touch of device memory without access is a violation and gives the sticky ILLEGAL_ADDRESS. */
typedef void simcuda_run(const void *params, const struct simcuda_launch *launch);

#define SIMCUDA_FUNCTIONS(F)                                                                                             \
    /* Where the CPU finds the byte at a device address; NULL for an address that is none. The memory there has the    \
     * rights that cuMemSetAccess gave. Only for what stands in for device code: kernels, and libraries of them. */ \
    F(void *, host_address, (CUdeviceptr address))                                                                       \
    /* Queues `run` on a stream as if it were a kernel; bytes of *params are copied now, at most 4096. For stand-ins   \
     * of libraries that bring their own kernels (cuBLAS), and for tests. Can be captured. Needs a current context. */ \
    F(CUresult, launch, (CUstream stream, const char *name, simcuda_run *run, const void *params, size_t bytes))         \
    /* Makes `name` (such as "cuMemCreate") a kernel that cuModuleGetFunction finds, with one parameter of so many     \
     * bytes. The name is copied. INVALID_VALUE: there are 64 already. */ \
    F(CUresult, add_kernel, (const char *name, size_t param_bytes, simcuda_run *run))                                    \
    /* The nth call of the function from now, 1 is the next, returns `result` and does nothing else; nth 0: every      \
     * call. NOT_FOUND: there is no such function; INVALID_VALUE: there are 64 rules already. */ \
    F(CUresult, fail, (const char *name, uint64_t nth, CUresult result))                                                 \
    /* Likewise the calls first to last, both counted: cuEventQuery, 1, 5, NOT_READY. */                                 \
    F(CUresult, fail_range, (const char *name, uint64_t first, uint64_t last, CUresult result))                          \
    F(void, fail_clear, (void))                                                                                          \
    /* How often the function was called, failed calls included; NULL: all functions together. */                        \
    F(uint64_t, calls, (const char *name))                                                                               \
    /* The names of all functions, in order; NULL past the last: for tests that fail each in turn. */                    \
    F(const char *, function_name, (size_t index))                                                                       \
    /* From now on every call returns `error` and no queued operation completes; CUDA_SUCCESS ends that. */              \
    F(void, lose_device, (CUresult error))                                                                               \
    /* Delays before queued operations: seed 0, none. For operations that begin from now on. */                          \
    F(void, set_delays, (uint64_t seed, unsigned max_us))                                                                \
    /* Operations that are not running yet wait until the stream is released: order is then in a test's hands.         \
     * Stream 0 holds all. Held streams let nothing through, so release before you synchronise. */ \
    F(void, hold, (CUstream stream))                                                                                     \
    F(void, release, (CUstream stream))                                                                                  \
    /* What each device's memory is from now on; less than is in use gives OUT_OF_MEMORY until enough is freed. */       \
    F(void, set_memory, (uint64_t bytes))                                                                                \
    /* How many violations there were, and the first one's text if text is not NULL: cut to fit, "" if none. */          \
    F(uint64_t, violations, (char *text, size_t size))                                                                   \
    F(void, violations_clear, (void))                                                                                    \
    F(void, get_usage, (struct simcuda_usage * usage))

#define F(type, name, params) __attribute__((visibility("default"))) type simcuda_##name params;
SIMCUDA_FUNCTIONS(F)
#undef F

/* The same functions as members, for programs that are not linked with simcuda. */
struct simcuda_control {
#define F(type, name, params) __typeof__(simcuda_##name) *name;
    SIMCUDA_FUNCTIONS(F)
#undef F
};

/* Finds simcuda in a process that has already loaded it. False: it has not. */
static inline bool simcuda_find(struct simcuda_control *control)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    bool found = library != NULL;
#define F(type, name, params) found = found && (*(void **)&control->name = dlsym(library, "simcuda_" #name));
    SIMCUDA_FUNCTIONS(F)
#undef F
    if (library)
        dlclose(library); /* gives back only this reference */
    return found;
}

#endif
