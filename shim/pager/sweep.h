/* SPDX-License-Identifier: Apache-2.0
 *
 * Which chunks an engine will want next; a part of the policy (policy.h), and as pure.
 *
 * - Learned: a log of the chunks that came from swap, in the order in which they were first used, all threads together. A
 *   thread that uses again what it used before is followed through the log from the place where that was noted last. So
 *   any order that repeats is known after one pass: gaps, jumps between tensors, the interleaving of threads.
 *   (Wenisch et al., Temporal Streaming of Shared Memory, ISCA 2005.)
 * - Not learned yet: runs of ascending addresses (runs.h), and jumps from run to run by a distance seen twice.
 *
 * How far ahead: one window for all, which grows while chunks come too late and shrinks slowly while none does, because
 * what is fetched too early takes the room of what is in use. */
#ifndef SHIM_PAGER_SWEEP_H
#define SHIM_PAGER_SWEEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shim_sweep;

enum shim_sweep_luck {
    SHIM_SWEEP_MISSED,  /* nothing had been started for the chunk when it was touched */
    SHIM_SWEEP_LATE,    /* it was on its way */
    SHIM_SWEEP_IN_TIME, /* it was there */
};

/* The window is at most window_max chunks, at least 1. Returns 0, -ENOMEM. */
int shim_sweep_open(uint32_t n_chunks, uint32_t capacity, uint32_t window_max, struct shim_sweep **sweep);
void shim_sweep_close(struct shim_sweep **sweep);

/* Thread tid uses, for the first time since it was brought in, a chunk that came from swap. */
void shim_sweep_use(struct shim_sweep *sweep, uint32_t tid, uint32_t chunk, enum shim_sweep_luck luck);

/* The chunk after the one that tid used last was mapped with it: counts as used. */
void shim_sweep_pass(struct shim_sweep *sweep, uint32_t tid, uint32_t chunk);

/* The chunk was brought in for nothing: until it is used, neither the log nor a neighbour is a reason to do so again. */
void shim_sweep_wasted(struct shim_sweep *sweep, uint32_t chunk);

/* What the chunk held is gone. */
void shim_sweep_forget(struct shim_sweep *sweep, uint32_t chunk);

/* What to fetch now, the soonest needed first: writes to chunks[], and returns how many, those for which take(user, chunk,
 * neighbour) says that they can be fetched and will be: it says so once for each. neighbour: only because the one before in
 * address is wanted. Only after shim_sweep_use() of the same thread and
 * chunk; else nothing. */
size_t shim_sweep_ahead(struct shim_sweep *sweep, uint32_t tid, uint32_t chunk, bool (*take)(void *, uint32_t, bool),
                        void *user, uint32_t *chunks, size_t max);

/* Was the chunk that tid used last in the log before? */
bool shim_sweep_learned(const struct shim_sweep *sweep, uint32_t tid);

/* For the time being no more than so many ahead (but a few). */
void shim_sweep_limit(struct shim_sweep *sweep, uint32_t limit);

/* Chunks to map at a touch; chunks to be ahead; threads that were active of late. */
uint32_t shim_sweep_run(const struct shim_sweep *sweep);
uint32_t shim_sweep_window(const struct shim_sweep *sweep);
uint32_t shim_sweep_threads(const struct shim_sweep *sweep);

#endif
