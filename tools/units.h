/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers as people read them. Each writes into text[UNITS_TEXT] and returns it. */
#ifndef TOOLS_UNITS_H
#define TOOLS_UNITS_H

#include <stdint.h>

#define UNITS_TEXT 48

/* "0 B", "640 KiB", "1.5 GiB": binary units. */
char *units_bytes(char *text, uint64_t bytes);

/* "1.2/2.0 GiB": both in the unit that suits of. */
char *units_bytes_of(char *text, uint64_t bytes, uint64_t of);

/* "12s", "3m12s", "5h07m", "2d03h". */
char *units_elapsed(char *text, uint64_t ns);

/* "850 ns", "12.3 us", "4.56 ms", "1.20 s". */
char *units_wait(char *text, uint64_t ns);

#endif
