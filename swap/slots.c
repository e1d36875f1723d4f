/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/slots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool test(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

static void set(uint64_t *bits, uint32_t i)
{
    bits[i / 64] |= UINT64_C(1) << (i % 64);
}

static void clear(uint64_t *bits, uint32_t i)
{
    bits[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

void swap_slots_init(struct swap_slots *slots)
{
    *slots = (struct swap_slots){0};
}

void swap_slots_close(struct swap_slots *slots)
{
    free(slots->taken);
    free(slots->full);
    free(slots->bad);
    free(slots->checksums);
    swap_slots_init(slots);
}

/* Makes *array n words, the new ones 0. */
static bool lengthen(uint64_t **array, size_t old_n, size_t n)
{
    if (n <= old_n)
        return true;
    uint64_t *longer = realloc(*array, n * sizeof(*longer));
    if (longer == NULL)
        return false;
    memset(longer + old_n, 0, (n - old_n) * sizeof(*longer));
    *array = longer;
    return true;
}

int swap_slots_grow(struct swap_slots *slots, uint32_t n)
{
    size_t old_words = ((size_t)slots->n + 63) / 64, words = ((size_t)n + 63) / 64;
    /* An array that was lengthened before another failed stays so: its new words are 0 and lie behind n. */
    if (!lengthen(&slots->taken, old_words, words) || !lengthen(&slots->full, old_words, words) ||
        !lengthen(&slots->bad, old_words, words) || !lengthen(&slots->checksums, slots->n, n))
        return -ENOMEM;
    slots->n = n;
    return 0;
}

/* The first free slot in [from, to), or `to`. */
static uint32_t find_free(const struct swap_slots *slots, uint32_t from, uint32_t to)
{
    for (uint32_t word = from / 64; (uint64_t)word * 64 < to; word++) {
        uint64_t free_bits = ~(slots->taken[word] | slots->bad[word]);
        if (word == from / 64)
            free_bits &= ~UINT64_C(0) << (from % 64);
        if (free_bits == 0)
            continue;
        uint64_t slot = (uint64_t)word * 64 + (unsigned)__builtin_ctzll(free_bits);
        return slot < to ? (uint32_t)slot : to;
    }
    return to;
}

int swap_slots_take(struct swap_slots *slots, uint32_t *slot)
{
    if (slots->n_taken + slots->n_retired == slots->n)
        return -ENOSPC;
    uint32_t found = find_free(slots, slots->next, slots->n);
    if (found == slots->n)
        found = find_free(slots, 0, slots->next);
    set(slots->taken, found);
    slots->n_taken++;
    slots->next = found + 1;
    *slot = found;
    return 0;
}

void swap_slots_give(struct swap_slots *slots, uint32_t slot)
{
    if (!swap_slots_owned(slots, slot))
        return;
    clear(slots->full, slot);
    clear(slots->taken, slot);
    slots->n_taken--;
    if (test(slots->bad, slot))
        slots->n_retired++;
}

bool swap_slots_owned(const struct swap_slots *slots, uint32_t slot)
{
    return slot < slots->n && test(slots->taken, slot);
}

void swap_slots_fill(struct swap_slots *slots, uint32_t slot, uint64_t checksum)
{
    set(slots->full, slot);
    slots->checksums[slot] = checksum;
}

void swap_slots_empty(struct swap_slots *slots, uint32_t slot)
{
    clear(slots->full, slot);
}

bool swap_slots_full(const struct swap_slots *slots, uint32_t slot, uint64_t *checksum)
{
    if (!test(slots->full, slot))
        return false;
    *checksum = slots->checksums[slot];
    return true;
}

void swap_slots_blame(struct swap_slots *slots, uint32_t slot)
{
    set(slots->bad, slot);
}
