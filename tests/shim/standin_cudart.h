/* SPDX-License-Identifier: Apache-2.0
 *
 * A stand-in for the CUDA runtime: cudart itself checks the driver and refuses a software one. It finds the driver as cudart
 * 13 does: dlopen("libcuda.so.1"), one dlsym of cuGetProcAddress_v2, and everything else by name and version through that,
 * the older form of cuGetProcAddress, at 11030, among it. Results are the driver's numbers, as cudart's are. */
#ifndef TESTS_SHIM_STANDIN_CUDART_H
#define TESTS_SHIM_STANDIN_CUDART_H

#include <stdbool.h>
#include <stddef.h>

#include "vmm/driver/cuda_abi.h"

/* per_thread: the runtime's functions with the suffix _ptsz, for programs compiled with --default-stream per-thread. */
int standin_open(bool per_thread);
int standin_malloc(void **memory, size_t bytes);
int standin_free(void *memory);
int standin_memcpy_async(void *to, const void *from, size_t bytes, CUstream stream);
int standin_memset_async(void *to, int value, size_t bytes, CUstream stream);
int standin_mem_get_info(size_t *free_bytes, size_t *total);
int standin_launch(CUfunction function, void **params, CUstream stream);
int standin_stream_synchronize(CUstream stream);
int standin_close(void);

#endif
