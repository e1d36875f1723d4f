/* SPDX-License-Identifier: Apache-2.0
 *
 * The file store and the place it is given: what it says of a bad one, and that its file is private and goes away. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

enum { BYTES = 64 << 10 };

static struct swap_crew *crew;
static struct swap_store *store;
static struct said said;
static char reason[512];

/* A directory of this test's own, empty. */
static char own_dir[256];

static void make_own_dir(void)
{
    snprintf(own_dir, sizeof(own_dir), "%s/kvmm-test-XXXXXX", test_dir());
    ck_assert_ptr_nonnull(mkdtemp(own_dir));
}

static int count_files(const char *path)
{
    DIR *dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    int n = -2; /* . and .. */
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

static struct swap_file_config configure(const char *dir, const char *backend)
{
    if (crew == NULL)
        ck_assert_int_eq(swap_crew_open(1, &crew), 0);
    return (struct swap_file_config){.dir = dir,
                                     .block_bytes = BYTES,
                                     .max_bytes = 16 * BYTES,
                                     .backend = backend,
                                     .crew = crew,
                                     .log = said_log,
                                     .log_user = &said};
}

static int open_file_store(const struct swap_file_config *config)
{
    reason[0] = '\0';
    store = NULL;
    return swap_file_open(config, &store, reason, sizeof(reason));
}

static void round_trip(void)
{
    char *block = new_block(BYTES);
    struct swap_stamp stamp = {3, 4};
    uint32_t slot;
    ck_assert_int_eq(swap_slot_alloc(store, &slot), 0);
    fill_block(block, BYTES, 3, 4);
    ck_assert_int_eq(put_wait(store, slot, stamp, block), 0);
    memset(block, 0, BYTES);
    ck_assert_int_eq(get_wait(store, slot, stamp, block), 0);
    ck_assert(is_block(block, BYTES, 3, 4));
    swap_slot_free(store, slot);
    free(block);
}

static struct swap_store_info get_info(void)
{
    struct swap_store_info info;
    swap_get_info(store, &info);
    return info;
}

/* An open that must fail so, name the directory, and leave nothing. */
static void expect_refusal(const struct swap_file_config *config, int result, const char *word)
{
    int fds = count_fds(), threads = count_threads();
    ck_assert_int_eq(open_file_store(config), result);
    ck_assert_ptr_null(store);
    ck_assert_msg(strncmp(reason, "swap directory ", 15) == 0 && strstr(reason, config->dir) != NULL &&
                      strstr(reason, word) != NULL && strchr(reason, '\n') == NULL,
                  "the reason is \"%s\"", reason);
    expect_nothing_left(fds, threads);
}

START_TEST(bad_directories_are_named)
{
    make_own_dir();
    char path[512];
    snprintf(path, sizeof(path), "%s/nothing", own_dir);
    struct swap_file_config config = configure(path, "auto");
    expect_refusal(&config, -ENOENT, "No such file or directory");
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    close(fd);
    expect_refusal(&config, -ENOTDIR, "Not a directory");
    unlink(path);
    /* Also without a place for the reason. */
    ck_assert_int_eq(swap_file_open(&config, &store, NULL, 0), -ENOENT);
    ck_assert_int_eq(count_files(own_dir), 0);
    rmdir(own_dir);
    swap_crew_close(&crew);
}
END_TEST

START_TEST(bad_settings_are_named)
{
    struct swap_file_config config = configure(test_dir(), "auto");
    config.max_bytes = BYTES - 1;
    expect_refusal(&config, -EINVAL, "holds no block");
    config = configure(test_dir(), "carrier pigeon");
    expect_refusal(&config, -EINVAL, "carrier pigeon");
    static const size_t blocks[] = {0, 512, 4097, (size_t)2 << 30};
    for (int i = 0; i < 4; i++) {
        config = configure(test_dir(), "auto");
        config.max_bytes = 0;
        config.block_bytes = blocks[i];
        expect_refusal(&config, -EINVAL, "multiple of 4096");
    }
    config = configure(test_dir(), "threads");
    config.read_depth = SWAP_DEPTH_LIMIT + 1;
    expect_refusal(&config, -EINVAL, "Invalid argument");
    swap_crew_close(&crew);
}
END_TEST

/* A mount namespace of this process's own, where it may mount; root's or a new user's. */
static bool enter_namespace(void)
{
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        return false;
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static bool mount_tmpfs(unsigned long flags, const char *options)
{
    return enter_namespace() && mount("kvmm-test", own_dir, "tmpfs", flags, options) == 0;
}

START_TEST(a_full_file_system_says_so_at_open)
{
    make_own_dir();
    if (!mount_tmpfs(0, "size=1m")) {
        rmdir(own_dir);
        skip("no mounts here");
    }
    struct swap_file_config config = configure(own_dir, "threads");
    /* Without a limit of ours there must be the reserve, too. */
    config.max_bytes = 0;
    expect_refusal(&config, -ENOSPC, "MiB free");
    /* A block that doesn't fit at all. */
    config.block_bytes = 2 << 20;
    config.max_bytes = 4 << 20;
    expect_refusal(&config, -ENOSPC, "No space left on device");
    /* Less than the limit: takes what there is, says so, and is full then. */
    config.block_bytes = BYTES;
    said = (struct said){0};
    ck_assert_int_eq(open_file_store(&config), 0);
    ck_assert_ptr_nonnull(strstr(said.lines, "less than the limit"));
    ck_assert_ptr_nonnull(strstr(said.lines, "tmpfs"));
    round_trip();
    uint32_t slot, n = 0;
    int result;
    while ((result = swap_slot_alloc(store, &slot)) == 0)
        n++;
    ck_assert_int_eq(result, -ENOSPC);
    ck_assert_uint_ge(n, 1);
    ck_assert_uint_le(n, 16);
    ck_assert_ptr_nonnull(strstr(said.lines, "can't grow"));
    ck_assert_int_eq(swap_slot_alloc(store, &slot), -ENOSPC);
    ck_assert_ptr_null(strstr(strstr(said.lines, "can't grow") + 1, "can't grow")); /* said once */
    swap_close(&store);
    swap_crew_close(&crew);
    umount(own_dir);
    rmdir(own_dir);
}
END_TEST

START_TEST(a_read_only_file_system_says_so_at_open)
{
    make_own_dir();
    if (!mount_tmpfs(MS_RDONLY, "size=1m")) {
        rmdir(own_dir);
        skip("no mounts here");
    }
    struct swap_file_config config = configure(own_dir, "auto");
    expect_refusal(&config, -EROFS, "Read-only file system");
    swap_crew_close(&crew);
    umount(own_dir);
    rmdir(own_dir);
}
END_TEST

START_TEST(a_directory_of_others_says_so_at_open)
{
    make_own_dir();
    ck_assert_int_eq(chmod(own_dir, 0500), 0);
    drop_privileges();
    struct swap_file_config config = configure(own_dir, "auto");
    expect_refusal(&config, -EACCES, "Permission denied");
    swap_crew_close(&crew);
    rmdir(own_dir);
}
END_TEST

/* The store's file, which has no name any more. */
static int stat_file(struct stat *status)
{
    DIR *dir = opendir("/proc/self/fd");
    ck_assert_ptr_nonnull(dir);
    int found = -1;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char target[512];
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
        if (n < 0)
            continue;
        target[n] = '\0';
        if (strncmp(target, own_dir, strlen(own_dir)) == 0)
            found = (int)strtol(entry->d_name, NULL, 10);
    }
    closedir(dir);
    ck_assert_int_ge(found, 0);
    ck_assert_int_eq(fstat(found, status), 0);
    return found;
}

static void expect_private_file(void)
{
    struct stat status;
    int fd = stat_file(&status);
    ck_assert_uint_eq(status.st_mode, S_IFREG | 0600);
    ck_assert_uint_eq(status.st_nlink, 0);
    ck_assert_int_ne(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    /* The 0 is for the test that forbids fcntl by its third argument. */
    ck_assert_int_eq(((unsigned)fcntl(fd, F_GETFL, 0) & O_DIRECT) != 0, get_info().direct);
    ck_assert_int_eq(count_files(own_dir), 0);
    /* Nobody can give it a name. */
    char from[64], to[512];
    snprintf(from, sizeof(from), "/proc/self/fd/%d", fd);
    snprintf(to, sizeof(to), "%s/name", own_dir);
    ck_assert_int_ne(linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW), 0);
}

START_TEST(the_file_is_private)
{
    make_own_dir();
    umask(0);
    struct swap_file_config config = configure(own_dir, "threads");
    ck_assert_int_eq(open_file_store(&config), 0);
    expect_private_file();
    round_trip();
    swap_close(&store);
    swap_crew_close(&crew);
    ck_assert_int_eq(rmdir(own_dir), 0);
}
END_TEST

/* Calls that a file system, or an older kernel, may lack. */
static const struct {
    const char *name;
    int number, argument;
    uint32_t bits;
    int error;
    const char *line; /* that is logged, or NULL */
} lacks[] = {
    {"O_TMPFILE", SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP, NULL},
    {"O_TMPFILE, long ago", SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EISDIR, NULL},
    {"O_DIRECT", SYS_fcntl, 2, O_DIRECT, EINVAL, "no direct I/O"},
    {"fallocate", SYS_fallocate, -1, 0, EOPNOTSUPP, "no fallocate"},
    {"statx", SYS_statx, -1, 0, ENOSYS, NULL},
};

START_TEST(what_the_file_system_lacks_is_made_up_for)
{
    make_own_dir();
    if (!deny_call(lacks[_i].number, lacks[_i].argument, lacks[_i].bits, lacks[_i].error)) {
        rmdir(own_dir);
        skip("no seccomp here");
    }
    struct swap_file_config config = configure(own_dir, "threads");
    ck_assert_msg(open_file_store(&config) == 0, "without %s: %s", lacks[_i].name, reason);
    expect_private_file();
    round_trip();
    if (lacks[_i].line != NULL)
        ck_assert_ptr_nonnull(strstr(said.lines, lacks[_i].line));
    else
        ck_assert_str_eq(said.lines, "");
    swap_close(&store);
    swap_crew_close(&crew);
    ck_assert_int_eq(rmdir(own_dir), 0);
}
END_TEST

START_TEST(auto_falls_back_to_threads)
{
    static const int calls[] = {SYS_io_uring_setup, SYS_io_uring_enter}; /* the latter: it can be made, but not used */
    make_own_dir();
    if (!deny_call(calls[_i], -1, 0, EPERM)) {
        rmdir(own_dir);
        skip("no seccomp here");
    }
    struct swap_file_config config = configure(own_dir, "auto");
    ck_assert_int_eq(open_file_store(&config), 0);
    ck_assert_str_eq(get_info().backend, "threads");
    ck_assert_ptr_nonnull(strstr(said.lines, "no io_uring"));
    ck_assert_int_eq(said.n_warnings, 1);
    round_trip();
    swap_close(&store);
    /* Who asked for io_uring gets it or an error. */
    config.backend = "io_uring";
    int result = open_file_store(&config);
    ck_assert(result == -EPERM || result == -ENOSYS);
    ck_assert_ptr_nonnull(strstr(reason, "io_uring"));
    ck_assert_ptr_null(store);
    /* Who asked for threads isn't told about io_uring. */
    said = (struct said){0};
    config.backend = "threads";
    ck_assert_int_eq(open_file_store(&config), 0);
    ck_assert_str_eq(said.lines, "");
    swap_close(&store);
    swap_crew_close(&crew);
    rmdir(own_dir);
}
END_TEST

START_TEST(auto_takes_io_uring_where_it_can)
{
    make_own_dir();
    struct swap_file_config config = configure(own_dir, "io_uring");
    if (open_file_store(&config) != 0) {
        swap_crew_close(&crew);
        rmdir(own_dir);
        skip("no io_uring here");
    }
    swap_close(&store);
    config.backend = "auto";
    ck_assert_int_eq(open_file_store(&config), 0);
    ck_assert_str_eq(get_info().backend, "io_uring");
    round_trip();
    swap_close(&store);
    config.backend = NULL; /* the same */
    ck_assert_int_eq(open_file_store(&config), 0);
    ck_assert_str_eq(get_info().backend, "io_uring");
    swap_close(&store);
    swap_crew_close(&crew);
    rmdir(own_dir);
}
END_TEST

START_TEST(unregistered_buffers_are_said)
{
    make_own_dir();
    struct swap_file_config config = configure(own_dir, "io_uring");
    if (open_file_store(&config) != 0) {
        swap_crew_close(&crew);
        rmdir(own_dir);
        skip("no io_uring here");
    }
    swap_close(&store);
    drop_privileges();
    struct iovec buffer = {new_block((size_t)64 << 20), (size_t)64 << 20};
    config.buffers = &buffer;
    config.n_buffers = 1;
    int result = -ENOMEM;
    for (size_t bytes = 64 << 10; bytes < buffer.iov_len && result == -ENOMEM; bytes *= 2) {
        said = (struct said){0};
        if (set_locked_limit(bytes))
            result = open_file_store(&config);
    }
    ck_assert_msg(result == 0, "%s", reason);
    ck_assert(!get_info().backend_info.fixed_buffers);
    ck_assert_ptr_nonnull(strstr(said.lines, "RLIMIT_MEMLOCK"));
    ck_assert_int_eq(said.n_warnings, 1);
    round_trip();
    swap_close(&store);
    swap_crew_close(&crew);
    free(buffer.iov_base);
    rmdir(own_dir);
}
END_TEST

START_TEST(grows_as_slots_are_taken)
{
    make_own_dir();
    struct swap_file_config config = configure(own_dir, "threads");
    config.max_bytes = 0;
    struct statvfs where;
    ck_assert_int_eq(statvfs(own_dir, &where), 0);
    if ((uint64_t)where.f_bavail * where.f_frsize < (uint64_t)512 << 20) {
        swap_crew_close(&crew);
        rmdir(own_dir);
        skip("less than 512 MiB free");
    }
    ck_assert_int_eq(open_file_store(&config), 0);
    ck_assert_uint_eq(get_info().n_slots, UINT32_MAX);
    struct stat at_first, later;
    int fd = stat_file(&at_first);
    /* Reserved, not only promised. */
    ck_assert_int_ge(at_first.st_blocks * 512, BYTES);
    enum { N = 3000 }; /* of 64 KiB: three extents */
    for (uint32_t i = 0; i < N; i++) {
        uint32_t slot;
        ck_assert_int_eq(swap_slot_alloc(store, &slot), 0);
        ck_assert_uint_eq(slot, i);
    }
    ck_assert_int_eq(fstat(fd, &later), 0);
    ck_assert_int_ge(later.st_size, (off_t)N * BYTES);
    ck_assert_int_ge(later.st_blocks * 512, (off_t)N * BYTES);
    /* What was freed is used again before the file grows. */
    for (uint32_t i = 0; i < N; i++)
        swap_slot_free(store, i);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t slot;
        ck_assert_int_eq(swap_slot_alloc(store, &slot), 0);
    }
    struct stat last;
    ck_assert_int_eq(fstat(fd, &last), 0);
    ck_assert_int_eq(last.st_size, later.st_size);
    round_trip();
    swap_close(&store);
    swap_crew_close(&crew);
    rmdir(own_dir);
}
END_TEST

START_TEST(the_limit_of_file_sizes_is_respected)
{
    make_own_dir();
    struct rlimit limit = {8 * BYTES, 8 * BYTES};
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct swap_file_config config = configure(own_dir, "threads");
    ck_assert_int_eq(open_file_store(&config), 0); /* no SIGXFSZ either */
    ck_assert_uint_eq(get_info().n_slots, 8);
    round_trip();
    swap_close(&store);
    limit.rlim_cur = BYTES - 1;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    expect_refusal(&config, -EFBIG, "RLIMIT_FSIZE");
    swap_crew_close(&crew);
    rmdir(own_dir);
}
END_TEST

START_TEST(a_killed_process_leaves_nothing)
{
    make_own_dir();
    int pipe_fds[2];
    ck_assert_int_eq(pipe(pipe_fds), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        struct swap_file_config config = configure(own_dir, "auto");
        char done = open_file_store(&config) == 0;
        if (done)
            round_trip();
        if (write(pipe_fds[1], &done, 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char done = 0;
    ck_assert_int_eq(read(pipe_fds[0], &done, 1), 1);
    ck_assert_int_eq(done, 1);
    ck_assert_int_eq(count_files(own_dir), 0);
    kill(child, SIGKILL);
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status));
    ck_assert_int_eq(rmdir(own_dir), 0);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("file");
    tcase_add_test(tests, bad_directories_are_named);
    tcase_add_test(tests, bad_settings_are_named);
    tcase_add_test(tests, a_full_file_system_says_so_at_open);
    tcase_add_test(tests, a_read_only_file_system_says_so_at_open);
    tcase_add_test(tests, a_directory_of_others_says_so_at_open);
    tcase_add_test(tests, the_file_is_private);
    tcase_add_loop_test(tests, what_the_file_system_lacks_is_made_up_for, 0, (int)(sizeof(lacks) / sizeof(lacks[0])));
    tcase_add_loop_test(tests, auto_falls_back_to_threads, 0, 2);
    tcase_add_test(tests, auto_takes_io_uring_where_it_can);
    tcase_add_test(tests, unregistered_buffers_are_said);
    tcase_add_test(tests, grows_as_slots_are_taken);
    tcase_add_test(tests, the_limit_of_file_sizes_is_respected);
    tcase_add_test(tests, a_killed_process_leaves_nothing);
    return run_suite("swap file", tests);
}
