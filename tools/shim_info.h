/* SPDX-License-Identifier: Apache-2.0
 *
 * What a process under the shim says of itself: the pairs of "info" (shim/control.h) in plain structs, and as JSON. */
#ifndef TOOLS_SHIM_INFO_H
#define TOOLS_SHIM_INFO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

/* Sizes in bytes; a limit of 0 is none. What wasn't said is 0 or "". */
struct shim_info {
    char device[48];
    char state[24];
    char rule[256]; /* cut where it is longer */
    uint64_t caches, bytes;
    uint64_t memory, memory_limit;
    uint64_t host, host_limit;
    uint64_t swapped, swap_limit;
    uint64_t seen, selected;
    uint64_t started; /* CLOCK_REALTIME, ns */
    bool counted;     /* seen and selected were said */
};

/* Pairs of unknown names are passed over. False: a pair that is none, or a number that is none, and a reason that names it
 * in reason[size]; *info is untouched then. Texts become valid UTF-8 without control characters. */
bool shim_info_parse(const char *pairs, struct shim_info *info, char *reason, size_t size);

/* The name of a process, /proc/PID/comm; "?" if it has none any more. name[size]. */
void shim_info_name(pid_t pid, char *name, size_t size);

/* What `kvmm ls --json` lists of a process under the shim; info is NULL of one that didn't answer in time. now_ns is of
 * CLOCK_REALTIME. A new reference; NULL: no memory. */
json_t *shim_info_json(pid_t pid, const char *name, const struct shim_info *info, uint64_t now_ns);

#endif
