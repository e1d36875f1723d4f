/* SPDX-License-Identifier: Apache-2.0
 *
 * A progress bar on stderr, if that is a terminal; else nothing. */
#ifndef ENGINE_PROGRESS_H
#define ENGINE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    char label[48];
    const char *unit;
    bool shown;       /* stderr is a terminal */
    uint64_t next_ns; /* not drawn again before: ten times a second is enough */
};

/* unit: what is counted, "tokens"; lent. */
void progress_begin(struct progress *bar, const char *label, const char *unit);
/* An engine_progress callback; user is the bar. */
void progress_update(void *bar, uint64_t done, uint64_t total);
/* Wipes the line. */
void progress_end(struct progress *bar);

#endif
