/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/timer.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "swap/thread.h"

struct swap_timer {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;   /* a new first alarm, or closing; on CLOCK_MONOTONIC */
    struct swap_alarm *first; /* by due time; under lock */
    bool closing;             /* under lock */
};

static void *timer_thread(void *arg)
{
    struct swap_timer *timer = arg;
    pthread_mutex_lock(&timer->lock);
    for (;;) {
        struct swap_alarm *alarm = timer->first;
        if (alarm == NULL) {
            if (timer->closing)
                break;
            pthread_cond_wait(&timer->changed, &timer->lock);
            continue;
        }
        if (alarm->due_ns > swap_now_ns()) {
            swap_cond_wait_until(&timer->changed, &timer->lock, alarm->due_ns);
            continue;
        }
        timer->first = alarm->next;
        pthread_mutex_unlock(&timer->lock);
        alarm->ring(alarm);
        pthread_mutex_lock(&timer->lock);
    }
    pthread_mutex_unlock(&timer->lock);
    return NULL;
}

int swap_timer_open(struct swap_timer **timer)
{
    struct swap_timer *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return -ENOMEM;
    pthread_mutex_init(&made->lock, NULL);
    swap_cond_init(&made->changed);
    int result = swap_thread_start(&made->thread, "kvmm-timer", timer_thread, made);
    if (result < 0)
        goto err_destroy;
    *timer = made;
    return 0;

err_destroy:
    pthread_cond_destroy(&made->changed);
    pthread_mutex_destroy(&made->lock);
    free(made);
    return result;
}

void swap_timer_close(struct swap_timer **timer)
{
    struct swap_timer *closed = *timer;
    if (closed == NULL)
        return;
    pthread_mutex_lock(&closed->lock);
    closed->closing = true;
    pthread_cond_signal(&closed->changed);
    pthread_mutex_unlock(&closed->lock);
    pthread_join(closed->thread, NULL);
    pthread_cond_destroy(&closed->changed);
    pthread_mutex_destroy(&closed->lock);
    free(closed);
    *timer = NULL;
}

void swap_timer_set(struct swap_timer *timer, struct swap_alarm *alarm, uint64_t delay_ns)
{
    alarm->due_ns = swap_now_ns() + delay_ns;
    pthread_mutex_lock(&timer->lock);
    struct swap_alarm **place = &timer->first;
    while (*place != NULL && (*place)->due_ns <= alarm->due_ns)
        place = &(*place)->next;
    alarm->next = *place;
    *place = alarm;
    if (timer->first == alarm)
        pthread_cond_signal(&timer->changed);
    pthread_mutex_unlock(&timer->lock);
}
