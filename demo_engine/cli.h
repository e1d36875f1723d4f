/* SPDX-License-Identifier: Apache-2.0
 *
 * What the sub-commands of kvmm-engine share. Exit status: 0; 1 if something failed while it ran; 2 if what was asked
 * for can't be done. Each failure is one line on stderr. */
#ifndef ENGINE_CLI_H
#define ENGINE_CLI_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine.h"

enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_BAD_INPUT = 2 };

/* The sub-commands. argv[0] is "kvmm-engine NAME". Each returns an exit status. */
int cli_generate(int argc, char **argv);
int cli_recall_demo(int argc, char **argv);
int cli_make_recall_model(int argc, char **argv);

/* Prints err's line; returns the exit status for rc, an enum engine_status below 0. */
int cli_error(int rc, const struct engine_error *err);

/* argp without its second line ("Try ... --help"). Exits with CLI_BAD_INPUT on a wrong option. */
void cli_parse(const struct argp *argp, int argc, char **argv, void *input);

/* For argp parsers: the option's argument as a number or size; a wrong one ends the process with a line that names the
 * option. name: "--chunk". */
void cli_usage_error(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
uint32_t cli_u32(const char *name, const char *arg, uint32_t min, uint32_t max);
uint64_t cli_u64(const char *name, const char *arg);
float cli_float(const char *name, const char *arg);
uint64_t cli_size(const char *name, const char *arg);
/* The index of arg among `words`, which ends with NULL. */
int cli_word(const char *name, const char *arg, const char *const *words);

/* Flushes stdout; CLI_FAILED and a line if anything written to it was lost. */
int cli_close_stdout(void);

/* Where the cache of a command lives: the options that all commands with a cache share. */
struct cli_cache_options {
    struct engine_cache_config config; /* device_memory 0: as much as is needed */
};
extern const struct argp cli_cache_argp; /* a child parser; its input is a struct cli_cache_options */
void cli_cache_options_init(struct cli_cache_options *options);

/* Settles config->device: "auto" becomes what it stands for, with a line on stderr where that is the host; and the frame,
 * where the device dictates it. */
int cli_choose_device(struct engine_cache_config *config, struct engine_error *err);

/* Chooses the device, the frame and the device budget for conversations of these lengths, checks that they can work (each fits the
 * device alone, all fit the tiers together), and opens the cache. */
int cli_open_cache(struct engine *engine, const struct cli_cache_options *options, const uint32_t *max_tokens,
                   uint32_t n, struct engine_error *err);

/* One kB line of /proc/self/status, such as "VmHWM:", in bytes; 0 if it is not there. */
uint64_t cli_status_bytes(const char *key);

/* The table of --stats, on stderr. */
void cli_print_stats(const struct engine *engine);

#endif
