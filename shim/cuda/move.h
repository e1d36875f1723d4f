/* SPDX-License-Identifier: Apache-2.0
 *
 * What is done to marked frames (ranges.h), all of them or none. The caller holds the lock; marks are gone afterwards. Results
 * as in ranges.h. */
#ifndef SHIM_CUDA_MOVE_H
#define SHIM_CUDA_MOVE_H

/* Makes them RESIDENT, and promised no more: physical memory at their places, with the bytes that they had, or zeros. In one batch: memory for all
 * is made before anything is filled, so that a full device is found out first. On failure nothing has changed, but for frames
 * that can't be read back (-EBADMSG): those are LOST, and the others are as before. A LOST frame among the marked is
 * -EBADMSG at once. */
int shim_cuda_bring(void);

/* Makes those that are RESIDENT AWAY: bytes in a slot each, physical memory given back. Precondition: no work that touches
 * them is queued. On failure nothing has changed; unless the driver refuses to unmap (-EIO): then some are AWAY. */
int shim_cuda_send(void);

/* Makes them BLANK: slots and physical memory are given back. Precondition as of send. -EIO: the driver refused to unmap some,
 * which are as before. */
int shim_cuda_forget(void);

#endif
