/* SPDX-License-Identifier: Apache-2.0
 *
 * Page maps made by hand, so that they can lie. */
#ifndef TESTS_TOOLS_SYNTHETIC_H
#define TESTS_TOOLS_SYNTHETIC_H

#include "vmm/pagemap.h"

#define SYNTHETIC_ROWS  8u
#define SYNTHETIC_BYTES (64u << 10)

/* A memfd of SYNTHETIC_BYTES that is mapped writable. */
struct synthetic {
    int fd;
    char *base;
    struct vmm_pagemap_header *header;
    struct vmm_pagemap_row *rows; /* SYNTHETIC_ROWS */
};

/* A map that is right in everything, with no sequences: one group, pages and frames of 64 KiB, 16 tokens a page. Not
 * sealed yet. */
void synthetic_open(struct synthetic *map);
void synthetic_seal(struct synthetic *map);
void synthetic_close(struct synthetic *map);

/* Fills row `index` with a sequence of id index + 1 that has n cells of 16 tokens each, and its length to match. */
void synthetic_add(struct synthetic *map, uint32_t index, const uint8_t *cells, uint32_t n);

#endif
