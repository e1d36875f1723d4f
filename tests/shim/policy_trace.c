/* SPDX-License-Identifier: Apache-2.0
 *
 * What other policies would have done with a trace. */
#include <check.h>
#include <stdlib.h>

#include "tests/shim/policy_pager.h"

static uint32_t *numbers(size_t n, uint32_t value)
{
    uint32_t *array = malloc(n * sizeof *array);
    ck_assert_ptr_nonnull(array);
    for (size_t i = 0; i < n; i++)
        array[i] = value;
    return array;
}

uint64_t trace_lru(const uint32_t *trace, size_t n, uint32_t n_chunks, uint32_t memory, size_t from)
{
    /* A circular list; the number n_chunks is its head. */
    uint32_t *prev = numbers(n_chunks + 1, UINT32_MAX), *next = numbers(n_chunks + 1, UINT32_MAX);
    uint8_t *seen = calloc(n_chunks, 1);
    ck_assert_ptr_nonnull(seen);
    prev[n_chunks] = next[n_chunks] = n_chunks;
    uint32_t n_resident = 0;
    uint64_t loads = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t chunk = trace[i];
        if (next[chunk] != UINT32_MAX) {
            next[prev[chunk]] = next[chunk];
            prev[next[chunk]] = prev[chunk];
        } else {
            loads += seen[chunk] && i >= from;
            if (n_resident == memory) {
                uint32_t victim = prev[n_chunks];
                prev[n_chunks] = prev[victim];
                next[prev[victim]] = n_chunks;
                next[victim] = UINT32_MAX;
            } else {
                n_resident++;
            }
        }
        seen[chunk] = 1;
        prev[chunk] = n_chunks;
        next[chunk] = next[n_chunks];
        prev[next[chunk]] = chunk;
        next[n_chunks] = chunk;
    }
    free(prev);
    free(next);
    free(seen);
    return loads;
}

/* A heap of (next use, chunk), the furthest first. Entries that are out of date are dropped when they come up. */
struct heap {
    uint64_t *entry;
    size_t n;
};

static void heap_put(struct heap *heap, uint64_t entry)
{
    size_t i = heap->n++;
    while (i && heap->entry[(i - 1) / 2] < entry) {
        heap->entry[i] = heap->entry[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap->entry[i] = entry;
}

static uint64_t heap_take(struct heap *heap)
{
    uint64_t top = heap->entry[0], last = heap->entry[--heap->n];
    size_t i = 0;
    while (2 * i + 1 < heap->n) {
        size_t child = 2 * i + 1;
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

uint64_t trace_optimum(const uint32_t *trace, size_t n, uint32_t n_chunks, uint32_t memory, size_t from)
{
    uint32_t *later = numbers(n, 0), *last = numbers(n_chunks, UINT32_MAX), *use = numbers(n_chunks, UINT32_MAX);
    uint8_t *state = calloc(n_chunks, 1); /* 1: was seen, 2: is in memory */
    struct heap heap = {calloc(n, sizeof *heap.entry), 0};
    ck_assert(state && heap.entry);
    for (size_t i = n; i-- > 0;) {
        later[i] = last[trace[i]];
        last[trace[i]] = (uint32_t)i;
    }
    uint32_t n_resident = 0;
    uint64_t loads = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t chunk = trace[i];
        if (!(state[chunk] & 2)) {
            loads += (state[chunk] & 1) && i >= from;
            while (n_resident == memory) {
                uint64_t top = heap_take(&heap);
                uint32_t victim = (uint32_t)top;
                if ((state[victim] & 2) && use[victim] == top >> 32) {
                    state[victim] = 1;
                    n_resident--;
                }
            }
            n_resident++;
        }
        state[chunk] = 3;
        use[chunk] = later[i];
        heap_put(&heap, (uint64_t)later[i] << 32 | chunk);
    }
    free(later);
    free(last);
    free(use);
    free(state);
    free(heap.entry);
    return loads;
}
