/* SPDX-License-Identifier: Apache-2.0
 *
 * How often the engine goes round what it works on, although the pager doesn't see it touch what is mapped.
 *
 * A few chunks of its sweep, far apart, are the marks. Each is taken out of the view again only after another was touched, so
 * a short loop over some chunks costs, and counts, little. When a mark is touched for the second time, and at least half of
 * the marks were between, then a round is over. A chunk that was not missed for more than one whole round is not part of the
 * sweep; one that was not used for so long is idle. While nothing arrives there is nothing to decide: after some rounds the
 * marks stay in the view, until the next arrival.
 *
 * Times are counts of arrivals (the policy's clock). */
#ifndef SHIM_PAGER_ROUNDS_H
#define SHIM_PAGER_ROUNDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHIM_MARKS       8
#define SHIM_ROUNDS_KEPT 4

struct shim_mark {
    uint32_t chunk;
    uint32_t round; /* in which it was touched last */
    uint32_t since; /* time of its last touch */
    bool exists;
    bool out; /* of the view */
    bool due; /* to be taken out */
};

struct shim_rounds {
    uint32_t spacing; /* arrivals between marks, when they are chosen */
    uint32_t round;
    uint32_t chosen;                  /* time when a mark was chosen */
    uint32_t last;                    /* mark touched last; SHIM_MARKS: none */
    uint32_t began[SHIM_ROUNDS_KEPT]; /* when the latest rounds began, latest first */
    struct shim_mark marks[SHIM_MARKS];
};

void shim_rounds_open(struct shim_rounds *rounds, uint32_t spacing, uint32_t now);

/* A chunk is touched that stays in memory: it may become a mark, in the place of one that was not touched for `patience`. */
void shim_rounds_offer(struct shim_rounds *rounds, uint32_t chunk, uint32_t now, uint32_t patience);

/* A chunk is touched. True: a round is over. */
bool shim_rounds_touch(struct shim_rounds *rounds, uint32_t chunk, uint32_t now);

/* Something arrived. */
void shim_rounds_arrival(struct shim_rounds *rounds);

/* The next mark to be taken out of the view; false: none. */
bool shim_rounds_due(struct shim_rounds *rounds, uint32_t *chunk);

/* The chunk was taken out of the view for another reason, or is in it after all. */
void shim_rounds_out(struct shim_rounds *rounds, uint32_t chunk, bool out);

bool shim_rounds_has(const struct shim_rounds *rounds, uint32_t chunk);
void shim_rounds_drop(struct shim_rounds *rounds, uint32_t chunk);

/* Is a time so long ago that `whole` rounds passed since, from their begin to their end? At most SHIM_ROUNDS_KEPT - 1. */
bool shim_rounds_passed(const struct shim_rounds *rounds, uint32_t time, uint32_t now, uint32_t whole);

/* Did nothing arrive for so many rounds? */
bool shim_rounds_quiet(const struct shim_rounds *rounds, uint32_t now, uint32_t whole);

#endif
