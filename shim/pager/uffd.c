/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pager/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than the headers of some systems that kvmm is built on. */
#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP ((__u64)1 << 1)
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#define UFFDIO_POISON       _IOWR(UFFDIO, 0x08, struct uffdio_poison)
struct uffdio_poison {
    struct uffdio_range range;
    __u64 mode;
    __s64 pages_updated;
};
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif

#define NEEDED (UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_THREAD_ID)

/* A descriptor that handles faults from the kernel too, if this user may have one: by the system call with CAP_SYS_PTRACE or
 * vm.unprivileged_userfaultfd = 1, or from /dev/userfaultfd where its mode allows. -errno. */
static int new_descriptor(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0)
        return fd;
    int error = errno;
    int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (dev < 0)
        return -error;
    fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        error = errno;
    close(dev);
    return fd >= 0 ? fd : -error;
}

/* The features of this kernel: asking takes a descriptor of its own, since UFFDIO_API can be called once. */
static uint64_t kernel_features(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    int fd = new_descriptor();
    if (fd < 0)
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return 0;
    if (ioctl(fd, UFFDIO_API, &api))
        api.features = 0;
    close(fd);
    return api.features;
}

/* Whether pages can be mapped read-only: the feature says that they can be protected, but not that UFFDIO_CONTINUE can. */
static bool can_map_read_only(const struct shim_uffd *uffd)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    bool can = false;
    int fd = memfd_create("kvmm-probe", MFD_CLOEXEC);
    if (fd < 0)
        return false;
    if (fallocate(fd, 0, 0, (off_t)page) == 0) {
        void *view = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (view != MAP_FAILED) {
            can = shim_uffd_register(uffd, view, page) == 0 && shim_uffd_map(uffd, view, page, true) == 0;
            munmap(view, page);
        }
    }
    close(fd);
    return can;
}

int shim_uffd_open(bool user_only, struct shim_uffd *uffd, char *reason, size_t size)
{
    struct shim_uffd made = {.fd = new_descriptor()};
    if (made.fd == -EPERM || made.fd == -EACCES) {
        if (user_only) {
            made.user_only = true;
            made.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
            if (made.fd < 0)
                made.fd = -errno;
        } else {
            snprintf(
                reason, size,
                "this user may not handle page faults of system calls; allow it with `sysctl vm.unprivileged_"
                "userfaultfd=1' or by the mode of /dev/userfaultfd, or take --user-faults, with which system calls "
                "on the cache can fail");
            return -EPERM;
        }
    }
    if (made.fd < 0) {
        snprintf(reason, size, "userfaultfd: %s", strerror(-made.fd));
        return made.fd == -EPERM ? -EPERM : -ENOSYS;
    }
    uint64_t features = kernel_features();
    if ((features & NEEDED) != NEEDED) {
        snprintf(reason, size, "this kernel has no userfaultfd for shared memory (Linux 5.13 has)");
        close(made.fd);
        return -ENOSYS;
    }
    uint64_t asked =
        features & (NEEDED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_POISON);
    struct uffdio_api api = {.api = UFFD_API, .features = asked};
    if (ioctl(made.fd, UFFDIO_API, &api)) {
        int error = errno;
        snprintf(reason, size, "userfaultfd: %s", strerror(error));
        close(made.fd);
        return -ENOSYS;
    }
    made.poison = (features & UFFD_FEATURE_POISON) != 0;
    uint64_t for_protect = UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP;
    made.protect = (features & for_protect) == for_protect;
    made.protect = made.protect && can_map_read_only(&made);
    *uffd = made;
    return 0;
}

void shim_uffd_close(struct shim_uffd *uffd)
{
    if (uffd->fd >= 0)
        close(uffd->fd);
    uffd->fd = -1;
}

int shim_uffd_register(const struct shim_uffd *uffd, void *address, size_t bytes)
{
    struct uffdio_register reg = {.range = {.start = (uintptr_t)address, .len = bytes},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
                                          (uffd->protect ? UFFDIO_REGISTER_MODE_WP : 0)};
    return ioctl(uffd->fd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

int shim_uffd_map(const struct shim_uffd *uffd, void *address, size_t bytes, bool read_only)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), step = bytes;
    uintptr_t at = (uintptr_t)address, end = at + bytes;
    bool any = false;
    while (at < end) {
        struct uffdio_continue cont = {.range = {.start = at, .len = step < end - at ? step : end - at},
                                       .mode = read_only ? UFFDIO_CONTINUE_MODE_WP : 0};
        int error = ioctl(uffd->fd, UFFDIO_CONTINUE, &cont) ? errno : 0;
        if (error == 0 || cont.mapped > 0) { /* all, or a part, up to what stopped it */
            at += error == 0 ? (uintptr_t)cont.range.len : (uintptr_t)cont.mapped;
            any = true;
        } else if (error == EEXIST) {
            shim_uffd_wake(uffd, (void *)at, page);
            at += page;
            any = true;
        } else if (error == ENOENT && step > page)
            step =
                page; /* it isn't one mapping any more: the engine has unmapped a part of it, or changed its protection */
        else if (error == ENOENT)
            at += page;           /* this page isn't there to be mapped */
        else if (error != EAGAIN) /* EAGAIN: the address space is being changed by another thread */
            return -error;
    }
    return any ? 0 : -ENOENT;
}

static int protect_once(const struct shim_uffd *uffd, uintptr_t at, size_t bytes, bool read_only)
{
    struct uffdio_writeprotect protect = {.range = {.start = at, .len = bytes},
                                          .mode = read_only ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
    while (ioctl(uffd->fd, UFFDIO_WRITEPROTECT, &protect))
        if (errno != EAGAIN)
            return -errno;
    return 0;
}

int shim_uffd_protect(const struct shim_uffd *uffd, void *address, size_t bytes, bool read_only)
{
    int error = protect_once(uffd, (uintptr_t)address, bytes, read_only);
    if (error != -ENOENT)
        return error;
    size_t page = (size_t)sysconf(_SC_PAGESIZE); /* a part of it is unmapped: the pages that are there */
    for (size_t at = 0; at < bytes; at += page) {
        error = protect_once(uffd, (uintptr_t)address + at, page, read_only);
        if (error && error != -ENOENT)
            return error;
    }
    return 0;
}

int shim_uffd_zap(void *address, size_t bytes)
{
    /* ENOMEM: a part isn't mapped; the rest is done. */
    return madvise(address, bytes, MADV_DONTNEED) && errno != ENOMEM ? -errno : 0;
}

int shim_uffd_poison(const struct shim_uffd *uffd, void *address, size_t bytes)
{
    /* Read-only pages that were taken out of the mapping leave a mark in the page table, which would stand in the way. */
    struct uffdio_writeprotect clear = {.range = {.start = (uintptr_t)address, .len = bytes},
                                        .mode = UFFDIO_WRITEPROTECT_MODE_DONTWAKE};
    while (uffd->protect && ioctl(uffd->fd, UFFDIO_WRITEPROTECT, &clear))
        if (errno != EAGAIN)
            return -errno;
    struct uffdio_poison poison = {.range = {.start = (uintptr_t)address, .len = bytes}};
    while (ioctl(uffd->fd, UFFDIO_POISON, &poison))
        if (errno != EAGAIN)
            return -errno;
    return 0;
}

int shim_uffd_wake(const struct shim_uffd *uffd, void *address, size_t bytes)
{
    struct uffdio_range range = {.start = (uintptr_t)address, .len = bytes};
    return ioctl(uffd->fd, UFFDIO_WAKE, &range) ? -errno : 0;
}
