/* SPDX-License-Identifier: Apache-2.0
 *
 * The device budget: up to max_frames frames of a device, made when first needed and kept for reuse. A frame that held
 * data is dirty until it is cleared, so that nobody reads another sequence's bytes. All calls are made under the
 * manager's lock. */
#ifndef VMM_FRAMES_H
#define VMM_FRAMES_H

#include "vmm/device/device.h"

struct vmm_frames;

/* What a frame will hold: DATA overwrites all of it, ZERO needs it cleared. */
enum vmm_frame_use { VMM_FRAME_FOR_DATA, VMM_FRAME_FOR_ZERO };

/* Errors: NO_HOST_MEMORY. The device outlives it. */
int vmm_frames_open(struct vmm_device *dev, struct vmm_frames **frames);
/* Precondition: no frame is taken. Releases all frames to the device; NULL is ignored. */
void vmm_frames_close(struct vmm_frames **frames);

/* Takes a frame, the one after `near` if that is free (neighbours map in one call), and says whether it reads as zero.
 * NO_DEVICE_MEMORY, without a message, when the budget is used up, or earlier if the device has no more to give: then no
 * more are asked of it, nor counted as free, until vmm_frames_retry(). Else as vmm_device_ops.frame_create. */
int vmm_frames_take(struct vmm_frames *frames, enum vmm_frame_use use, uint32_t near, uint32_t *frame, bool *zeroed);
/* A free frame that is made and clear; false: there is none. */
bool vmm_frames_take_clear(struct vmm_frames *frames, uint32_t near, uint32_t *frame);
/* For whoever keeps `reserve` free frames clear. False: they are, or nothing is left to do it with. Else a frame counts as
 * taken: *frame, which is to be cleared, if *exists; or one that is to be made. It ends with vmm_frames_give(), or with
 * vmm_frames_unmade() if it could not be made. */
bool vmm_frames_prepare(struct vmm_frames *frames, uint32_t reserve, uint32_t *frame, bool *exists);
void vmm_frames_unmade(struct vmm_frames *frames);
void vmm_frames_give(struct vmm_frames *frames, uint32_t frame, bool zeroed);

uint32_t vmm_frames_capacity(const struct vmm_frames *frames);
uint32_t vmm_frames_taken(const struct vmm_frames *frames);
uint32_t vmm_frames_free(const struct vmm_frames *frames); /* that can be had, as far as is known */
/* What the device said when it had no more; NULL: it has given all that was asked of it. */
const char *vmm_frames_refusal(const struct vmm_frames *frames);
void vmm_frames_retry(struct vmm_frames *frames); /* the device may have more now */

#endif
