/* SPDX-License-Identifier: Apache-2.0
 *
 * Which slots of a store are taken, which hold a block and under what checksum, and which are retired. Knows numbers
 * only; the store's lock guards it. */
#ifndef SWAP_SLOTS_H
#define SWAP_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

struct swap_slots {
    uint64_t *taken;     /* a bit a slot: owned by a caller */
    uint64_t *full;      /* a bit a slot: a put has ended well */
    uint64_t *bad;       /* a bit a slot: a write to it failed for good; when it isn't taken: retired */
    uint64_t *checksums; /* of full slots */
    uint32_t n;
    uint32_t n_taken; /* retired ones not counted */
    uint32_t n_retired;
    uint32_t next; /* where the search starts: one past the last slot taken */
};

/* No slots; nothing to undo. */
void swap_slots_init(struct swap_slots *slots);
void swap_slots_close(struct swap_slots *slots);

/* Makes it n slots, n ≥ the present number. Returns 0, or -ENOMEM with all as it was. */
int swap_slots_grow(struct swap_slots *slots, uint32_t n);

/* The lowest free slot from `next` on, around the end. Returns 0, or -ENOSPC. */
int swap_slots_take(struct swap_slots *slots, uint32_t *slot);

/* Frees an owned slot, or retires it if it was blamed. Does nothing to a slot that isn't owned. */
void swap_slots_give(struct swap_slots *slots, uint32_t slot);

bool swap_slots_owned(const struct swap_slots *slots, uint32_t slot);

/* Of an owned slot. */
void swap_slots_fill(struct swap_slots *slots, uint32_t slot, uint64_t checksum);
void swap_slots_empty(struct swap_slots *slots, uint32_t slot);
bool swap_slots_full(const struct swap_slots *slots, uint32_t slot, uint64_t *checksum);
void swap_slots_blame(struct swap_slots *slots, uint32_t slot);

#endif
