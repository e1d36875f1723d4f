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
    return seq->n_mapped == vmm_seq_frames(seq) && vmm_seq_moving(seq) == 0 && vmm_tail_right(seq);
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

/* Its frames are committed; what is under way for it goes on until it is clear that the step begins. */
static void join(kvmm_step *step, struct kvmm_want *want, uint64_t target)
{
    kvmm_seq *seq = want->seq;
    uint32_t live = (uint32_t)(target / seq->layout.n_groups);
    seq->step = step;
    seq->target = target;
    if (seq->ahead > 0 && live > seq->live)
        vmm_ahead_join(seq, live - seq->live < seq->ahead ? live - seq->live : seq->ahead);
    seq->live = live;
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

/* A kvmm_step_begin under way. Its failure is that of the first want which can't be met. */
struct begin {
    kvmm *mm;
    kvmm_step *step;
    struct kvmm_want *wants;
    size_t n;
    bool partial;
    size_t blamed; /* that want; n: none so far */
    struct vmm_message reason;
};

/* Called right after the failure, while its message stands. */
static void blame(struct begin *b, struct kvmm_want *want, int status)
{
    size_t i = (size_t)(want - b->wants);
    want->status = status;
    if (i < b->blamed) {
        b->blamed = i;
        vmm_message_save(&b->reason);
    }
}

static int admit_one(struct begin *b, struct kvmm_want *want)
{
    kvmm *mm = b->mm;
    int rc = check_want(mm, b->step, want);
    if (rc)
        return rc;
    uint64_t target = frames_for(want->seq, want->n_tokens);
    uint64_t others = mm->committed - want->seq->committed;
    if (others + target <= vmm_frames_capacity(mm->frames)) {
        join(b->step, want, target);
        return KVMM_OK;
    }
    for (size_t i = 0; i < b->step->n; i++)
        others -= b->step->seqs[i].seq->target;
    return no_device_memory(mm, b->wants, b->n, others);
}

/* False: the step can't begin. */
static bool admit(struct begin *b)
{
    for (size_t i = 0; i < b->n; i++) {
        int first = b->blamed < b->n ? b->wants[b->blamed].status : KVMM_OK;
        b->wants[i].status = KVMM_OK;
        if (first && !b->partial) { /* those behind it were not looked at */
            b->wants[i].status = first == KVMM_ERR_NO_DEVICE_MEMORY ? first : KVMM_OK;
            continue;
        }
        int rc = admit_one(b, &b->wants[i]);
        if (rc)
            blame(b, &b->wants[i], rc);
    }
    return b->step->n > 0 && (b->partial || b->blamed == b->n);
}

/* Frames that the step still has to take for this sequence. */
static uint64_t missing(const kvmm_seq *seq)
{
    return vmm_seq_frames(seq) - vmm_seq_on_device(seq);
}

/* All its frames are on the device. The old tail makes way first, once no kernel reads there any more. */
static int map_in_place(kvmm_seq *seq)
{
    bool moves = !vmm_tail_right(seq);
    if (moves && seq->n_pending > 0)
        return KVMM_OK; /* until its fences have passed */
    int rc = moves ? vmm_tail_drop(seq) : KVMM_OK;
    if (rc == KVMM_OK)
        rc = vmm_map_all(seq);
    return rc == KVMM_OK && moves ? vmm_tail_put(seq) : rc;
}

/* Starts what brings the sequence's frames to the device, as far as there are frames and moves. */
static int advance(struct vmm_step_seq *ss)
{
    kvmm_seq *seq = ss->seq;
    kvmm *mm = seq->mm;
    uint64_t n = vmm_seq_frames(seq);
    uint32_t near = 0;
    ss->starved = false;
    if (ss->cursor == n && vmm_seq_moving(seq) == 0)
        ss->cursor = 0; /* what was moving when the cursor passed may be elsewhere now */
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
    return vmm_seq_moving(seq) || missing(seq) ? KVMM_OK : map_in_place(seq);
}

static void drop_seq(struct begin *b, size_t i, int status)
{
    kvmm_step *step = b->step;
    kvmm_seq *seq = step->seqs[i].seq;
    blame(b, step->seqs[i].want, status);
    memmove(&step->seqs[i], &step->seqs[i + 1], (step->n - i - 1) * sizeof *step->seqs);
    step->n--;
    retreat(seq);
}

/* One round over the sequences; those that can't be in the step are dropped. */
static void advance_all(struct begin *b)
{
    for (size_t i = 0; i < b->step->n;) {
        struct vmm_step_seq *ss = &b->step->seqs[i];
        int rc = seq_ready(ss->seq) ? KVMM_OK : advance(ss);
        if (rc == KVMM_OK && b->mm->device_failed)
            rc = vmm_fail(KVMM_ERR_DEVICE, "%s", b->mm->device_failure.text);
        if (rc == KVMM_OK) {
            i++;
            continue;
        }
        drop_seq(b, i, rc);
        if (!b->partial)
            return;
    }
}

/* Room for the sequences that wait for frames. False: there is none to be had, now or later; *why says what stopped it. */
static bool find_room(struct begin *b, int *why)
{
    kvmm *mm = b->mm;
    uint64_t need = 0, coming = mm->n[VMM_CELL_LEAVING];
    for (size_t i = 0; i < b->step->n; i++) {
        need += missing(b->step->seqs[i].seq);
        coming -= b->step->seqs[i].seq->n[VMM_CELL_LEAVING]; /* these stay */
    }
    const char *refusal = vmm_frames_refusal(mm->frames);
    *why = KVMM_OK;
    if (need > coming && vmm_make_room(mm, need - coming, true, why) == 0 && !vmm_can_change(mm)) {
        if (*why == KVMM_OK)
            *why = vmm_fail(KVMM_ERR_NO_DEVICE_MEMORY,
                            "the device has no memory for %llu more frames, though its budget has%s%s",
                            (unsigned long long)need, refusal ? ": " : "", refusal ? refusal : "");
        return false;
    }
    return true;
}

/* False: the step can't begin. */
static bool make_resident(struct begin *b)
{
    kvmm *mm = b->mm;
    kvmm_step *step = b->step;
    vmm_frames_retry(mm->frames);
    for (;;) {
        advance_all(b);
        if (step->n == 0 || (b->blamed < b->n && !b->partial))
            return false;
        size_t last = step->n; /* the last one that is not ready */
        bool starved = false;
        for (size_t i = 0; i < step->n; i++) {
            last = seq_ready(step->seqs[i].seq) ? last : i;
            starved |= step->seqs[i].starved && !seq_ready(step->seqs[i].seq);
        }
        if (last == step->n)
            return true;
        int why;
        if (starved && !find_room(b, &why))
            drop_seq(b, last, why); /* what it held may do for the others */
        else if (vmm_can_change(mm) && !(starved && vmm_frames_free(mm->frames) > 0))
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
                vmm_entry_forget(seq, index, VMM_COPY_HOST | VMM_COPY_NVME);
                entry->generation++;
            }
        }
    }
}

static bool all_ready(const kvmm_step *step)
{
    bool ready = true;
    for (size_t i = 0; i < step->n; i++)
        ready &= seq_ready(step->seqs[i].seq);
    return ready;
}

/* The slow path, timed. A call that succeeds leaves the thread's message as it was. */
static bool make_resident_timed(struct begin *b)
{
    struct vmm_message message;
    vmm_message_save(&message);
    uint64_t start = b->mm->now_ns(b->mm->user);
    bool resident = make_resident(b);
    vmm_count(b->mm, VMM_COUNT_STEPS_WAITED, 1);
    vmm_count(b->mm, VMM_COUNT_WAIT_NS, b->mm->now_ns(b->mm->user) - start);
    vmm_publish_usage(b->mm);
    vmm_message_restore(&message);
    return resident;
}

static int begin_locked(struct begin *b, kvmm_step **out)
{
    kvmm *mm = b->mm;
    vmm_reap_steps(mm);
    if (!admit(b))
        goto err_retreat;
    for (size_t i = 0; i < b->step->n; i++) {
        vmm_stop_background(b->step->seqs[i].seq);
        vmm_seq_keep(b->step->seqs[i].seq);
    }
    if (!all_ready(b->step) && !make_resident_timed(b))
        goto err_retreat;
    for (size_t i = 0; i < b->step->n; i++)
        mark_written(b->step->seqs[i].seq, b->step->seqs[i].n_tokens);
    vmm_count(mm, VMM_COUNT_STEPS, 1);
    mm->n_open_steps++;
    *out = b->step;
    return KVMM_OK;

err_retreat:
    while (b->step->n)
        retreat(b->step->seqs[--b->step->n].seq);
    step_give(b->step);
    vmm_publish_usage(mm);
    pthread_cond_broadcast(&mm->changed);
    vmm_message_restore(&b->reason);
    return b->wants[b->blamed].status;
}

int kvmm_step_begin(kvmm *mm, struct kvmm_want *wants, size_t n, unsigned flags, kvmm_step **step)
{
    if (!mm || !wants || !step || n == 0)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_step_begin: mm, wants and step must not be NULL, nor n 0");
    if (flags & ~KVMM_STEP_PARTIAL)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_step_begin: unknown flags %#x", flags);
    int rc = KVMM_ERR_NO_HOST_MEMORY;
    pthread_mutex_lock(&mm->lock);
    struct begin b = {.mm = mm, .wants = wants, .n = n, .partial = flags & KVMM_STEP_PARTIAL, .blamed = n};
    b.step = step_take(mm, n);
    if (b.step)
        rc = begin_locked(&b, step);
    for (size_t i = 0; !b.step && i < n; i++)
        wants[i].status = rc;
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
        vmm_keeper_grown(seq);
    }
    mm->n_open_steps--;
    if (passed) {
        step_give(step);
    } else {
        step->next = mm->pending;
        mm->pending = step;
    }
    if (mm->n_resuming + mm->n_suspending) {
        vmm_pump(mm);
        vmm_keeper_ask(mm);
    }
    if (mm->n_waiters)
        pthread_cond_broadcast(&mm->changed);
    pthread_mutex_unlock(&mm->lock);
    return rc;
}
