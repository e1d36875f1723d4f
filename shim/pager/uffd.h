/* SPDX-License-Identifier: Apache-2.0
 *
 * userfaultfd(2) over shared memory: what the pager needs of it, with what this kernel and this user can have. A "view" is a
 * shared mapping of a memfd that was registered; [address, address + bytes) are whole pages of one, of which the engine may have
 * unmapped some: those are passed over. Thread-safe. */
#ifndef SHIM_PAGER_UFFD_H
#define SHIM_PAGER_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/userfaultfd.h>

struct shim_uffd {
    int fd;         /* non-blocking; -1: closed */
    bool user_only; /* a system call that touches a page that is away fails with EFAULT */
    bool protect;   /* pages can be mapped read-only, and a write to them is reported (Linux 6.4) */
    bool poison;    /* pages can be marked so that touching them is SIGBUS (Linux 6.6) */
};

/* user_only: where nothing better is allowed, take user-mode faults alone. On failure -errno and one line in reason[size]:
 * -EPERM (the user may not; says what to change), -ENOSYS (no userfaultfd, or not on shared memory). */
int shim_uffd_open(bool user_only, struct shim_uffd *uffd, char *reason, size_t size);
void shim_uffd_close(struct shim_uffd *uffd);

/* Touches of pages that are not mapped are reported from now on. -errno. */
int shim_uffd_register(const struct shim_uffd *uffd, void *address, size_t bytes);

/* Maps the memfd's pages, which exist, into the view, and wakes who waits for them. Pages that are mapped already stay so.
 * read_only only where uffd->protect. -errno: -ENOENT, -ENOMEM. */
int shim_uffd_map(const struct shim_uffd *uffd, void *address, size_t bytes, bool read_only);

/* Of mapped pages; making them writable wakes who waits. */
int shim_uffd_protect(const struct shim_uffd *uffd, void *address, size_t bytes, bool read_only);

/* Takes pages out of the view, not out of the memfd. */
int shim_uffd_zap(void *address, size_t bytes);

/* Makes a touch of the pages SIGBUS and wakes who waits. Only where uffd->poison. */
int shim_uffd_poison(const struct shim_uffd *uffd, void *address, size_t bytes);
int shim_uffd_wake(const struct shim_uffd *uffd, void *address, size_t bytes);

#endif
