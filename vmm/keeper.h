/* SPDX-License-Identifier: Apache-2.0
 *
 * The keeper: a background thread that does ahead of need what a step would otherwise wait for, and later what nobody
 * waits for.
 *
 *   - It keeps a reserve of frames that are made and clear (making one is the dearest call of the CUDA driver).
 *   - It maps the next frames of sequences that grow, *ahead* of their length. Such a frame is no part of the sequence
 *     yet: its entry counts as EMPTY, and whoever needs the memory takes it away again.
 *   - It takes down destroyed sequences, when the last kernel that may touch them has finished.
 *   - It asks the fences of ended steps while a suspend or a resume waits for them: they pass without telling anyone.
 *
 * Runs on a device with streams, for the last of these at least, and wherever map_ahead_tokens is not 0. Where that is 0
 * steps make, clear and map for themselves, and a destroy waits. */
#ifndef VMM_KEEPER_H
#define VMM_KEEPER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "kvmm/kvmm.h"

struct vmm_frames;

/* In struct kvmm, under kvmm.lock. */
struct vmm_keeper {
    bool runs;
    bool ahead;        /* it does more than ask fences */
    bool asked;        /* there may be work */
    bool closing;      /* the thread is to end */
    uint32_t tokens;   /* a growing sequence has this many more tokens' frames mapped */
    uint32_t reserve;  /* free frames that are kept made and clear */
    uint32_t n_making; /* frames that it makes or clears at this moment, without the lock */
    uint32_t n_dying;  /* destroyed sequences that it has to take down */
    pthread_t thread;
    pthread_cond_t work;
};

/* Starts it if there is something for it to do. Errors: NO_HOST_MEMORY. */
int vmm_keeper_open(kvmm *mm, uint32_t tokens);
/* Ends it; the lock is not held. Destroyed sequences may be left. */
void vmm_keeper_close(kvmm *mm);

/* All that follows is called with kvmm.lock held. */

void vmm_keeper_ask(kvmm *mm);
/* A step of the sequence has ended: its next frames, where they are near, are mapped soon. */
void vmm_keeper_grown(kvmm_seq *seq);

/* The sequence's first n frames of each group beyond live become its own. */
void vmm_ahead_join(kvmm_seq *seq, uint32_t n);
/* Takes down the frames that are mapped ahead of seq, and gives them back; how many they were. What can't be unmapped
 * stays. */
uint32_t vmm_ahead_drop(kvmm_seq *seq);
/* The same for all sequences, until n frames are free. */
uint32_t vmm_ahead_drop_all(kvmm *mm, uint64_t n);

#endif
