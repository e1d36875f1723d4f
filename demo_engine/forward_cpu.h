/* SPDX-License-Identifier: Apache-2.0
 *
 * Passes on the CPU, over K and V on the host device. They are computed when they are queued.
 *
 * A token's K, V and logits have the same bits whatever else is in the pass, however its sequence was cut into passes,
 * in any layout and with any number of threads. */
#ifndef ENGINE_FORWARD_CPU_H
#define ENGINE_FORWARD_CPU_H

#include "forward.h"
#include "kernels/pool.h"
#include "model.h"

/* For passes of at most max_tokens tokens in all. Model and pool are used, not owned. ENGINE_FAILED if memory is out. */
int forward_cpu_open(const struct model *model, struct kern_pool *pool, enum kvmm_dtype kv_type, uint32_t max_tokens,
                     struct forward **fwd, struct engine_error *err);

#endif
