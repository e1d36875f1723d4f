/* SPDX-License-Identifier: Apache-2.0
 *
 * The file store: its opening, its growing, its end. */
#include "swap/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "swap/choose.h"
#include "swap/thread.h"
#include "swap/tmpfile.h"

#define READ_DEPTH    8
#define WRITE_DEPTH   8 /* an idle device needs 4; where cores are contended, 8 spill half as fast again */
#define EXTENT_BYTES  ((uint64_t)64 << 20) /* grown at a time, at least */
#define EXTENT_SLOTS  32u                  /* as well */
#define RESERVE_BYTES ((uint64_t)64 << 20) /* left free in the file system where no limit was set */
#define BLOCK_LIMIT   ((size_t)1 << 30)    /* one transfer of the kernel's moves less than 2 GiB */
#define FULL_NS       UINT64_C(1000000000) /* between two tries to grow on a full file system */

static struct file_store *file_of(struct swap_store *store)
{
    return (struct file_store *)store;
}

static bool is_full(int result)
{
    return result == -ENOSPC || result == -EDQUOT || result == -EFBIG;
}

/* Bytes that an unprivileged user may still take on the file system. */
static uint64_t free_bytes(int fd)
{
    struct statvfs where;
    if (fstatvfs(fd, &where) != 0)
        return UINT64_MAX;
    return (uint64_t)where.f_bavail * where.f_frsize;
}

/* Makes the file n slots long, with room behind them. Under grow_lock. */
static int extend(struct file_store *file, uint32_t from, uint32_t n)
{
    off_t start = (off_t)from * (off_t)file->base.block_bytes, bytes = (off_t)n * (off_t)file->base.block_bytes;
    if (!file->sparse) {
        while (fallocate(file->fd, 0, start, bytes) != 0) {
            if (errno == EINTR)
                continue;
            if (errno != EOPNOTSUPP && errno != ENOSYS)
                return -errno;
            file->sparse = true;
            swap_log(&file->config, true,
                     "swap directory %s: no fallocate there: room is found, or not, when a block is written",
                     file->dir);
            break;
        }
    }
    if (file->sparse && ftruncate(file->fd, start + bytes) != 0)
        return -errno;
    return 0;
}

/* Grows by one extent, or by what there is room for. Under grow_lock. Returns 0, or -errno. */
static int grow_some(struct file_store *file, uint32_t from)
{
    uint32_t n = file->max_slots - from;
    if (n > file->extent_slots)
        n = file->extent_slots;
    int result = -ENOSPC;
    for (; n > 0; n /= 2) {
        if (file->config.max_bytes == 0 && free_bytes(file->fd) < n * (uint64_t)file->base.block_bytes + RESERVE_BYTES)
            continue;
        result = extend(file, from, n);
        if (!is_full(result))
            break;
    }
    if (n == 0 || result < 0)
        return result;
    pthread_mutex_lock(&file->base.lock);
    result = swap_slots_grow(&file->base.slots, from + n);
    pthread_mutex_unlock(&file->base.lock);
    return result;
}

static int file_grow(struct swap_store *store)
{
    struct file_store *file = file_of(store);
    pthread_mutex_lock(&file->grow_lock);
    pthread_mutex_lock(&store->lock);
    uint32_t n = store->slots.n;
    bool has_free = store->slots.n_taken + store->slots.n_retired < n;
    pthread_mutex_unlock(&store->lock);
    int result = has_free ? 0 : -ENOSPC; /* another thread has grown it meanwhile, or a slot was freed */
    if (!has_free && n < file->max_slots && swap_now_ns() >= file->full_until_ns) {
        result = grow_some(file, n);
        if (result < 0) {
            /* Full today may be roomy tomorrow, but asking is a system call. */
            file->full_until_ns = swap_now_ns() + FULL_NS;
            if (!file->said_full)
                swap_log(&file->config, true, "swap directory %s: can't grow beyond %u blocks of %zu bytes: %s",
                         file->dir, n, store->block_bytes, strerrordesc_np(-result));
            file->said_full = true;
            result = -ENOSPC;
        }
    }
    pthread_mutex_unlock(&file->grow_lock);
    return result;
}

static void file_info(struct swap_store *store, struct swap_store_info *info)
{
    struct file_store *file = file_of(store);
    info->n_slots = file->max_slots;
    info->backend = file->backend_name;
    info->backend_info = file->backend_info;
    info->direct = file->direct;
}

static void file_close(struct swap_store *store)
{
    struct file_store *file = file_of(store);
    file->backend->ops->close(file->backend);
    swap_timer_close(&file->timer);
    close(file->fd);
    pthread_mutex_destroy(&file->grow_lock);
    swap_store_destroy(store);
    free(file->dir);
    free(file);
}

static void file_forget(struct swap_store *store)
{
    struct file_store *file = file_of(store);
    if (file->backend->ops->forget != NULL)
        file->backend->ops->forget(file->backend);
    close(file->fd);
}

static const struct swap_store_ops file_ops = {
    .put = swap_file_put,
    .get = swap_file_get,
    .grow = file_grow,
    .info = file_info,
    .close = file_close,
    .forget = file_forget,
};

/* The limits that follow from the configuration and from RLIMIT_FSIZE, whose crossing would raise SIGXFSZ. */
static int set_limits(struct file_store *file, char *reason, size_t reason_size)
{
    size_t block_bytes = file->base.block_bytes;
    uint64_t max_bytes = file->config.max_bytes;
    struct rlimit limit;
    if (max_bytes > 0 && max_bytes < block_bytes)
        return swap_explain(reason, reason_size, EINVAL,
                            "swap directory %s: a limit of %llu bytes holds no block of %zu bytes", file->dir,
                            (unsigned long long)max_bytes, block_bytes);
    file->max_slots = UINT32_MAX;
    if (max_bytes > 0 && max_bytes / block_bytes < UINT32_MAX)
        file->max_slots = (uint32_t)(max_bytes / block_bytes);
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur / block_bytes < file->max_slots)
        file->max_slots = (uint32_t)(limit.rlim_cur / block_bytes);
    if (file->max_slots == 0)
        return swap_explain(reason, reason_size, EFBIG,
                            "swap directory %s: the limit of file sizes (RLIMIT_FSIZE) holds no block of %zu bytes",
                            file->dir, block_bytes);
    uint64_t extent = EXTENT_BYTES / block_bytes;
    file->extent_slots = extent < EXTENT_SLOTS ? EXTENT_SLOTS : (uint32_t)extent;
    return 0;
}

static int reserve_first(struct file_store *file, char *reason, size_t reason_size)
{
    uint64_t room = free_bytes(file->fd);
    int result = grow_some(file, 0);
    if (result == -ENOSPC && file->config.max_bytes == 0)
        return swap_explain(
            reason, reason_size, ENOSPC,
            "swap directory %s: %llu MiB free: no room for a block of %zu bytes and a reserve of 64 MiB", file->dir,
            (unsigned long long)room >> 20, file->base.block_bytes);
    if (result < 0)
        return swap_explain(reason, reason_size, -result, "swap directory %s: %s", file->dir, strerrordesc_np(-result));
    if (file->config.max_bytes > room)
        swap_log(&file->config, true, "swap directory %s: %llu MiB free: less than the limit of %llu MiB", file->dir,
                 (unsigned long long)room >> 20, (unsigned long long)file->config.max_bytes >> 20);
    return 0;
}

/* Writes the first block once, so that a file system which can't do this kind of write says so now. */
static int try_write(struct file_store *file, char *reason, size_t reason_size)
{
    size_t bytes = file->base.block_bytes;
    void *block = aligned_alloc(SWAP_ALIGN, bytes);
    if (block == NULL)
        return swap_explain(reason, reason_size, ENOMEM, "swap directory %s: %s", file->dir, strerrordesc_np(ENOMEM));
    memset(block, 0, bytes);
    ssize_t written;
    while ((written = pwrite(file->fd, block, bytes, 0)) < 0) {
        if (errno == EINTR)
            continue;
        int flags = fcntl(file->fd, F_GETFL, 0);
        if (errno != EINVAL || !file->direct || fcntl(file->fd, F_SETFL, flags & ~O_DIRECT) != 0)
            break;
        file->direct = false;
        swap_log(&file->config, true, "swap directory %s: direct I/O fails there: blocks pass the page cache",
                 file->dir);
    }
    int error = written < 0 ? errno : (size_t)written < bytes ? EIO : 0;
    free(block);
    if (error != 0)
        return swap_explain(reason, reason_size, error, "swap directory %s: first block: %s", file->dir,
                            strerrordesc_np(error));
    return 0;
}

static int check_config(const struct swap_file_config *config, char *reason, size_t reason_size)
{
    if (config->dir == NULL || config->crew == NULL || config->block_bytes == 0 ||
        config->block_bytes % SWAP_ALIGN != 0 || config->block_bytes > BLOCK_LIMIT)
        return swap_explain(reason, reason_size, EINVAL,
                            "swap directory %s: blocks of %zu bytes: not a multiple of 4096 up to 1 GiB",
                            config->dir == NULL ? "(none)" : config->dir, config->block_bytes);
    if (config->backend != NULL && strcmp(config->backend, "auto") != 0 && strcmp(config->backend, "io_uring") != 0 &&
        strcmp(config->backend, "threads") != 0)
        return swap_explain(reason, reason_size, EINVAL, "swap directory %s: no back end is called \"%s\"", config->dir,
                            config->backend);
    return 0;
}

int swap_file_open(const struct swap_file_config *config, struct swap_store **store, char *reason, size_t reason_size)
{
    int result = check_config(config, reason, reason_size);
    if (result < 0)
        return result;
    struct file_store *file = calloc(1, sizeof(*file));
    char *dir = strdup(config->dir);
    if (file == NULL || dir == NULL) {
        free(dir);
        free(file);
        return swap_explain(reason, reason_size, ENOMEM, "swap directory %s: %s", config->dir, strerrordesc_np(ENOMEM));
    }
    swap_store_init(&file->base, &file_ops, config->block_bytes, config->checksum_seed, config->crew);
    pthread_mutex_init(&file->grow_lock, NULL);
    file->config = *config;
    file->config.dir = file->dir = dir;
    file->config.backend = config->backend == NULL ? "auto" : config->backend;
    file->config.read_depth = config->read_depth == 0 ? READ_DEPTH : config->read_depth;
    file->config.write_depth = config->write_depth == 0 ? WRITE_DEPTH : config->write_depth;
    file->has_faults = config->faults != NULL;
    result = set_limits(file, reason, reason_size);
    if (result < 0)
        goto err_destroy;
    result = swap_tmpfile_open(&file->config, &file->fd, &file->direct, reason, reason_size);
    if (result < 0)
        goto err_destroy;
    result = reserve_first(file, reason, reason_size);
    if (result < 0)
        goto err_close_file;
    result = try_write(file, reason, reason_size);
    if (result < 0)
        goto err_close_file;
    result = swap_timer_open(&file->timer);
    if (result < 0) {
        swap_explain(reason, reason_size, -result, "swap directory %s: timer: %s", dir, strerrordesc_np(-result));
        goto err_close_file;
    }
    result = swap_choose_backend(&file->config, file->fd, &file->backend, &file->backend_info, &file->backend_name,
                                 reason, reason_size);
    if (result < 0)
        goto err_close_timer;
    file->config.buffers = NULL;
    file->config.faults = NULL;
    *store = &file->base;
    return 0;

err_close_timer:
    swap_timer_close(&file->timer);
err_close_file:
    close(file->fd);
err_destroy:
    pthread_mutex_destroy(&file->grow_lock);
    swap_store_destroy(&file->base);
    free(dir);
    free(file);
    return result;
}

void swap_set_faults(struct swap_store *store, const struct swap_faults *faults)
{
    if (store->ops == &file_ops && file_of(store)->has_faults)
        swap_faults_set(file_of(store)->backend, faults);
}
