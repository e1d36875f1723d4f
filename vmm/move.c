/* SPDX-License-Identifier: Apache-2.0
 *
 * Transfers: what each is between, and what its end makes of the entry. transfer.c runs them; their ends come on threads
 * of swap's or the device's, and take the lock only to write down the outcome. */
#include <errno.h>
#include <string.h>

#include "vmm/error.h"
#include "vmm/mm.h"
#include "swap/thread.h"

struct vmm_move *vmm_move_take(kvmm *mm)
{
    struct vmm_move *move = mm->free_moves;
    if (move) {
        mm->free_moves = move->next;
        mm->n_moving++;
    }
    return move;
}

void vmm_move_give(kvmm *mm, struct vmm_move *move)
{
    move->next = mm->free_moves;
    mm->free_moves = move;
    mm->n_moving--;
}

static bool is_spill(enum vmm_move_kind kind)
{
    return kind == VMM_SPILL_HOST || kind == VMM_SPILL_NVME;
}

static bool is_fetch(enum vmm_move_kind kind)
{
    return kind == VMM_FETCH_HOST || kind == VMM_FETCH_NVME;
}

static void end_spill(struct vmm_move *move, struct vmm_entry *entry, int result)
{
    kvmm *mm = move->seq->mm;
    bool to_host = move->kind == VMM_SPILL_HOST;
    uint32_t slot = move->io.slot;
    if (result) {
        /* The frame still has the bytes. Whoever wants the room tries again, with another slot. */
        swap_slot_free(to_host ? mm->host : mm->nvme, slot);
        vmm_log(mm, KVMM_LOG_WARNING, "sequence %llu: a frame could not be written to %s: %s; kept on the device",
                (unsigned long long)move->seq->id, to_host ? "host memory" : "NVMe", strerror(-result));
    } else {
        *(to_host ? &entry->host : &entry->nvme) = slot + 1;
        vmm_count(mm, to_host ? VMM_COUNT_BYTES_TO_HOST : VMM_COUNT_BYTES_TO_NVME, mm->frame_bytes);
        if (!(entry->flags & VMM_KEEP)) {
            vmm_frames_give(mm->frames, entry->frame - 1, false);
            entry->frame = 0;
        }
    }
    entry->flags &= (uint8_t)~VMM_KEEP;
}

static void end_demote(struct vmm_move *move, struct vmm_entry *entry, int result)
{
    kvmm *mm = move->seq->mm;
    if (result) {
        swap_slot_free(mm->nvme, move->io.slot);
        vmm_log(mm, KVMM_LOG_WARNING, "sequence %llu: a frame could not be written to NVMe: %s; kept in host memory",
                (unsigned long long)move->seq->id, strerror(-result));
        return;
    }
    entry->nvme = move->io.slot + 1;
    vmm_count(mm, VMM_COUNT_BYTES_TO_NVME, mm->frame_bytes);
}

static void end_fetch(struct vmm_move *move, struct vmm_entry *entry, int result)
{
    kvmm *mm = move->seq->mm;
    bool from_host = move->kind == VMM_FETCH_HOST;
    if (result == 0) {
        vmm_count(mm, from_host ? VMM_COUNT_BYTES_FROM_HOST : VMM_COUNT_BYTES_FROM_NVME, mm->frame_bytes);
        if (from_host) {
            /* A second copy in memory buys nothing; one on NVMe saves the next write. */
            swap_slot_free(mm->host, entry->host - 1);
            entry->host = 0;
        }
        return;
    }
    vmm_frames_give(mm->frames, entry->frame - 1, false);
    entry->frame = 0;
    uint32_t *slot = from_host ? &entry->host : &entry->nvme;
    swap_slot_free(from_host ? mm->host : mm->nvme, *slot - 1);
    *slot = 0;
    bool other_copy = entry->host || entry->nvme;
    vmm_log(mm, other_copy ? KVMM_LOG_WARNING : KVMM_LOG_ERROR,
            "sequence %llu: a frame could not be read from %s: %s%s", (unsigned long long)move->seq->id,
            from_host ? "host memory" : "NVMe", strerror(-result),
            other_copy ? "; another copy is used" : "; its tokens are lost");
    if (!other_copy) {
        entry->flags |= VMM_LOST;
        vmm_count(mm, VMM_COUNT_FRAMES_LOST, 1);
    }
}

void vmm_device_failed(kvmm *mm)
{
    if (mm->device_failed)
        return;
    mm->device_failed = true;
    vmm_message_save(&mm->device_failure);
    vmm_log(mm, KVMM_LOG_ERROR, "%s", mm->device_failure.text);
    pthread_cond_broadcast(&mm->changed);
}

/* The device refused a copy or a clear, twice. The bytes are still where they came from. */
static void end_refused(struct vmm_move *move, struct vmm_entry *entry)
{
    kvmm *mm = move->seq->mm;
    vmm_device_failed(mm);
    if (is_spill(move->kind)) {
        swap_slot_free(move->store, move->io.slot);
        entry->flags &= (uint8_t)~VMM_KEEP;
        return;
    }
    vmm_frames_give(mm->frames, entry->frame - 1, false);
    entry->frame = 0;
}

void vmm_end_move(struct vmm_move *move, int result, int device_status)
{
    kvmm_seq *seq = move->seq;
    kvmm *mm = seq->mm;
    pthread_mutex_lock(&mm->lock);
    struct vmm_entry *entry = vmm_entry_open(seq, move->index);
    entry->op = VMM_IDLE;
    if (device_status)
        end_refused(move, entry);
    else if (is_spill(move->kind))
        end_spill(move, entry, result);
    else if (is_fetch(move->kind))
        end_fetch(move, entry, result);
    else if (move->kind == VMM_DEMOTE)
        end_demote(move, entry, result);
    vmm_entry_close(seq, move->index);
    vmm_move_give(mm, move);
    vmm_pump(mm);
    vmm_publish_usage(mm);
    if (mm->n_waiters)
        pthread_cond_broadcast(&mm->changed);
    pthread_mutex_unlock(&mm->lock);
}

static void begin(struct vmm_move *move, kvmm_seq *seq, uint64_t index, enum vmm_move_kind kind, enum vmm_op op,
                  uint32_t frame)
{
    move->seq = seq;
    move->index = index;
    move->kind = kind;
    struct vmm_entry *entry = vmm_entry_open(seq, index);
    entry->op = (uint8_t)op;
    if (frame != UINT32_MAX)
        entry->frame = frame + 1;
    move->frame = entry->frame - 1;
    vmm_entry_close(seq, index);
}

/* Starts the transfer between the entry's frame, or host slot, and a slot of store. */
static void run(struct vmm_move *move, struct swap_store *store, uint32_t slot, bool urgent)
{
    move->store = store;
    move->io = (struct swap_io){
        .slot = slot,
        .stamp = {.key = move->seq->id << 32 | move->index, .generation = move->seq->entries[move->index].generation},
        .urgent = urgent,
    };
    vmm_transfer(move);
}

void vmm_start_spill(struct vmm_move *move, kvmm_seq *seq, uint64_t index, struct swap_store *store, uint32_t slot,
                     bool urgent)
{
    begin(move, seq, index, store == seq->mm->host ? VMM_SPILL_HOST : VMM_SPILL_NVME, VMM_LEAVING, UINT32_MAX);
    run(move, store, slot, urgent);
}

void vmm_start_demote(struct vmm_move *move, kvmm_seq *seq, uint64_t index, uint32_t slot)
{
    begin(move, seq, index, VMM_DEMOTE, VMM_DEMOTING, UINT32_MAX);
    move->from_slot = seq->entries[index].host - 1;
    run(move, seq->mm->nvme, slot, false);
}

void vmm_start_fetch(struct vmm_move *move, kvmm_seq *seq, uint64_t index, uint32_t frame, bool urgent)
{
    kvmm *mm = seq->mm;
    bool from_host = seq->entries[index].host != 0;
    begin(move, seq, index, from_host ? VMM_FETCH_HOST : VMM_FETCH_NVME, VMM_ARRIVING, frame);
    struct vmm_entry *entry = &seq->entries[index];
    vmm_count(mm, from_host ? VMM_COUNT_FRAMES_FROM_HOST : VMM_COUNT_FRAMES_FROM_NVME, 1);
    run(move, from_host ? mm->host : mm->nvme, (from_host ? entry->host : entry->nvme) - 1, urgent);
}

void vmm_start_zero(struct vmm_move *move, kvmm_seq *seq, uint64_t index, uint32_t frame)
{
    begin(move, seq, index, VMM_ZERO, VMM_ARRIVING, frame);
    run(move, NULL, 0, true);
}

int vmm_unmap(kvmm_seq *seq, uint64_t index, uint64_t n)
{
    struct vmm_device *device = seq->mm->device;
    uint64_t end = index + n;
    while (index < end) {
        uint64_t run = 0;
        while (index + run < end && seq->entries[index + run].flags & VMM_MAPPED)
            run++;
        if (run) {
            int rc = device->ops->unmap(device, vmm_entry_address(seq, index), run);
            if (rc)
                return rc;
        }
        for (uint64_t i = 0; i < run; i++) {
            vmm_entry_open(seq, index + i)->flags &= (uint8_t)~VMM_MAPPED;
            vmm_entry_close(seq, index + i);
        }
        index += run ? run : 1;
    }
    return KVMM_OK;
}

#define MAP_BATCH 256

static int map_group(kvmm_seq *seq, uint64_t first)
{
    struct vmm_device *device = seq->mm->device;
    uint32_t frames[MAP_BATCH];
    for (uint64_t at = 0; at < seq->live;) {
        uint64_t run = 0;
        while (run < MAP_BATCH && at + run < seq->live) {
            const struct vmm_entry *entry = &seq->entries[first + at + run];
            if (!entry->frame || entry->flags & VMM_MAPPED)
                break;
            frames[run++] = entry->frame - 1;
        }
        if (run) {
            int rc = device->ops->map(device, vmm_entry_address(seq, first + at), frames, run);
            if (rc)
                return rc;
        }
        for (uint64_t i = 0; i < run; i++) {
            vmm_entry_open(seq, first + at + i)->flags |= VMM_MAPPED;
            vmm_entry_close(seq, first + at + i);
        }
        at += run ? run : 1;
    }
    return KVMM_OK;
}

int vmm_map_all(kvmm_seq *seq)
{
    if (seq->n_mapped == vmm_seq_frames(seq))
        return KVMM_OK;
    for (uint32_t g = 0; g < seq->layout.n_groups; g++) {
        int rc = map_group(seq, (uint64_t)g * seq->group_frames);
        if (rc)
            return rc;
    }
    return KVMM_OK;
}

bool vmm_can_change(const kvmm *mm)
{
    return mm->n_moving || mm->pending || mm->n_quiet || mm->keeper.n_making;
}

void vmm_wait_for(pthread_cond_t *what, kvmm *mm, long ns)
{
    swap_cond_wait_until(what, &mm->lock, swap_now_ns() + (uint64_t)ns);
}

void vmm_wait(kvmm *mm)
{
    mm->n_waiters++;
    if (mm->pending) {
        /* Fences pass without telling anyone: look again soon. */
        vmm_wait_for(&mm->changed, mm, 100000);
        vmm_reap_steps(mm);
    } else {
        pthread_cond_wait(&mm->changed, &mm->lock);
    }
    mm->n_waiters--;
}

void vmm_wait_idle(kvmm_seq *seq)
{
    vmm_reap_steps(seq->mm);
    seq->quiet = true;
    seq->mm->n_quiet++;
    while (vmm_seq_moving(seq) || seq->n_pending)
        vmm_wait(seq->mm);
    seq->mm->n_quiet--;
    seq->quiet = false;
}
