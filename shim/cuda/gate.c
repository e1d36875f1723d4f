/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/cuda/gate.h"

#include <pthread.h>
#include <stdatomic.h>

#include "swap/thread.h"

#define MAX_CAPTURES 64

static atomic_uint n_inside;
static atomic_bool closed; /* written under lock */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool fails;

/* A stream that is captured; a thread's own stream has one handle for all threads. */
static struct capture {
    CUstream stream;
    pthread_t thread;
} captures[MAX_CAPTURES];                          /* under lock */
static unsigned n_captures, n_beginning, n_drains; /* under lock */
static atomic_bool capturing;                      /* n_captures + n_beginning > 0 */

static void set_up(void)
{
    swap_cond_init(&changed);
}

static void take(void)
{
    pthread_once(&once, set_up);
    pthread_mutex_lock(&lock);
}

static void give(void)
{
    pthread_mutex_unlock(&lock);
}

static void wait(void)
{
    pthread_cond_wait(&changed, &lock);
}

/* False: the deadline has passed. */
static bool wait_until(uint64_t deadline_ns)
{
    return swap_cond_wait_until(&changed, &lock, deadline_ns);
}

void shim_cuda_gate_fails(bool value)
{
    take();
    fails = value;
    give();
}

/* The order of the two atomics is what matters: who enters counts itself before it looks, who closes says so before it
 * counts. */
bool shim_cuda_gate_try(void)
{
    atomic_fetch_add(&n_inside, 1);
    if (!atomic_load(&closed))
        return true;
    shim_cuda_gate_leave();
    return false;
}

CUresult shim_cuda_gate_enter(void)
{
    while (!shim_cuda_gate_try()) {
        take();
        bool refused = fails && atomic_load(&closed);
        while (!fails && atomic_load(&closed))
            wait();
        give();
        if (refused)
            return CUDA_ERROR_DEVICE_UNAVAILABLE;
    }
    return CUDA_SUCCESS;
}

void shim_cuda_gate_leave(void)
{
    if (atomic_fetch_sub(&n_inside, 1) == 1 && atomic_load(&closed)) {
        take();
        pthread_cond_broadcast(&changed);
        give();
    }
}

/* Under lock. */
static bool wait_for_captures(uint64_t deadline_ns)
{
    while (n_captures + n_beginning) {
        if (!wait_until(deadline_ns))
            return false;
    }
    return true;
}

bool shim_cuda_gate_close(uint64_t deadline_ns)
{
    take();
    bool good = wait_for_captures(deadline_ns);
    if (good) {
        atomic_store(&closed, true);
        while (good && atomic_load(&n_inside))
            good = wait_until(deadline_ns);
        if (!good) {
            atomic_store(&closed, false);
            pthread_cond_broadcast(&changed);
        }
    }
    give();
    return good;
}

void shim_cuda_gate_open(void)
{
    take();
    atomic_store(&closed, false);
    pthread_cond_broadcast(&changed);
    give();
}

bool shim_cuda_gate_drain_begin(uint64_t deadline_ns)
{
    take();
    bool good = wait_for_captures(deadline_ns);
    n_drains += good;
    give();
    return good;
}

void shim_cuda_gate_drain_end(void)
{
    take();
    n_drains--;
    pthread_cond_broadcast(&changed);
    give();
}

CUresult shim_cuda_capture_begin(void)
{
    take();
    while (n_drains || (!fails && atomic_load(&closed)))
        wait();
    bool refused = atomic_load(&closed);
    if (!refused) {
        n_beginning++;
        atomic_store(&capturing, true);
    }
    give();
    return refused ? CUDA_ERROR_DEVICE_UNAVAILABLE : CUDA_SUCCESS;
}

static bool is_same(const struct capture *capture, CUstream stream)
{
    return capture->stream == stream &&
           (stream != CU_STREAM_PER_THREAD || pthread_equal(capture->thread, pthread_self()));
}

void shim_cuda_capture_begun(CUstream stream, bool begun)
{
    take();
    n_beginning--;
    if (begun && n_captures < MAX_CAPTURES)
        captures[n_captures++] = (struct capture){stream, pthread_self()};
    atomic_store(&capturing, n_captures + n_beginning > 0);
    pthread_cond_broadcast(&changed);
    give();
}

void shim_cuda_capture_ended(CUstream stream)
{
    take();
    for (unsigned i = 0; i < n_captures; i++) {
        if (is_same(&captures[i], stream)) {
            captures[i] = captures[--n_captures];
            break;
        }
    }
    atomic_store(&capturing, n_captures + n_beginning > 0);
    pthread_cond_broadcast(&changed);
    give();
}

bool shim_cuda_capturing(void)
{
    return atomic_load(&capturing);
}
