/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vmm/error.h"

/* Address space and file size, not memory: only pages that are written exist. */
#define MAP_ROWS      65536u
#define MAP_BYTES     (1ull << 30)
#define MAP_MIN_BYTES (8ull << 20) /* room for the rows and for some cells */

struct extent {
    uint64_t offset, bytes;
};

struct vmm_pagemap {
    int fd;
    char *base;
    uint64_t bytes;
    struct vmm_pagemap_header *header;
    struct vmm_pagemap_row *rows;
    /* Free rows below rows_high: a stack. */
    uint32_t *free_rows;
    uint32_t n_free_rows;
    /* Free cells, by offset, no two adjacent; so at most one more than there are rows. */
    struct extent *free_cells;
    size_t n_free_cells;
    uint64_t *row_cell_bytes; /* what each row holds of the cells */
};

static bool cells_take(struct vmm_pagemap *map, uint64_t bytes, uint64_t *offset)
{
    for (size_t i = 0; i < map->n_free_cells; i++) {
        struct extent *extent = &map->free_cells[i];
        if (extent->bytes < bytes)
            continue;
        *offset = extent->offset;
        extent->offset += bytes;
        extent->bytes -= bytes;
        if (extent->bytes == 0) {
            memmove(extent, extent + 1, (map->n_free_cells - i - 1) * sizeof *extent);
            map->n_free_cells--;
        }
        return true;
    }
    return false;
}

static void cells_give(struct vmm_pagemap *map, uint64_t offset, uint64_t bytes)
{
    size_t i = 0;
    while (i < map->n_free_cells && map->free_cells[i].offset < offset)
        i++;
    struct extent *at = &map->free_cells[i];
    bool joins_left = i > 0 && at[-1].offset + at[-1].bytes == offset;
    bool joins_right = i < map->n_free_cells && offset + bytes == at->offset;
    if (joins_left && joins_right) {
        at[-1].bytes += bytes + at->bytes;
        memmove(at, at + 1, (map->n_free_cells - i - 1) * sizeof *at);
        map->n_free_cells--;
    } else if (joins_left) {
        at[-1].bytes += bytes;
    } else if (joins_right) {
        at->offset = offset;
        at->bytes += bytes;
    } else {
        memmove(at + 1, at, (map->n_free_cells - i) * sizeof *at);
        *at = (struct extent){offset, bytes};
        map->n_free_cells++;
    }
}

int vmm_pagemap_open(const struct vmm_pagemap_header *header, struct vmm_pagemap **out)
{
    struct vmm_pagemap *map = calloc(1, sizeof *map);
    if (!map)
        return vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "no memory for the page map");
    map->free_rows = malloc(MAP_ROWS * sizeof *map->free_rows);
    map->free_cells = malloc((MAP_ROWS + 1) * sizeof *map->free_cells);
    map->row_cell_bytes = calloc(MAP_ROWS, sizeof *map->row_cell_bytes);
    if (!map->free_rows || !map->free_cells || !map->row_cell_bytes) {
        vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "no memory for the page map");
        goto err_free;
    }
    map->fd = memfd_create(VMM_PAGEMAP_MEMFD, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (map->fd < 0) {
        vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "the page map can't be made: memfd_create: %s", strerror(errno));
        goto err_free;
    }
    /* Beyond the file size limit ftruncate would end the process by SIGXFSZ. */
    struct rlimit limit;
    map->bytes = MAP_BYTES;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < map->bytes)
        map->bytes = limit.rlim_cur / 4096 * 4096;
    if (map->bytes < MAP_MIN_BYTES) {
        vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "the page map can't be made: the file size limit (ulimit -f) is %llu bytes",
                 (unsigned long long)limit.rlim_cur);
        goto err_close;
    }
    if (fchmod(map->fd, 0600) || ftruncate(map->fd, (off_t)map->bytes) || fcntl(map->fd, F_ADD_SEALS, F_SEAL_SHRINK)) {
        vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "the page map can't be made: %s", strerror(errno));
        goto err_close;
    }
    map->base = mmap(NULL, map->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, map->fd, 0);
    if (map->base == MAP_FAILED) {
        vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "the page map can't be mapped: %s", strerror(errno));
        goto err_close;
    }
    /* A forked child neither owns the sequences nor may seem to. */
    madvise(map->base, map->bytes, MADV_DONTFORK);
    madvise(map->base, map->bytes, MADV_DONTDUMP);

    map->header = (struct vmm_pagemap_header *)(void *)map->base;
    *map->header = *header;
    map->header->version = VMM_PAGEMAP_VERSION;
    map->header->header_bytes = sizeof *map->header;
    map->header->pid = getpid();
    map->header->n_rows = MAP_ROWS;
    map->header->row_bytes = sizeof(struct vmm_pagemap_row);
    map->header->n_counters = VMM_N_COUNTERS;
    map->header->rows_offset = 4096;
    map->header->cells_offset = 4096 + MAP_ROWS * sizeof(struct vmm_pagemap_row);
    map->header->total_bytes = map->bytes;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    map->header->opened_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    map->rows = (struct vmm_pagemap_row *)(void *)(map->base + map->header->rows_offset);
    map->free_cells[0] = (struct extent){map->header->cells_offset, map->bytes - map->header->cells_offset};
    map->n_free_cells = 1;
    atomic_store_explicit(&map->header->magic, VMM_PAGEMAP_MAGIC, memory_order_release);
    *out = map;
    return KVMM_OK;

err_close:
    close(map->fd);
err_free:
    free(map->free_rows);
    free(map->free_cells);
    free(map->row_cell_bytes);
    free(map);
    return KVMM_ERR_NO_HOST_MEMORY;
}

void vmm_pagemap_close(struct vmm_pagemap **handle)
{
    struct vmm_pagemap *map = *handle;
    if (!map)
        return;
    munmap(map->base, map->bytes);
    close(map->fd);
    free(map->free_rows);
    free(map->free_cells);
    free(map->row_cell_bytes);
    free(map);
    *handle = NULL;
}

static void row_begin(struct vmm_pagemap_row *row)
{
    uint32_t version = atomic_load_explicit(&row->version, memory_order_relaxed);
    atomic_store_explicit(&row->version, version + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

static void row_end(struct vmm_pagemap_row *row)
{
    uint32_t version = atomic_load_explicit(&row->version, memory_order_relaxed);
    atomic_store_explicit(&row->version, version + 1, memory_order_release);
}

uint32_t vmm_pagemap_add(struct vmm_pagemap *map, uint64_t id, uint32_t max_tokens, uint32_t n_groups,
                         uint32_t group_cells)
{
    if (!map)
        return VMM_NO_ROW;
    uint32_t high = atomic_load_explicit(&map->header->rows_high, memory_order_relaxed);
    uint64_t bytes = ((uint64_t)n_groups * group_cells + 63) / 64 * 64;
    uint64_t offset;
    if ((map->n_free_rows == 0 && high == MAP_ROWS) || !cells_take(map, bytes, &offset)) {
        atomic_fetch_add_explicit(&map->header->n_hidden, 1, memory_order_relaxed);
        return VMM_NO_ROW;
    }
    uint32_t index = map->n_free_rows ? map->free_rows[--map->n_free_rows] : high;
    map->row_cell_bytes[index] = bytes;
    struct vmm_pagemap_row *row = &map->rows[index];
    row_begin(row);
    row->id = id;
    row->length = 0;
    row->max_tokens = max_tokens;
    row->pins = 0;
    row->in_step = 0;
    row->cells_offset = offset;
    row->group_cells = group_cells;
    row->live_frames = 0;
    row->used = 1;
    row_end(row);
    if (index == high)
        atomic_store_explicit(&map->header->rows_high, high + 1, memory_order_release);
    return index;
}

void vmm_pagemap_remove(struct vmm_pagemap *map, uint32_t index)
{
    if (!map)
        return;
    if (index == VMM_NO_ROW) {
        atomic_fetch_sub_explicit(&map->header->n_hidden, 1, memory_order_relaxed);
        return;
    }
    struct vmm_pagemap_row *row = &map->rows[index];
    row_begin(row);
    row->used = 0;
    row_end(row);
    cells_give(map, row->cells_offset, map->row_cell_bytes[index]);
    map->free_rows[map->n_free_rows++] = index;
}

void vmm_pagemap_update(struct vmm_pagemap *map, uint32_t index, uint32_t length, uint32_t live_frames, uint32_t pins,
                        bool in_step)
{
    if (!map || index == VMM_NO_ROW)
        return;
    struct vmm_pagemap_row *row = &map->rows[index];
    row_begin(row);
    row->length = length;
    row->live_frames = live_frames;
    row->pins = pins;
    row->in_step = in_step;
    row_end(row);
}

void vmm_pagemap_cell(struct vmm_pagemap *map, uint32_t index, uint64_t cell, enum vmm_cell value)
{
    if (!map || index == VMM_NO_ROW)
        return;
    _Atomic uint8_t *cells = (_Atomic uint8_t *)(void *)(map->base + map->rows[index].cells_offset);
    atomic_store_explicit(&cells[cell], (uint8_t)value, memory_order_relaxed);
}

_Atomic uint64_t *vmm_pagemap_counters(struct vmm_pagemap *map)
{
    return map->header->counters;
}
