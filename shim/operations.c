/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/operations.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "shim/config.h"
#include "shim/hook.h"
#include "shim/include/kvmm/shim.h"
#include "shim/managed.h"
#include "shim/pager/pager.h"
#include "shim/range.h"
#include "shim/start.h"
#include "shim/cuda/cuda.h"

static int suspend(void *user, uint32_t wait_ms, char *reason, size_t size)
{
    if (shim_cuda_active())
        return shim_cuda_suspend(wait_ms, reason, size);
    struct shim_pager *pager = shim_pager_opened();
    if (pager)
        return shim_pager_suspend(pager, wait_ms);
    snprintf(reason, size, "the process has no cache yet");
    return -ENOENT;
}

static int resume(void *user, char *reason, size_t size)
{
    if (shim_cuda_active())
        return shim_cuda_resume(reason, size);
    struct shim_pager *pager = shim_pager_opened();
    if (pager)
        return shim_pager_resume(pager);
    snprintf(reason, size, "the process has no cache yet");
    return -ENOENT;
}

/* Whole pages inside [start, end), if it is within one range; KVMM_FREE takes the edges, too. */
static int advise_range(struct shim_pager *pager, uintptr_t start, uintptr_t end, int advice)
{
    if (advice == KVMM_FREE)
        return shim_pager_discard(pager, (void *)start, end - start);
    start = shim_page_up(start);
    end = shim_page_down(end);
    if (start >= end)
        return 0;
    return shim_pager_advise(pager, (void *)start, end - start, advice == KVMM_COLD ? SHIM_COLD : SHIM_WILL_NEED);
}

int shim_operation_advise(void *user, void *address, size_t bytes, int advice, char *reason, size_t size)
{
    if (advice != KVMM_WILLNEED && advice != KVMM_COLD && advice != KVMM_FREE) {
        snprintf(reason, size, "%d is no advice", advice);
        return -EINVAL;
    }
    int on_gpu = shim_cuda_advise(address, bytes, advice, reason, size);
    if (on_gpu != -ENOENT)
        return on_gpu;
    uintptr_t start = (uintptr_t)address, end;
    if (__builtin_add_overflow(start, bytes, &end)) {
        snprintf(reason, size, "the length is beyond the address space");
        return -EINVAL;
    }
    struct shim_managed entry;
    struct shim_pager *pager = shim_pager_opened();
    if (!pager || !shim_managed_near(address, 1) || !shim_managed_overlap(start, start + 1, &entry) ||
        entry.range_start >= entry.range_end) {
        snprintf(reason, size, "%p is in no cache", address);
        return -ENOENT;
    }
    if (end > entry.end) {
        snprintf(reason, size, "it reaches beyond the cache, which ends at 0x%zx", (size_t)entry.end);
        return -EINVAL;
    }
    /* An adopted cache begins and ends in pages of the allocator's. */
    start = start > entry.range_start ? start : entry.range_start;
    end = end < entry.range_end ? end : entry.range_end;
    return start < end ? advise_range(pager, start, end, advice) : 0;
}

static int pair(char *text, size_t size, const char *name, uint64_t value)
{
    return shim_control_pair_number(text, size, name, value);
}

static int pager_pairs(struct shim_pager *pager, const struct shim_config *config, char *text, size_t size)
{
    struct shim_pager_info info;
    shim_pager_get_info(pager, &info);
    size_t n_caches;
    uint64_t bytes;
    shim_managed_count(&n_caches, &bytes);
    int error = shim_control_pair(text, size, "device", "cpu");
    error = error ? error : shim_control_pair(text, size, "state", info.suspended ? "suspended" : "running");
    const struct {
        const char *name;
        uint64_t value;
    } pairs[] = {
        {"caches", n_caches},
        {"bytes", bytes},
        {"memory", info.resident_bytes},
        {"memory_limit", info.memory_bytes},
        {"swapped", info.swapped_bytes},
        {"swap_limit", config->swap_bytes},
        {"lost", info.lost_bytes},
        {"faults", info.n_faults},
        {"loads", info.n_loads},
        {"loads_ahead", info.n_loads_ahead},
        {"ahead_used", info.n_ahead_used},
        {"writes", info.n_writes},
        {"dropped_clean", info.n_dropped_clean},
        {"dropped_zero", info.n_dropped_zero},
        {"fault_wait_ns", info.fault_wait_ns},
        {"waiting", info.waiting},
        {"swap_failed", info.swap_failed},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        error = error ? error : pair(text, size, pairs[i].name, pairs[i].value);
    return error;
}

static int info(void *user, char *text, size_t size)
{
    const struct shim_config *config = user;
    struct shim_select_counts counts;
    shim_select_count(&counts);
    int error = shim_control_pair(text, size, "rule", config->select);
    error = error ? error : pair(text, size, "seen", counts.n_seen);
    error = error ? error : pair(text, size, "selected", counts.n_selected);
    error = error ? error : pair(text, size, "largest_passed", counts.largest_passed);
    error = error ? error : pair(text, size, "started", shim_started_ns());
    size_t n = strlen(text);
    if (!error && shim_cuda_active()) {
        if (n + 2 > size)
            return -ENOSPC;
        memcpy(text + n, " ", 2); /* and its NUL */
        return shim_cuda_info(text + n + 1, size - n - 1);
    }
    struct shim_pager *pager = shim_pager_opened();
    return error || !pager ? error : pager_pairs(pager, config, text, size);
}

const struct shim_control_ops shim_operations = {
    .suspend = suspend,
    .resume = resume,
    .advise = shim_operation_advise,
    .info = info,
};

SHIM_EXPORT int kvmm_advise(void *address, size_t bytes, int advice)
{
    char reason[200];
    int error = errno;
    shim_enter();
    int result = shim_operation_advise(NULL, address, bytes, advice, reason, sizeof reason);
    shim_leave();
    errno = error;
    return result;
}
