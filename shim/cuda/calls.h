/* SPDX-License-Identifier: Apache-2.0
 *
 * kvmm's own driver calls: around each group of them, the calling thread's context and capture mode are set and put back, so
 * that they neither disturb nor are disturbed by what the engine's thread is at. The caller holds the lock (ranges.h). */
#ifndef SHIM_CUDA_CALLS_H
#define SHIM_CUDA_CALLS_H

#include "shim/cuda/ranges.h"

/* Makes the call, and once more if it is refused: for calls whose failure would be a leak. */
#define SHIM_CUDA_TWICE(call)                                                                                          \
    ({                                                                                                                 \
        CUresult rc_ = (call);                                                                                         \
        rc_ == CUDA_SUCCESS ? rc_ : (call);                                                                            \
    })

/* What a thread was at. */
struct shim_cuda_place {
    CUstreamCaptureMode mode;
    bool has_mode, has_context;
};

/* Lets this thread make calls that a capture forbids (they touch no captured stream), in the context; NULL: in the one that
 * is current. 0 or -EIO. After 0, leave. */
int shim_cuda_place_enter(struct shim_cuda_place *place, CUcontext context);
void shim_cuda_place_leave(const struct shim_cuda_place *place);

CUmemAllocationProp shim_cuda_memory_of(CUdevice device);

/* Physical memory for one frame; 0, -ENOMEM, -EIO. */
int shim_cuda_frame_make(CUdevice device, CUmemGenericAllocationHandle *handle);
/* Unmaps what is mapped at the frame's address and gives its memory back; what the driver refuses twice is logged. False: it
 * is still mapped. */
bool shim_cuda_unback(CUdeviceptr at, CUmemGenericAllocationHandle handle);

/* ---- the contexts of the process: what there is to wait for ---- */

/* Without the lock, both. */
void shim_cuda_context_came(CUcontext context);
void shim_cuda_context_went(CUcontext context);

/* Waits until all queued work of all contexts is done. No capture may go on. -ETIMEDOUT; -EIO, and *rc is what the driver said.
 * Called without the lock. */
int shim_cuda_drain(uint64_t deadline_ns, CUresult *rc, char *reason, size_t size);

#endif
