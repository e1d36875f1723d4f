/* SPDX-License-Identifier: Apache-2.0
 *
 * The CUDA kernels, by driver API: a fat binary in the library, loaded into the current context. Launches are queued on
 * `stream` and return at once; all can be captured in a graph. Results: CUresult, 0 on success; nothing was queued
 * otherwise. CUDA_ERROR_INVALID_VALUE: a parameter is out of the bounds that kernels/cuda/params.h names. Thread-safe, for
 * threads to which the context is current. What a launch is told is in kernels/cuda/params.h. */
#ifndef KERN_CUDA_H
#define KERN_CUDA_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/cuda/params.h"
#include "vmm/driver/driver.h"

struct kern_cuda;

/* False: this build has no CUDA kernels (no nvcc was found); kern_cuda_open() then fails with CUDA_ERROR_NOT_SUPPORTED. */
bool kern_cuda_built(void);

/* Loads the kernels into the current context of `device`. On failure *kernels is not written; NO_BINARY_FOR_GPU: the GPU is
 * older than sm_80. */
CUresult kern_cuda_open(const struct cuda_driver *driver, CUdevice device, struct kern_cuda **kernels);
/* Precondition: no launch is queued; the same context is current. Sets NULL; NULL is ignored. */
void kern_cuda_close(struct kern_cuda **kernels);

CUresult kern_cuda_embed(struct kern_cuda *k, CUstream stream, const struct kern_cu_embed *p);
CUresult kern_cuda_turn(struct kern_cuda *k, CUstream stream, const struct kern_cu_turn *p);
CUresult kern_cuda_norm(struct kern_cuda *k, CUstream stream, const struct kern_cu_norm *p);
CUresult kern_cuda_append(struct kern_cuda *k, CUstream stream, const struct kern_cu_append *p);
CUresult kern_cuda_swiglu(struct kern_cuda *k, CUstream stream, const struct kern_cu_swiglu *p);
CUresult kern_cuda_argmax(struct kern_cuda *k, CUstream stream, const struct kern_cu_argmax *p);
CUresult kern_cuda_gather(struct kern_cuda *k, CUstream stream, const struct kern_cu_gather *p);

/* Any mix of sequences, at most max_queries queries in one of them. */
CUresult kern_cuda_prefill(struct kern_cuda *k, CUstream stream, const struct kern_cu_attention *p,
                           uint32_t max_queries);

/* One query in each sequence. n_splits and partial come from these two, and stay right while sequences grow: the kernel
 * reads lengths from device memory, so that a captured launch need not be captured again. */
uint32_t kern_cuda_decode_splits(const struct kern_cuda *k, uint32_t n_seqs, uint32_t n_kv_heads);
size_t kern_cuda_decode_scratch(uint32_t n_seqs, uint32_t n_heads, uint32_t head_dim, uint32_t n_splits);
CUresult kern_cuda_decode(struct kern_cuda *k, CUstream stream, const struct kern_cu_attention *p);

/* The same through a block table, for measurements: f16 and bf16, a head_dim of 72 to 128 that is a multiple of 8, strides of
 * 16 bytes; INVALID_VALUE for others. */
CUresult kern_cuda_prefill_paged(struct kern_cuda *k, CUstream stream, const struct kern_cu_paged *p,
                                 uint32_t max_queries);
CUresult kern_cuda_decode_paged(struct kern_cuda *k, CUstream stream, const struct kern_cu_paged *p);

#endif
