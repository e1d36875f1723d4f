/* SPDX-License-Identifier: Apache-2.0
 *
 * The io_uring back end. One thread makes the ring, owns it and is the only one to touch it; that is what SINGLE_ISSUER
 * and DEFER_TASKRUN ask for (io_uring_setup(2)). It sleeps in io_uring_enter(2) alone, waiting for one completion;
 * submitters wake it through an eventfd that it reads through the ring. */
#include <errno.h>

#include "swap/backend.h"

#ifndef SWAP_HAVE_URING

int swap_uring_open(const struct swap_backend_config *config, struct swap_backend **backend,
                    struct swap_backend_info *info)
{
    return -ENOSYS;
}

#else

#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "swap/queue.h"
#include "swap/thread.h"

/* The kernel's limits: a registered buffer has at most 1 GiB (io_uring_register(2)), a ring at most 16384 of them. */
#define REGISTER_BYTES   ((size_t)1 << 30)
#define REGISTER_BUFFERS 16384u

#define NAP_NS           1000000u /* between two tries of a system call that may succeed later */
#define SUBMIT_NAPS      1000u    /* tries of io_uring_enter that say "later", in a row, before the ring is given up */
/* How long a broken ring is drained without progress before it is torn down. */
#define DRAIN_NS         UINT64_C(60000000000) /* while system calls work: longer than a device's own time-outs */
#define DRAIN_FAILING_NS UINT64_C(2000000000)  /* while all of them fail */

struct uring {
    struct swap_backend base;
    int fd;
    uint32_t read_depth, write_depth;
    struct iovec *pieces; /* what is registered, by address; none without registered buffers */
    uint32_t n_pieces;
    int wake_fd;
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t changed;  /* opened; a request for, or the end of, a broken ring */
    struct swap_lanes lanes; /* under lock */
    bool asleep;             /* the thread waits, or is about to, and has seen all of lanes; under lock */
    bool has_room[2]; /* [write]: a new request would be taken; as it was when the thread fell asleep; under lock */
    bool closing;     /* under lock */
    bool opened;      /* open_result and info are set; under lock */
    int open_result;
    struct swap_backend_info info;

    /* The I/O thread's. */
    struct io_uring ring;
    struct swap_queue flying; /* given to the kernel, in no order */
    struct swap_queue ended;  /* completed, done() still to be called */
    uint32_t n_reads, n_writes;
    uint32_t n_urgent;   /* of n_reads */
    uint64_t wake_count; /* where the eventfd is read to */
    bool wake_armed;     /* the eventfd's read is in flight */
    bool broken;         /* no more submissions */
    uint32_t n_naps;
};

static void nap(void)
{
    struct timespec time = {.tv_nsec = NAP_NS};
    nanosleep(&time, NULL);
}

static void kick(struct uring *uring)
{
    uint64_t one = 1;
    while (write(uring->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* The registered piece that holds all of the request's memory, or -1. */
static int find_piece(const struct uring *uring, const struct swap_request *request)
{
    uint32_t low = 0, high = uring->n_pieces;
    uintptr_t start = (uintptr_t)request->buf;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct iovec *piece = &uring->pieces[middle];
        uintptr_t base = (uintptr_t)piece->iov_base;
        if (start < base)
            high = middle;
        else if (start - base >= piece->iov_len)
            low = middle + 1;
        else
            return request->bytes <= piece->iov_len - (start - base) ? (int)middle : -1;
    }
    return -1;
}

static void prepare(struct uring *uring, struct swap_request *request)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    int piece = find_piece(uring, request);
    int fd = uring->info.fixed_file ? 0 : uring->fd;
    unsigned bytes = (unsigned)request->bytes;
    if (piece >= 0 && request->write)
        io_uring_prep_write_fixed(sqe, fd, request->buf, bytes, request->offset, piece);
    else if (piece >= 0)
        io_uring_prep_read_fixed(sqe, fd, request->buf, bytes, request->offset, piece);
    else if (request->write)
        io_uring_prep_write(sqe, fd, request->buf, bytes, request->offset);
    else
        io_uring_prep_read(sqe, fd, request->buf, bytes, request->offset);
    if (uring->info.fixed_file)
        io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data(sqe, request);
    swap_queue_push(&uring->flying, request);
    if (request->write)
        uring->n_writes++;
    else
        uring->n_reads++;
    uring->n_urgent += request->urgent && !request->write;
}

static void arm_wake(struct uring *uring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
    io_uring_prep_read(sqe, uring->wake_fd, &uring->wake_count, sizeof(uring->wake_count), 0);
    io_uring_sqe_set_data(sqe, &uring->wake_count);
    uring->wake_armed = true;
}

/* While a step waits for an urgent read, writes go one at a time: the device's bandwidth is the read's. */
static bool has_room(const struct uring *uring, bool write)
{
    if (!write)
        return uring->n_reads < uring->read_depth;
    return uring->n_writes < (uring->n_urgent > 0 ? 1 : uring->write_depth);
}

/* Moves what fits the windows from the lanes to the ring. Returns whether anything did. The ring has an entry for each
 * request of both windows and one for the eventfd, so io_uring_get_sqe() never fails. Under lock. */
static bool take(struct uring *uring)
{
    bool took = false;
    struct swap_request *request;
    while ((request = swap_lanes_pop(&uring->lanes, has_room(uring, false), has_room(uring, true))) != NULL) {
        prepare(uring, request);
        took = true;
    }
    return took;
}

/* Readies the ring for a wait. Returns false when all is done and the ring is idle. */
static bool fill(struct uring *uring)
{
    pthread_mutex_lock(&uring->lock);
    take(uring);
    bool idle = uring->closing && uring->n_reads + uring->n_writes == 0;
    uring->asleep = !idle;
    uring->has_room[0] = has_room(uring, false);
    uring->has_room[1] = has_room(uring, true);
    pthread_mutex_unlock(&uring->lock);
    if (!idle && !uring->wake_armed)
        arm_wake(uring);
    /* The last act is to take the eventfd's read back, for it writes to our memory. */
    if (idle && uring->wake_armed)
        kick(uring);
    return !idle || uring->wake_armed;
}

static void forget(struct uring *uring, struct swap_request *request)
{
    struct swap_queue others = {0};
    struct swap_request *each;
    while ((each = swap_queue_pop(&uring->flying)) != NULL)
        if (each != request)
            swap_queue_push(&others, each);
    uring->flying = others;
    if (request->write)
        uring->n_writes--;
    else
        uring->n_reads--;
    uring->n_urgent -= request->urgent && !request->write;
}

static void end(struct uring *uring, struct swap_request *request, int64_t result)
{
    forget(uring, request);
    request->result = result;
    swap_queue_push(&uring->ended, request);
}

static void call_done(struct uring *uring)
{
    struct swap_request *request;
    while ((request = swap_queue_pop(&uring->ended)) != NULL)
        request->done(request);
}

/* Takes every completion that is there. Returns how many. */
static uint32_t reap(struct uring *uring)
{
    uint32_t n = 0;
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&uring->ring, &cqe) == 0) {
        void *data = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&uring->ring, cqe);
        if (data == &uring->wake_count)
            uring->wake_armed = false;
        else if (data != NULL)
            end(uring, data, uring->broken && result == -ECANCELED ? -ENODEV : result);
        n++;
    }
    return n;
}

/* Gives new requests to the kernel and waits for a completion. What comes next is given before done() is called, so that
 * the device isn't idle meanwhile. */
static void submit_and_wait(struct uring *uring)
{
    int result = io_uring_submit_and_wait(&uring->ring, 1);
    uint32_t n = reap(uring);
    pthread_mutex_lock(&uring->lock);
    uring->asleep = false; /* lanes are looked at before the next wait */
    bool took = take(uring);
    pthread_mutex_unlock(&uring->lock);
    if (took)
        io_uring_submit(&uring->ring); /* where this fails, so will the next wait, which tells why */
    call_done(uring);
    if (n > 0 || result >= 0 || result == -EINTR) {
        uring->n_naps = 0;
    } else if ((result == -EAGAIN || result == -EBUSY || result == -ENOMEM) && uring->n_naps < SUBMIT_NAPS) {
        uring->n_naps++;
        nap();
    } else {
        uring->broken = true;
    }
}

/* Whether the kernel has not taken the entry with this data, so never will: the ring isn't submitted to again. */
static bool is_unsubmitted(const struct uring *uring, const void *data)
{
    const struct io_uring_sq *sq = &uring->ring.sq;
    for (unsigned head = io_uring_smp_load_acquire(sq->khead); head != sq->sqe_tail; head++)
        if (sq->sqes[head & *sq->kring_mask].user_data == (uintptr_t)data)
            return true;
    return false;
}

static void drop_unsubmitted(struct uring *uring)
{
    if (uring->wake_armed && is_unsubmitted(uring, &uring->wake_count))
        uring->wake_armed = false;
    for (struct swap_request *request = uring->flying.first; request != NULL;) {
        struct swap_request *next = request->next;
        if (is_unsubmitted(uring, request))
            end(uring, request, -ENODEV);
        request = next;
    }
    call_done(uring);
}

/* The last resort for a ring whose system calls all fail: closing it makes the kernel cancel what hasn't begun; then
 * truncation waits for the direct I/O that has (inode_dio_wait() in ext4, XFS, f2fs). The contents are lost with the
 * ring anyway. */
static void abandon(struct uring *uring)
{
    io_uring_queue_exit(&uring->ring);
    nap();
    /* Nothing more can be done where this fails too. */
    int ignored = ftruncate(uring->fd, 0);
    (void)ignored;
    while (uring->flying.first != NULL)
        end(uring, uring->flying.first, -ENODEV);
    call_done(uring);
    uring->wake_armed = false;
}

/* After a submission or a wait failed: nothing is submitted any more, and no buffer is given back before the kernel has
 * let go of it. Returns whether the ring still exists. */
static bool drain(struct uring *uring)
{
    drop_unsubmitted(uring);
    kick(uring);
    uint64_t progress_ns = swap_now_ns(), working_ns = progress_ns;
    for (;;) {
        /* Runs what the kernel deferred to this thread; where this fails, only closing the ring is left. */
        bool worked = io_uring_get_events(&uring->ring) >= 0;
        uint32_t n = reap(uring);
        call_done(uring);
        if (uring->flying.first == NULL && !uring->wake_armed)
            return true;
        uint64_t now = swap_now_ns();
        if (n > 0)
            progress_ns = now;
        if (n > 0 || worked)
            working_ns = now;
        if (now - progress_ns > DRAIN_NS || now - working_ns > DRAIN_FAILING_NS) {
            abandon(uring);
            return false;
        }
        nap();
    }
}

/* Life after the ring: every request gets -ENODEV. */
static void refuse_all(struct uring *uring)
{
    pthread_mutex_lock(&uring->lock);
    for (;;) {
        struct swap_request *request = swap_lanes_pop(&uring->lanes, true, true);
        if (request != NULL) {
            pthread_mutex_unlock(&uring->lock);
            request->result = -ENODEV;
            request->done(request);
            pthread_mutex_lock(&uring->lock);
        } else if (uring->closing) {
            break;
        } else {
            pthread_cond_wait(&uring->changed, &uring->lock);
        }
    }
    pthread_mutex_unlock(&uring->lock);
}

/* Makes the ring with the best flags that this kernel takes. Only flags of the installed header are tried. */
static int make_ring(struct uring *uring)
{
    static const unsigned wishes[] = {
#if defined(IORING_SETUP_SINGLE_ISSUER) && defined(IORING_SETUP_DEFER_TASKRUN)
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
#endif
#ifdef IORING_SETUP_COOP_TASKRUN
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
#endif
        0,
    };
    unsigned entries = uring->read_depth + uring->write_depth + 1;
    int result = -EINVAL;
    for (size_t i = 0; i < sizeof(wishes) / sizeof(wishes[0]) && result == -EINVAL; i++)
        result = io_uring_queue_init(entries, &uring->ring, wishes[i]);
    return result;
}

/* Where making a ring is allowed but using it is not, one knows only after trying. */
static int try_ring(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    io_uring_prep_nop(io_uring_get_sqe(ring));
    int result;
    while ((result = io_uring_submit_and_wait(ring, 1)) == -EINTR)
        ;
    if (result < 0)
        return result;
    result = io_uring_peek_cqe(ring, &cqe);
    if (result < 0)
        return result;
    result = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return result;
}

static int open_ring(struct uring *uring)
{
    int result = make_ring(uring);
    if (result < 0)
        return result;
    result = try_ring(&uring->ring);
    if (result < 0) {
        io_uring_queue_exit(&uring->ring);
        return result;
    }
    io_uring_ring_dontfork(&uring->ring); /* or a child would keep the ring, and the file, for as long as it lives */
    /* Survives an engine that closes descriptors it doesn't know, and saves a look-up a call. */
    io_uring_register_ring_fd(&uring->ring);
    uring->info.fixed_file = io_uring_register_files(&uring->ring, &uring->fd, 1) == 0;
    if (uring->n_pieces > 0 && io_uring_register_buffers(&uring->ring, uring->pieces, uring->n_pieces) != 0)
        uring->n_pieces = 0;
    uring->info.fixed_buffers = uring->n_pieces > 0;
    return 0;
}

static void *io_thread(void *arg)
{
    struct uring *uring = arg;
    int result = open_ring(uring);
    pthread_mutex_lock(&uring->lock);
    uring->open_result = result;
    uring->opened = true;
    pthread_cond_signal(&uring->changed);
    pthread_mutex_unlock(&uring->lock);
    if (result < 0)
        return NULL;
    bool ring_exists = true;
    while (!uring->broken && fill(uring))
        submit_and_wait(uring);
    if (uring->broken) {
        ring_exists = drain(uring);
        refuse_all(uring);
    }
    if (ring_exists)
        io_uring_queue_exit(&uring->ring);
    return NULL;
}

static void uring_submit(struct swap_backend *backend, struct swap_request *request)
{
    struct uring *uring = (struct uring *)backend;
    pthread_mutex_lock(&uring->lock);
    swap_lanes_push(&uring->lanes, request);
    /* A full window is refilled when something ends, without a wake. */
    if (uring->asleep && uring->has_room[request->write]) {
        uring->asleep = false;
        /* Under the lock, or a close() that overtakes us takes the descriptor away. */
        kick(uring);
    }
    pthread_cond_signal(&uring->changed);
    pthread_mutex_unlock(&uring->lock);
}

static void destroy(struct uring *uring)
{
    pthread_cond_destroy(&uring->changed);
    pthread_mutex_destroy(&uring->lock);
    close(uring->wake_fd);
    free(uring->pieces);
    free(uring);
}

static void uring_close(struct swap_backend *backend)
{
    struct uring *uring = (struct uring *)backend;
    pthread_mutex_lock(&uring->lock);
    uring->closing = true;
    uring->asleep = false;
    kick(uring);
    pthread_cond_signal(&uring->changed);
    pthread_mutex_unlock(&uring->lock);
    pthread_join(uring->thread, NULL);
    destroy(uring);
}

static int by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)((const struct iovec *)a)->iov_base, y = (uintptr_t)((const struct iovec *)b)->iov_base;
    return (x > y) - (x < y);
}

/* Splits the buffers into pieces that the kernel takes; the cuts fall between blocks. No pieces if there are too many. */
static int cut_pieces(struct uring *uring, const struct swap_backend_config *config)
{
    size_t most = REGISTER_BYTES / config->block_bytes * config->block_bytes;
    size_t n = 0;
    for (uint32_t i = 0; most > 0 && i < config->n_buffers; i++)
        n += (config->buffers[i].iov_len + most - 1) / most;
    if (n == 0 || n > REGISTER_BUFFERS)
        return 0;
    uring->pieces = calloc(n, sizeof(*uring->pieces));
    if (uring->pieces == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < config->n_buffers; i++) {
        const struct iovec *whole = &config->buffers[i];
        for (size_t at = 0; at < whole->iov_len; at += most) {
            size_t left = whole->iov_len - at;
            uring->pieces[uring->n_pieces++] =
                (struct iovec){.iov_base = (char *)whole->iov_base + at, .iov_len = left < most ? left : most};
        }
    }
    qsort(uring->pieces, uring->n_pieces, sizeof(*uring->pieces), by_address);
    return 0;
}

/* The ring's memory isn't in the child (io_uring_ring_dontfork), so its descriptor is all that keeps it, and with it the file. */
static void uring_forget(struct swap_backend *backend)
{
    struct uring *uring = (struct uring *)backend;
    close(uring->ring.ring_fd);
    close(uring->wake_fd);
}

static const struct swap_backend_ops uring_ops = {
    .name = "io_uring",
    .submit = uring_submit,
    .close = uring_close,
    .forget = uring_forget,
};

static int wait_opened(struct uring *uring)
{
    pthread_mutex_lock(&uring->lock);
    while (!uring->opened)
        pthread_cond_wait(&uring->changed, &uring->lock);
    int result = uring->open_result;
    pthread_mutex_unlock(&uring->lock);
    return result;
}

int swap_uring_open(const struct swap_backend_config *config, struct swap_backend **backend,
                    struct swap_backend_info *info)
{
    if (config->read_depth == 0 || config->read_depth > SWAP_DEPTH_LIMIT || config->write_depth == 0 ||
        config->write_depth > SWAP_DEPTH_LIMIT || config->block_bytes == 0)
        return -EINVAL;
    struct uring *uring = calloc(1, sizeof(*uring));
    if (uring == NULL)
        return -ENOMEM;
    uring->base.ops = &uring_ops;
    uring->fd = config->fd;
    uring->read_depth = config->read_depth;
    uring->write_depth = config->write_depth;
    int result = cut_pieces(uring, config);
    if (result < 0)
        goto err_free;
    uring->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (uring->wake_fd < 0) {
        result = -errno;
        goto err_free_pieces;
    }
    pthread_mutex_init(&uring->lock, NULL);
    pthread_cond_init(&uring->changed, NULL);
    result = swap_thread_start(&uring->thread, "kvmm-uring", io_thread, uring);
    if (result < 0)
        goto err_destroy;
    result = wait_opened(uring);
    if (result < 0) {
        pthread_join(uring->thread, NULL);
        goto err_destroy;
    }
    *info = uring->info;
    *backend = &uring->base;
    return 0;

err_destroy:
    destroy(uring);
    return result;
err_free_pieces:
    free(uring->pieces);
err_free:
    free(uring);
    return result;
}

#endif
