/* SPDX-License-Identifier: Apache-2.0
 *
 * Which back end carries a file store. */
#ifndef SWAP_CHOOSE_H
#define SWAP_CHOOSE_H

#include "swap/backend.h"

struct swap_file_config;

/* Opens the back end that config->backend names, with the fault injector on it if config->faults says so. "auto" falls
 * back to threads and logs why. Returns 0 with *backend, *info and *name (that of the one that does the I/O), or -errno
 * with one line in reason. */
int swap_choose_backend(const struct swap_file_config *config, int fd, struct swap_backend **backend,
                        struct swap_backend_info *info, const char **name, char *reason, size_t reason_size);

/* Logs one line, printf style. */
void swap_log(const struct swap_file_config *config, bool warning, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts one line into reason, if there is room. Returns -error. */
int swap_explain(char *reason, size_t reason_size, int error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
