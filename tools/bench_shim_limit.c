/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_shim_limit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* One write(2); -errno. */
static int write_text(const char *folder, const char *name, const char *text)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int result = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    return result;
}

static int write_number(const char *folder, const char *name, uint64_t number)
{
    char text[32];
    (void)snprintf(text, sizeof(text), "%llu\n", (unsigned long long)number);
    return write_text(folder, name, text);
}

/* The janitor. */

static void empty_group(const char *group)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/cgroup.procs", group);
    FILE *members = fopen(path, "re");
    int pid;
    while (members != NULL && fscanf(members, "%d", &pid) == 1)
        kill(pid, SIGKILL);
    if (members != NULL)
        (void)fclose(members);
}

static void clean_up(const struct limit *limit)
{
    const struct timespec moment = {0, 20 * 1000 * 1000};
    for (int i = 0; i < 2; i++)
        for (int tries = 0; limit->group[i][0] != '\0' && tries < 500; tries++) {
            empty_group(limit->group[i]);
            if (rmdir(limit->group[i]) == 0 || errno == ENOENT)
                break;
            (void)nanosleep(&moment, NULL);
        }
    if (access(limit->swap_file, F_OK) == 0) {
        (void)swapoff(limit->swap_file); /* EINVAL: it wasn't on yet */
        (void)unlink(limit->swap_file);
    }
}

_Noreturn static void be_janitor(const struct limit *limit, int alive_fd)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    (void)setsid();
    char byte;
    while (read(alive_fd, &byte, 1) < 0 && errno == EINTR)
        ;
    clean_up(limit);
    _exit(0);
}

int limit_open(struct limit *limit, const char *folder)
{
    static const char version_2[] = "/sys/fs/cgroup", version_1[] = "/sys/fs/cgroup/memory";
    *limit = (struct limit){.alive_fd = -1};
    limit->second_version = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
    for (int i = 0; i < 2; i++)
        (void)snprintf(limit->group[i], sizeof(limit->group[i]), "%s/kvmm-bench-%d-%d",
                       limit->second_version ? version_2 : version_1, (int)getpid(), i);
    (void)snprintf(limit->swap_file, sizeof(limit->swap_file), "%s/kvmm-bench-%d.swap", folder, (int)getpid());
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -errno;
    limit->janitor = fork();
    if (limit->janitor < 0) {
        int result = -errno;
        close(ends[0]);
        close(ends[1]);
        return result;
    }
    if (limit->janitor == 0) {
        close(ends[1]);
        be_janitor(limit, ends[0]);
    }
    close(ends[0]);
    limit->alive_fd = ends[1];
    return 0;
}

void limit_close(struct limit *limit)
{
    if (limit->alive_fd < 0)
        return;
    close(limit->alive_fd);
    limit->alive_fd = -1;
    (void)waitpid(limit->janitor, NULL, 0);
}

void limit_make_groups(struct limit *limit)
{
    for (int i = 0; i < 2; i++) {
        const char *what = "a control group can't be made";
        int result = mkdir(limit->group[i], 0755) == 0 ? 0 : -errno;
        if (result == 0) { /* is memory among what it can limit? */
            what = "the control group can't limit memory";
            result = write_number(limit->group[i], limit->second_version ? "memory.max" : "memory.limit_in_bytes",
                                  (uint64_t)1 << 40);
        }
        if (result < 0) {
            (void)snprintf(limit->why_no_group, sizeof(limit->why_no_group), "%s: %s", what, strerrordesc_np(-result));
            return;
        }
    }
}

/* mm/swapfile.c: the header is in the first page; its magic at the end. */
static int write_swap_header(int fd, uint64_t bytes)
{
    struct {
        uint32_t version, last_page, n_bad_pages;
    } header = {1, (uint32_t)(bytes / (uint64_t)sysconf(_SC_PAGESIZE)) - 1, 0};
    enum { HEADER_AT = 1024, MAGIC_BYTES = 10 };
    char page[65536] = {0};
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    memcpy(page + HEADER_AT, &header, sizeof(header));
    memcpy(page + page_bytes - MAGIC_BYTES, "SWAPSPACE2", MAGIC_BYTES);
    return pwrite(fd, page, page_bytes, 0) == (ssize_t)page_bytes && fsync(fd) == 0 ? 0 : -errno;
}

void limit_make_swap(struct limit *limit, uint64_t bytes)
{
    const char *what = "a swap file can't be made";
    int fd = open(limit->swap_file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int result = fd < 0 ? -errno : -posix_fallocate(fd, 0, (off_t)bytes);
    if (result == 0)
        result = write_swap_header(fd, bytes);
    if (fd >= 0)
        close(fd);
    if (result == 0) {
        what = "swapon";
        result = swapon(limit->swap_file, 0) == 0 ? 0 : -errno;
    }
    if (result < 0)
        (void)snprintf(limit->why_no_swap, sizeof(limit->why_no_swap), "%s: %s", what, strerrordesc_np(-result));
}

int limit_process(const struct limit *limit, int which, pid_t pid, uint64_t bytes, bool swap_too)
{
    const char *group = limit->group[which];
    int result = write_number(group, "cgroup.procs", (uint64_t)pid);
    if (result == 0 && limit->second_version) {
        result = write_number(group, "memory.max", bytes);
        if (result == 0)
            (void)write_text(group, "memory.swap.max", swap_too ? "max" : "0"); /* not there: no swap to limit */
    } else if (result == 0) {
        result = write_number(group, "memory.limit_in_bytes", bytes);
        if (result == 0)
            (void)write_number(group, "memory.swappiness", swap_too ? 60 : 0);
    }
    return result;
}
