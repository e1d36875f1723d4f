/* SPDX-License-Identifier: Apache-2.0
 *
 * What the shim says: whole lines on stderr, "kvmm: …", one write(2) each, so that they don't mix with the engine's. No
 * memory is allocated and no lock is taken: safe from any hook, in a signal handler and after fork. */
#ifndef SHIM_LOG_H
#define SHIM_LOG_H

#include <stdbool.h>

/* At most 512 bytes; longer lines are cut. errno is kept. */
void shim_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The first time with this *said, and never again. */
void shim_log_once(bool *said, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For struct shim_pager_config.log and struct swap_file_config.log. */
void shim_log_line(void *user, bool warning, const char *line);

#endif
