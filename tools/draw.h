/* SPDX-License-Identifier: Apache-2.0
 *
 * Draws a snapshot of a page map as text: a letter for each page, or for each group of pages where a sequence has too
 * many. The letters tell all states apart without colour. */
#ifndef TOOLS_DRAW_H
#define TOOLS_DRAW_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "tools/pagemap_reader.h"

struct draw_style {
    pid_t pid;        /* as the reader knows it; the snapshot has what the process itself sees */
    unsigned columns; /* of the terminal */
    unsigned cells;   /* a line; 0: as many as the columns have room for */
    unsigned lines;   /* the most lines of cells for a sequence; more pages are grouped */
    bool colour;
    bool one_seq; /* draw only the sequence `seq` */
    uint64_t seq;
};

void draw_map(FILE *out, const struct pagemap_snapshot *snap, const struct draw_style *style);

/* The sequence with this id; NULL if it is not in the snapshot or can't be read. */
const struct pagemap_seq *draw_find_seq(const struct pagemap_snapshot *snap, uint64_t id);

/* ---- the parts, for tests -------------------------------------------------------------------------------------- */

char draw_glyph(enum pagemap_state state);

/* Pages that one cell stands for: the smallest power of two with which n_pages fit lines × cells. */
uint64_t draw_pages_a_cell(uint64_t n_pages, uint64_t cells, uint64_t lines);

/* The state that stands for the pages [first, end) of seq: the one that most of them are in, the worse one of a draw;
 * but LOST if any is lost. *run and *run_first are where the search begins, {0, 0} at first, and move along. */
enum pagemap_state draw_group_state(const struct pagemap_seq *seq, uint64_t first, uint64_t end, size_t *run,
                                    uint64_t *run_first);

#endif
