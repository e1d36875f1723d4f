/* SPDX-License-Identifier: Apache-2.0
 *
 * The shim that belongs to this kvmm command. */
#ifndef TOOLS_SHIM_FILE_H
#define TOOLS_SHIM_FILE_H

#include <stdbool.h>
#include <stddef.h>

#define SHIM_FILE_NAME "libkvmm_shim.so"

/* Its absolute path: beside this program in a build folder, or where it is installed. False: there is none. */
bool shim_file_find(char *path, size_t size);

#endif
