/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocations of the cache. */
#ifndef SHIM_CUDA_MEMORY_H
#define SHIM_CUDA_MEMORY_H

#include "shim/cuda/ranges.h"

/* A range for the current context. 0; -ENOMEM: the device has no room; any other code: this process can't have one, and
 * that has been said. Takes the lock. */
int shim_cuda_allocate(size_t bytes, bool tentative, CUdeviceptr *ptr);

/* Frees the range that begins at ptr, when the work that is queued is done. INVALID_VALUE: none does. */
CUresult shim_cuda_free(CUdeviceptr ptr);

/* Frees all ranges of the context, which is about to go. */
void shim_cuda_free_context(CUcontext context);

#endif
