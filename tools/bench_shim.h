/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench shim`: engines with and without the shim, and with the rivals under the same memory limit. */
#ifndef TOOLS_BENCH_SHIM_H
#define TOOLS_BENCH_SHIM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tools/bench_shim_engine.h"
#include "tools/bench_shim_limit.h"

#define SHIM_BENCH_NAME "kvmm bench shim"
#define MOST_ROUNDS     99

enum shim_runner { RUN_PLAIN, RUN_SHIM, RUN_SWAP, RUN_MMAP, N_RUNNERS };
enum shim_part { PART_FITS, PART_TURNS, PART_SHORT, N_PARTS };

struct shim_options {
    const char *dir, *shim;
    uint64_t bytes;  /* of one conversation */
    uint64_t budget; /* of a command; 0: none */
    uint64_t n_rounds, n_threads, chunk;
    bool json;
    bool alone;     /* no rivals */
    char **command; /* NULL: the small engine */
};

/* What one round gave; 0: not measured. Seconds but where it says otherwise. */
struct shim_round {
    double fits_tokens_per_s[N_RUNNERS];
    double fits_cpu[N_RUNNERS];     /* of a token, all threads */
    double first_token[N_RUNNERS];  /* after a switch to a conversation that has been away */
    double second_token[N_RUNNERS]; /* mean of those after it */
    double short_token[N_RUNNERS];  /* with three quarters of the conversation's memory */
    double disk_bytes_per_s;        /* the bare loop's: the better of the two */
    double disk_chunk_bytes_per_s;  /* with blocks of a chunk */
    double disk_block_bytes_per_s;  /* with blocks of 2 MiB */
    double fault, bare_fault;       /* of a fresh chunk */
};

struct shim_bench {
    struct shim_options options;
    struct engine_shape shape; /* of four conversations */
    struct limit limit;
    const char *why_not[N_PARTS][N_RUNNERS]; /* a rival cannot run here; NULL: it can */
    uint64_t n_done[N_PARTS][N_RUNNERS];     /* rounds; a rival that dies in one has fewer than the others */
    uint64_t memory_bytes[N_RUNNERS];        /* most held between rounds, with the budget for one conversation */
    uint64_t budget_one, budget_short;
    struct shim_round rounds[MOST_ROUNDS];
};

uint64_t shim_bench_now_ns(void);

/* bench_shim_child.c: the small engine as a process. */

struct shim_child {
    pid_t pid;
    int fd;
};

/* Starts it with n_conversations of the bench's shape, under `budget` bytes for its cache (0: no limit), and has it clear its
 * cache. group: which control group a rival is put into. On failure -errno, said on stderr. */
int shim_child_open(const struct shim_bench *bench, enum shim_runner runner, uint32_t n_conversations, uint64_t budget,
                    int group, struct shim_child *child);
/* -EPIPE: the engine has ended; else -errno, said on stderr. */
int shim_child_ask(struct shim_child *child, enum engine_op op, uint32_t conversation, uint32_t n,
                   struct engine_reply *reply);
/* What it holds now: under the shim anonymous memory and its memfds, whose pages the kernel counts for a process as often as they
 * are mapped. */
uint64_t shim_child_memory(const struct shim_child *child, enum shim_runner runner);
void shim_child_close(struct shim_child *child);

/* The environment of a process under the shim (preload true) or not, for the caller to free as one block. NULL: no memory. */
char **shim_bench_environment(const struct shim_bench *bench, bool preload, uint64_t budget, uint64_t cache_bytes);

/* bench_shim_disk.c: what the disk gives. */

struct shim_disk {
    int fd;
    char *buffers;
    uint64_t bytes;
    uint32_t chunk_depth, block_depth; /* the best */
};

int shim_disk_open(const struct shim_options *options, struct shim_disk *disk); /* -errno, said */
int shim_disk_measure(const struct shim_options *options, struct shim_disk *disk, struct shim_round *round);
void shim_disk_close(struct shim_disk *disk);

/* bench_shim_uffd.c: seconds that userfaultfd itself takes for a fault that brings a fresh chunk; 0: it can't be had. */
double shim_bare_fault(size_t chunk_bytes);

/* bench_shim_rounds.c: all that the small engine does. 0 or -errno. */
int shim_bench_rounds(struct shim_bench *bench);

/* bench_shim_command.c: an engine of the user's. The exit status. */
int shim_bench_command(struct shim_bench *bench);

/* bench_shim_print.c */
void shim_bench_print_json(const struct shim_bench *bench);
void shim_bench_print_table(const struct shim_bench *bench);

/* On a terminal, one line that changes. NULL wipes it. */
void shim_bench_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
