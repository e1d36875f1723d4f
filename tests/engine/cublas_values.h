/* SPDX-License-Identifier: Apache-2.0
 *
 * Every constant of demo_engine/cublas.h, and the sizes of its types. */
#ifndef TESTS_ENGINE_CUBLAS_VALUES_H
#define TESTS_ENGINE_CUBLAS_VALUES_H

#include <stddef.h>

#define CUBLAS_VALUES(SIZE, VALUE)                                                                                     \
    SIZE(cublasHandle_t)                                                                                               \
    SIZE(cublasStatus_t)                                                                                               \
    VALUE(CUBLAS_STATUS_SUCCESS)                                                                                       \
    VALUE(CUBLAS_STATUS_NOT_INITIALIZED)                                                                               \
    VALUE(CUBLAS_STATUS_ALLOC_FAILED)                                                                                  \
    VALUE(CUBLAS_STATUS_INVALID_VALUE)                                                                                 \
    VALUE(CUBLAS_STATUS_ARCH_MISMATCH)                                                                                 \
    VALUE(CUBLAS_STATUS_MAPPING_ERROR)                                                                                 \
    VALUE(CUBLAS_STATUS_EXECUTION_FAILED)                                                                              \
    VALUE(CUBLAS_STATUS_INTERNAL_ERROR)                                                                                \
    VALUE(CUBLAS_STATUS_NOT_SUPPORTED)                                                                                 \
    VALUE(CUBLAS_STATUS_LICENSE_ERROR)                                                                                 \
    SIZE(cublasOperation_t)                                                                                            \
    VALUE(CUBLAS_OP_N)                                                                                                 \
    VALUE(CUBLAS_OP_T)                                                                                                 \
    SIZE(cublasMath_t)                                                                                                 \
    VALUE(CUBLAS_DEFAULT_MATH)                                                                                         \
    VALUE(CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)                                                            \
    SIZE(cublasComputeType_t)                                                                                          \
    VALUE(CUBLAS_COMPUTE_32F)                                                                                          \
    SIZE(cublasGemmAlgo_t)                                                                                             \
    VALUE(CUBLAS_GEMM_DEFAULT)                                                                                         \
    SIZE(cudaDataType)                                                                                                 \
    VALUE(CUDA_R_32F)                                                                                                  \
    VALUE(CUDA_R_16F)                                                                                                  \
    VALUE(CUDA_R_16BF)

struct cublas_value {
    const char *name; /* a type, whose size it is, or a constant */
    long long value;
};

#define CUBLAS_SIZE(type)      {#type, (long long)sizeof(type)},
#define CUBLAS_VALUE(constant) {#constant, (long long)(constant)},

extern const struct cublas_value cublas_of_engine[], cublas_of_toolkit[];
extern const size_t cublas_n_of_engine, cublas_n_of_toolkit;

#endif
