/* SPDX-License-Identifier: Apache-2.0
 *
 * What this machine can do at most, measured: the yardsticks of the benches. */
#ifndef TOOLS_BENCH_PEAKS_H
#define TOOLS_BENCH_PEAKS_H

#include <stddef.h>

#include "kernels/pool.h"

/* Bytes/s at which the pool's threads read `bytes` of memory, each its own part: the best of `tries` passes. */
double peaks_read_bandwidth(struct kern_pool *pool, const void *memory, size_t bytes, int tries);

/* Multiply-adds of f32 in registers, in FLOP/s (two for each), by the widest vectors of the CPU, on all threads of the
 * pool: the best of `tries` runs. */
double peaks_arithmetic(struct kern_pool *pool, int tries);

#endif
