/* SPDX-License-Identifier: Apache-2.0
 *
 * Staging: buffers of one frame in memory of this machine that the device copies to and from at full speed, for bytes
 * between a device that the CPU can't reach and NVMe. Whoever wants a buffer when none is free waits in a queue, urgent
 * ones first; a quarter of the buffers is kept for fetches, so that spilling at full speed never keeps a restore waiting
 * for a disk's writes. */
#ifndef VMM_STAGING_H
#define VMM_STAGING_H

#include <sys/uio.h>

#include "vmm/device/device.h"

struct vmm_staging;

/* Owned by the caller, kept alive until the buffer is given back. */
struct vmm_staging_request {
    bool urgent;
    bool fetch;
    void (*ready)(
        struct vmm_staging_request *request); /* buffer is set; on the thread of a take or a give, no lock held */
    void *buffer;
    struct vmm_staging_request *next; /* staging's */
};

/* n_buffers ≥ 4, registered with the device. Errors: NO_HOST_MEMORY, DEVICE. The device outlives it. */
int vmm_staging_open(struct vmm_device *dev, uint32_t n_buffers, struct vmm_staging **staging);
/* Precondition: no buffer is out. Sets NULL; NULL is ignored. */
void vmm_staging_close(struct vmm_staging **staging);

/* All its memory, for registering with io_uring. */
struct iovec vmm_staging_memory(const struct vmm_staging *staging);

/* Calls ready() at once, or when a buffer comes back. Any thread. */
void vmm_staging_take(struct vmm_staging *staging, struct vmm_staging_request *request);
void vmm_staging_give(struct vmm_staging *staging, struct vmm_staging_request *request);

#endif
