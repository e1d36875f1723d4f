/* SPDX-License-Identifier: Apache-2.0
 *
 * The CUDA driver as a table of functions, found at run time. Nothing of kvmm is linked with libcuda or libcudart, so one
 * binary runs with and without a GPU. A leaf: it knows nothing of kvmm, and vmm, kernels, demo_engine and tools use it.
 *
 *     const struct cuda_driver *cu;
 *     char reason[CUDA_DRIVER_REASON];
 *     if (cuda_driver_get(&cu, reason) == CUDA_DRIVER_OK)
 *         cu->MemGetInfo(&free, &total);
 */
#ifndef CUDA_DRIVER_H
#define CUDA_DRIVER_H

#include "vmm/driver/cuda_abi.h"
#include "vmm/driver/functions.h"

struct cuda_driver {
#define X(name, version, params) CUresult(*name) params;
    CUDA_DRIVER_FUNCTIONS(X)
#undef X
};

enum cuda_driver_status {
    CUDA_DRIVER_OK = 0,
    CUDA_DRIVER_ABSENT,   /* no such library, or it can't be loaded */
    CUDA_DRIVER_TOO_OLD,  /* a function that kvmm needs is not in it: before CUDA 11.4 */
    CUDA_DRIVER_NO_DEVICE /* cuInit failed: no GPU, or one that does not work */
};

#define CUDA_DRIVER_REASON 256 /* bytes of the caller's buffer for a reason */

/* Loads the driver named by KVMM_LIBCUDA, or else libcuda.so.1, fills the table through its cuGetProcAddress, and calls
 * cuInit(0). The first success is kept for the process: later calls are cheap, and the library stays loaded. A failure
 * is not kept. On failure *driver is not written and reason holds one line that names the library and what is wrong.
 * Thread-safe. */
enum cuda_driver_status cuda_driver_get(const struct cuda_driver **driver, char reason[CUDA_DRIVER_REASON]);

/* Such as "CUDA_ERROR_OUT_OF_MEMORY"; "CUDA_ERROR_UNKNOWN" for a number that the driver does not know. Never NULL. */
const char *cuda_error_name(const struct cuda_driver *driver, CUresult error);

#endif
