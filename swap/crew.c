/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/crew.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "swap/thread.h"

struct lane {
    struct swap_job *first, *last;
};

struct swap_crew {
    pthread_mutex_t lock;
    pthread_cond_t work; /* a job was queued, or the crew is closing */
    struct lane urgent;  /* under lock */
    struct lane usual;   /* under lock */
    bool closing;        /* under lock */
    uint32_t n_threads;  /* threads that exist; the opener's and the closer's */
    pthread_t threads[];
};

static void push(struct lane *lane, struct swap_job *job)
{
    job->next = NULL;
    if (lane->first == NULL)
        lane->first = job;
    else
        lane->last->next = job;
    lane->last = job;
}

static struct swap_job *pop(struct lane *lane)
{
    struct swap_job *job = lane->first;
    if (job != NULL)
        lane->first = job->next;
    return job;
}

static void *crew_thread(void *arg)
{
    struct swap_crew *crew = arg;
    pthread_mutex_lock(&crew->lock);
    for (;;) {
        struct swap_job *job = pop(&crew->urgent);
        if (job == NULL)
            job = pop(&crew->usual);
        if (job != NULL) {
            pthread_mutex_unlock(&crew->lock);
            job->run(job);
            pthread_mutex_lock(&crew->lock);
            continue;
        }
        /* What a job that still runs may queue, its own thread will find. */
        if (crew->closing)
            break;
        pthread_cond_wait(&crew->work, &crew->lock);
    }
    pthread_mutex_unlock(&crew->lock);
    return NULL;
}

static void finish(struct swap_crew *crew)
{
    pthread_mutex_lock(&crew->lock);
    crew->closing = true;
    pthread_cond_broadcast(&crew->work);
    pthread_mutex_unlock(&crew->lock);
    for (uint32_t i = 0; i < crew->n_threads; i++)
        pthread_join(crew->threads[i], NULL);
    pthread_cond_destroy(&crew->work);
    pthread_mutex_destroy(&crew->lock);
    free(crew);
}

int swap_crew_open(uint32_t n_threads, struct swap_crew **crew)
{
    if (n_threads == 0 || n_threads > 1024)
        return -EINVAL;
    struct swap_crew *made = calloc(1, sizeof(*made) + n_threads * sizeof(made->threads[0]));
    if (made == NULL)
        return -ENOMEM;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->work, NULL);
    for (uint32_t i = 0; i < n_threads; i++) {
        int result = swap_thread_start(&made->threads[i], "kvmm-crew", crew_thread, made);
        if (result < 0) {
            finish(made);
            return result;
        }
        made->n_threads++;
    }
    *crew = made;
    return 0;
}

void swap_crew_close(struct swap_crew **crew)
{
    if (*crew == NULL)
        return;
    finish(*crew);
    *crew = NULL;
}

void swap_crew_give(struct swap_crew *crew, struct swap_job *job, bool urgent)
{
    pthread_mutex_lock(&crew->lock);
    push(urgent ? &crew->urgent : &crew->usual, job);
    /* Signalled under the lock: once it is open the job may run and its owner may close the crew. */
    pthread_cond_signal(&crew->work);
    pthread_mutex_unlock(&crew->lock);
}
