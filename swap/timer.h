/* SPDX-License-Identifier: Apache-2.0
 *
 * One thread that calls functions later: the back-off before a transfer is tried again, the delays of the fault
 * injector. Few alarms are pending at any time, so they are kept in a sorted list. */
#ifndef SWAP_TIMER_H
#define SWAP_TIMER_H

#include <stdint.h>

struct swap_timer;

/* Embedded by its owner, who keeps it alive until ring() was entered; ring() may free it or set it again. */
struct swap_alarm {
    void (*ring)(struct swap_alarm *alarm); /* on the timer's thread, with no lock held; short */
    uint64_t due_ns;                        /* the timer's, CLOCK_MONOTONIC */
    struct swap_alarm *next;                /* the timer's while set */
};

/* Returns 0, -ENOMEM or -EAGAIN (no thread). */
int swap_timer_open(struct swap_timer **timer);

/* Rings what is still set at its time, joins the thread, sets *timer to NULL. NULL is ignored. */
void swap_timer_close(struct swap_timer **timer);

/* Rings in delay_ns or a little later; alarms of one time ring in the order they were set. Any thread. */
void swap_timer_set(struct swap_timer *timer, struct swap_alarm *alarm, uint64_t delay_ns);

#endif
