/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs the kvmm tool that KVMM_TOOL names, and keeps what it wrote. */
#ifndef TESTS_TOOLS_RUN_H
#define TESTS_TOOLS_RUN_H

#include <sys/types.h>

struct run {
    int status; /* exit status; -1 if a signal ended it */
    char *out;  /* both with a NUL at their end */
    char *err;
};

/* arguments: split at spaces. as_user: 0 to stay the same user. */
void run_tool(struct run *run, uid_t as_user, const char *arguments, ...) __attribute__((format(printf, 3, 4)));
void run_free(struct run *run);

/* The same with stdout going to a file. */
void run_tool_to(struct run *run, const char *stdout_path, const char *arguments, ...)
    __attribute__((format(printf, 3, 4)));

int run_count_lines(const char *text);

#endif
