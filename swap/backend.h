/* SPDX-License-Identifier: Apache-2.0
 *
 * The seam under the NVMe tier: asynchronous reads and writes at offsets of one file. No slots, no checksums, no
 * retries here: a back end reports what happened. Implementations: io_uring (uring.c), threads with pread/pwrite
 * (threads.c), and a fault injector that stacks on either (faults.c). */
#ifndef SWAP_BACKEND_H
#define SWAP_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* One transfer. Owned by the submitter, kept alive until done() was entered. */
struct swap_request {
    bool write;
    bool urgent; /* a step waits for it: goes before those that are not */
    void *buf;
    size_t bytes;
    uint64_t offset;
    int64_t result;                             /* set before done(): bytes moved, or -errno */
    void (*done)(struct swap_request *request); /* on a thread of the back end, with no lock of its held; short: it
                                                   may submit, it must not wait */
    struct swap_request *next;                  /* the back end's while in flight */
};

struct swap_backend;

struct swap_backend_ops {
    const char *name; /* "io_uring", "threads", "faults" */

    /* Queues the request. Never blocks on I/O and never fails: every submitted request gets its done(), if need be
     * with -ENODEV. Requests may complete in any order. Thread-safe. */
    void (*submit)(struct swap_backend *backend, struct swap_request *request);

    /* Waits for what is in flight, joins the threads, frees the back end. The file stays open. */
    void (*close)(struct swap_backend *backend);

    /* In a child after fork(): closes what the child has of the parent's descriptors, the tier's file not among them. Nothing else
     * may be called there. Async-signal-safe. NULL: it has none. */
    void (*forget)(struct swap_backend *backend);
};

struct swap_backend {
    const struct swap_backend_ops *ops;
};

#define SWAP_DEPTH_LIMIT 256 /* of each of read_depth and write_depth */

struct swap_backend_config {
    int fd;                      /* the tier's file; stays the caller's */
    size_t block_bytes;          /* largest request */
    uint32_t read_depth;         /* most reads in flight, ≥ 1 */
    uint32_t write_depth;        /* most writes in flight, ≥ 1 */
    const struct iovec *buffers; /* memory that most requests use: registered where the limits allow; may be NULL */
    uint32_t n_buffers;
};

/* What a back end got of what it asked for; for the log and the tests. */
struct swap_backend_info {
    bool fixed_file;
    bool fixed_buffers;
};

/* Each returns 0 and *backend, or -errno with nothing left behind: -ENOSYS, -EPERM or -EACCES where the kernel forbids
 * io_uring or the build has none, -EINVAL for a depth that is 0 or above the limit. */
int swap_uring_open(const struct swap_backend_config *config, struct swap_backend **backend,
                    struct swap_backend_info *info);
int swap_threads_open(const struct swap_backend_config *config, struct swap_backend **backend,
                      struct swap_backend_info *info);

/* What the fault injector does. Every choice follows from the seed and the request's number (counted from 1 in order
 * of submission), so a run can be repeated. Rates are per million requests. */
struct swap_faults {
    uint64_t seed;
    uint32_t read_error_ppm, write_error_ppm; /* -EIO without touching memory or file */
    uint32_t retry_ppm;                       /* -EAGAIN, -EINTR or -ENOMEM, at random */
    uint32_t short_ppm;                       /* only a part is transferred */
    uint32_t corrupt_ppm;                     /* one bit of a read's data is wrong, result is whole */
    uint32_t stale_ppm;                       /* a write is dropped, result is whole */
    uint32_t delay_ppm;                       /* completion is late by up to delay_us */
    uint32_t delay_us;
    uint64_t fail_nth;   /* this request alone fails with fail_errno; 0: none */
    uint64_t fail_after; /* every request from this number on fails so; 0: none */
    int fail_errno;      /* positive, such as ENOSPC, EIO, ENODEV */
};

/* Stacks on `lower` and owns it from then on (also closes it). The faults struct is read at each request, under the
 * injector's own lock through swap_faults_set(). On failure (-ENOMEM, -EAGAIN) lower stays the caller's. */
int swap_faults_open(struct swap_backend *lower, const struct swap_faults *faults, struct swap_backend **backend);
void swap_faults_set(struct swap_backend *backend, const struct swap_faults *faults);

#endif
