/* SPDX-License-Identifier: Apache-2.0
 *
 * Suspend and resume, what an engine says of its memory, and what is said of the cache. */
#include <errno.h>
#include <stdio.h>

#include "shim/include/kvmm/shim.h"
#include "shim/control.h"
#include "shim/cuda/calls.h"
#include "shim/cuda/cuda.h"
#include "shim/cuda/gate.h"
#include "shim/cuda/move.h"
#include "shim/cuda/ranges.h"
#include "shim/log.h"
#include "swap/thread.h"

#define NS_PER_MS 1000000ull
#define ADVICE_NS (60000 * NS_PER_MS) /* that a COLD or FREE waits for queued work */

/* One suspend or resume at a time. Before the lock of shim_cuda. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

/* A child of a process that has a cache has none: CUDA does not live on in it. Its hooks pass. */
static void after_fork_in_child(void)
{
    if (shim_cuda.n_ranges == 0)
        return;
    shim_cuda.open = false;
    shim_cuda.n_slots = 0;
    shim_cuda.n_ranges = 0;
    shim_cuda.n_tentative = 0;
    shim_cuda.n_needed = 0;
    shim_cuda.suspended = false;
}

int shim_cuda_open(const struct shim_config *config, char *reason, size_t size)
{
    if (pthread_atfork(NULL, NULL, after_fork_in_child)) {
        snprintf(reason, size, "no memory for a fork handler");
        return -ENOMEM;
    }
    shim_cuda_lock();
    shim_cuda.config = *config;
    shim_cuda_unlock();
    shim_cuda_gate_fails(config->fail_while_suspended);
    shim_cuda.open = true;
    return 0;
}

bool shim_cuda_active(void)
{
    return shim_cuda.n_ranges != 0 || shim_cuda.suspended;
}

void shim_cuda_set_swap_faults(const struct swap_faults *faults)
{
    shim_cuda_lock();
    shim_cuda_tiers_set_faults(faults);
    shim_cuda_unlock();
}

/* Under the lock: all frames of the caches in a state, but for those that are away by a promise. */
static size_t mark_all(enum shim_cuda_state state)
{
    size_t n = 0;
    for (size_t i = 0; i < shim_cuda.n_slots; i++) {
        struct shim_cuda_range *range = &shim_cuda.ranges[i];
        for (uint32_t f = 0; range->end && range->cache && f < range->n_frames; f++) {
            if (range->frames[f].state == state && !range->frames[f].promised) {
                shim_cuda_mark(range, f);
                n++;
            }
        }
    }
    return n;
}

/* ---- suspend ---- */

/* With the gate closed and nothing queued. */
static int move_out(char *reason, size_t size)
{
    shim_cuda_lock();
    mark_all(SHIM_RESIDENT);
    int result = shim_cuda_send();
    if (result) {
        snprintf(reason, size, "%s", shim_cuda.why);
        /* If some left all the same: what can't come back now does so at the next launch. */
        mark_all(SHIM_AWAY);
        (void)shim_cuda_bring();
    }
    shim_cuda_unlock();
    return result;
}

static int suspend(uint32_t wait_ms, char *reason, size_t size)
{
    uint64_t start = swap_now_ns(), deadline = start + wait_ms * NS_PER_MS;
    CUresult rc;
    if (!shim_cuda_gate_close(deadline)) {
        snprintf(reason, size, "the engine's calls, or captures of graphs, did not end in %u ms", wait_ms);
        return -ETIMEDOUT;
    }
    int result = shim_cuda.n_ranges ? shim_cuda_drain(deadline, &rc, reason, size) : 0;
    if (result == 0)
        result = move_out(reason, size);
    if (result) {
        shim_cuda_gate_open();
        return result;
    }
    shim_cuda.suspended = true;
    shim_cuda.n_suspends++;
    shim_cuda.suspend_ns = swap_now_ns() - start;
    return 0;
}

int shim_cuda_suspend(uint32_t wait_ms, char *reason, size_t size)
{
    pthread_mutex_lock(&turn);
    int result = shim_cuda.suspended ? 0 : suspend(wait_ms, reason, size);
    pthread_mutex_unlock(&turn);
    return result;
}

/* ---- resume ---- */

/* Brings what can be read back; each round leaves out what the round before found to be lost. */
static int move_in(char *reason, size_t size)
{
    bool lost = false;
    int result = 0;
    shim_cuda_lock();
    while (result == 0 && mark_all(SHIM_AWAY)) {
        size_t n_lost = shim_cuda.n_in[SHIM_LOST];
        result = shim_cuda_bring();
        lost |= result == -EBADMSG;
        if (result == -EBADMSG && shim_cuda.n_in[SHIM_LOST] > n_lost)
            result = 0;
    }
    if (lost && result == 0)
        result = shim_cuda_why(-EBADMSG, "%zu frames of the cache could not be read back", shim_cuda.n_in[SHIM_LOST]);
    if (result)
        snprintf(reason, size, "%s", shim_cuda.why);
    shim_cuda_unlock();
    return result;
}

int shim_cuda_resume(char *reason, size_t size)
{
    int result = 0;
    pthread_mutex_lock(&turn);
    if (shim_cuda.suspended) {
        uint64_t start = swap_now_ns();
        result = move_in(reason, size);
        if (result == 0 || result == -EBADMSG) {
            shim_cuda.suspended = false;
            shim_cuda.n_resumes++;
            shim_cuda.resume_ns = swap_now_ns() - start;
            shim_cuda_gate_open();
        }
    }
    pthread_mutex_unlock(&turn);
    return result;
}

/* ---- advice ---- */

static int will_need(struct shim_cuda_range *range, CUdeviceptr start, size_t bytes, char *reason, size_t size)
{
    uint32_t first = 0;
    if (!shim_cuda_gate_try()) {
        snprintf(reason, size, "the cache is suspended");
        return -EBUSY;
    }
    shim_cuda_lock();
    uint32_t n = shim_cuda_frames_over(range, start, bytes, &first);
    for (uint32_t f = first; f < first + n; f++) {
        if (range->frames[f].state != SHIM_RESIDENT)
            shim_cuda_mark(range, f);
    }
    int result = shim_cuda_bring();
    if (result)
        snprintf(reason, size, "%s", shim_cuda.why);
    shim_cuda_unlock();
    shim_cuda_gate_leave();
    return result;
}

/* COLD and FREE: the caller promises that no kernel touches the span before WILLNEED. What is queued may still. */
static int leave(struct shim_cuda_range *range, CUdeviceptr start, size_t bytes, int advice, char *reason, size_t size)
{
    uint32_t first = 0;
    CUresult rc;
    if (!shim_cuda_gate_drain_begin(0)) {
        snprintf(reason, size, "a graph is being captured");
        return -EBUSY;
    }
    int result = shim_cuda_drain(swap_now_ns() + ADVICE_NS, &rc, reason, size);
    if (result == 0) {
        shim_cuda_lock();
        uint32_t n = shim_cuda_frames_within(range, start, bytes, &first);
        for (uint32_t f = first; f < first + n; f++)
            shim_cuda_mark(range, f);
        result = advice == KVMM_COLD ? shim_cuda_send() : shim_cuda_forget();
        for (uint32_t f = first; result == 0 && f < first + n; f++)
            shim_cuda_frame_promise(range, &range->frames[f], true);
        if (result)
            snprintf(reason, size, "%s", shim_cuda.why);
        shim_cuda_unlock();
    }
    shim_cuda_gate_drain_end();
    return result;
}

int shim_cuda_advise(void *address, size_t bytes, int advice, char *reason, size_t size)
{
    CUdeviceptr start = (uintptr_t)address;
    struct shim_cuda_range *range = shim_cuda_range_at(start);
    if (!range || !range->cache)
        return -ENOENT;
    size_t offset = start - shim_cuda_base(range);
    if (offset > range->bytes || bytes > range->bytes - offset) {
        snprintf(reason, size, "the span leaves the allocation of %zu bytes", range->bytes);
        return -EINVAL;
    }
    if (bytes == 0)
        return 0;
    switch (advice) {
    case KVMM_WILLNEED:
        return will_need(range, start, bytes, reason, size);
    case KVMM_COLD:
    case KVMM_FREE:
        return leave(range, start, bytes, advice, reason, size);
    default:
        snprintf(reason, size, "advice %d is unknown", advice);
        return -EINVAL;
    }
}

/* ---- information ---- */

/* With KVMM_VERBOSE, a line at exit. */
__attribute__((destructor)) static void say_figures(void)
{
    struct shim_cuda_info info;
    if (!shim_cuda.open || !shim_cuda.config.verbose || shim_cuda.peak == 0)
        return;
    shim_cuda_get_info(&info);
    shim_log("cache on the GPU: at most %.1f MiB at once; %llu suspends, %llu resumes, the last in %.3f and %.3f s",
             (double)info.peak_bytes / (1 << 20), (unsigned long long)info.n_suspends,
             (unsigned long long)info.n_resumes, (double)info.suspend_ns * 1e-9, (double)info.resume_ns * 1e-9);
}

void shim_cuda_get_info(struct shim_cuda_info *info)
{
    uint64_t frame = shim_cuda.frame_bytes;
    uint64_t away = shim_cuda.n_in[SHIM_AWAY], in_file = shim_cuda.n_in_file;
    *info = (struct shim_cuda_info){
        .memory_bytes = shim_cuda.config.device_memory,
        .resident_bytes = shim_cuda.n_in[SHIM_RESIDENT] * frame,
        .peak_bytes = shim_cuda.peak * frame,
        .host_bytes = (away - in_file) * frame,
        .swapped_bytes = in_file * frame,
        .blank_bytes = shim_cuda.n_in[SHIM_BLANK] * frame,
        .lost_bytes = shim_cuda.n_in[SHIM_LOST] * frame,
        .n_ranges = shim_cuda.n_ranges,
        .n_suspends = shim_cuda.n_suspends,
        .n_resumes = shim_cuda.n_resumes,
        .suspend_ns = shim_cuda.suspend_ns,
        .resume_ns = shim_cuda.resume_ns,
        .suspended = shim_cuda.suspended,
    };
    info->range_bytes = info->resident_bytes + away * frame + info->blank_bytes + info->lost_bytes;
}

/* "cuda:N", or "cuda" if it is on more than one. */
static const char *device_name(char *name, size_t size)
{
    CUdevice device = -1;
    bool many = false;
    for (size_t i = 0; i < shim_cuda.n_slots; i++) {
        const struct shim_cuda_range *range = &shim_cuda.ranges[i];
        if (range->end == 0)
            continue;
        many |= device >= 0 && device != range->device;
        device = range->device;
    }
    if (many || device < 0)
        snprintf(name, size, "cuda");
    else
        snprintf(name, size, "cuda:%d", device);
    return name;
}

int shim_cuda_info(char *text, size_t size)
{
    struct shim_cuda_info info;
    char name[16];
    shim_cuda_get_info(&info);
    const struct {
        const char *name;
        uint64_t value;
    } pairs[] = {
        {"caches", info.n_ranges},       {"bytes", info.range_bytes},
        {"memory", info.resident_bytes}, {"memory_limit", info.memory_bytes},
        {"host", info.host_bytes},       {"host_limit", shim_cuda.config.host_memory},
        {"swapped", info.swapped_bytes}, {"swap_limit", shim_cuda.config.swap_bytes},
        {"blank", info.blank_bytes},     {"lost", info.lost_bytes},
        {"peak", info.peak_bytes},       {"suspends", info.n_suspends},
        {"resumes", info.n_resumes},     {"suspend_ns", info.suspend_ns},
        {"resume_ns", info.resume_ns},
    };
    int error = shim_control_pair(text, size, "device", device_name(name, sizeof name));
    error = error ? error : shim_control_pair(text, size, "state", info.suspended ? "suspended" : "running");
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        error = error ? error : shim_control_pair_number(text, size, pairs[i].name, pairs[i].value);
    return error;
}
