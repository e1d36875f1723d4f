/* SPDX-License-Identifier: Apache-2.0
 *
 * The GPU side of the shim, as the rest of the shim sees it. The driver functions that it interposes are exported from
 * the library (hooks.h lists them); everything else is here. README.md says what is promised.
 *
 *     shim_cuda_open(&config, reason, sizeof reason);        once, before the engine's first call
 *     shim_cuda_dlsym(handle, name)                          from the dlsym that the library interposes
 *     shim_cuda_suspend(60000, reason, sizeof reason);       GPU memory of the cache is given back; its bytes are kept
 *     shim_cuda_resume(reason, sizeof reason);               the same bytes are at the same addresses again
 *
 * All functions are thread-safe, and may be called from threads that have no CUDA context. None may be called from a
 * host function of a stream (no CUDA call may be made there). Errors are negative errno values; where there is a
 * reason[size], it then holds one line, and is otherwise untouched. */
#ifndef SHIM_CUDA_H
#define SHIM_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shim/config.h"

struct swap_faults;

/* From now on allocations that the rules (shim/select.h, opened by the caller) select become memory of kvmm's. Nothing of
 * CUDA is loaded or called until the engine does. Strings of *config must stay. Without this call every hook passes.
 * Returns 0 or -ENOMEM. */
int shim_cuda_open(const struct shim_config *config, char *reason, size_t size);

/* The hook that stands for `name`, if it is exactly the symbol of a driver function that is interposed and the library
 * `handle` has it; NULL: dlsym's own answer is right. */
void *shim_cuda_dlsym(void *handle, const char *name);

/* Whether a cache is on a GPU, or was when it was suspended: what the control socket, which serves either kind of engine,
 * asks first. */
bool shim_cuda_active(void);

/* Waits until calls under way have returned and the work that was queued is done, moves what is in the cache to host memory
 * and the swap file, and gives its GPU memory back. Calls that need the cache then wait, or fail (config.suspended), until
 * resume. 0 at once if that is the state already. On failure all is as it was before and the engine goes on:
 * -ETIMEDOUT: calls, captures or queued work did not end in wait_ms; -ENOSPC: host memory and swap file can't hold it;
 * -EIO: the driver or the disk failed. */
int shim_cuda_suspend(uint32_t wait_ms, char *reason, size_t size);

/* Puts everything back where it was, then lets waiting calls go on. 0 at once if nothing is suspended. -ENOMEM: the device's
 * memory is taken by somebody else; -EIO: the driver failed: nothing changed, no byte is lost, try again. -EBADMSG: some
 * frames could not be read back. Then the engine goes on, but its launches fail (README.md). */
int shim_cuda_resume(char *reason, size_t size);

/* kvmm_advise (shim/include/kvmm/shim.h) for memory of a GPU; -ENOENT: it isn't. -EBUSY: a graph is being captured, or the
 * cache is suspended. */
int shim_cuda_advise(void *address, size_t bytes, int advice, char *reason, size_t size);

struct shim_cuda_info {
    uint64_t range_bytes;    /* of all ranges that are cache, whole granules */
    uint64_t memory_bytes;   /* the budget; 0: none */
    uint64_t resident_bytes; /* on the device now */
    uint64_t peak_bytes;
    uint64_t host_bytes;    /* in host memory alone */
    uint64_t swapped_bytes; /* in the swap file alone */
    uint64_t blank_bytes;   /* nowhere: reads as zeros */
    uint64_t lost_bytes;    /* could not be read back */
    uint64_t n_ranges;
    uint64_t n_suspends, n_resumes; /* that succeeded */
    uint64_t suspend_ns, resume_ns; /* how long the last one took */
    bool suspended;
};
void shim_cuda_get_info(struct shim_cuda_info *info);
/* The same as name=value pairs, appended by shim_control_pair(), for the control socket's `info`. 0, or -ENOSPC. */
int shim_cuda_info(char *text, size_t size);

/* Tests: faults in the swap file from now on (swap/backend.h); NULL: none. Before the first suspend. */
void shim_cuda_set_swap_faults(const struct swap_faults *faults);

#endif
