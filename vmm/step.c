/* SPDX-License-Identifier: Apache-2.0
 *
 * Steps. Begin in three parts: admission (does it fit the budget beside what can't move? if so it will fit, so two
 * steps never wait for each other's frames), residency (fetch, clear and make room until every wanted frame is on the
 * device), mapping. A step whose sequences are all in place passes through with a few comparisons each. */
#include <stdlib.h>
#include <string.h>

#include "vmm/error.h"
#include "vmm/layout.h"
#include "vmm/mm.h"

static bool seq_ready(const kvmm_seq *seq)
{
    return seq->n_mapped == vmm_seq_frames(seq) && vmm_seq_moving(seq) == 0;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1024 * 1024);
}

static kvmm_step *step_take(kvmm *mm, size_t n)
{
    kvmm_step *step = mm->free_steps;
    if (step)
        mm->free_steps = step->next;
    else
        step = calloc(1, sizeof *step);
    if (step && step->capacity < n) {
        struct vmm_step_seq *seqs = realloc(step->seqs, n * sizeof *seqs);
        if (!seqs) {
            step->next = mm->free_steps;
            mm->free_steps = step;
            step = NULL;
        } else {
            step->seqs = seqs;
            step->capacity = n;
        }
    }
    if (!step) {
        vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "no memory for a step of %zu sequences", n);
        return NULL;
    }
    step->mm = mm;
    step->n = 0;
    return step;
}

static void step_give(kvmm_step *step)
{
    step->next = step->mm->free_steps;
    step->mm->free_steps = step;
}

static int check_want(const kvmm *mm, const kvmm_step *step, const struct kvmm_want *want)
{
    const kvmm_seq *seq = want->seq;
    if (!seq || seq->mm != mm)
        return vmm_fail(KVMM_ERR_INVALID, "a want names no sequence of this manager");
    unsigned long long id = (unsigned long long)seq->id;
    if (seq->step == step)
        return vmm_fail(KVMM_ERR_INVALID, "sequence %llu is named twice in a step", id);
    if (seq->step)
        return vmm_fail(KVMM_ERR_STATE, "sequence %llu is in another step", id);
    if (want->n_tokens < seq->length)
        return vmm_fail(KVMM_ERR_INVALID, "sequence %llu has %u tokens; a step can't want %u", id, seq->length,
                        want->n_tokens);
    if (want->n_tokens > seq->max_tokens)
        return vmm_fail(KVMM_ERR_RANGE_FULL, "sequence %llu is reserved for %u tokens; %u are wanted", id,
                        seq->max_tokens, want->n_tokens);
    if (seq->n[VMM_CELL_LOST])
        return vmm_fail(KVMM_ERR_DATA_LOST, "sequence %llu lost data; see kvmm_seq_info.valid_tokens", id);
    return KVMM_OK;
}

static uint64_t frames_for(const kvmm_seq *seq, uint32_t n_tokens)
{
    return vmm_group_frames(&seq->layout, seq->mm->frame_bytes, n_tokens) * seq->layout.n_groups;
}

/* The message of NO_DEVICE_MEMORY: all that is wanted, what there is, and what others hold. */
static int no_device_memory(const kvmm *mm, const struct kvmm_want *wants, size_t n, uint64_t held)
{
    uint64_t need = 0;
    for (size_t i = 0; i < n; i++) {
        if (wants[i].seq && wants[i].seq->mm == mm)
            need += frames_for(wants[i].seq, wants[i].n_tokens);
    }
    uint64_t bytes = mm->frame_bytes;
    return vmm_fail(
        KVMM_ERR_NO_DEVICE_MEMORY,
        "the step needs %.2f MiB of device memory (%llu frames of %zu KiB) of a budget of %.2f MiB, of which "
        "%.2f MiB are held by other steps and pins",
        mib(need * bytes), (unsigned long long)need, mm->frame_bytes / 1024,
        mib((uint64_t)vmm_frames_capacity(mm->frames) * bytes), mib(held * bytes));
}

static void join(kvmm_step *step, struct kvmm_want *want, uint64_t target)
{
    kvmm_seq *seq = want->seq;
    seq->step = step;
    seq->target = target;
    seq->live = (uint32_t)(target / seq->layout.n_groups);
    vmm_stop_background(seq);
    vmm_seq_keep(seq);
    vmm_seq_commit(seq);
    seq->mm->policy.ops->touch(&seq->mm->policy, &seq->item);
    step->seqs[step->n++] = (struct vmm_step_seq){.seq = seq, .n_tokens = want->n_tokens, .want = want};
    vmm_count(seq->mm, VMM_COUNT_FRAMES_HIT, seq->n[VMM_CELL_DEVICE] + seq->n[VMM_CELL_CLEAN]);
    vmm_seq_publish(seq);
}

static void leave(kvmm_seq *seq)
{
    seq->step = NULL;
    vmm_seq_commit(seq);
    vmm_seq_publish(seq);
}

/* The sequence does not take part after all: frames for tokens that it won't get are given back. */
static void retreat(kvmm_seq *seq)
{
    uint32_t live = (uint32_t)(frames_for(seq, seq->length) / seq->layout.n_groups);
    if (live < seq->live) {
        while (vmm_seq_moving(seq))
            vmm_wait(seq->mm);
        vmm_seq_shrink(seq, live);
    }
    leave(seq);
}

static int admit(kvmm *mm, kvmm_step *step, struct kvmm_want *wants, size_t n, unsigned flags)
{
    bool partial = flags & KVMM_STEP_PARTIAL;
    int first = KVMM_OK;
    for (size_t i = 0; i < n; i++) {
        if (first && !partial) {
            wants[i].status = first == KVMM_ERR_NO_DEVICE_MEMORY ? first : KVMM_OK;
            continue;
        }
        int rc = check_want(mm, step, &wants[i]);
        if (rc == KVMM_OK) {
            uint64_t target = frames_for(wants[i].seq, wants[i].n_tokens);
            uint64_t others = mm->committed - wants[i].seq->committed;
            if (others + target <= vmm_frames_capacity(mm->frames)) {
                join(step, &wants[i], target);
            } else {
                for (size_t j = 0; j < step->n; j++)
                    others -= step->seqs[j].seq->target;
                rc = no_device_memory(mm, wants, n, others);
            }
        }
        wants[i].status = rc;
        if (rc && !first)
            first = rc;
    }
    if (step->n > 0 && (partial || !first))
        return KVMM_OK;
    return first;
}

/* Starts what brings the sequence's frames to the device, as far as there are frames and moves. */
static int advance(struct vmm_step_seq *ss)
{
    kvmm_seq *seq = ss->seq;
    kvmm *mm = seq->mm;
    uint64_t n = vmm_seq_frames(seq);
    uint32_t near = 0;
    ss->starved = false;
    for (; ss->cursor < n; ss->cursor++) {
        uint64_t index = vmm_seq_entry(seq, ss->cursor);
        struct vmm_entry *entry = &seq->entries[index];
        int state = vmm_entry_state(entry);
        if (state == VMM_CELL_LOST)
            return vmm_fail(KVMM_ERR_DATA_LOST, "sequence %llu lost data; see kvmm_seq_info.valid_tokens",
                            (unsigned long long)seq->id);
        if (entry->frame || entry->op != VMM_IDLE) {
            near = entry->frame; /* entry->frame is the number + 1: the neighbour's */
            continue;
        }
        struct vmm_move *move = vmm_move_take(mm);
        if (!move)
            return KVMM_OK;
        uint32_t frame;
        bool zeroed;
        enum vmm_frame_use use = state == VMM_CELL_EMPTY ? VMM_FRAME_FOR_ZERO : VMM_FRAME_FOR_DATA;
        int rc = vmm_frames_take(mm->frames, use, near, &frame, &zeroed);
        if (rc) {
            vmm_move_give(mm, move);
            ss->starved = rc == KVMM_ERR_NO_DEVICE_MEMORY;
            return ss->starved ? KVMM_OK : rc;
        }
        near = frame + 1;
        if (state != VMM_CELL_EMPTY) {
            vmm_start_fetch(move, seq, index, frame, true);
            continue;
        }
        vmm_count(mm, VMM_COUNT_FRAMES_NEW, 1);
        if (!zeroed) {
            vmm_start_zero(move, seq, index, frame);
            continue;
        }
        vmm_move_give(mm, move);
        vmm_entry_open(seq, index)->frame = frame + 1;
        vmm_entry_close(seq, index);
    }
    if (vmm_seq_moving(seq))
        return KVMM_OK;
    if (vmm_seq_on_device(seq) == n)
        return vmm_map_all(seq);
    ss->cursor = 0; /* what was moving when the cursor passed is elsewhere now */
    return KVMM_OK;
}

/* Frames that the step still has to take for this sequence. */
static uint64_t missing(const kvmm_seq *seq)
{
    return vmm_seq_frames(seq) - vmm_seq_on_device(seq);
}

static void drop_seq(kvmm_step *step, size_t i, int status)
{
    step->seqs[i].want->status = status;
    retreat(step->seqs[i].seq);
    memmove(&step->seqs[i], &step->seqs[i + 1], (step->n - i - 1) * sizeof *step->seqs);
    step->n--;
}

/* One round over the sequences. *need: frames still to be taken; *starved: some wait for frames to become free. */
static int advance_all(kvmm_step *step, unsigned flags, uint64_t *need, bool *starved, bool *ready)
{
    *need = 0;
    *starved = false;
    *ready = true;
    for (size_t i = 0; i < step->n;) {
        struct vmm_step_seq *ss = &step->seqs[i];
        int rc = seq_ready(ss->seq) ? KVMM_OK : advance(ss);
        if (rc == KVMM_OK && step->mm->device_failed)
            rc = vmm_fail(KVMM_ERR_DEVICE, "the device failed to clear a frame");
        if (rc) {
            if (!(flags & KVMM_STEP_PARTIAL) || step->n == 1) {
                ss->want->status = rc;
                return rc;
            }
            drop_seq(step, i, rc);
            continue;
        }
        *ready &= seq_ready(ss->seq);
        *need += missing(ss->seq);
        *starved |= ss->starved;
        i++;
    }
    return KVMM_OK;
}

static int make_resident(kvmm_step *step, unsigned flags)
{
    kvmm *mm = step->mm;
    vmm_frames_retry(mm->frames);
    for (;;) {
        uint64_t need;
        bool starved, ready;
        int rc = advance_all(step, flags, &need, &starved, &ready);
        if (rc || ready)
            return rc;
        uint64_t coming = vmm_frames_free(mm->frames) + mm->n[VMM_CELL_LEAVING];
        for (size_t i = 0; i < step->n; i++)
            coming -= step->seqs[i].seq->n[VMM_CELL_LEAVING]; /* these stay */
        int why = KVMM_OK;
        if (starved && need > coming && vmm_make_room(mm, need - coming, true, &why) == 0 && mm->n_moving == 0 &&
            !mm->pending) {
            if (why == KVMM_OK)
                why = vmm_fail(KVMM_ERR_NO_DEVICE_MEMORY,
                               "the device has no memory for %llu more frames, though its budget has",
                               (unsigned long long)need);
            for (size_t i = 0; i < step->n; i++)
                step->seqs[i].want->status = seq_ready(step->seqs[i].seq) ? KVMM_OK : why;
            return why;
        }
        if ((starved && vmm_frames_free(mm->frames) > 0) || (mm->n_moving == 0 && !mm->pending))
            continue;
        vmm_wait(mm);
    }
}

/* The lower tiers' copies of the frames that the new tokens lie in are about to be outdated. */
static void mark_written(kvmm_seq *seq, uint32_t n_tokens)
{
    if (n_tokens == seq->length)
        return;
    uint64_t begin, end;
    vmm_group_span(&seq->layout, seq->mm->frame_bytes, seq->length, n_tokens, &begin, &end);
    for (uint32_t g = 0; g < seq->layout.n_groups; g++) {
        for (uint64_t f = begin; f < end; f++) {
            uint64_t index = (uint64_t)g * seq->group_frames + f;
            struct vmm_entry *entry = &seq->entries[index];
            if (entry->host || entry->nvme) {
                vmm_entry_drop_copies(seq, index);
                entry->generation++;
            }
        }
    }
}

static int begin_locked(kvmm *mm, struct kvmm_want *wants, size_t n, unsigned flags, kvmm_step **out)
{
    kvmm_step *step = step_take(mm, n);
    if (!step) {
        for (size_t i = 0; i < n; i++)
            wants[i].status = KVMM_ERR_NO_HOST_MEMORY;
        return KVMM_ERR_NO_HOST_MEMORY;
    }
    vmm_reap_steps(mm);
    int rc = admit(mm, step, wants, n, flags);
    if (rc)
        goto err_retreat;
    bool ready = true;
    for (size_t i = 0; i < step->n; i++)
        ready &= seq_ready(step->seqs[i].seq);
    if (!ready) {
        uint64_t start = mm->now_ns(mm->user);
        rc = make_resident(step, flags);
        vmm_count(mm, VMM_COUNT_STEPS_WAITED, 1);
        vmm_count(mm, VMM_COUNT_WAIT_NS, mm->now_ns(mm->user) - start);
        vmm_publish_usage(mm);
        if (rc)
            goto err_retreat;
    }
    for (size_t i = 0; i < step->n; i++)
        mark_written(step->seqs[i].seq, step->seqs[i].n_tokens);
    vmm_count(mm, VMM_COUNT_STEPS, 1);
    mm->n_open_steps++;
    *out = step;
    return KVMM_OK;

err_retreat:
    while (step->n)
        retreat(step->seqs[--step->n].seq);
    step_give(step);
    vmm_publish_usage(mm);
    pthread_cond_broadcast(&mm->changed);
    return rc;
}

int kvmm_step_begin(kvmm *mm, struct kvmm_want *wants, size_t n, unsigned flags, kvmm_step **step)
{
    if (!mm || !wants || !step || n == 0)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_step_begin: mm, wants and step must not be NULL, nor n 0");
    if (flags & ~KVMM_STEP_PARTIAL)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_step_begin: unknown flags %#x", flags);
    pthread_mutex_lock(&mm->lock);
    int rc = begin_locked(mm, wants, n, flags, step);
    pthread_mutex_unlock(&mm->lock);
    return rc;
}

int kvmm_step_end(kvmm_step **handle, void *stream)
{
    if (!handle || !*handle)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_step_end: no step");
    kvmm_step *step = *handle;
    kvmm *mm = step->mm;
    *handle = NULL;
    pthread_mutex_lock(&mm->lock);
    int rc = mm->device->ops->fence_record(mm->device, stream, &step->fence);
    bool passed = rc || mm->device->ops->fence_passed(mm->device, step->fence);
    for (size_t i = 0; i < step->n; i++) {
        kvmm_seq *seq = step->seqs[i].seq;
        seq->length = step->seqs[i].n_tokens;
        seq->n_pending += !passed;
        leave(seq);
    }
    mm->n_open_steps--;
    if (passed) {
        step_give(step);
    } else {
        step->next = mm->pending;
        mm->pending = step;
    }
    if (mm->n_resuming)
        vmm_pump(mm);
    if (mm->n_waiters)
        pthread_cond_broadcast(&mm->changed);
    pthread_mutex_unlock(&mm->lock);
    return rc;
}
