/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/tmpfile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "swap/choose.h"

/* A file that had a name for a moment, for file systems without O_TMPFILE. */
static int open_unlinked(const char *dir)
{
    size_t bytes = strlen(dir) + sizeof("/.kvmm-swap-XXXXXX");
    char *name = malloc(bytes);
    if (name == NULL)
        return -ENOMEM;
    snprintf(name, bytes, "%s/.kvmm-swap-XXXXXX", dir);
    int fd = mkostemp(name, O_CLOEXEC);
    int result = fd < 0 ? -errno : fd;
    if (fd >= 0 && unlink(name) != 0) {
        result = -errno;
        close(fd);
    }
    free(name);
    return result;
}

static int open_file(const char *dir)
{
    /* O_EXCL: nobody can give it a name later. */
    int fd = open(dir, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    /* -EISDIR is how kernels before 3.11 say that they have no O_TMPFILE, -EOPNOTSUPP how a file system says it. */
    if (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)
        return open_unlinked(dir);
    return -errno;
}

/* Whether direct I/O of this block size can be had: 1, 0, or -EINVAL with a reason. Kernels before 6.1 don't say. */
static int check_alignment(const struct swap_file_config *config, int fd, char *reason, size_t reason_size)
{
#ifdef STATX_DIOALIGN
    struct statx found;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &found) != 0 || (found.stx_mask & STATX_DIOALIGN) == 0)
        return 1;
    if (found.stx_dio_offset_align == 0)
        return 0;
    if (config->block_bytes % found.stx_dio_offset_align != 0 || SWAP_ALIGN % found.stx_dio_mem_align != 0)
        return swap_explain(
            reason, reason_size, EINVAL,
            "swap directory %s: blocks of %zu bytes don't fit direct I/O there: offsets are multiples of "
            "%u, addresses of %u",
            config->dir, config->block_bytes, found.stx_dio_offset_align, found.stx_dio_mem_align);
#endif
    return 1;
}

/* O_DIRECT is set afterwards: open() with it may make the file and then fail (open(2), BUGS). */
static bool set_direct(int fd)
{
    int flags = fcntl(fd, F_GETFL, 0);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_DIRECT) == 0;
}

int swap_tmpfile_open(const struct swap_file_config *config, int *fd, bool *direct, char *reason, size_t reason_size)
{
    int made = open_file(config->dir);
    if (made < 0)
        return swap_explain(reason, reason_size, -made, "swap directory %s: %s", config->dir, strerrordesc_np(-made));
    int may = check_alignment(config, made, reason, reason_size);
    if (may < 0) {
        close(made);
        return may;
    }
    bool is_direct = may > 0 && set_direct(made);
    struct statfs where;
    if (fstatfs(made, &where) == 0 && where.f_type == TMPFS_MAGIC)
        swap_log(config, true, "swap directory %s: a tmpfs, so spilled blocks stay in memory", config->dir);
    else if (!is_direct)
        swap_log(config, true, "swap directory %s: no direct I/O there: blocks pass the page cache", config->dir);
    *fd = made;
    *direct = is_direct;
    return 0;
}
