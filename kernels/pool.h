/* SPDX-License-Identifier: Apache-2.0
 *
 * A pool of threads that share one parallel loop at a time. */
#ifndef KERN_POOL_H
#define KERN_POOL_H

#include <stdint.h>

struct kern_pool;

/* Starts n_threads - 1 threads (the caller of kern_pool_run is the last one); n_threads 0 takes the number of CPUs
 * this process may run on. Returns 0, -ENOMEM or -EAGAIN (no thread can be made); *pool only on success. */
int kern_pool_open(uint32_t n_threads, struct kern_pool **pool);

/* Joins the threads and sets *pool to NULL; NULL is ignored. */
void kern_pool_close(struct kern_pool **pool);

/* Threads, the caller included; 1 for NULL. */
uint32_t kern_pool_size(const struct kern_pool *pool);

/* Calls body(ctx, i, thread) once for each i in [0, n), in any order, on any thread; thread is in
 * [0, kern_pool_size). Indices are handed out one by one from a counter. Returns when all calls returned.
 * One loop at a time; not from inside a body. pool NULL: runs on the caller. */
void kern_pool_run(struct kern_pool *pool, uint32_t n, void (*body)(void *ctx, uint32_t i, uint32_t thread), void *ctx);

#endif
