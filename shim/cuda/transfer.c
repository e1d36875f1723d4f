/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/cuda/transfer.h"

#include <errno.h>
#include <string.h>

#include "shim/cuda/calls.h"
#include "shim/cuda/ranges.h"
#include "vmm/device/cuda_lane.h"

#define N_PIECES 16 /* under way at once: four in the lane, the others with the crew or the disk */
#define TRIES    3  /* slots that a frame is written to before the disk is given up */

struct transfer;

/* One frame on its way. */
struct piece {
    struct vmm_copy copy;
    struct swap_io io;
    struct transfer *transfer;
    struct shim_cuda_frame *frame;
    void *staging; /* the piece's own; NULL: there is none */
    int tries;
    bool busy; /* under the transfer's lock */
};

struct transfer {
    bool out;
    struct cuda_lane *lane;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned n_busy; /* under lock */
    int result;      /* the first failure; under lock */
    struct piece pieces[N_PIECES];
};

static struct piece *piece_of_copy(struct vmm_copy *copy)
{
    return (struct piece *)((char *)copy - offsetof(struct piece, copy));
}

static struct piece *piece_of_io(struct swap_io *io)
{
    return (struct piece *)((char *)io - offsetof(struct piece, io));
}

/* On any thread. After it, the piece is the transfer's again. */
static void finish(struct piece *piece, int result)
{
    struct transfer *transfer = piece->transfer;
    pthread_mutex_lock(&transfer->lock);
    if (result && !transfer->result)
        transfer->result = result;
    piece->busy = false;
    transfer->n_busy--;
    pthread_cond_signal(&transfer->changed);
    pthread_mutex_unlock(&transfer->lock);
}

/* The disk refused this slot: what is still held goes to another. */
static bool write_elsewhere(struct piece *piece)
{
    struct shim_cuda_slot old = piece->frame->slot, slot;
    if (piece->io.result != -EIO || ++piece->tries == TRIES || shim_cuda_slot_take(&slot))
        return false;
    if (!slot.in_file && shim_cuda_slot_memory(&slot)) { /* its memory is not where the bytes are: not worth a path */
        shim_cuda_slot_give(&slot);
        return false;
    }
    shim_cuda_slot_give(&old);
    piece->frame->slot = slot;
    piece->io.slot = slot.slot;
    piece->io.stamp.generation = slot.generation;
    swap_put(shim_cuda_slot_store(&slot), &piece->io);
    return true;
}

static void stored(struct swap_io *io)
{
    struct piece *piece = piece_of_io(io);
    if (io->result == 0 || !write_elsewhere(piece))
        finish(piece, io->result == -ENODEV ? -EIO : io->result);
}

static void copied_out(struct vmm_copy *copy)
{
    struct piece *piece = piece_of_copy(copy);
    if (copy->status)
        finish(piece, -EIO);
    else
        swap_put(shim_cuda_slot_store(&piece->frame->slot), &piece->io);
}

static void copied_in(struct vmm_copy *copy)
{
    finish(piece_of_copy(copy), copy->status ? -EIO : 0);
}

static void fetched(struct swap_io *io)
{
    struct piece *piece = piece_of_io(io);
    piece->frame->unread = io->result != 0;
    if (io->result)
        finish(piece, -EBADMSG);
    else
        cuda_lane_give(piece->transfer->lane, &piece->copy);
}

/* A piece that is free, or NULL once something has failed that others would meet too. */
static struct piece *take(struct transfer *transfer)
{
    struct piece *piece = NULL;
    pthread_mutex_lock(&transfer->lock);
    while (transfer->n_busy == N_PIECES)
        pthread_cond_wait(&transfer->changed, &transfer->lock);
    if (transfer->result == 0 || transfer->result == -EBADMSG) {
        for (int i = 0; !piece; i++)
            piece = transfer->pieces[i].busy ? NULL : &transfer->pieces[i];
        piece->busy = true;
        transfer->n_busy++;
    }
    pthread_mutex_unlock(&transfer->lock);
    return piece;
}

static int settle(struct transfer *transfer)
{
    pthread_mutex_lock(&transfer->lock);
    while (transfer->n_busy)
        pthread_cond_wait(&transfer->changed, &transfer->lock);
    int result = transfer->result;
    pthread_mutex_unlock(&transfer->lock);
    return result;
}

static void start(struct transfer *transfer, struct piece *piece, struct shim_cuda_range *range, uint32_t number,
                  uint32_t place)
{
    struct shim_cuda_frame *frame = &range->frames[number];
    void *memory = shim_cuda_slot_memory(&frame->slot);
    memory = memory ? memory : piece->staging;
    piece->frame = frame;
    piece->tries = 0;
    frame->unread = false;
    piece->copy = (struct vmm_copy){.kind = transfer->out ? VMM_COPY_OUT : VMM_COPY_IN,
                                    .frame = place,
                                    .memory = memory,
                                    .done = transfer->out ? copied_out : copied_in};
    piece->io = (struct swap_io){.slot = frame->slot.slot,
                                 .stamp = {(uint64_t)range->serial << 32 | number, frame->slot.generation},
                                 .buf = memory,
                                 .urgent = !transfer->out,
                                 .done = transfer->out ? stored : fetched};
    if (transfer->out)
        cuda_lane_give(transfer->lane, &piece->copy);
    else
        swap_get(shim_cuda_slot_store(&frame->slot), &piece->io);
}

static bool is_meant(const struct transfer *transfer, const struct shim_cuda_frame *frame)
{
    return frame->marked && frame->state == (transfer->out ? SHIM_RESIDENT : SHIM_AWAY);
}

/* The frames that one device has to move: where the first range lies, and whether any needs staging. */
struct errand {
    CUdevice device;
    CUcontext context;
    CUdeviceptr window;
    size_t n;
    bool staging;
};

static void look(const struct transfer *transfer, struct errand *errand)
{
    for (size_t i = 0; i < shim_cuda.n_slots; i++) {
        const struct shim_cuda_range *range = &shim_cuda.ranges[i];
        if (!range->n_marked || range->device != errand->device)
            continue;
        CUdeviceptr base = shim_cuda_base(range);
        for (uint32_t f = 0; f < range->n_frames; f++) {
            if (!is_meant(transfer, &range->frames[f]))
                continue;
            if (errand->n++ == 0 || base < errand->window)
                errand->window = base;
            errand->context = range->context;
            errand->staging |= !shim_cuda_slot_memory(&range->frames[f].slot);
        }
    }
}

static void run(struct transfer *transfer, const struct errand *errand)
{
    for (size_t i = 0; i < shim_cuda.n_slots; i++) {
        struct shim_cuda_range *range = &shim_cuda.ranges[i];
        if (!range->n_marked || range->device != errand->device)
            continue;
        uint32_t place = (uint32_t)((shim_cuda_base(range) - errand->window) / shim_cuda.frame_bytes);
        for (uint32_t f = 0; f < range->n_frames; f++) {
            if (!is_meant(transfer, &range->frames[f]))
                continue;
            struct piece *piece = take(transfer);
            if (!piece)
                return;
            start(transfer, piece, range, f, place + f);
        }
    }
}

/* With the device's context current. */
static int run_on_device(struct transfer *transfer, const struct errand *errand)
{
    const struct cuda_driver *cu = shim_cuda.cu;
    size_t frame = shim_cuda.frame_bytes, n = errand->n < N_PIECES ? errand->n : N_PIECES;
    void *staging = NULL;
    CUresult rc = errand->staging ? cu->MemHostAlloc(&staging, n * frame, CU_MEMHOSTALLOC_PORTABLE) : CUDA_SUCCESS;
    if (rc != CUDA_SUCCESS)
        return shim_cuda_why(-EIO, "no pinned memory for transfers: cuMemHostAlloc: %s", cuda_error_name(cu, rc));
    int result = cuda_lane_open(cu, errand->context, errand->window, frame, &transfer->lane) ? -EIO : 0;
    if (result) {
        shim_cuda_why(result, "a copy stream can't be made");
    } else {
        for (size_t i = 0; i < N_PIECES; i++) {
            transfer->pieces[i].transfer = transfer;
            transfer->pieces[i].staging = staging ? (char *)staging + i % n * frame : NULL;
        }
        run(transfer, errand);
        result = settle(transfer);
        cuda_lane_close(&transfer->lane);
    }
    if (staging)
        (void)SHIM_CUDA_TWICE(cu->MemFreeHost(staging));
    return result;
}

static int transfer_all(struct transfer *transfer)
{
    bool lost = false;
    for (CUdevice device = 0; device < 64; device++) {
        struct errand errand = {.device = device};
        struct shim_cuda_place place;
        look(transfer, &errand);
        if (errand.n == 0)
            continue;
        int result = shim_cuda_place_enter(&place, errand.context);
        if (result)
            return result;
        result = run_on_device(transfer, &errand);
        shim_cuda_place_leave(&place);
        lost |= result == -EBADMSG;
        if (result && result != -EBADMSG)
            return result;
    }
    return lost ? -EBADMSG : 0;
}

static int transfer(bool out)
{
    struct transfer transfer;
    memset(&transfer, 0, sizeof transfer);
    transfer.out = out;
    pthread_mutex_init(&transfer.lock, NULL);
    pthread_cond_init(&transfer.changed, NULL);
    int result = transfer_all(&transfer);
    pthread_cond_destroy(&transfer.changed);
    pthread_mutex_destroy(&transfer.lock);
    return result;
}

int shim_cuda_transfer_out(void)
{
    shim_cuda_why(0, "a copy from the device failed, or the swap file refused a write");
    return transfer(true);
}

int shim_cuda_transfer_in(void)
{
    shim_cuda_why(0, "a copy to the device failed");
    return transfer(false);
}
