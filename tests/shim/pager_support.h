/* SPDX-License-Identifier: Apache-2.0
 *
 * What the pager's suites share. */
#ifndef TESTS_SHIM_PAGER_SUPPORT_H
#define TESTS_SHIM_PAGER_SUPPORT_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "shim/pager/pager.h"
#include "tests/swap/support.h"

#define CHUNK ((size_t)64 << 10)
#define MIB   ((size_t)1 << 20)

/* The pager's log, which its threads write while a test reads. */
static pthread_mutex_t said_lock = PTHREAD_MUTEX_INITIALIZER;

static inline void pager_log(void *user, bool warning, const char *line)
{
    pthread_mutex_lock(&said_lock);
    said_log(user, warning, line);
    pthread_mutex_unlock(&said_lock);
}

/* All lines so far; good until the next call. */
static inline const char *said_now(const struct said *said)
{
    static struct said copy;
    pthread_mutex_lock(&said_lock);
    copy = *said;
    pthread_mutex_unlock(&said_lock);
    return copy.lines;
}

/* A pager with room for `memory` bytes and a swap file in the test's folder; said collects its log. Skips the test where
 * userfaultfd is not to be had. */
#define open_or_skip(pager, config)                                                                                    \
    do {                                                                                                               \
        char why_[256];                                                                                                \
        int error_ = shim_pager_open(config, pager, why_, sizeof why_);                                                \
        if (error_ == -EPERM || error_ == -ENOSYS)                                                                     \
            skip(why_);                                                                                                \
        ck_assert_msg(error_ == 0, "%d %s", error_, why_);                                                             \
    } while (0)

static inline struct shim_pager_config pager_config(size_t memory, struct said *said)
{
    return (struct shim_pager_config){
        .memory = memory, .chunk_bytes = CHUNK, .swap_dir = test_dir(), .log = pager_log, .log_user = said};
}

static inline struct shim_pager_info pager_info(struct shim_pager *pager)
{
    struct shim_pager_info info;
    shim_pager_get_info(pager, &info);
    return info;
}

static inline uint64_t word_of(uint64_t index, uint64_t version)
{
    uint64_t x = (index + 1) * 0x9e3779b97f4a7c15u + version * 0xbf58476d1ce4e5b9u;
    return x ^ (x >> 29);
}

/* Every word from its index and the version. */
static inline void fill_words(uint64_t *words, size_t bytes, uint64_t version)
{
    for (size_t i = 0; i < bytes / sizeof *words; i++)
        words[i] = word_of(i, version);
}

/* The first word that isn't what fill_words() wrote, or the number of words. */
static inline size_t check_words(const uint64_t *words, size_t bytes, uint64_t version)
{
    size_t i = 0;
    while (i < bytes / sizeof *words && words[i] == word_of(i, version))
        i++;
    return i;
}

static inline bool all_zero(const void *memory, size_t bytes)
{
    const char *at = memory;
    return bytes == 0 || (at[0] == 0 && memcmp(at, at + 1, bytes - 1) == 0);
}

#endif
