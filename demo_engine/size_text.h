/* SPDX-License-Identifier: Apache-2.0
 *
 * Sizes as people write and read them. */
#ifndef ENGINE_SIZE_TEXT_H
#define ENGINE_SIZE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "64MiB", "2G", "512 KiB" or plain bytes: a whole number, then nothing, B, or K, M, G, T with or without "iB", all
 * powers of 1024, in either case. False for anything else and for more than 2^63 bytes. */
bool size_parse(const char *text, uint64_t *bytes);

#define SIZE_TEXT_MAX 24
/* "640 KiB", "1.5 GiB", "17 bytes"; one decimal where it is not a whole number. Returns text. */
const char *size_format(uint64_t bytes, char text[static SIZE_TEXT_MAX]);

#endif
