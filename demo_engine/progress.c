/* SPDX-License-Identifier: Apache-2.0 */
#include "progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BAR_WIDTH 32
#define REDRAW_NS 100000000u

static uint64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void progress_begin(struct progress *bar, const char *label, const char *unit)
{
    *bar = (struct progress){.unit = unit, .shown = isatty(STDERR_FILENO)};
    (void)snprintf(bar->label, sizeof bar->label, "%s", label);
}

void progress_update(void *user, uint64_t done, uint64_t total)
{
    struct progress *bar = user;
    if (!bar->shown || total == 0)
        return;
    uint64_t now = now_ns();
    if (now < bar->next_ns && done < total)
        return;
    bar->next_ns = now + REDRAW_NS;
    char cells[BAR_WIDTH + 1];
    memset(cells, '.', BAR_WIDTH);
    memset(cells, '#', (size_t)((double)done / (double)total * BAR_WIDTH));
    cells[BAR_WIDTH] = '\0';
    (void)fprintf(stderr, "\r%s [%s] %" PRIu64 " of %" PRIu64 " %s", bar->label, cells, done, total, bar->unit);
    (void)fflush(stderr);
}

void progress_end(struct progress *bar)
{
    if (bar->shown)
        (void)fputs("\r\033[K", stderr);
    bar->shown = false;
}
