/* SPDX-License-Identifier: Apache-2.0
 *
 * What the suites of this folder share. */
#ifndef TESTS_SWAP_SUPPORT_H
#define TESTS_SWAP_SUPPORT_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "swap/swap.h"
#include "tests/support/scale.h"

/* Runs one test case in child processes; returns the suite's exit status, 77 if every test skipped. */
int run_suite(const char *name, TCase *tests);

/* Ends this test as skipped and says why. */
#define skip(why)                                                                                                      \
    do {                                                                                                               \
        skip_word(__func__, why);                                                                                      \
        return;                                                                                                        \
    } while (0)
void skip_word(const char *test, const char *why);

/* Where files are made: KVMM_TEST_DIR, or /var/tmp. */
const char *test_dir(void);

/* A number that follows from *state; advances it. */
uint64_t random_next(uint64_t *state);

/* Bytes that only this key, generation and length have. */
void fill_block(void *block, size_t bytes, uint64_t key, uint32_t generation);
bool is_block(const void *block, size_t bytes, uint64_t key, uint32_t generation);

/* Zeroed memory aligned to 4096; fails the test rather than return NULL. */
void *new_block(size_t bytes);

/* Descriptors and threads of this process. */
int count_fds(void);
int count_threads(void);
/* Waits until there are no more than these (the kernel takes io_uring's workers away a little later), fails otherwise. */
void expect_nothing_left(int fds, int threads);

/* A counter to wait for. */
struct tally;
struct tally *tally_new(void);
void tally_add(struct tally *tally);
void tally_wait(struct tally *tally, int n); /* until n were added since the start; fails after 60 s */
void tally_free(struct tally *tally);

/* One io and its waiting. */
struct waited_io {
    struct swap_io io;
    struct tally *tally;
};
void waited_done(struct swap_io *io);
int put_wait(struct swap_store *store, uint32_t slot, struct swap_stamp stamp, void *buf);
int get_wait(struct swap_store *store, uint32_t slot, struct swap_stamp stamp, void *buf);

/* Makes a system call fail in this process and its threads from now on: with `error`, or if `argument` ≥ 0, only where
 * that argument has all bits of `bits`. Returns false where seccomp is not to be had. */
bool deny_call(int number, int argument, uint32_t bits, int error);

/* Gives up every capability of this process. */
void drop_privileges(void);

/* Sets RLIMIT_MEMLOCK; false if that is above what this process may have. The kernel counts all processes of a user
 * together, so tests raise it step by step until a ring fits. */
bool set_locked_limit(uint64_t bytes);

/* Log lines of a store. */
struct said {
    char lines[4096];
    int n_warnings;
};
void said_log(void *user, bool warning, const char *line);

#endif
