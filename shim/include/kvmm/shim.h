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
    /* Will be used soon: fetch it, as far as the budget allows. On a GPU it is resident on return. */
    KVMM_WILLNEED = 0,
    /* Will not be used for a while: may leave first. On a GPU it has left on return, and this is a promise: no kernel and no
     * graph that is launched after the call touches it before KVMM_WILLNEED; one that does meets unmapped memory. Copies and
     * fills of the driver may: they bring what they touch. */
    KVMM_COLD = 1,
    /* Its contents are not needed: reads as zeros (CPU) or undefined bytes (GPU) from now on. On a GPU the same promise as of
     * KVMM_COLD. */
    KVMM_FREE = 2
};

/* Tells kvmm what the engine knows about [address, address + bytes) of a cache that the shim manages. Whole pages inside are
 * meant (on a GPU, frames of 2 MiB, counted from the allocation's start); edges are left alone, but for KVMM_FREE on a CPU and
 * KVMM_WILLNEED. Thread-safe; but no other thread may use the memory while KVMM_COLD or KVMM_FREE is under way.
 *
 * On a GPU, KVMM_COLD and KVMM_FREE wait for the work that is queued on the device, so they are not for every step.
 *
 * Returns 0; -ENOENT if the shim doesn't manage that memory; -EINVAL for an unknown advice or a range that leaves the
 * allocation. On a GPU also: -ENOSPC, the budget (KVMM_WILLNEED), or host memory and swap file (KVMM_COLD), have no room;
 * -ENOMEM, the device hasn't; -EBUSY, a graph is being captured, or the cache is suspended; -EBADMSG, what is needed could
 * not be read back; -ETIMEDOUT, queued work did not end within a minute; -EIO, the driver or the disk failed. Then nothing has
 * changed. */
int kvmm_advise(void *address, size_t bytes, int advice);

/* For torch.cuda.memory.CUDAPluggableAllocator(path_of_the_shim, "kvmm_torch_malloc", "kvmm_torch_free"): memory of a GPU
 * cache. Size in bytes, CUDA device ordinal, CUDA stream. NULL when there is none. */
void *kvmm_torch_malloc(ptrdiff_t bytes, int device, void *stream);
void kvmm_torch_free(void *address, ptrdiff_t bytes, int device, void *stream);

#ifdef __cplusplus
}
#endif

#endif
