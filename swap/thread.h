/* SPDX-License-Identifier: Apache-2.0
 *
 * How this folder starts its threads. */
#ifndef SWAP_THREAD_H
#define SWAP_THREAD_H

#include <pthread.h>
#include <stdint.h>

/* Starts a named thread that takes none of the process's signals: handlers belong to the engine, and an I/O thread that
 * runs them sees -EINTR. Faults (SIGSEGV and its like) still arrive. Returns 0 or -errno. */
int swap_thread_start(pthread_t *thread, const char *name, void *(*run)(void *arg), void *arg);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t swap_now_ns(void);

#endif
