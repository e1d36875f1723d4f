/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether the loader will preload a library under a program: looked at before it is run, because the loader says nothing, or
 * only a line among the program's own. */
#ifndef TOOLS_EXECUTABLE_H
#define TOOLS_EXECUTABLE_H

#include <stdbool.h>
#include <stddef.h>

/* What execvp would run for `command`, as a path in path[size]. False: there is no such file, and errno says why. */
bool executable_find(const char *command, char *path, size_t size);

/* True if a library of this machine's kind can be preloaded under the program, or nothing is known to stand against it.
 * Else reason[size] has one line. Follows #! to the interpreter, and through env to what it runs. */
bool executable_takes_preload(const char *path, char *reason, size_t size);

#endif
