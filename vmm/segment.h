/* SPDX-License-Identifier: Apache-2.0
 *
 * Segments: runs of frames with the same users.
 *
 *     sequence A   [ 0 ········ 40 )[ 40 ·· 57 )[ 57 ·· A's own, growing
 *     sequence B   [ 0 ········ 40 )[ 40 · B's own
 *                    one segment
 *
 * A sequence's segments follow each other without a gap; frame f of a range is the same frame f for all users. The last
 * one is the sequence's *own*: no other sequence uses it, so it may grow and be written to. All others are read-only, and stay as
 * they are when their last but one user leaves. A fork turns what was own into shared segments; where the users of a segment
 * begin to differ in how much of it they use, it is split in two. So whatever holds for one frame of a segment (who uses it,
 * may it leave, is it wanted now) holds for all of it, and costs no walk over its frames.
 *
 * A *link* is one sequence's use of one segment; it knows which frames are mapped in the sequence's range.
 *
 * Writing where a shared frame is (the frame that the last tokens lie in) replaces it first. Inside kvmm_step_begin() the
 * sequence's own segment is extended to the front, and overlaps the shared frames that it replaces; their link is a *source*
 * then, until the bytes are copied. A segment that has no other user is taken over without a copy.
 *
 * All calls are made under kvmm.lock. */
#ifndef VMM_SEGMENT_H
#define VMM_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "kvmm/kvmm.h"
#include "vmm/pagemap.h"
#include "vmm/policy.h"

/* One more state than the page map shows: HOST whose bytes NVMe has too. Published as VMM_CELL_HOST. */
#define VMM_HOST_CLEAN (VMM_CELL_LOST + 1)
#define VMM_N_STATES   (VMM_HOST_CLEAN + 1)

enum vmm_op {
    VMM_IDLE = 0,
    VMM_LEAVING,  /* a put from the device frame is in flight; the frame is not mapped */
    VMM_DEMOTING, /* a put from the host slot to NVMe is in flight */
    VMM_ARRIVING  /* the device frame is being filled: from a slot, from another frame, or with zeros */
};

#define VMM_KEEP  1u /* wanted while LEAVING: stays on the device when the put is done */
#define VMM_LOST  2u
#define VMM_AHEAD 4u /* mapped ahead of the sequence: counts as EMPTY (keeper.h) */

struct vmm_entry {
    uint32_t frame; /* device frame + 1, 0: none */
    uint32_t host;  /* host slot + 1, 0: none */
    uint32_t nvme;  /* NVMe slot + 1, 0: none */
    uint8_t op;
    uint8_t flags;
    uint64_t key; /* of these bytes, in this version: stamps their copies in the tiers; 0: they have none yet */
};

struct vmm_link {
    kvmm_seq *seq;
    struct vmm_segment *segment;
    struct vmm_link *prev, *next;           /* the sequence's, by place */
    struct vmm_link *prev_user, *next_user; /* the segment's */
    uint64_t n_mapped;                      /* frames at their place in the range, but for those mapped ahead */
    uint64_t mapped[];                      /* a bit for each entry */
};

struct vmm_segment {
    kvmm *mm;
    struct vmm_segment *prev, *next; /* all segments of the manager */
    uint32_t origin;                 /* the frame of a range that entry 0 of each group stands for */
    uint32_t first;                  /* ≥ origin: the first frame of each group that it has */
    uint32_t live;                   /* frames of each group in use, from there on */
    uint32_t capacity;               /* entries of each group */
    struct vmm_link *users;
    uint32_t n_users;
    uint32_t n_steps;   /* of them in an open step */
    uint32_t n_pinned;  /* of them pinned */
    uint64_t visit;     /* kvmm.n_visits of the last walk that met it */
    uint64_t committed; /* frames that can't be taken from it: its share of kvmm.committed */
    uint64_t n[VMM_N_STATES];
    struct vmm_policy_item item;
    uint64_t cursor[VMM_N_TIERS]; /* where the search for the next frame to take begins */
    struct vmm_entry *entries;    /* groups × capacity */
};

/* A segment of no frames yet, and a link to it; NULL: no memory. In no list. */
struct vmm_segment *vmm_segment_new(kvmm *mm, uint32_t origin, uint32_t capacity);
struct vmm_link *vmm_link_new(kvmm_seq *seq, struct vmm_segment *segment);
/* The segment gets the user, whose own stays the last; `after` is a link of the sequence's or NULL for the front. */
void vmm_link_add(struct vmm_link *link, struct vmm_link *after);
/* The sequence no longer uses the segment, and the link is gone; so is the segment with all that it holds, if that was its last
 * user. Preconditions: nothing of it is mapped by this link; if it is the last user, nothing of it moves. */
void vmm_link_remove(struct vmm_link *link);

uint64_t vmm_segment_frames(const struct vmm_segment *segment); /* live × groups */
/* The i-th of its frames as an index of entries, i < vmm_segment_frames(). */
uint64_t vmm_segment_entry(const struct vmm_segment *segment, uint64_t i);
uint64_t vmm_segment_index(const struct vmm_segment *segment, uint32_t group, uint32_t frame); /* of a range's frame */
/* Of entry `index`: its frame's number in a range. */
uint32_t vmm_segment_frame(const struct vmm_segment *segment, uint64_t index, uint32_t *group);
uint64_t vmm_segment_on_device(const struct vmm_segment *segment); /* frames that have a device frame */
uint64_t vmm_segment_moving(const struct vmm_segment *segment);    /* moves in flight */
bool vmm_segment_idle(
    const struct vmm_segment *segment); /* no user is in a step, pinned, quiet, or has a fence pending */
bool vmm_segment_asleep(const struct vmm_segment *segment); /* all users are suspended */
/* Recomputes the frames that can't be taken from it. */
void vmm_segment_commit(struct vmm_segment *segment);
/* Puts it into the policy's lists of the tiers that it has frames in, and takes it out of the others. */
void vmm_segment_list(struct vmm_segment *segment);
/* "sequence 7", "sequence 7 and 3 more": for a message. */
const char *vmm_segment_name(const struct vmm_segment *segment, char text[64]);

/* Splits it before frame f, first ≤ f ≤ first + live: the rest becomes a segment of its own, with `capacity` entries a group
 * from `origin` ≤ f on, and the same users. If the segment was a sequence's own, the rest is now, and the segment is shared. On
 * failure (NO_HOST_MEMORY) nothing changed. */
int vmm_segment_split(struct vmm_segment *segment, uint32_t f, uint32_t origin, uint32_t capacity,
                      struct vmm_segment **rest);

/* Frames [frame, frame + n) of each group become the other segment's, which has none there: their entries, and their moves in
 * flight. Precondition: no user has them mapped. */
void vmm_segment_relocate(struct vmm_segment *from, struct vmm_segment *to, uint32_t frame, uint32_t n);

bool vmm_link_mapped(const struct vmm_link *link, uint64_t index);
/* Precondition: it is not what it shall be. */
void vmm_link_set_mapped(struct vmm_link *link, uint64_t index, bool mapped);
/* It is one that the own segment replaces. */
bool vmm_link_is_source(const struct vmm_link *link);
/* Unmaps what is mapped among entries [index, index + n) of one group, in as few calls as can be; for all users. On failure
 * (NO_ADDRESS_SPACE, DEVICE) some may be unmapped. */
int vmm_link_unmap(struct vmm_link *link, uint64_t index, uint64_t n);
int vmm_link_unmap_all(struct vmm_link *link);
/* What is mapped can only be read from now on. Precondition: no fence of the sequence's is pending. */
void vmm_link_protect(struct vmm_link *link);
int vmm_segment_unmap(struct vmm_segment *segment, uint64_t index, uint64_t n);
/* Maps all frames of the segment that are on the device and not mapped: for reading, if it is not the sequence's own.
 * Precondition: none is moving. */
int vmm_link_map(struct vmm_link *link);

#endif
