/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening and closing a manager: configuration checked, tiers set up in the order in which they need each other. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "vmm/error.h"
#include "vmm/layout.h"
#include "vmm/mm.h"
#include "swap/thread.h"

/* The host tier is registered with io_uring, which pins it, so all of its memory is taken at open; up to this size that
 * costs less than a quarter of a second, and saves CPU time at each write to NVMe. */
#define REGISTER_MOST (1ull << 30)

/* Staging: as much as keeps a fast drive and the copy engines busy together, in at least a few buffers. */
#define STAGING_BYTES (64ull << 20)
#define STAGING_LEAST 8
#define STAGING_MOST  256

static uint64_t monotonic_ns(void *user)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void kvmm_config_init(struct kvmm_config *cfg)
{
    *cfg = (struct kvmm_config){
        .struct_size = sizeof *cfg,
        .geometry = {.page_tokens = 16},
        .device = "host",
        .device_memory_utilization = 0.9,
        .frame_bytes = 2 * 1024 * 1024,
        .swap_backend = "auto",
        .policy = "lru",
        .host_high_percent = 90,
        .host_low_percent = 80,
        .n_threads = 2,
        .map_ahead_tokens = KVMM_MAP_AHEAD_AUTO,
    };
}

void vmm_log(kvmm *mm, enum kvmm_log_level level, const char *format, ...)
{
    if (!mm->log)
        return;
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    mm->log(mm->user, level, line);
}

static void swap_log(void *user, bool warning, const char *line)
{
    vmm_log(user, warning ? KVMM_LOG_WARNING : KVMM_LOG_INFO, "%s", line);
}

static int check_config(const struct kvmm_config *cfg)
{
    if (cfg->struct_size != sizeof *cfg)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_config was not filled by kvmm_config_init of this version");
    int rc = vmm_geometry_check(&cfg->geometry);
    if (rc)
        return rc;
    if (cfg->device_memory == 0 && !(cfg->device_memory_utilization > 0 && cfg->device_memory_utilization <= 1))
        return vmm_fail(KVMM_ERR_INVALID, "device_memory_utilization is %g; it must be over 0 and at most 1",
                        cfg->device_memory_utilization);
    if (cfg->host_high_percent > 100 || cfg->host_low_percent > cfg->host_high_percent)
        return vmm_fail(KVMM_ERR_INVALID, "host watermarks are %u and %u percent; they must be low ≤ high ≤ 100",
                        cfg->host_low_percent, cfg->host_high_percent);
    if (cfg->n_threads < 1 || cfg->n_threads > 64)
        return vmm_fail(KVMM_ERR_INVALID, "n_threads is %u; it must be 1 to 64", cfg->n_threads);
    const char *backend = cfg->swap_backend;
    if (!backend ||
        (strcmp(backend, "auto") != 0 && strcmp(backend, "io_uring") != 0 && strcmp(backend, "threads") != 0))
        return vmm_fail(KVMM_ERR_INVALID, "swap_backend is \"%s\"; it must be auto, io_uring or threads",
                        backend ? backend : "(null)");
    return KVMM_OK;
}

/* What kvmm_config.device names. */
enum device_choice { DEVICE_AUTO, DEVICE_HOST, DEVICE_CUDA };

static int parse_device(const char *text, enum device_choice *choice, unsigned *ordinal)
{
    char rest;
    *ordinal = 0;
    if (text && strcmp(text, "auto") == 0)
        *choice = DEVICE_AUTO;
    else if (text && strcmp(text, "host") == 0)
        *choice = DEVICE_HOST;
    else if (text && (strcmp(text, "cuda") == 0 || (strncmp(text, "cuda:", 5) == 0 && text[5] >= '0' &&
                                                    text[5] <= '9' && sscanf(text + 5, "%3u%c", ordinal, &rest) == 1)))
        *choice = DEVICE_CUDA;
    else
        return vmm_fail(KVMM_ERR_INVALID, "device is \"%s\"; it must be auto, host, cuda or cuda:N",
                        text ? text : "(null)");
    return KVMM_OK;
}

static int open_chosen(kvmm *mm, const struct kvmm_config *cfg)
{
    enum device_choice choice = DEVICE_AUTO;
    unsigned ordinal = 0;
    int rc = parse_device(cfg->device, &choice, &ordinal);
    if (rc)
        return rc;
    const struct vmm_device_budget budget = {cfg->device_memory, cfg->device_memory_utilization};
    if (choice != DEVICE_HOST) {
        rc = vmm_cuda_device_open(ordinal, cfg->frame_bytes, &budget, &mm->device);
        if (choice == DEVICE_CUDA || rc != KVMM_ERR_UNSUPPORTED)
            return rc;
        vmm_log(mm, KVMM_LOG_WARNING, "%s: memory of this machine stands for the device", kvmm_errmsg());
    }
    return vmm_host_device_open(cfg->frame_bytes, &budget, &mm->device);
}

static int open_device(kvmm *mm, const struct kvmm_config *cfg, const struct vmm_open_options *options)
{
    int rc = open_chosen(mm, cfg);
    if (rc)
        return rc;
    if (options && options->wrap_device) {
        struct vmm_device *wrapped = options->wrap_device(mm->device, options->wrap_arg);
        mm->device = wrapped ? wrapped : mm->device;
    }
    mm->frame_bytes = mm->device->frame_bytes;
    return vmm_frames_open(mm->device, &mm->frames);
}

static int open_host_tier(kvmm *mm, const struct kvmm_config *cfg, uint64_t seed)
{
    uint64_t slots = cfg->host_memory / mm->frame_bytes;
    if (slots == 0) {
        if (cfg->host_memory)
            vmm_log(mm, KVMM_LOG_WARNING, "host_memory is smaller than one frame of %zu bytes: no host tier",
                    mm->frame_bytes);
        return KVMM_OK;
    }
    struct swap_host_config config = {
        .block_bytes = mm->frame_bytes,
        .n_slots = slots > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)slots,
        .checksum_seed = seed,
        .crew = mm->crew,
    };
    int rc = swap_host_open(&config, &mm->host);
    if (rc)
        return vmm_fail(rc == -ENOMEM ? KVMM_ERR_NO_HOST_MEMORY : KVMM_ERR_SWAP, "a host tier of %llu bytes: %s",
                        (unsigned long long)cfg->host_memory, strerror(-rc));
    mm->host_high = (uint32_t)((uint64_t)config.n_slots * cfg->host_high_percent / 100);
    mm->host_low = (uint32_t)((uint64_t)config.n_slots * cfg->host_low_percent / 100);
    return KVMM_OK;
}

/* What a device that the CPU can't reach copies to and from: the host tier itself, where it can be registered, and staging
 * buffers for what goes another way. */
static int open_staging(kvmm *mm, const struct kvmm_config *cfg)
{
    struct vmm_device *dev = mm->device;
    if (!dev->ops->copy || (!mm->host && !cfg->swap_dir))
        return KVMM_OK;
    if (mm->host) {
        struct iovec memory = swap_memory(mm->host);
        mm->host_registered = dev->ops->memory_register(dev, memory.iov_base, memory.iov_len) == KVMM_OK;
        if (!mm->host_registered)
            vmm_log(mm, KVMM_LOG_WARNING, "%s: the host tier is reached through staging buffers", kvmm_errmsg());
    }
    uint64_t n = STAGING_BYTES / mm->frame_bytes;
    n = n < STAGING_LEAST ? STAGING_LEAST : n > STAGING_MOST ? STAGING_MOST : n;
    return vmm_staging_open(dev, (uint32_t)n, &mm->staging);
}

static int open_nvme_tier(kvmm *mm, const struct kvmm_config *cfg, uint64_t seed, const struct swap_faults *faults)
{
    if (!cfg->swap_dir)
        return KVMM_OK;
    struct iovec memory[2];
    uint32_t n_memory = 0;
    if (mm->host && swap_memory(mm->host).iov_len <= REGISTER_MOST)
        memory[n_memory++] = swap_memory(mm->host);
    if (mm->staging)
        memory[n_memory++] = vmm_staging_memory(mm->staging);
    struct swap_file_config config = {
        .dir = cfg->swap_dir,
        .block_bytes = mm->frame_bytes,
        .max_bytes = cfg->swap_bytes,
        .checksum_seed = seed,
        .backend = cfg->swap_backend,
        .buffers = n_memory ? memory : NULL,
        .n_buffers = n_memory,
        .crew = mm->crew,
        .log = swap_log,
        .log_user = mm,
        .faults = faults,
    };
    char reason[300];
    int rc = swap_file_open(&config, &mm->nvme, reason, sizeof reason);
    if (rc)
        return vmm_fail(KVMM_ERR_SWAP, "%s", reason);
    struct swap_store_info info;
    swap_get_info(mm->nvme, &info);
    mm->backend_name = info.backend;
    return KVMM_OK;
}

static int open_page_map(kvmm *mm, const struct kvmm_config *cfg)
{
    mm->counters = mm->own_counters;
    if (cfg->no_page_map)
        return KVMM_OK;
    struct vmm_pagemap_header header = {
        .frame_bytes = mm->frame_bytes,
        .page_stride = mm->layout.page_stride,
        .geometry = mm->geometry,
        .n_groups = mm->layout.n_groups,
    };
    snprintf(header.name, sizeof header.name, "%s", cfg->name ? cfg->name : program_invocation_short_name);
    snprintf(header.device, sizeof header.device, "%s", mm->device->name);
    snprintf(header.swap_backend, sizeof header.swap_backend, "%s", mm->backend_name);
    int rc = vmm_pagemap_open(&header, &mm->map);
    if (rc == KVMM_OK)
        mm->counters = vmm_pagemap_counters(mm->map);
    return rc;
}

/* On the host device mapping is cheap, and its users count frames exactly. */
static uint32_t keeper_tokens(const kvmm *mm, const struct kvmm_config *cfg)
{
    if (cfg->readable_tail) /* the frame of zeros stands where frames would be mapped ahead */
        return 0;
    if (cfg->map_ahead_tokens != KVMM_MAP_AHEAD_AUTO)
        return cfg->map_ahead_tokens;
    return mm->device->ops->copy ? mm->geometry.page_tokens : 0;
}

/* In the reverse order of vmm_open; parts that were not opened are NULL. */
static void dismantle(kvmm *mm)
{
    vmm_pagemap_close(&mm->map);
    swap_close(&mm->nvme);
    vmm_staging_close(&mm->staging);
    if (mm->host_registered)
        mm->device->ops->memory_unregister(mm->device, swap_memory(mm->host).iov_base);
    swap_close(&mm->host);
    swap_crew_close(&mm->crew);
    vmm_frames_close(&mm->frames);
    if (mm->device)
        mm->device->ops->close(mm->device);
    while (mm->free_steps) {
        kvmm_step *step = mm->free_steps;
        mm->free_steps = step->next;
        free(step->seqs);
        free(step);
    }
    pthread_cond_destroy(&mm->changed);
    pthread_mutex_destroy(&mm->lock);
    free(mm);
}

static void init_locks(kvmm *mm)
{
    pthread_mutex_init(&mm->lock, NULL);
    swap_cond_init(&mm->changed);
}

int vmm_open(const struct kvmm_config *cfg, const struct vmm_open_options *options, kvmm **out)
{
    int rc = check_config(cfg);
    if (rc)
        return rc;
    kvmm *mm = calloc(1, sizeof *mm);
    if (!mm)
        return vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "no memory for a manager");
    init_locks(mm);
    mm->geometry = cfg->geometry;
    vmm_layout_init(&cfg->geometry, &mm->layout);
    mm->backend_name = "none";
    mm->log = cfg->log;
    mm->now_ns = cfg->now_ns ? cfg->now_ns : monotonic_ns;
    mm->user = cfg->user;
    mm->readable_tail = cfg->readable_tail;
    mm->seqs.prev = mm->seqs.next = &mm->seqs;
    for (size_t i = 0; i < VMM_N_MOVES; i++) {
        mm->moves[i].next = mm->free_moves;
        mm->free_moves = &mm->moves[i];
    }
    uint64_t seed = cfg->checksum_seed;
    if (seed == 0 && getrandom(&seed, sizeof seed, 0) != sizeof seed)
        seed = monotonic_ns(NULL);

    if (!cfg->policy || !vmm_policy_init(&mm->policy, cfg->policy)) {
        rc = vmm_fail(KVMM_ERR_INVALID, "policy \"%s\" is not known; there are lru and clock",
                      cfg->policy ? cfg->policy : "(null)");
        goto err;
    }
    if ((rc = open_device(mm, cfg, options)))
        goto err;
    rc = swap_crew_open(cfg->n_threads, &mm->crew);
    if (rc) {
        rc = vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "%u threads can't be started: %s", cfg->n_threads, strerror(-rc));
        goto err;
    }
    if ((rc = open_host_tier(mm, cfg, seed)) || (rc = open_staging(mm, cfg)) ||
        (rc = open_nvme_tier(mm, cfg, seed, options ? options->swap_faults : NULL)) || (rc = open_page_map(mm, cfg)))
        goto err;
    vmm_publish_usage(mm);
    rc = vmm_keeper_open(mm, keeper_tokens(mm, cfg)); /* the last: it runs from here on */
    if (rc)
        goto err;
    *out = mm;
    return KVMM_OK;

err:
    dismantle(mm);
    return rc;
}

int kvmm_open(const struct kvmm_config *cfg, kvmm **mm)
{
    if (!cfg || !mm)
        return vmm_fail(KVMM_ERR_INVALID, "kvmm_open: cfg and mm must not be NULL");
    return vmm_open(cfg, NULL, mm);
}

int kvmm_close(kvmm **handle)
{
    if (!handle || !*handle)
        return KVMM_OK;
    kvmm *mm = *handle;
    pthread_mutex_lock(&mm->lock);
    uint32_t open_steps = mm->n_open_steps;
    pthread_mutex_unlock(&mm->lock);
    if (open_steps)
        return vmm_fail(KVMM_ERR_STATE, "kvmm_close: %u steps are open", open_steps);
    vmm_keeper_close(mm);
    int rc = KVMM_OK;
    pthread_mutex_lock(&mm->lock);
    while (rc == KVMM_OK && mm->seqs.next != &mm->seqs)
        rc = vmm_seq_destroy(mm->seqs.next);
    pthread_mutex_unlock(&mm->lock);
    if (rc)
        return rc;
    dismantle(mm);
    *handle = NULL;
    return KVMM_OK;
}

static uint64_t counter(const kvmm *mm, enum vmm_counter which)
{
    return atomic_load_explicit(&mm->counters[which], memory_order_relaxed);
}

void kvmm_get_stats(kvmm *mm, struct kvmm_stats *stats)
{
    pthread_mutex_lock(&mm->lock);
    vmm_publish_usage(mm);
    *stats = (struct kvmm_stats){
        .frame_bytes = mm->frame_bytes,
        .device_capacity = counter(mm, VMM_COUNT_DEVICE_CAPACITY),
        .device_used = counter(mm, VMM_COUNT_DEVICE_USED),
        .host_capacity = counter(mm, VMM_COUNT_HOST_CAPACITY),
        .host_used = counter(mm, VMM_COUNT_HOST_USED),
        .nvme_capacity = counter(mm, VMM_COUNT_NVME_CAPACITY),
        .nvme_used = counter(mm, VMM_COUNT_NVME_USED),
        .n_sequences = mm->n_seqs,
        .n_steps = counter(mm, VMM_COUNT_STEPS),
        .n_steps_waited = counter(mm, VMM_COUNT_STEPS_WAITED),
        .wait_ns = counter(mm, VMM_COUNT_WAIT_NS),
        .frames_hit = counter(mm, VMM_COUNT_FRAMES_HIT),
        .frames_from_host = counter(mm, VMM_COUNT_FRAMES_FROM_HOST),
        .frames_from_nvme = counter(mm, VMM_COUNT_FRAMES_FROM_NVME),
        .frames_new = counter(mm, VMM_COUNT_FRAMES_NEW),
        .bytes_to_host = counter(mm, VMM_COUNT_BYTES_TO_HOST),
        .bytes_to_nvme = counter(mm, VMM_COUNT_BYTES_TO_NVME),
        .bytes_from_host = counter(mm, VMM_COUNT_BYTES_FROM_HOST),
        .bytes_from_nvme = counter(mm, VMM_COUNT_BYTES_FROM_NVME),
        .bytes_dropped_clean = counter(mm, VMM_COUNT_BYTES_DROPPED_CLEAN),
        .frames_lost = counter(mm, VMM_COUNT_FRAMES_LOST),
    };
    struct swap_store_info info;
    if (mm->nvme) {
        swap_get_info(mm->nvme, &info);
        stats->io_retries += info.n_retries;
    }
    pthread_mutex_unlock(&mm->lock);
}

const char *kvmm_device_name(const kvmm *mm)
{
    return mm->device->name;
}

const char *kvmm_swap_backend(const kvmm *mm)
{
    return mm->backend_name;
}
