/* SPDX-License-Identifier: Apache-2.0
 *
 * The file store's transfers and what is done when they fail:
 *   put: crew (checksum) → back end (write) → done
 *   get: back end (read) → crew (checksum) → done
 * A transfer that was short or asks to be tried again is done again after a back-off; a read that failed, or brought
 * wrong bytes, once more. */
#include <errno.h>
#include <stddef.h>

#include "swap/checksum.h"
#include "swap/choose.h"
#include "swap/file.h"
#include "swap/thread.h"

#define ERROR_LIMIT 8                    /* final errors in a row that make the store fail */
#define FULL_NS     UINT64_C(1000000000) /* between two tries to write on a full file system */
#define BACK_OFF_NS 1000000u             /* before the second try; four times as long before the third */

static struct file_store *file_of(struct swap_io *io)
{
    return (struct file_store *)io->store;
}

static struct swap_io *io_of_job(struct swap_job *job)
{
    return (struct swap_io *)((char *)job - offsetof(struct swap_io, job));
}

static struct swap_io *io_of_request(struct swap_request *request)
{
    return (struct swap_io *)((char *)request - offsetof(struct swap_io, request));
}

static void submit(struct swap_io *io)
{
    struct file_store *file = file_of(io);
    file->backend->ops->submit(file->backend, &io->request);
}

static void back_off_over(struct swap_alarm *alarm)
{
    submit((struct swap_io *)((char *)alarm - offsetof(struct swap_io, alarm)));
}

/* Does the transfer again, later, off the threads that do the I/O. */
static void again(struct swap_io *io)
{
    struct file_store *file = file_of(io);
    uint64_t delay_ns = BACK_OFF_NS;
    for (int i = 1; i < io->tries; i++)
        delay_ns *= 4;
    pthread_mutex_lock(&file->base.lock);
    file->base.n_retries++;
    pthread_mutex_unlock(&file->base.lock);
    io->alarm.ring = back_off_over;
    swap_timer_set(file->timer, &io->alarm, delay_ns);
}

static bool device_gone(int64_t result)
{
    return result == -ENODEV || result == -ENXIO;
}

/* Full, not broken: says nothing about the blocks that are stored. */
static bool no_room(int64_t result)
{
    return result == -ENOSPC || result == -EDQUOT || result == -EFBIG;
}

/* Short, or a passing trouble: worth the same transfer again. Counts it. */
static bool worth_again(struct swap_io *io, int64_t result)
{
    if (result < 0 && result != -EAGAIN && result != -EINTR && result != -ENOMEM)
        return false;
    return ++io->tries < SWAP_TRIES;
}

/* Settles a final result under the lock; `result` is 0, -EBADMSG or the back end's. Returns the io's result. */
static int settle(struct swap_io *io, int64_t result)
{
    struct file_store *file = file_of(io);
    struct swap_store *store = io->store;
    bool newly_failed = false;
    pthread_mutex_lock(&store->lock);
    if (result == 0) {
        file->n_errors = 0;
    } else if (!no_room(result)) {
        file->n_errors++;
        newly_failed = !store->failed && (device_gone(result) || file->n_errors >= ERROR_LIMIT);
        store->failed |= newly_failed;
    }
    bool write = io->request.write;
    if (write && no_room(result))
        store->full_until_ns = swap_now_ns() + FULL_NS; /* any other slot would find no room either */
    else if (write && result != 0)
        swap_slots_blame(&store->slots, io->slot);
    /* What was read and verified is right, whatever has become of the store. */
    int settled = result == -EBADMSG ? -EBADMSG : result != 0 ? -EIO : 0;
    if (store->failed && (write || result != 0))
        settled = -ENODEV;
    if (write && settled == 0)
        swap_slots_fill(&store->slots, io->slot, io->checksum);
    pthread_mutex_unlock(&store->lock);
    if (newly_failed)
        swap_log(&file->config, true, "swap directory %s: the store has failed (%s): no more spilling to it", file->dir,
                 device_gone(result) ? "the device is gone" : "too many errors in a row");
    return settled;
}

static bool store_failed(struct swap_io *io)
{
    pthread_mutex_lock(&io->store->lock);
    bool failed = io->store->failed;
    pthread_mutex_unlock(&io->store->lock);
    return failed;
}

static void write_done(struct swap_request *request)
{
    struct swap_io *io = io_of_request(request);
    int64_t result = request->result;
    if (result == (int64_t)request->bytes)
        swap_io_end(io, settle(io, 0));
    else if (!store_failed(io) && worth_again(io, result))
        again(io);
    else
        swap_io_end(io, settle(io, result < 0 ? result : -EIO));
}

static void run_put(struct swap_job *job)
{
    struct swap_io *io = io_of_job(job);
    io->checksum = swap_checksum(swap_io_seed(io), io->buf, io->store->block_bytes);
    submit(io);
}

/* A read has failed, or brought wrong bytes. */
static void misread(struct swap_io *io, int64_t result)
{
    if (!device_gone(result) && io->stage++ == 0 && !store_failed(io))
        again(io);
    else
        swap_io_end(io, settle(io, result));
}

static void run_verify(struct swap_job *job)
{
    struct swap_io *io = io_of_job(job);
    if (swap_checksum(swap_io_seed(io), io->buf, io->store->block_bytes) == io->checksum)
        swap_io_end(io, settle(io, 0));
    else
        misread(io, -EBADMSG);
}

static void read_done(struct swap_request *request)
{
    struct swap_io *io = io_of_request(request);
    int64_t result = request->result;
    if (result == (int64_t)request->bytes)
        swap_crew_give(io->store->crew, &io->job, io->urgent);
    else if (result >= 0 || result == -EAGAIN || result == -EINTR || result == -ENOMEM) {
        if (!store_failed(io) && worth_again(io, result))
            again(io);
        else
            swap_io_end(io, settle(io, result < 0 ? result : -EIO));
    } else {
        misread(io, result);
    }
}

static void prepare(struct swap_io *io, bool write)
{
    io->request = (struct swap_request){
        .write = write,
        .urgent = io->urgent,
        .buf = io->buf,
        .bytes = io->store->block_bytes,
        .offset = (uint64_t)io->slot * io->store->block_bytes,
        .done = write ? write_done : read_done,
    };
    io->job.run = write ? run_put : run_verify;
}

void swap_file_put(struct swap_store *store, struct swap_io *io)
{
    prepare(io, true);
    swap_crew_give(store->crew, &io->job, io->urgent);
}

void swap_file_get(struct swap_store *store, struct swap_io *io)
{
    prepare(io, false);
    submit(io);
}
