/* SPDX-License-Identifier: Apache-2.0
 *
 * A pager made of numbers, to drive the policy with made-up engines: which chunk is where, a disk with a latency and a rate,
 * threads with clocks of their own. Every answer of the policy is checked against what the pager knows.
 *
 * Times are in microseconds: reading a mapped chunk 8, a touch that is reported 20 more, a load 100 and at most one in 20
 * begins (64 KiB: 3.3 GB/s). */
#ifndef TESTS_SHIM_POLICY_PAGER_H
#define TESTS_SHIM_POLICY_PAGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shim/pager/policy.h"

enum place { ZERO, SWAPPED, LOADING, READY, MAPPED };

struct sim_counts {
    uint64_t accesses, fresh;
    uint64_t loads;              /* from swap */
    uint64_t missed, late, soon; /* of those that were used: nothing started when touched, on the way, there */
    uint64_t wasted;             /* left without a touch */
    uint64_t faults, probes, victims;
    uint64_t writes; /* left dirty */
};

struct sim {
    struct shim_policy *policy;
    uint32_t n_chunks, memory, n_threads, use;
    bool arrives_early;  /* read-ahead is told as arriving when it begins; else when it ends */
    uint32_t in_advance; /* victims named before their room is needed */
    uint8_t *place;
    uint8_t *ahead; /* came by read-ahead, not used yet */
    uint8_t *dirty; /* only sim_write() makes it so */
    uint8_t *named; /* and not left yet */
    uint32_t *advance;
    uint32_t advance_first, n_advance, n_named, touched;
    uint64_t *ready; /* when a load ends */
    uint32_t n_resident;
    uint32_t *loading; /* first in, first out */
    uint32_t loading_first, n_loading;
    uint64_t disk_free;
    uint64_t *clock; /* of each thread */
    struct sim_counts count;
    uint32_t *trace; /* accesses in order; NULL: not kept */
    size_t n_trace, room_trace;
};

/* memory, read_ahead in chunks. */
void sim_open(struct sim *sim, uint32_t n_chunks, uint32_t memory, uint32_t read_ahead, uint32_t n_threads);
void sim_close(struct sim *sim);

void sim_access(struct sim *sim, uint32_t thread, uint32_t chunk);
void sim_write(struct sim *sim, uint32_t thread, uint32_t chunk);
void sim_discard(struct sim *sim, uint32_t chunk);
/* All threads wait for the last. */
void sim_barrier(struct sim *sim);
uint64_t sim_time(const struct sim *sim);
struct sim_counts sim_since(const struct sim *sim, const struct sim_counts *before);

/* A cache laid out [layer][K|V][slot][token]. */
struct cache {
    struct sim *sim;
    uint32_t n_tensors, n_slots;
    uint32_t per_slot;  /* chunks of a slot in a tensor */
    uint32_t length[8]; /* chunks in use in each tensor, by slot */
    bool together;      /* every thread reads all of a tensor; else each its part */
    bool writes;        /* a token is added to the last chunk of each tensor before it is read */
    bool k_with_v;      /* chunks of K and V of a layer in turn */
};

void cache_open(struct cache *cache, struct sim *sim, uint32_t n_tensors, uint32_t n_slots, uint32_t per_slot);
/* One token: reads all of the slot, tensor by tensor. */
void cache_decode(struct cache *cache, uint32_t slot);
/* Adds chunks to each tensor, in batches of one: reads what is there and writes it, layer by layer. */
void cache_prefill(struct cache *cache, uint32_t slot, uint32_t chunks);

/* Loads that other policies would need for the trace, with memory for so many chunks: least recently used, and the optimum,
 * which knows the future (Belady 1966). Loads of what was never seen before are none. */
uint64_t trace_lru(const uint32_t *trace, size_t n, uint32_t n_chunks, uint32_t memory, size_t from);
uint64_t trace_optimum(const uint32_t *trace, size_t n, uint32_t n_chunks, uint32_t memory, size_t from);

#endif
