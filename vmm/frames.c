/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/frames.h"

#include <stdlib.h>

#include "kvmm/kvmm.h"
#include "vmm/error.h"

/* A set of frame numbers with a count and a place to search from. */
struct frame_set {
    uint64_t *words;
    uint32_t count;
    uint32_t cursor; /* word */
};

struct vmm_frames {
    struct vmm_device *dev;
    uint32_t capacity;
    uint32_t limit; /* capacity, or n_made while the device has no more */
    uint32_t n_words;
    uint32_t n_made;
    uint32_t n_taken;
    struct vmm_message refusal; /* why limit is less than capacity */
    struct frame_set zero;      /* free, read as zero */
    struct frame_set dirty;     /* free, hold somebody's bytes */
};

static bool set_has(const struct frame_set *set, uint32_t i)
{
    return set->words[i / 64] >> (i % 64) & 1;
}

static void set_add(struct frame_set *set, uint32_t i)
{
    set->words[i / 64] |= 1ull << (i % 64);
    set->count++;
}

static void set_remove(struct frame_set *set, uint32_t i)
{
    set->words[i / 64] &= ~(1ull << (i % 64));
    set->count--;
}

/* Precondition: not empty. */
static uint32_t set_take(struct frame_set *set, uint32_t n_words, uint32_t near)
{
    uint32_t i = near;
    if (near / 64 >= n_words || !set_has(set, near)) {
        while (set->words[set->cursor] == 0)
            set->cursor = set->cursor + 1 < n_words ? set->cursor + 1 : 0;
        i = set->cursor * 64 + (uint32_t)__builtin_ctzll(set->words[set->cursor]);
    }
    set_remove(set, i);
    return i;
}

int vmm_frames_open(struct vmm_device *dev, struct vmm_frames **out)
{
    uint32_t capacity = dev->max_frames;
    struct vmm_frames *frames = calloc(1, sizeof *frames);
    if (!frames)
        goto err;
    frames->dev = dev;
    frames->capacity = capacity;
    frames->limit = capacity;
    frames->n_words = (capacity + 63) / 64;
    frames->zero.words = calloc(frames->n_words, sizeof(uint64_t));
    frames->dirty.words = calloc(frames->n_words, sizeof(uint64_t));
    if (!frames->zero.words || !frames->dirty.words)
        goto err;
    *out = frames;
    return KVMM_OK;

err:
    if (frames) {
        free(frames->zero.words);
        free(frames->dirty.words);
        free(frames);
    }
    return vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "no memory for the table of %u frames", capacity);
}

void vmm_frames_close(struct vmm_frames **handle)
{
    struct vmm_frames *frames = *handle;
    if (!frames)
        return;
    for (uint32_t i = 0; i < frames->n_words * 64; i++) {
        if (set_has(&frames->zero, i) || set_has(&frames->dirty, i))
            frames->dev->ops->frame_release(frames->dev, i);
    }
    free(frames->zero.words);
    free(frames->dirty.words);
    free(frames);
    *handle = NULL;
}

/* The device has no more; the thread's message says so. */
static void refused(struct vmm_frames *frames)
{
    frames->limit = frames->n_made;
    vmm_message_save(&frames->refusal);
}

int vmm_frames_take(struct vmm_frames *frames, enum vmm_frame_use use, uint32_t near, uint32_t *frame, bool *zeroed)
{
    struct frame_set *first = use == VMM_FRAME_FOR_DATA ? &frames->dirty : &frames->zero;
    if (first->count == 0 && frames->n_made < frames->limit) {
        uint32_t made;
        int rc = frames->dev->ops->frame_create(frames->dev, &made);
        if (rc == KVMM_OK) {
            frames->n_made++;
            frames->n_taken++;
            *frame = made;
            *zeroed = frames->dev->frames_start_zero;
            return KVMM_OK;
        }
        if (rc != KVMM_ERR_NO_DEVICE_MEMORY)
            return rc;
        refused(frames);
    }
    struct frame_set *set = first;
    if (set->count == 0)
        set = set == &frames->dirty ? &frames->zero : &frames->dirty;
    if (set->count == 0)
        return KVMM_ERR_NO_DEVICE_MEMORY;
    *frame = set_take(set, frames->n_words, near);
    *zeroed = set == &frames->zero;
    frames->n_taken++;
    return KVMM_OK;
}

bool vmm_frames_take_clear(struct vmm_frames *frames, uint32_t near, uint32_t *frame)
{
    if (frames->zero.count == 0)
        return false;
    *frame = set_take(&frames->zero, frames->n_words, near);
    frames->n_taken++;
    return true;
}

bool vmm_frames_prepare(struct vmm_frames *frames, uint32_t reserve, uint32_t *frame, bool *exists)
{
    *exists = frames->dirty.count > 0;
    if (frames->zero.count >= reserve || (!*exists && frames->n_made >= frames->limit))
        return false;
    if (*exists)
        *frame = set_take(&frames->dirty, frames->n_words, 0);
    else
        frames->n_made++;
    frames->n_taken++;
    return true;
}

void vmm_frames_unmade(struct vmm_frames *frames)
{
    frames->n_made--;
    frames->n_taken--;
    refused(frames);
}

const char *vmm_frames_refusal(const struct vmm_frames *frames)
{
    return frames->limit < frames->capacity ? frames->refusal.text : NULL;
}

void vmm_frames_give(struct vmm_frames *frames, uint32_t frame, bool zeroed)
{
    set_add(zeroed ? &frames->zero : &frames->dirty, frame);
    frames->n_taken--;
}

uint32_t vmm_frames_capacity(const struct vmm_frames *frames)
{
    return frames->capacity;
}

uint32_t vmm_frames_taken(const struct vmm_frames *frames)
{
    return frames->n_taken;
}

uint32_t vmm_frames_free(const struct vmm_frames *frames)
{
    return frames->limit - frames->n_taken;
}

void vmm_frames_retry(struct vmm_frames *frames)
{
    frames->limit = frames->capacity;
}
