/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/segment.h"

#include <stdio.h>
#include <stdlib.h>

#include "vmm/error.h"
#include "vmm/mm.h"

struct vmm_segment *vmm_segment_new(kvmm *mm, uint32_t origin, uint32_t capacity)
{
    uint64_t n = (uint64_t)capacity * mm->layout.n_groups;
    struct vmm_segment *segment = calloc(1, sizeof *segment);
    /* Address space for all entries, memory for those that are used: calloc takes large blocks fresh from mmap. */
    struct vmm_entry *entries = calloc(n ? n : 1, sizeof *entries);
    if (!segment || !entries) {
        free(segment);
        free(entries);
        return NULL;
    }
    *segment =
        (struct vmm_segment){.mm = mm, .origin = origin, .first = origin, .capacity = capacity, .entries = entries};
    segment->n[VMM_CELL_EMPTY] = n;
    return segment;
}

struct vmm_link *vmm_link_new(kvmm_seq *seq, struct vmm_segment *segment)
{
    uint64_t n = (uint64_t)segment->capacity * segment->mm->layout.n_groups;
    struct vmm_link *link = calloc(1, sizeof *link + (n + 63) / 64 * sizeof link->mapped[0]);
    if (link) {
        link->seq = seq;
        link->segment = segment;
    }
    return link;
}

static void enlist(struct vmm_segment *segment)
{
    kvmm *mm = segment->mm;
    segment->next = &mm->segments;
    segment->prev = mm->segments.prev;
    mm->segments.prev->next = segment;
    mm->segments.prev = segment;
    mm->n[VMM_CELL_EMPTY] += segment->n[VMM_CELL_EMPTY];
}

/* Nobody uses it any more. */
static void end(struct vmm_segment *segment)
{
    kvmm *mm = segment->mm;
    uint64_t n = vmm_segment_frames(segment);
    for (uint64_t i = 0; i < n; i++)
        vmm_entry_clear(segment, vmm_segment_entry(segment, i));
    mm->n[VMM_CELL_EMPTY] -= segment->n[VMM_CELL_EMPTY];
    segment->prev->next = segment->next;
    segment->next->prev = segment->prev;
    free(segment->entries);
    free(segment);
}

void vmm_link_add(struct vmm_link *link, struct vmm_link *after)
{
    kvmm_seq *seq = link->seq;
    struct vmm_segment *segment = link->segment;
    link->prev = after;
    link->next = after ? after->next : seq->links;
    if (link->next)
        link->next->prev = link;
    *(after ? &after->next : &seq->links) = link;

    if (!segment->prev)
        enlist(segment);
    link->prev_user = NULL;
    link->next_user = segment->users;
    if (link->next_user)
        link->next_user->prev_user = link;
    segment->users = link;
    segment->n_users++;
    segment->n_steps += seq->step != NULL;
    segment->n_pinned += seq->pins > 0;
    vmm_segment_commit(segment);
}

void vmm_link_remove(struct vmm_link *link)
{
    kvmm_seq *seq = link->seq;
    struct vmm_segment *segment = link->segment;
    *(link->prev ? &link->prev->next : &seq->links) = link->next;
    if (link->next)
        link->next->prev = link->prev;
    *(link->prev_user ? &link->prev_user->next_user : &segment->users) = link->next_user;
    if (link->next_user)
        link->next_user->prev_user = link->prev_user;
    free(link);
    segment->n_users--;
    segment->n_steps -= seq->step != NULL;
    segment->n_pinned -= seq->pins > 0;
    vmm_segment_commit(segment);
    if (segment->n_users == 0)
        end(segment);
}

uint64_t vmm_segment_frames(const struct vmm_segment *segment)
{
    return (uint64_t)segment->live * segment->mm->layout.n_groups;
}

uint64_t vmm_segment_index(const struct vmm_segment *segment, uint32_t group, uint32_t frame)
{
    return (uint64_t)group * segment->capacity + (frame - segment->origin);
}

uint64_t vmm_segment_entry(const struct vmm_segment *segment, uint64_t i)
{
    return vmm_segment_index(segment, (uint32_t)(i / segment->live), segment->first + (uint32_t)(i % segment->live));
}

uint32_t vmm_segment_frame(const struct vmm_segment *segment, uint64_t index, uint32_t *group)
{
    *group = (uint32_t)(index / segment->capacity);
    return segment->origin + (uint32_t)(index % segment->capacity);
}

uint64_t vmm_segment_on_device(const struct vmm_segment *segment)
{
    const uint64_t *n = segment->n;
    return n[VMM_CELL_DEVICE] + n[VMM_CELL_CLEAN] + n[VMM_CELL_LEAVING] + n[VMM_CELL_ARRIVING];
}

uint64_t vmm_segment_moving(const struct vmm_segment *segment)
{
    const uint64_t *n = segment->n;
    return n[VMM_CELL_LEAVING] + n[VMM_CELL_DEMOTING] + n[VMM_CELL_ARRIVING];
}

bool vmm_segment_idle(const struct vmm_segment *segment)
{
    if (segment->n_steps || segment->n_pinned)
        return false;
    for (const struct vmm_link *user = segment->users; user; user = user->next_user) {
        if (user->seq->n_pending || user->seq->quiet)
            return false;
    }
    return true;
}

bool vmm_segment_asleep(const struct vmm_segment *segment)
{
    const struct vmm_link *user = segment->users;
    while (user && user->seq->asleep)
        user = user->next_user;
    return user == NULL;
}

void vmm_segment_commit(struct vmm_segment *segment)
{
    uint64_t committed = 0;
    if (segment->n_steps)
        committed = vmm_segment_frames(segment);
    else if (segment->n_pinned)
        committed = vmm_segment_on_device(segment);
    segment->mm->committed += committed - segment->committed;
    segment->committed = committed;
}

const char *vmm_segment_name(const struct vmm_segment *segment, char text[64])
{
    unsigned long long id = segment->users ? segment->users->seq->id : 0;
    if (segment->n_users > 1)
        snprintf(text, 64, "sequence %llu and %u more", id, segment->n_users - 1);
    else
        snprintf(text, 64, "sequence %llu", id);
    return text;
}

/* ---- splitting ---- */

void vmm_segment_relocate(struct vmm_segment *from, struct vmm_segment *to, uint32_t frame, uint32_t n)
{
    kvmm *mm = from->mm;
    bool moving = vmm_segment_moving(from) > 0;
    for (uint32_t g = 0; g < mm->layout.n_groups; g++) {
        for (uint32_t i = 0; i < n; i++) {
            struct vmm_entry *old = &from->entries[vmm_segment_index(from, g, frame + i)];
            int state = vmm_entry_state(old);
            from->n[state]--;
            to->n[state]++;
            from->n[VMM_CELL_EMPTY]++;
            to->n[VMM_CELL_EMPTY]--;
            to->entries[vmm_segment_index(to, g, frame + i)] = *old;
            *old = (struct vmm_entry){0};
        }
    }
    for (size_t i = 0; moving && i < VMM_N_MOVES; i++) {
        struct vmm_move *move = &mm->moves[i];
        uint32_t group;
        if (move->segment != from)
            continue;
        uint32_t at = vmm_segment_frame(from, move->index, &group);
        if (at < frame || at >= frame + n)
            continue;
        move->segment = to;
        move->index = vmm_segment_index(to, group, at);
    }
    vmm_segment_list(from);
    vmm_segment_list(to);
}

void vmm_link_set_mapped(struct vmm_link *link, uint64_t index, bool mapped)
{
    uint64_t bit = 1ull << index % 64;
    if (mapped)
        link->mapped[index / 64] |= bit;
    else
        link->mapped[index / 64] &= ~bit;
    link->n_mapped += mapped ? 1 : UINT64_MAX;
}

static void relocate_mapped(struct vmm_link *from, struct vmm_link *to, uint32_t frame, uint32_t n)
{
    for (uint32_t g = 0; g < from->segment->mm->layout.n_groups && from->n_mapped; g++) {
        for (uint32_t i = 0; i < n; i++) {
            uint64_t index = vmm_segment_index(from->segment, g, frame + i);
            if (!vmm_link_mapped(from, index))
                continue;
            vmm_link_set_mapped(from, index, false);
            vmm_link_set_mapped(to, vmm_segment_index(to->segment, g, frame + i), true);
        }
    }
}

int vmm_segment_split(struct vmm_segment *segment, uint32_t f, uint32_t origin, uint32_t capacity,
                      struct vmm_segment **out)
{
    struct vmm_segment *rest = vmm_segment_new(segment->mm, origin, capacity);
    struct vmm_link *links = NULL; /* by their next; each has its neighbour in prev */
    for (struct vmm_link *user = segment->users; rest && user; user = user->next_user) {
        struct vmm_link *link = vmm_link_new(user->seq, rest);
        if (!link)
            goto err_free;
        link->prev = user;
        link->next = links;
        links = link;
    }
    if (!rest)
        goto err_free;
    uint32_t n = segment->first + segment->live - f;
    vmm_policy_inherit(&rest->item, &segment->item);
    rest->first = f;
    while (links) {
        struct vmm_link *link = links, *user = link->prev;
        links = link->next;
        if (user->seq->own == user)
            user->seq->own = link;
        vmm_link_add(link, user);
    }
    segment->live -= n;
    rest->live = n;
    vmm_segment_relocate(segment, rest, f, n);
    for (struct vmm_link *link = rest->users; link; link = link->next_user)
        relocate_mapped(link->prev, link, f, n);
    vmm_segment_commit(segment);
    vmm_segment_commit(rest);
    *out = rest;
    return KVMM_OK;

err_free:
    while (links) {
        struct vmm_link *next = links->next;
        free(links);
        links = next;
    }
    if (rest)
        free(rest->entries);
    free(rest);
    return vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "no memory to share frames");
}

/* ---- mapping ---- */

bool vmm_link_mapped(const struct vmm_link *link, uint64_t index)
{
    return link->mapped[index / 64] >> index % 64 & 1;
}

bool vmm_link_is_source(const struct vmm_link *link)
{
    const struct vmm_link *own = link->seq->own;
    return link != own && link->segment->first >= own->segment->first;
}

static void *address_of(const struct vmm_link *link, uint64_t index)
{
    uint32_t group, frame = vmm_segment_frame(link->segment, index, &group);
    return vmm_range_address(link->seq, group, frame);
}

int vmm_link_unmap(struct vmm_link *link, uint64_t index, uint64_t n)
{
    struct vmm_device *device = link->seq->mm->device;
    uint64_t end = index + n;
    while (index < end) {
        uint64_t run = 0;
        while (index + run < end && vmm_link_mapped(link, index + run))
            run++;
        if (run) {
            int rc = device->ops->unmap(device, address_of(link, index), run);
            if (rc)
                return rc;
        }
        for (uint64_t i = 0; i < run; i++)
            vmm_link_set_mapped(link, index + i, false);
        index += run ? run : 1;
    }
    return KVMM_OK;
}

int vmm_link_unmap_all(struct vmm_link *link)
{
    const struct vmm_segment *segment = link->segment;
    int rc = KVMM_OK;
    for (uint32_t g = 0; g < segment->mm->layout.n_groups && link->n_mapped && rc == KVMM_OK; g++)
        rc = vmm_link_unmap(link, vmm_segment_index(segment, g, segment->first), segment->live);
    return rc;
}

int vmm_segment_unmap(struct vmm_segment *segment, uint64_t index, uint64_t n)
{
    int rc = KVMM_OK;
    for (struct vmm_link *user = segment->users; user && rc == KVMM_OK; user = user->next_user)
        rc = user->n_mapped ? vmm_link_unmap(user, index, n) : KVMM_OK;
    return rc;
}

void vmm_link_protect(struct vmm_link *link)
{
    struct vmm_device *device = link->seq->mm->device;
    const struct vmm_segment *segment = link->segment;
    struct vmm_message message;
    vmm_message_save(&message);
    int rc = KVMM_OK;
    for (uint32_t g = 0; g < segment->mm->layout.n_groups && rc == KVMM_OK; g++) {
        uint64_t index = vmm_segment_index(segment, g, segment->first), end = index + segment->live;
        for (uint64_t run; index < end && rc == KVMM_OK; index += run + 1) {
            for (run = 0; index + run < end && vmm_link_mapped(link, index + run);)
                run++;
            if (run)
                rc = device->ops->protect(device, address_of(link, index), run);
        }
    }
    if (rc) /* the next step maps them again, for reading; if that fails too, one guard less stands */
        (void)vmm_link_unmap_all(link);
    vmm_message_restore(&message);
}

#define MAP_BATCH 256

static int map_group(struct vmm_link *link, uint64_t index)
{
    struct vmm_device *device = link->seq->mm->device;
    const struct vmm_segment *segment = link->segment;
    uint64_t end = index + segment->live;
    uint32_t frames[MAP_BATCH];
    while (index < end) {
        if (index % 64 == 0 && link->mapped[index / 64] == UINT64_MAX) {
            index += 64;
            continue;
        }
        uint64_t run = 0;
        while (run < MAP_BATCH && index + run < end && segment->entries[index + run].frame &&
               !vmm_link_mapped(link, index + run)) {
            frames[run] = segment->entries[index + run].frame - 1;
            run++;
        }
        if (run) {
            int rc = device->ops->map(device, address_of(link, index), frames, run, link == link->seq->own);
            if (rc)
                return rc;
        }
        for (uint64_t i = 0; i < run; i++)
            vmm_link_set_mapped(link, index + i, true);
        index += run ? run : 1;
    }
    return KVMM_OK;
}

int vmm_link_map(struct vmm_link *link)
{
    const struct vmm_segment *segment = link->segment;
    if (link->n_mapped == vmm_segment_frames(segment))
        return KVMM_OK;
    int rc = KVMM_OK;
    for (uint32_t g = 0; g < segment->mm->layout.n_groups && rc == KVMM_OK; g++)
        rc = map_group(link, vmm_segment_index(segment, g, segment->first));
    return rc;
}
