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

uint64_t vmm_seq_frames(const kvmm_seq *seq)
{
    return (uint64_t)seq->live * seq->layout.n_groups;
}

uint64_t vmm_seq_entry(const kvmm_seq *seq, uint64_t i)
{
    return i / seq->live * seq->group_frames + i % seq->live;
}

void *vmm_entry_address(const kvmm_seq *seq, uint64_t index)
{
    return (char *)seq->layout.base + index * seq->mm->frame_bytes;
}

uint64_t vmm_seq_on_device(const kvmm_seq *seq)
{
    return seq->n[VMM_CELL_DEVICE] + seq->n[VMM_CELL_CLEAN] + seq->n[VMM_CELL_LEAVING] + seq->n[VMM_CELL_ARRIVING];
}

uint64_t vmm_seq_moving(const kvmm_seq *seq)
{
    return seq->n[VMM_CELL_LEAVING] + seq->n[VMM_CELL_DEMOTING] + seq->n[VMM_CELL_ARRIVING];
}

static bool in_tier(const kvmm_seq *seq, enum vmm_tier tier)
{
    if (tier == VMM_TIER_DEVICE)
        return vmm_seq_on_device(seq) > 0;
    return seq->n[VMM_CELL_HOST] + seq->n[VMM_HOST_CLEAN] + seq->n[VMM_CELL_DEMOTING] > 0;
}

static bool is_mapped(const struct vmm_entry *entry)
{
    return (entry->flags & (VMM_MAPPED | VMM_AHEAD)) == VMM_MAPPED;
}

static void uncount(kvmm_seq *seq, const struct vmm_entry *entry)
{
    int state = vmm_entry_state(entry);
    seq->n[state]--;
    seq->mm->n[state]--;
    seq->n_mapped -= is_mapped(entry);
}

struct vmm_entry *vmm_entry_open(kvmm_seq *seq, uint64_t index)
{
    struct vmm_entry *entry = &seq->entries[index];
    uncount(seq, entry);
    return entry;
}

void vmm_entry_close(kvmm_seq *seq, uint64_t index)
{
    const struct vmm_entry *entry = &seq->entries[index];
    kvmm *mm = seq->mm;
    int state = vmm_entry_state(entry);
    seq->n[state]++;
    mm->n[state]++;
    seq->n_mapped += is_mapped(entry);
    for (int tier = 0; tier < VMM_N_TIERS; tier++) {
        bool listed = seq->item.link[tier].next != NULL;
        if (in_tier(seq, tier) && !listed)
            mm->policy.ops->insert(&mm->policy, tier, &seq->item);
        else if (!in_tier(seq, tier) && listed)
            mm->policy.ops->remove(&mm->policy, tier, &seq->item);
    }
    if (seq->pins && !seq->step)
        vmm_seq_commit(seq);
    vmm_pagemap_cell(mm->map, seq->row, index, state == VMM_HOST_CLEAN ? VMM_CELL_HOST : (enum vmm_cell)state);
}

void vmm_seq_commit(kvmm_seq *seq)
{
    uint64_t committed = 0;
    if (seq->step)
        committed = seq->target;
    else if (seq->pins)
        committed = vmm_seq_on_device(seq);
    seq->mm->committed += committed - seq->committed;
    seq->committed = committed;
}

void vmm_seq_publish(kvmm_seq *seq)
{
    vmm_pagemap_update(seq->mm->map, seq->row, seq->length, seq->live, seq->pins, seq->step != NULL);
}

void vmm_entry_keep(kvmm_seq *seq, uint64_t index)
{
    if (seq->entries[index].op == VMM_LEAVING)
        seq->entries[index].flags |= VMM_KEEP; /* no part of the state */
}

void vmm_seq_keep(kvmm_seq *seq)
{
    uint64_t n = seq->n[VMM_CELL_LEAVING] ? vmm_seq_frames(seq) : 0;
    for (uint64_t i = 0; i < n; i++)
        vmm_entry_keep(seq, vmm_seq_entry(seq, i));
}

void vmm_entry_forget(kvmm_seq *seq, uint64_t index, unsigned copies)
{
    struct vmm_entry *entry = vmm_entry_open(seq, index);
    if (copies & VMM_COPY_DEVICE && entry->frame) {
        vmm_frames_give(seq->mm->frames, entry->frame - 1, false);
        entry->frame = 0;
    }
    if (copies & VMM_COPY_HOST && entry->host) {
        swap_slot_free(seq->mm->host, entry->host - 1);
        entry->host = 0;
    }
    if (copies & VMM_COPY_NVME && entry->nvme) {
        swap_slot_free(seq->mm->nvme, entry->nvme - 1);
        entry->nvme = 0;
    }
    vmm_entry_close(seq, index);
}

static void clear(kvmm_seq *seq, uint64_t index)
{
    vmm_entry_forget(seq, index, VMM_COPY_DEVICE | VMM_COPY_HOST | VMM_COPY_NVME);
    struct vmm_entry *entry = vmm_entry_open(seq, index);
    entry->flags = 0;
    entry->generation++;
    vmm_entry_close(seq, index);
}

int vmm_seq_shrink(kvmm_seq *seq, uint32_t new_live)
{
    uint32_t n_groups = seq->layout.n_groups, n = seq->live - new_live;
    vmm_ahead_drop(seq);
    if (seq->ahead > 0)
        return vmm_fail(KVMM_ERR_DEVICE, "frames mapped ahead of sequence %llu can't be unmapped",
                        (unsigned long long)seq->id);
    /* All unmapped before any is cleared: a failure in between must not cost data. */
    for (uint32_t g = 0; g < n_groups; g++) {
        int rc = vmm_unmap(seq, (uint64_t)g * seq->group_frames + new_live, n);
        if (rc)
            return rc;
    }
    for (uint32_t g = 0; g < n_groups; g++) {
        for (uint32_t i = 0; i < n; i++)
            clear(seq, (uint64_t)g * seq->group_frames + new_live + i);
    }
    seq->live = new_live;
    return KVMM_OK;
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
