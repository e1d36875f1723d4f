/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/managed.h"

#include <pthread.h>

/* Bounds that hold nothing. They only grow: an entry's address gets from thread to thread after it was added. */
atomic_uintptr_t shim_managed_low = UINTPTR_MAX, shim_managed_high = 0;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Changed under the lock. Starts are read without it, to pass over what is no entry; 0: a free place. */
static atomic_uintptr_t starts[SHIM_MANAGED_MAX];
static struct shim_managed entries[SHIM_MANAGED_MAX];
static uint64_t ages[SHIM_MANAGED_MAX]; /* when it was added */
static atomic_size_t n_used;            /* places from here on were never taken */
static uint64_t n_added;
static size_t n_tentative;

static void drop(size_t i)
{
    n_tentative -= entries[i].kind == SHIM_TENTATIVE_MEMORY;
    atomic_store_explicit(&starts[i], 0, memory_order_release);
}

static void drop_oldest_tentative(void)
{
    size_t oldest = SHIM_MANAGED_MAX;
    for (size_t i = 0; i < n_used; i++) {
        if (starts[i] && entries[i].kind == SHIM_TENTATIVE_MEMORY &&
            (oldest == SHIM_MANAGED_MAX || ages[i] < ages[oldest]))
            oldest = i;
    }
    if (oldest < SHIM_MANAGED_MAX)
        drop(oldest);
}

static void extend_bounds(uintptr_t start, uintptr_t end)
{
    if (start < shim_managed_low)
        shim_managed_low = start;
    if (end > shim_managed_high)
        shim_managed_high = end;
}

bool shim_managed_add(const struct shim_managed *entry)
{
    pthread_mutex_lock(&lock);
    if (entry->kind == SHIM_TENTATIVE_MEMORY && n_tentative == SHIM_TENTATIVE_MAX)
        drop_oldest_tentative();
    size_t i = 0;
    while (i < n_used && starts[i])
        i++;
    bool has_room = i < SHIM_MANAGED_MAX;
    if (has_room) {
        entries[i] = *entry;
        ages[i] = n_added++;
        n_tentative += entry->kind == SHIM_TENTATIVE_MEMORY;
        extend_bounds(entry->start, entry->end);
        atomic_store_explicit(&starts[i], entry->start, memory_order_release);
        if (i == n_used)
            n_used = i + 1;
    }
    pthread_mutex_unlock(&lock);
    return has_room;
}

/* The place of the entry that starts at `start`; SHIM_MANAGED_MAX: none. Without the lock, a hint. */
static size_t place_of(uintptr_t start)
{
    size_t n = atomic_load_explicit(&n_used, memory_order_acquire);
    for (size_t i = 0; i < n; i++) {
        if (atomic_load_explicit(&starts[i], memory_order_acquire) == start)
            return i;
    }
    return SHIM_MANAGED_MAX;
}

bool shim_managed_get(const void *address, struct shim_managed *entry)
{
    uintptr_t start = (uintptr_t)address;
    if (start == 0 || place_of(start) == SHIM_MANAGED_MAX)
        return false;
    pthread_mutex_lock(&lock);
    size_t i = place_of(start);
    if (i < SHIM_MANAGED_MAX)
        *entry = entries[i];
    pthread_mutex_unlock(&lock);
    return i < SHIM_MANAGED_MAX;
}

bool shim_managed_overlap(uintptr_t start, uintptr_t end, struct shim_managed *entry)
{
    size_t lowest = SHIM_MANAGED_MAX;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_used; i++) {
        if (starts[i] && entries[i].start < end && entries[i].end > start &&
            (lowest == SHIM_MANAGED_MAX || entries[i].start < entries[lowest].start))
            lowest = i;
    }
    if (lowest < SHIM_MANAGED_MAX)
        *entry = entries[lowest];
    pthread_mutex_unlock(&lock);
    return lowest < SHIM_MANAGED_MAX;
}

bool shim_managed_set(uintptr_t start, const struct shim_managed *entry)
{
    pthread_mutex_lock(&lock);
    size_t i = place_of(start);
    if (i < SHIM_MANAGED_MAX) {
        n_tentative += entry->kind == SHIM_TENTATIVE_MEMORY;
        n_tentative -= entries[i].kind == SHIM_TENTATIVE_MEMORY;
        entries[i] = *entry;
        extend_bounds(entry->start, entry->end);
        atomic_store_explicit(&starts[i], entry->start, memory_order_release);
    }
    pthread_mutex_unlock(&lock);
    return i < SHIM_MANAGED_MAX;
}

bool shim_managed_remove(uintptr_t start)
{
    pthread_mutex_lock(&lock);
    size_t i = start ? place_of(start) : SHIM_MANAGED_MAX;
    if (i < SHIM_MANAGED_MAX)
        drop(i);
    pthread_mutex_unlock(&lock);
    return i < SHIM_MANAGED_MAX;
}

void shim_managed_count(size_t *n, uint64_t *bytes)
{
    *n = 0;
    *bytes = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_used; i++) {
        if (starts[i] && entries[i].kind != SHIM_TENTATIVE_MEMORY) {
            *n += 1;
            *bytes += entries[i].range_end - entries[i].range_start;
        }
    }
    pthread_mutex_unlock(&lock);
}

void shim_managed_before_fork(void)
{
    pthread_mutex_lock(&lock);
}

void shim_managed_after_fork(void)
{
    pthread_mutex_unlock(&lock);
}
