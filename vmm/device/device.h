/* SPDX-License-Identifier: Apache-2.0
 *
 * The device seam: addresses, frames, mappings, copies and fences. What a device can do and no policy. A frame is a
 * number that the device gives out; it means nothing to another device.
 *
 * Results are KVMM_OK or an enum kvmm_status; the first to detect a failure sets kvmm_errmsg (vmm/error.h).
 * Thread safety: reserve, map, unmap and frame_create/release are made under the manager's lock; view_get,
 * view_put and zero_frame come from any thread at any time, for distinct frames. */
#ifndef VMM_DEVICE_H
#define VMM_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vmm_device;

struct vmm_fence {
    uint64_t value;
}; /* the device's; 0: nothing to wait for */

struct vmm_device_ops {
    const char *name;

    /* Reserves bytes (a multiple of the frame) of addresses aligned to the frame. Nothing there is readable. */
    int (*reserve)(struct vmm_device *dev, size_t bytes, void **base);
    /* Precondition: no frame is mapped in it. */
    void (*unreserve)(struct vmm_device *dev, void *base, size_t bytes);

    /* Makes a frame of physical memory that reads as zero. NO_DEVICE_MEMORY if the device has no more. */
    int (*frame_create)(struct vmm_device *dev, uint32_t *frame);
    /* Gives its memory back. Precondition: mapped nowhere, no copy of it in flight. */
    void (*frame_release)(struct vmm_device *dev, uint32_t frame);

    /* Maps frames[0 … n) at base + i × frame_bytes, readable and writable. Precondition: base lies in a reserved range,
     * aligned, and nothing is mapped there. All or none: on failure nothing is mapped, except with DEVICE: then the
     * frames must not be used again. */
    int (*map)(struct vmm_device *dev, void *base, const uint32_t *frames, size_t n);
    /* Unmaps n frames that are mapped at base. The addresses stay reserved and are not readable. On failure nothing
     * changed: NO_ADDRESS_SPACE where the kernel has no room for it now, DEVICE if the device is lost. */
    int (*unmap)(struct vmm_device *dev, void *base, size_t n);

    /* An address where the CPU, and I/O on its behalf, can read and write the frame's bytes while the frame is mapped
     * nowhere; never NULL. Good until view_put of the same frame. */
    void *(*view_get)(struct vmm_device *dev, uint32_t frame);
    void (*view_put)(struct vmm_device *dev, uint32_t frame);
    int (*zero_frame)(struct vmm_device *dev, uint32_t frame);

    /* A fence passes when the work queued on stream before this call is done. A device without streams takes NULL alone
     * (else INVALID) and returns a fence that has passed. */
    int (*fence_record)(struct vmm_device *dev, void *stream, struct vmm_fence *fence);
    /* True once it has passed; then the fence is released and must not be asked again. */
    bool (*fence_passed)(struct vmm_device *dev, struct vmm_fence fence);

    /* Precondition: no frame, mapping or range is left. */
    void (*close)(struct vmm_device *dev);
};

struct vmm_device {
    const struct vmm_device_ops *ops;
    size_t frame_bytes;
};

/* The host device: a memfd is the physical memory, mmap of it the mapping. frame_bytes: a power of two, 64 KiB … 2 MiB.
 * max_frames bounds the memfd. Errors: INVALID, NO_HOST_MEMORY, NO_ADDRESS_SPACE. */
int vmm_host_device_open(size_t frame_bytes, uint32_t max_frames, struct vmm_device **dev);

/* Memory that this machine could give to frames now, in bytes. */
uint64_t vmm_host_memory_available(void);

#endif
