/* SPDX-License-Identifier: Apache-2.0
 *
 * A copy lane: one thread and one stream of a CUDA device, for copies in one direction, so that both of the GPU's copy
 * engines work at once. Up to LANE_DEPTH copies are queued on the stream, each with an event behind it; the thread waits
 * for the oldest event, and for nothing else of the device.
 *
 * A copy that the driver refuses, or that ends in an error, is tried once more; then its status is DEVICE. */
#ifndef VMM_CUDA_LANE_H
#define VMM_CUDA_LANE_H

#include "vmm/device/device.h"
#include "vmm/driver/driver.h"

#define LANE_DEPTH 4

struct cuda_lane;

/* Context: made current to the lane's thread for its life. window: frame i is at window + i × frame_bytes. Errors:
 * NO_HOST_MEMORY, DEVICE. */
int cuda_lane_open(const struct cuda_driver *driver, CUcontext context, CUdeviceptr window, size_t frame_bytes,
                   struct cuda_lane **lane);
/* Ends the copies that are queued, then the thread. Sets NULL; NULL is ignored. */
void cuda_lane_close(struct cuda_lane **lane);

/* Any thread. */
void cuda_lane_give(struct cuda_lane *lane, struct vmm_copy *copy);

#endif
