/* SPDX-License-Identifier: Apache-2.0
 *
 * The readable tail: behind the last frame of each group stands a frame of zeros, readable only, for kernels that read past
 * the last token inside their tile. It is the same memory for all sequences; a write there faults.
 *
 * It moves when the sequence grows by a frame or shrinks, and only when no kernel that may read it runs. */
#include "vmm/mm.h"

/* The frame of each group where the tail belongs, + 1; 0: nowhere. */
static uint32_t wanted(const kvmm_seq *seq)
{
    if (!seq->mm->readable_tail || seq->live == 0 || seq->live == seq->group_frames)
        return 0;
    return seq->live + 1;
}

bool vmm_tail_right(const kvmm_seq *seq)
{
    return seq->tail == wanted(seq);
}

/* Of groups [0, n). */
static int unmap_tails(kvmm_seq *seq, uint32_t n)
{
    struct vmm_device *device = seq->mm->device;
    while (n > 0) {
        uint64_t index = (uint64_t)(n - 1) * seq->group_frames + seq->tail - 1;
        int rc = device->ops->unmap(device, vmm_entry_address(seq, index), 1);
        if (rc)
            return rc;
        seq->tail_groups = --n;
    }
    seq->tail = 0;
    return KVMM_OK;
}

int vmm_tail_drop(kvmm_seq *seq)
{
    return seq->tail ? unmap_tails(seq, seq->tail_groups) : KVMM_OK;
}

int vmm_tail_put(kvmm_seq *seq)
{
    struct vmm_device *device = seq->mm->device;
    int rc = vmm_tail_drop(seq);
    seq->tail = rc ? seq->tail : wanted(seq);
    seq->tail_groups = rc ? seq->tail_groups : 0;
    while (rc == KVMM_OK && seq->tail && seq->tail_groups < seq->layout.n_groups) {
        uint64_t index = (uint64_t)seq->tail_groups * seq->group_frames + seq->tail - 1;
        rc = device->ops->map_zeros(device, vmm_entry_address(seq, index));
        seq->tail_groups += rc == KVMM_OK;
    }
    if (rc && seq->tail_groups == 0)
        seq->tail = 0;
    return rc;
}
