/* SPDX-License-Identifier: Apache-2.0
 *
 * Text that another process wrote, made safe for a terminal and for JSON. */
#ifndef TOOLS_PRINTABLE_H
#define TOOLS_PRINTABLE_H

#include <stddef.h>

/* Copies from, up to from_bytes or its NUL, as valid UTF-8: whatever is not, and each control character, becomes '?'.
 * to is terminated; it holds the longest result if to_bytes > from_bytes. */
void printable_copy(char *to, size_t to_bytes, const char *from, size_t from_bytes);

#endif
