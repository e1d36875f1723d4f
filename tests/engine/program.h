/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs kvmm-engine as its users do. */
#ifndef TESTS_ENGINE_PROGRAM_H
#define TESTS_ENGINE_PROGRAM_H

#include <stdbool.h>

#define MAX_ARGS 40
#define TEXT_MAX 65536

struct result {
    int status; /* exit status, or 1000 + signal */
    char out[TEXT_MAX], err[TEXT_MAX];
};

/* Runs the program; args ends with NULL. stdout_path NULL: captured. */
void program_run(struct result *r, const char *program, const char *const *args, const char *stdout_path);

bool one_line(const char *text);

#endif
