/* SPDX-License-Identifier: Apache-2.0
 *
 * The back end for where io_uring is not to be had: pread and pwrite on threads, read_depth of them for reads and
 * write_depth for writes, so that the windows are those of the io_uring back end. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "swap/backend.h"
#include "swap/queue.h"
#include "swap/thread.h"

/* What a thread needs to know of its class. */
struct class
{
    struct threads *threads;
    bool write;
    pthread_cond_t work; /* a request of the class was queued, or the end */
};

struct threads {
    struct swap_backend base;
    int fd;
    pthread_mutex_t lock;
    struct swap_lanes lanes; /* under lock */
    uint32_t n_running;      /* requests between their queue and the return of their done(); under lock */
    bool closing;            /* under lock */
    struct class class[2];   /* [write] */
    uint32_t n_started;
    pthread_t started[];
};

static void transfer(int fd, struct swap_request *request)
{
    ssize_t moved = request->write ? pwrite(fd, request->buf, request->bytes, (off_t)request->offset)
                                   : pread(fd, request->buf, request->bytes, (off_t)request->offset);
    request->result = moved < 0 ? -errno : moved;
    request->done(request);
}

static void wake_all(struct threads *threads)
{
    pthread_cond_broadcast(&threads->class[0].work);
    pthread_cond_broadcast(&threads->class[1].work);
}

static void *io_thread(void *arg)
{
    struct class *class = arg;
    struct threads *threads = class->threads;
    pthread_mutex_lock(&threads->lock);
    for (;;) {
        struct swap_request *request = swap_lanes_pop(&threads->lanes, !class->write, class->write);
        if (request != NULL) {
            threads->n_running++;
            pthread_mutex_unlock(&threads->lock);
            transfer(threads->fd, request);
            pthread_mutex_lock(&threads->lock);
            threads->n_running--;
            continue;
        }
        /* A done() may submit, so the end is when nothing waits and nothing runs. */
        if (threads->closing && threads->n_running == 0 && swap_lanes_empty(&threads->lanes))
            break;
        pthread_cond_wait(&class->work, &threads->lock);
    }
    wake_all(threads);
    pthread_mutex_unlock(&threads->lock);
    return NULL;
}

static void threads_submit(struct swap_backend *backend, struct swap_request *request)
{
    struct threads *threads = (struct threads *)backend;
    pthread_mutex_lock(&threads->lock);
    swap_lanes_push(&threads->lanes, request);
    pthread_cond_signal(&threads->class[request->write].work);
    pthread_mutex_unlock(&threads->lock);
}

static void threads_close(struct swap_backend *backend)
{
    struct threads *threads = (struct threads *)backend;
    pthread_mutex_lock(&threads->lock);
    threads->closing = true;
    wake_all(threads);
    pthread_mutex_unlock(&threads->lock);
    for (uint32_t i = 0; i < threads->n_started; i++)
        pthread_join(threads->started[i], NULL);
    pthread_cond_destroy(&threads->class[0].work);
    pthread_cond_destroy(&threads->class[1].work);
    pthread_mutex_destroy(&threads->lock);
    free(threads);
}

static const struct swap_backend_ops threads_ops = {
    .name = "threads",
    .submit = threads_submit,
    .close = threads_close,
};

int swap_threads_open(const struct swap_backend_config *config, struct swap_backend **backend,
                      struct swap_backend_info *info)
{
    if (config->read_depth == 0 || config->read_depth > SWAP_DEPTH_LIMIT || config->write_depth == 0 ||
        config->write_depth > SWAP_DEPTH_LIMIT)
        return -EINVAL;
    uint32_t n = config->read_depth + config->write_depth;
    struct threads *threads = calloc(1, sizeof(*threads) + n * sizeof(threads->started[0]));
    if (threads == NULL)
        return -ENOMEM;
    threads->base.ops = &threads_ops;
    threads->fd = config->fd;
    pthread_mutex_init(&threads->lock, NULL);
    for (int write = 0; write < 2; write++) {
        threads->class[write].threads = threads;
        threads->class[write].write = write;
        pthread_cond_init(&threads->class[write].work, NULL);
    }
    for (uint32_t i = 0; i < n; i++) {
        bool write = i >= config->read_depth;
        int result = swap_thread_start(&threads->started[i], write ? "kvmm-write" : "kvmm-read", io_thread,
                                       &threads->class[write]);
        if (result < 0) {
            threads_close(&threads->base);
            return result;
        }
        threads->n_started++;
    }
    *backend = &threads->base;
    *info = (struct swap_backend_info){0};
    return 0;
}
