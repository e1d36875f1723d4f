/* SPDX-License-Identifier: Apache-2.0
 *
 * The shim's settings: environment variables that `kvmm run` sets from its options, or a user by hand.
 *
 *   variable             option            value
 *   KVMM_DEVICE_MEMORY   --device-memory   bytes ("64MiB", "2G"): RAM for the cache of a CPU engine; device memory that
 *                                          a GPU engine's cache may hold. Without it: no limit, nothing is spilled.
 *   KVMM_HOST_MEMORY     --host-memory     bytes of pinned host memory for a GPU engine's pages
 *   KVMM_SWAP_DIR        --swap-dir        folder of the swap file; without it there is none
 *   KVMM_SWAP_SIZE       --swap-size       its largest size; 0 or unset: until the file system is full
 *   KVMM_SELECT          --select          which allocation is the cache (select.h); unset: "auto"
 *   KVMM_CHUNK           --chunk           bytes in which a CPU engine's cache moves: 4 KiB to 2 MiB, a power of two; 0 or
 *                                          unset: 256 KiB with 64 MiB of memory or more, else 64 KiB
 *   KVMM_USER_FAULTS     --user-faults     "1": go on where the kernel lets this user handle only faults from user mode;
 *                                          system calls on a page that is away fail with EFAULT then
 *   KVMM_SUSPENDED       --suspended       "wait" or "fail": what a call that touches a suspended GPU cache does
 *   KVMM_VERBOSE         --verbose         "1": a line of figures at exit
 *   KVMM_LIBCUDA         (none)            another driver library than libcuda.so.1
 *
 * An empty variable counts as unset. */
#ifndef SHIM_CONFIG_H
#define SHIM_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shim_config {
    uint64_t device_memory; /* 0: no limit */
    uint64_t host_memory;
    const char *swap_dir; /* NULL: none */
    uint64_t swap_bytes;
    const char *select; /* never NULL */
    bool select_given;  /* by the user: then one that selects nothing is worth a line */
    size_t chunk_bytes; /* 0: the pager's choice */
    bool user_faults;
    bool fail_while_suspended;
    bool verbose;
};

/* Reads the variables through `get` (getenv; tests pass their own). True if all are good; else *config is untouched and
 * reason[size] has one line that names the variable, its value and what is wrong. The strings are get's. */
bool shim_config_read(const char *(*get)(const char *name), struct shim_config *config, char *reason, size_t size);

/* "64MiB", "2G", "4096": digits and an optional K, M, G or T with optional "iB" (all are powers of 1024). False for
 * anything else and for what doesn't fit. */
bool shim_config_bytes(const char *text, uint64_t *bytes);

#endif
