/* SPDX-License-Identifier: Apache-2.0
 *
 * Two arenas of one size at a constant distance. The device arena is what callers get addresses of: nothing is ever mapped
 * there, so that a CPU that touches a device address faults, as it does with a GPU. The backing arena holds the bytes: a
 * file in memory, mapped shared, so that one handle can stand at several addresses; mprotect gives the rights. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/simcuda/sim.h"

#if defined(__SANITIZE_THREAD__)
#define LARGEST ((size_t)256 << 30)
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define LARGEST ((size_t)256 << 30)
#endif
#endif
#ifndef LARGEST
#define LARGEST ((size_t)1 << 40)
#endif
#define SMALLEST ((size_t)64 << 30)

/* Up to so much of new memory is filled: enough to show what counts on zeros, cheap enough for gigabytes. */
#define PATTERN_BYTES ((uint64_t)16 << 20)
#define PATTERN       0xff

/* Written once, at cuInit, before any address is given out. */
static uint64_t device_start, arena_bytes;
static char *backing;
static int file = -1;
static char pattern[64 << 10];

/* Under sim.lock. */
static struct sim_space addresses, physical;

/* By the system call: a sanitizer's mmap would set up shadow memory for all of an arena. */
static void *reserve(size_t bytes)
{
    long at = syscall(SYS_mmap, NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);
    return at == -1 ? NULL : (void *)at; /* NOLINT(performance-no-int-to-ptr): an address by its nature */
}

static char *reserve_both(size_t *bytes)
{
    for (*bytes = LARGEST; *bytes >= SMALLEST; *bytes /= 4) {
        char *both = reserve(2 * *bytes + SIM_GRANULARITY);
        if (both)
            return both;
    }
    return NULL;
}

bool sim_arena_open(void)
{
    if (backing)
        return true;
    file = memfd_create("simcuda", MFD_CLOEXEC);
    if (file < 0)
        return false;
    size_t bytes;
    char *both = reserve_both(&bytes);
    if (!both || ftruncate(file, (off_t)bytes)) {
        close(file);
        return false;
    }
    memset(pattern, PATTERN, sizeof pattern);
    madvise(both, 2 * bytes + SIM_GRANULARITY, MADV_DONTDUMP);
    size_t skip = -(uintptr_t)both & (SIM_GRANULARITY - 1);
    device_start = (uintptr_t)both + skip;
    arena_bytes = bytes;
    backing = both + skip + bytes;
    addresses = (struct sim_space){device_start, device_start + bytes, device_start, NULL};
    physical = (struct sim_space){0, bytes, 0, NULL};
    return true;
}

bool sim_arena_contains(uint64_t address, size_t bytes)
{
    return address >= device_start && bytes <= arena_bytes && address - device_start <= arena_bytes - bytes;
}

void *sim_arena_host(uint64_t address)
{
    return backing && sim_arena_contains(address, 1) ? backing + (address - device_start) : NULL;
}

void *simcuda_host_address(CUdeviceptr address)
{
    return sim_arena_host(address);
}

/* A touch of either arena: the device's own is touched by a kernel that forgot to translate. */
uint64_t sim_arena_device(const void *host)
{
    uint64_t at = (uintptr_t)host;
    if (!backing || at < device_start)
        return 0;
    if (at - device_start < arena_bytes)
        return at;
    return at - (uintptr_t)backing < arena_bytes ? at - (uintptr_t)backing + device_start : 0;
}

/* The first gap at or after `from` that has room, before `end`; *link is where it belongs. */
static uint64_t gap(struct sim_space *space, uint64_t from, uint64_t end, uint64_t bytes, uint64_t alignment,
                    struct sim_extent ***link)
{
    uint64_t at = from;
    *link = &space->used;
    for (;;) {
        struct sim_extent *next = **link;
        uint64_t aligned = (at + alignment - 1) & -alignment;
        uint64_t limit = next && next->start < end ? next->start : end;
        if (aligned <= limit && limit - aligned >= bytes)
            return aligned;
        if (!next || next->start >= end)
            return UINT64_MAX;
        if (next->end > at)
            at = next->end;
        *link = &next->next;
    }
}

static uint64_t take(struct sim_space *space, uint64_t bytes, uint64_t alignment, uint64_t hint)
{
    struct sim_extent **link = NULL;
    struct sim_extent *extent = malloc(sizeof *extent);
    if (!extent || bytes > space->end - space->start)
        goto none;
    uint64_t at = UINT64_MAX;
    if (hint != UINT64_MAX)
        at = gap(space, hint, hint + bytes, bytes, 1, &link);
    if (at == UINT64_MAX)
        at = gap(space, space->cursor, space->end, bytes, alignment, &link);
    if (at == UINT64_MAX)
        at = gap(space, space->start, space->end, bytes, alignment, &link);
    if (at == UINT64_MAX)
        goto none;
    *extent = (struct sim_extent){*link, at, at + bytes};
    *link = extent;
    space->cursor = at + bytes < space->end ? at + bytes : space->start;
    return at;
none:
    free(extent);
    return UINT64_MAX;
}

static void give(struct sim_space *space, uint64_t start)
{
    struct sim_extent **link = &space->used;
    while ((*link)->start != start)
        link = &(*link)->next;
    struct sim_extent *extent = *link;
    *link = extent->next;
    free(extent);
}

uint64_t sim_addresses_take(uint64_t bytes, uint64_t alignment, uint64_t hint)
{
    bool usable = hint && hint % alignment == 0 && sim_arena_contains(hint, bytes);
    uint64_t at = take(&addresses, bytes, alignment, usable ? hint : UINT64_MAX);
    return at == UINT64_MAX ? 0 : at;
}

void sim_addresses_give(uint64_t start)
{
    give(&addresses, start);
}

/* By pwrite: a mapping would fault at each page, which takes four times as long. */
static void fill_new(uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset + (bytes < PATTERN_BYTES ? bytes : PATTERN_BYTES);
    for (ssize_t n; offset < end; offset += (uint64_t)n) {
        n = pwrite(file, pattern, end - offset < sizeof pattern ? end - offset : sizeof pattern, (off_t)offset);
        if (n <= 0)
            return; /* no room in memory: whoever touches it will see */
    }
}

bool sim_physical_take(uint64_t bytes, uint64_t *offset)
{
    uint64_t at = take(&physical, bytes, SIM_GRANULARITY, UINT64_MAX);
    if (at == UINT64_MAX)
        return false;
    fill_new(at, bytes);
    *offset = at;
    return true;
}

void sim_physical_give(uint64_t offset, uint64_t bytes)
{
    fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
    give(&physical, offset);
}

bool sim_arena_map(uint64_t address, uint64_t bytes, uint64_t offset, bool accessible)
{
    int rights = accessible ? PROT_READ | PROT_WRITE : PROT_NONE;
    return mmap(sim_arena_host(address), bytes, rights, MAP_SHARED | MAP_FIXED, file, (off_t)offset) != MAP_FAILED;
}

void sim_arena_unmap(uint64_t address, uint64_t bytes)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (mmap(sim_arena_host(address), bytes, PROT_NONE, flags, -1, 0) == MAP_FAILED)
        abort(); /* the old mapping would stay: nothing after that could be believed */
}

bool sim_arena_protect(uint64_t address, uint64_t bytes, CUmemAccess_flags access)
{
    int rights = access == CU_MEM_ACCESS_FLAGS_PROT_NONE   ? PROT_NONE
                 : access == CU_MEM_ACCESS_FLAGS_PROT_READ ? PROT_READ
                                                           : PROT_READ | PROT_WRITE;
    return mprotect(sim_arena_host(address), bytes, rights) == 0;
}
