/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pager/runs.h"

#include <string.h>

/* A touch this far behind the end of a run still continues it: several threads, and chunks that were in memory anyway. */
#define RUN_SLACK 16
/* So many chunks in a row that can't be fetched end a run. */
#define RUN_GAP  4
#define RUN_STEP 2

static struct shim_run *run_continued(struct shim_runs *runs, uint32_t chunk)
{
    struct shim_run *best = NULL;
    uint32_t best_gap = 0;
    for (struct shim_run *run = runs->runs; run < runs->runs + SHIM_RUNS; run++) {
        /* What lies before `next` was passed already, by another thread maybe. */
        if (!run->exists || chunk < run->first || chunk >= run->next + RUN_SLACK || chunk + RUN_SLACK < run->next)
            continue;
        uint32_t gap = chunk >= run->next ? chunk - run->next : RUN_SLACK + (run->next - chunk);
        if (!best || gap < best_gap) {
            best = run;
            best_gap = gap;
        }
    }
    return best;
}

static struct shim_run *run_new(struct shim_runs *runs, uint32_t chunk, uint32_t now)
{
    struct shim_run *oldest = runs->runs;
    for (struct shim_run *run = runs->runs; run < runs->runs + SHIM_RUNS; run++) {
        if (!run->exists) {
            oldest = run;
            break;
        }
        if (runs->clock - run->stamp > runs->clock - oldest->stamp)
            oldest = run;
    }
    *oldest = (struct shim_run){
        .first = chunk, .next = chunk, .fetched = chunk, .stamp = runs->clock, .began = now, .exists = true};
    return oldest;
}

static void history_note(struct shim_run_history *history, const struct shim_run *run)
{
    uint32_t i = 0;
    while (i < history->n && i < 2 && history->first[i] != run->first)
        i++;
    if (i == history->n || i == 2) {
        i = 0;
        memmove(history->first + 1, history->first, (SHIM_RUN_HISTORY - 1) * sizeof history->first[0]);
        memmove(history->length + 1, history->length, (SHIM_RUN_HISTORY - 1) * sizeof history->length[0]);
        history->first[0] = run->first;
        if (history->n < SHIM_RUN_HISTORY)
            history->n++;
    }
    history->length[i] = run->next - run->first;
}

struct shim_run *shim_runs_use(struct shim_runs *runs, struct shim_run_history *history, uint32_t chunk,
                               uint32_t window_max, uint32_t now)
{
    runs->clock++;
    struct shim_run *run = run_continued(runs, chunk);
    if (run) {
        run->window = run->window ? run->window * 2 : 2;
        if (run->window > window_max)
            run->window = window_max;
    } else {
        run = run_new(runs, chunk, now);
    }
    run->stamp = runs->clock;
    if (chunk >= run->next)
        run->next = chunk + 1;
    if (run->fetched < run->next)
        run->fetched = run->next;
    history_note(history, run);
    return run;
}

void shim_runs_pass(struct shim_runs *runs, struct shim_run_history *history, uint32_t chunk)
{
    struct shim_run *run = run_continued(runs, chunk);
    if (!run || chunk < run->next)
        return;
    run->next = chunk + 1;
    if (run->fetched < run->next)
        run->fetched = run->next;
    history_note(history, run);
}

struct expected {
    bool known;
    uint32_t length; /* of the current run */
    uint32_t first;  /* of the next one */
    uint32_t window;
};

/* What the run that the thread is in, and the next, should be by the distances between its latest. */
static struct expected expect_next(const struct shim_runs *runs, const struct shim_run_history *history,
                                   const struct shim_run *run)
{
    struct expected expected = {0};
    const uint32_t *first = history->first;
    uint32_t from = 0, distance = 0;
    if (history->n >= 3 && first[0] - first[1] == first[1] - first[2]) {
        distance = first[0] - first[1];
        from = first[0];
        expected.length = history->length[1];
    } else if (history->n >= 4 && first[0] - first[2] == first[1] - first[3]) {
        distance = first[0] - first[2];
        from = run->first == first[1] ? first[0] : first[1];
        expected.length = run->first == first[1] ? history->length[3] : history->length[2];
    } else {
        return expected;
    }
    expected.first = from + distance; /* may wrap around: then it is no chunk's number */
    expected.known = expected.first < runs->n_chunks && run->first - from != distance;
    return expected;
}

/* Asks for chunks of the run up to `end`, as far as its window goes. Returns true when it came to the end of the run. */
static bool run_fetch(const struct shim_runs *runs, struct shim_run *run, uint32_t end, uint32_t window,
                      bool (*take)(void *, uint32_t, bool), void *user, uint32_t *chunks, size_t *n, size_t max)
{
    uint32_t gap = 0;
    uint32_t chunk = run->fetched;
    while (*n < max && chunk - run->next < window) {
        if (chunk >= end || chunk >= runs->n_chunks)
            return true;
        if (take(user, chunk, chunk != run->first)) {
            chunks[(*n)++] = chunk;
            run->fetched = chunk + 1;
            gap = 0;
        } else if (++gap == RUN_GAP) {
            return true;
        }
        chunk++;
    }
    return false;
}

size_t shim_runs_ahead(struct shim_runs *runs, const struct shim_run_history *history, struct shim_run *run,
                       bool (*take)(void *, uint32_t, bool), void *user, uint32_t *chunks, size_t max)
{
    if (run->window == 0)
        return 0;
    size_t n = 0;
    struct expected next = expect_next(runs, history, run);
    uint32_t end = runs->n_chunks, used = run->next - run->first;
    /* No further ahead than it has come, unless it is known where it ends: others' chunks may follow. */
    uint32_t window = next.known || run->window < used ? run->window : used;
    if (next.known) {
        end = run->first + next.length;
        if (used > next.length) { /* longer than the others: step by step */
            end = run->next + RUN_STEP;
            next.known = false;
        }
    }
    if (!run_fetch(runs, run, end, window, take, user, chunks, &n, max) || !next.known)
        return n;

    struct shim_run *jump = run_continued(runs, next.first);
    if (!jump) {
        jump = run_new(runs, next.first, run->began);
    } else if (jump->first != next.first) {
        return n;
    }
    uint32_t ahead = run->fetched - run->next; /* still to be used before the jump */
    if (ahead < run->window) {
        if (jump->window < run->window - ahead)
            jump->window = run->window - ahead;
        run_fetch(runs, jump, next.first + next.length, run->window - ahead, take, user, chunks, &n, max);
    }
    return n;
}
