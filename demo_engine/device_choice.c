/* SPDX-License-Identifier: Apache-2.0 */
#include "device_choice.h"

#include <stdio.h>
#include <string.h>

#include "cuda_gpu.h"

#define MAX_ORDINAL 999

/* -1: not "cuda" or "cuda:N". */
static int parse_ordinal(const char *text)
{
    if (strcmp(text, "cuda") == 0)
        return 0;
    if (strncmp(text, "cuda:", 5) != 0)
        return -1;
    int n = 0;
    const char *digit = text + 5;
    do {
        if (*digit < '0' || *digit > '9')
            return -1;
        n = n * 10 + (*digit++ - '0');
    } while (*digit && n <= MAX_ORDINAL);
    return n <= MAX_ORDINAL ? n : -1;
}

static void set(struct device_choice *choice, int ordinal)
{
    *choice = (struct device_choice){.name = "host", .ordinal = ordinal};
    if (ordinal >= 0)
        (void)snprintf(choice->name, sizeof choice->name, "cuda:%d", ordinal);
}

int device_choose(const char *text, struct device_choice *choice, struct engine_error *err)
{
    if (strcmp(text, "host") == 0) {
        set(choice, -1);
        return 0;
    }
    if (strcmp(text, "auto") == 0) {
        struct engine_error reason;
        if (cuda_gpu_probe(0, &reason) == 0) {
            set(choice, 0);
        } else {
            set(choice, -1);
            choice->reason = reason;
        }
        return 0;
    }
    const int ordinal = parse_ordinal(text);
    if (ordinal < 0)
        return engine_fail(err, "device \"%s\" is not auto, host, cuda or cuda:N", text);
    int rc = cuda_gpu_probe(ordinal, err);
    if (rc == 0)
        set(choice, ordinal);
    return rc;
}
