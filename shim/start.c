/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/start.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>

#include "shim/elf_objects.h"
#include "shim/hook.h"
#include "shim/log.h"
#include "shim/managed.h"
#include "shim/operations.h"
#include "shim/real.h"
#include "shim/residency.h"
#include "shim/cuda/cuda.h"

SHIM_THREAD_LOCAL unsigned shim_inside;
static SHIM_THREAD_LOCAL int cancel_state; /* before the outermost shim_enter() */

void shim_enter(void)
{
    if (shim_inside++ == 0)
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
}

void shim_leave(void)
{
    if (--shim_inside == 0)
        pthread_setcancelstate(cancel_state, NULL);
}

/* Written by the constructor alone, before `is_on`. */
static struct shim_config config;
static atomic_bool is_on, may_select;
static uint64_t started_ns;

static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER; /* held while the pager is opened */
static _Atomic(struct shim_pager *) pager;
static atomic_int pager_owner; /* process id */
static bool pager_failed;      /* under `opening` */

static atomic_bool control_tried;
static _Atomic(struct shim_control *) control;

bool shim_is_on(void)
{
    return atomic_load_explicit(&is_on, memory_order_acquire) && shim_inside == 0;
}

bool shim_may_select(void)
{
    return atomic_load_explicit(&may_select, memory_order_acquire);
}

uint64_t shim_started_ns(void)
{
    return started_ns;
}

bool shim_is_child(void)
{
    int owner = atomic_load_explicit(&pager_owner, memory_order_acquire);
    return owner != 0 && owner != (int)getpid();
}

enum shim_verdict shim_ask(const char *call, size_t bytes)
{
    if (!shim_is_on())
        return SHIM_PASS;
    shim_enter();
    int error = errno;
    enum shim_verdict verdict = shim_select(call, bytes);
    if (config.select_given && shim_may_select())
        shim_control_start(); /* `kvmm ls` is to find a process whose rule selects nothing, too */
    errno = error;
    shim_leave();
    return verdict;
}

/* ---- The pager and the control socket ------------------------------------------------------------------------ */

struct shim_pager *shim_pager_opened(void)
{
    struct shim_pager *opened = atomic_load_explicit(&pager, memory_order_acquire);
    return opened && !shim_is_child() ? opened : NULL;
}

static void open_pager(void)
{
    const struct shim_pager_config how = {
        .memory = config.device_memory,
        .chunk_bytes = config.chunk_bytes,
        .swap_dir = config.swap_dir,
        .swap_bytes = config.swap_bytes,
        .swap_backend = "auto",
        .user_faults = config.user_faults,
        .log = shim_log_line,
    };
    char reason[400] = "";
    struct shim_pager *opened = NULL;
    int error = shim_pager_open(&how, &opened, reason, sizeof reason);
    if (error) {
        pager_failed = true;
        shim_log("the cache stays with the engine: %s", reason[0] ? reason : strerror(-error));
        return;
    }
    atomic_store_explicit(&pager_owner, (int)getpid(), memory_order_release);
    atomic_store_explicit(&pager, opened, memory_order_release);
}

struct shim_pager *shim_pager_get(void)
{
    if (shim_is_child())
        return NULL;
    struct shim_pager *opened = shim_pager_opened();
    if (opened)
        return opened;
    shim_enter();
    pthread_mutex_lock(&opening);
    if (!pager && !pager_failed)
        open_pager();
    pthread_mutex_unlock(&opening);
    opened = shim_pager_opened();
    if (opened)
        shim_control_start();
    shim_leave();
    return opened;
}

void shim_control_start(void)
{
    if (atomic_load_explicit(&control_tried, memory_order_relaxed) || atomic_exchange(&control_tried, true))
        return;
    shim_enter();
    struct shim_control *opened = NULL;
    int error = shim_control_open(&shim_operations, &config, &opened);
    if (error)
        shim_log("there is no control socket: %s", strerror(-error));
    else
        atomic_store(&control, opened);
    shim_leave();
}

/* ---- fork ---------------------------------------------------------------------------------------------------- */

static void before_fork(void)
{
    pthread_mutex_lock(&opening);
    shim_managed_before_fork();
}

static void after_fork_in_parent(void)
{
    shim_managed_after_fork();
    pthread_mutex_unlock(&opening);
}

/* A child of a process with a pager has no ranges, and gets none: its hooks pass. Others begin anew. */
static void after_fork_in_child(void)
{
    shim_managed_after_fork();
    pthread_mutex_unlock(&opening);
    shim_select_forget_in_child();
    shim_residency_forget_in_child();
    struct shim_pager *parents = atomic_load(&pager);
    if (parents) {
        atomic_store(&is_on, false);
        shim_pager_forget_in_child(parents);
    }
    shim_control_forget_in_child(atomic_load(&control));
    atomic_store(&control, NULL);
    atomic_store(&control_tried, false);
}

/* ---- Start and exit ------------------------------------------------------------------------------------------ */

static const char *environment(const char *name)
{
    return getenv(name);
}

/* Sanitizers have mapped the address space and know each allocation; memory that is not theirs is an error to them. */
static const char *sanitizer(void)
{
    static const char *const marks[][2] = {{"__asan_init", "AddressSanitizer"},
                                           {"__tsan_init", "ThreadSanitizer"},
                                           {"__msan_init", "MemorySanitizer"},
                                           {"__hwasan_init", "HWAddressSanitizer"}};
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        if (shim_elf_first(marks[i][0]))
            return marks[i][1];
    }
    return NULL;
}

static bool read_settings(void)
{
    char reason[400];
    if (!shim_config_read(environment, &config, reason, sizeof reason)) {
        shim_log("%s; the program runs without kvmm", reason);
        return false;
    }
    if (!shim_select_open(config.select, reason, sizeof reason)) {
        shim_log("KVMM_SELECT: %s; the program runs without kvmm", reason);
        return false;
    }
    return true;
}

static char gpu_refusal[200]; /* why the GPU side is closed; "": it isn't. Written by the constructor alone */

void shim_say_gpu_refusal(void)
{
    static bool said;
    if (gpu_refusal[0])
        shim_log_once(&said, "%s; a cache on a GPU stays with the engine", gpu_refusal);
}

/* What is wrong for a GPU may be right for a CPU, so it is said where a driver is used. */
static void open_cuda(void)
{
    char reason[sizeof gpu_refusal] = "the GPU side of kvmm could not be opened";
    if (shim_cuda_open(&config, reason, sizeof reason) == 0)
        return;
    memcpy(gpu_refusal, reason, sizeof gpu_refusal);
    if (shim_elf_first("cuMemAlloc_v2"))
        shim_say_gpu_refusal();
}

__attribute__((constructor)) static void start(void)
{
    shim_real_find();
    if (getauxval(AT_SECURE))
        return; /* a setuid program, and the loader was told to trust this library: its user's settings are not to be */
    const char *found = sanitizer();
    if (found) {
        shim_log("the program is built with %s, which can't be used together with kvmm; it runs without kvmm", found);
        return;
    }
    shim_real_find_allocator();
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    started_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    shim_enter();
    bool ready = read_settings();
    if (ready)
        open_cuda();
    if (ready && pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0) {
        shim_log("no memory for a fork handler; the program runs without kvmm");
        ready = false;
    }
    shim_leave();
    if (!ready)
        return;
    atomic_store_explicit(&may_select, shim_select_can(), memory_order_release);
    atomic_store_explicit(&is_on, true, memory_order_release);
}

static void say_figures(struct shim_pager *opened)
{
    struct shim_pager_info info;
    shim_pager_get_info(opened, &info);
    shim_log(
        "cache %.1f MiB, in memory %.1f (at most %.1f), in swap %.1f; %llu faults, %llu chunks read, %llu read ahead "
        "(%llu used), %llu written, %llu dropped clean, %llu dropped as zeros; waited %.3f s",
        (double)info.range_bytes / (1 << 20), (double)info.resident_bytes / (1 << 20),
        (double)info.peak_bytes / (1 << 20), (double)info.swapped_bytes / (1 << 20), (unsigned long long)info.n_faults,
        (unsigned long long)info.n_loads, (unsigned long long)info.n_loads_ahead, (unsigned long long)info.n_ahead_used,
        (unsigned long long)info.n_writes, (unsigned long long)info.n_dropped_clean,
        (unsigned long long)info.n_dropped_zero, (double)info.fault_wait_ns * 1e-9);
}

__attribute__((destructor)) static void finish(void)
{
    if (!atomic_load(&is_on))
        return;
    shim_enter();
    struct shim_select_counts counts;
    shim_select_count(&counts);
    if (config.select_given && shim_may_select() && counts.n_seen > 0 && counts.n_selected == 0)
        shim_log(
            "the rule %s selected nothing; the largest of %llu allocations was %zu bytes (--select=list shows all)",
            config.select, (unsigned long long)counts.n_seen, counts.largest_passed);
    struct shim_pager *opened = shim_pager_opened();
    if (config.verbose && opened)
        say_figures(opened);
    shim_leave();
}
