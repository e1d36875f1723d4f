/* SPDX-License-Identifier: Apache-2.0
 *
 * Making room: which frames leave, and where to. A victim of the device goes to host memory; where that is full, the
 * coldest host copy that NVMe has too makes way; where there is none, to NVMe directly. A frame that host memory has
 * already leaves without a transfer, and so does one that NVMe has if host memory has no slot for it.
 *
 * The host tier is kept ready for that by cleaning: when more than host_high of its slots hold the only copy of their
 * bytes, the coldest are written to NVMe, and keep their slot until it is wanted. */
#include <errno.h>
#include <string.h>

#include "vmm/error.h"
#include "vmm/mm.h"

/* Moves that background work leaves to steps, and writes that cleaning keeps in flight. */
#define RESERVED_MOVES 64
#define CLEANING_DEPTH 16

bool vmm_reap_steps(kvmm *mm)
{
    bool any = false;
    for (kvmm_step **at = &mm->pending; *at;) {
        kvmm_step *step = *at;
        if (!mm->device->ops->fence_passed(mm->device, step->fence)) {
            at = &step->next;
            continue;
        }
        for (size_t i = 0; i < step->n; i++)
            step->seqs[i].seq->n_pending--;
        *at = step->next;
        step->next = mm->free_steps;
        mm->free_steps = step;
        any = true;
    }
    return any;
}

/* The next idle entry of seq in one of two states, searching from its cursor once round; false if there is none. */
static bool find_entry(kvmm_seq *seq, enum vmm_tier tier, int state, int other, uint64_t *index)
{
    if (seq->n[state] + seq->n[other] == 0)
        return false;
    uint64_t n = vmm_seq_frames(seq);
    for (uint64_t tried = 0; tried < n; tried++) {
        uint64_t i = (seq->cursor[tier] + tried) % n;
        uint64_t at = vmm_seq_entry(seq, i);
        int is = vmm_entry_state(&seq->entries[at]);
        if (is == state || is == other) {
            seq->cursor[tier] = i;
            *index = at;
            return true;
        }
    }
    return false;
}

static kvmm_seq *seq_of(struct vmm_policy_item *item)
{
    return (kvmm_seq *)(void *)((char *)item - offsetof(kvmm_seq, item));
}

static bool has_host_clean(void *ctx, struct vmm_policy_item *item)
{
    return seq_of(item)->n[VMM_HOST_CLEAN] > 0;
}

static bool has_host_only(void *ctx, struct vmm_policy_item *item)
{
    kvmm_seq *seq = seq_of(item);
    return seq->n[VMM_CELL_HOST] > 0 && !seq->step && !seq->resuming && !seq->quiet;
}

static bool has_device_idle(void *ctx, struct vmm_policy_item *item)
{
    kvmm_seq *seq = seq_of(item);
    return !seq->step && seq->pins == 0 && seq->n_pending == 0 && !seq->quiet &&
           seq->n[VMM_CELL_DEVICE] + seq->n[VMM_CELL_CLEAN] > 0;
}

/* For a resume: not from another sequence that is just coming back. */
static bool has_device_cold(void *ctx, struct vmm_policy_item *item)
{
    return !seq_of(item)->resuming && has_device_idle(ctx, item);
}

/* Copies in a tier of frames that a tier above has too are a convenience: up to n of them go when the tier is full. */
static uint32_t reclaim(kvmm *mm, unsigned copy, uint32_t n)
{
    uint32_t freed = 0;
    for (kvmm_seq *seq = mm->seqs.next; seq != &mm->seqs && freed < n; seq = seq->next) {
        uint64_t frames = seq->n[VMM_CELL_CLEAN] + seq->n[VMM_HOST_CLEAN] ? vmm_seq_frames(seq) : 0;
        for (uint64_t i = 0; i < frames && freed < n; i++) {
            uint64_t index = vmm_seq_entry(seq, i);
            const struct vmm_entry *entry = &seq->entries[index];
            int state = vmm_entry_state(entry);
            bool spare = copy == VMM_COPY_HOST ? state == VMM_CELL_CLEAN && entry->host
                                               : (state == VMM_CELL_CLEAN || state == VMM_HOST_CLEAN) && entry->nvme;
            if (!spare)
                continue;
            vmm_entry_forget(seq, index, copy);
            freed++;
        }
    }
    return freed;
}

/* A slot of the host tier: a free one, that of the coldest copy which NVMe has too, or one which the device has too. */
static bool host_slot(kvmm *mm, uint32_t *slot)
{
    if (!mm->host)
        return false;
    if (swap_slot_alloc(mm->host, slot) == 0)
        return true;
    struct vmm_policy_item *item = mm->policy.ops->victim(&mm->policy, VMM_TIER_HOST, has_host_clean, NULL);
    uint64_t index;
    if (item && find_entry(seq_of(item), VMM_TIER_HOST, VMM_HOST_CLEAN, VMM_HOST_CLEAN, &index)) {
        vmm_entry_forget(seq_of(item), index, VMM_COPY_HOST);
        vmm_count(mm, VMM_COUNT_BYTES_DROPPED_CLEAN, mm->frame_bytes);
    } else if (reclaim(mm, VMM_COPY_HOST, 1) == 0) {
        return false;
    }
    return swap_slot_alloc(mm->host, slot) == 0;
}

static bool nvme_slot(kvmm *mm, uint32_t *slot)
{
    if (!mm->nvme)
        return false;
    int rc = swap_slot_alloc(mm->nvme, slot);
    if (rc == -ENOSPC && reclaim(mm, VMM_COPY_NVME, 16))
        rc = swap_slot_alloc(mm->nvme, slot);
    return rc == 0;
}

static int no_spill_space(kvmm *mm)
{
    struct swap_store_info info = {0};
    const char *refusal = vmm_frames_refusal(mm->frames);
    if (mm->nvme)
        swap_get_info(mm->nvme, &info);
    return vmm_fail(KVMM_ERR_NO_SPILL_SPACE,
                    "no place for frames that must leave the device: host tier %s, NVMe tier %s%s%s",
                    mm->host ? "full" : "none",
                    !mm->nvme     ? "none"
                    : info.failed ? "failed"
                                  : "full",
                    refusal ? "; the device has less memory than its budget: " : "", refusal ? refusal : "");
}

/* One frame of seq, idle and not mapped, leaves the device. */
static int evict_one(kvmm_seq *seq, uint64_t index, bool urgent)
{
    kvmm *mm = seq->mm;
    struct vmm_entry *entry = &seq->entries[index];
    struct vmm_move *move = entry->host ? NULL : vmm_move_take(mm);
    uint32_t slot;
    if (move && host_slot(mm, &slot)) {
        vmm_start_spill(move, seq, index, mm->host, slot, urgent);
        return KVMM_OK;
    }
    if (entry->host || entry->nvme) {
        if (move)
            vmm_move_give(mm, move);
        vmm_entry_forget(seq, index, VMM_COPY_DEVICE);
        vmm_count(mm, VMM_COUNT_BYTES_DROPPED_CLEAN, mm->frame_bytes);
        return KVMM_OK;
    }
    if (move && nvme_slot(mm, &slot)) {
        vmm_start_spill(move, seq, index, mm->nvme, slot, urgent);
        return KVMM_OK;
    }
    if (!move)
        return KVMM_ERR_STATE; /* all moves are in flight; more room comes with their ends */
    vmm_move_give(mm, move);
    return no_spill_space(mm);
}

uint64_t vmm_evict_from(kvmm_seq *seq, uint64_t n, bool urgent, int *why)
{
    uint64_t started = 0;
    uint64_t index;
    *why = KVMM_OK;
    while (started < n && find_entry(seq, VMM_TIER_DEVICE, VMM_CELL_DEVICE, VMM_CELL_CLEAN, &index)) {
        /* The run from here on is unmapped in one call; what then has no place to go is mapped again by the next
         * step. */
        uint64_t group_end = index / seq->group_frames * seq->group_frames + seq->live;
        uint64_t run = 0;
        while (run < n - started && index + run < group_end) {
            int state = vmm_entry_state(&seq->entries[index + run]);
            if (state != VMM_CELL_DEVICE && state != VMM_CELL_CLEAN)
                break;
            run++;
        }
        *why = vmm_unmap(seq, index, run);
        for (uint64_t i = 0; i < run && *why == KVMM_OK; i++) {
            *why = evict_one(seq, index + i, urgent);
            started += *why == KVMM_OK;
        }
        if (*why)
            break;
    }
    if (*why == KVMM_ERR_STATE)
        *why = KVMM_OK;
    return started;
}

uint64_t vmm_make_room(kvmm *mm, uint64_t n, bool urgent, int *why)
{
    vmm_policy_usable *usable = urgent ? has_device_idle : has_device_cold;
    uint64_t started = vmm_ahead_drop_all(mm, n);
    *why = KVMM_OK;
    while (started < n) {
        struct vmm_policy_item *item = mm->policy.ops->victim(&mm->policy, VMM_TIER_DEVICE, usable, NULL);
        if (!item)
            break;
        uint64_t from_this = vmm_evict_from(seq_of(item), n - started, urgent, why);
        started += from_this;
        if (from_this == 0 || *why)
            break;
    }
    return started;
}

/* ---- in the background ---- */

static bool pump_has_moves(const kvmm *mm)
{
    return mm->n_moving + RESERVED_MOVES < VMM_N_MOVES;
}

static void clean_host(kvmm *mm)
{
    if (!mm->host || !mm->nvme)
        return;
    uint64_t cleaning = mm->n[VMM_CELL_DEMOTING];
    if (cleaning == 0 && mm->n[VMM_CELL_HOST] <= mm->host_high)
        return;
    while (mm->n[VMM_CELL_HOST] > mm->host_low && cleaning < CLEANING_DEPTH && pump_has_moves(mm)) {
        struct vmm_policy_item *item = mm->policy.ops->victim(&mm->policy, VMM_TIER_HOST, has_host_only, NULL);
        uint64_t index;
        uint32_t slot;
        if (!item || !find_entry(seq_of(item), VMM_TIER_HOST, VMM_CELL_HOST, VMM_CELL_HOST, &index) ||
            swap_slot_alloc(mm->nvme, &slot))
            return;
        vmm_start_demote(vmm_move_take(mm), seq_of(item), index, slot);
        cleaning++;
    }
}

void vmm_stop_background(kvmm_seq *seq)
{
    seq->mm->n_suspending -= seq->suspending;
    seq->mm->n_resuming -= seq->resuming;
    seq->suspending = false;
    seq->resuming = false;
}

int vmm_pump_suspend(kvmm_seq *seq)
{
    int why = KVMM_OK;
    if (seq->n_pending == 0 && pump_has_moves(seq->mm))
        vmm_evict_from(seq, VMM_N_MOVES - RESERVED_MOVES - seq->mm->n_moving, false, &why);
    if (why || seq->n[VMM_CELL_DEVICE] + seq->n[VMM_CELL_CLEAN] == 0)
        vmm_stop_background(seq);
    return why;
}

/* A frame for a sequence that comes back: a free one, or one that another sequence gives up at once. */
static bool resume_frame(kvmm_seq *seq, uint32_t near, uint32_t *frame)
{
    kvmm *mm = seq->mm;
    bool zeroed;
    int why;
    if (mm->committed - seq->committed + vmm_seq_on_device(seq) >= vmm_frames_capacity(mm->frames)) {
        vmm_stop_background(seq);
        return false;
    }
    if (vmm_frames_take(mm->frames, VMM_FRAME_FOR_DATA, near, frame, &zeroed) == KVMM_OK)
        return true;
    if (mm->n[VMM_CELL_LEAVING] > 0)
        return false; /* the end of a put brings the pump here again */
    if (vmm_make_room(mm, 1, false, &why) == 0) {
        if (!mm->pending) /* else there may be room when a fence has passed, which brings the pump here again */
            vmm_stop_background(seq);
        return false;
    }
    return vmm_frames_take(mm->frames, VMM_FRAME_FOR_DATA, near, frame, &zeroed) == KVMM_OK;
}

static void pump_resume(kvmm_seq *seq)
{
    uint64_t n = vmm_seq_frames(seq);
    uint32_t near = 0;
    for (; seq->resume_cursor < n && pump_has_moves(seq->mm); seq->resume_cursor++) {
        uint64_t index = vmm_seq_entry(seq, seq->resume_cursor);
        const struct vmm_entry *entry = &seq->entries[index];
        int state = vmm_entry_state(entry);
        vmm_entry_keep(seq, index);
        near = entry->frame ? entry->frame : near; /* the number + 1: the neighbour's */
        if (state != VMM_CELL_HOST && state != VMM_HOST_CLEAN && state != VMM_CELL_NVME)
            continue;
        uint32_t frame;
        if (!resume_frame(seq, near, &frame))
            return;
        near = frame + 1;
        vmm_start_fetch(vmm_move_take(seq->mm), seq, index, frame, false);
    }
    if (seq->resume_cursor >= n)
        vmm_stop_background(seq);
}

void vmm_pump(kvmm *mm)
{
    struct vmm_message
        message; /* nobody asked: what fails here is no failure of the call that happens to be under way */
    vmm_message_save(&message);
    if (mm->n_resuming + mm->n_suspending) {
        for (kvmm_seq *seq = mm->seqs.next; seq != &mm->seqs && pump_has_moves(mm); seq = seq->next) {
            if (seq->resuming)
                pump_resume(seq);
            else if (seq->suspending)
                vmm_pump_suspend(seq);
        }
    }
    clean_host(mm);
    vmm_message_restore(&message);
}
