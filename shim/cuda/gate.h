/* SPDX-License-Identifier: Apache-2.0
 *
 * The gate between the engine's calls and the cache. A call that may touch the cache is inside from before it asks whether
 * the cache is there until the driver has taken its work; who suspends closes the gate and waits until nobody is inside.
 * After that only work that is queued already can touch the cache, and what is queued can be waited for.
 *
 * Captures are apart: what is queued while one goes on does not run, but neither may its calls wait for a resume, nor may
 * anybody wait for the whole context beside it (that would spoil it). So the gate closes, and drains begin, only while no
 * stream is captured; and no capture begins then.
 *
 * The cost of going through an open gate: two atomic additions. */
#ifndef SHIM_CUDA_GATE_H
#define SHIM_CUDA_GATE_H

#include <stdbool.h>
#include <stdint.h>

#include "shim/cuda/abi.h"

/* When the gate is closed, calls fail instead of waiting. Before any other function here. */
void shim_cuda_gate_fails(bool fails);

/* Waits until the gate is open and goes inside; CUDA_ERROR_DEVICE_UNAVAILABLE, and not inside, if calls fail instead. */
CUresult shim_cuda_gate_enter(void);
/* Without waiting: whether it went inside. */
bool shim_cuda_gate_try(void);
void shim_cuda_gate_leave(void);

/* Both wait until deadline_ns (CLOCK_MONOTONIC) and are undone by themselves if that passes: false. */
bool shim_cuda_gate_close(uint64_t deadline_ns);
bool shim_cuda_gate_drain_begin(uint64_t deadline_ns);
void shim_cuda_gate_open(void);
void shim_cuda_gate_drain_end(void);

/* Around the driver's call that begins a capture of the stream: it waits while the gate is closed or a drain goes on.
 * `begun`: the call succeeded. */
CUresult shim_cuda_capture_begin(void);
void shim_cuda_capture_begun(CUstream stream, bool begun);
/* The stream's capture, if there is one, is over. */
void shim_cuda_capture_ended(CUstream stream);
bool shim_cuda_capturing(void);

#endif
