/* SPDX-License-Identifier: Apache-2.0
 *
 * Fetches rows of the cache before they are needed, while there is work to do on others. In the rows' order, line by line:
 * along a run of rows that touch, the CPU's own prefetching then helps. Into the second level: what is fetched is far more
 * than the first level has room for, and there a fetch would hold up the loads of what is needed now. */
#ifndef KERN_AHEAD_H
#define KERN_AHEAD_H

#include <stdint.h>

#include "attention.h"
#include "compiler.h"

#define AHEAD_LINE 64

struct ahead {
    const uint8_t *const *rows;
    uint32_t n_rows;
    uint32_t row_bytes;
    uint32_t at; /* in rows[0] */
};

/* A block's rows of K or V, and those that are looked at next, to be fetched meanwhile. */
struct block_rows {
    const uint8_t *now[KERN_BLOCK];
    const uint8_t *next[KERN_BLOCK];
    struct ahead ahead; /* of next */
};

/* Fetches as many lines as n_bytes bytes are, at least one. */
static INLINE void ahead_fetch(struct ahead *ahead, uint32_t n_bytes)
{
    for (uint32_t i = 0; i < n_bytes && ahead->n_rows > 0; i += AHEAD_LINE) {
        __builtin_prefetch(ahead->rows[0] + ahead->at, 0, 2);
        ahead->at += AHEAD_LINE;
        if (ahead->at >= ahead->row_bytes) {
            ahead->at = 0;
            ahead->rows++;
            ahead->n_rows--;
        }
    }
}

#endif
