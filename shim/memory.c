/* SPDX-License-Identifier: Apache-2.0
 *
 * Hooks of the allocators. Up to SHIM_THRESHOLD, and for addresses near no entry of the table, they are a jump. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <malloc.h>
#include <string.h>
#include <unistd.h>

#include "shim/hook.h"
#include "shim/managed.h"
#include "shim/range.h"
#include "shim/real.h"
#include "shim/start.h"

/* The calls of one real function with slow paths closed: what an allocator maps for it is not the engine's. */
#define WITHIN(call)                                                                                                   \
    ({                                                                                                                 \
        shim_inside++;                                                                                                 \
        __typeof__(call) result_ = (call);                                                                             \
        shim_inside--;                                                                                                 \
        result_;                                                                                                       \
    })

/* Memory of the pager's, if that is what the allocation is to be; else NULL, and *tentative says what to note of the real
 * one. */
static void *select_memory(const char *call, size_t bytes, size_t alignment, bool *tentative)
{
    enum shim_verdict verdict = shim_ask(call, bytes);
    *tentative = verdict == SHIM_TENTATIVE;
    return verdict == SHIM_SELECTED ? shim_range_new(SHIM_ALLOCATED, NULL, bytes, alignment) : NULL;
}

static void *noted(void *address, size_t bytes, bool tentative)
{
    if (address && tentative)
        shim_range_note(address, bytes);
    return address;
}

static __attribute__((noinline)) void *large_malloc(const char *call, size_t bytes)
{
    bool tentative;
    void *address = select_memory(call, bytes, 0, &tentative);
    return address ? address : noted(WITHIN(shim_real.malloc(bytes)), bytes, tentative);
}

SHIM_EXPORT void *malloc(size_t bytes)
{
    return SHIM_LIKELY(bytes < SHIM_THRESHOLD) ? shim_real.malloc(bytes) : large_malloc("malloc", bytes);
}

static __attribute__((noinline)) void *large_calloc(size_t n, size_t bytes, size_t all)
{
    bool tentative;
    void *address = select_memory("calloc", all, 0, &tentative);
    return address ? address : noted(WITHIN(shim_real.calloc(n, bytes)), all, tentative);
}

SHIM_EXPORT void *calloc(size_t n, size_t bytes)
{
    size_t all;
    if (SHIM_LIKELY(__builtin_mul_overflow(n, bytes, &all) || all < SHIM_THRESHOLD))
        return shim_real.calloc(n, bytes);
    return large_calloc(n, bytes, all);
}

/* ---- Aligned ------------------------------------------------------------------------------------------------- */

static bool is_power_of_two(size_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

static __attribute__((noinline)) int large_posix_memalign(void **address, size_t alignment, size_t bytes)
{
    bool tentative = false;
    void *selected = NULL;
    if (is_power_of_two(alignment) && alignment % sizeof(void *) == 0)
        selected = select_memory("posix_memalign", bytes, alignment, &tentative);
    if (selected) {
        *address = selected;
        return 0;
    }
    int error = WITHIN(shim_real.posix_memalign(address, alignment, bytes));
    if (error == 0)
        noted(*address, bytes, tentative);
    return error;
}

SHIM_EXPORT int posix_memalign(void **address, size_t alignment, size_t bytes)
{
    return SHIM_LIKELY(bytes < SHIM_THRESHOLD) ? shim_real.posix_memalign(address, alignment, bytes)
                                               : large_posix_memalign(address, alignment, bytes);
}

/* aligned_alloc and memalign. */
static __attribute__((noinline)) void *large_aligned(const char *call, void *(*real)(size_t, size_t), size_t alignment,
                                                     size_t bytes)
{
    bool tentative = false;
    void *address = is_power_of_two(alignment) ? select_memory(call, bytes, alignment, &tentative) : NULL;
    return address ? address : noted(WITHIN(real(alignment, bytes)), bytes, tentative);
}

SHIM_EXPORT void *aligned_alloc(size_t alignment, size_t bytes)
{
    return SHIM_LIKELY(bytes < SHIM_THRESHOLD)
               ? shim_real.aligned_alloc(alignment, bytes)
               : large_aligned("aligned_alloc", shim_real.aligned_alloc, alignment, bytes);
}

SHIM_EXPORT void *memalign(size_t alignment, size_t bytes)
{
    return SHIM_LIKELY(bytes < SHIM_THRESHOLD) ? shim_real.memalign(alignment, bytes)
                                               : large_aligned("memalign", shim_real.memalign, alignment, bytes);
}

static __attribute__((noinline)) void *large_whole_pages(const char *call, void *(*real)(size_t), size_t bytes)
{
    bool tentative;
    void *address = select_memory(call, bytes, 0, &tentative);
    return address ? address : noted(WITHIN(real(bytes)), bytes, tentative);
}

SHIM_EXPORT void *valloc(size_t bytes)
{
    return SHIM_LIKELY(bytes < SHIM_THRESHOLD) ? shim_real.valloc(bytes)
                                               : large_whole_pages("valloc", shim_real.valloc, bytes);
}

SHIM_EXPORT void *pvalloc(size_t bytes)
{
    return SHIM_LIKELY(bytes < SHIM_THRESHOLD) ? shim_real.pvalloc(bytes)
                                               : large_whole_pages("pvalloc", shim_real.pvalloc, bytes);
}

/* ---- The end, and growth ------------------------------------------------------------------------------------- */

/* Whether the address needs no real free(). */
static __attribute__((noinline)) bool free_managed(void *address)
{
    struct shim_managed entry;
    if (!shim_managed_get(address, &entry) || entry.kind == SHIM_MAPPED)
        return false;
    return shim_range_end(&entry) && entry.kind != SHIM_TENTATIVE_MEMORY && entry.kind != SHIM_ADOPTED;
}

SHIM_EXPORT void free(void *address)
{
    if (SHIM_LIKELY(!shim_managed_near(address, 1)) || !free_managed(address))
        shim_real.free(address);
}

/* Where a range goes on being a cache, its new place is one, too: rules are not asked again. */
static void *move_range(struct shim_managed *entry, size_t bytes)
{
    if (shim_is_child()) { /* what it held was left to the parent */
        errno = ENOMEM;
        return NULL;
    }
    size_t old_bytes = entry->end - entry->start;
    void *address = bytes >= SHIM_THRESHOLD ? shim_range_new(SHIM_ALLOCATED, NULL, bytes, 0) : NULL;
    if (!address)
        address = WITHIN(shim_real.malloc(bytes));
    if (!address)
        return NULL;
    memcpy(address, (void *)entry->start, old_bytes < bytes ? old_bytes : bytes);
    if (shim_range_end(entry) && entry->kind == SHIM_ADOPTED)
        shim_real.free((void *)entry->start);
    return address;
}

static void *realloc_managed(struct shim_managed *entry, size_t bytes)
{
    void *address = (void *)entry->start;
    if (bytes == 0) {
        if (!free_managed(address))
            shim_real.free(address);
        return NULL;
    }
    if (entry->kind == SHIM_ALLOCATED && bytes >= SHIM_THRESHOLD && shim_range_resize(entry, bytes))
        return address;
    return move_range(entry, bytes);
}

static void *grow_into_range(void *address, size_t bytes, bool *tentative)
{
    size_t old_bytes = shim_real.malloc_usable_size(address);
    void *grown = select_memory("realloc", bytes, 0, tentative);
    if (!grown)
        return NULL;
    memcpy(grown, address, old_bytes < bytes ? old_bytes : bytes);
    shim_real.free(address);
    return grown;
}

static __attribute__((noinline)) void *large_realloc(void *address, size_t bytes)
{
    if (!address)
        return large_malloc("realloc", bytes);
    struct shim_managed entry;
    if (shim_managed_near(address, 1) && shim_managed_get(address, &entry) && entry.kind != SHIM_MAPPED) {
        if (entry.kind != SHIM_TENTATIVE_MEMORY)
            return realloc_managed(&entry, bytes);
        shim_range_end(&entry);
    }
    bool tentative = false;
    void *grown = bytes >= SHIM_THRESHOLD ? grow_into_range(address, bytes, &tentative) : NULL;
    return grown ? grown : noted(WITHIN(shim_real.realloc(address, bytes)), bytes, tentative);
}

SHIM_EXPORT void *realloc(void *address, size_t bytes)
{
    return SHIM_LIKELY(bytes < SHIM_THRESHOLD && !shim_managed_near(address, 1)) ? shim_real.realloc(address, bytes)
                                                                                 : large_realloc(address, bytes);
}

SHIM_EXPORT size_t malloc_usable_size(void *address)
{
    struct shim_managed entry;
    if (SHIM_LIKELY(!shim_managed_near(address, 1)) || !shim_managed_get(address, &entry) ||
        entry.kind != SHIM_ALLOCATED)
        return shim_real.malloc_usable_size(address);
    return entry.end - entry.start;
}
