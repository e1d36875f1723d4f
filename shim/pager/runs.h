/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs of ascending chunks, found by address, whichever thread goes on with them: threads that sweep one run together make
 * one, threads with a part each make one each, K and V in turn make two.
 *
 * A cache laid out [layer][K|V][slot][token] has a conversation's chunks in one run in each tensor, a constant distance
 * apart. Each thread's latest runs are kept: when the distance between two repeats, the next run is known before it is
 * touched. With period two (K and V of different sizes, or in turn) that takes four runs, else three. */
#ifndef SHIM_PAGER_RUNS_H
#define SHIM_PAGER_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHIM_RUNS        32 /* followed at a time; the one used least recently makes room */
#define SHIM_RUN_HISTORY 4

struct shim_run {
    uint32_t first;   /* the lowest chunk of it that was used, or that is expected to be */
    uint32_t next;    /* after the highest used */
    uint32_t fetched; /* after the highest asked for; at least next */
    uint32_t window;  /* chunks to be ahead; 0 until a second touch, or a prediction, says that this is a run at all */
    uint32_t stamp;   /* when used last */
    uint32_t began;   /* the caller's time when it was first used */
    bool exists;
};

struct shim_runs {
    uint32_t clock;
    uint32_t n_chunks;
    struct shim_run runs[SHIM_RUNS];
};

/* The latest runs of one thread, latest first. */
struct shim_run_history {
    uint32_t n;
    uint32_t first[SHIM_RUN_HISTORY], length[SHIM_RUN_HISTORY];
};

/* A thread uses a chunk: returns its run, a new one if it continues none. window_max bounds the run's window. */
struct shim_run *shim_runs_use(struct shim_runs *runs, struct shim_run_history *history, uint32_t chunk,
                               uint32_t window_max, uint32_t now);

/* The chunk was mapped along with the one used before. */
void shim_runs_pass(struct shim_runs *runs, struct shim_run_history *history, uint32_t chunk);

/* Chunks ahead of where the thread is in this run, and in the next run when it is known. take as for
 * shim_sweep_ahead(). Returns how many. */
size_t shim_runs_ahead(struct shim_runs *runs, const struct shim_run_history *history, struct shim_run *run,
                       bool (*take)(void *, uint32_t, bool), void *user, uint32_t *chunks, size_t max);

#endif
