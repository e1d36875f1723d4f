/* SPDX-License-Identifier: Apache-2.0
 *
 * The way of a transfer's bytes. On a device that the CPU can reach a tier reads and writes the frame itself. Else:
 *
 *     spill to host   copy frame → slot, checksum the slot in place
 *     fetch from host verify the slot in place, copy slot → frame
 *     spill to NVMe   copy frame → staging, write
 *     fetch from NVMe read and verify, copy staging → frame
 *
 * Where the host tier's memory could not be registered with the device, host slots go through staging as NVMe's do. Each
 * arrow runs on a thread of the device's or of swap's; the end of one starts the next; vmm_end_move() has the outcome. */
#include <errno.h>

#include "vmm/error.h"
#include "vmm/mm.h"

static struct vmm_move *of_io(struct swap_io *io)
{
    return (struct vmm_move *)(void *)((char *)io - offsetof(struct vmm_move, io));
}

static struct vmm_move *of_job(struct swap_job *job)
{
    return (struct vmm_move *)(void *)((char *)job - offsetof(struct vmm_move, job));
}

static struct vmm_move *of_copy(struct vmm_copy *copy)
{
    return (struct vmm_move *)(void *)((char *)copy - offsetof(struct vmm_move, copy));
}

static struct vmm_move *of_staging(struct vmm_staging_request *request)
{
    return (struct vmm_move *)(void *)((char *)request - offsetof(struct vmm_move, staging));
}

static bool is_spill(const struct vmm_move *move)
{
    return move->kind == VMM_SPILL_HOST || move->kind == VMM_SPILL_NVME;
}

/* ---- a device that the CPU can reach ---- */

static void direct_done(struct swap_io *io)
{
    struct vmm_move *move = of_io(io);
    struct vmm_device *device = move->seq->mm->device;
    device->ops->view_put(device, move->frame);
    vmm_end_move(move, io->result, KVMM_OK);
}

static void start_direct(struct vmm_move *move)
{
    struct vmm_device *device = move->seq->mm->device;
    move->io.buf = device->ops->view_get(device, move->frame);
    move->io.done = direct_done;
    if (is_spill(move))
        swap_put(move->store, &move->io);
    else
        swap_get(move->store, &move->io);
}

static void zero_job(struct swap_job *job)
{
    struct vmm_move *move = of_job(job);
    struct vmm_device *device = move->seq->mm->device;
    vmm_end_move(move, 0, device->ops->zero_frame(device, move->frame));
}

/* ---- one that it can't ---- */

static void end(struct vmm_move *move, int result, int device_status)
{
    if (move->staging.buffer)
        vmm_staging_give(move->seq->mm->staging, &move->staging);
    vmm_end_move(move, result, device_status);
}

static void put_done(struct swap_io *io)
{
    end(of_io(io), io->result, KVMM_OK);
}

static void copy_done(struct vmm_copy *copy)
{
    struct vmm_move *move = of_copy(copy);
    if (copy->status || !is_spill(move)) {
        end(move, 0, copy->status);
        return;
    }
    move->io.done = put_done;
    swap_put(move->store, &move->io);
}

static void start_copy(struct vmm_move *move, enum vmm_copy_kind kind)
{
    struct vmm_device *device = move->seq->mm->device;
    move->copy = (struct vmm_copy){
        .kind = kind, .frame = move->frame, .memory = move->io.buf, .urgent = move->io.urgent, .done = copy_done};
    device->ops->copy(device, &move->copy);
}

static void get_done(struct swap_io *io)
{
    struct vmm_move *move = of_io(io);
    if (io->result)
        end(move, io->result, KVMM_OK);
    else
        start_copy(move, VMM_COPY_IN);
}

/* There is memory for the bytes on their way. */
static void start_staged(struct vmm_move *move, void *memory)
{
    move->io.buf = memory;
    if (is_spill(move)) {
        start_copy(move, VMM_COPY_OUT);
        return;
    }
    move->io.done = get_done;
    swap_get(move->store, &move->io);
}

static void staging_ready(struct vmm_staging_request *request)
{
    start_staged(of_staging(request), request->buffer);
}

/* ---- */

static void demote_done(struct swap_io *io)
{
    vmm_end_move(of_io(io), io->result, KVMM_OK);
}

static void start_demote(struct vmm_move *move)
{
    kvmm *mm = move->seq->mm;
    move->io.buf = swap_slot_address(mm->host, move->from_slot);
    move->io.done = demote_done;
    swap_put(move->store, &move->io);
}

static void start_zero(struct vmm_move *move)
{
    kvmm *mm = move->seq->mm;
    if (mm->device->ops->copy) {
        start_copy(move, VMM_COPY_ZERO);
        return;
    }
    move->job = (struct swap_job){.run = zero_job};
    swap_crew_give(mm->crew, &move->job, true);
}

void vmm_transfer(struct vmm_move *move)
{
    kvmm *mm = move->seq->mm;
    move->staging = (struct vmm_staging_request){.urgent = move->io.urgent, .fetch = !is_spill(move)};
    if (move->kind == VMM_DEMOTE) {
        start_demote(move);
    } else if (move->kind == VMM_ZERO) {
        start_zero(move);
    } else if (!mm->device->ops->copy) {
        start_direct(move);
    } else if (move->store == mm->host && mm->host_registered) {
        start_staged(move, swap_slot_address(mm->host, move->io.slot));
    } else {
        move->staging.ready = staging_ready;
        vmm_staging_take(mm->staging, &move->staging);
    }
}
