/* SPDX-License-Identifier: Apache-2.0
 *
 * Sharing: forks, sequences that give up a part of what they share, and the frames that take the place of shared ones when a
 * sequence is written to.
 *
 * What holds between two steps: the frame in which a sequence's next token begins is either its own, or the shared segments from
 * that frame on are wholly behind it. So a step that writes need not split anything: it takes the place of whole segments. */
#include <stdlib.h>

#include "vmm/error.h"
#include "vmm/layout.h"
#include "vmm/mm.h"

uint32_t vmm_first_written(const kvmm_seq *seq, uint32_t length)
{
    uint64_t begin, end;
    vmm_group_span(&seq->layout, seq->mm->frame_bytes, length, length, &begin, &end);
    return (uint32_t)begin;
}

static uint32_t frames_of(const kvmm_seq *seq, uint32_t n_tokens)
{
    return (uint32_t)vmm_group_frames(&seq->layout, seq->mm->frame_bytes, n_tokens);
}

static uint32_t end_of(const struct vmm_segment *segment)
{
    return segment->first + segment->live;
}

/* A shared segment ends where frame f begins, if any has it. */
static int split_at(kvmm_seq *seq, uint32_t f)
{
    for (struct vmm_link *link = seq->links; link != seq->own; link = link->next) {
        struct vmm_segment *segment = link->segment, *rest;
        if (segment->first < f && f < end_of(segment))
            return vmm_segment_split(segment, f, f, end_of(segment) - f, &rest);
    }
    return KVMM_OK;
}

/* An own segment for the sequence, empty, that begins at frame f of each group; in no list yet. NULL: no memory. */
static struct vmm_link *new_own(kvmm_seq *seq, uint32_t origin, uint32_t f)
{
    struct vmm_segment *own = vmm_segment_new(seq->mm, origin, seq->group_frames - origin);
    struct vmm_link *link = own ? vmm_link_new(seq, own) : NULL;
    if (link) {
        own->first = f;
        return link;
    }
    if (own)
        free(own->entries);
    free(own);
    vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "no memory to change sequence %llu", (unsigned long long)seq->id);
    return NULL;
}

/* Unmaps frames from f on. */
static int unmap_from(kvmm_seq *seq, uint32_t f)
{
    int rc = vmm_ahead_end(seq);
    for (struct vmm_link *link = seq->own; link && end_of(link->segment) > f && rc == KVMM_OK; link = link->prev) {
        const struct vmm_segment *segment = link->segment;
        uint32_t from = f > segment->first ? f : segment->first;
        for (uint32_t g = 0; g < seq->layout.n_groups && rc == KVMM_OK; g++)
            rc = vmm_link_unmap(link, vmm_segment_index(segment, g, from), end_of(segment) - from);
    }
    return rc;
}

int vmm_seq_cut(kvmm_seq *seq, uint32_t n_tokens)
{
    uint32_t live = frames_of(seq, n_tokens), begin = vmm_first_written(seq, n_tokens);
    const struct vmm_segment *old = seq->own->segment;
    bool stays = live >= old->first && begin >= old->origin;
    int rc = split_at(seq, begin);
    if (rc == KVMM_OK)
        rc = split_at(seq, live);
    struct vmm_link *own = rc || stays ? NULL : new_own(seq, begin, live);
    if (rc || (!own && !stays))
        return rc ? rc : KVMM_ERR_NO_HOST_MEMORY;
    rc = live < seq->live || !stays ? unmap_from(seq, live) : KVMM_OK; /* what is mapped ahead, too */
    if (rc == KVMM_OK && live < seq->live)
        rc = vmm_seq_shrink(seq, live > old->first ? live : old->first);
    if (rc) {
        if (own)
            free(own->segment->entries), free(own->segment);
        free(own);
        return rc;
    }
    if (stays)
        return KVMM_OK;
    vmm_link_add(own, seq->own);
    seq->own = own;
    for (struct vmm_link *link = own->prev, *prev; link; link = prev) {
        prev = link->prev;
        if (link->segment->first >= live || link->segment->live == 0)
            vmm_link_remove(link);
    }
    seq->live = live;
    return KVMM_OK;
}

/* ---- forks ---- */

/* What was its own is shared from now on, in two parts: what stays so, and the frames that the next tokens lie in. */
static int share_own(kvmm_seq *seq)
{
    struct vmm_segment *own = seq->own->segment, *rest;
    uint32_t begin = vmm_first_written(seq, seq->length);
    int rc = vmm_ahead_end(seq);
    if (rc || own->live == 0)
        return rc;
    if (begin > own->first && begin < end_of(own)) {
        rc = vmm_segment_split(own, begin, begin, seq->group_frames - begin, &rest);
        if (rc)
            return rc;
        vmm_link_protect(rest->users->prev);
        own = rest;
    }
    rc = vmm_segment_split(own, end_of(own), begin, seq->group_frames - begin, &rest);
    if (rc == KVMM_OK)
        vmm_link_protect(rest->users->prev);
    return rc;
}

/* The child uses all that the parent does, but for the parent's own, which is empty. */
static int link_all(kvmm_seq *child, const kvmm_seq *parent)
{
    struct vmm_link *first = NULL, *last = NULL;
    for (const struct vmm_link *link = parent->links; link != parent->own; link = link->next) {
        struct vmm_link *copy = vmm_link_new(child, link->segment);
        if (!copy)
            goto err_free;
        *(last ? &last->next : &first) = copy;
        last = copy;
    }
    struct vmm_link *after = NULL;
    for (struct vmm_link *link = first, *next; link; link = next) {
        next = link->next;
        vmm_link_add(link, after);
        after = link;
    }
    return KVMM_OK;

err_free:
    while (first) {
        struct vmm_link *next = first->next;
        free(first);
        first = next;
    }
    return vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "no memory for a fork of sequence %llu", (unsigned long long)parent->id);
}

/* In the page map, what a sequence has got all at once. */
static void publish_frames(const kvmm_seq *seq)
{
    for (const struct vmm_link *link = seq->links; link; link = link->next) {
        uint64_t n = vmm_segment_frames(link->segment);
        for (uint64_t i = 0; i < n; i++)
            vmm_entry_publish(link, vmm_segment_entry(link->segment, i));
    }
}

static int fork_locked(kvmm_seq *seq, uint32_t max_tokens, kvmm_seq **out)
{
    kvmm *mm = seq->mm;
    unsigned long long id = (unsigned long long)seq->id;
    vmm_reap_steps(mm);
    while (!seq->step && seq->n_pending) /* what the child will read is being written */
        vmm_wait(mm);
    if (seq->step)
        return vmm_fail(KVMM_ERR_STATE, "kvmm_seq_fork: sequence %llu is in a step", id);
    if (vmm_seq_lost(seq))
        return vmm_fail(KVMM_ERR_DATA_LOST, "sequence %llu lost data; see kvmm_seq_info.valid_tokens", id);
    if (max_tokens < seq->length)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_fork: max_tokens is %u; sequence %llu has %u", max_tokens, id,
                        seq->length);
    kvmm_seq *child;
    int rc = share_own(seq);
    if (rc == KVMM_OK)
        rc = vmm_seq_new(mm, max_tokens, vmm_first_written(seq, seq->length), &child);
    if (rc)
        return rc;
    rc = link_all(child, seq);
    if (rc) {
        vmm_seq_bury(child); /* nothing is mapped: it can't fail */
        return rc;
    }
    child->own->segment->first = seq->live;
    child->live = seq->live;
    child->length = seq->length;
    child->foreign_tail = seq->foreign_tail;
    vmm_seq_publish(child);
    publish_frames(child);
    vmm_count(mm, VMM_COUNT_FORKS, 1);
    *out = child;
    return KVMM_OK;
}

int kvmm_seq_fork(kvmm_seq *seq, uint32_t max_tokens, kvmm_seq **child)
{
    if (!seq || !child)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_fork: seq and child must not be NULL");
    if (max_tokens > KVMM_MAX_TOKENS)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_seq_fork: max_tokens is %u; it must be at most %u", max_tokens,
                        KVMM_MAX_TOKENS);
    pthread_mutex_lock(&seq->mm->lock);
    int rc = fork_locked(seq, max_tokens ? max_tokens : seq->max_tokens, child);
    pthread_mutex_unlock(&seq->mm->lock);
    return rc;
}

/* ---- taking the place of shared frames ---- */

bool vmm_must_unshare(const kvmm_seq *seq, bool writes)
{
    return seq->own->prev && (writes || seq->foreign_tail) &&
           vmm_first_written(seq, seq->length) < seq->own->segment->first;
}

/* In the page map: what stands at their places now. */
static void republish(const struct vmm_link *link, uint32_t first, uint32_t end)
{
    for (uint32_t g = 0; g < link->seq->layout.n_groups; g++) {
        for (uint32_t f = first; f < end; f++)
            vmm_entry_publish(link, vmm_segment_index(link->segment, g, f));
    }
}

/* Nobody else has the frames, nor bytes in them. */
static bool can_take_over(const struct vmm_link *link)
{
    return link->segment->n_users == 1 && !link->seq->foreign_tail;
}

int vmm_unshare(kvmm_seq *seq)
{
    struct vmm_link *own = seq->own;
    uint32_t begin = vmm_first_written(seq, seq->length), old = own->segment->first;
    for (struct vmm_link *link = own->prev; link && link->segment->first >= begin; link = link->prev) {
        int rc = vmm_link_unmap_all(link);
        if (rc)
            return rc;
    }
    while (own->prev && own->prev->segment->first >= begin && can_take_over(own->prev)) {
        struct vmm_segment *segment = own->prev->segment;
        uint32_t n = segment->live;
        own->segment->first = segment->first;
        own->segment->live += n;
        vmm_segment_relocate(segment, own->segment, segment->first, n);
        segment->live = 0;
        vmm_link_remove(own->prev);
    }
    own->segment->first = begin;
    own->segment->live = seq->live - begin;
    vmm_segment_commit(own->segment);
    republish(own, begin, old);
    return KVMM_OK;
}

void vmm_reshare(kvmm_seq *seq)
{
    struct vmm_link *own = seq->own;
    if (!own->prev || !vmm_link_is_source(own->prev))
        return;
    uint32_t begin = own->segment->first, end = end_of(own->prev->segment);
    for (uint32_t g = 0; g < seq->layout.n_groups; g++) {
        for (uint32_t f = begin; f < end; f++)
            vmm_entry_clear(own->segment, vmm_segment_index(own->segment, g, f));
    }
    own->segment->first = end;
    own->segment->live = seq->live - end;
    vmm_segment_commit(own->segment);
    for (struct vmm_link *link = own->prev; link && link->segment->first >= begin; link = link->prev)
        republish(link, link->segment->first, end_of(link->segment));
}

void vmm_unshared(kvmm_seq *seq)
{
    struct vmm_link *own = seq->own;
    while (own->prev && vmm_link_is_source(own->prev))
        vmm_link_remove(own->prev);
    seq->foreign_tail = false;
}

bool vmm_source_of(const kvmm_seq *seq, uint64_t index, struct vmm_source *source)
{
    uint32_t group, frame = vmm_segment_frame(seq->own->segment, index, &group);
    for (const struct vmm_link *link = seq->own->prev; link && vmm_link_is_source(link); link = link->prev) {
        const struct vmm_segment *segment = link->segment;
        if (frame < segment->first || frame >= end_of(segment))
            continue;
        /* What lies behind the last page is another's. */
        uint64_t pages = ((uint64_t)seq->length + seq->layout.page_tokens - 1) / seq->layout.page_tokens;
        uint64_t bytes = pages * seq->layout.page_stride - (uint64_t)frame * seq->mm->frame_bytes;
        *source = (struct vmm_source){
            .entry = &segment->entries[vmm_segment_index(segment, group, frame)],
            .bytes = bytes < seq->mm->frame_bytes ? bytes : seq->mm->frame_bytes,
        };
        return true;
    }
    return false;
}
