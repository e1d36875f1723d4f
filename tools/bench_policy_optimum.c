/* SPDX-License-Identifier: Apache-2.0
 *
 * Belady's MIN (A study of replacement algorithms for a virtual-storage computer, IBM Systems Journal 1966) over the blocks of
 * all requests in order: a block that is not in the cache comes in, and what is used again latest, or never, leaves for it.
 * No demand-paged cache of as many blocks of equal size has more hits on such a sequence (Mattson et al., 1970).
 *
 * Why that bounds the simulation, tier by tier: what its first k tiers hold is a set of at most as many distinct blocks as
 * they hold together, which gains a block only when a request uses it; a request's hits are among those blocks of its that
 * are in the set when it comes, and none of those leaves the set while it runs. A cache that takes the request's blocks one by
 * one, in MIN's order, and lets the same others go has those hits too. Two things are demanded of the simulation and not of
 * MIN, so that the bound may not be within reach: a block counts as a hit only if all before it in its request do, and a
 * running request's blocks don't leave. */
#include <stdio.h>
#include <stdlib.h>

#include "tools/bench_policy.h"

/* A heap of next use << 32 | block, the latest first. Entries that are out of date are dropped when they come up. */
struct heap {
    uint64_t *entry;
    uint64_t n;
};

static void heap_put(struct heap *heap, uint64_t entry)
{
    uint64_t i = heap->n++;
    while (i && heap->entry[(i - 1) / 2] < entry) {
        heap->entry[i] = heap->entry[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap->entry[i] = entry;
}

static uint64_t heap_take(struct heap *heap)
{
    uint64_t top = heap->entry[0], last = heap->entry[--heap->n], i = 0;
    while (2 * i + 1 < heap->n) {
        uint64_t child = 2 * i + 1;
        if (child + 1 < heap->n && heap->entry[child + 1] > heap->entry[child])
            child++;
        if (heap->entry[child] <= last)
            break;
        heap->entry[i] = heap->entry[child];
        i = child;
    }
    heap->entry[i] = last;
    return top;
}

struct optimum {
    uint32_t *later;  /* [use] the next use of the same block; n_blocks: none */
    uint32_t *next;   /* [block] its next use */
    bool *cached;     /* [block] */
    struct heap heap; /* at most one entry for each use */
};

static void evict(struct optimum *optimum)
{
    for (;;) {
        uint64_t top = heap_take(&optimum->heap);
        uint32_t block = (uint32_t)top;
        if (optimum->cached[block] && optimum->next[block] == top >> 32) {
            optimum->cached[block] = false;
            return;
        }
    }
}

bool policy_optimum(const struct policy_trace *trace, uint32_t blocks, uint64_t *hits)
{
    uint64_t n = trace->n_blocks;
    struct optimum optimum = {
        .later = malloc(n * sizeof *optimum.later),
        .next = malloc(trace->n_distinct * sizeof *optimum.next),
        .cached = calloc(trace->n_distinct, sizeof *optimum.cached),
        .heap = {.entry = malloc(n * sizeof(uint64_t))},
    };
    bool good = optimum.later && optimum.next && optimum.cached && optimum.heap.entry;
    if (good) {
        for (uint32_t i = 0; i < trace->n_distinct; i++)
            optimum.next[i] = (uint32_t)n;
        for (uint64_t i = n; i-- > 0;) {
            optimum.later[i] = optimum.next[trace->blocks[i]];
            optimum.next[trace->blocks[i]] = (uint32_t)i;
        }
        uint64_t found = 0, held = 0;
        for (uint64_t i = 0; i < n; i++) {
            uint32_t block = trace->blocks[i];
            if (optimum.cached[block])
                found++;
            else if (held == blocks)
                evict(&optimum);
            else
                held++;
            optimum.cached[block] = true;
            optimum.next[block] = optimum.later[i];
            heap_put(&optimum.heap, (uint64_t)optimum.later[i] << 32 | block);
        }
        *hits = found;
    } else {
        fprintf(stderr, POLICY_COMMAND ": %s: there is no memory for the optimum\n", trace->path);
    }
    free(optimum.later);
    free(optimum.next);
    free(optimum.cached);
    free(optimum.heap.entry);
    return good;
}
