/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager's policy: who leaves first and what is fetched ahead. Pure: it makes no system call, takes no lock (the pager
 * calls it under its own), reads no clock, and any answer of its leaves the pager correct. So it is tested with made-up
 * sequences of touches.
 *
 * What it can see: the kernel reports a touch of a chunk only while the chunk is not mapped in the engine's view. A mapped
 * chunk may be in use all the time unseen. shim_policy_probe() names chunks to be taken out of the view (they stay in
 * memory): a chunk in use is touched soon and reported; that takes some 10 to 100 µs, so probes must be few.
 *
 * What engines do: a decode step of attention reads all K, then all V of layer 0, then of layer 1 …, for the active
 * conversation: the same chunks in the same order for each token, with a few (the tail of each layer) written. With several
 * threads each sweeps a part. Other conversations lie idle meanwhile, then one of them takes over. Prefill writes new chunks
 * layer by layer and sweeps what is there for each batch.
 *
 * What that asks for, and how it is had:
 * - A sweep wider than memory must not flush it: least-recently-used would miss every time. Of a cycle of N chunks over
 *   room for B about N - B are to be missed a cycle, not N: what just streamed past leaves first, what is ahead stays. What
 *   is missing is spread over the sweep in groups of neighbours, so that the disk works all the time (policy_leave.c).
 * - When the engine turns to other chunks (another conversation), what is idle leaves first, oldest first, and the new
 *   ones stay: one pass of loads, not two. How the two cases differ: in how many rounds of the engine's a chunk that is
 *   missed was away (rounds.h). In a sweep it left in this round or the last.
 * - What is in memory and idle beside a sweep wider than memory is found by probing within a few cycles (policy_probe.c).
 * - Sweeps are learned: which chunk came after which from swap. Where nothing was learned, ascending addresses, and jumps by
 *   a distance that repeats (sweep.h, runs.h).
 *
 * A call takes constant time, on average over many: no walk over chunks.
 *
 * Literature: LIRS (Jiang, Zhang, SIGMETRICS 2002), CLOCK-Pro (Jiang, Chen, Zhang, USENIX ATC 2005); for the order of loads
 * Temporal Streaming of Shared Memory (Wenisch et al., ISCA 2005); for the read-ahead window Linux mm/readahead.c (a marker
 * in the window starts the next one). */
#ifndef SHIM_PAGER_POLICY_H
#define SHIM_PAGER_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHIM_NO_CHUNK UINT32_MAX

struct shim_policy;

struct shim_policy_config {
    uint32_t n_chunks;       /* chunk numbers are below this; neighbours in a range have neighbouring numbers */
    uint32_t capacity;       /* chunks that memory may hold; UINT32_MAX: no limit */
    uint32_t read_ahead_max; /* chunks that one thread's read-ahead may be ahead of it, at most a sixteenth of capacity;
                              * all threads together an eighth. 0: no read-ahead */
};

/* Memory for n_chunks is reserved, and touched as chunks are used. Returns 0, -EINVAL, -ENOMEM. */
int shim_policy_open(const struct shim_policy_config *config, struct shim_policy **policy);
void shim_policy_close(struct shim_policy **policy);

/* A touch was reported, by thread `tid` of the engine. was_away: it was not in memory (zero or in swap) and is being brought
 * in: this is its shim_policy_arrives(), too, if that was not said. So also for a chunk whose read-ahead has begun and not
 * ended: that is how the policy learns that it fetches too late. fresh: there is nothing to read, it is all zeros so far. */
void shim_policy_touch(struct shim_policy *policy, uint32_t chunk, uint32_t tid, bool was_away, bool fresh);

/* The touch was a write: what a sweep only reads leaves for nothing, this would have to be written each time. Optional. */
void shim_policy_written(struct shim_policy *policy, uint32_t chunk);

/* Read-ahead (or resume, or advice) brings the chunk in; nobody has touched it yet. Said when the read begins or when it
 * ends; said of a chunk that is in memory by the policy's count, it changes nothing. */
void shim_policy_arrives(struct shim_policy *policy, uint32_t chunk);

/* The chunk is out of memory, or what was named by shim_policy_read_ahead() does not come. evicted: for want of room; else
 * discarded or unmapped: nothing about it is worth keeping. */
void shim_policy_left(struct shim_policy *policy, uint32_t chunk, bool evicted);

/* May leave first. */
void shim_policy_cold(struct shim_policy *policy, uint32_t chunk);

/* The chunk in memory that should leave next. It is not named again until shim_policy_keep() or shim_policy_left() or a touch
 * of it. SHIM_NO_CHUNK: there is none that isn't named already. What is kept may be named again by and by: who gives each back
 * must bound how often he asks. */
uint32_t shim_policy_victim(struct shim_policy *policy);

/* A named victim could not leave, or a named probe was not taken out of the view. */
void shim_policy_keep(struct shim_policy *policy, uint32_t chunk);

/* The next chunk that the pager should take out of the view to learn whether it is used; SHIM_NO_CHUNK: none now. Asked after
 * touches; a chunk is reported by shim_policy_touch(was_away = false) if it is used. */
uint32_t shim_policy_probe(struct shim_policy *policy);

/* Chunks to fetch now after the touch of `chunk` by `tid` (the latest that was reported of that thread), the soonest needed
 * first; asks only for chunks for which wanted(user, chunk) says that they are in swap and nothing has been started for
 * them. Returns how many, at most max. Those that are not started need not be mentioned again. */
size_t shim_policy_read_ahead(struct shim_policy *policy, uint32_t tid, uint32_t chunk,
                              bool (*wanted)(void *user, uint32_t chunk), void *user, uint32_t *chunks, size_t max);

/* How many chunks from `chunk` on (it included) may be mapped at one touch of it. They were fetched ahead and are neighbours;
 * the policy leaves some out of the view, because a touch of those tells it how far the sweep has come. */
uint32_t shim_policy_map_run(struct shim_policy *policy, uint32_t tid, uint32_t chunk, uint32_t n_ready);

/* How many chunks memory would have to hold so that the sweep that goes on fits, about; 0: none goes on that doesn't. Where a
 * sweep has just begun or ended, it may be told wrongly. */
uint32_t shim_policy_wide(const struct shim_policy *policy);

#endif
