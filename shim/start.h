/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of the shim in a process. Its constructor finds the real functions and reads the settings; until then, and where
 * nothing can be selected, every hook passes. The pager (threads, descriptors) and the control socket are opened by the first
 * selected allocation, so a process without a cache costs nothing. Nothing is closed at exit: other threads may still use
 * the cache then, and the kernel takes back all there is. */
#ifndef SHIM_START_H
#define SHIM_START_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shim/config.h"
#include "shim/pager/pager.h"
#include "shim/select.h"

/* Whether allocations are to be looked at: the settings are good and this thread is not within the shim. */
bool shim_is_on(void);

/* Whether a rule may select something in this process, now or later. */
bool shim_may_select(void);

/* shim_select(), for hooks: PASS where shim_is_on() says no. Opens the control socket where a rule was given. */
enum shim_verdict shim_ask(const char *call, size_t bytes);

/* The pager, opened now if it isn't; NULL: it can't be, which was said, or this process is a child of the one that has it. */
struct shim_pager *shim_pager_get(void);

/* The pager if it is open already, and it is this process's. */
struct shim_pager *shim_pager_opened(void);

/* The control socket, opened now if it isn't; where that fails it is said, once, and the rest goes on. What a GPU's first
 * cache calls, too. */
void shim_control_start(void);

/* Says, once, why the GPU side is closed, if it is. */
void shim_say_gpu_refusal(void);

/* When the shim was started, nanoseconds of CLOCK_REALTIME. */
uint64_t shim_started_ns(void);

/* Whether this process has the ranges of its parent in its table, but not in memory. */
bool shim_is_child(void);

#endif
