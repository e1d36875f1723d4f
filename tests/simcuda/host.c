/* SPDX-License-Identifier: Apache-2.0
 *
 * Pinned host memory: what asynchronous copies may read and write. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/simcuda/sim.h"

struct pinned {
    struct pinned *next;
    uint64_t start, bytes;
    bool allocated;
};

static struct pinned *all; /* under sim.lock */

static struct pinned **find(const void *start)
{
    struct pinned **link = &all;
    while (*link && (*link)->start != (uintptr_t)start)
        link = &(*link)->next;
    return link;
}

static bool overlaps(uint64_t start, uint64_t bytes)
{
    const struct pinned *p = all;
    while (p && (p->start >= start + bytes || p->start + p->bytes <= start))
        p = p->next;
    return p != NULL;
}

/* Within one registration: the driver looks the address up, and does not join neighbours. */
bool sim_host_is_pinned(const void *start, size_t bytes)
{
    uint64_t from, length;
    if (!sim_host_range(start, &from, &length))
        return false;
    return bytes <= from + length - (uintptr_t)start;
}

int sim_host_range(const void *at, uint64_t *start, uint64_t *bytes)
{
    for (const struct pinned *p = all; p; p = p->next) {
        if ((uintptr_t)at - p->start >= p->bytes)
            continue;
        *start = p->start;
        *bytes = p->bytes;
        return p->allocated ? 2 : 1;
    }
    return 0;
}

static bool add(const void *start, uint64_t bytes, bool allocated)
{
    struct pinned *p = malloc(sizeof *p);
    if (!p)
        return false;
    *p = (struct pinned){all, (uintptr_t)start, bytes, allocated};
    all = p;
    return true;
}

static void drop(struct pinned **link)
{
    struct pinned *p = *link;
    *link = p->next;
    free(p);
}

static size_t page_rounded(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

CUresult cuMemHostAlloc(void **ptr, size_t bytes, unsigned flags)
{
    CUresult rc = sim_enter(SIM_MemHostAlloc);
    if (rc)
        return rc;
    if (!ptr || bytes == 0 || bytes > SIZE_MAX / 2 || flags > 7)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    void *at = mmap(NULL, page_rounded(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return sim_leave(CUDA_ERROR_OUT_OF_MEMORY);
    if (!add(at, bytes, true)) {
        munmap(at, page_rounded(bytes));
        return sim_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    sim.usage.host_allocs++;
    *ptr = at;
    return sim_leave(CUDA_SUCCESS);
}

/* Whether queued work still reads or writes it, which is a violation. */
static bool in_use(const char *call, const struct pinned *p)
{
    const char *user = sim_streams_any(sim_op_uses_host, p->start, p->bytes);
    if (user)
        sim_violation("%s of %#llx, which the queued %s still uses", call, (unsigned long long)p->start, user);
    return user != NULL;
}

CUresult cuMemFreeHost(void *ptr)
{
    CUresult rc = sim_enter(SIM_MemFreeHost);
    if (rc)
        return rc;
    struct pinned **link = find(ptr);
    if (!*link || !(*link)->allocated || in_use("cuMemFreeHost", *link))
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    munmap(ptr, page_rounded((*link)->bytes));
    drop(link);
    sim.usage.host_allocs--;
    return sim_leave(CUDA_SUCCESS);
}

/* Every page is mapped into the process. */
static bool is_memory(const void *ptr, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)ptr & -page;
    for (uintptr_t at = first; at < (uintptr_t)ptr + bytes; at += page) {
        unsigned char resident;
        if (mincore((void *)at, 1, &resident)) /* NOLINT(performance-no-int-to-ptr): a page's address */
            return false;
    }
    return true;
}

CUresult cuMemHostRegister_v2(void *ptr, size_t bytes, unsigned flags)
{
    CUresult rc = sim_enter(SIM_MemHostRegister);
    if (rc)
        return rc;
    if (!ptr || bytes == 0 || bytes > SIZE_MAX / 2 || flags > 15 || !is_memory(ptr, bytes))
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    if (overlaps((uintptr_t)ptr, bytes))
        return sim_leave(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    if (!add(ptr, bytes, false))
        return sim_leave(CUDA_ERROR_OUT_OF_MEMORY);
    sim.usage.registrations++;
    return sim_leave(CUDA_SUCCESS);
}

CUresult cuMemHostUnregister(void *ptr)
{
    CUresult rc = sim_enter(SIM_MemHostUnregister);
    if (rc)
        return rc;
    struct pinned **link = find(ptr);
    if (!*link || (*link)->allocated)
        return sim_leave(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    if (in_use("cuMemHostUnregister", *link))
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    drop(link);
    sim.usage.registrations--;
    return sim_leave(CUDA_SUCCESS);
}
