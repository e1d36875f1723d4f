/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "tools/pagemap_reader.h"

const char *pagemap_state_name(enum pagemap_state state)
{
    static const char *const names[PAGEMAP_N_STATES] = {
        [PAGEMAP_CLEAN] = "clean",       [PAGEMAP_DEVICE] = "device",   [PAGEMAP_AHEAD] = "ahead",
        [PAGEMAP_EMPTY] = "empty",       [PAGEMAP_HOST] = "host",       [PAGEMAP_NVME] = "nvme",
        [PAGEMAP_DEMOTING] = "demoting", [PAGEMAP_LEAVING] = "leaving", [PAGEMAP_ARRIVING] = "arriving",
        [PAGEMAP_LOST] = "lost",         [PAGEMAP_UNKNOWN] = "unknown",
    };
    return (unsigned)state < PAGEMAP_N_STATES ? names[state] : "unknown";
}

enum pagemap_state pagemap_state_of_cell(uint8_t cell)
{
    switch ((enum vmm_cell)cell) {
    case VMM_CELL_EMPTY:
        return PAGEMAP_EMPTY;
    case VMM_CELL_DEVICE:
        return PAGEMAP_DEVICE;
    case VMM_CELL_CLEAN:
        return PAGEMAP_CLEAN;
    case VMM_CELL_LEAVING:
        return PAGEMAP_LEAVING;
    case VMM_CELL_HOST:
        return PAGEMAP_HOST;
    case VMM_CELL_DEMOTING:
        return PAGEMAP_DEMOTING;
    case VMM_CELL_NVME:
        return PAGEMAP_NVME;
    case VMM_CELL_ARRIVING:
        return PAGEMAP_ARRIVING;
    case VMM_CELL_LOST:
        return PAGEMAP_LOST;
    }
    return PAGEMAP_UNKNOWN;
}

struct run_list {
    struct pagemap_run *runs;
    size_t n, room;
};

static bool run_append(struct run_list *list, enum pagemap_state state, uint64_t n_pages)
{
    if (list->n > 0 && list->runs[list->n - 1].state == state) {
        list->runs[list->n - 1].n_pages += n_pages;
        return true;
    }
    if (list->n == list->room) {
        size_t room = list->room ? list->room * 2 : 8;
        struct pagemap_run *runs = realloc(list->runs, room * sizeof *runs);
        if (!runs)
            return false;
        list->runs = runs;
        list->room = room;
    }
    list->runs[list->n++] = (struct pagemap_run){.state = state, .n_pages = n_pages};
    return true;
}

/* Splits at first_ahead: a page behind the length that is on the device holds nothing worth a name yet. */
static bool run_append_split(struct run_list *list, enum pagemap_state state, uint64_t first, uint64_t end,
                             uint64_t first_ahead)
{
    bool on_device = state == PAGEMAP_CLEAN || state == PAGEMAP_DEVICE;
    if (!on_device || end <= first_ahead)
        return run_append(list, state, end - first);
    if (first >= first_ahead)
        return run_append(list, PAGEMAP_AHEAD, end - first);
    return run_append(list, state, first_ahead - first) && run_append(list, PAGEMAP_AHEAD, end - first_ahead);
}

static uint8_t state_at(const uint8_t *states, uint64_t n_frames, uint64_t frame)
{
    return frame < n_frames ? states[frame] : PAGEMAP_EMPTY;
}

enum pagemap_answer pagemap_derive_runs(const struct pagemap_pages *pages, const uint8_t *states, uint64_t n_frames,
                                        struct pagemap_run **runs, size_t *n_runs)
{
    struct run_list list = {0};
    uint64_t page = 0;
    while (page < pages->n_pages) {
        uint64_t first = page * pages->page_stride / pages->frame_bytes;
        uint64_t last = ((page + 1) * pages->page_stride - 1) / pages->frame_bytes;
        uint8_t worst = state_at(states, n_frames, first);
        bool uniform = true;
        for (uint64_t f = first + 1; f <= last && f <= n_frames; f++) { /* all past n_frames are alike */
            uint8_t state = state_at(states, n_frames, f);
            uniform = uniform && state == worst;
            worst = state > worst ? state : worst;
        }
        uint64_t next = page + 1;
        if (first >= n_frames) {
            next = pages->n_pages;
        } else if (uniform) { /* so are all pages that end in this stretch of equal frames */
            uint64_t stretch = last + 1;
            while (stretch < n_frames && states[stretch] == worst)
                stretch++;
            uint64_t whole = stretch * pages->frame_bytes / pages->page_stride;
            if (whole > next)
                next = whole < pages->n_pages ? whole : pages->n_pages;
        }
        if (!run_append_split(&list, worst, page, next, pages->first_ahead)) {
            free(list.runs);
            return PAGEMAP_FAILED;
        }
        page = next;
    }
    *runs = list.runs;
    *n_runs = list.n;
    return PAGEMAP_OK;
}
