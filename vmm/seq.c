/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "vmm/error.h"
#include "vmm/layout.h"
#include "vmm/mm.h"

#define MAX_ENTRIES (1ull << 31)

uint64_t vmm_seq_frames(const kvmm_seq *seq)
{
    return (uint64_t)seq->live * seq->layout.n_groups;
}

uint64_t vmm_seq_on_device(const kvmm_seq *seq)
{
    uint64_t n = 0;
    for (const struct vmm_link *link = seq->links; link; link = link->next)
        n += vmm_segment_on_device(link->segment);
    return n;
}

uint64_t vmm_seq_moving(const kvmm_seq *seq)
{
    uint64_t n = 0;
    for (const struct vmm_link *link = seq->links; link; link = link->next)
        n += vmm_segment_moving(link->segment);
    return n;
}

bool vmm_seq_lost(const kvmm_seq *seq)
{
    const struct vmm_link *link = seq->links;
    while (link && link->segment->n[VMM_CELL_LOST] == 0)
        link = link->next;
    return link != NULL;
}

void *vmm_range_address(const kvmm_seq *seq, uint32_t group, uint32_t frame)
{
    return (char *)seq->layout.base + ((uint64_t)group * seq->group_frames + frame) * seq->mm->frame_bytes;
}

void vmm_seq_publish(kvmm_seq *seq)
{
    vmm_pagemap_update(seq->mm->map, seq->row, seq->length, seq->live, seq->pins, seq->step != NULL);
}

void vmm_seq_keep(kvmm_seq *seq)
{
    for (struct vmm_link *link = seq->links; link; link = link->next) {
        struct vmm_segment *segment = link->segment;
        uint64_t n = segment->n[VMM_CELL_LEAVING] ? vmm_segment_frames(segment) : 0;
        for (uint64_t i = 0; i < n; i++)
            vmm_entry_keep(segment, vmm_segment_entry(segment, i));
    }
}

void vmm_seq_touch(kvmm_seq *seq)
{
    struct vmm_policy *policy = &seq->mm->policy;
    for (struct vmm_link *link = seq->own; link; link = link->prev)
        policy->ops->touch(policy, &link->segment->item);
}

void vmm_seq_set_live(kvmm_seq *seq, uint32_t live)
{
    struct vmm_segment *own = seq->own->segment;
    seq->live = live;
    own->live = live - own->first;
    vmm_segment_commit(own);
}

static void set_pins(kvmm_seq *seq, uint32_t pins)
{
    for (struct vmm_link *link = seq->links; link; link = link->next) {
        link->segment->n_pinned += (pins > 0) - (seq->pins > 0);
        vmm_segment_commit(link->segment);
    }
    seq->pins = pins;
}

/* ---- life ---- */

/* Its range is reserved, and it is in the manager's list. The lock is held. */
static int enter(kvmm_seq *seq)
{
    kvmm *mm = seq->mm;
    int rc = mm->device->ops->reserve(mm->device, seq->range_bytes, &seq->layout.base);
    if (rc)
        return rc;
    seq->id = ++mm->next_id;
    seq->next = &mm->seqs;
    seq->prev = mm->seqs.prev;
    mm->seqs.prev->next = seq;
    mm->seqs.prev = seq;
    mm->n_seqs++;
    vmm_link_add(seq->own, NULL);
    seq->row = vmm_pagemap_add(mm->map, seq->id, seq->max_tokens, mm->layout.n_groups, seq->group_frames);
    vmm_gauge(mm, VMM_COUNT_SEQUENCES, mm->n_seqs);
    return KVMM_OK;
}

int vmm_seq_new(kvmm *mm, uint32_t max_tokens, uint32_t origin, kvmm_seq **out)
{
    uint64_t group_frames = vmm_group_frames(&mm->layout, mm->frame_bytes, max_tokens);
    uint64_t n_frames = group_frames * mm->layout.n_groups;
    if (group_frames > MAX_ENTRIES || n_frames > MAX_ENTRIES)
        return vmm_fail(KVMM_ERR_NO_ADDRESS_SPACE, "a range for %u tokens is too long: %llu frames", max_tokens,
                        (unsigned long long)n_frames);
    kvmm_seq *seq = calloc(1, sizeof *seq);
    struct vmm_segment *own = vmm_segment_new(mm, origin, (uint32_t)group_frames - origin);
    struct vmm_link *link = own ? vmm_link_new(seq, own) : NULL;
    int rc = KVMM_ERR_NO_HOST_MEMORY;
    if (!seq || !link) {
        vmm_fail(rc, "no memory for a sequence of %u tokens", max_tokens);
        goto err_free;
    }
    *seq = (kvmm_seq){
        .mm = mm,
        .layout = mm->layout,
        .range_bytes = n_frames * mm->frame_bytes,
        .max_tokens = max_tokens,
        .group_frames = (uint32_t)group_frames,
        .own = link,
    };
    seq->layout.group_stride = group_frames * mm->frame_bytes;
    rc = enter(seq);
    if (rc)
        goto err_free;
    *out = seq;
    return KVMM_OK;

err_free:
    free(link);
    if (own)
        free(own->entries);
    free(own);
    free(seq);
    return rc;
}

int kvmm_seq_create(kvmm *mm, uint32_t max_tokens, kvmm_seq **out)
{
    if (!mm || !out)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_create: mm and seq must not be NULL");
    if (max_tokens == 0 || max_tokens > KVMM_MAX_TOKENS)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_create: max_tokens is %u; it must be 1 to %u", max_tokens,
                        KVMM_MAX_TOKENS);
    pthread_mutex_lock(&mm->lock);
    int rc = vmm_seq_new(mm, max_tokens, 0, out);
    pthread_mutex_unlock(&mm->lock);
    return rc;
}

static int in_step(const kvmm_seq *seq, const char *call)
{
    return vmm_fail(KVMM_ERR_STATE, "%s: sequence %llu is in a step", call, (unsigned long long)seq->id);
}

int vmm_seq_shrink(kvmm_seq *seq, uint32_t new_live)
{
    struct vmm_segment *own = seq->own->segment;
    uint32_t n = seq->live - new_live;
    int rc = vmm_ahead_end(seq);
    /* All unmapped before any is cleared: a failure in between must not cost data. */
    for (uint32_t g = 0; g < seq->layout.n_groups && rc == KVMM_OK; g++)
        rc = vmm_link_unmap(seq->own, vmm_segment_index(own, g, new_live), n);
    if (rc)
        return rc;
    for (uint32_t g = 0; g < seq->layout.n_groups; g++) {
        for (uint32_t i = 0; i < n; i++)
            vmm_entry_clear(own, vmm_segment_index(own, g, new_live + i));
    }
    vmm_seq_set_live(seq, new_live);
    return KVMM_OK;
}

int vmm_seq_bury(kvmm_seq *seq)
{
    kvmm *mm = seq->mm;
    int rc = vmm_tail_drop(seq);
    if (rc == KVMM_OK)
        rc = vmm_ahead_end(seq);
    for (struct vmm_link *link = seq->links; link && rc == KVMM_OK; link = link->next)
        rc = vmm_link_unmap_all(link);
    if (rc)
        return rc;
    set_pins(seq, 0);
    while (seq->links)
        vmm_link_remove(seq->links);
    vmm_pagemap_remove(mm->map, seq->row);
    mm->device->ops->unreserve(mm->device, seq->layout.base, seq->range_bytes);
    seq->prev->next = seq->next;
    seq->next->prev = seq->prev;
    if (seq->dying) {
        mm->keeper.n_dying--;
        mm->n_quiet--;
    } else {
        mm->n_seqs--;
    }
    vmm_publish_usage(mm);
    pthread_cond_broadcast(&mm->changed);
    free(seq);
    return KVMM_OK;
}

/* The keeper takes it down when its last kernel has finished; until then nothing else touches it. */
static void leave_to_keeper(kvmm_seq *seq)
{
    kvmm *mm = seq->mm;
    seq->dying = true;
    seq->quiet = true;
    mm->n_quiet++;
    mm->n_seqs--;
    mm->keeper.n_dying++;
    vmm_publish_usage(mm);
    vmm_keeper_ask(mm);
}

int vmm_seq_destroy(kvmm_seq *seq)
{
    kvmm *mm = seq->mm;
    vmm_stop_background(seq);
    vmm_wait_idle(seq);
    seq->quiet = seq->dying;
    int rc = vmm_seq_bury(seq);
    if (rc)
        pthread_cond_broadcast(&mm->changed);
    return rc;
}

int kvmm_seq_destroy(kvmm_seq **handle)
{
    if (!handle || !*handle)
        return KVMM_OK;
    kvmm_seq *seq = *handle;
    kvmm *mm = seq->mm;
    int rc = KVMM_OK;
    pthread_mutex_lock(&mm->lock);
    if (seq->step) {
        rc = in_step(seq, "kvmm_seq_destroy");
    } else {
        vmm_stop_background(seq);
        set_pins(seq, 0);
        if (mm->keeper.ahead)
            leave_to_keeper(seq);
        else
            rc = vmm_seq_destroy(seq);
    }
    pthread_mutex_unlock(&mm->lock);
    if (rc == KVMM_OK)
        *handle = NULL;
    return rc;
}

uint32_t kvmm_seq_length(const kvmm_seq *seq)
{
    pthread_mutex_lock(&seq->mm->lock);
    uint32_t length = seq->length;
    pthread_mutex_unlock(&seq->mm->lock);
    return length;
}

void kvmm_seq_layout(const kvmm_seq *seq, struct kvmm_layout *layout)
{
    *layout = seq->layout;
}

static int truncate_locked(kvmm_seq *seq, uint32_t n_tokens)
{
    if (seq->step)
        return in_step(seq, "kvmm_seq_truncate");
    if (n_tokens > seq->length)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_truncate: sequence %llu has %u tokens, not %u",
                        (unsigned long long)seq->id, seq->length, n_tokens);
    vmm_stop_background(seq);
    vmm_wait_idle(seq);
    pthread_cond_broadcast(&seq->mm->changed);
    if (seq->step || n_tokens > seq->length) /* another thread was faster */
        return vmm_fail(KVMM_ERR_STATE, "kvmm_seq_truncate: sequence %llu changed meanwhile",
                        (unsigned long long)seq->id);
    int rc = vmm_seq_cut(seq, n_tokens);
    if (rc)
        return rc;
    seq->length = n_tokens;
    vmm_seq_publish(seq);
    vmm_publish_usage(seq->mm);
    pthread_cond_broadcast(&seq->mm->changed);
    return KVMM_OK;
}

int kvmm_seq_truncate(kvmm_seq *seq, uint32_t n_tokens)
{
    if (!seq)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_truncate: seq must not be NULL");
    pthread_mutex_lock(&seq->mm->lock);
    int rc = truncate_locked(seq, n_tokens);
    pthread_mutex_unlock(&seq->mm->lock);
    return rc;
}

/* What only sleeping sequences use: its own frames are the coldest. */
static void cool(kvmm_seq *seq)
{
    struct vmm_policy *policy = &seq->mm->policy;
    for (struct vmm_link *link = seq->links; link; link = link->next) {
        if (vmm_segment_asleep(link->segment))
            policy->ops->cool(policy, &link->segment->item);
    }
}

int kvmm_seq_suspend(kvmm_seq *seq)
{
    if (!seq)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_suspend: seq must not be NULL");
    kvmm *mm = seq->mm;
    pthread_mutex_lock(&mm->lock);
    int rc = KVMM_OK;
    if (seq->step) {
        rc = in_step(seq, "kvmm_seq_suspend");
    } else if (seq->pins) {
        rc = vmm_fail(KVMM_ERR_STATE, "kvmm_seq_suspend: sequence %llu is pinned", (unsigned long long)seq->id);
    } else {
        vmm_stop_background(seq);
        seq->asleep = true;
        cool(seq);
        vmm_reap_steps(mm);
        vmm_ahead_drop(seq);
        seq->suspending = true;
        mm->n_suspending++;
        rc = vmm_pump_suspend(seq);
        if (seq->suspending)
            vmm_keeper_ask(mm);
        vmm_publish_usage(mm);
        pthread_cond_broadcast(&mm->changed);
    }
    pthread_mutex_unlock(&mm->lock);
    return rc;
}

int kvmm_seq_resume(kvmm_seq *seq)
{
    if (!seq)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_resume: seq must not be NULL");
    kvmm *mm = seq->mm;
    pthread_mutex_lock(&mm->lock);
    int rc = KVMM_OK;
    if (vmm_seq_lost(seq)) {
        rc = vmm_fail(KVMM_ERR_DATA_LOST, "sequence %llu lost data; see kvmm_seq_info.valid_tokens",
                      (unsigned long long)seq->id);
    } else if (!seq->step) {
        vmm_stop_background(seq);
        vmm_seq_touch(seq);
        seq->asleep = false;
        seq->resuming = true;
        seq->resume_cursor = 0;
        mm->n_resuming++;
        vmm_pump(mm);
        vmm_keeper_ask(mm);
        vmm_publish_usage(mm);
    }
    pthread_mutex_unlock(&mm->lock);
    return rc;
}

int kvmm_seq_pin(kvmm_seq *seq)
{
    if (!seq)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_pin: seq must not be NULL");
    kvmm *mm = seq->mm;
    pthread_mutex_lock(&mm->lock);
    set_pins(seq, seq->pins + 1);
    if (seq->suspending)
        vmm_stop_background(seq);
    vmm_seq_keep(seq);
    vmm_seq_publish(seq);
    pthread_mutex_unlock(&mm->lock);
    return KVMM_OK;
}

int kvmm_seq_unpin(kvmm_seq *seq)
{
    if (!seq)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_unpin: seq must not be NULL");
    kvmm *mm = seq->mm;
    pthread_mutex_lock(&mm->lock);
    int rc = KVMM_OK;
    if (seq->pins == 0) {
        rc = vmm_fail(KVMM_ERR_STATE, "kvmm_seq_unpin: sequence %llu is not pinned", (unsigned long long)seq->id);
    } else {
        set_pins(seq, seq->pins - 1);
        vmm_seq_publish(seq);
        pthread_cond_broadcast(&mm->changed);
    }
    pthread_mutex_unlock(&mm->lock);
    return rc;
}

static uint32_t valid_tokens(const kvmm_seq *seq)
{
    uint32_t valid = seq->length;
    for (const struct vmm_link *link = seq->links; link; link = link->next) {
        const struct vmm_segment *segment = link->segment;
        uint64_t n = segment->n[VMM_CELL_LOST] ? vmm_segment_frames(segment) : 0;
        for (uint64_t i = 0; i < n; i++) {
            uint64_t index = vmm_segment_entry(segment, i);
            if (!(segment->entries[index].flags & VMM_LOST))
                continue;
            uint32_t group, frame = vmm_segment_frame(segment, index, &group);
            uint32_t before = vmm_tokens_before(&seq->layout, seq->mm->frame_bytes, frame);
            if (before < valid)
                valid = before;
        }
    }
    return valid;
}

/* What is on its way to the device is still where it comes from; what is being cleared comes from nowhere. */
static void count_arriving(const struct vmm_segment *segment, struct kvmm_seq_info *info)
{
    uint64_t n = segment->n[VMM_CELL_ARRIVING] ? vmm_segment_frames(segment) : 0;
    for (uint64_t i = 0; i < n; i++) {
        const struct vmm_entry *entry = &segment->entries[vmm_segment_entry(segment, i)];
        if (entry->op != VMM_ARRIVING)
            continue;
        info->n_host += entry->host != 0;
        info->n_nvme += !entry->host && entry->nvme;
        info->n_device += !entry->host && !entry->nvme;
    }
}

static void count_segment(const struct vmm_segment *segment, struct kvmm_seq_info *info)
{
    const uint64_t *n = segment->n;
    info->n_device += n[VMM_CELL_DEVICE] + n[VMM_CELL_CLEAN] + n[VMM_CELL_LEAVING];
    info->n_host += n[VMM_CELL_HOST] + n[VMM_HOST_CLEAN] + n[VMM_CELL_DEMOTING];
    info->n_nvme += n[VMM_CELL_NVME];
    info->n_lost += n[VMM_CELL_LOST];
    info->n_shared += segment->n_users > 1 ? vmm_segment_frames(segment) : 0;
    count_arriving(segment, info);
}

void kvmm_seq_get_info(const kvmm_seq *seq, struct kvmm_seq_info *info)
{
    pthread_mutex_lock(&seq->mm->lock);
    *info = (struct kvmm_seq_info){
        .id = seq->id,
        .length = seq->length,
        .max_tokens = seq->max_tokens,
        .valid_tokens = valid_tokens(seq),
        .pins = seq->pins,
        .n_frames = vmm_seq_frames(seq),
    };
    for (const struct vmm_link *link = seq->links; link; link = link->next) {
        if (!vmm_link_is_source(link))
            count_segment(link->segment, info);
    }
    pthread_mutex_unlock(&seq->mm->lock);
}
