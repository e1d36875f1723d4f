/* SPDX-License-Identifier: Apache-2.0
 *
 * The page map: what `kvmm ls` and `kvmm map` read of a live process, and where the manager keeps its counters. It is a
 * memfd of mode 0600 named "kvmm-map", so it vanishes with the process whatever ends that. A reader finds it as
 * /proc/PID/fd/N, opens that read-only and maps it; the writer neither knows nor waits. The file is sealed against
 * shrinking, so a reader's mapping stays good when the process is gone.
 *
 * Format, version 1, host byte order: a header; n_rows rows, one for each sequence; cells, one byte for each frame.
 * A row is a seqlock: `version` is odd while its writer changes it; a reader copies the row, and takes the copy if
 * version was even and the same before and after. Cells and counters are single values and may be a moment old.
 * A writer that died in the middle leaves an odd version for ever: readers try a bounded number of times. */
#ifndef VMM_PAGEMAP_H
#define VMM_PAGEMAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvmm/kvmm.h"

#define VMM_PAGEMAP_MEMFD   "kvmm-map"
#define VMM_PAGEMAP_MAGIC   0x70616d6d6d766bull /* "kvmmmap" */
#define VMM_PAGEMAP_VERSION 1u

/* Where a frame is. The value of a cell. */
enum vmm_cell {
    VMM_CELL_EMPTY = 0,    /* holds nothing */
    VMM_CELL_DEVICE = 1,   /* on the device; the only copy */
    VMM_CELL_CLEAN = 2,    /* on the device, and a lower tier has the same bytes */
    VMM_CELL_LEAVING = 3,  /* being copied from the device to a lower tier */
    VMM_CELL_HOST = 4,     /* in host memory */
    VMM_CELL_DEMOTING = 5, /* being copied from host memory to NVMe */
    VMM_CELL_NVME = 6,     /* on NVMe */
    VMM_CELL_ARRIVING = 7, /* being fetched to the device */
    VMM_CELL_LOST = 8
};

/* The manager's counters (struct kvmm_stats has their meaning), written under its lock, read by anyone. */
enum vmm_counter {
    VMM_COUNT_STEPS,
    VMM_COUNT_STEPS_WAITED,
    VMM_COUNT_WAIT_NS,
    VMM_COUNT_FRAMES_HIT,
    VMM_COUNT_FRAMES_FROM_HOST,
    VMM_COUNT_FRAMES_FROM_NVME,
    VMM_COUNT_FRAMES_NEW,
    VMM_COUNT_BYTES_TO_HOST,
    VMM_COUNT_BYTES_TO_NVME,
    VMM_COUNT_BYTES_FROM_HOST,
    VMM_COUNT_BYTES_FROM_NVME,
    VMM_COUNT_BYTES_DROPPED_CLEAN,
    VMM_COUNT_FRAMES_LOST,
    VMM_COUNT_DEVICE_CAPACITY, /* bytes, now */
    VMM_COUNT_DEVICE_USED,
    VMM_COUNT_HOST_CAPACITY,
    VMM_COUNT_HOST_USED,
    VMM_COUNT_NVME_CAPACITY,
    VMM_COUNT_NVME_USED,
    VMM_COUNT_SEQUENCES,
    VMM_N_COUNTERS
};

struct vmm_pagemap_header {
    _Atomic uint64_t magic; /* written last, when the rest is complete */
    uint32_t version;
    uint32_t header_bytes;
    int32_t pid;
    uint32_t n_rows;
    uint32_t row_bytes;
    uint32_t n_counters;
    uint64_t rows_offset;
    uint64_t cells_offset;
    uint64_t total_bytes;
    uint64_t opened_ns; /* CLOCK_REALTIME */
    uint64_t frame_bytes;
    uint64_t page_stride; /* bytes a page takes in each group */
    struct kvmm_geometry geometry;
    uint32_t n_groups;
    char name[32];
    char device[16];
    char swap_backend[16];
    _Atomic uint32_t rows_high; /* rows at and above this were never used */
    _Atomic uint32_t n_hidden;  /* sequences that have no row or no cells, because the map is full */
    _Atomic uint64_t counters[32];
};

struct vmm_pagemap_row {
    _Atomic uint32_t version; /* seqlock */
    uint32_t used;            /* 0: free */
    uint64_t id;
    uint32_t length;
    uint32_t max_tokens;
    uint32_t pins;
    uint32_t in_step;
    uint64_t cells_offset; /* from the start of the file; cell of frame f in group g: g * group_cells + f */
    uint32_t group_cells;
    uint32_t live_frames; /* frames in use at the start of each group */
};

struct vmm_pagemap;

/* Makes the map; `header` gives the describing fields (name, geometry …). Errors: NO_HOST_MEMORY. */
int vmm_pagemap_open(const struct vmm_pagemap_header *header, struct vmm_pagemap **map);
void vmm_pagemap_close(struct vmm_pagemap **map);

#define VMM_NO_ROW UINT32_MAX

/* A row with n_cells cells, all EMPTY; VMM_NO_ROW when the map is full (the sequence works all the same, and is counted
 * in n_hidden). map may be NULL in all of the following: nothing is published then. */
uint32_t vmm_pagemap_add(struct vmm_pagemap *map, uint64_t id, uint32_t max_tokens, uint32_t n_groups,
                         uint32_t group_cells);
/* Frees the row. Its cells are EMPTY again by then: the sequence has given up its frames. */
void vmm_pagemap_remove(struct vmm_pagemap *map, uint32_t row);
void vmm_pagemap_update(struct vmm_pagemap *map, uint32_t row, uint32_t length, uint32_t live_frames, uint32_t pins,
                        bool in_step);
void vmm_pagemap_cell(struct vmm_pagemap *map, uint32_t row, uint64_t index, enum vmm_cell cell);
_Atomic uint64_t *vmm_pagemap_counters(struct vmm_pagemap *map);

#endif
