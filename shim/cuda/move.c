/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/cuda/move.h"

#include <errno.h>

#include "shim/cuda/calls.h"
#include "shim/cuda/ranges.h"
#include "shim/cuda/transfer.h"
#include "shim/log.h"

/* A run of marked frames, neighbours in one range and all of one kind, so that one driver call does for them. */
struct run {
    struct shim_cuda_range *range;
    uint32_t first, n;
    size_t slot; /* where the search goes on */
};

typedef bool wanted(const struct shim_cuda_frame *frame);

static bool is_resident(const struct shim_cuda_frame *frame)
{
    return frame->marked && frame->state == SHIM_RESIDENT;
}

static bool is_missing(const struct shim_cuda_frame *frame)
{
    return frame->marked && frame->state != SHIM_RESIDENT;
}

static bool is_blank(const struct shim_cuda_frame *frame)
{
    return frame->marked && frame->state == SHIM_BLANK;
}

/* Starts with {0}; false after the last. */
static bool next_run(struct run *run, wanted *is_wanted)
{
    uint32_t f = run->first + run->n;
    for (; run->slot < shim_cuda.n_slots; run->slot++, f = 0) {
        struct shim_cuda_range *range = &shim_cuda.ranges[run->slot];
        if (!range->n_marked)
            continue;
        while (f < range->n_frames && !is_wanted(&range->frames[f]))
            f++;
        if (f == range->n_frames)
            continue;
        run->range = range;
        run->first = f;
        while (f < range->n_frames && is_wanted(&range->frames[f]))
            f++;
        run->n = f - run->first;
        return true;
    }
    return false;
}

static CUdeviceptr start_of(const struct run *run)
{
    return shim_cuda_base(run->range) + (CUdeviceptr)run->first * shim_cuda.frame_bytes;
}

static struct shim_cuda_frame *frame_of(const struct run *run, uint32_t i)
{
    return &run->range->frames[run->first + i];
}

static size_t count(wanted *is_wanted)
{
    size_t n = 0;
    for (struct run run = {0}; next_run(&run, is_wanted);)
        n += run.n;
    return n;
}

/* ---- in ---- */

/* How far the frames of a batch have come, in the order of runs. */
struct batch {
    size_t n_made, n_mapped;
};

static int make_all(struct batch *batch)
{
    for (struct run run = {0}; next_run(&run, is_missing);) {
        for (uint32_t i = 0; i < run.n; i++, batch->n_made++) {
            int result = shim_cuda_frame_make(run.range->device, &frame_of(&run, i)->handle);
            if (result)
                return result;
        }
    }
    return 0;
}

static int map_all(struct batch *batch)
{
    const struct cuda_driver *cu = shim_cuda.cu;
    size_t bytes = shim_cuda.frame_bytes;
    for (struct run run = {0}; next_run(&run, is_missing);) {
        CUdeviceptr at = start_of(&run);
        for (uint32_t i = 0; i < run.n; i++, batch->n_mapped++) {
            CUresult rc = cu->MemMap(at + i * bytes, bytes, 0, frame_of(&run, i)->handle, 0);
            if (rc != CUDA_SUCCESS)
                return shim_cuda_refused(rc, "cuMemMap");
        }
        CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, run.range->device}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
        CUresult rc = cu->MemSetAccess(at, run.n * bytes, &access, 1); /* one call for the span: it is the dear one */
        if (rc != CUDA_SUCCESS)
            return shim_cuda_refused(rc, "cuMemSetAccess");
    }
    return 0;
}

/* Undoes make_all() and map_all() as far as they came. */
static void unmake(const struct batch *batch)
{
    size_t n = 0;
    for (struct run run = {0}; next_run(&run, is_missing);) {
        CUdeviceptr at = start_of(&run);
        for (uint32_t i = 0; i < run.n && n < batch->n_made; i++, n++) {
            CUmemGenericAllocationHandle handle = frame_of(&run, i)->handle;
            if (n < batch->n_mapped)
                shim_cuda_unback(at + i * shim_cuda.frame_bytes, handle);
            else if (SHIM_CUDA_TWICE(shim_cuda.cu->MemRelease(handle)) != CUDA_SUCCESS)
                shim_log("device memory can't be given back: cuMemRelease");
        }
    }
}

/* Clears the blank frames of one device's ranges; a stream of our own in the context of each. */
static int clear_in(struct shim_cuda_range *range)
{
    const struct cuda_driver *cu = shim_cuda.cu;
    CUstream stream;
    CUresult rc = cu->StreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0);
    if (rc != CUDA_SUCCESS)
        return shim_cuda_refused(rc, "cuStreamCreateWithPriority");
    const char *call = "cuMemsetD8Async";
    for (struct run run = {0}; rc == CUDA_SUCCESS && next_run(&run, is_blank);) {
        if (run.range == range)
            rc = cu->MemsetD8Async(start_of(&run), 0, run.n * shim_cuda.frame_bytes, stream);
    }
    /* Waited for in any case: what was queued must have ended before its memory may go again. */
    CUresult end = SHIM_CUDA_TWICE(cu->StreamSynchronize(stream));
    if (rc == CUDA_SUCCESS && end != CUDA_SUCCESS) {
        call = "cuStreamSynchronize";
        rc = end;
    }
    (void)SHIM_CUDA_TWICE(cu->StreamDestroy(stream));
    return rc == CUDA_SUCCESS ? 0 : shim_cuda_refused(rc, call);
}

static int clear_all(void)
{
    const struct shim_cuda_range *last = NULL;
    for (struct run run = {0}; next_run(&run, is_blank);) {
        struct shim_cuda_place place;
        if (run.range == last)
            continue;
        last = run.range;
        int result = shim_cuda_place_enter(&place, run.range->context);
        if (result)
            return result;
        result = clear_in(run.range);
        shim_cuda_place_leave(&place);
        if (result)
            return result;
    }
    return 0;
}

static int check(size_t *n_marked)
{
    size_t n = count(is_missing), frame = shim_cuda.frame_bytes;
    size_t resident = shim_cuda.n_in[SHIM_RESIDENT];
    uint64_t budget = shim_cuda.config.device_memory;
    *n_marked = n;
    for (struct run run = {0}; next_run(&run, is_missing);) {
        for (uint32_t i = 0; i < run.n; i++) {
            if (frame_of(&run, i)->state == SHIM_LOST)
                return shim_cuda_why(-EBADMSG, "bytes of the cache were lost: they could not be read back");
        }
    }
    if (budget && (resident + n) * frame > budget)
        return shim_cuda_why(-ENOSPC, "%zu bytes are needed beside %zu, and the budget (KVMM_DEVICE_MEMORY) is %llu",
                             n * frame, resident * frame, (unsigned long long)budget);
    return 0;
}

static void keep_all(void)
{
    for (struct run run = {0}; next_run(&run, is_missing);) {
        for (uint32_t i = 0; i < run.n; i++) {
            struct shim_cuda_frame *frame = frame_of(&run, i);
            if (frame->state == SHIM_AWAY)
                shim_cuda_slot_give(&frame->slot);
            shim_cuda_frame_set(run.range, frame, SHIM_RESIDENT);
            shim_cuda_frame_promise(run.range, frame, false);
        }
    }
}

/* After -EBADMSG of a transfer. */
static void lose_unread(void)
{
    for (struct run run = {0}; next_run(&run, is_missing);) {
        for (uint32_t i = 0; i < run.n; i++) {
            struct shim_cuda_frame *frame = frame_of(&run, i);
            if (frame->state != SHIM_AWAY || !frame->unread)
                continue;
            shim_cuda_slot_give(&frame->slot);
            shim_cuda_frame_set(run.range, frame, SHIM_LOST);
        }
    }
}

int shim_cuda_bring(void)
{
    struct batch batch = {0};
    struct shim_cuda_place place;
    size_t n;
    int result = check(&n);
    if (result || n == 0)
        goto out_unmark;
    result = shim_cuda_place_enter(&place, NULL);
    if (result)
        goto out_unmark;
    result = make_all(&batch);
    if (result == 0)
        result = map_all(&batch);
    if (result == 0)
        result = clear_all();
    if (result == 0 && shim_cuda.n_in[SHIM_AWAY])
        result = shim_cuda_transfer_in();
    if (result) {
        unmake(&batch);
        if (result == -EBADMSG) {
            lose_unread();
            shim_cuda_why(0, "bytes of the cache could not be read back");
        }
    } else {
        keep_all();
    }
    shim_cuda_place_leave(&place);

out_unmark:
    shim_cuda_unmark_all();
    return result;
}

/* ---- out ---- */

static int take_slots(size_t *n_taken)
{
    for (struct run run = {0}; next_run(&run, is_resident);) {
        for (uint32_t i = 0; i < run.n; i++, ++*n_taken) {
            int rc = shim_cuda_slot_take(&frame_of(&run, i)->slot);
            if (rc)
                return shim_cuda_why(-ENOSPC, "host memory and swap file can't take %zu frames of %zu bytes",
                                     count(is_resident), shim_cuda.frame_bytes);
        }
    }
    return 0;
}

static void give_slots(size_t n_taken)
{
    for (struct run run = {0}; next_run(&run, is_resident);) {
        for (uint32_t i = 0; i < run.n && n_taken; i++, n_taken--)
            shim_cuda_slot_give(&frame_of(&run, i)->slot);
    }
}

/* Unmaps a run and gives its memory back. */
static int unback_run(const struct run *run)
{
    const struct cuda_driver *cu = shim_cuda.cu;
    CUresult rc = SHIM_CUDA_TWICE(cu->MemUnmap(start_of(run), run->n * shim_cuda.frame_bytes));
    if (rc != CUDA_SUCCESS)
        return shim_cuda_refused(rc, "cuMemUnmap");
    for (uint32_t i = 0; i < run->n; i++) {
        if (SHIM_CUDA_TWICE(cu->MemRelease(frame_of(run, i)->handle)) != CUDA_SUCCESS)
            shim_log("device memory can't be given back: cuMemRelease");
    }
    return 0;
}

static int unback_all(void)
{
    int result = 0;
    for (struct run run = {0}; next_run(&run, is_resident);) {
        int failed = unback_run(&run);
        for (uint32_t i = 0; i < run.n; i++) {
            struct shim_cuda_frame *frame = frame_of(&run, i);
            if (failed)
                shim_cuda_slot_give(&frame->slot);
            else
                shim_cuda_frame_set(run.range, frame, SHIM_AWAY);
        }
        result = result ? result : failed ? -EIO : 0;
    }
    return result;
}

int shim_cuda_send(void)
{
    struct shim_cuda_place place;
    size_t n_taken = 0;
    int result = 0;
    struct run first = {0};
    if (!next_run(&first, is_resident))
        goto out_unmark;
    result = shim_cuda_place_enter(&place, first.range->context);
    if (result)
        goto out_unmark;
    result = shim_cuda_tiers_open(shim_cuda.frame_bytes);
    if (result == 0)
        result = take_slots(&n_taken);
    if (result == 0)
        result = shim_cuda_transfer_out();
    if (result)
        give_slots(n_taken);
    else
        result = unback_all();
    shim_cuda_place_leave(&place);

out_unmark:
    shim_cuda_unmark_all();
    return result;
}

static void forget_missing(void)
{
    for (struct run run = {0}; next_run(&run, is_missing);) {
        for (uint32_t i = 0; i < run.n; i++) {
            struct shim_cuda_frame *frame = frame_of(&run, i);
            if (frame->state == SHIM_AWAY)
                shim_cuda_slot_give(&frame->slot);
            shim_cuda_frame_set(run.range, frame, SHIM_BLANK);
        }
    }
}

int shim_cuda_forget(void)
{
    struct shim_cuda_place place;
    int result = shim_cuda_place_enter(&place, NULL);
    if (result == 0) {
        forget_missing();
        for (struct run run = {0}; result == 0 && next_run(&run, is_resident);) {
            result = unback_run(&run);
            for (uint32_t i = 0; result == 0 && i < run.n; i++)
                shim_cuda_frame_set(run.range, frame_of(&run, i), SHIM_BLANK);
        }
        shim_cuda_place_leave(&place);
    }
    shim_cuda_unmark_all();
    return result == -ENOMEM ? -EIO : result;
}
