/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine under the shim with KVMM_SELECT=cleared:8MiB: an allocation becomes the cache when it is cleared as a whole, in
 * place, and goes back to its allocator at the end. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <check.h>

#include "tests/shim/under.h"

#define CACHE (8 * MIB + 12345)

/* As ggml takes it. */
static unsigned char *take(size_t bytes)
{
    void *address;
    ck_assert_int_eq(posix_memalign(&address, 64, bytes), 0);
    ck_assert(!is_managed((char *)address + 4096));
    return address;
}

static unsigned n_replaces(void)
{
    return pager_calls() ? pager_calls()->n_replaces : 0;
}

START_TEST(cleared_as_a_whole_is_the_cache)
{
    for (unsigned i = 0; i < 5; i++) {
        unsigned char *cache = take(CACHE);
        fill(cache, CACHE, i);
        unsigned before = n_replaces();
        memset(cache, 0, CACHE);
        ck_assert(is_managed(cache + 4096) && is_managed(cache + CACHE - 4096));
        ck_assert(is_zero(cache, CACHE));
        fill(cache, CACHE, i);
        ck_assert(holds(cache, CACHE, i));
        memset(cache, 0, CACHE); /* again, as llama.cpp does */
        ck_assert(is_zero(cache, CACHE));
        fill(cache, CACHE, i + 1);
        ck_assert_uint_ge(malloc_usable_size(cache), CACHE);
        free(cache);
        ck_assert(!is_managed(cache + 4096));
        ck_assert(!pager_calls() || n_replaces() == before + 1);
    }
    /* The allocator's memory is whole. */
    for (unsigned i = 0; i < 20; i++) {
        unsigned char *memory = malloc(MIB * i / 2 + 1);
        fill(memory, MIB * i / 2 + 1, i);
        free(memory);
    }
}
END_TEST

START_TEST(used_otherwise_is_no_cache)
{
    for (int how = 0; how < 5; how++) {
        unsigned char *memory = take(CACHE);
        if (how == 0)
            memset(memory, 0xff, CACHE);
        else if (how == 1)
            memset(memory, 0, CACHE / 2);
        else if (how == 2)
            memset(memory + CACHE / 2, 0, CACHE / 2);
        else if (how == 3)
            memory = realloc(memory, 2 * MIB);
        else
            fill(memory, CACHE, 3); /* unseen, and so is the clearing of something else */
        ck_assert(!is_managed(memory + 4096));
        if (how < 3) {
            memset(memory, 0, CACHE); /* too late */
            ck_assert(!is_managed(memory + 4096) && is_zero(memory, CACHE));
        }
        free(memory);
    }
    unsigned char *freed = take(CACHE);
    free(freed);
    unsigned char *small = malloc(8 * MIB - 1);
    memset(small, 0, 8 * MIB - 1);
    ck_assert(!is_managed(small + 4096));
    free(small);
    ck_assert(!pager_calls() || pager_calls()->n_opens == 0);
}
END_TEST

START_TEST(neighbours_are_left_alone)
{
    unsigned char *cache = take(CACHE);
    unsigned char *first_page = (unsigned char *)((uintptr_t)cache & ~4095ul);
    unsigned char before[4096];
    size_t n_before = (size_t)(cache - first_page);
    memcpy(before, first_page, n_before);
    memset(cache, 0, CACHE);
    ck_assert_int_eq(memcmp(before, first_page, n_before), 0);
    free(cache);
}
END_TEST

START_TEST(realloc_of_an_adopted_one)
{
    unsigned char *cache = take(CACHE);
    memset(cache, 0, CACHE);
    fill(cache, CACHE, 4);
    cache = realloc(cache, 2 * CACHE);
    ck_assert(is_managed(cache + 4096) && holds(cache, CACHE, 4));
    ck_assert(!pager_calls() || n_replaces() == 1);
    free(cache);
    cache = take(CACHE);
    memset(cache, 0, CACHE);
    fill(cache, CACHE, 5);
    cache = realloc(cache, 5000);
    ck_assert(!is_managed(cache) && holds(cache, 5000, 5));
    free(cache);
}
END_TEST

START_TEST(a_mapping_is_adopted)
{
    unsigned char *cache = mmap(NULL, CACHE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(cache, MAP_FAILED);
    ck_assert(!is_managed(cache));
    memset(cache, 0, CACHE);
    ck_assert(is_managed(cache));
    fill(cache, CACHE, 6);
    ck_assert(holds(cache, CACHE, 6));
    ck_assert_int_eq(munmap(cache, CACHE), 0);
    ck_assert(!is_managed(cache));
    unsigned char resident;
    ck_assert_int_eq(mincore(cache, 4096, &resident), -1);
    cache = mmap(NULL, CACHE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_int_eq(munmap(cache + 4096, 4096), 0);
    memset(cache + 8192, 0, CACHE - 8192);
    ck_assert(!is_managed(cache + 8192));
    ck_assert_int_eq(munmap(cache, CACHE), 0);
}
END_TEST

/* More than are remembered: the latest can still be told. */
START_TEST(many_are_remembered)
{
    enum { N = 100 };
    unsigned char *memory[N];
    for (int i = 0; i < N; i++)
        memory[i] = take(CACHE);
    memset(memory[N - 1], 0, CACHE);
    ck_assert(is_managed(memory[N - 1] + 4096));
    memset(memory[0], 0, CACHE);
    ck_assert(!is_managed(memory[0] + 4096) && is_zero(memory[0], CACHE));
    for (int i = 0; i < N; i++)
        free(memory[i]);
}
END_TEST

static int end_in_child(void *arg)
{
    free(arg); /* the pages inside are not there, so the allocator must not have it */
    unsigned char *memory = malloc(CACHE);
    memset(memory, 0, CACHE);
    bool good = is_zero(memory, CACHE);
    free(memory);
    return good ? 0 : 1;
}

START_TEST(a_child_leaves_it_be)
{
    unsigned char *cache = take(CACHE);
    memset(cache, 0, CACHE);
    fill(cache, CACHE, 8);
    ck_assert_int_eq(in_child(end_in_child, cache), 0);
    ck_assert(holds(cache, CACHE, 8));
    free(cache);
}
END_TEST

START_TEST(without_a_pager_it_is_cleared_all_the_same)
{
    if (!pager_calls())
        return; /* the real one fails in tests of its own */
    setenv("FAKE_PAGER_FAIL", _i == 0 ? "open" : "map", 1);
    catch_stderr();
    for (int i = 0; i < 3; i++) {
        unsigned char *memory = take(CACHE);
        fill(memory, CACHE, 9);
        memset(memory, 0, CACHE);
        ck_assert(is_zero(memory, CACHE) && !is_managed(memory + 4096));
        free(memory);
    }
    ck_assert_msg(count_lines(caught_stderr()) == 1, "said: %s", caught_stderr());
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("shim cleared");
    TCase *cleared = tcase_create("cleared");
    tcase_set_timeout(cleared, 60);
    tcase_add_test(cleared, cleared_as_a_whole_is_the_cache);
    tcase_add_test(cleared, used_otherwise_is_no_cache);
    tcase_add_test(cleared, neighbours_are_left_alone);
    tcase_add_test(cleared, realloc_of_an_adopted_one);
    tcase_add_test(cleared, a_mapping_is_adopted);
    tcase_add_test(cleared, many_are_remembered);
    tcase_add_test(cleared, a_child_leaves_it_be);
    tcase_add_loop_test(cleared, without_a_pager_it_is_cleared_all_the_same, 0, 2);
    suite_add_tcase(s, cleared);
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
