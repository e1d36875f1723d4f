/* SPDX-License-Identifier: Apache-2.0
 *
 * How this folder starts its threads. */
#ifndef SWAP_THREAD_H
#define SWAP_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Starts a named thread that takes none of the process's signals: handlers belong to the engine, and an I/O thread that
 * runs them sees -EINTR. Faults (SIGSEGV and its like) still arrive. Returns 0 or -errno. */
int swap_thread_start(pthread_t *thread, const char *name, void *(*run)(void *arg), void *arg);

/* A condition that is waited for by CLOCK_MONOTONIC. Can't fail with the C libraries of Linux. */
void swap_cond_init(pthread_cond_t *cond);

/* Of such a condition. False: the time has passed; true: it was signalled, or for no reason. */
bool swap_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ns);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t swap_now_ns(void);

#endif
