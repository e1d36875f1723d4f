/* SPDX-License-Identifier: Apache-2.0
 *
 * What hooks have in common. A hook is an exported function with the name of the one it stands before. It is entered by any
 * thread, from the relocation of the first library on, and by the allocators, by the loader and by the shim itself. What is
 * of no interest to it costs a comparison or two and a jump to the real function. */
#ifndef SHIM_HOOK_H
#define SHIM_HOOK_H

#include <stdbool.h>
#include <stddef.h>

#define SHIM_EXPORT       __attribute__((visibility("default")))
#define SHIM_LIKELY(x)    __builtin_expect(!!(x), 1)
#define SHIM_THREAD_LOCAL _Thread_local __attribute__((tls_model("initial-exec")))

/* This thread is within a slow path of a hook: hooks that it enters meanwhile pass. A count, as slow paths nest. */
extern SHIM_THREAD_LOCAL unsigned shim_inside;

/* Around a slow path, nested or not. Allocating and freeing are no points at which a thread may be cancelled, so what the shim
 * does there must not be one either. */
void shim_enter(void);
void shim_leave(void);

#endif
