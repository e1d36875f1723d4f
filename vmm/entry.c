/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/mm.h"

int vmm_entry_state(const struct vmm_entry *entry)
{
    switch ((enum vmm_op)entry->op) {
    case VMM_LEAVING:
        return VMM_CELL_LEAVING;
    case VMM_DEMOTING:
        return VMM_CELL_DEMOTING;
    case VMM_ARRIVING:
        return VMM_CELL_ARRIVING;
    case VMM_IDLE:
        break;
    }
    if (entry->flags & VMM_LOST)
        return VMM_CELL_LOST;
    if (entry->flags & VMM_AHEAD)
        return VMM_CELL_EMPTY;
    if (entry->frame)
        return entry->host || entry->nvme ? VMM_CELL_CLEAN : VMM_CELL_DEVICE;
    if (entry->host)
        return entry->nvme ? VMM_HOST_CLEAN : VMM_CELL_HOST;
    return entry->nvme ? VMM_CELL_NVME : VMM_CELL_EMPTY;
}

static bool in_tier(const struct vmm_segment *segment, enum vmm_tier tier)
{
    if (tier == VMM_TIER_DEVICE)
        return vmm_segment_on_device(segment) > 0;
    return segment->n[VMM_CELL_HOST] + segment->n[VMM_HOST_CLEAN] + segment->n[VMM_CELL_DEMOTING] > 0;
}

void vmm_segment_list(struct vmm_segment *segment)
{
    struct vmm_policy *policy = &segment->mm->policy;
    segment->item.bytes = vmm_segment_frames(segment) * segment->mm->frame_bytes;
    for (int tier = 0; tier < VMM_N_TIERS; tier++) {
        bool listed = segment->item.link[tier].next != NULL;
        if (in_tier(segment, tier) && !listed)
            policy->ops->insert(policy, tier, &segment->item);
        else if (!in_tier(segment, tier) && listed)
            policy->ops->remove(policy, tier, &segment->item);
    }
}

void vmm_entry_publish(const struct vmm_link *link, uint64_t index)
{
    int state = vmm_entry_state(&link->segment->entries[index]);
    uint32_t group, frame = vmm_segment_frame(link->segment, index, &group);
    vmm_pagemap_cell(link->seq->mm->map, link->seq->row, (uint64_t)group * link->seq->group_frames + frame,
                     state == VMM_HOST_CLEAN ? VMM_CELL_HOST : (enum vmm_cell)state);
}

struct vmm_entry *vmm_entry_open(struct vmm_segment *segment, uint64_t index)
{
    struct vmm_entry *entry = &segment->entries[index];
    int state = vmm_entry_state(entry);
    segment->n[state]--;
    segment->mm->n[state]--;
    return entry;
}

void vmm_entry_close(struct vmm_segment *segment, uint64_t index)
{
    kvmm *mm = segment->mm;
    int state = vmm_entry_state(&segment->entries[index]);
    segment->n[state]++;
    mm->n[state]++;
    vmm_segment_list(segment);
    if (segment->n_pinned && !segment->n_steps)
        vmm_segment_commit(segment);
    for (const struct vmm_link *user = segment->users; user; user = user->next_user) {
        if (!vmm_link_is_source(user))
            vmm_entry_publish(user, index);
    }
}

void vmm_entry_keep(struct vmm_segment *segment, uint64_t index)
{
    if (segment->entries[index].op == VMM_LEAVING)
        segment->entries[index].flags |= VMM_KEEP; /* no part of the state */
}

void vmm_entry_forget(struct vmm_segment *segment, uint64_t index, unsigned copies)
{
    kvmm *mm = segment->mm;
    struct vmm_entry *entry = vmm_entry_open(segment, index);
    if (copies & VMM_COPY_DEVICE && entry->frame) {
        vmm_frames_give(mm->frames, entry->frame - 1, false);
        entry->frame = 0;
    }
    if (copies & VMM_COPY_HOST && entry->host) {
        swap_slot_free(mm->host, entry->host - 1);
        entry->host = 0;
    }
    if (copies & VMM_COPY_NVME && entry->nvme) {
        swap_slot_free(mm->nvme, entry->nvme - 1);
        entry->nvme = 0;
    }
    vmm_entry_close(segment, index);
}

void vmm_entry_clear(struct vmm_segment *segment, uint64_t index)
{
    vmm_entry_forget(segment, index, VMM_COPY_DEVICE | VMM_COPY_HOST | VMM_COPY_NVME);
    struct vmm_entry *entry = vmm_entry_open(segment, index);
    entry->flags = 0;
    entry->key = 0;
    vmm_entry_close(segment, index);
}

void vmm_publish_usage(kvmm *mm)
{
    uint64_t bytes = mm->frame_bytes;
    uint64_t capacity = vmm_frames_capacity(mm->frames);
    vmm_gauge(mm, VMM_COUNT_DEVICE_CAPACITY, capacity * bytes);
    vmm_gauge(mm, VMM_COUNT_DEVICE_USED, (uint64_t)vmm_frames_taken(mm->frames) * bytes);
    struct swap_store_info info;
    if (mm->host) {
        swap_get_info(mm->host, &info);
        vmm_gauge(mm, VMM_COUNT_HOST_CAPACITY, (uint64_t)info.n_slots * bytes);
        vmm_gauge(mm, VMM_COUNT_HOST_USED, (uint64_t)info.n_used * bytes);
    }
    if (mm->nvme) {
        swap_get_info(mm->nvme, &info);
        vmm_gauge(mm, VMM_COUNT_NVME_CAPACITY, info.n_slots == UINT32_MAX ? 0 : (uint64_t)info.n_slots * bytes);
        vmm_gauge(mm, VMM_COUNT_NVME_USED, (uint64_t)info.n_used * bytes);
    }
    vmm_gauge(mm, VMM_COUNT_SEQUENCES, mm->n_seqs);
}
