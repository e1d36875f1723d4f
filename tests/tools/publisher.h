/* SPDX-License-Identifier: Apache-2.0
 *
 * A child process that publishes a page map by vmm/pagemap.c, to be looked at from outside. */
#ifndef TESTS_TOOLS_PUBLISHER_H
#define TESTS_TOOLS_PUBLISHER_H

#include <sys/types.h>

#include "vmm/pagemap.h"

/* Forks a child that opens a map of pages and frames of 64 KiB, named `name`, and calls body(map), which may return:
 * the child then waits to be killed. Returns when the body has called publisher_ready() or has returned. */
pid_t publisher_start(const char *name, void (*body)(struct vmm_pagemap *map));

/* For a body that never returns. */
void publisher_ready(void);

/* SIGKILL, and waits until the process is gone. */
void publisher_kill(pid_t pid);

#endif
