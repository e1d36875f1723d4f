/* SPDX-License-Identifier: Apache-2.0
 *
 * The few functions of cuBLAS that the engine calls, found at run time, as the driver is (vmm/driver/driver.h): the types
 * and numbers of its binary interface under the names of cublas_v2.h, which tests/engine compares with the toolkit's. A
 * file includes this header or cublas_v2.h, never both. Source: cuBLAS reference, versions 11.4 to 13. */
#ifndef ENGINE_CUBLAS_H
#define ENGINE_CUBLAS_H

#include "cublas_functions.h"
#include "vmm/driver/driver.h"

typedef struct cublasContext *cublasHandle_t;

typedef enum {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_NOT_INITIALIZED = 1,
    CUBLAS_STATUS_ALLOC_FAILED = 3,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_ARCH_MISMATCH = 8,
    CUBLAS_STATUS_MAPPING_ERROR = 11,
    CUBLAS_STATUS_EXECUTION_FAILED = 13,
    CUBLAS_STATUS_INTERNAL_ERROR = 14,
    CUBLAS_STATUS_NOT_SUPPORTED = 15,
    CUBLAS_STATUS_LICENSE_ERROR = 16,
} cublasStatus_t;

typedef enum { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 } cublasOperation_t;
typedef enum {
    CUBLAS_DEFAULT_MATH = 0,
    CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16,
} cublasMath_t;
typedef enum { CUBLAS_COMPUTE_32F = 68 } cublasComputeType_t;
typedef enum { CUBLAS_GEMM_DEFAULT = -1 } cublasGemmAlgo_t;
typedef enum { CUDA_R_32F = 0, CUDA_R_16F = 2, CUDA_R_16BF = 14 } cudaDataType;

struct cublas {
#define X(name, params) cublasStatus_t(*name) params;
    CUBLAS_FUNCTIONS(X)
#undef X
};

#define CUBLAS_REASON 256 /* bytes of the caller's buffer for a reason */

/* Loads the library that KVMM_LIBCUBLAS names, or else the newest libcublas.so.N that this driver can run, and fills the
 * table. The first success is kept for the process. Returns 0, or -1 with one line in reason; *blas is not written then.
 * Thread-safe. */
int cublas_get(const struct cuda_driver *driver, const struct cublas **blas, char reason[CUBLAS_REASON]);

/* Such as "CUBLAS_STATUS_ALLOC_FAILED". Never NULL. */
const char *cublas_status_name(cublasStatus_t status);

#endif
