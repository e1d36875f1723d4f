/* SPDX-License-Identifier: Apache-2.0 */
#include "kvmm/kvmm.h"
#include "vmm/device/device.h"
#include "vmm/error.h"

int vmm_device_capacity(const struct vmm_device_budget *budget, uint64_t available, size_t frame_bytes,
                        uint32_t *max_frames)
{
    uint64_t bytes = budget->bytes ? budget->bytes : (uint64_t)((double)available * budget->utilization);
    uint64_t frames = bytes / frame_bytes;
    if (frames == 0)
        return vmm_fail(KVMM_ERR_INVALID, "the device budget of %llu bytes is smaller than one frame of %zu bytes",
                        (unsigned long long)bytes, frame_bytes);
    *max_frames = frames > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)frames;
    return KVMM_OK;
}
