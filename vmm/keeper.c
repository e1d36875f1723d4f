/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/keeper.h"

#include <string.h>
#include <time.h>

#include "vmm/error.h"
#include "vmm/layout.h"
#include "vmm/mm.h"
#include "swap/thread.h"

#define RESERVE_MOST 64
#define REFUSALS     3
#define MAP_MOST     16 /* frames mapped in one go: the lock is held for as long */
#define UNMAP_MOST   16 /* likewise */
#define BREATH_NS    20000
#define POLL_NS      200000 /* how often fences are asked that a destroyed sequence waits for */

/* ---- frames ahead of a sequence ---- */

void vmm_ahead_join(kvmm_seq *seq, uint32_t n)
{
    for (uint32_t g = 0; g < seq->layout.n_groups; g++) {
        for (uint32_t i = 0; i < n; i++) {
            uint64_t index = (uint64_t)g * seq->group_frames + seq->live + i;
            vmm_entry_open(seq, index)->flags &= (uint8_t)~VMM_AHEAD;
            vmm_entry_close(seq, index);
        }
    }
    seq->ahead -= n;
    vmm_count(seq->mm, VMM_COUNT_FRAMES_NEW, (uint64_t)n * seq->layout.n_groups);
}

/* Of one group; the frames are not clear for certain: a kernel may have strayed. */
static uint32_t drop_group(kvmm_seq *seq, uint64_t first, uint32_t n)
{
    kvmm *mm = seq->mm;
    uint32_t mapped = 0;
    while (mapped < n && seq->entries[first + mapped].frame)
        mapped++;
    if (mapped == 0 || mm->device->ops->unmap(mm->device, vmm_entry_address(seq, first), mapped))
        return 0;
    for (uint32_t i = 0; i < mapped; i++) {
        struct vmm_entry *entry = vmm_entry_open(seq, first + i);
        vmm_frames_give(mm->frames, entry->frame - 1, false);
        entry->frame = 0;
        entry->flags &= (uint8_t) ~(VMM_AHEAD | VMM_MAPPED);
        vmm_entry_close(seq, first + i);
    }
    return mapped;
}

uint32_t vmm_ahead_drop(kvmm_seq *seq)
{
    uint32_t dropped = 0, n = seq->ahead;
    seq->ahead_wanted = false;
    if (n == 0)
        return 0;
    struct vmm_message message;
    vmm_message_save(&message);
    bool left = false;
    for (uint32_t g = 0; g < seq->layout.n_groups; g++) {
        uint64_t first = (uint64_t)g * seq->group_frames + seq->live;
        dropped += drop_group(seq, first, n);
        left |= seq->entries[first].frame != 0;
    }
    if (!left)
        seq->ahead = 0;
    vmm_message_restore(&message);
    return dropped;
}

uint32_t vmm_ahead_drop_all(kvmm *mm, uint64_t n)
{
    uint32_t dropped = 0;
    for (kvmm_seq *seq = mm->seqs.next; seq != &mm->seqs && dropped < n; seq = seq->next)
        dropped += vmm_ahead_drop(seq);
    return dropped;
}

/* Maps n clear frames of frames[] ahead of one group. */
static int map_group(kvmm_seq *seq, uint32_t group, const uint32_t *frames, uint32_t n)
{
    kvmm *mm = seq->mm;
    uint64_t first = (uint64_t)group * seq->group_frames + seq->live;
    int rc = mm->device->ops->map(mm->device, vmm_entry_address(seq, first), frames, n);
    for (uint32_t i = 0; rc == KVMM_OK && i < n; i++) {
        struct vmm_entry *entry = vmm_entry_open(seq, first + i);
        entry->frame = frames[i] + 1;
        entry->flags |= VMM_AHEAD | VMM_MAPPED;
        vmm_entry_close(seq, first + i);
    }
    return rc;
}

/* Frames of each group beyond live in which the next tokens will lie. */
static uint32_t wanted(const kvmm_seq *seq)
{
    uint64_t tokens = (uint64_t)seq->length + seq->mm->keeper.tokens;
    uint64_t frames = vmm_group_frames(&seq->layout, seq->mm->frame_bytes,
                                       tokens < seq->max_tokens ? (uint32_t)tokens : seq->max_tokens);
    return frames > seq->live ? (uint32_t)(frames - seq->live) : 0;
}

/* All groups or none. Frames come from the reserve only: nothing leaves the device for what is not needed yet. */
static void map_ahead(kvmm_seq *seq)
{
    kvmm *mm = seq->mm;
    uint32_t n = wanted(seq);
    uint32_t n_groups = seq->layout.n_groups;
    seq->ahead_wanted = false;
    if (n == 0 || seq->ahead > 0 || n_groups > MAP_MOST)
        return;
    if (n > MAP_MOST / n_groups)
        n = MAP_MOST / n_groups;
    uint32_t frames[MAP_MOST], taken = 0;
    while (taken < n * n_groups && vmm_frames_take_clear(mm->frames, taken ? frames[taken - 1] + 1 : 0, &frames[taken]))
        taken++;
    bool enough = taken == n * n_groups;
    uint32_t mapped = 0; /* groups */
    seq->ahead = enough ? n : 0;
    while (enough && mapped < n_groups && map_group(seq, mapped, frames + (size_t)mapped * n, n) == KVMM_OK)
        mapped++;
    if (mapped == n_groups)
        return;
    vmm_ahead_drop(seq);
    for (uint32_t i = mapped * n; i < taken; i++)
        vmm_frames_give(mm->frames, frames[i], true);
}

void vmm_keeper_grown(kvmm_seq *seq)
{
    kvmm *mm = seq->mm;
    if (!mm->keeper.ahead || seq->ahead > 0 || seq->ahead_wanted)
        return;
    if (wanted(seq) == 0)
        return;
    seq->ahead_wanted = true;
    vmm_keeper_ask(mm);
}

/* ---- the reserve ---- */

struct clearing {
    struct vmm_copy copy;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool done;
};

static void cleared(struct vmm_copy *copy)
{
    struct clearing *clearing = (struct clearing *)(void *)((char *)copy - offsetof(struct clearing, copy));
    pthread_mutex_lock(&clearing->lock);
    clearing->done = true;
    pthread_cond_signal(&clearing->ended);
    pthread_mutex_unlock(&clearing->lock);
}

static int clear_frame(struct vmm_device *device, uint32_t frame)
{
    if (!device->ops->copy)
        return device->ops->zero_frame(device, frame);
    struct clearing clearing = {.copy = {.kind = VMM_COPY_ZERO, .frame = frame, .done = cleared},
                                .lock = PTHREAD_MUTEX_INITIALIZER,
                                .ended = PTHREAD_COND_INITIALIZER};
    device->ops->copy(device, &clearing.copy);
    pthread_mutex_lock(&clearing.lock);
    while (!clearing.done)
        pthread_cond_wait(&clearing.ended, &clearing.lock);
    pthread_mutex_unlock(&clearing.lock);
    pthread_mutex_destroy(&clearing.lock);
    pthread_cond_destroy(&clearing.ended);
    return clearing.copy.status;
}

/* Makes or clears one frame, with the lock let go meanwhile. False: the reserve is full, or nothing can be done for it. */
static bool fill_reserve(kvmm *mm)
{
    struct vmm_device *device = mm->device;
    uint32_t frame = 0;
    bool exists;
    if (mm->device_failed || !vmm_frames_prepare(mm->frames, mm->keeper.reserve, &frame, &exists))
        return false;
    mm->keeper.n_making++;
    pthread_mutex_unlock(&mm->lock);
    int rc = exists ? KVMM_OK : device->ops->frame_create(device, &frame);
    bool made = rc == KVMM_OK;
    bool clear = made && !exists && device->frames_start_zero;
    if (made && !clear)
        clear = clear_frame(device, frame) == KVMM_OK;
    pthread_mutex_lock(&mm->lock);
    mm->keeper.n_making--;
    if (made)
        vmm_frames_give(mm->frames, frame, clear);
    else
        vmm_frames_unmade(mm->frames);
    if (mm->n_waiters)
        pthread_cond_broadcast(&mm->changed);
    return clear;
}

/* ---- the thread ---- */

/* Between two calls of the driver under the lock: whoever waits for it has it first. */
static void let_others_in(kvmm *mm)
{
    pthread_mutex_unlock(&mm->lock);
    nanosleep(&(struct timespec){0, BREATH_NS}, NULL);
    pthread_mutex_lock(&mm->lock);
}

/* A destroyed sequence that nothing holds any more. */
static kvmm_seq *first_dead(kvmm *mm)
{
    for (kvmm_seq *seq = mm->seqs.next; seq != &mm->seqs; seq = seq->next) {
        if (seq->dying && vmm_seq_moving(seq) == 0 && seq->n_pending == 0)
            return seq;
    }
    return NULL;
}

/* A few of its frames, or all of it when few are left. */
static int bury_some(kvmm_seq *seq)
{
    uint32_t n = seq->layout.n_groups < UNMAP_MOST ? UNMAP_MOST / seq->layout.n_groups : 1;
    return seq->live > n ? vmm_seq_shrink(seq, seq->live - n) : vmm_seq_bury(seq);
}

static void bury(kvmm *mm)
{
    kvmm_seq *seq;
    while (!mm->keeper.closing && mm->keeper.n_dying > 0 && (seq = first_dead(mm))) {
        if (bury_some(seq) != KVMM_OK) {
            if (++seq->refusals == REFUSALS) /* nobody must wait for its memory any more */
                vmm_device_failed(mm);
            return;
        }
        if (mm->n_waiters)
            pthread_cond_broadcast(&mm->changed);
        let_others_in(mm);
    }
}

static void map_wanted(kvmm *mm)
{
    bool any = true;
    while (any && !mm->keeper.closing) {
        any = false;
        for (kvmm_seq *seq = mm->seqs.next; seq != &mm->seqs && !any; seq = seq->next) {
            any = seq->ahead_wanted && !seq->dying;
            if (any)
                map_ahead(seq);
        }
        if (any)
            let_others_in(mm);
    }
}

static void ask_fences(kvmm *mm)
{
    if (!vmm_reap_steps(mm))
        return;
    vmm_pump(mm);
    if (mm->n_waiters)
        pthread_cond_broadcast(&mm->changed);
}

/* Something waits for fences, and nobody else asks them. */
static bool must_poll(const kvmm *mm)
{
    return mm->keeper.n_dying > 0 || (mm->pending && mm->n_suspending + mm->n_resuming > 0);
}

static void wait_for_work(kvmm *mm)
{
    struct vmm_keeper *keeper = &mm->keeper;
    while (!keeper->asked && !keeper->closing) {
        if (!must_poll(mm)) {
            pthread_cond_wait(&keeper->work, &mm->lock);
            continue;
        }
        vmm_wait_for(&keeper->work, mm, POLL_NS);
        return;
    }
}

static void *keeper_main(void *arg)
{
    kvmm *mm = arg;
    struct vmm_keeper *keeper = &mm->keeper;
    pthread_mutex_lock(&mm->lock);
    while (!keeper->closing) {
        keeper->asked = false;
        ask_fences(mm);
        bury(mm);
        map_wanted(mm);
        while (!keeper->closing && fill_reserve(mm))
            map_wanted(mm);
        wait_for_work(mm);
    }
    pthread_mutex_unlock(&mm->lock);
    return NULL;
}

void vmm_keeper_ask(kvmm *mm)
{
    if (!mm->keeper.runs || mm->keeper.asked)
        return;
    mm->keeper.asked = true;
    pthread_cond_signal(&mm->keeper.work);
}

int vmm_keeper_open(kvmm *mm, uint32_t tokens)
{
    struct vmm_keeper *keeper = &mm->keeper;
    bool has_streams = mm->device->ops->copy != NULL;
    if (tokens == 0 && !has_streams)
        return KVMM_OK;
    uint32_t eighth = vmm_frames_capacity(mm->frames) / 8;
    keeper->ahead = tokens > 0;
    keeper->tokens = tokens;
    if (keeper->ahead)
        keeper->reserve = eighth < RESERVE_MOST ? eighth : RESERVE_MOST;
    swap_cond_init(&keeper->work);
    keeper->runs = true; /* before there is a thread that reads it */
    int rc = pthread_create(&keeper->thread, NULL, keeper_main, mm);
    if (rc == 0)
        return KVMM_OK;
    keeper->runs = keeper->ahead = false;
    pthread_cond_destroy(&keeper->work);
    return vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "a background thread can't be started: %s", strerror(rc));
}

void vmm_keeper_close(kvmm *mm)
{
    struct vmm_keeper *keeper = &mm->keeper;
    if (!keeper->runs)
        return;
    pthread_mutex_lock(&mm->lock);
    keeper->closing = true;
    pthread_cond_signal(&keeper->work);
    pthread_mutex_unlock(&mm->lock);
    pthread_join(keeper->thread, NULL);
    pthread_mutex_lock(&mm->lock);
    keeper->runs = keeper->ahead = false;
    keeper->closing = false;
    pthread_mutex_unlock(&mm->lock);
    pthread_cond_destroy(&keeper->work);
}
