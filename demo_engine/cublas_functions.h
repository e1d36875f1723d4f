/* SPDX-License-Identifier: Apache-2.0
 *
 * The functions of cuBLAS that the engine calls, the only list of them: X(name, parameters). Names are those of the
 * library's symbols; all return cublasStatus_t. tests/engine compares the prototypes with the toolkit's cublas_v2.h. */
#define CUBLAS_FUNCTIONS(X)                                                                                            \
    X(cublasCreate_v2, (cublasHandle_t * handle))                                                                      \
    X(cublasDestroy_v2, (cublasHandle_t handle))                                                                       \
    X(cublasGetVersion_v2, (cublasHandle_t handle, int *version))                                                      \
    X(cublasSetStream_v2, (cublasHandle_t handle, CUstream stream))                                                    \
    X(cublasSetWorkspace_v2, (cublasHandle_t handle, void *workspace, size_t bytes))                                   \
    X(cublasSetMathMode, (cublasHandle_t handle, cublasMath_t mode))                                                   \
    X(cublasGemmEx,                                                                                                    \
      (cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void *alpha,  \
       const void *a, cudaDataType a_type, int lda, const void *b, cudaDataType b_type, int ldb, const void *beta,     \
       void *c, cudaDataType c_type, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t algo))
