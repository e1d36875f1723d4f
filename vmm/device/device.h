/* SPDX-License-Identifier: Apache-2.0
 *
 * The device seam: addresses, frames, mappings, copies and fences. What a device can do and no policy. A frame is a
 * number that the device gives out; it means nothing to another device.
 *
 * A device whose memory the CPU can reach (the host device) has view_get, view_put and zero_frame, and I/O goes straight
 * to a frame. One whose memory it can't reach (CUDA) has copy and memory_register instead: bytes pass through memory of
 * this machine. A device has one of the two sets; the other's pointers are NULL.
 *
 * Results are KVMM_OK or an enum kvmm_status; the first to detect a failure sets kvmm_errmsg (vmm/error.h).
 * Thread safety: reserve, unreserve, map and unmap are made under the manager's lock. All others come from any thread at
 * any time, for distinct frames. */
#ifndef VMM_DEVICE_H
#define VMM_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vmm_device;

struct vmm_fence {
    uint64_t value;
}; /* the device's; 0: nothing to wait for */

enum vmm_copy_kind {
    VMM_COPY_OUT, /* frame → memory */
    VMM_COPY_IN,  /* memory → frame */
    VMM_COPY_ZERO /* the frame is cleared */
};

/* One copy under way. Owned by the caller, who keeps it alive until done() was entered; done() may free it. */
struct vmm_copy {
    /* Set by the caller. */
    enum vmm_copy_kind kind;
    uint32_t frame;
    void *memory;                        /* frame_bytes of registered memory; no use for ZERO */
    bool urgent;                         /* a step waits for it: goes before those that are not */
    void (*done)(struct vmm_copy *copy); /* on a thread of the device's, with no lock held */

    /* Set before done(): KVMM_OK, or DEVICE with kvmm_errmsg set on done()'s thread. */
    int status;

    struct vmm_copy *next; /* the device's */
};

struct vmm_device_ops {
    /* Reserves bytes (a multiple of the frame) of addresses aligned to the frame. Nothing there is readable. */
    int (*reserve)(struct vmm_device *dev, size_t bytes, void **base);
    /* Precondition: no frame is mapped in it. */
    void (*unreserve)(struct vmm_device *dev, void *base, size_t bytes);

    /* Makes a frame of physical memory; frames_start_zero says what it holds. NO_DEVICE_MEMORY if the device has no
     * more. */
    int (*frame_create)(struct vmm_device *dev, uint32_t *frame);
    /* Gives its memory back. Precondition: mapped nowhere, no copy of it in flight. */
    void (*frame_release)(struct vmm_device *dev, uint32_t frame);

    /* Maps frames[0 … n) at base + i × frame_bytes, readable and writable. Precondition: base lies in a reserved range,
     * aligned, and nothing is mapped there. All or none: on failure nothing is mapped, except with DEVICE: then the
     * frames must not be used again. */
    int (*map)(struct vmm_device *dev, void *base, const uint32_t *frames, size_t n);
    /* Maps one frame of zeros at base, readable only: the same memory wherever it is mapped. Precondition and errors as map;
     * unmap takes it away. NULL where a device has none. */
    int (*map_zeros)(struct vmm_device *dev, void *base);
    /* Unmaps n frames that are mapped at base. Precondition: no kernel that could touch them runs or is queued. The
     * addresses stay reserved and are not readable. On failure nothing changed: NO_ADDRESS_SPACE where the kernel has no
     * room for it now, DEVICE if the device refuses. */
    int (*unmap)(struct vmm_device *dev, void *base, size_t n);

    /* An address where the CPU, and I/O on its behalf, can read and write the frame's bytes while the frame is mapped
     * nowhere; never NULL. Good until view_put of the same frame. */
    void *(*view_get)(struct vmm_device *dev, uint32_t frame);
    void (*view_put)(struct vmm_device *dev, uint32_t frame);
    int (*zero_frame)(struct vmm_device *dev, uint32_t frame);

    /* Starts a copy; never waits for it, never fails but through copy->status. Precondition: no kernel that could touch the
     * frame runs or is queued. Bytes that came IN are seen by kernels launched after done(). */
    void (*copy)(struct vmm_device *dev, struct vmm_copy *copy);
    /* Makes [base, base + bytes) fit for copies; aligned to pages. Unregister it before it is freed and after the last copy.
     * NO_HOST_MEMORY, DEVICE: it can't be. */
    int (*memory_register)(struct vmm_device *dev, void *base, size_t bytes);
    void (*memory_unregister)(struct vmm_device *dev, void *base);

    /* A fence passes when the work queued on stream before this call is done. A device without streams takes NULL alone
     * (else INVALID) and returns a fence that has passed. */
    int (*fence_record)(struct vmm_device *dev, void *stream, struct vmm_fence *fence);
    /* True once it has passed; then the fence is released and must not be asked again. Also true when the device is lost:
     * nothing runs there any more. */
    bool (*fence_passed)(struct vmm_device *dev, struct vmm_fence fence);

    /* Precondition: no frame, mapping, range or registered memory is left, and no copy in flight. */
    void (*close)(struct vmm_device *dev);
};

struct vmm_device {
    const struct vmm_device_ops *ops;
    char name[16]; /* "host", "cuda:0" */
    size_t frame_bytes;
    uint32_t max_frames;    /* that its budget allows */
    bool frames_start_zero; /* what frame_create makes reads as zero */
};

/* What a device may hold. */
struct vmm_device_budget {
    uint64_t bytes;     /* 0: utilization × what is free now */
    double utilization; /* (0, 1] */
};

/* The host device: a memfd is the physical memory, mmap of it the mapping. frame_bytes: a power of two, 64 KiB … 2 MiB; 0:
 * 2 MiB. Errors: INVALID, NO_HOST_MEMORY, NO_ADDRESS_SPACE. */
int vmm_host_device_open(size_t frame_bytes, const struct vmm_device_budget *budget, struct vmm_device **dev);

/* The CUDA device number `ordinal`, through its primary context. frame_bytes: a power of two and a multiple of the
 * device's granularity (2 MiB as a rule); 0: the granularity. Errors: UNSUPPORTED (no driver, too old a driver, no such
 * device, no VMM support: the message says which), INVALID, NO_DEVICE_MEMORY, NO_HOST_MEMORY, DEVICE. */
int vmm_cuda_device_open(unsigned ordinal, size_t frame_bytes, const struct vmm_device_budget *budget,
                         struct vmm_device **dev);

/* Frames that a budget holds: KVMM_OK, or INVALID where that is none. `available` is what is free now. */
int vmm_device_capacity(const struct vmm_device_budget *budget, uint64_t available, size_t frame_bytes,
                        uint32_t *max_frames);

#endif
