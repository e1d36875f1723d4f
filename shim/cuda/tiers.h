/* SPDX-License-Identifier: Apache-2.0
 *
 * Where frames go that leave the device: pinned host memory (the budget KVMM_HOST_MEMORY) first, then the swap file
 * (KVMM_SWAP_DIR). Both are opened when the first frame leaves, and stay until the last range is gone. The caller holds the
 * lock of shim_cuda (ranges.h). */
#ifndef SHIM_CUDA_TIERS_H
#define SHIM_CUDA_TIERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shim/cuda/abi.h"
#include "swap/swap.h"

struct shim_cuda_slot {
    uint32_t slot;
    uint32_t generation; /* of the stamp */
    bool in_file;
};

/* Opens what the configuration has, and pins the host memory in the current context where it isn't yet. -ENOSPC: there is
 * neither; -EIO, -ENOMEM. */
int shim_cuda_tiers_open(size_t frame_bytes);
void shim_cuda_tiers_close(void);

/* A free slot; -ENOSPC: there is none. Also from a transfer's callbacks. */
int shim_cuda_slot_take(struct shim_cuda_slot *slot);
void shim_cuda_slot_give(const struct shim_cuda_slot *slot);
struct swap_store *shim_cuda_slot_store(const struct shim_cuda_slot *slot);
/* Pinned memory that is the slot itself; NULL: bytes pass through staging. */
void *shim_cuda_slot_memory(const struct shim_cuda_slot *slot);

/* The context is about to go: what is pinned in it is unpinned, and pinned anew in another when it is needed. The context is
 * current. */
void shim_cuda_tiers_leave_context(CUcontext context);

/* For checks: slots that are taken in both tiers. */
uint64_t shim_cuda_slots_taken(void);

void shim_cuda_tiers_set_faults(const struct swap_faults *faults);

#endif
