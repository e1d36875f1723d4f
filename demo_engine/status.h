/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose fault a failure is. engine_fail() (gguf.h) returns ENGINE_BAD_INPUT. */
#ifndef ENGINE_STATUS_H
#define ENGINE_STATUS_H

#include "gguf.h"

enum engine_status {
    ENGINE_OK = 0,
    ENGINE_BAD_INPUT = -1, /* what was asked for can't be done: a file, a number or a budget is at fault */
    ENGINE_FAILED = -2     /* it could, but something failed while it was done */
};

/* Formats into err as engine_fail() does, and returns ENGINE_FAILED. */
int engine_broke(struct engine_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
