/* SPDX-License-Identifier: Apache-2.0
 *
 * Which device a user means, and whether it can be used: the answer to --device. */
#ifndef ENGINE_DEVICE_CHOICE_H
#define ENGINE_DEVICE_CHOICE_H

#include <stdbool.h>

#include "status.h"

struct device_choice {
    char name[16];              /* "host" or "cuda:N": as kvmm_config.device takes it */
    int ordinal;                /* N; -1: the host */
    struct engine_error reason; /* why "auto" is the host; "" otherwise */
};

/* text: "host", "cuda" (cuda:0), "cuda:N", or "auto": cuda:0 if it can be used, else the host. ENGINE_BAD_INPUT: no such
 * word, or the GPU it names can't be used; err says why. */
int device_choose(const char *text, struct device_choice *choice, struct engine_error *err);

static inline bool device_is_cuda(const struct device_choice *choice)
{
    return choice->ordinal >= 0;
}

#endif
