/* SPDX-License-Identifier: Apache-2.0 */
#include "demo_engine/cublas.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/convert.h"
#include "tests/simcuda/simcuda.h"
#include "tests/simcuda_blas/simcublas.h"

#define X(name, params) SIMCUBLAS_EXPORT cublasStatus_t name params;
CUBLAS_FUNCTIONS(X)
#undef X

struct cublasContext {
    struct cublasContext *next;
    CUcontext context;
    CUstream stream;
    const void *workspace;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* over all of these */
static struct cublasContext *handles;
static struct simcuda_control sim;
static CUresult (*ctx_get_current)(CUcontext *context);
static CUresult (*stream_is_capturing)(CUstream stream, int *status);
static struct {
    char name[48];
    uint64_t left; /* calls until the one that fails; 0: none does */
    cublasStatus_t status;
} fault;

/* ---- faults and handles -------------------------------------------------------------------------------------- */

static void find_simcuda(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (library && simcuda_find(&sim)) {
        *(void **)&ctx_get_current = dlsym(library, "cuCtxGetCurrent");
        *(void **)&stream_is_capturing = dlsym(library, "cuStreamIsCapturing");
    }
    if (library)
        (void)dlclose(library);
    const char *text = getenv("SIMCUBLAS_FAIL");
    unsigned status;
    if (text && sscanf(text, "%47[^:]:%" SCNu64 ":%u", fault.name, &fault.left, &status) == 3)
        fault.status = (cublasStatus_t)status;
    else
        fault.left = 0;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

void simcublas_fail(const char *name, uint64_t nth, int status)
{
    (void)pthread_once(&once, find_simcuda);
    (void)pthread_mutex_lock(&lock);
    (void)snprintf(fault.name, sizeof fault.name, "%s", name);
    fault.left = nth;
    fault.status = (cublasStatus_t)status;
    (void)pthread_mutex_unlock(&lock);
}

uint64_t simcublas_handles(void)
{
    (void)pthread_mutex_lock(&lock);
    uint64_t n = 0;
    for (const struct cublasContext *h = handles; h; h = h->next)
        n++;
    (void)pthread_mutex_unlock(&lock);
    return n;
}

static cublasStatus_t enter(const char *name)
{
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    (void)pthread_once(&once, find_simcuda);
    (void)pthread_mutex_lock(&lock);
    if (fault.left > 0 && strcmp(fault.name, name) == 0 && --fault.left == 0)
        status = fault.status;
    (void)pthread_mutex_unlock(&lock);
    return status;
}

/* The place that points to an open handle; NULL: it is none. Under the lock. */
static struct cublasContext **find(cublasHandle_t handle)
{
    for (struct cublasContext **at = &handles; *at; at = &(*at)->next) {
        if (*at == handle)
            return at;
    }
    return NULL;
}

/* Also says no where the context that the handle was made in is not current. */
static cublasStatus_t check(const char *name, cublasHandle_t handle)
{
    cublasStatus_t status = enter(name);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    CUcontext current = NULL;
    (void)pthread_mutex_lock(&lock);
    const bool open = find(handle) != NULL;
    (void)pthread_mutex_unlock(&lock);
    if (!open || ctx_get_current(&current) != CUDA_SUCCESS || current != handle->context)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle)
{
    cublasStatus_t status = enter("cublasCreate_v2");
    CUcontext current = NULL;
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    if (!ctx_get_current || !stream_is_capturing || ctx_get_current(&current) != CUDA_SUCCESS || !current)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    struct cublasContext *new = calloc(1, sizeof *new);
    if (!new)
        return CUBLAS_STATUS_ALLOC_FAILED;
    new->context = current;
    (void)pthread_mutex_lock(&lock);
    new->next = handles;
    handles = new;
    (void)pthread_mutex_unlock(&lock);
    *handle = new;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle)
{
    cublasStatus_t status = check("cublasDestroy_v2", handle);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    (void)pthread_mutex_lock(&lock);
    struct cublasContext **at = find(handle);
    if (at)
        *at = handle->next;
    (void)pthread_mutex_unlock(&lock);
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t handle, int *version)
{
    cublasStatus_t status = check("cublasGetVersion_v2", handle);
    if (status == CUBLAS_STATUS_SUCCESS)
        *version = 130000;
    return status;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, CUstream stream)
{
    cublasStatus_t status = check("cublasSetStream_v2", handle);
    if (status == CUBLAS_STATUS_SUCCESS) {
        handle->stream = stream;
        handle->workspace = NULL;
    }
    return status;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes)
{
    cublasStatus_t status = check("cublasSetWorkspace_v2", handle);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    const CUdeviceptr at = (uintptr_t)workspace;
    if (bytes == 0 || at % 256 != 0 || !sim.host_address(at) || !sim.host_address(at + bytes - 1))
        return CUBLAS_STATUS_INVALID_VALUE;
    handle->workspace = workspace;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode)
{
    cublasStatus_t status = check("cublasSetMathMode", handle);
    const unsigned allowed = CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    if (status == CUBLAS_STATUS_SUCCESS && ((unsigned)mode & ~allowed) != 0)
        return CUBLAS_STATUS_INVALID_VALUE; /* TF32 and friends: the engine must not */
    return status;
}

/* ---- the product --------------------------------------------------------------------------------------------- */

struct matrix {
    CUdeviceptr at;
    cudaDataType type;
    int rows, columns, ld; /* as they lie: column by column */
};

struct product {
    struct matrix a, b, c;
    cublasOperation_t op_a, op_b;
    int k;
    float alpha, beta;
};

static size_t bytes_of(cudaDataType type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

static float element(const char *column, cudaDataType type, size_t i)
{
    float f;
    uint16_t h;
    if (type == CUDA_R_32F) {
        memcpy(&f, column + 4 * i, sizeof f);
        return f;
    }
    memcpy(&h, column + 2 * i, sizeof h);
    return type == CUDA_R_16F ? kern_f32_of_f16(h) : kern_f32_of_bf16(h);
}

static char *bytes_at(const struct matrix *m, const char *name)
{
    const uint64_t span = ((uint64_t)(m->columns - 1) * (uint64_t)m->ld + (uint64_t)m->rows) * bytes_of(m->type);
    char *first = sim.host_address(m->at), *last = sim.host_address(m->at + span - 1);
    if (first && last && (uint64_t)(last - first) == span - 1)
        return first;
    (void)fprintf(stderr, "simcublas: matrix %s, %d x %d at 0x%llx, reaches beyond its memory\n", name, m->rows,
                  m->columns, m->at);
    abort();
}

/* A row of op(a), or a column of op(b), as f32 without gaps. */
static void gather(const char *bytes, const struct matrix *m, bool down_a_column, int which, int k, float *out)
{
    if (down_a_column && m->type == CUDA_R_32F) {
        memcpy(out, bytes + (size_t)which * (size_t)m->ld * sizeof *out, (size_t)k * sizeof *out);
        return;
    }
    for (int i = 0; i < k; i++) {
        const size_t row = (size_t)(down_a_column ? i : which), column = (size_t)(down_a_column ? which : i);
        out[i] = element(bytes + column * (size_t)m->ld * bytes_of(m->type), m->type, row);
    }
}

static float dot(const float *a, const float *b, int k)
{
    float sums[8] = {0};
    int i = 0;
    for (; i + 8 <= k; i += 8) {
        for (int lane = 0; lane < 8; lane++)
            sums[lane] += a[i + lane] * b[i + lane];
    }
    for (; i < k; i++)
        sums[i % 8] += a[i] * b[i];
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

static void run_product(const void *params, const struct simcuda_launch *launch)
{
    (void)launch;
    const struct product *p = params;
    const int m = p->c.rows, n = p->c.columns, k = p->k;
    const char *a = bytes_at(&p->a, "A"), *b = bytes_at(&p->b, "B");
    char *c = bytes_at(&p->c, "C");
    float *columns = malloc(sizeof *columns * (size_t)k * (size_t)(n + 1)), *row = columns + (size_t)k * (size_t)n;
    if (!columns)
        abort();
    for (int j = 0; j < n; j++)
        gather(b, &p->b, p->op_b == CUBLAS_OP_N, j, k, columns + (size_t)j * (size_t)k);
    for (int i = 0; i < m; i++) {
        gather(a, &p->a, p->op_a == CUBLAS_OP_T, i, k, row);
        for (int j = 0; j < n; j++) {
            float *out = (float *)(void *)c + (size_t)j * (size_t)p->c.ld + i;
            const float sum = p->alpha * dot(row, columns + (size_t)j * (size_t)k, k);
            *out = p->beta == 0 ? sum : sum + p->beta * *out;
        }
    }
    free(columns);
}

static bool fits(const struct matrix *m)
{
    return m->at != 0 && m->at % bytes_of(m->type) == 0 && m->ld >= m->rows;
}

static cublasStatus_t check_product(const struct product *p, cublasComputeType_t compute, cublasGemmAlgo_t algo)
{
    if (!fits(&p->a) || !fits(&p->b) || !fits(&p->c))
        return CUBLAS_STATUS_INVALID_VALUE;
    const bool typed = p->a.type == CUDA_R_32F || p->a.type == CUDA_R_16F || p->a.type == CUDA_R_16BF;
    if (!typed || p->b.type != p->a.type || p->c.type != CUDA_R_32F || compute != CUBLAS_COMPUTE_32F ||
        algo != CUBLAS_GEMM_DEFAULT)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                            const void *alpha, const void *a, cudaDataType a_type, int lda, const void *b,
                            cudaDataType b_type, int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algo)
{
    cublasStatus_t status = check("cublasGemmEx", handle);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    if (m < 1 || n < 1 || k < 1 || (unsigned)op_a > CUBLAS_OP_T || (unsigned)op_b > CUBLAS_OP_T || !alpha || !beta)
        return CUBLAS_STATUS_INVALID_VALUE;
    struct product p = {.op_a = op_a, .op_b = op_b, .k = k};
    p.a = (struct matrix){(uintptr_t)a, a_type, op_a == CUBLAS_OP_N ? m : k, op_a == CUBLAS_OP_N ? k : m, lda};
    p.b = (struct matrix){(uintptr_t)b, b_type, op_b == CUBLAS_OP_N ? k : n, op_b == CUBLAS_OP_N ? n : k, ldb};
    p.c = (struct matrix){(uintptr_t)c, c_type, m, n, ldc};
    memcpy(&p.alpha, alpha, sizeof p.alpha);
    memcpy(&p.beta, beta, sizeof p.beta);
    status = check_product(&p, compute, algo);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    int capturing = 0;
    if (stream_is_capturing(handle->stream, &capturing) != CUDA_SUCCESS)
        return CUBLAS_STATUS_EXECUTION_FAILED;
    if (capturing && !handle->workspace)
        return CUBLAS_STATUS_NOT_SUPPORTED; /* cuBLAS would allocate one now */
    return sim.launch(handle->stream, "cublasGemmEx", run_product, &p, sizeof p) == CUDA_SUCCESS
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_EXECUTION_FAILED;
}
