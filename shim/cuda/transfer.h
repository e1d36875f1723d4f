/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes of marked frames (ranges.h) between the device and the tiers, by the copy lanes of vmm/device, several at a time. The
 * caller holds the lock, and nothing that is queued touches the frames. */
#ifndef SHIM_CUDA_TRANSFER_H
#define SHIM_CUDA_TRANSFER_H

/* Copies each marked frame out to the slot that it has been given. 0; -ENOSPC, -EIO: some were not; slots stay with their
 * frames in any case. */
int shim_cuda_transfer_out(void);

/* Fills each marked frame that is AWAY, whose physical memory is mapped, from its slot. 0; -EBADMSG: some can't be read back,
 * and are `unread`; -EIO: the driver failed. */
int shim_cuda_transfer_in(void);

#endif
