/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads the page map of another process (vmm/pagemap.h) into plain structs. The process is never stopped, slowed or
 * asked, and may die at any moment. Nothing it wrote is trusted: each number is copied once, checked, and only then
 * used; text is made safe to print. A map is either read or refused with a reason in one line. */
#ifndef TOOLS_PAGEMAP_READER_H
#define TOOLS_PAGEMAP_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmm/pagemap.h"

enum pagemap_answer {
    PAGEMAP_OK = 0,
    PAGEMAP_NO_PROCESS, /* no such process, or it has just ended */
    PAGEMAP_DENIED,     /* it belongs to another user */
    PAGEMAP_NO_MAP,     /* it does not use kvmm, or publishes nothing */
    PAGEMAP_UNREADY,    /* its map is being made: magic is still 0 */
    PAGEMAP_REFUSED,    /* the map contradicts itself or is of another version */
    PAGEMAP_FAILED      /* this process has no memory or no file descriptors */
};

/* Why an answer is not PAGEMAP_OK: one line, no newline at its end. */
struct pagemap_error {
    char text[256];
};

/* ---- opening ------------------------------------------------------------------------------------------------- */

struct pagemap_reader;

/* Maps the page map behind fd read-only and checks its header; fd stays the caller's.
 * Answers: UNREADY, REFUSED, FAILED. *reader is written only on PAGEMAP_OK. */
enum pagemap_answer pagemap_open_fd(int fd, struct pagemap_reader **reader, struct pagemap_error *error);
void pagemap_close(struct pagemap_reader **reader);

/* The writer's id, as it sees itself. */
pid_t pagemap_pid(const struct pagemap_reader *reader);

struct pagemap_list {
    struct pagemap_reader **readers;
    size_t n_readers;
    size_t n_refused; /* other maps of the process that could not be read; `error` has the last one's reason */
};

/* Opens every map that process pid itself publishes. A map inherited from a parent by fork is not its own.
 * PAGEMAP_OK means n_readers > 0; on any other answer the list is empty. */
enum pagemap_answer pagemap_open_process(pid_t pid, struct pagemap_list *list, struct pagemap_error *error);
void pagemap_close_list(struct pagemap_list *list);

/* The processes that /proc shows, ascending; *pids is the caller's to free. */
enum pagemap_answer pagemap_processes(pid_t **pids, size_t *n_pids, struct pagemap_error *error);

/* The process's own idea of its id, if it lives in another PID namespace (a container); pid itself if that isn't known. */
pid_t pagemap_pid_inside(pid_t pid);

/* True if there is no such process, and for one that has ended but was not waited for: it has a number still, and neither
 * files nor memory. */
bool pagemap_process_ended(pid_t pid);

/* ---- reading ------------------------------------------------------------------------------------------------- */

/* Where a page is, from best to worst: a page is in the worst state of the frames it touches, in all groups, so it
 * counts as on the device only if every one of its frames is. */
enum pagemap_state {
    PAGEMAP_CLEAN,    /* on the device, and a lower tier has the same bytes */
    PAGEMAP_DEVICE,   /* on the device; the only copy */
    PAGEMAP_AHEAD,    /* on the device behind the sequence's length: for tokens to come */
    PAGEMAP_EMPTY,    /* holds nothing */
    PAGEMAP_HOST,     /* in host memory */
    PAGEMAP_NVME,     /* on NVMe */
    PAGEMAP_DEMOTING, /* from host memory to NVMe */
    PAGEMAP_LEAVING,  /* from the device to a lower tier */
    PAGEMAP_ARRIVING, /* to the device */
    PAGEMAP_LOST,
    PAGEMAP_UNKNOWN, /* a cell value that this version of the format does not have */
    PAGEMAP_N_STATES
};

/* "clean", "device", … ; "unknown" for anything else. Static. */
const char *pagemap_state_name(enum pagemap_state state);
enum pagemap_state pagemap_state_of_cell(uint8_t cell);

struct pagemap_run {
    enum pagemap_state state;
    uint64_t n_pages;
};

enum pagemap_row_status {
    PAGEMAP_ROW_OK,
    PAGEMAP_ROW_TORN,   /* its writer never finished it, or writes it all the time; nothing of it is known */
    PAGEMAP_ROW_REFUSED /* it contradicts itself: see reason; only row and id are set */
};

struct pagemap_seq {
    enum pagemap_row_status status;
    const char *reason; /* of REFUSED; static */
    uint32_t row;
    uint64_t id;
    uint32_t length, max_tokens; /* tokens */
    uint32_t pins;
    bool in_step;
    uint64_t n_frames;                    /* in use, in all groups */
    uint64_t frames_in[PAGEMAP_N_STATES]; /* n_frames by state */
    uint64_t n_pages;                     /* of the length, and those mapped ahead */
    struct pagemap_run *runs;             /* neighbours differ; their sum is n_pages */
    size_t n_runs;
};

struct pagemap_snapshot {
    pid_t pid;          /* as the process itself sees it */
    uint64_t opened_ns; /* CLOCK_REALTIME */
    uint64_t taken_ns;  /* CLOCK_REALTIME */
    uint64_t frame_bytes;
    uint64_t page_stride; /* bytes a page takes in each group */
    uint32_t n_groups;
    struct kvmm_geometry geometry;
    /* Valid UTF-8 without control characters. */
    char name[96];
    char device[48];
    char swap_backend[48];
    uint64_t n_hidden; /* sequences that found no room in the map */
    uint64_t counters[VMM_N_COUNTERS];
    struct pagemap_seq *seqs; /* by id; rows that could not be read are last */
    size_t n_seqs;
};

enum pagemap_depth {
    PAGEMAP_HEADER, /* counters and names only: n_seqs is 0 */
    PAGEMAP_ROWS    /* all */
};

/* Fills *snapshot, which pagemap_snapshot_free() empties. Ends in bounded time whatever the writer does: torn rows
 * together are waited for at most PAGEMAP_PATIENCE_NS. Answers: REFUSED, FAILED; *snapshot is then not written. */
#define PAGEMAP_PATIENCE_NS 100000000u
enum pagemap_answer pagemap_read(struct pagemap_reader *reader, enum pagemap_depth depth,
                                 struct pagemap_snapshot *snapshot, struct pagemap_error *error);
void pagemap_snapshot_free(struct pagemap_snapshot *snapshot);

/* The most cells that one snapshot takes in: 4 TiB of the smallest frames. Rows past that are refused. */
#define PAGEMAP_MOST_CELLS (64u << 20)

/* ---- frames to pages ----------------------------------------------------------------------------------------- */

struct pagemap_pages {
    uint64_t frame_bytes, page_stride;
    uint64_t n_pages;     /* all pages to derive */
    uint64_t first_ahead; /* pages from here on lie behind the length */
};

/* Derives the runs from states[n_frames], the worst state of each frame over all groups; frames past them are EMPTY.
 * Costs O(n_frames) however many pages a frame holds. *runs is the caller's to free; NULL when n_pages is 0.
 * Answers: FAILED. */
enum pagemap_answer pagemap_derive_runs(const struct pagemap_pages *pages, const uint8_t *states, uint64_t n_frames,
                                        struct pagemap_run **runs, size_t *n_runs);

#endif
