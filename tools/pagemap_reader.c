/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/pagemap_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "tools/printable.h"

/* Far above what version 1 writes (1 GiB, 65536 rows); they keep all sums below in 64 bits. */
#define MOST_FILE_BYTES  (1ull << 40)
#define MOST_ROWS        (1u << 22)
#define MOST_RANGE_BYTES (1ull << 60)
#define MOST_FRAME_BYTES (1ull << 40)
#define MOST_PAGE_BYTES  (1ull << 42)
#define MOST_GROUPS      1024u

/* A row is written in well under a microsecond, so a few tries do unless its writer was interrupted in the middle. */
#define QUICK_TRIES 64
#define NAP_NS      50000

struct pagemap_reader {
    void *mapping;
    const char *base; /* the same */
    size_t bytes;
    /* Copied once and checked: what the file says later is not looked at again. Its atomic fields are not set. */
    struct vmm_pagemap_header head;
};

static enum pagemap_answer fail(struct pagemap_error *error, enum pagemap_answer answer, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static enum pagemap_answer fail(struct pagemap_error *error, enum pagemap_answer answer, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return answer;
}

static uint64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- the header ---------------------------------------------------------------------------------------------- */

static const struct vmm_pagemap_header *live_header(const struct pagemap_reader *reader)
{
    return (const struct vmm_pagemap_header *)(const void *)reader->base;
}

static void copy_header(struct vmm_pagemap_header *to, const struct vmm_pagemap_header *from)
{
    to->version = from->version;
    to->header_bytes = from->header_bytes;
    to->pid = from->pid;
    to->n_rows = from->n_rows;
    to->row_bytes = from->row_bytes;
    to->n_counters = from->n_counters;
    to->rows_offset = from->rows_offset;
    to->cells_offset = from->cells_offset;
    to->total_bytes = from->total_bytes;
    to->opened_ns = from->opened_ns;
    to->frame_bytes = from->frame_bytes;
    to->page_stride = from->page_stride;
    to->geometry = from->geometry;
    to->n_groups = from->n_groups;
    memcpy(to->name, from->name, sizeof to->name);
    memcpy(to->device, from->device, sizeof to->device);
    memcpy(to->swap_backend, from->swap_backend, sizeof to->swap_backend);
}

static enum pagemap_answer check_areas(const struct vmm_pagemap_header *h, uint64_t file_bytes,
                                       struct pagemap_error *error)
{
    if (h->header_bytes < sizeof *h || h->header_bytes > file_bytes)
        return fail(error, PAGEMAP_REFUSED, "its header says it has %u bytes, not %zu", h->header_bytes, sizeof *h);
    if (h->total_bytes > file_bytes)
        return fail(error, PAGEMAP_REFUSED, "it says it has %" PRIu64 " bytes, but its file has %" PRIu64,
                    h->total_bytes, file_bytes);
    if (h->row_bytes < sizeof(struct vmm_pagemap_row) || h->row_bytes > 4096 || h->row_bytes % 8)
        return fail(error, PAGEMAP_REFUSED, "its rows have %u bytes, not %zu", h->row_bytes,
                    sizeof(struct vmm_pagemap_row));
    if (h->n_rows > MOST_ROWS)
        return fail(error, PAGEMAP_REFUSED, "it says it has %u rows", h->n_rows);
    uint64_t row_area = (uint64_t)h->n_rows * h->row_bytes;
    if (h->rows_offset % 8 || h->rows_offset < h->header_bytes || h->rows_offset > h->total_bytes ||
        row_area > h->total_bytes - h->rows_offset)
        return fail(error, PAGEMAP_REFUSED, "its %u rows at offset %" PRIu64 " don't fit its %" PRIu64 " bytes",
                    h->n_rows, h->rows_offset, h->total_bytes);
    if (h->cells_offset < h->rows_offset + row_area || h->cells_offset > h->total_bytes)
        return fail(error, PAGEMAP_REFUSED, "its cells at offset %" PRIu64 " lie in its rows or behind its end",
                    h->cells_offset);
    if (h->n_counters > sizeof h->counters / sizeof h->counters[0])
        return fail(error, PAGEMAP_REFUSED, "it says it has %u counters", h->n_counters);
    return PAGEMAP_OK;
}

static enum pagemap_answer check_geometry(const struct vmm_pagemap_header *h, struct pagemap_error *error)
{
    if (h->frame_bytes == 0 || h->frame_bytes > MOST_FRAME_BYTES)
        return fail(error, PAGEMAP_REFUSED, "its frames have %" PRIu64 " bytes", h->frame_bytes);
    if (h->page_stride == 0 || h->page_stride > MOST_PAGE_BYTES)
        return fail(error, PAGEMAP_REFUSED, "its pages have %" PRIu64 " bytes", h->page_stride);
    if (h->n_groups == 0 || h->n_groups > MOST_GROUPS)
        return fail(error, PAGEMAP_REFUSED, "it says it has %u groups of layers", h->n_groups);
    if (h->geometry.page_tokens == 0 || h->geometry.page_tokens > 256)
        return fail(error, PAGEMAP_REFUSED, "its pages hold %u tokens", h->geometry.page_tokens);
    return PAGEMAP_OK;
}

static enum pagemap_answer take_header(struct pagemap_reader *reader, struct pagemap_error *error)
{
    const struct vmm_pagemap_header *live = live_header(reader);
    uint64_t magic = atomic_load_explicit(&live->magic, memory_order_acquire);
    if (magic == 0)
        return fail(error, PAGEMAP_UNREADY, "it is just being made");
    if (magic != VMM_PAGEMAP_MAGIC)
        return fail(error, PAGEMAP_REFUSED, "it does not begin with the magic number of a page map");
    copy_header(&reader->head, live);
    if (reader->head.version != VMM_PAGEMAP_VERSION)
        return fail(error, PAGEMAP_REFUSED, "it is of version %u, and this kvmm reads version %u", reader->head.version,
                    VMM_PAGEMAP_VERSION);
    enum pagemap_answer answer = check_areas(&reader->head, reader->bytes, error);
    return answer ? answer : check_geometry(&reader->head, error);
}

/* ---- opening ------------------------------------------------------------------------------------------------- */

/* A mapping stays readable for good only if the file can't shrink under it. That seal exists on memfds and nothing
 * else; one made of huge pages could still fault when those run out. */
static enum pagemap_answer check_file(int fd, uint64_t *bytes, struct pagemap_error *error)
{
    struct stat st;
    struct statfs fs;
    if (fstat(fd, &st) || fstatfs(fd, &fs))
        return fail(error, PAGEMAP_FAILED, "its file can't be looked at: %s", strerror(errno));
    int seals = fcntl(fd, F_GET_SEALS);
    if (!S_ISREG(st.st_mode) || fs.f_type != TMPFS_MAGIC || seals < 0 || !(seals & F_SEAL_SHRINK))
        return fail(error, PAGEMAP_REFUSED, "it is no memfd that is sealed against shrinking");
    if ((uint64_t)st.st_size < sizeof(struct vmm_pagemap_header) || (uint64_t)st.st_size > MOST_FILE_BYTES)
        return fail(error, PAGEMAP_REFUSED, "its file has %jd bytes", (intmax_t)st.st_size);
    *bytes = (uint64_t)st.st_size;
    return PAGEMAP_OK;
}

enum pagemap_answer pagemap_open_fd(int fd, struct pagemap_reader **out, struct pagemap_error *error)
{
    uint64_t bytes = 0;
    enum pagemap_answer answer = check_file(fd, &bytes, error);
    if (answer)
        return answer;
    struct pagemap_reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return fail(error, PAGEMAP_FAILED, "no memory");
    reader->bytes = bytes;
    void *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
        answer = fail(error, PAGEMAP_FAILED, "its %" PRIu64 " bytes can't be mapped: %s", bytes, strerror(errno));
        goto err_free;
    }
    reader->mapping = base;
    reader->base = base;
    answer = take_header(reader, error);
    if (answer)
        goto err_unmap;
    *out = reader;
    return PAGEMAP_OK;

err_unmap:
    munmap(base, bytes);
err_free:
    free(reader);
    return answer;
}

void pagemap_close(struct pagemap_reader **handle)
{
    struct pagemap_reader *reader = *handle;
    if (!reader)
        return;
    munmap(reader->mapping, reader->bytes);
    free(reader);
    *handle = NULL;
}

pid_t pagemap_pid(const struct pagemap_reader *reader)
{
    return reader->head.pid;
}

/* ---- rows ---------------------------------------------------------------------------------------------------- */

/* A row's fields without its seqlock. */
struct row_copy {
    uint32_t used;
    uint64_t id;
    uint32_t length, max_tokens, pins, in_step;
    uint64_t cells_offset;
    uint32_t group_cells, live_frames;
};

static const struct vmm_pagemap_row *live_row(const struct pagemap_reader *reader, uint32_t index)
{
    const char *at = reader->base + reader->head.rows_offset + (uint64_t)index * reader->head.row_bytes;
    return (const struct vmm_pagemap_row *)(const void *)at;
}

static bool try_row(const struct vmm_pagemap_row *row, struct row_copy *copy)
{
    uint32_t before = atomic_load_explicit(&row->version, memory_order_acquire);
    if (before & 1)
        return false;
    copy->used = __atomic_load_n(&row->used, __ATOMIC_RELAXED);
    copy->id = __atomic_load_n(&row->id, __ATOMIC_RELAXED);
    copy->length = __atomic_load_n(&row->length, __ATOMIC_RELAXED);
    copy->max_tokens = __atomic_load_n(&row->max_tokens, __ATOMIC_RELAXED);
    copy->pins = __atomic_load_n(&row->pins, __ATOMIC_RELAXED);
    copy->in_step = __atomic_load_n(&row->in_step, __ATOMIC_RELAXED);
    copy->cells_offset = __atomic_load_n(&row->cells_offset, __ATOMIC_RELAXED);
    copy->group_cells = __atomic_load_n(&row->group_cells, __ATOMIC_RELAXED);
    copy->live_frames = __atomic_load_n(&row->live_frames, __ATOMIC_RELAXED);
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&row->version, memory_order_relaxed) == before;
}

/* False for a row that stays torn. *patience_ns is what is left of the snapshot's naps. */
static bool copy_row(const struct vmm_pagemap_row *row, struct row_copy *copy, uint64_t *patience_ns)
{
    for (;;) {
        for (int i = 0; i < QUICK_TRIES; i++)
            if (try_row(row, copy))
                return true;
        if (*patience_ns == 0)
            return false;
        uint64_t start = now_ns(CLOCK_MONOTONIC);
        nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
        uint64_t slept = now_ns(CLOCK_MONOTONIC) - start;
        *patience_ns -= slept < *patience_ns ? slept : *patience_ns;
    }
}

static uint64_t pages_of(const struct vmm_pagemap_header *h, uint32_t tokens)
{
    return ((uint64_t)tokens + h->geometry.page_tokens - 1) / h->geometry.page_tokens;
}

/* NULL if the row agrees with itself and the file, else what is wrong. The products fit: see MOST_*. */
static const char *row_defect(const struct vmm_pagemap_header *h, const struct row_copy *row)
{
    if (row->max_tokens > 1u << 30 || row->length > row->max_tokens)
        return "its length is over its maximum";
    uint64_t cells = (uint64_t)row->group_cells * h->n_groups;
    if (row->cells_offset < h->cells_offset || row->cells_offset > h->total_bytes ||
        cells > h->total_bytes - row->cells_offset)
        return "its cells lie outside the map";
    if (row->group_cells > MOST_RANGE_BYTES / h->frame_bytes ||
        pages_of(h, row->max_tokens) > MOST_RANGE_BYTES / h->page_stride)
        return "its range is longer than addresses are";
    if (row->live_frames > row->group_cells ||
        pages_of(h, row->length) * h->page_stride > row->group_cells * h->frame_bytes)
        return "it has more frames than cells";
    return NULL;
}

/* Pages of the length; and if more frames are live than those take, all pages that fit in the live ones. */
static uint64_t pages_shown(const struct vmm_pagemap_header *h, const struct row_copy *row)
{
    uint64_t held = pages_of(h, row->length);
    uint64_t frames = (held * h->page_stride + h->frame_bytes - 1) / h->frame_bytes;
    if (row->live_frames <= frames)
        return held;
    uint64_t fit = row->live_frames * h->frame_bytes / h->page_stride;
    uint64_t most = pages_of(h, row->max_tokens);
    fit = fit < most ? fit : most;
    return fit > held ? fit : held;
}

/* Counts the live cells by state, and leaves in worst[live_frames] each frame's worst state over all groups. */
static void take_cells(const struct pagemap_reader *reader, const struct row_copy *row, uint8_t *worst,
                       struct pagemap_seq *seq)
{
    for (uint32_t f = 0; f < row->live_frames; f++)
        worst[f] = PAGEMAP_CLEAN;
    for (uint32_t g = 0; g < reader->head.n_groups; g++) {
        const _Atomic uint8_t *cells =
            (const _Atomic uint8_t *)(const void *)(reader->base + row->cells_offset + (uint64_t)g * row->group_cells);
        for (uint32_t f = 0; f < row->live_frames; f++) {
            uint8_t cell = atomic_load_explicit(&cells[f], memory_order_relaxed);
            enum pagemap_state state = pagemap_state_of_cell(cell);
            seq->frames_in[state]++;
            if (state > worst[f])
                worst[f] = (uint8_t)state;
        }
    }
    seq->n_frames = (uint64_t)row->live_frames * reader->head.n_groups;
}

static enum pagemap_answer fill_seq(const struct pagemap_reader *reader, const struct row_copy *row,
                                    struct pagemap_seq *seq)
{
    seq->length = row->length;
    seq->max_tokens = row->max_tokens;
    seq->pins = row->pins;
    seq->in_step = row->in_step != 0;
    uint8_t *worst = malloc(row->live_frames + 1u);
    if (!worst)
        return PAGEMAP_FAILED;
    take_cells(reader, row, worst, seq);
    struct pagemap_pages pages = {
        .frame_bytes = reader->head.frame_bytes,
        .page_stride = reader->head.page_stride,
        .n_pages = pages_shown(&reader->head, row),
        .first_ahead = pages_of(&reader->head, row->length),
    };
    seq->n_pages = pages.n_pages;
    enum pagemap_answer answer = pagemap_derive_runs(&pages, worst, row->live_frames, &seq->runs, &seq->n_runs);
    free(worst);
    return answer;
}

/* ---- snapshots ----------------------------------------------------------------------------------------------- */

static void fill_head(const struct pagemap_reader *reader, struct pagemap_snapshot *snap)
{
    const struct vmm_pagemap_header *h = &reader->head;
    const struct vmm_pagemap_header *live = live_header(reader);
    snap->pid = h->pid;
    snap->opened_ns = h->opened_ns;
    snap->taken_ns = now_ns(CLOCK_REALTIME);
    snap->frame_bytes = h->frame_bytes;
    snap->page_stride = h->page_stride;
    snap->n_groups = h->n_groups;
    snap->geometry = h->geometry;
    printable_copy(snap->name, sizeof snap->name, h->name, sizeof h->name);
    printable_copy(snap->device, sizeof snap->device, h->device, sizeof h->device);
    printable_copy(snap->swap_backend, sizeof snap->swap_backend, h->swap_backend, sizeof h->swap_backend);
    snap->n_hidden = atomic_load_explicit(&live->n_hidden, memory_order_relaxed);
    for (uint32_t i = 0; i < VMM_N_COUNTERS && i < h->n_counters; i++)
        snap->counters[i] = atomic_load_explicit(&live->counters[i], memory_order_relaxed);
}

static struct pagemap_seq *new_seq(struct pagemap_snapshot *snap, size_t *room)
{
    if (snap->n_seqs == *room) {
        size_t more = *room ? *room * 2 : 16;
        struct pagemap_seq *seqs = realloc(snap->seqs, more * sizeof *seqs);
        if (!seqs)
            return NULL;
        snap->seqs = seqs;
        *room = more;
    }
    struct pagemap_seq *seq = &snap->seqs[snap->n_seqs++];
    *seq = (struct pagemap_seq){0};
    return seq;
}

static void forget_seq(struct pagemap_snapshot *snap)
{
    free(snap->seqs[--snap->n_seqs].runs);
}

/* The cells of a sequence that ended while they were read may be another's by now. */
static bool still_there(const struct vmm_pagemap_row *live, const struct row_copy *row, uint64_t *patience_ns)
{
    struct row_copy again;
    if (!copy_row(live, &again, patience_ns))
        return true;
    return again.used && again.id == row->id && again.cells_offset == row->cells_offset;
}

static enum pagemap_answer read_rows(struct pagemap_reader *reader, struct pagemap_snapshot *snap,
                                     struct pagemap_error *error)
{
    uint32_t high = atomic_load_explicit(&live_header(reader)->rows_high, memory_order_acquire);
    if (high > reader->head.n_rows)
        return fail(error, PAGEMAP_REFUSED, "it uses %u of its %u rows", high, reader->head.n_rows);
    uint64_t patience_ns = PAGEMAP_PATIENCE_NS;
    uint64_t cells_left = PAGEMAP_MOST_CELLS;
    size_t room = 0;
    for (uint32_t i = 0; i < high; i++) {
        const struct vmm_pagemap_row *live = live_row(reader, i);
        struct row_copy row;
        bool whole = copy_row(live, &row, &patience_ns);
        if (whole && !row.used)
            continue;
        struct pagemap_seq *seq = new_seq(snap, &room);
        if (!seq)
            return fail(error, PAGEMAP_FAILED, "no memory for %u rows", high);
        seq->row = i;
        if (!whole) {
            seq->status = PAGEMAP_ROW_TORN;
            continue;
        }
        seq->id = row.id;
        uint64_t cells = (uint64_t)row.live_frames * reader->head.n_groups;
        seq->reason = row_defect(&reader->head, &row);
        if (!seq->reason && cells > cells_left)
            seq->reason = "all rows together have more cells than are read";
        if (seq->reason) {
            seq->status = PAGEMAP_ROW_REFUSED;
            continue;
        }
        cells_left -= cells;
        if (fill_seq(reader, &row, seq) != PAGEMAP_OK)
            return fail(error, PAGEMAP_FAILED, "no memory for %" PRIu64 " frames", cells);
        if (!still_there(live, &row, &patience_ns))
            forget_seq(snap);
    }
    return PAGEMAP_OK;
}

static int by_status_and_id(const void *left, const void *right)
{
    const struct pagemap_seq *a = left;
    const struct pagemap_seq *b = right;
    if ((a->status != PAGEMAP_ROW_OK) != (b->status != PAGEMAP_ROW_OK))
        return a->status != PAGEMAP_ROW_OK ? 1 : -1;
    if (a->id != b->id)
        return a->id < b->id ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

enum pagemap_answer pagemap_read(struct pagemap_reader *reader, enum pagemap_depth depth, struct pagemap_snapshot *out,
                                 struct pagemap_error *error)
{
    struct pagemap_snapshot snap = {0};
    fill_head(reader, &snap);
    if (depth == PAGEMAP_ROWS) {
        enum pagemap_answer answer = read_rows(reader, &snap, error);
        if (answer) {
            pagemap_snapshot_free(&snap);
            return answer;
        }
        if (snap.n_seqs > 0)
            qsort(snap.seqs, snap.n_seqs, sizeof *snap.seqs, by_status_and_id);
    }
    *out = snap;
    return PAGEMAP_OK;
}

void pagemap_snapshot_free(struct pagemap_snapshot *snap)
{
    for (size_t i = 0; i < snap->n_seqs; i++)
        free(snap->seqs[i].runs);
    free(snap->seqs);
    *snap = (struct pagemap_snapshot){0};
}
