/* SPDX-License-Identifier: Apache-2.0 */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Shared with the children that Check forks. */
static struct {
    int n_skipped, n_ended;
} * shared;

static void *do_nothing(void *arg)
{
    return arg;
}

/* ThreadSanitizer starts a thread of its own with a process's first thread: before anything is counted. */
static void start_first_thread(void)
{
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, do_nothing, NULL), 0);
    pthread_join(thread, NULL);
}

static void note_end(void)
{
    __atomic_add_fetch(&shared->n_ended, 1, __ATOMIC_RELAXED);
}

int run_suite(const char *name, TCase *tests)
{
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return EXIT_FAILURE;
    Suite *suite = suite_create(name);
    tcase_set_timeout(tests, 100);
    tcase_add_checked_fixture(tests, start_first_thread, note_end);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    /* Tests change their process for good (limits, seccomp), so each has one of its own. */
    srunner_set_fork_status(runner, CK_FORK);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (n_failed > 0)
        return EXIT_FAILURE;
    return shared->n_ended > 0 && shared->n_skipped == shared->n_ended ? 77 : EXIT_SUCCESS;
}

void skip_word(const char *test, const char *why)
{
    printf("%s: skipped: %s\n", test, why);
    __atomic_add_fetch(&shared->n_skipped, 1, __ATOMIC_RELAXED);
}

const char *test_dir(void)
{
    const char *dir = getenv("KVMM_TEST_DIR");
    return dir == NULL ? "/var/tmp" : dir;
}

uint64_t random_next(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void fill_block(void *block, size_t bytes, uint64_t key, uint32_t generation)
{
    uint64_t state = key * 0x100000001b3u + generation + bytes;
    uint64_t *words = block;
    for (size_t i = 0; i < bytes / sizeof(*words); i++)
        words[i] = random_next(&state);
}

bool is_block(const void *block, size_t bytes, uint64_t key, uint32_t generation)
{
    uint64_t state = key * 0x100000001b3u + generation + bytes;
    const uint64_t *words = block;
    for (size_t i = 0; i < bytes / sizeof(*words); i++)
        if (words[i] != random_next(&state))
            return false;
    return true;
}

void *new_block(size_t bytes)
{
    void *block = aligned_alloc(SWAP_ALIGN, bytes);
    ck_assert_ptr_nonnull(block);
    memset(block, 0, bytes);
    return block;
}

static int count_entries(const char *path)
{
    DIR *dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    int n = 0;
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

int count_fds(void)
{
    return count_entries("/proc/self/fd");
}

int count_threads(void)
{
    return count_entries("/proc/self/task");
}

void expect_nothing_left(int fds, int threads)
{
    for (int i = 0; i < 500 && (count_fds() > fds || count_threads() > threads); i++)
        usleep(10000);
    ck_assert_int_eq(count_fds(), fds);
    ck_assert_int_le(count_threads(), threads);
}

struct tally {
    pthread_mutex_t lock;
    pthread_cond_t grown;
    int n;
};

struct tally *tally_new(void)
{
    struct tally *tally = calloc(1, sizeof(*tally));
    ck_assert_ptr_nonnull(tally);
    pthread_mutex_init(&tally->lock, NULL);
    pthread_cond_init(&tally->grown, NULL);
    return tally;
}

void tally_add(struct tally *tally)
{
    pthread_mutex_lock(&tally->lock);
    tally->n++;
    pthread_cond_broadcast(&tally->grown);
    pthread_mutex_unlock(&tally->lock);
}

void tally_wait(struct tally *tally, int n)
{
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 60;
    int late = 0;
    pthread_mutex_lock(&tally->lock);
    while (tally->n < n && late == 0)
        late = pthread_cond_timedwait(&tally->grown, &tally->lock, &deadline);
    int got = tally->n;
    pthread_mutex_unlock(&tally->lock);
    ck_assert_int_ge(got, n);
}

void tally_free(struct tally *tally)
{
    pthread_mutex_destroy(&tally->lock);
    pthread_cond_destroy(&tally->grown);
    free(tally);
}

void waited_done(struct swap_io *io)
{
    tally_add(((struct waited_io *)io)->tally);
}

static int io_wait(struct swap_store *store, uint32_t slot, struct swap_stamp stamp, void *buf,
                   void (*start)(struct swap_store *store, struct swap_io *io))
{
    struct waited_io waited = {.io = {.slot = slot, .stamp = stamp, .buf = buf, .done = waited_done}};
    waited.tally = tally_new();
    start(store, &waited.io);
    tally_wait(waited.tally, 1);
    tally_free(waited.tally);
    return waited.io.result;
}

int put_wait(struct swap_store *store, uint32_t slot, struct swap_stamp stamp, void *buf)
{
    return io_wait(store, slot, stamp, buf, swap_put);
}

int get_wait(struct swap_store *store, uint32_t slot, struct swap_stamp stamp, void *buf)
{
    return io_wait(store, slot, stamp, buf, swap_get);
}

bool deny_call(int number, int argument, uint32_t bits, int error)
{
    /* Low halves of the arguments: little-endian machines only, as the rest of the project. */
    uint32_t where = (uint32_t)offsetof(struct seccomp_data, args) + 8u * (uint32_t)(argument < 0 ? 0 : argument);
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, where),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, argument < 0 ? 0 : bits),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, argument < 0 ? 0 : bits, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ((uint32_t)error & SECCOMP_RET_DATA)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return false;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0;
}

void drop_privileges(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};
    ck_assert_int_eq(syscall(SYS_capset, &header, none), 0);
}

bool set_locked_limit(uint64_t bytes)
{
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
    limit.rlim_cur = bytes;
    return bytes <= limit.rlim_max && setrlimit(RLIMIT_MEMLOCK, &limit) == 0;
}

void said_log(void *user, bool warning, const char *line)
{
    struct said *said = user;
    size_t used = strlen(said->lines);
    snprintf(said->lines + used, sizeof(said->lines) - used, "%s\n", line);
    said->n_warnings += warning;
}
