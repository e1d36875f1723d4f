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

static bool has_sources(const kvmm_seq *seq)
{
    return seq->own->prev && vmm_link_is_source(seq->own->prev);
}

/* All frames are at their places, and stay there. */
static bool all_mapped(const kvmm_seq *seq)
{
    if (has_sources(seq))
        return false;
    const struct vmm_link *link = seq->links;
    while (link && link->n_mapped == vmm_segment_frames(link->segment) && vmm_segment_moving(link->segment) == 0)
        link = link->next;
    return link == NULL;
}

static bool seq_ready(const kvmm_seq *seq)
{
    return vmm_tail_right(seq) && all_mapped(seq);
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
    if (vmm_seq_lost(seq))
        return vmm_fail(KVMM_ERR_DATA_LOST, "sequence %llu lost data; see kvmm_seq_info.valid_tokens", id);
    return KVMM_OK;
}

/* Frames of each group that the step needs. */
static uint32_t frames_for(const kvmm_seq *seq, uint32_t n_tokens)
{
    return (uint32_t)vmm_group_frames(&seq->layout, seq->mm->frame_bytes, n_tokens);
}

static uint64_t own_frames(const kvmm_seq *seq, uint32_t n_tokens)
{
    return (uint64_t)(frames_for(seq, n_tokens) - seq->own->segment->first) * seq->layout.n_groups;
}

/* Frames that the step needs beside those that are committed already. */
static uint64_t needs(const kvmm_seq *seq, uint32_t n_tokens)
{
    uint64_t n = own_frames(seq, n_tokens) - seq->own->segment->committed;
    for (const struct vmm_link *link = seq->links; link != seq->own; link = link->next)
        n += vmm_segment_frames(link->segment) - link->segment->committed;
    return n;
}

/* The message of NO_DEVICE_MEMORY: all that is wanted, what there is, and what others hold. What is shared counts once. */
static int no_device_memory(kvmm *mm, const struct kvmm_want *wants, size_t n)
{
    uint64_t need = 0, held = mm->committed;
    mm->n_visits++;
    for (size_t i = 0; i < n; i++) {
        const kvmm_seq *seq = wants[i].seq;
        for (struct vmm_link *link = seq && seq->mm == mm ? seq->links : NULL; link; link = link->next) {
            struct vmm_segment *segment = link->segment;
            if (segment->visit == mm->n_visits)
                continue;
            segment->visit = mm->n_visits;
            held -= segment->committed;
            need += link == seq->own ? 0 : vmm_segment_frames(segment);
        }
        if (seq && seq->mm == mm && frames_for(seq, wants[i].n_tokens) > seq->own->segment->first)
            need += own_frames(seq, wants[i].n_tokens);
    }
    uint64_t bytes = mm->frame_bytes;
    return vmm_fail(
        KVMM_ERR_NO_DEVICE_MEMORY,
        "the step needs %.2f MiB of device memory (%llu frames of %zu KiB) of a budget of %.2f MiB, of which "
        "%.2f MiB are held by other steps and pins",
        mib(need * bytes), (unsigned long long)need, mm->frame_bytes / 1024,
        mib((uint64_t)vmm_frames_capacity(mm->frames) * bytes), mib(held * bytes));
}

static void count_step(kvmm_seq *seq, uint32_t add)
{
    for (struct vmm_link *link = seq->links; link; link = link->next) {
        link->segment->n_steps += add;
        vmm_segment_commit(link->segment);
    }
}

/* Its frames are committed; what is under way for it goes on until it is clear that the step begins. */
static void join(kvmm_step *step, struct kvmm_want *want)
{
    kvmm_seq *seq = want->seq;
    kvmm *mm = seq->mm;
    uint32_t live = frames_for(seq, want->n_tokens);
    uint64_t hit = 0, there = seq->layout.n_groups == 1 && all_mapped(seq) ? seq->live : 0;
    seq->step = step;
    seq->asleep = false;
    if (seq->ahead > 0 && live > seq->live)
        vmm_ahead_join(seq, live - seq->live < seq->ahead ? live - seq->live : seq->ahead);
    vmm_seq_set_live(seq, live);
    count_step(seq, 1);
    vmm_seq_touch(seq);
    step->seqs[step->n++] =
        (struct vmm_step_seq){.seq = seq, .n_tokens = want->n_tokens, .cursor = there, .want = want};
    for (const struct vmm_link *link = seq->links; link; link = link->next)
        hit += link->segment->n[VMM_CELL_DEVICE] + link->segment->n[VMM_CELL_CLEAN];
    vmm_count(mm, VMM_COUNT_FRAMES_HIT, hit);
    vmm_seq_publish(seq);
}

static void leave(kvmm_seq *seq)
{
    count_step(seq, UINT32_MAX); /* one less */
    seq->step = NULL;
    vmm_seq_publish(seq);
}

/* The sequence does not take part after all: frames for tokens that it won't get are given back, and shared ones have their place
 * again. */
static void retreat(kvmm_seq *seq)
{
    uint32_t live = frames_for(seq, seq->length);
    if (live < seq->live || has_sources(seq)) {
        while (vmm_segment_moving(seq->own->segment))
            vmm_wait(seq->mm);
        if (live < seq->live)
            vmm_seq_shrink(seq, live);
        vmm_reshare(seq);
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
    size_t blamed;  /* that want; n: none so far */
    size_t n_ready; /* so many of the step's first sequences are in place, which they stay */
    size_t n_tried; /* those behind them wait for moves, and were not looked at in this round */
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

/* Shared frames that the step would write to make way, when the sequence's kernels no longer read there. */
static int prepare(const struct begin *b, struct kvmm_want *want)
{
    kvmm *mm = b->mm;
    int rc = check_want(mm, b->step, want);
    while (rc == KVMM_OK && vmm_must_unshare(want->seq, want->n_tokens > want->seq->length)) {
        vmm_reap_steps(mm);
        if (want->seq->n_pending == 0)
            return vmm_unshare(want->seq);
        vmm_wait(mm);
        rc = check_want(mm, b->step, want);
    }
    return rc;
}

static int admit_one(struct begin *b, struct kvmm_want *want)
{
    kvmm *mm = b->mm;
    int rc = prepare(b, want);
    if (rc)
        return rc;
    if (mm->committed + needs(want->seq, want->n_tokens) <= vmm_frames_capacity(mm->frames)) {
        join(b->step, want);
        return KVMM_OK;
    }
    rc = no_device_memory(mm, b->wants, b->n);
    vmm_reshare(want->seq);
    return rc;
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

/* All its frames are on the device. The old tail makes way first, once no kernel reads there any more. */
static int map_in_place(kvmm_seq *seq)
{
    bool moves = !vmm_tail_right(seq);
    if (moves && seq->n_pending > 0)
        return KVMM_OK; /* until its fences have passed */
    int rc = moves ? vmm_tail_drop(seq) : KVMM_OK;
    vmm_unshared(seq);
    for (struct vmm_link *link = seq->links; link && rc == KVMM_OK; link = link->next)
        rc = vmm_link_map(link);
    return rc == KVMM_OK && moves ? vmm_tail_put(seq) : rc;
}

static int lost(const kvmm_seq *seq)
{
    return vmm_fail(KVMM_ERR_DATA_LOST, "sequence %llu lost data; see kvmm_seq_info.valid_tokens",
                    (unsigned long long)seq->id);
}

/* Starts what fills an empty entry's frame, which was taken. */
static void fill(struct vmm_move *move, struct vmm_segment *segment, uint64_t index, uint32_t frame, bool zeroed)
{
    kvmm *mm = segment->mm;
    vmm_count(mm, VMM_COUNT_FRAMES_NEW, 1);
    if (!zeroed) {
        vmm_start_zero(move, segment, index, frame);
        return;
    }
    vmm_move_give(mm, move);
    vmm_entry_open(segment, index)->frame = frame + 1;
    vmm_entry_close(segment, index);
}

/* Starts what brings one frame of the sequence to the device. False: not now, or *status says what is wrong. */
static bool advance_entry(struct vmm_step_seq *ss, struct vmm_link *link, uint64_t index, uint32_t *near, int *status)
{
    kvmm *mm = ss->seq->mm;
    struct vmm_segment *segment = link->segment;
    const struct vmm_entry *entry = &segment->entries[index];
    int state = vmm_entry_state(entry);
    if (state == VMM_CELL_LOST) {
        *status = lost(ss->seq);
        return false;
    }
    if (entry->frame || entry->op != VMM_IDLE) {
        *near = entry->frame; /* entry->frame is the number + 1: the neighbour's */
        return true;
    }
    struct vmm_source source;
    bool copies = state == VMM_CELL_EMPTY && link == ss->seq->own && vmm_source_of(ss->seq, index, &source);
    if (copies && (!source.entry->frame || source.entry->op != VMM_IDLE))
        return false; /* it comes before this one, so it is on its way */
    struct vmm_move *move = vmm_move_take(mm);
    if (!move)
        return false;
    uint32_t frame;
    bool zeroed;
    enum vmm_frame_use use = state == VMM_CELL_EMPTY && !copies ? VMM_FRAME_FOR_ZERO : VMM_FRAME_FOR_DATA;
    int rc = vmm_frames_take(mm->frames, use, *near, &frame, &zeroed);
    if (rc) {
        vmm_move_give(mm, move);
        ss->starved = rc == KVMM_ERR_NO_DEVICE_MEMORY;
        *status = ss->starved ? KVMM_OK : rc;
        return false;
    }
    *near = frame + 1;
    if (copies)
        vmm_start_duplicate(move, segment, index, frame, source.entry->frame - 1, source.bytes);
    else if (state != VMM_CELL_EMPTY)
        vmm_start_fetch(move, segment, index, frame, true);
    else
        fill(move, segment, index, frame, zeroed);
    return true;
}

/* All frames that a step of the sequence needs are on the device or on their way there. */
static bool none_missing(const kvmm_seq *seq)
{
    const struct vmm_link *link = seq->links;
    while (link && vmm_segment_on_device(link->segment) == vmm_segment_frames(link->segment))
        link = link->next;
    return link == NULL;
}

/* Starts what brings the sequence's frames to the device, as far as there are frames and moves. */
static int advance(struct vmm_step_seq *ss)
{
    kvmm_seq *seq = ss->seq;
    uint64_t before = 0; /* frames of the segments before this one */
    uint32_t near = 0;
    int status = KVMM_OK;
    ss->starved = false;
    if (ss->passed && vmm_seq_moving(seq) == 0) {
        ss->passed = false;
        ss->cursor = 0; /* what was moving when the cursor passed may be elsewhere now */
    }
    for (struct vmm_link *link = seq->links; link; link = link->next) {
        uint64_t n = vmm_segment_frames(link->segment);
        for (; ss->cursor < before + n; ss->cursor++) {
            uint64_t index = vmm_segment_entry(link->segment, ss->cursor - before);
            if (!advance_entry(ss, link, index, &near, &status))
                return status;
        }
        before += n;
    }
    ss->passed = true;
    return vmm_seq_moving(seq) || !none_missing(seq) ? KVMM_OK : map_in_place(seq);
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
    kvmm *mm = b->mm;
    for (size_t i = b->n_ready; i < b->step->n; b->n_tried = i) {
        struct vmm_step_seq *ss = &b->step->seqs[i];
        int rc = seq_ready(ss->seq) ? KVMM_OK : advance(ss);
        if (rc == KVMM_OK && mm->device_failed)
            rc = vmm_fail(KVMM_ERR_DEVICE, "%s", mm->device_failure.text);
        if (rc) {
            drop_seq(b, i, rc);
            if (!b->partial)
                return;
            continue;
        }
        bool ready = seq_ready(ss->seq);
        b->n_ready += ready && i == b->n_ready;
        i++;
        if (!ready && !mm->free_moves) {
            b->n_tried = i;
            return;
        }
    }
}

/* Room for the sequences that wait for frames. False: there is none to be had, now or later; *why says what stopped it. */
static bool find_room(struct begin *b, int *why)
{
    kvmm *mm = b->mm;
    uint64_t need = 0, coming = mm->n[VMM_CELL_LEAVING];
    mm->n_visits++;
    for (size_t i = 0; i < b->step->n; i++) {
        for (struct vmm_link *link = b->step->seqs[i].seq->links; link; link = link->next) {
            struct vmm_segment *segment = link->segment;
            if (segment->visit == mm->n_visits)
                continue;
            segment->visit = mm->n_visits;
            need += vmm_segment_frames(segment) - vmm_segment_on_device(segment);
            coming -= segment->n[VMM_CELL_LEAVING]; /* these stay */
        }
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

/* Precondition: there is one. */
static size_t last_unready(const kvmm_step *step)
{
    size_t i = step->n - 1;
    while (seq_ready(step->seqs[i].seq))
        i--;
    return i;
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
        if (b->n_ready == step->n)
            return true;
        bool starved = false;
        for (size_t i = b->n_ready; i < b->n_tried; i++)
            starved |= step->seqs[i].starved && !seq_ready(step->seqs[i].seq);
        int why;
        if (starved && !find_room(b, &why))
            drop_seq(b, last_unready(step), why); /* what it held may do for the others */
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
    struct vmm_segment *own = seq->own->segment;
    for (uint32_t g = 0; g < seq->layout.n_groups; g++) {
        for (uint64_t f = begin; f < end; f++) {
            uint64_t index = vmm_segment_index(own, g, (uint32_t)f);
            struct vmm_entry *entry = &own->entries[index];
            if (entry->host || entry->nvme)
                vmm_entry_forget(own, index, VMM_COPY_HOST | VMM_COPY_NVME);
            entry->key = 0;
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
