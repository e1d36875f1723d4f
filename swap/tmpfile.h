/* SPDX-License-Identifier: Apache-2.0
 *
 * The file store's file: unnamed, private, and past the page cache where the file system can do that. */
#ifndef SWAP_TMPFILE_H
#define SWAP_TMPFILE_H

#include "swap/swap.h"

/* Makes the file in config->dir. Returns 0 with *fd and *direct, or -errno with one line in reason. */
int swap_tmpfile_open(const struct swap_file_config *config, int *fd, bool *direct, char *reason, size_t reason_size);

#endif
