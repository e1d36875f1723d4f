/* SPDX-License-Identifier: Apache-2.0
 *
 * The rivals' memory limit and swap space: control groups (version 2 or 1) and a swap file. Both outlive a process, so a
 * janitor, a process of its own, takes them away again as soon as the bench is gone, however it ended. */
#ifndef TOOLS_BENCH_SHIM_LIMIT_H
#define TOOLS_BENCH_SHIM_LIMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LIMIT_WHY 200

/* What is to be cleaned up; only the janitor uses it, and so it is filled in before it starts. */
struct limit {
    char group[2][256]; /* control groups: paths; "" where there are none */
    char swap_file[512];
    bool second_version;
    pid_t janitor;
    int alive_fd;                                         /* closed: the bench is gone */
    char why_no_group[LIMIT_WHY], why_no_swap[LIMIT_WHY]; /* "" where there is one */
};

/* Plans: names the groups and the file in folder, makes nothing, and starts the janitor. -errno if that can't be. */
int limit_open(struct limit *limit, const char *folder);

/* Makes both groups. What can't be had leaves a word in why_no_group. */
void limit_make_groups(struct limit *limit);

/* Makes a swap file and has the kernel swap to it: the whole machine may. A word in why_no_swap where it can't. */
void limit_make_swap(struct limit *limit, uint64_t bytes);

/* Puts a process into group `which` (0, 1), which may hold `bytes` of memory; swap_too: and as much in swap as it likes,
 * else none. -errno. */
int limit_process(const struct limit *limit, int which, pid_t pid, uint64_t bytes, bool swap_too);

/* Has the janitor clean up, and waits for it. */
void limit_close(struct limit *limit);

#endif
