/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager's functions (shim/pager/pager.h) over plain mappings, for tests of what calls them: nothing leaves memory. Each
 * call is counted, and fake_pager_calls() (found by dlsym) tells; FAKE_PAGER_FAIL names a function that fails. Ranges are
 * shared mappings without a copy in children, like the real ones. */
#include "tests/shim/fake_pager.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shim/pager/pager.h"

#define N_RANGES 4096

struct range {
    _Atomic(uintptr_t) start;
    uintptr_t end;
};

struct shim_pager {
    struct range ranges[N_RANGES];
    atomic_bool is_forgotten;
    bool suspended;
};

static struct shim_pager the_pager;
static struct fake_pager_calls calls;

__attribute__((visibility("default"))) struct fake_pager_calls *fake_pager_calls(void)
{
    return &calls;
}

static bool fails(const char *name)
{
    const char *which = getenv("FAKE_PAGER_FAIL");
    return which && strcmp(which, name) == 0;
}

static void count(atomic_uint *n)
{
    atomic_fetch_add(n, 1);
}

int shim_pager_open(const struct shim_pager_config *config, struct shim_pager **pager, char *reason, size_t size)
{
    count(&calls.n_opens);
    if (fails("open")) {
        snprintf(reason, size, "the fake pager was told to fail");
        return -EPERM;
    }
    *pager = &the_pager;
    return 0;
}

void shim_pager_close(struct shim_pager **pager)
{
    *pager = NULL;
}

void shim_pager_forget_in_child(struct shim_pager *pager)
{
    atomic_store(&pager->is_forgotten, true);
}

int shim_pager_map(struct shim_pager *pager, void *at, size_t bytes, size_t alignment, void **base)
{
    if (atomic_load(&pager->is_forgotten))
        return -ECHILD;
    if (fails("map"))
        return -ENOSPC;
    count(&calls.n_maps);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    bytes = (bytes + page - 1) / page * page;
    alignment = alignment < page ? page : alignment;
    const int access = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE;
    char *mapped = mmap(at, at ? bytes : bytes + alignment, access, at ? flags | MAP_FIXED : flags, -1, 0);
    if (mapped == MAP_FAILED)
        return -ENOMEM;
    uintptr_t start = (uintptr_t)mapped;
    if (!at) {
        start = (start + alignment - 1) / alignment * alignment;
        if (start > (uintptr_t)mapped)
            munmap(mapped, start - (uintptr_t)mapped);
        if (start + bytes < (uintptr_t)mapped + bytes + alignment)
            munmap((void *)(start + bytes), (uintptr_t)mapped + alignment - start);
    }
    madvise((void *)start, bytes, MADV_DONTFORK);
    for (size_t i = 0; i < N_RANGES; i++) {
        uintptr_t none = 0;
        if (!atomic_compare_exchange_strong(&pager->ranges[i].start, &none, start))
            continue;
        pager->ranges[i].end = start + bytes;
        *base = (void *)start;
        return 0;
    }
    munmap((void *)start, bytes);
    return -ENOSPC;
}

static struct range *range_of(struct shim_pager *pager, const void *address)
{
    for (size_t i = 0; i < N_RANGES; i++) {
        uintptr_t start = atomic_load(&pager->ranges[i].start);
        if (start && (uintptr_t)address >= start && (uintptr_t)address < pager->ranges[i].end)
            return &pager->ranges[i];
    }
    return NULL;
}

int shim_pager_unmap(struct shim_pager *pager, void *base, bool replace)
{
    if (atomic_load(&pager->is_forgotten))
        return -ECHILD;
    struct range *range = range_of(pager, base);
    if (!range || (uintptr_t)base != atomic_load(&range->start))
        return -ENOENT;
    count(replace ? &calls.n_replaces : &calls.n_unmaps);
    size_t bytes = range->end - (uintptr_t)base;
    atomic_store(&range->start, 0);
    if (!replace)
        return munmap(base, bytes) == 0 ? 0 : -errno;
    void *mapped =
        mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    return mapped == base ? 0 : -errno;
}

bool shim_pager_find(struct shim_pager *pager, const void *address, void **base, size_t *bytes)
{
    struct range *range = range_of(pager, address);
    if (!range)
        return false;
    *base = (void *)atomic_load(&range->start);
    *bytes = range->end - (uintptr_t)*base;
    return true;
}

int shim_pager_discard(struct shim_pager *pager, void *address, size_t bytes)
{
    if (atomic_load(&pager->is_forgotten))
        return -ECHILD;
    struct range *range = range_of(pager, address);
    if (!range || (uintptr_t)address + bytes > range->end)
        return -EINVAL;
    count(&calls.n_discards);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)address, end = start + bytes;
    uintptr_t first = (start + page - 1) / page * page, last = end / page * page;
    if (first >= last) {
        memset(address, 0, bytes);
        return 0;
    }
    memset(address, 0, first - start);
    memset((void *)last, 0, end - last);
    return madvise((void *)first, last - first, MADV_REMOVE) == 0 ? 0 : -errno;
}

int shim_pager_advise(struct shim_pager *pager, const void *address, size_t bytes, enum shim_advice advice)
{
    struct range *range = range_of(pager, address);
    if (!range || (uintptr_t)address + bytes > range->end)
        return -EINVAL;
    count(advice == SHIM_COLD ? &calls.n_colds : &calls.n_will_needs);
    return 0;
}

int shim_pager_suspend(struct shim_pager *pager, uint32_t wait_ms)
{
    pager->suspended = true;
    return 0;
}

int shim_pager_resume(struct shim_pager *pager)
{
    pager->suspended = false;
    return 0;
}

void shim_pager_get_info(struct shim_pager *pager, struct shim_pager_info *info)
{
    *info = (struct shim_pager_info){.suspended = pager->suspended};
    for (size_t i = 0; i < N_RANGES; i++) {
        uintptr_t start = atomic_load(&pager->ranges[i].start);
        if (start)
            info->range_bytes += pager->ranges[i].end - start;
    }
}
