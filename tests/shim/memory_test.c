/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine under the shim with KVMM_SELECT=size:8MiB: every way to get, grow, clear and give back memory works as the manual
 * pages say, on the cache as on the rest. */
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

#include <check.h>

#include "shim/include/kvmm/shim.h"
#include "tests/shim/under.h"

#define CACHE (8 * MIB + 12345) /* selected, and no whole number of pages */
#define OTHER (3 * MIB + 77)    /* looked at, not selected */

/* ---- Allocators ---------------------------------------------------------------------------------------------- */

static void *by_malloc(size_t bytes)
{
    return malloc(bytes);
}

static void *by_calloc(size_t bytes)
{
    return calloc(1, bytes);
}

static void *by_calloc_of_many(size_t bytes)
{
    return calloc((bytes + 7) / 8, 8);
}

static void *by_realloc(size_t bytes)
{
    return realloc(NULL, bytes);
}

static void *by_posix_memalign(size_t bytes)
{
    void *address = NULL;
    return posix_memalign(&address, 64, bytes) == 0 ? address : NULL;
}

static void *by_aligned_alloc(size_t bytes)
{
    return aligned_alloc(32, bytes);
}

static void *by_memalign(size_t bytes)
{
    return memalign(2 * MIB, bytes);
}

static const struct {
    const char *name;
    void *(*get)(size_t bytes);
    size_t alignment;
} allocators[] = {
    {"malloc", by_malloc, 16},
    {"calloc", by_calloc, 16},
    {"calloc", by_calloc_of_many, 16},
    {"realloc", by_realloc, 16},
    {"posix_memalign", by_posix_memalign, 64},
    {"aligned_alloc", by_aligned_alloc, 32},
    {"memalign", by_memalign, 2 * MIB},
    {"valloc", valloc, 4096},
    {"pvalloc", pvalloc, 4096},
};

START_TEST(every_allocator_gives_the_cache)
{
    void *(*get)(size_t) = allocators[_i].get;
    errno = 4711;
    unsigned char *cache = get(CACHE);
    ck_assert_ptr_nonnull(cache);
    ck_assert_int_eq(errno, 4711);
    ck_assert_msg(is_managed(cache) && is_managed(cache + CACHE - 1), "%s is not selected", allocators[_i].name);
    ck_assert_uint_eq((uintptr_t)cache % allocators[_i].alignment, 0);
    ck_assert(is_zero(cache, CACHE));
    ck_assert_uint_ge(malloc_usable_size(cache), CACHE);
    fill(cache, CACHE, 1);
    unsigned char *second = get(CACHE);
    fill(second, CACHE, 2);
    ck_assert(holds(cache, CACHE, 1));
    errno = 4712;
    uintptr_t place = (uintptr_t)cache;
    free(cache);
    ck_assert_int_eq(errno, 4712);
    ck_assert(!was_managed(place));
    ck_assert(holds(second, CACHE, 2));
    free(second);
}
END_TEST

START_TEST(every_allocator_passes_the_rest)
{
    static const size_t sizes[] = {0, 1, 100, 5000, MIB - 1, MIB, OTHER};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *memory = allocators[_i].get(sizes[i]);
        ck_assert(memory || sizes[i] == 0);
        ck_assert(!memory || !is_managed(memory));
        ck_assert_uint_eq((uintptr_t)memory % allocators[_i].alignment, 0);
        if (memory)
            ck_assert_uint_ge(malloc_usable_size(memory), sizes[i]);
        if (memory)
            fill(memory, sizes[i], (unsigned)i);
        ck_assert(holds(memory, sizes[i], (unsigned)i));
        free(memory);
    }
    struct fake_pager_calls *calls = pager_calls();
    ck_assert(!calls || calls->n_opens == 0); /* without a cache, no pager */
}
END_TEST

START_TEST(impossible_sizes_fail)
{
    /* volatile, or the compiler knows better. */
    volatile size_t all = SIZE_MAX, much = SIZE_MAX - 4000, half = SIZE_MAX / 2;
    ck_assert_ptr_null(malloc(all));
    ck_assert_ptr_null(malloc(much));
    ck_assert_ptr_null(calloc(half, 4));
    void *address = &address;
    volatile size_t wrong = 24;
    ck_assert_int_eq(posix_memalign(&address, wrong, CACHE), EINVAL);
    ck_assert_ptr_eq(address, &address);
    unsigned char *cache = malloc(CACHE);
    fill(cache, 1000, 3);
    ck_assert_ptr_null(realloc(cache, much));
    ck_assert(holds(cache, 1000, 3));
    free(cache);
    free(NULL);
}
END_TEST

START_TEST(realloc_keeps_what_was_written)
{
    unsigned char *memory = malloc(OTHER);
    fill(memory, OTHER, 5);
    memory = realloc(memory, CACHE); /* becomes the cache */
    ck_assert(is_managed(memory) && holds(memory, OTHER, 5));
    fill(memory, CACHE, 6);
    memory = realloc(memory, 3 * CACHE); /* grows */
    ck_assert(is_managed(memory) && holds(memory, CACHE, 6));
    ck_assert(is_zero(memory + CACHE, 2 * CACHE));
    fill(memory, 3 * CACHE, 7);
    unsigned char *before = memory;
    memory = realloc(memory, OTHER); /* shrinks, and stays */
    ck_assert_ptr_eq(memory, before);
    ck_assert(is_managed(memory) && holds(memory, OTHER, 7));
    memory = realloc(memory, 2 * OTHER);
    ck_assert_ptr_eq(memory, before);
    ck_assert(holds(memory, OTHER, 7));
    fill(memory, 2 * OTHER, 8);
    memory = realloc(memory, 1000); /* becomes too small to be one */
    ck_assert(!is_managed(memory) && !is_managed(before) && holds(memory, 1000, 8));
    free(memory);
    memory = malloc(CACHE);
    volatile size_t none = 0;
    ck_assert_ptr_null(realloc(memory, none)); /* as in glibc: freed */
    ck_assert(!is_managed(memory));
}
END_TEST

/* ---- memset -------------------------------------------------------------------------------------------------- */

void *__memset_chk(void *address, int byte, size_t bytes, size_t room);

START_TEST(clearing_reads_as_zeros)
{
    unsigned char *cache = malloc(CACHE);
    for (int how = 0; how < 3; how++) {
        fill(cache, CACHE, 11);
        unsigned before = pager_calls() ? pager_calls()->n_discards : 0;
        if (how == 0)
            ck_assert_ptr_eq(memset(cache, 0, CACHE), cache);
        else if (how == 1)
            ck_assert_ptr_eq(__memset_chk(cache, 0x100, CACHE, SIZE_MAX), cache); /* only the low byte counts */
        else
            bzero(cache, CACHE); /* NOLINT: programs still call it */
        ck_assert(is_zero(cache, CACHE));
        ck_assert(!pager_calls() || pager_calls()->n_discards > before);
    }
    free(cache);
}
END_TEST

START_TEST(clearing_a_part_leaves_the_rest)
{
    unsigned char *cache = malloc(CACHE);
    fill(cache, CACHE, 12);
    const size_t from = 4096 * 3 + 17, bytes = 4 * MIB + 5;
    memset(cache + from, 0, bytes);
    ck_assert(is_zero(cache + from, bytes));
    ck_assert(holds(cache, from, 12));
    unsigned char *copy = malloc(CACHE);
    fill(copy, CACHE, 12);
    ck_assert_int_eq(memcmp(cache + from + bytes, copy + from + bytes, CACHE - from - bytes), 0);
    memset(cache, 0x5a, CACHE);
    ck_assert_uint_eq(cache[0], 0x5a);
    ck_assert_uint_eq(cache[CACHE - 1], 0x5a);
    free(copy);
    free(cache);
}
END_TEST

/* ---- Mappings ------------------------------------------------------------------------------------------------ */

static unsigned char *map_cache(size_t bytes)
{
    void *cache = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert_ptr_ne(cache, MAP_FAILED);
    ck_assert(is_managed(cache));
    return cache;
}

static int touch(void *address)
{
    return *(volatile unsigned char *)address;
}

START_TEST(a_mapping_is_the_cache_until_it_is_unmapped)
{
    unsigned char *cache = map_cache(CACHE);
    fill(cache, CACHE, 21);
    ck_assert(holds(cache, CACHE, 21));
    ck_assert_int_eq(munmap(cache, CACHE), 0);
    ck_assert(!is_managed(cache));
    unsigned char resident;
    ck_assert(mincore((void *)((uintptr_t)cache & ~4095ul), 4096, &resident) == -1 && errno == ENOMEM);
}
END_TEST

START_TEST(mappings_that_are_no_cache_pass)
{
    static const struct {
        int access, flags;
    } others[] = {{PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS},
                  {PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS},
                  {PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS},
                  {PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK},
                  {PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        void *memory = mmap(NULL, CACHE, others[i].access, others[i].flags, -1, 0);
        ck_assert_ptr_ne(memory, MAP_FAILED);
        ck_assert(!is_managed(memory));
        ck_assert_int_eq(munmap(memory, CACHE), 0);
    }
    ck_assert(mmap(NULL, CACHE, PROT_READ, MAP_PRIVATE, 9999, 0) == MAP_FAILED && errno == EBADF);
}
END_TEST

#define PAGES(n) ((size_t)(n)*4096)

START_TEST(what_the_driver_maps_is_its_own)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/libnvidia-like.so", getenv("SHIM_TEST_PLUGINS"));
    void *driver = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(driver != NULL, "%s", dlerror());
    void *(*map)(size_t) = (void *(*)(size_t))dlsym(driver, "driver_like_map");
    ck_assert_ptr_nonnull(map);
    unsigned char *theirs = map(CACHE), *ours = map_cache(CACHE);
    ck_assert_ptr_nonnull(theirs);
    ck_assert(!is_managed(theirs));
    ck_assert(is_managed(ours));
    munmap(theirs, CACHE);
    munmap(ours, CACHE);
    dlclose(driver);
}
END_TEST

START_TEST(the_end_of_a_mapping_can_be_unmapped)
{
    unsigned char *cache = map_cache(PAGES(2048));
    fill(cache, PAGES(2048), 22);
    ck_assert_int_eq(munmap(cache + PAGES(1000), PAGES(1048)), 0);
    ck_assert(holds(cache, PAGES(1000), 22));
    ck_assert(!is_managed(cache + PAGES(1000)));
    ck_assert_int_eq(munmap(cache, PAGES(100)), 0);
    ck_assert(is_managed(cache + PAGES(100)));
    ck_assert_int_eq(munmap(cache + PAGES(500), PAGES(10)), 0);
    unsigned char *copy = malloc(PAGES(1000));
    fill(copy, PAGES(1000), 22);
    ck_assert_int_eq(memcmp(cache + PAGES(100), copy + PAGES(100), PAGES(400)), 0);
    ck_assert_int_eq(memcmp(cache + PAGES(510), copy + PAGES(510), PAGES(490)), 0);
    ck_assert_int_eq(munmap(cache, PAGES(2048)), 0); /* what is left, and what is not there */
    ck_assert(!is_managed(cache + PAGES(600)));
    free(copy);
}
END_TEST

START_TEST(what_was_unmapped_cannot_be_touched)
{
    unsigned char *cache = map_cache(PAGES(2048));
    fill(cache, PAGES(2048), 22);
    ck_assert_int_eq(munmap(cache + PAGES(10), PAGES(5)), 0);
    ck_assert(touch(cache + PAGES(10) - 1) != 0 && touch(cache + PAGES(15)) != 0);
    touch(cache + PAGES(10));
}
END_TEST

START_TEST(a_mapping_grows_with_mremap)
{
    unsigned char *cache = map_cache(CACHE);
    fill(cache, CACHE, 23);
    ck_assert_ptr_eq(mremap(cache, CACHE, 2 * CACHE, 0), MAP_FAILED);
    ck_assert_int_eq(errno, ENOMEM);
    unsigned char *grown = mremap(cache, CACHE, 2 * CACHE, MREMAP_MAYMOVE);
    ck_assert_ptr_ne(grown, MAP_FAILED);
    ck_assert(is_managed(grown) && !is_managed(cache) && holds(grown, CACHE, 23));
    ck_assert(is_zero(grown + CACHE, CACHE));
    ck_assert_ptr_eq(mremap(grown, 2 * CACHE, PAGES(100), MREMAP_MAYMOVE), grown);
    ck_assert(holds(grown, PAGES(100), 23));
    ck_assert(!is_managed(grown + PAGES(100)));
    void *place = mmap(NULL, CACHE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *moved = mremap(grown, PAGES(100), PAGES(200), MREMAP_MAYMOVE | MREMAP_FIXED, place);
    ck_assert_ptr_eq(moved, place);
    ck_assert(is_managed(moved) && holds(moved, PAGES(100), 23));
    ck_assert_int_eq(munmap(moved, PAGES(200)), 0);
}
END_TEST

START_TEST(a_mapping_over_the_cache_is_as_the_kernel_does_it)
{
    const int access = PROT_READ | PROT_WRITE, anonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    unsigned char *cache = map_cache(PAGES(2048));
    fill(cache, PAGES(2048), 24);
    ck_assert_ptr_eq(mmap(cache + PAGES(7), PAGES(9), access, anonymous, -1, 0), cache + PAGES(7));
    ck_assert(is_zero(cache + PAGES(7), PAGES(9)));
    ck_assert(holds(cache, PAGES(7), 24));
    ck_assert_uint_ne(cache[PAGES(16)], 0);
    int fd = memfd_create("other", MFD_CLOEXEC);
    ck_assert_int_eq(ftruncate(fd, (off_t)PAGES(4096)), 0);
    catch_stderr();
    ck_assert_ptr_eq(mmap(cache + PAGES(7), PAGES(9), access, MAP_SHARED | MAP_FIXED, fd, 0), MAP_FAILED);
    ck_assert_int_eq(count_lines(caught_stderr()), 1);
    ck_assert(holds(cache, PAGES(7), 24));
    ck_assert_ptr_eq(mmap(cache, PAGES(2048), access, MAP_SHARED | MAP_FIXED, fd, 0), cache);
    ck_assert(!is_managed(cache) && is_zero(cache, PAGES(2048)));
    cache[0] = 1;
    unsigned char byte;
    ck_assert(pread(fd, &byte, 1, 0) == 1 && byte == 1);
    ck_assert_ptr_eq(mmap(cache, PAGES(2048), access, anonymous, -1, 0), cache); /* a cache at an address of its own */
    ck_assert(is_managed(cache) && is_zero(cache, PAGES(2048)));
    ck_assert_int_eq(munmap(cache, PAGES(2048)), 0);
    close(fd);
}
END_TEST

/* ---- Advice and locks ---------------------------------------------------------------------------------------- */

START_TEST(madvise_does_what_it_says)
{
    static const int drops[] = {MADV_DONTNEED, MADV_FREE, MADV_REMOVE};
    unsigned char *cache = map_cache(PAGES(2048));
    for (size_t i = 0; i < sizeof drops / sizeof drops[0]; i++) {
        fill(cache, PAGES(2048), 31);
        ck_assert_int_eq(madvise(cache + PAGES(3), PAGES(1500), drops[i]), 0);
        ck_assert(is_zero(cache + PAGES(3), PAGES(1500)) && holds(cache, PAGES(3), 31));
        ck_assert_uint_ne(cache[PAGES(1503)], 0);
    }
    static const int hints[] = {MADV_WILLNEED,   MADV_COLD,     MADV_PAGEOUT, MADV_HUGEPAGE,
                                MADV_NOHUGEPAGE, MADV_DONTFORK, MADV_NORMAL,  MADV_RANDOM,
                                MADV_SEQUENTIAL, MADV_DONTDUMP, MADV_DODUMP};
    fill(cache, PAGES(2048), 32);
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++)
        ck_assert_msg(madvise(cache, PAGES(2048), hints[i]) == 0, "advice %d: %s", hints[i], strerror(errno));
    ck_assert(holds(cache, PAGES(2048), 32));
    struct fake_pager_calls *calls = pager_calls();
    ck_assert(!calls || (calls->n_colds == 2 && calls->n_will_needs > 0));
    ck_assert(madvise(cache, PAGES(2048), MADV_DOFORK) == -1 && errno == EINVAL);
    ck_assert(madvise(cache + 1, PAGES(1), MADV_DONTNEED) == -1 && errno == EINVAL);
    ck_assert_int_eq(munmap(cache, PAGES(2048)), 0);
}
END_TEST

/* Two mappings beside each other, the cache in the middle of other memory. */
START_TEST(calls_may_reach_over_the_cache_and_beyond)
{
    unsigned char *all = mmap(NULL, PAGES(6000), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_int_eq(mprotect(all, PAGES(6000), PROT_READ | PROT_WRITE), 0);
    unsigned char *cache = all + PAGES(1000);
    ck_assert_ptr_eq(mmap(cache, PAGES(3000), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                     cache);
    ck_assert(is_managed(cache) && !is_managed(cache - 1) && !is_managed(cache + PAGES(3000)));
    fill(all, PAGES(6000), 33);
    ck_assert_int_eq(madvise(all + PAGES(900), PAGES(5000), MADV_DONTNEED), 0);
    ck_assert(is_zero(all + PAGES(900), PAGES(5000)) && holds(all, PAGES(900), 33));
    fill(all, PAGES(6000), 34);
    memset(all + PAGES(900), 0, PAGES(5000));
    ck_assert(is_zero(all + PAGES(900), PAGES(5000)) && holds(all, PAGES(900), 34));
    ck_assert_int_eq(munmap(all + PAGES(900), PAGES(5000)), 0);
    ck_assert(!is_managed(cache) && holds(all, PAGES(900), 34));
    ck_assert_int_eq(munmap(all, PAGES(6000)), 0);
}
END_TEST

/* A figure of /proc/self/status, "VmLck" or the like, in bytes. */
static size_t figure(const char *name)
{
    FILE *status = fopen("/proc/self/status", "re");
    ck_assert_ptr_nonnull(status);
    char line[200];
    size_t kib = 0;
    while (fgets(line, sizeof line, status)) {
        if (strncmp(line, name, strlen(name)) == 0 && sscanf(line + strlen(name), ": %zu kB", &kib) == 1)
            break;
    }
    fclose(status);
    return kib << 10;
}

static size_t locked_bytes(void)
{
    return figure("VmLck");
}

START_TEST(a_locked_cache_stays_pageable)
{
    catch_stderr();
    unsigned char *cache = map_cache(PAGES(2048)), *second = map_cache(PAGES(2048));
    size_t before = locked_bytes();
    ck_assert_int_eq(mlock(cache, PAGES(2048)), 0);
    ck_assert_int_eq(mlock2(second + PAGES(7), PAGES(2000), MLOCK_ONFAULT), 0);
    ck_assert_uint_eq(locked_bytes(), before);
    ck_assert_int_eq(count_lines(caught_stderr()), 1); /* said once */
    ck_assert_int_eq(munlock(cache, PAGES(2048)), 0);
}
END_TEST

START_TEST(mlockall_does_not_pin_the_cache)
{
    unsigned char *cache = map_cache(64 * MIB);
    fill(cache, MIB, 35);
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) /* not root, and no limit to speak of */
        return;
    ck_assert_uint_gt(locked_bytes(), 0);
    size_t before = locked_bytes(), resident = figure("RssShmem");
    ck_assert_uint_lt(resident, 32 * MIB);
    ck_assert_int_eq(munlock(cache, 64 * MIB), 0);
    ck_assert_uint_eq(locked_bytes(), before);
    ck_assert(holds(cache, MIB, 35));
}
END_TEST

START_TEST(mlockall_before_the_cache_is_for_the_rest)
{
    map_cache(PAGES(2048)); /* the pager's own memory */
    ck_assert_int_eq(munlockall(), 0);
    if (mlockall(MCL_FUTURE) != 0)
        return;
    size_t resident = figure("RssShmem");
    unsigned char *cache = map_cache(64 * MIB);
    ck_assert_uint_lt(figure("RssShmem"), resident + 32 * MIB); /* nothing was taken for it */
    size_t before = locked_bytes();
    ck_assert_int_eq(munlock(cache, 64 * MIB), 0);
    ck_assert_uint_eq(locked_bytes(), before);
    fill(cache, MIB, 38);
    ck_assert(holds(cache, MIB, 38));
    resident = figure("RssAnon");
    void *later = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(later != MAP_FAILED && !is_managed(later));
    ck_assert_uint_ge(locked_bytes(), before + 4 * MIB);
    ck_assert_uint_ge(figure("RssAnon"), resident + 4 * MIB); /* at once, as was asked */
    ck_assert_int_eq(munlockall(), 0);
    ck_assert_uint_eq(locked_bytes(), 0);
}
END_TEST

START_TEST(advice_of_the_engine_is_checked)
{
    unsigned char *cache = malloc(CACHE), *other = malloc(OTHER);
    fill(cache, CACHE, 36);
    ck_assert_int_eq(advise(cache, CACHE, KVMM_WILLNEED), 0);
    ck_assert_int_eq(advise(cache + 100, 5 * MIB, KVMM_COLD), 0);
    ck_assert(holds(cache, CACHE, 36));
    ck_assert_int_eq(advise(cache, CACHE, 3), -EINVAL);
    ck_assert_int_eq(advise(cache, CACHE + 1, KVMM_COLD), -EINVAL);
    ck_assert_int_eq(advise(cache + 1, SIZE_MAX, KVMM_COLD), -EINVAL);
    ck_assert_int_eq(advise(other, OTHER, KVMM_COLD), -ENOENT);
    ck_assert_int_eq(advise(NULL, 1, KVMM_FREE), -ENOENT);
    ck_assert_int_eq(advise(cache + 33, CACHE - 33, KVMM_FREE), 0);
    ck_assert(holds(cache, 33, 36) && is_zero(cache + 33, CACHE - 33));
    free(other);
    free(cache);
}
END_TEST

/* ---- Processes and threads ----------------------------------------------------------------------------------- */

static int go_on_in_child(void *arg)
{
    unsigned char *cache = arg;
    free(cache); /* nothing: it isn't there */
    unsigned char *memory = malloc(CACHE);
    fill(memory, CACHE, 41);
    int wrong = !holds(memory, CACHE, 41) || advise(memory, CACHE, KVMM_COLD) != -ENOENT;
    unsigned char *grown = realloc(memory, 2 * CACHE);
    if (!grown)
        return 2;
    wrong |= !holds(grown, CACHE, 41);
    memset(grown, 0, 2 * CACHE);
    wrong |= !is_zero(grown, 2 * CACHE);
    free(grown);
    return wrong;
}

static int touch_in_child(void *arg)
{
    return touch(arg) < 0;
}

static int realloc_in_child(void *arg)
{
    volatile size_t bytes = 2 * CACHE;
    void *grown = realloc(arg, bytes);
    bool good = !grown && errno == ENOMEM;
    free(grown);
    return good ? 0 : 1;
}

START_TEST(a_child_has_no_cache_and_goes_on)
{
    unsigned char *cache = malloc(CACHE);
    fill(cache, CACHE, 42);
    ck_assert_int_eq(in_child(go_on_in_child, cache), 0);
    ck_assert_int_eq(in_child(touch_in_child, cache + 5 * MIB),
                     -SIGSEGV); /* never zeros in place of what was written */
    ck_assert_int_eq(in_child(realloc_in_child, cache), 0);
    ck_assert(holds(cache, CACHE, 42) && is_managed(cache));
    free(cache);
}
END_TEST

static int have_a_cache(void *arg)
{
    unsigned char *cache = malloc(CACHE);
    fill(cache, CACHE, 43);
    bool good = is_managed(cache) && holds(cache, CACHE, 43);
    free(cache);
    return good ? 0 : 1;
}

START_TEST(a_child_of_a_process_without_a_cache_can_have_one)
{
    free(malloc(OTHER));
    ck_assert_int_eq(in_child(have_a_cache, NULL), 0);
    ck_assert_int_eq(have_a_cache(NULL), 0);
}
END_TEST

static unsigned next(unsigned *state)
{
    *state = *state * 1103515245u + 12345u;
    return *state >> 8;
}

struct worker {
    pthread_t thread;
    unsigned seed;
    const char *wrong;
};

/* Sizes from nothing to a cache, grown and shrunk at random; each byte that was written must be there. */
struct block {
    unsigned char *memory;
    size_t bytes;
    unsigned seed;
};

static const char *renew(struct block *block, size_t bytes, unsigned how)
{
    size_t kept = block->bytes < bytes ? block->bytes : bytes;
    if (how % 2) {
        unsigned char *grown = realloc(block->memory, bytes);
        if (!grown)
            return "no memory";
        block->memory = grown;
        block->bytes = bytes;
        return holds(grown, kept, block->seed) ? NULL : "bytes were lost by realloc";
    }
    free(block->memory);
    block->memory = calloc(1, bytes);
    block->bytes = bytes;
    return block->memory && is_zero(block->memory, bytes) ? NULL : "calloc gives no zeros";
}

static const char *get_and_give_back(unsigned state)
{
    struct block blocks[4] = {0};
    const char *wrong = NULL;
    for (int round = 0; round < 60 && !wrong; round++) {
        struct block *block = &blocks[next(&state) % 4];
        size_t bytes = next(&state) % 3 == 0 ? 8 * MIB + next(&state) % MIB : next(&state) % (2 * MIB) + 1;
        wrong = renew(block, bytes, next(&state));
        block->seed = next(&state);
        if (block->memory)
            fill(block->memory, block->bytes, block->seed);
        for (unsigned k = 0; k < 4 && !wrong; k++) {
            if (!holds(blocks[k].memory, blocks[k].bytes < 5000 ? blocks[k].bytes : 5000, blocks[k].seed))
                wrong = "bytes were lost";
        }
    }
    for (unsigned k = 0; k < 4; k++)
        free(blocks[k].memory);
    return wrong;
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    worker->wrong = get_and_give_back(worker->seed);
    return NULL;
}

START_TEST(threads_get_and_give_back)
{
    enum { N = 4 };
    struct worker workers[N];
    const char *seed = getenv("KVMM_TEST_SEED");
    unsigned first = seed ? (unsigned)strtoul(seed, NULL, 10) : (unsigned)getpid();
    printf("seed %u\n", first);
    for (unsigned i = 0; i < N; i++) {
        workers[i].seed = first + i;
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < N; i++) {
        ck_assert_int_eq(pthread_join(workers[i].thread, NULL), 0);
        ck_assert_msg(!workers[i].wrong, "seed %u: %s", first, workers[i].wrong);
    }
}
END_TEST

static pthread_barrier_t cancelled;

static void *get_while_cancelled(void *arg)
{
    unsigned char **caches = arg;
    pthread_barrier_wait(&cancelled); /* no cancellation point */
    for (int i = 0; i < 3; i++) {     /* the first opens the pager and the control socket */
        caches[i] = malloc(CACHE);
        memset(caches[i], 0, CACHE);
        free(caches[i]);
        caches[i] = (unsigned char *)1;
    }
    pthread_testcancel();
    return NULL;
}

/* A thread that is to end does so at a point where threads may end; malloc and free are none. */
START_TEST(no_thread_is_cancelled_within)
{
    unsigned char *caches[3] = {0};
    pthread_t thread;
    ck_assert_int_eq(pthread_barrier_init(&cancelled, NULL, 2), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, get_while_cancelled, caches), 0);
    ck_assert_int_eq(pthread_cancel(thread), 0);
    pthread_barrier_wait(&cancelled);
    void *result;
    ck_assert_int_eq(pthread_join(thread, &result), 0);
    ck_assert_ptr_eq(result, PTHREAD_CANCELED);
    ck_assert_ptr_eq(caches[2], (unsigned char *)1);
    ck_assert_int_eq(have_a_cache(NULL), 0);
}
END_TEST

/* ---- Failures ------------------------------------------------------------------------------------------------ */

START_TEST(without_a_pager_the_engine_goes_on)
{
    if (!pager_calls())
        return; /* the real one fails in tests of its own */
    setenv("FAKE_PAGER_FAIL", _i == 0 ? "open" : "map", 1);
    catch_stderr();
    for (int i = 0; i < 3; i++) {
        unsigned char *memory = calloc(1, CACHE);
        ck_assert(!is_managed(memory) && is_zero(memory, CACHE));
        memory = realloc(memory, 2 * CACHE);
        fill(memory, 2 * CACHE, 51);
        ck_assert(holds(memory, 2 * CACHE, 51));
        free(memory);
        void *mapped = mmap(NULL, CACHE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ck_assert(mapped != MAP_FAILED && !is_managed(mapped) && munmap(mapped, CACHE) == 0);
    }
    ck_assert_msg(count_lines(caught_stderr()) == 1, "said: %s", caught_stderr());
    ck_assert_ptr_nonnull(strstr(caught_stderr(), "stays with the engine"));
    ck_assert_uint_eq(pager_calls()->n_opens, 1);
}
END_TEST

static Suite *suite(void)
{
    const int n_allocators = sizeof allocators / sizeof allocators[0];
    Suite *s = suite_create("shim memory");
    TCase *memory = tcase_create("memory");
    tcase_set_timeout(memory, 60);
    tcase_add_loop_test(memory, every_allocator_gives_the_cache, 0, n_allocators);
    tcase_add_loop_test(memory, every_allocator_passes_the_rest, 0, n_allocators);
    tcase_add_test(memory, impossible_sizes_fail);
    tcase_add_test(memory, realloc_keeps_what_was_written);
    tcase_add_test(memory, clearing_reads_as_zeros);
    tcase_add_test(memory, clearing_a_part_leaves_the_rest);
    tcase_add_test(memory, a_mapping_is_the_cache_until_it_is_unmapped);
    tcase_add_test(memory, mappings_that_are_no_cache_pass);
    tcase_add_test(memory, what_the_driver_maps_is_its_own);
    tcase_add_test(memory, the_end_of_a_mapping_can_be_unmapped);
    tcase_add_test_raise_signal(memory, what_was_unmapped_cannot_be_touched, SIGSEGV);
    tcase_add_test(memory, a_mapping_grows_with_mremap);
    tcase_add_test(memory, a_mapping_over_the_cache_is_as_the_kernel_does_it);
    tcase_add_test(memory, madvise_does_what_it_says);
    tcase_add_test(memory, calls_may_reach_over_the_cache_and_beyond);
    tcase_add_test(memory, a_locked_cache_stays_pageable);
    tcase_add_test(memory, mlockall_does_not_pin_the_cache);
    tcase_add_test(memory, mlockall_before_the_cache_is_for_the_rest);
    tcase_add_test(memory, advice_of_the_engine_is_checked);
    tcase_add_test(memory, a_child_has_no_cache_and_goes_on);
    tcase_add_test(memory, a_child_of_a_process_without_a_cache_can_have_one);
    tcase_add_test(memory, threads_get_and_give_back);
    tcase_add_test(memory, no_thread_is_cancelled_within);
    tcase_add_loop_test(memory, without_a_pager_the_engine_goes_on, 0, 2);
    suite_add_tcase(s, memory);
    return s;
}

int main(void)
{
    under_shim();
    SRunner *runner = srunner_create(suite());
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
