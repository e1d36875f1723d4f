/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "vmm/error.h"
#include "vmm/layout.h"
#include "vmm/mm.h"

#define MAX_TOKENS  (1u << 30)
#define MAX_ENTRIES (1ull << 31) /* the stamp's key has 32 bits for an entry */

int kvmm_seq_create(kvmm *mm, uint32_t max_tokens, kvmm_seq **out)
{
    if (!mm || !out)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_create: mm and seq must not be NULL");
    if (max_tokens == 0 || max_tokens > MAX_TOKENS)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_create: max_tokens is %u; it must be 1 to %u", max_tokens,
                        MAX_TOKENS);
    uint64_t group_frames = vmm_group_frames(&mm->layout, mm->frame_bytes, max_tokens);
    uint64_t n_entries = group_frames * mm->layout.n_groups;
    if (group_frames > MAX_ENTRIES || n_entries > MAX_ENTRIES)
        return vmm_fail(KVMM_ERR_NO_ADDRESS_SPACE, "a range for %u tokens is too long: %llu frames", max_tokens,
                        (unsigned long long)n_entries);

    int rc = KVMM_ERR_NO_HOST_MEMORY;
    kvmm_seq *seq = calloc(1, sizeof *seq);
    /* Address space for all entries, memory for those that are used: calloc takes large blocks fresh from mmap. */
    struct vmm_entry *entries = calloc(n_entries, sizeof *entries);
    if (!seq || !entries) {
        vmm_fail(rc, "no memory for a sequence of %u tokens", max_tokens);
        goto err_free;
    }
    *seq = (kvmm_seq){
        .mm = mm,
        .layout = mm->layout,
        .range_bytes = n_entries * mm->frame_bytes,
        .max_tokens = max_tokens,
        .group_frames = (uint32_t)group_frames,
        .entries = entries,
    };
    seq->layout.group_stride = group_frames * mm->frame_bytes;
    seq->n[VMM_CELL_EMPTY] = n_entries;

    pthread_mutex_lock(&mm->lock);
    rc = mm->device->ops->reserve(mm->device, seq->range_bytes, &seq->layout.base);
    if (rc == KVMM_OK) {
        seq->id = ++mm->next_id;
        seq->next = &mm->seqs;
        seq->prev = mm->seqs.prev;
        mm->seqs.prev->next = seq;
        mm->seqs.prev = seq;
        mm->n_seqs++;
        mm->n[VMM_CELL_EMPTY] += n_entries;
        seq->row = vmm_pagemap_add(mm->map, seq->id, max_tokens, mm->layout.n_groups, seq->group_frames);
        vmm_gauge(mm, VMM_COUNT_SEQUENCES, mm->n_seqs);
        *out = seq;
    }
    pthread_mutex_unlock(&mm->lock);
    if (rc == KVMM_OK)
        return KVMM_OK;

err_free:
    free(entries);
    free(seq);
    return rc;
}

static int in_step(const kvmm_seq *seq, const char *call)
{
    return vmm_fail(KVMM_ERR_STATE, "%s: sequence %llu is in a step", call, (unsigned long long)seq->id);
}

int vmm_seq_bury(kvmm_seq *seq)
{
    kvmm *mm = seq->mm;
    int rc = vmm_tail_drop(seq);
    if (rc == KVMM_OK)
        rc = vmm_seq_shrink(seq, 0);
    if (rc)
        return rc;
    seq->pins = 0;
    vmm_seq_commit(seq);
    vmm_pagemap_remove(mm->map, seq->row);
    mm->device->ops->unreserve(mm->device, seq->layout.base, seq->range_bytes);
    mm->n[VMM_CELL_EMPTY] -= seq->n[VMM_CELL_EMPTY];
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
    free(seq->entries);
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
        seq->pins = 0;
        vmm_seq_commit(seq);
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
    uint32_t live = (uint32_t)vmm_group_frames(&seq->layout, seq->mm->frame_bytes, n_tokens);
    int rc = live < seq->live ? vmm_seq_shrink(seq, live) : KVMM_OK;
    if (rc)
        return rc;
    seq->length = n_tokens;
    vmm_seq_commit(seq);
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
        mm->policy.ops->cool(&mm->policy, &seq->item);
        vmm_reap_steps(mm);
        vmm_ahead_drop(seq);
        if (seq->n[VMM_CELL_DEVICE] + seq->n[VMM_CELL_CLEAN] > 0) {
            seq->suspending = true;
            mm->n_suspending++;
            rc = vmm_pump_suspend(seq);
            vmm_keeper_ask(mm);
        }
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
    if (seq->n[VMM_CELL_LOST]) {
        rc = vmm_fail(KVMM_ERR_DATA_LOST, "sequence %llu lost data; see kvmm_seq_info.valid_tokens",
                      (unsigned long long)seq->id);
    } else if (!seq->step) {
        vmm_stop_background(seq);
        mm->policy.ops->touch(&mm->policy, &seq->item);
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
    seq->pins++;
    if (seq->suspending)
        vmm_stop_background(seq);
    vmm_seq_keep(seq);
    vmm_seq_commit(seq);
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
        seq->pins--;
        vmm_seq_commit(seq);
        vmm_seq_publish(seq);
        pthread_cond_broadcast(&mm->changed);
    }
    pthread_mutex_unlock(&mm->lock);
    return rc;
}

static uint32_t valid_tokens(const kvmm_seq *seq)
{
    uint32_t valid = seq->length;
    uint64_t n = seq->n[VMM_CELL_LOST] ? vmm_seq_frames(seq) : 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t index = vmm_seq_entry(seq, i);
        if (!(seq->entries[index].flags & VMM_LOST))
            continue;
        uint32_t before = vmm_tokens_before(&seq->layout, seq->mm->frame_bytes, index % seq->group_frames);
        if (before < valid)
            valid = before;
    }
    return valid;
}

/* What is on its way to the device is still where it comes from; what is being cleared comes from nowhere. */
static void count_arriving(const kvmm_seq *seq, struct kvmm_seq_info *info)
{
    uint64_t n = seq->n[VMM_CELL_ARRIVING] ? vmm_seq_frames(seq) : 0;
    for (uint64_t i = 0; i < n; i++) {
        const struct vmm_entry *entry = &seq->entries[vmm_seq_entry(seq, i)];
        if (entry->op != VMM_ARRIVING)
            continue;
        info->n_host += entry->host != 0;
        info->n_nvme += !entry->host && entry->nvme;
        info->n_device += !entry->host && !entry->nvme;
    }
}

void kvmm_seq_get_info(const kvmm_seq *seq, struct kvmm_seq_info *info)
{
    pthread_mutex_lock(&seq->mm->lock);
    const uint64_t *n = seq->n;
    *info = (struct kvmm_seq_info){
        .id = seq->id,
        .length = seq->length,
        .max_tokens = seq->max_tokens,
        .valid_tokens = valid_tokens(seq),
        .pins = seq->pins,
        .n_frames = vmm_seq_frames(seq),
        .n_device = n[VMM_CELL_DEVICE] + n[VMM_CELL_CLEAN] + n[VMM_CELL_LEAVING],
        .n_host = n[VMM_CELL_HOST] + n[VMM_HOST_CLEAN] + n[VMM_CELL_DEMOTING],
        .n_nvme = n[VMM_CELL_NVME],
        .n_lost = n[VMM_CELL_LOST],
    };
    count_arriving(seq, info);
    pthread_mutex_unlock(&seq->mm->lock);
}
