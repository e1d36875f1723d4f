/* SPDX-License-Identifier: Apache-2.0
 *
 * The functions for torch's CUDAPluggableAllocator: what it allocates is the cache, whatever the rules say. */
#include <dlfcn.h>
#include <string.h>

#include "shim/include/kvmm/shim.h"
#include "shim/cuda/calls.h"
#include "shim/cuda/find.h"
#include "shim/cuda/gate.h"
#include "shim/cuda/memory.h"
#include "shim/log.h"

/* torch opens the library by its path. If it isn't preloaded too, nobody sees the kernel launches that a suspend has to wait
 * for. */
static bool is_preloaded(void)
{
    void *seen = shim_cuda_find_symbol(RTLD_DEFAULT, "cuLaunchKernel");
    CUresult (*hook)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                     void **, void **) = cuLaunchKernel;
    return memcmp(&seen, &hook, sizeof seen) == 0;
}

__attribute__((visibility("default"))) void *kvmm_torch_malloc(ptrdiff_t bytes, int device, void *stream)
{
    static bool said_not_preloaded, said_device;
    CUdeviceptr ptr = 0;
    CUdevice current = -1;
    if (bytes <= 0)
        return NULL;
    if (!shim_cuda.open || !is_preloaded()) {
        shim_log_once(&said_not_preloaded,
                      "kvmm_torch_malloc: the library must be preloaded too (LD_PRELOAD, or kvmm run)");
        return NULL;
    }
    char reason[CUDA_DRIVER_REASON];
    const struct cuda_driver *cu = shim_cuda_driver(reason);
    if (!cu || cu->CtxGetDevice(&current) != CUDA_SUCCESS || current != device) {
        shim_log_once(&said_device, "kvmm_torch_malloc: device %d is not the current one", device);
        return NULL;
    }
    if (shim_cuda_gate_enter() != CUDA_SUCCESS)
        return NULL;
    int result = shim_cuda_allocate((size_t)bytes, false, &ptr);
    shim_cuda_gate_leave();
    return result ? NULL : (void *)(uintptr_t)ptr;
}

__attribute__((visibility("default"))) void kvmm_torch_free(void *address, ptrdiff_t bytes, int device, void *stream)
{
    static bool said;
    CUresult rc = address ? shim_cuda_free((uintptr_t)address) : CUDA_SUCCESS;
    if (rc != CUDA_SUCCESS && rc != CUDA_ERROR_DEINITIALIZED)
        shim_log_once(&said, "kvmm_torch_free: %p of device %d could not be freed: CUDA error %d", address, device,
                      (int)rc);
}
