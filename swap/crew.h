/* SPDX-License-Identifier: Apache-2.0
 *
 * The crew: a few threads that copy, checksum and clear memory, so that neither the engine's thread nor an I/O thread
 * does. Jobs run in the order they were given, urgent ones first. */
#ifndef SWAP_CREW_H
#define SWAP_CREW_H

#include <stdbool.h>
#include <stdint.h>

struct swap_crew;

/* Embedded by its owner, who keeps it alive until run() was entered. run() may free it, or give it to the crew again. */
struct swap_job {
    void (*run)(struct swap_job *job);
    struct swap_job *next; /* the crew's while queued */
};

/* Starts n_threads ≥ 1 threads. Returns 0, -EINVAL, -ENOMEM or -EAGAIN; *crew only on success. */
int swap_crew_open(uint32_t n_threads, struct swap_crew **crew);

/* Runs what is still queued (and what those jobs queue), joins the threads, sets *crew to NULL. NULL is ignored. */
void swap_crew_close(struct swap_crew **crew);

/* Queues a job; never fails, never blocks for long. Any thread, also from inside a job. */
void swap_crew_give(struct swap_crew *crew, struct swap_job *job, bool urgent);

#endif
