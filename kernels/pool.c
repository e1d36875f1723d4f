/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker enters a loop only under the lock and while the loop is open, and kern_pool_run() closes the loop and waits
 * until all that entered have left: so a worker that wakes late finds it closed and touches nothing of it. */
#include "pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

/* Looks at the other side's word before going to sleep: some microseconds, about the gap between two loops of a decode
 * step. Futile where there are fewer CPUs than threads, so it is bounded and short. */
#define SPINS 2000

struct kern_pool {
    pthread_mutex_t lock;
    pthread_cond_t opened; /* a loop was opened, or stop */
    pthread_cond_t left;   /* inside has become 0 */
    uint32_t n_threads;    /* the caller of kern_pool_run() included */
    pthread_t *threads;    /* n_threads - 1 */
    uint32_t n_started;    /* gives each worker its index; under lock */
    bool open;             /* under lock */
    bool stop;             /* under lock */
    atomic_uint serial;    /* loops opened so far; written under lock, read by spinners without */
    atomic_uint inside;    /* workers in the loop; written under lock, read by the caller's spin without */
    atomic_ullong next;    /* the first index not handed out; 64 bits: it runs past n by a thread's each */
    uint32_t n;            /* of the open loop, as body and ctx: written before `open` under lock */
    void (*body)(void *ctx, uint32_t i, uint32_t thread);
    void *ctx;
};

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void hand_out(struct kern_pool *pool, uint32_t thread)
{
    for (;;) {
        const unsigned long long i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (i >= pool->n)
            return;
        pool->body(pool->ctx, (uint32_t)i, thread);
    }
}

static void *worker(void *arg)
{
    struct kern_pool *pool = arg;

    pthread_mutex_lock(&pool->lock);
    const uint32_t thread = ++pool->n_started;
    unsigned seen = 0;
    while (!pool->stop) {
        if (pool->open && atomic_load_explicit(&pool->serial, memory_order_relaxed) != seen) {
            seen = atomic_load_explicit(&pool->serial, memory_order_relaxed);
            atomic_fetch_add_explicit(&pool->inside, 1, memory_order_relaxed);
            pthread_mutex_unlock(&pool->lock);
            hand_out(pool, thread);
            pthread_mutex_lock(&pool->lock);
            /* release: the bodies' writes are seen by a caller that spins on 0 */
            if (atomic_fetch_sub_explicit(&pool->inside, 1, memory_order_release) == 1)
                pthread_cond_signal(&pool->left);
            continue;
        }
        seen = atomic_load_explicit(&pool->serial, memory_order_relaxed); /* closed: that loop needs no one any more */
        pthread_mutex_unlock(&pool->lock);
        for (int i = 0; i < SPINS && atomic_load_explicit(&pool->serial, memory_order_relaxed) == seen; i++)
            relax();
        pthread_mutex_lock(&pool->lock);
        while (!pool->stop && atomic_load_explicit(&pool->serial, memory_order_relaxed) == seen)
            pthread_cond_wait(&pool->opened, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static uint32_t cpus_allowed(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        return (uint32_t)CPU_COUNT(&set);
    const long n = sysconf(_SC_NPROCESSORS_ONLN); /* a machine of more CPUs than cpu_set_t holds */
    return n > 0 ? (uint32_t)n : 1;
}

static void stop_and_join(struct kern_pool *pool, uint32_t n_running)
{
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->opened);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < n_running; i++)
        pthread_join(pool->threads[i], NULL);
}

int kern_pool_open(uint32_t n_threads, struct kern_pool **out)
{
    int rc = -ENOMEM;
    uint32_t n_running = 0;
    struct kern_pool *pool = calloc(1, sizeof(*pool));

    if (!pool)
        return rc;
    pool->n_threads = n_threads ? n_threads : cpus_allowed();
    pool->threads = calloc(pool->n_threads, sizeof(pool->threads[0]));
    if (!pool->threads)
        goto free_pool;
    if (pthread_mutex_init(&pool->lock, NULL) != 0)
        goto free_threads;
    if (pthread_cond_init(&pool->opened, NULL) != 0)
        goto destroy_lock;
    if (pthread_cond_init(&pool->left, NULL) != 0)
        goto destroy_opened;
    for (; n_running + 1 < pool->n_threads; n_running++) {
        rc = -pthread_create(&pool->threads[n_running], NULL, worker, pool);
        if (rc != 0)
            goto join_threads;
    }
    *out = pool;
    return 0;

join_threads:
    stop_and_join(pool, n_running);
    pthread_cond_destroy(&pool->left);
destroy_opened:
    pthread_cond_destroy(&pool->opened);
destroy_lock:
    pthread_mutex_destroy(&pool->lock);
free_threads:
    free(pool->threads);
free_pool:
    free(pool);
    return rc;
}

void kern_pool_close(struct kern_pool **pool_at)
{
    struct kern_pool *pool = *pool_at;

    if (!pool)
        return;
    stop_and_join(pool, pool->n_threads - 1);
    pthread_cond_destroy(&pool->left);
    pthread_cond_destroy(&pool->opened);
    pthread_mutex_destroy(&pool->lock);
    free(pool->threads);
    free(pool);
    *pool_at = NULL;
}

uint32_t kern_pool_size(const struct kern_pool *pool)
{
    return pool ? pool->n_threads : 1;
}

void kern_pool_run(struct kern_pool *pool, uint32_t n, void (*body)(void *ctx, uint32_t i, uint32_t thread), void *ctx)
{
    if (!pool || pool->n_threads == 1 || n <= 1) {
        for (uint32_t i = 0; i < n; i++)
            body(ctx, i, 0);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->n = n;
    pool->body = body;
    pool->ctx = ctx;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&pool->serial, 1, memory_order_relaxed);
    pool->open = true;
    pthread_cond_broadcast(&pool->opened);
    pthread_mutex_unlock(&pool->lock);

    hand_out(pool, 0);

    for (int i = 0; i < SPINS && atomic_load_explicit(&pool->inside, memory_order_acquire) != 0; i++)
        relax();
    pthread_mutex_lock(&pool->lock);
    pool->open = false;
    while (atomic_load_explicit(&pool->inside, memory_order_relaxed) != 0)
        pthread_cond_wait(&pool->left, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}
