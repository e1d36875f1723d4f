/* SPDX-License-Identifier: Apache-2.0
 *
 * The ranges: reserved device addresses that an engine takes for one allocation of the driver's, in frames of one granule
 * that have physical memory or not. One lock guards all ranges and frames; it is held over driver calls and transfers, so
 * that a range never changes under somebody. What the engine's calls ask all the time is answered without it: whether
 * an address is in a range, and whether anything is missing.
 *
 * Functions return 0 or a negative errno value, and then have said the reason with shim_cuda_why():
 *   -ENOMEM   the device's memory is full
 *   -ENOSPC   the budget is; or host memory and swap file are
 *   -EBADMSG  a frame's bytes are lost
 *   -EIO      the driver failed
 *   -EBUSY    not now: a capture goes on, or it is suspended */
#ifndef SHIM_CUDA_RANGES_H
#define SHIM_CUDA_RANGES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shim/config.h"
#include "shim/cuda/abi.h"
#include "shim/cuda/tiers.h"
#include "vmm/driver/driver.h"

#define SHIM_CUDA_MAX_RANGES 1024

enum shim_cuda_state {
    SHIM_BLANK,    /* nowhere: it reads as zeros */
    SHIM_RESIDENT, /* physical memory is mapped at its place */
    SHIM_AWAY,     /* its bytes are in a slot of a tier */
    SHIM_LOST,     /* its bytes could not be read back; it stays so until it is cleared, freed or dropped */
    SHIM_N_STATES
};

struct shim_cuda_frame {
    CUmemGenericAllocationHandle handle; /* RESIDENT */
    struct shim_cuda_slot slot;          /* AWAY */
    uint8_t state;                       /* enum shim_cuda_state */
    bool promised;                       /* no kernel touches it before WILLNEED: it need not be here for a launch */
    bool marked;                         /* for the operation under way */
    bool unread;                         /* the operation under way could not read its bytes */
};

struct shim_cuda_range {
    _Atomic(CUdeviceptr) base, end; /* whole frames; 0: the slot is free. Written under the lock, read anywhere */
    atomic_size_t n_missing;        /* frames that are not RESIDENT; written under the lock */
    atomic_size_t n_needed;         /* of those, the ones that a launch must find here */
    atomic_bool cache;              /* false: it is the engine's affair; no frame ever leaves */
    atomic_bool tentative;          /* it is the cache if it is cleared as a whole before it is used otherwise */
    /* Constant from the making on. */
    pthread_t maker; /* of a tentative one: a launch of this thread is use */
    size_t bytes;    /* that were asked for */
    CUcontext context;
    CUdevice device;
    /* Under the lock. */
    uint32_t n_frames; /* in [base, end) */
    uint32_t n_marked;
    uint32_t serial; /* for stamps: never the same twice */
    struct shim_cuda_frame *frames;
};

/* The state. Counters are atomic so that they can be read without the lock, and written under it. */
struct shim_cuda {
    atomic_bool open;
    struct shim_config config;
    pthread_mutex_t lock;
    const struct cuda_driver *cu; /* under the lock; once it is set it stays */
    atomic_size_t frame_bytes;    /* of all ranges; 0 until there is one */
    uint32_t next_serial;
    struct shim_cuda_range ranges[SHIM_CUDA_MAX_RANGES];
    atomic_size_t n_slots;             /* of ranges[] that were ever used */
    atomic_size_t n_ranges;            /* live */
    atomic_size_t n_tentative;         /* live */
    atomic_size_t n_needed;            /* of all ranges */
    atomic_size_t n_in[SHIM_N_STATES]; /* frames */
    atomic_size_t n_in_file;           /* of those AWAY */
    atomic_size_t peak;                /* of RESIDENT */
    atomic_bool suspended;
    atomic_uint_least64_t n_suspends, n_resumes, suspend_ns, resume_ns;
    char why[256]; /* under the lock */
};
extern struct shim_cuda shim_cuda;

void shim_cuda_lock(void);
void shim_cuda_unlock(void);

/* Under the lock, all that follow; but for the two that say otherwise. */

/* Sets the reason for a failure and returns its code. */
int shim_cuda_why(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Likewise for a refused driver call: -ENOMEM for OUT_OF_MEMORY, -EIO for all others. */
int shim_cuda_refused(CUresult rc, const char *call);

/* A range of at least `bytes` for the current context, all BLANK. */
int shim_cuda_range_make(size_t bytes, bool tentative, struct shim_cuda_range **range);
/* Gives everything of the range back. Precondition: no work that touches it is queued. Best effort where the driver refuses
 * twice: what can't be given back is logged. */
void shim_cuda_range_drop(struct shim_cuda_range *range);

/* How many bytes of its ranges are owed to the device: not there, but to be there at the next launch. Without the lock. */
uint64_t shim_cuda_owed(CUdevice device);

/* The range that holds the address; NULL: none. Without the lock. */
struct shim_cuda_range *shim_cuda_range_at(CUdeviceptr address);
/* The first range from slot *at on that the span overlaps; *at is then the slot after it. NULL: there is none. Without the
 * lock. */
struct shim_cuda_range *shim_cuda_range_over(CUdeviceptr start, size_t bytes, size_t *at);

static inline CUdeviceptr shim_cuda_base(const struct shim_cuda_range *range)
{
    return atomic_load_explicit(&range->base, memory_order_relaxed);
}

/* Frames [*first, *first + return) of the range are those that the span overlaps. */
uint32_t shim_cuda_frames_over(const struct shim_cuda_range *range, CUdeviceptr start, size_t bytes, uint32_t *first);
/* Likewise those that are wholly in the span; the range's last frame is when the allocation's end is. */
uint32_t shim_cuda_frames_within(const struct shim_cuda_range *range, CUdeviceptr start, size_t bytes, uint32_t *first);

/* Changes a frame's state and the counters; its handle and slot are the caller's affair. */
void shim_cuda_frame_set(struct shim_cuda_range *range, struct shim_cuda_frame *frame, enum shim_cuda_state state);
void shim_cuda_frame_promise(struct shim_cuda_range *range, struct shim_cuda_frame *frame, bool promised);

/* A tentative range is decided. */
void shim_cuda_range_decide(struct shim_cuda_range *range, bool cache);

/* Marks the frame for the operation that follows. */
void shim_cuda_mark(struct shim_cuda_range *range, uint32_t frame);
void shim_cuda_unmark_all(void);

#endif
