/* SPDX-License-Identifier: Apache-2.0
 *
 * Geometry to strides, and tokens to frames. A range is n_groups equal parts, each a multiple of the frame; the same
 * frames, counted from the start of its part, are live in each. */
#ifndef VMM_LAYOUT_H
#define VMM_LAYOUT_H

#include "kvmm/kvmm.h"

/* Checks the geometry's bounds. INVALID names the field. */
int vmm_geometry_check(const struct kvmm_geometry *g);

/* Fills all strides but group_stride and base (0). The geometry is valid. */
void vmm_layout_init(const struct kvmm_geometry *g, struct kvmm_layout *layout);

/* Frames that n_tokens tokens take in each group. */
uint64_t vmm_group_frames(const struct kvmm_layout *layout, size_t frame_bytes, uint32_t n_tokens);

/* The frames of a group that tokens [first, last) touch: [*begin, *end). first < last. */
void vmm_group_span(const struct kvmm_layout *layout, size_t frame_bytes, uint32_t first, uint32_t last,
                    uint64_t *begin, uint64_t *end);

/* Tokens whose pages lie wholly before a frame of a group: what is still valid when that frame is lost. */
uint32_t vmm_tokens_before(const struct kvmm_layout *layout, size_t frame_bytes, uint64_t frame);

#endif
