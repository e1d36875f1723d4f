/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/cuda/tiers.h"

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

#include "shim/cuda/calls.h"
#include "shim/cuda/gate.h"
#include "shim/log.h"
#include "swap/thread.h"

#define CREW_THREADS 4

/* Under the lock of shim_cuda; but slots may be taken and given by a transfer's callbacks, while it holds the lock. */
static struct {
    struct swap_crew *crew; /* NULL: nothing is open */
    struct swap_store *host, *file;
    CUcontext pinned_in; /* host's memory is pinned there; NULL: nowhere */
    bool said_not_pinned, said_no_host;
} tiers;

static atomic_uint next_generation;
static struct swap_faults faults;
static bool has_faults;

void shim_cuda_tiers_set_faults(const struct swap_faults *what)
{
    has_faults = what != NULL;
    if (what)
        faults = *what;
}

/* Pins the host memory, so that the GPU copies straight to and from it. */
static void pin(void)
{
    const struct cuda_driver *cu = shim_cuda.cu;
    struct iovec memory = swap_memory(tiers.host);
    CUcontext context = NULL;
    CUresult rc = cu->CtxGetCurrent(&context);
    if (rc == CUDA_SUCCESS)
        rc = cu->MemHostRegister(memory.iov_base, memory.iov_len, CU_MEMHOSTREGISTER_PORTABLE);
    if (rc == CUDA_SUCCESS)
        tiers.pinned_in = context;
    else
        shim_log_once(&tiers.said_not_pinned,
                      "%zu bytes of host memory can't be pinned (%s): suspend and resume copy twice", memory.iov_len,
                      cuda_error_name(cu, rc));
}

static void unpin(void)
{
    if (tiers.pinned_in)
        (void)SHIM_CUDA_TWICE(shim_cuda.cu->MemHostUnregister(swap_memory(tiers.host).iov_base));
    tiers.pinned_in = NULL;
}

/* As many slots as there are frames, so that no more is pinned than can be used: at most the budget. */
static uint32_t wanted_slots(size_t frame_bytes)
{
    uint64_t n = shim_cuda.config.host_memory / frame_bytes, all = 0;
    for (int state = 0; state < SHIM_N_STATES; state++)
        all += shim_cuda.n_in[state];
    n = n < all ? n : all;
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX - 1;
}

/* More ranges have come since it was opened, and nothing is in it. */
static bool is_outgrown(size_t frame_bytes)
{
    struct swap_store_info info;
    swap_get_info(tiers.host, &info);
    return info.n_used == 0 && info.n_slots < wanted_slots(frame_bytes);
}

static void open_host(size_t frame_bytes, uint64_t seed)
{
    struct swap_host_config config = {
        .block_bytes = frame_bytes, .n_slots = wanted_slots(frame_bytes), .checksum_seed = seed, .crew = tiers.crew};
    int rc = config.n_slots ? swap_host_open(&config, &tiers.host) : 0;
    if (rc)
        shim_log_once(&tiers.said_no_host, "no host memory for the cache: %u frames of %zu bytes can't be had",
                      config.n_slots, frame_bytes);
}

static void open_file(size_t frame_bytes, uint64_t seed)
{
    char reason[200];
    struct swap_file_config config = {.dir = shim_cuda.config.swap_dir,
                                      .block_bytes = frame_bytes,
                                      .max_bytes = shim_cuda.config.swap_bytes,
                                      .checksum_seed = seed,
                                      .backend = "auto",
                                      .crew = tiers.crew,
                                      .log = shim_log_line,
                                      .faults = has_faults ? &faults : NULL};
    if (config.dir && swap_file_open(&config, &tiers.file, reason, sizeof reason))
        shim_log("no swap file for the cache: %s", reason);
}

int shim_cuda_tiers_open(size_t frame_bytes)
{
    uint64_t seed = swap_now_ns() ^ (uint64_t)getpid() << 40;
    if (!tiers.crew) {
        if (swap_crew_open(CREW_THREADS, &tiers.crew))
            return shim_cuda_why(-EIO, "threads for transfers can't be started");
        open_file(frame_bytes, seed);
    }
    if (tiers.host && is_outgrown(frame_bytes)) {
        unpin();
        swap_close(&tiers.host);
    }
    if (!tiers.host)
        open_host(frame_bytes, seed);
    if (!tiers.host && !tiers.file) {
        shim_cuda_tiers_close();
        return shim_cuda_why(-ENOSPC, "there is neither host memory (KVMM_HOST_MEMORY) nor a swap file (KVMM_SWAP_DIR) "
                                      "for the cache");
    }
    if (tiers.host && !tiers.pinned_in)
        pin();
    return 0;
}

void shim_cuda_tiers_close(void)
{
    if (tiers.host)
        unpin();
    swap_close(&tiers.host);
    swap_close(&tiers.file);
    swap_crew_close(&tiers.crew);
}

int shim_cuda_slot_take(struct shim_cuda_slot *slot)
{
    slot->generation = atomic_fetch_add(&next_generation, 1);
    int rc = tiers.host ? swap_slot_alloc(tiers.host, &slot->slot) : -ENOSPC;
    slot->in_file = rc != 0;
    if (rc && tiers.file)
        rc = swap_slot_alloc(tiers.file, &slot->slot);
    return rc;
}

void shim_cuda_slot_give(const struct shim_cuda_slot *slot)
{
    swap_slot_free(shim_cuda_slot_store(slot), slot->slot);
}

uint64_t shim_cuda_slots_taken(void)
{
    struct swap_store_info info;
    uint64_t n = 0;
    for (int i = 0; i < 2; i++) {
        struct swap_store *store = i ? tiers.file : tiers.host;
        if (!store)
            continue;
        swap_get_info(store, &info);
        n += info.n_used;
    }
    return n;
}

struct swap_store *shim_cuda_slot_store(const struct shim_cuda_slot *slot)
{
    return slot->in_file ? tiers.file : tiers.host;
}

void *shim_cuda_slot_memory(const struct shim_cuda_slot *slot)
{
    return !slot->in_file && tiers.pinned_in ? swap_slot_address(tiers.host, slot->slot) : NULL;
}

void shim_cuda_tiers_leave_context(CUcontext context)
{
    if (tiers.pinned_in == context)
        unpin();
}
