/* SPDX-License-Identifier: Apache-2.0
 *
 * A kernel that touches device memory without access must not kill the process: a GPU gives a sticky error. SIGSEGV in one
 * of the arenas, on a stream's thread, jumps back out of the operation; any other goes to whoever handled it before. */
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>

#include "tests/simcuda/sim.h"

/* Read in the signal handler, on any thread: no lazily allocated storage. */
static _Thread_local sigjmp_buf *escape __attribute__((tls_model("initial-exec")));
static _Thread_local uint64_t touched __attribute__((tls_model("initial-exec")));

/* Written once, under sim.lock. */
static struct sigaction before;
static bool installed;

static void on_fault(int number, siginfo_t *info, void *context)
{
    uint64_t address = sim_arena_device(info->si_addr);
    if (address && escape) {
        touched = address;
        siglongjmp(*escape, 1);
    }
    if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(number, info, context);
    else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
        before.sa_handler(number);
    else
        sigaction(number, &before, NULL); /* the instruction faults again, and the process dies of it as it should */
}

void sim_guard_install(void)
{
    if (installed)
        return;
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    installed = sigaction(SIGSEGV, &action, &before) == 0;
}

bool sim_guard_run(void (*run)(void *), void *user, uint64_t *address)
{
    sigjmp_buf here;
    if (sigsetjmp(here, 1)) {
        escape = NULL;
        *address = touched;
        return false;
    }
    escape = &here;
    run(user);
    escape = NULL;
    return true;
}
