/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening and closing the pager, and its figures. */
#include "shim/pager/state.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "swap/thread.h"

#define READ_AHEAD_BYTES ((uint64_t)8 << 20)

void shim_pager_lock(struct shim_pager *pager)
{
    pthread_mutex_lock(&pager->lock);
}

void shim_pager_unlock(struct shim_pager *pager)
{
    char lines[2][sizeof(pager->lines[0])];
    bool warns[2];
    uint32_t n = pager->n_lines;
    for (uint32_t i = 0; i < n; i++) {
        memcpy(lines[i], pager->lines[i], sizeof(lines[i]));
        warns[i] = pager->line_warns[i];
    }
    pager->n_lines = 0;
    pthread_mutex_unlock(&pager->lock);
    for (uint32_t i = 0; i < n; i++)
        pager->config.log(pager->config.log_user, warns[i], lines[i]);
}

void shim_pager_wake(struct shim_pager *pager)
{
    uint64_t one = 1;
    while (write(pager->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

void shim_say(struct shim_pager *pager, bool warning, const char *format, ...)
{
    if (!pager->config.log || pager->n_lines == sizeof(pager->lines) / sizeof(pager->lines[0]))
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(pager->lines[pager->n_lines], sizeof(pager->lines[0]), format, arguments);
    va_end(arguments);
    pager->line_warns[pager->n_lines++] = warning;
}

static bool is_power_of_two(size_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

/* Fills what was left to us. 0 or -EINVAL with the reason. */
static int settle_config(struct shim_pager *pager, const struct shim_pager_config *config, char *reason, size_t size)
{
    pager->config = *config;
    pager->page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    pager->chunk_bytes =
        config->chunk_bytes ? config->chunk_bytes : shim_pager_chunk(config->memory, config->swap_bytes);
    if (!is_power_of_two(pager->chunk_bytes) || pager->chunk_bytes < pager->page_bytes ||
        pager->chunk_bytes > (size_t)2 << 20) {
        snprintf(reason, size, "a chunk of %zu bytes: it must be a power of two from %zu to 2 MiB", pager->chunk_bytes,
                 pager->page_bytes);
        return -EINVAL;
    }
    uint64_t chunks = config->memory / pager->chunk_bytes;
    if (config->memory != 0 && chunks < SHIM_PAGER_MIN_CHUNKS) {
        snprintf(reason, size, "%llu bytes of memory for the cache: the least is %zu (%d chunks of %zu)",
                 (unsigned long long)config->memory, SHIM_PAGER_MIN_CHUNKS * pager->chunk_bytes, SHIM_PAGER_MIN_CHUNKS,
                 pager->chunk_bytes);
        return -EINVAL;
    }
    pager->capacity = config->memory == 0 || chunks > UINT32_MAX ? UINT32_MAX : (uint32_t)chunks;
    if (config->memory != 0)
        pager->info.memory_bytes = (uint64_t)pager->capacity * pager->chunk_bytes;
    return 0;
}

static int open_policy(struct shim_pager *pager)
{
    uint64_t ahead = pager->config.read_ahead_bytes;
    if (ahead == 0) {
        ahead = READ_AHEAD_BYTES;
        if (pager->capacity != UINT32_MAX && ahead > pager->info.memory_bytes / 4)
            ahead = pager->info.memory_bytes / 4;
    }
    struct shim_policy_config config = {.n_chunks = SHIM_MAX_CHUNKS,
                                        .capacity = pager->capacity,
                                        .read_ahead_max = (uint32_t)(ahead / pager->chunk_bytes)};
    return shim_policy_open(&config, &pager->policy);
}

static int open_swap(struct shim_pager *pager, char *reason, size_t size)
{
    if (!pager->config.swap_dir)
        return 0;
    uint64_t least = (uint64_t)2 * SHIM_RESERVE * pager->chunk_bytes;
    if (pager->config.swap_bytes != 0 && pager->config.swap_bytes < least) {
        snprintf(reason, size, "a swap file of at most %llu bytes: the least is %llu",
                 (unsigned long long)pager->config.swap_bytes, (unsigned long long)least);
        return -EINVAL;
    }
    int error = swap_crew_open(2, &pager->crew);
    if (error) {
        snprintf(reason, size, "a thread: %s", strerror(-error));
        return error;
    }
    struct iovec buffers = {pager->buffers, shim_buffer_bytes(pager)};
    struct swap_file_config config = {.buffers = &buffers,
                                      .n_buffers = 1,
                                      .dir = pager->config.swap_dir,
                                      .block_bytes = pager->chunk_bytes,
                                      .max_bytes = pager->config.swap_bytes,
                                      .backend = pager->config.swap_backend ? pager->config.swap_backend : "auto",
                                      .read_depth = pager->n_reads,
                                      .write_depth = pager->n_writes,
                                      .crew = pager->crew,
                                      .log = pager->config.log,
                                      .log_user = pager->config.log_user,
                                      .faults = pager->config.faults};
    if (getrandom(&config.checksum_seed, sizeof(config.checksum_seed), GRND_NONBLOCK) != sizeof(config.checksum_seed))
        config.checksum_seed = swap_now_ns();
    error = swap_file_open(&config, &pager->swap, reason, size);
    if (!error && !shim_reserve_fill(pager)) {
        snprintf(reason, size, "swap directory %s: no room for %d chunks", pager->config.swap_dir, SHIM_RESERVE);
        return -ENOSPC;
    }
    return error;
}

static void init_locks(struct shim_pager *pager)
{
    pthread_mutex_init(&pager->lock, NULL);
    swap_cond_init(&pager->changed);
}

static void free_all(struct shim_pager *pager)
{
    swap_close(&pager->swap);
    swap_crew_close(&pager->crew);
    shim_policy_close(&pager->policy);
    if (pager->wake_fd >= 0)
        close(pager->wake_fd);
    shim_uffd_close(&pager->uffd);
    if (pager->buffers)
        munmap(pager->buffers, shim_buffer_bytes(pager));
    if (pager->chunks)
        munmap(pager->chunks, SHIM_MAX_CHUNKS * sizeof(pager->chunks[0]));
    pthread_cond_destroy(&pager->changed);
    pthread_mutex_destroy(&pager->lock);
    munmap(pager, sizeof(*pager));
}

static void *reserve(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

int shim_pager_open(const struct shim_pager_config *config, struct shim_pager **out, char *reason, size_t size)
{
    /* Mapped, not allocated: an allocator of the engine's may be what calls this. */
    struct shim_pager *pager = reserve(sizeof(*pager));
    if (!pager) {
        snprintf(reason, size, "no memory");
        return -ENOMEM;
    }
    pager->uffd.fd = pager->wake_fd = -1;
    pager->queue_first = pager->queue_last = SHIM_NO_CHUNK;
    atomic_store(&pager->low, UINTPTR_MAX);
    init_locks(pager);
    int error = settle_config(pager, config, reason, size);
    if (!error)
        error = shim_uffd_open(config->user_faults, &pager->uffd, reason, size);
    if (!error && shim_moves_init(pager)) {
        snprintf(reason, size, "no memory for the pager's buffers");
        error = -ENOMEM;
    }
    if (!error)
        error = open_swap(pager, reason, size);
    if (error)
        goto err_free;
    snprintf(reason, size, "no memory for the pager's tables");
    pager->chunks = reserve(SHIM_MAX_CHUNKS * sizeof(pager->chunks[0]));
    error = pager->chunks ? open_policy(pager) : -ENOMEM;
    if (error)
        goto err_free;
    pager->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    error = pager->wake_fd < 0 ? -errno : swap_thread_start(&pager->thread, "kvmm-pager", shim_fault_thread, pager);
    if (error) {
        snprintf(reason, size, "the pager's thread: %s", strerror(-error));
        goto err_free;
    }
    *out = pager;
    return 0;
err_free:
    free_all(pager);
    return error;
}

void shim_pager_close(struct shim_pager **out)
{
    struct shim_pager *pager = *out;
    *out = NULL;
    if (!pager || pager->forgotten)
        return;
    shim_pager_lock(pager);
    pager->stopping = true;
    shim_pager_unlock(pager);
    shim_pager_wake(pager);
    pthread_join(pager->thread, NULL);
    for (int i = 0; i < SHIM_MAX_RANGES; i++) {
        uintptr_t base = atomic_load(&pager->ranges[i].base);
        if (base != 0)
            shim_pager_unmap(pager, (void *)base, false);
    }
    free_all(pager);
}

void shim_pager_forget_in_child(struct shim_pager *pager)
{
    if (!pager || pager->forgotten)
        return;
    pager->forgotten = true;
    close(pager->uffd.fd);
    close(pager->wake_fd);
    if (pager->swap)
        swap_forget_in_child(pager->swap);
    for (int i = 0; i < SHIM_MAX_RANGES; i++)
        if (atomic_load(&pager->ranges[i].base) != 0)
            close(pager->ranges[i].memfd);
}

void shim_pager_get_info(struct shim_pager *pager, struct shim_pager_info *info)
{
    if (pager->forgotten) {
        *info = (struct shim_pager_info){0};
        return;
    }
    shim_pager_lock(pager);
    pager->info.resident_bytes = (uint64_t)pager->used * pager->chunk_bytes;
    *info = pager->info;
    shim_pager_unlock(pager);
}
