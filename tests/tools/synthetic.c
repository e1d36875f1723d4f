/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/tools/synthetic.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <check.h>

#define CELLS_A_ROW 4096u

void synthetic_open(struct synthetic *map)
{
    map->fd = memfd_create(VMM_PAGEMAP_MEMFD, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ck_assert_int_ge(map->fd, 0);
    ck_assert_int_eq(ftruncate(map->fd, SYNTHETIC_BYTES), 0);
    map->base = mmap(NULL, SYNTHETIC_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, map->fd, 0);
    ck_assert(map->base != MAP_FAILED);
    map->header = (struct vmm_pagemap_header *)(void *)map->base;
    map->rows = (struct vmm_pagemap_row *)(void *)(map->base + 4096);
    struct vmm_pagemap_header *h = map->header;
    h->version = VMM_PAGEMAP_VERSION;
    h->header_bytes = sizeof *h;
    h->pid = getpid();
    h->n_rows = SYNTHETIC_ROWS;
    h->row_bytes = sizeof(struct vmm_pagemap_row);
    h->n_counters = VMM_N_COUNTERS;
    h->rows_offset = 4096;
    h->cells_offset = 8192;
    h->total_bytes = SYNTHETIC_BYTES;
    h->opened_ns = 1000000000;
    h->frame_bytes = 64 << 10;
    h->page_stride = 64 << 10;
    h->geometry =
        (struct kvmm_geometry){.n_layers = 1, .n_kv_heads = 8, .head_dim = 128, .page_tokens = 16, .dtype = KVMM_BF16};
    h->n_groups = 1;
    strcpy(h->name, "synthetic");
    strcpy(h->device, "host");
    strcpy(h->swap_backend, "none");
    atomic_store(&h->magic, VMM_PAGEMAP_MAGIC);
}

void synthetic_seal(struct synthetic *map)
{
    ck_assert_int_eq(fcntl(map->fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
}

void synthetic_close(struct synthetic *map)
{
    munmap(map->base, SYNTHETIC_BYTES);
    close(map->fd);
}

void synthetic_add(struct synthetic *map, uint32_t index, const uint8_t *cells, uint32_t n)
{
    struct vmm_pagemap_row *row = &map->rows[index];
    row->used = 1;
    row->id = index + 1;
    row->length = n * 16;
    row->max_tokens = CELLS_A_ROW * 16;
    row->cells_offset = map->header->cells_offset + (uint64_t)index * CELLS_A_ROW;
    row->group_cells = CELLS_A_ROW;
    row->live_frames = n;
    memcpy(map->base + row->cells_offset, cells, n);
    if (atomic_load(&map->header->rows_high) <= index)
        atomic_store(&map->header->rows_high, index + 1);
}
