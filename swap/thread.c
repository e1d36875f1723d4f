/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/thread.h"

#include <signal.h>
#include <time.h>

int swap_thread_start(pthread_t *thread, const char *name, void *(*run)(void *arg), void *arg)
{
    sigset_t blocked, before;
    sigfillset(&blocked);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    sigdelset(&blocked, SIGTRAP);
    sigdelset(&blocked, SIGSYS); /* how a seccomp filter asks its handler: blocked, it kills */
    /* A thread inherits its maker's mask, so the mask changes for the moment of making. */
    int error = pthread_sigmask(SIG_SETMASK, &blocked, &before);
    if (error != 0)
        return -error;
    error = pthread_create(thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        return -error;
    pthread_setname_np(*thread, name);
    return 0;
}

uint64_t swap_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
