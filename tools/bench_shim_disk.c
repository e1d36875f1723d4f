/* SPDX-License-Identifier: Apache-2.0
 *
 * The disk's full speed: one thread, one ring, direct reads from one end of a file to the other, in blocks of a chunk and of
 * 2 MiB, each at its best depth. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef SWAP_HAVE_URING
#include <liburing.h>
#endif

#include "tools/bench_shim.h"

#define BLOCK_BYTES ((size_t)2 << 20)
#define MOST_DEPTH  32u

static int complain(const char *what, int result)
{
    fprintf(stderr, SHIM_BENCH_NAME ": %s: %s\n", what, strerrordesc_np(-result));
    return result;
}

#ifdef SWAP_HAVE_URING
static int read_all(struct shim_disk *disk, size_t block, uint32_t depth)
{
    struct io_uring ring;
    uint64_t n_blocks = disk->bytes / block, next = 0, n_ended = 0;
    int result = io_uring_queue_init(depth, &ring, 0);
    if (result < 0)
        return result;
    while (n_ended < n_blocks && result >= 0) {
        while (next < n_blocks && next - n_ended < depth) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
            if (sqe == NULL)
                break;
            io_uring_prep_read(sqe, disk->fd, disk->buffers + next % depth * block, (unsigned)block, next * block);
            next++;
        }
        result = io_uring_submit_and_wait(&ring, 1);
        if (result == -EINTR)
            result = 0;
        struct io_uring_cqe *cqe;
        while (result >= 0 && io_uring_peek_cqe(&ring, &cqe) == 0) {
            if (cqe->res != (int)block)
                result = cqe->res < 0 ? cqe->res : -EIO;
            io_uring_cqe_seen(&ring, cqe);
            n_ended++;
        }
    }
    io_uring_queue_exit(&ring);
    return result < 0 ? result : 0;
}
#else
static int read_all(struct shim_disk *disk, size_t block, uint32_t depth)
{
    for (uint64_t at = 0; at + block <= disk->bytes; at += block)
        if (pread(disk->fd, disk->buffers, block, (off_t)at) != (ssize_t)block)
            return errno != 0 ? -errno : -EIO;
    return 0;
}
#endif

/* Bytes a second; 0 and a word on stderr if it failed. */
static double rate_of(struct shim_disk *disk, size_t block, uint32_t depth)
{
    uint64_t start = shim_bench_now_ns();
    int result = read_all(disk, block, depth);
    if (result < 0) {
        (void)complain("reading", result);
        return 0;
    }
    uint64_t bytes = disk->bytes / block * block;
    return (double)bytes * 1e9 / (double)(shim_bench_now_ns() - start);
}

static uint32_t best_depth(struct shim_disk *disk, size_t block)
{
    uint32_t best = 1;
    double best_rate = 0;
    for (uint32_t depth = 4; depth <= MOST_DEPTH; depth *= 2) {
        double rate = rate_of(disk, block, depth);
        if (rate > best_rate) {
            best_rate = rate;
            best = depth;
        }
    }
    return best;
}

static int fill(struct shim_disk *disk)
{
    uint64_t word = 1;
    for (size_t i = 0; i < BLOCK_BYTES; i += sizeof(word)) {
        word = word * 6364136223846793005u + 1442695040888963407u;
        memcpy(disk->buffers + i, &word, sizeof(word));
    }
    for (uint64_t at = 0; at < disk->bytes; at += BLOCK_BYTES)
        if (pwrite(disk->fd, disk->buffers, BLOCK_BYTES, (off_t)at) != (ssize_t)BLOCK_BYTES)
            return errno != 0 ? -errno : -EIO;
    return 0;
}

int shim_disk_open(const struct shim_options *options, struct shim_disk *disk)
{
    *disk = (struct shim_disk){.fd = -1, .bytes = options->bytes / BLOCK_BYTES * BLOCK_BYTES};
    disk->buffers = aligned_alloc(BLOCK_BYTES, MOST_DEPTH * BLOCK_BYTES);
    if (disk->buffers == NULL)
        return complain("memory", -ENOMEM);
    disk->fd = open(options->dir, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    int result = disk->fd < 0 ? -errno : fill(disk);
    if (result < 0)
        return complain(options->dir, result);
    disk->chunk_depth = best_depth(disk, options->chunk);
    disk->block_depth = best_depth(disk, BLOCK_BYTES);
    return 0;
}

int shim_disk_measure(const struct shim_options *options, struct shim_disk *disk, struct shim_round *round)
{
    round->disk_chunk_bytes_per_s = rate_of(disk, options->chunk, disk->chunk_depth);
    round->disk_block_bytes_per_s = rate_of(disk, BLOCK_BYTES, disk->block_depth);
    round->disk_bytes_per_s = round->disk_chunk_bytes_per_s > round->disk_block_bytes_per_s
                                  ? round->disk_chunk_bytes_per_s
                                  : round->disk_block_bytes_per_s;
    return round->disk_chunk_bytes_per_s > 0 && round->disk_block_bytes_per_s > 0 ? 0 : -EIO;
}

void shim_disk_close(struct shim_disk *disk)
{
    if (disk->fd >= 0)
        close(disk->fd);
    free(disk->buffers);
    *disk = (struct shim_disk){.fd = -1};
}
