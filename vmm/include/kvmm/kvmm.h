/* SPDX-License-Identifier: Apache-2.0
 *
 * libkvmm: virtual memory for the KV caches of LLM inference.
 *
 * Each sequence (a conversation) owns one contiguous range of device addresses, reserved for its maximum length.
 * Physical frames are mapped behind it as tokens arrive. Frames of sequences that are not in use move to host
 * memory and to NVMe, and are back before the next step that names the sequence. Kernels see plain strided tensors.
 *
 *     struct kvmm_config cfg;
 *     kvmm_config_init(&cfg);
 *     cfg.geometry = (struct kvmm_geometry){.n_layers = 32, .n_kv_heads = 8, .head_dim = 128, ...};
 *     cfg.device_memory = 4ull << 30;
 *     kvmm_open(&cfg, &mm);
 *     kvmm_seq_create(mm, 65536, &seq);
 *
 *     struct kvmm_want want = {.seq = seq, .n_tokens = kvmm_seq_length(seq) + 1};
 *     kvmm_step_begin(mm, &want, 1, 0, &step);    // resident and writable now
 *     ... kernels read tokens [0, n) and write token n at kvmm_seq_layout()'s strides ...
 *     kvmm_step_end(&step, NULL);                 // pages may move again
 *
 * Conventions of every function here:
 *   - The result is KVMM_OK (0) or a negative enum kvmm_status. Outputs are written only on success, except the
 *     fields named as outputs of a failure (kvmm_want.status, for one). kvmm_errmsg() has the reason in words.
 *   - The library never exits, aborts or prints. It speaks through kvmm_config.log, if that is set.
 *   - Thread safety: any thread may call any function on the same kvmm at the same time. A sequence may be in one
 *     step at a time. A handle must not be used once its close, destroy or end call was entered.
 *   - A forked child has none of it: it must not call kvmm functions on its parent's handles, nor touch the ranges.
 *   - Sizes are bytes, lengths are tokens, times are nanoseconds, unless a name says otherwise.
 */
#ifndef KVMM_KVMM_H
#define KVMM_KVMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVMM_VERSION_MAJOR 0
#define KVMM_VERSION_MINOR 1
#define KVMM_VERSION_PATCH 0

#if defined(KVMM_BUILDING) && defined(__GNUC__)
#define KVMM_API __attribute__((visibility("default")))
#else
#define KVMM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvmm kvmm;           /* a manager: one device, its budget and its spill tiers */
typedef struct kvmm_seq kvmm_seq;   /* a sequence: one range of addresses and the frames behind it */
typedef struct kvmm_step kvmm_step; /* a step in flight: its sequences stay resident until it ends */

/* Grouped by what is harmed: the call, this moment, this sequence's data, the device. */
enum kvmm_status {
    KVMM_OK = 0,

    /* The call was wrong; nothing changed. */
    KVMM_ERR_INVALID = -1,     /* an argument is outside its documented bounds */
    KVMM_ERR_STATE = -2,       /* not possible now: the sequence is in a step, a step is open, ... */
    KVMM_ERR_RANGE_FULL = -3,  /* more tokens than the range was reserved for */
    KVMM_ERR_UNSUPPORTED = -4, /* this build or this machine can't do it */

    /* Nothing changed; the same call can succeed later or with less. */
    KVMM_ERR_NO_DEVICE_MEMORY = -20, /* the wanted sequences don't fit the device budget together */
    KVMM_ERR_NO_SPILL_SPACE = -21,   /* cold frames must leave the device, and host and NVMe are full */
    KVMM_ERR_NO_HOST_MEMORY = -22,   /* the process or the machine is out of memory */
    KVMM_ERR_NO_ADDRESS_SPACE = -23, /* no range of that length can be reserved or mapped */

    /* This sequence's data. Others are not touched. */
    KVMM_ERR_DATA_LOST = -40, /* a spilled frame can't be read back intact; see kvmm_seq_info.valid_tokens */

    /* The device or a tier as a whole. */
    KVMM_ERR_DEVICE = -60, /* the device failed */
    KVMM_ERR_SWAP = -61    /* a spill tier can't be set up (kvmm_errmsg names the directory and the reason) */
};

/* The enumerator's name, such as "KVMM_ERR_DATA_LOST"; "unknown" for any other number. Never NULL; static. */
KVMM_API const char *kvmm_status_name(int status);

/* One line of text for the last failure that a kvmm call on this thread returned; "" before any. The string belongs
 * to the thread and lives until its next failing kvmm call. */
KVMM_API const char *kvmm_errmsg(void);

/* ---- geometry and layout ------------------------------------------------------------------------------------- */

enum kvmm_dtype { KVMM_F16 = 0, KVMM_BF16 = 1, KVMM_F32 = 2 };

/* The bytes of one element; 0 for a number that is no kvmm_dtype. */
KVMM_API size_t kvmm_dtype_bytes(enum kvmm_dtype dtype);

enum kvmm_layout_kind {
    KVMM_PAGE_MAJOR = 0,  /* [page][layer][k|v][head][token in page][dim] */
    KVMM_TOKEN_MAJOR = 1, /* [token][layer][k|v][head][dim]: one stride for all tokens */
    KVMM_LAYER_MAJOR = 2  /* [group of layers][page][layer in group][k|v][head][token in page][dim] */
};

struct kvmm_geometry {
    uint32_t n_layers;            /* 1 … 1024 */
    uint32_t n_kv_heads;          /* 1 … 1024 */
    uint32_t head_dim;            /* elements, 1 … 1024; K and V alike */
    uint32_t page_tokens;         /* tokens in a page, 1 … 256; 16 by kvmm_config_init */
    enum kvmm_dtype dtype;        /* of K and V */
    enum kvmm_layout_kind layout; /* KVMM_PAGE_MAJOR by kvmm_config_init */
    uint32_t layers_per_group;    /* KVMM_LAYER_MAJOR only: 1 … n_layers; 0 counts as 1. Else ignored. */
    uint32_t reserved[5];         /* 0 */
};

/* Where a sequence's elements are. All strides are in bytes. The element `dim` of K (kv = 0) or V (kv = 1) of
 * `token`, in `layer` and `head`, is at
 *
 *     base + (layer / layers_per_group) * group_stride + (layer % layers_per_group) * layer_stride
 *          + (token / page_tokens) * page_stride + (token % page_tokens) * token_stride
 *          + kv * kv_stride + head * head_stride + dim * elem_bytes
 *
 * For KVMM_TOKEN_MAJOR page_stride == page_tokens * token_stride, so a token's offset is token * token_stride.
 * KVMM_PAGE_MAJOR and KVMM_TOKEN_MAJOR have one group that holds all layers. */
struct kvmm_layout {
    void *base;
    size_t elem_bytes;
    size_t group_stride; /* a multiple of the frame; depends on the sequence's max_tokens */
    size_t page_stride;
    size_t layer_stride;
    size_t kv_stride;
    size_t head_stride;
    size_t token_stride;
    uint32_t layers_per_group;
    uint32_t n_groups;
    uint32_t page_tokens;
};

/* Address of K (kv = 0) or V (kv = 1) of token 0, head 0 in `layer`. From there a kernel needs page_stride,
 * token_stride and head_stride only. */
static inline void *kvmm_layout_at(const struct kvmm_layout *l, uint32_t layer, uint32_t kv)
{
    return (char *)l->base + (size_t)(layer / l->layers_per_group) * l->group_stride +
           (size_t)(layer % l->layers_per_group) * l->layer_stride + (size_t)kv * l->kv_stride;
}

/* Bytes that n_tokens tokens of one sequence occupy in frames of frame_bytes: what they count against a budget.
 * 0 if the geometry is invalid or frame_bytes is 0; UINT64_MAX if it is that much or more. */
KVMM_API uint64_t kvmm_geometry_bytes(const struct kvmm_geometry *g, size_t frame_bytes, uint32_t n_tokens);

/* ---- open and close ------------------------------------------------------------------------------------------ */

enum kvmm_log_level { KVMM_LOG_ERROR = 0, KVMM_LOG_WARNING = 1, KVMM_LOG_INFO = 2 };

#define KVMM_MAP_AHEAD_AUTO UINT32_MAX

/* Fill with kvmm_config_init() first, always: it sets struct_size, which says which fields the caller knows. */
struct kvmm_config {
    size_t struct_size;

    struct kvmm_geometry geometry;

    /* Device tier. */
    const char *device;     /* "host" (default): memory of this machine stands for the device; "cuda:N", or "cuda" for
                           "cuda:0": that GPU, through its primary context; "auto": cuda:0 if this machine can, else the host device,
                           and log says why */
    uint64_t device_memory; /* budget of the device tier; 0: device_memory_utilization × what is free */
    double device_memory_utilization; /* (0, 1]; default 0.9; used only when device_memory is 0 */
    size_t frame_bytes;               /* host device: a power of two, 64 KiB … 2 MiB; cuda: a power of two and a
                                         multiple of the GPU's granularity, 2 MiB as a rule; default 2 MiB; 0: the granularity */

    /* Host tier: memory that spilled frames go to first. 0: none (default). Rounded down to frames. */
    uint64_t host_memory;

    /* NVMe tier: an unnamed private file in swap_dir, which vanishes with the process. NULL: none (default). */
    const char *swap_dir;
    uint64_t swap_bytes;      /* most it may grow to; 0: until the file system is full */
    const char *swap_backend; /* "auto" (default): io_uring, else threads; "io_uring"; "threads" */

    /* Policy. */
    const char *policy;         /* which sequence's frames leave first: "lru" (default) or "clock" */
    uint32_t host_high_percent; /* demotion of host frames to NVMe starts above this; default 90 */
    uint32_t host_low_percent;  /* and goes on down to this; default 80 */

    /* A background thread maps the frames of a sequence's next so many tokens before they are needed, keeps a few frames
     * made and clear, and takes down destroyed sequences. 0: no such thread; KVMM_MAP_AHEAD_AUTO (default): one page on a
     * CUDA device, none on the host device. */
    uint32_t map_ahead_tokens;

    /* true: the frame behind a sequence's last one reads as zero, for kernels that read past the last token inside their
     * tile; a write there faults. Then nothing is mapped ahead, and a step in which a sequence grows by a frame waits for
     * its earlier kernels. false (default): nothing behind the last frame is readable. */
    bool readable_tail;

    uint32_t n_threads;     /* threads for copies and checksums, 1 … 64; default 2 */
    uint64_t checksum_seed; /* 0 (default): random */

    const char *name; /* shown by `kvmm ls`; default: the process's name. Cut at 31 bytes. */
    bool no_page_map; /* true: publish no page map */

    /* Called for each message, on any of the library's threads or the caller's; it must be quick and must not call kvmm
     * functions. NULL (default): silence. */
    void (*log)(void *user, enum kvmm_log_level level, const char *line);
    /* Monotonic time in ns; NULL (default): clock_gettime(CLOCK_MONOTONIC). Tests put a fake clock here. */
    uint64_t (*now_ns)(void *user);
    void *user; /* first argument of log and now_ns */

    uint64_t reserved[16]; /* 0 */
};

KVMM_API void kvmm_config_init(struct kvmm_config *cfg);

/* Opens a manager. Strings in cfg are copied. On failure *mm is not written and nothing is left behind.
 * Errors: INVALID; UNSUPPORTED (no CUDA driver, one before 11.4, no such GPU, or one without virtual memory management);
 * NO_DEVICE_MEMORY, NO_HOST_MEMORY, NO_ADDRESS_SPACE, DEVICE, SWAP. */
KVMM_API int kvmm_open(const struct kvmm_config *cfg, kvmm **mm);

/* Destroys all sequences, waits for transfers in flight, gives everything back and sets *mm to NULL. NULL and
 * pointers to NULL are ignored. All sequence handles are invalid afterwards.
 * Errors: STATE while a step is open (nothing changed); NO_ADDRESS_SPACE, DEVICE as kvmm_seq_destroy() (the sequences
 * before that one are gone). *mm stays then. */
KVMM_API int kvmm_close(kvmm **mm);

/* ---- sequences ----------------------------------------------------------------------------------------------- */

/* Reserves a range for up to max_tokens tokens; no memory yet. The sequence is owned by the caller until
 * kvmm_seq_destroy() or kvmm_close(). Errors: INVALID (max_tokens 0 or over 2^30), NO_HOST_MEMORY,
 * NO_ADDRESS_SPACE. */
KVMM_API int kvmm_seq_create(kvmm *mm, uint32_t max_tokens, kvmm_seq **seq);

/* Frees the sequence, its frames in all tiers and its range; sets *seq to NULL. With a background thread (see
 * map_ahead_tokens) that happens when its transfers and the kernels of its steps have ended; without, this call waits for them.
 * NULL and pointers to NULL are ignored. Errors: STATE while in a step; NO_ADDRESS_SPACE if the kernel has no room to
 * unmap it now; DEVICE. *seq stays then. */
KVMM_API int kvmm_seq_destroy(kvmm_seq **seq);

/* Tokens held: grows by kvmm_step_end(), shrinks by kvmm_seq_truncate(). */
KVMM_API uint32_t kvmm_seq_length(const kvmm_seq *seq);

/* The strides and the base address; constant for the sequence's life. */
KVMM_API void kvmm_seq_layout(const kvmm_seq *seq, struct kvmm_layout *layout);

/* Keeps the first n_tokens tokens. Whole frames behind them are freed in every tier; the rest of the last page keeps
 * its bytes until they are overwritten. A sequence that lost data is whole again if n_tokens ≤ valid_tokens.
 * Errors: INVALID (n_tokens over the length), STATE (in a step), NO_ADDRESS_SPACE (no room to unmap them now), DEVICE;
 * the length is unchanged then. */
KVMM_API int kvmm_seq_truncate(kvmm_seq *seq, uint32_t n_tokens);

/* The sequence won't be used for a while: its frames start to leave the device in the background, before those of
 * any other. Errors: STATE (in a step or pinned), NO_SPILL_SPACE (what had no place to go stays; nothing is lost). */
KVMM_API int kvmm_seq_suspend(kvmm_seq *seq);

/* The sequence will be used soon: its frames start to come back in the background, as far as the budget has room
 * without taking frames from sequences that are pinned or in a step. The next step waits for what is missing.
 * Errors: DATA_LOST. */
KVMM_API int kvmm_seq_resume(kvmm_seq *seq);

/* While its pin count is above 0 the frames of a sequence do not leave the device. A pin does not fetch.
 * Errors: STATE (unpin at 0). */
KVMM_API int kvmm_seq_pin(kvmm_seq *seq);
KVMM_API int kvmm_seq_unpin(kvmm_seq *seq);

struct kvmm_seq_info {
    uint64_t id; /* unique in this manager, from 1 */
    uint32_t length;
    uint32_t max_tokens;
    uint32_t valid_tokens; /* tokens before the first lost frame; == length if none is lost */
    uint32_t pins;
    uint64_t n_frames; /* frames that hold its tokens, wherever they are */
    uint64_t n_device; /* of them: on the device */
    uint64_t n_host;   /* in host memory, also while they are on their way to the device */
    uint64_t n_nvme;   /* on NVMe alone, likewise */
    uint64_t n_lost;
};
KVMM_API void kvmm_seq_get_info(const kvmm_seq *seq, struct kvmm_seq_info *info);

/* ---- steps --------------------------------------------------------------------------------------------------- */

/* What a step needs of one sequence. */
struct kvmm_want {
    kvmm_seq *seq;
    uint32_t n_tokens; /* ≥ the sequence's length. Tokens [0, length) will be readable, [length, n_tokens) writable:
                          writing to tokens below length is not allowed and may be lost */
    int status;        /* output, also on failure: KVMM_OK, or why this sequence can't be in the step */
};

/* kvmm_step_begin flags */
#define KVMM_STEP_PARTIAL 1u /* begin with the wants that are possible, in their order; the others have a status */

/* Makes the wanted tokens resident, in one batch, waiting only for what is missing. On success the frames of these
 * sequences stay where they are until kvmm_step_end(). A call that finds everything resident makes no system call.
 * New tokens' bytes are zero, or this sequence's own from before a truncate; never another's.
 *
 * Without KVMM_STEP_PARTIAL either all wants are met or the call fails and *step is not written; each want's status
 * then says which are at fault (NO_DEVICE_MEMORY: the first one that did not fit and those after it).
 * With it, at least one want must be possible, else the call fails with the first one's status.
 * n = 0 is INVALID, as is a sequence named twice.
 * Errors: INVALID, STATE (a sequence is in a step), RANGE_FULL, NO_DEVICE_MEMORY (kvmm_errmsg says how much is
 * needed), NO_SPILL_SPACE, NO_HOST_MEMORY, NO_ADDRESS_SPACE, DATA_LOST, DEVICE. */
KVMM_API int kvmm_step_begin(kvmm *mm, struct kvmm_want *wants, size_t n, unsigned flags, kvmm_step **step);

/* Ends the step: each sequence's length becomes its n_tokens, pages may move again once the work queued on `stream`
 * before this call is done. The host device has no streams: its kernels must have returned, and stream must be NULL.
 * On a CUDA device it is a CUstream of the GPU's primary context (a cudaStream_t of the runtime is one), NULL being the
 * default stream; kvmm waits for an event on it, never for the device. A kernel that was launched on another stream must
 * be ordered before it. It must not be captured at this moment; and a capture elsewhere in the process must be of mode
 * THREAD_LOCAL or RELAXED, because kvmm's threads ask events, which spoils one of mode GLOBAL (CUDA driver API, stream
 * management).
 * Sets *step to NULL. Errors: INVALID (stream), DEVICE; the step is over in any case. */
KVMM_API int kvmm_step_end(kvmm_step **step, void *stream);

/* ---- numbers ------------------------------------------------------------------------------------------------- */

struct kvmm_stats {
    size_t frame_bytes;
    /* Now, in bytes. */
    uint64_t device_capacity, device_used;
    uint64_t host_capacity, host_used;
    uint64_t nvme_capacity, nvme_used; /* nvme_capacity: what may still be grown to; 0 = no fixed limit */
    uint64_t n_sequences;
    /* Since open. */
    uint64_t n_steps, n_steps_waited; /* steps; steps that had to wait for a transfer or an eviction */
    uint64_t wait_ns;                 /* sum of those waits */
    uint64_t frames_hit;              /* frames that a step wanted and found on the device */
    uint64_t frames_from_host;        /* … fetched from host memory */
    uint64_t frames_from_nvme;        /* … fetched from NVMe */
    uint64_t frames_new;              /* … that held nothing yet */
    uint64_t bytes_to_host, bytes_to_nvme, bytes_from_host, bytes_from_nvme;
    uint64_t bytes_dropped_clean; /* left a tier without a copy, because a lower tier still had one */
    uint64_t io_retries;          /* transfers that were tried again */
    uint64_t frames_lost;
    uint64_t reserved[16];
};
KVMM_API void kvmm_get_stats(kvmm *mm, struct kvmm_stats *stats);

/* The device in use: "host", "cuda:0", … Lives as long as mm. */
KVMM_API const char *kvmm_device_name(const kvmm *mm);

/* The back end of the NVMe tier in use: "io_uring", "threads", or "none". Static. */
KVMM_API const char *kvmm_swap_backend(const kvmm *mm);

#ifdef __cplusplus
}
#endif
#endif
