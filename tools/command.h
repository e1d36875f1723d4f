/* SPDX-License-Identifier: Apache-2.0
 *
 * What the sub-commands of kvmm share. Each is entered with argv[0] = "kvmm NAME" and gives the exit status. */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "tools/pagemap_reader.h"

enum { COMMAND_DONE = 0, COMMAND_FAILED = 1, COMMAND_BAD_USAGE = 2 };

int command_ls(int argc, char **argv);
int command_map(int argc, char **argv);
int command_suspend(int argc, char **argv);
int command_resume(int argc, char **argv);
int command_advise(int argc, char **argv);
int command_run(int argc, char **argv);
int command_bench(int argc, char **argv);

/* argp_parse() that answers each mistake in one line on stderr. In the parser every complaint goes through
 * command_complain(). True if the arguments are good; else the exit status is COMMAND_BAD_USAGE. */
bool command_parse(const struct argp *argp, int argc, char **argv, unsigned flags, void *input);

/* "kvmm NAME: …" on stderr; returns EINVAL for the argp parser. */
error_t command_complain(const struct argp_state *state, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Decimal digits only, within [least, most]. */
bool command_number(const char *text, uint64_t least, uint64_t most, uint64_t *number);

/* One line on stderr: why process pid can't be shown. */
void command_explain(const char *command, pid_t pid, enum pagemap_answer answer, const struct pagemap_error *error);

/* Flushes stdout. COMMAND_FAILED, with one line on stderr, if not all of it could be written. */
int command_finish_output(const char *command);

#endif
