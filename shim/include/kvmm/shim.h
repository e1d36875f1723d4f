/* SPDX-License-Identifier: Apache-2.0
 *
 * What libkvmm_shim.so, the library to preload under an engine, exports for engines that know of it. An engine finds these
 * with dlsym(RTLD_DEFAULT, "kvmm_advise"): NULL means that it runs without the shim. Nothing links the shim. */
#ifndef KVMM_SHIM_H
#define KVMM_SHIM_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvmm_advice {
    KVMM_WILLNEED =
        0,         /* will be used soon: fetch it, as far as the budget allows; on a GPU: it is resident on return */
    KVMM_COLD = 1, /* will not be used for a while: may leave first */
    KVMM_FREE = 2  /* its contents are not needed: reads as zeros (CPU) or undefined bytes (GPU) from now on */
};

/* Tells kvmm what the engine knows about [address, address + bytes) of a cache that the shim manages. Whole pages inside are
 * meant; edges are left alone, but for KVMM_FREE on a CPU. Thread-safe. Returns 0; -ENOENT if the shim doesn't manage that
 * memory; -EINVAL for an unknown advice or a range that leaves the allocation; -ENOSPC, -ENOMEM when KVMM_WILLNEED finds no
 * room on a GPU. */
int kvmm_advise(void *address, size_t bytes, int advice);

/* For torch.cuda.memory.CUDAPluggableAllocator(path_of_the_shim, "kvmm_torch_malloc", "kvmm_torch_free"): memory of a GPU
 * cache. Size in bytes, CUDA device ordinal, CUDA stream. NULL when there is none. */
void *kvmm_torch_malloc(ptrdiff_t bytes, int device, void *stream);
void kvmm_torch_free(void *address, ptrdiff_t bytes, int device, void *stream);

#ifdef __cplusplus
}
#endif

#endif
