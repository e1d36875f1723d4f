/* SPDX-License-Identifier: Apache-2.0
 *
 * Hooks of mappings: an engine may map its cache itself, and may unmap, shrink, grow or map over a part of it. */
#undef _FILE_OFFSET_BITS /* with it, the headers give mmap the name mmap64, and both are defined here */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shim/elf_objects.h"
#include "shim/hook.h"
#include "shim/log.h"
#include "shim/managed.h"
#include "shim/range.h"
#include "shim/real.h"
#include "shim/start.h"

static bool is_child_or_inside(void)
{
    return shim_inside || shim_is_child();
}

/* ---- munmap -------------------------------------------------------------------------------------------------- */

/* Takes [start, end) out of the entry. Its pages that are no range's are left to the caller. 0 or -errno. */
static int cut_entry(const struct shim_managed *entry, uintptr_t start, uintptr_t end)
{
    if (entry->kind == SHIM_TENTATIVE_MEMORY) {
        shim_range_end(entry);
        return 0;
    }
    uintptr_t from = start > entry->range_start ? start : entry->range_start;
    uintptr_t to = end < entry->range_end ? end : entry->range_end;
    return from < to ? shim_range_cut(entry, from, to) : 0;
}

/* munmap() of [start, end), which may cover parts of ranges and other memory. 0 or -1 with errno. */
static int unmap_over(uintptr_t start, uintptr_t end)
{
    struct shim_managed entry;
    while (start < end && shim_managed_overlap(start, end, &entry)) {
        uintptr_t to = shim_page_up(entry.end) < end ? shim_page_up(entry.end) : end;
        uintptr_t from = entry.range_start > start ? entry.range_start : start;
        uintptr_t held = entry.kind == SHIM_TENTATIVE_MEMORY ? start : entry.range_end < end ? entry.range_end : end;
        int error = cut_entry(&entry, start, end);
        if (error) {
            errno = -error;
            return -1;
        }
        bool whole = entry.kind != SHIM_TENTATIVE_MEMORY && start <= entry.range_start && end >= entry.range_end;
        if (entry.kind == SHIM_TENTATIVE_MEMORY || (whole && entry.kind == SHIM_ADOPTED))
            continue; /* the entry is gone, and its memory the kernel's to unmap */
        if (from > start && shim_real.munmap((void *)start, from - start) != 0)
            return -1;
        start = held > start ? held : to;
    }
    return start < end ? shim_real.munmap((void *)start, end - start) : 0;
}

static int unmap(void *address, size_t bytes)
{
    uintptr_t start = (uintptr_t)address;
    if (SHIM_LIKELY(!shim_managed_near(address, bytes)) || is_child_or_inside() || start % shim_page() != 0 ||
        bytes == 0 || start + bytes < start)
        return shim_real.munmap(address, bytes);
    return unmap_over(start, shim_page_up(start + bytes));
}

SHIM_EXPORT int munmap(void *address, size_t bytes)
{
    return unmap(address, bytes);
}

/* ---- mmap ---------------------------------------------------------------------------------------------------- */

struct mapping {
    const char *call;
    void *address;
    size_t bytes;
    int access, flags, fd;
    off_t offset;
};

static void *map_really(const struct mapping *m)
{
    return shim_real.mmap(m->address, m->bytes, m->access, m->flags, m->fd, m->offset);
}

/* The libraries of the CUDA driver map memory for themselves and for the device: no cache, and nothing that may be pageable. */
static bool is_driver(const void *caller)
{
    struct shim_object object;
    if (!shim_elf_at(caller, &object))
        return false;
    const char *slash = strrchr(object.path, '/'), *name = slash ? slash + 1 : object.path;
    return strncmp(name, "libcuda.so", 10) == 0 || strncmp(name, "libnvidia-", 10) == 0;
}

/* Anonymous memory for data, as an engine would take for a cache; not what allocators map for others, nor stacks. */
static bool may_be_cache(const struct mapping *m, const void *caller)
{
    const int wrong = MAP_SHARED | MAP_GROWSDOWN | MAP_STACK | MAP_HUGETLB | MAP_FIXED_NOREPLACE;
    return m->bytes >= SHIM_THRESHOLD && (m->flags & MAP_ANONYMOUS) && (m->flags & MAP_PRIVATE) &&
           !(m->flags & wrong) && m->access == (PROT_READ | PROT_WRITE) && !shim_real_is_allocator(caller) &&
           !is_driver(caller);
}

/* A mapping that replaces a part of a range. What means the same to the engine is done to the range; else it is refused:
 * the pager would go on with memory that isn't its own. */
static void *map_within(const struct mapping *m, const struct shim_managed *entry)
{
    static bool said;
    uintptr_t start = (uintptr_t)m->address, end = shim_page_up(start + m->bytes);
    bool inside = start >= entry->range_start && end <= entry->range_end;
    bool anonymous = (m->flags & MAP_ANONYMOUS) && (m->flags & MAP_PRIVATE);
    if (inside && anonymous && shim_range_discard(start, end) && mprotect(m->address, end - start, m->access) == 0)
        return m->address;
    shim_log_once(&said, "the engine maps something else over a part of its cache, which is refused");
    errno = ENOMEM;
    return MAP_FAILED;
}

/* MAP_FIXED over ranges: those that are covered as a whole end. NULL: go on. */
static void *make_way(const struct mapping *m)
{
    uintptr_t start = (uintptr_t)m->address, end = shim_page_up(start + m->bytes);
    struct shim_managed entry;
    for (uintptr_t at = start; at < end && shim_managed_overlap(at, end, &entry); at = entry.end) {
        if (entry.kind == SHIM_TENTATIVE_MEMORY || (start <= entry.range_start && end >= entry.range_end))
            shim_range_end(&entry);
        else if (start < entry.range_end && end > entry.range_start)
            return map_within(m, &entry);
    }
    return NULL;
}

static __attribute__((noinline)) void *map_specially(const struct mapping *m, const void *caller)
{
    if (is_child_or_inside())
        return map_really(m);
    if ((m->flags & MAP_FIXED) && shim_managed_near(m->address, m->bytes)) {
        void *done = make_way(m);
        if (done)
            return done;
    }
    enum shim_verdict verdict = may_be_cache(m, caller) ? shim_ask(m->call, m->bytes) : SHIM_PASS;
    if (verdict == SHIM_SELECTED) {
        void *base = shim_range_new(SHIM_MAPPED, m->flags & MAP_FIXED ? m->address : NULL, m->bytes, 0);
        if (base)
            return base;
    }
    void *address = map_really(m);
    if (verdict == SHIM_TENTATIVE && address != MAP_FAILED)
        shim_range_note(address, m->bytes);
    return address;
}

static inline bool is_plain(const struct mapping *m)
{
    return (m->bytes < SHIM_THRESHOLD || !(m->flags & MAP_ANONYMOUS)) &&
           (!(m->flags & MAP_FIXED) || !shim_managed_near(m->address, m->bytes));
}

SHIM_EXPORT void *mmap(void *address, size_t bytes, int access, int flags, int fd, off_t offset)
{
    const struct mapping m = {"mmap", address, bytes, access, flags, fd, offset};
    return is_plain(&m) ? map_really(&m) : map_specially(&m, __builtin_return_address(0));
}

_Static_assert(sizeof(off_t) == sizeof(off64_t), "mmap and mmap64 are the same");

SHIM_EXPORT void *mmap64(void *address, size_t bytes, int access, int flags, int fd, off64_t offset)
{
    const struct mapping m = {"mmap64", address, bytes, access, flags, fd, offset};
    return is_plain(&m) ? map_really(&m) : map_specially(&m, __builtin_return_address(0));
}

/* ---- mremap -------------------------------------------------------------------------------------------------- */

/* A range of a userfaultfd can't grow or move: another one, with a copy. */
static void *remap_range(uintptr_t start, size_t bytes, size_t new_bytes, int flags, void *to)
{
    if (bytes == 0 || new_bytes == 0 || (flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED)) ||
        ((flags & MREMAP_FIXED) && !(flags & MREMAP_MAYMOVE))) {
        errno = EINVAL;
        return MAP_FAILED;
    }
    uintptr_t end = shim_page_up(start + bytes), new_end = shim_page_up(start + new_bytes);
    if (new_end <= end && !(flags & MREMAP_FIXED))
        return new_end == end || unmap_over(new_end, end) == 0 ? (void *)start : MAP_FAILED;
    if (!(flags & MREMAP_MAYMOVE)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    void *at = flags & MREMAP_FIXED ? to : NULL;
    if (at && unmap(at, new_bytes) != 0)
        return MAP_FAILED;
    void *moved = shim_range_new(SHIM_MAPPED, at, new_bytes, 0);
    if (!moved) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    memcpy(moved, (void *)start, bytes < new_bytes ? bytes : new_bytes);
    unmap_over(start, end);
    return moved;
}

static __attribute__((noinline)) void *remap_near(void *address, size_t bytes, size_t new_bytes, int flags, void *to)
{
    uintptr_t start = (uintptr_t)address;
    struct shim_managed entry;
    size_t some = bytes ? bytes : 1;
    while (shim_managed_overlap(start, start + some, &entry)) {
        if (entry.kind != SHIM_TENTATIVE_MEMORY)
            return remap_range(start, bytes, new_bytes, flags, to);
        shim_range_end(&entry);
    }
    if ((flags & MREMAP_FIXED) && unmap(to, new_bytes) != 0)
        return MAP_FAILED;
    return shim_real.mremap(address, bytes, new_bytes, flags, to);
}

SHIM_EXPORT void *mremap(void *address, size_t bytes, size_t new_bytes, int flags, ...)
{
    void *to = NULL;
    if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) {
        va_list args;
        va_start(args, flags);
        to = va_arg(args, void *);
        va_end(args);
    }
    bool near =
        shim_managed_near(address, bytes ? bytes : 1) || ((flags & MREMAP_FIXED) && shim_managed_near(to, new_bytes));
    if (SHIM_LIKELY(!near) || is_child_or_inside())
        return shim_real.mremap(address, bytes, new_bytes, flags, to);
    return remap_near(address, bytes, new_bytes, flags, to);
}
