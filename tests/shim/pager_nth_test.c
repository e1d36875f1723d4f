/* SPDX-License-Identifier: Apache-2.0
 *
 * Each call of the system that the pager makes fails once, in turn. Either the pager's call fails and leaves nothing behind, or
 * everything goes on and every byte is right. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/shim/pager_support.h"
#include "tests/support/leaks.h"

enum call {
    MMAP,
    MADVISE,
    MEMFD,
    FTRUNCATE,
    FALLOCATE,
    PREAD,
    PWRITE,
    EVENTFD,
    IOCTL,
    THREAD,
    CALLOC,
    REALLOC,
    N_CALLS
};
static const char *const names[] = {"mmap",   "madvise", "memfd_create", "ftruncate",      "fallocate", "pread",
                                    "pwrite", "eventfd", "ioctl",        "pthread_create", "calloc",    "realloc"};

static _Atomic long counts[N_CALLS];
static _Atomic int fail_call = -1;
static _Atomic long fail_nth;

/* Whether this call is the one that fails. */
static bool fails(enum call call)
{
    long n = atomic_fetch_add(&counts[call], 1) + 1;
    return atomic_load(&fail_call) == (int)call && n == atomic_load(&fail_nth);
}

#define WRAP(call, type, name, parameters, arguments, failed)                                                          \
    type __real_##name parameters;                                                                                     \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters                                                                                      \
    {                                                                                                                  \
        if (fails(call)) {                                                                                             \
            errno = call == MADVISE ? EINVAL : ENOMEM; /* ENOMEM of madvise: a part isn't mapped */                    \
            return failed;                                                                                             \
        }                                                                                                              \
        return __real_##name arguments;                                                                                \
    }

WRAP(MMAP, void *, mmap64, (void *at, size_t n, int prot, int flags, int fd, off_t offset),
     (at, n, prot, flags, fd, offset), MAP_FAILED)
WRAP(MADVISE, int, madvise, (void *at, size_t n, int advice), (at, n, advice), -1)
WRAP(MEMFD, int, memfd_create, (const char *name, unsigned flags), (name, flags), -1)
WRAP(FTRUNCATE, int, ftruncate64, (int fd, off_t size), (fd, size), -1)
WRAP(FALLOCATE, int, fallocate64, (int fd, int mode, off_t offset, off_t n), (fd, mode, offset, n), -1)
WRAP(PREAD, ssize_t, pread64, (int fd, void *at, size_t n, off_t offset), (fd, at, n, offset), -1)
WRAP(PWRITE, ssize_t, pwrite64, (int fd, const void *at, size_t n, off_t offset), (fd, at, n, offset), -1)
WRAP(EVENTFD, int, eventfd, (unsigned n, int flags), (n, flags), -1)
WRAP(THREAD, int, pthread_create,
     (pthread_t * thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument),
     (thread, attributes, run, argument), EAGAIN)
WRAP(CALLOC, void *, calloc, (size_t n, size_t size), (n, size), NULL)
WRAP(REALLOC, void *, realloc, (void *at, size_t size), (at, size), NULL)

int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
    if (fails(IOCTL)) {
        errno = ENOMEM;
        return -1;
    }
    return __real_ioctl(fd, request, argument);
}

static struct said said;

#define BYTES (7 * MIB + 4096 * 3)

/* A pager's life. Returns how far it came: 0: open failed, 1: map failed, 2: all of it. */
static int live(void)
{
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    struct shim_pager *pager = NULL;
    char why[256] = "";
    int error = shim_pager_open(&config, &pager, why, sizeof why);
    if (error) {
        ck_assert_int_lt(error, 0);
        ck_assert_str_ne(why, "");
        ck_assert_ptr_null(pager);
        return 0;
    }
    void *base = NULL;
    error = shim_pager_map(pager, NULL, BYTES, 0, &base);
    if (error) {
        ck_assert_int_lt(error, 0);
        ck_assert_ptr_null(base);
        shim_pager_close(&pager);
        return 1;
    }
    for (uint64_t version = 0; version < 2; version++) {
        fill_words(base, BYTES, version);
        ck_assert_uint_eq(check_words(base, BYTES, version), BYTES / 8);
        ck_assert_uint_eq(check_words(base, BYTES, version), BYTES / 8);
        shim_pager_suspend(pager, 10000); /* may fail; then it is as if it had never been */
        shim_pager_resume(pager);
    }
    ck_assert_uint_eq(check_words(base, BYTES, 1), BYTES / 8);
    ck_assert_int_eq(shim_pager_discard(pager, (char *)base + 5000, 5 * MIB), 0);
    ck_assert(all_zero((char *)base + 5000, 5 * MIB));
    ck_assert_int_eq(shim_pager_unmap(pager, base, false), 0);
    ck_assert_uint_eq(pager_info(pager).swapped_bytes, 0);
    shim_pager_close(&pager);
    return 2;
}

static void each_fails_once(enum call call)
{
    struct shim_pager *pager;
    struct shim_pager_config config = pager_config(4 * MIB, &said);
    open_or_skip(&pager, &config);
    shim_pager_close(&pager);
    int fds = count_fds(), threads = count_threads(), maps = leaks_count_maps("memfd:kvmm");
    memset(counts, 0, sizeof counts);
    ck_assert_int_eq(live(), 2);
    long n = atomic_load(&counts[call]), most = scaled(30) + 4, all = most < 20 ? 3 : 20;
    int came[3] = {0};
    ck_assert_int_gt(n, 0);
    /* All of the first ones, which open and map; then some of the many that move pages. */
    for (long nth = 1; nth <= n; nth += nth < all || n < most ? 1 : n / (most - all + 1)) {
        memset(counts, 0, sizeof counts);
        atomic_store(&fail_nth, nth);
        atomic_store(&fail_call, (int)call);
        came[live()]++;
        atomic_store(&fail_call, -1);
    }
    printf("%s: %ld calls; open failed %d times, map %d, neither %d\n", names[call], n, came[0], came[1], came[2]);
    expect_nothing_left(fds, threads);
    ck_assert_int_eq(leaks_count_maps("memfd:kvmm"), maps);
}

START_TEST(the_nth_call_fails)
{
    each_fails_once((enum call)_i);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("pager, nth call");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, the_nth_call_fails, 0, N_CALLS);
    return run_suite("pager_nth", tests);
}
