/* SPDX-License-Identifier: Apache-2.0
 *
 * The lives of contexts, with which their memory goes, and of captures, beside which nobody may wait. */
#include <pthread.h>

#include "shim/cuda/calls.h"
#include "shim/cuda/find.h"
#include "shim/cuda/gate.h"
#include "shim/cuda/memory.h"

#define MAX_DEVICES 64

/* Errors of cuStreamEndCapture after which the capture is over (cuda.h: CUDA_ERROR_STREAM_CAPTURE_…). */
enum { INVALIDATED = 901, MERGE = 902, UNJOINED = 904, ISOLATION = 905 };

/* Each device's primary context, and how often the engine has retained it. */
static struct {
    CUcontext context;
    unsigned n_retained;
} primary[MAX_DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- contexts ---- */

/* Green contexts are no affair of ours: the primary context, of which they are parts, waits for them too (CUDA Driver API,
 * cuCtxSynchronize). */

#define CALL(symbol, ...)                                                                                              \
    ({                                                                                                                 \
        __typeof__(&symbol) real_ = SHIM_CUDA_REAL(symbol);                                                            \
        real_ ? real_(__VA_ARGS__) : CUDA_ERROR_NOT_INITIALIZED;                                                       \
    })

/* After a call that makes a context. */
static CUresult came(CUresult rc, const CUcontext *context)
{
    if (rc == CUDA_SUCCESS && context && *context)
        shim_cuda_context_came(*context);
    return rc;
}

/* Before a call that ends it. */
static void going(CUcontext context)
{
    shim_cuda_free_context(context);
    shim_cuda_context_went(context);
}

CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device)
{
    return came(CALL(cuCtxCreate_v2, context, flags, device), context);
}

CUresult cuCtxCreate_v3(CUcontext *context, CUexecAffinityParam *affinities, int n, unsigned flags, CUdevice device)
{
    return came(CALL(cuCtxCreate_v3, context, affinities, n, flags, device), context);
}

CUresult cuCtxCreate_v4(CUcontext *context, CUctxCreateParams *how, unsigned flags, CUdevice device)
{
    return came(CALL(cuCtxCreate_v4, context, how, flags, device), context);
}

CUresult cuCtxDestroy_v2(CUcontext context)
{
    if (context)
        going(context);
    CUresult rc = CALL(cuCtxDestroy_v2, context);
    if (rc != CUDA_SUCCESS && context)
        shim_cuda_context_came(context);
    return rc;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    CUresult rc = came(CALL(cuDevicePrimaryCtxRetain, context, device), context);
    if (rc == CUDA_SUCCESS && device >= 0 && device < MAX_DEVICES) {
        pthread_mutex_lock(&lock);
        primary[device].context = *context;
        primary[device].n_retained++;
        pthread_mutex_unlock(&lock);
    }
    return rc;
}

/* The primary context that the next release, or a reset, ends; NULL: none. */
static CUcontext ending(CUdevice device, bool by_reset)
{
    CUcontext context = NULL;
    pthread_mutex_lock(&lock);
    if (device >= 0 && device < MAX_DEVICES && (by_reset || primary[device].n_retained == 1))
        context = primary[device].context;
    pthread_mutex_unlock(&lock);
    return context;
}

static CUresult release(CUresult (*real)(CUdevice device), CUdevice device)
{
    CUcontext context = ending(device, false);
    if (context)
        going(context);
    CUresult rc = real ? real(device) : CUDA_ERROR_NOT_INITIALIZED;
    pthread_mutex_lock(&lock);
    if (rc == CUDA_SUCCESS && device >= 0 && device < MAX_DEVICES && primary[device].n_retained &&
        --primary[device].n_retained == 0)
        primary[device].context = NULL;
    pthread_mutex_unlock(&lock);
    if (rc != CUDA_SUCCESS && context)
        shim_cuda_context_came(context);
    return rc;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    return release(SHIM_CUDA_REAL(cuDevicePrimaryCtxRelease), device);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    return release(SHIM_CUDA_REAL(cuDevicePrimaryCtxRelease_v2), device);
}

/* A reset leaves the handle to those who have retained it. */
static CUresult reset(CUresult (*real)(CUdevice device), CUdevice device)
{
    CUcontext context = ending(device, true);
    if (context)
        going(context);
    CUresult rc = real ? real(device) : CUDA_ERROR_NOT_INITIALIZED;
    if (context)
        shim_cuda_context_came(context);
    return rc;
}

CUresult cuDevicePrimaryCtxReset(CUdevice device)
{
    return reset(SHIM_CUDA_REAL(cuDevicePrimaryCtxReset), device);
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
    return reset(SHIM_CUDA_REAL(cuDevicePrimaryCtxReset_v2), device);
}

/* ---- captures ---- */

/* Around the driver's call that begins one. */
#define BEGIN(stream, call)                                                                                            \
    CUresult rc = shim_cuda_capture_begin();                                                                           \
    if (rc != CUDA_SUCCESS)                                                                                            \
        return rc;                                                                                                     \
    rc = call;                                                                                                         \
    shim_cuda_capture_begun(stream, rc == CUDA_SUCCESS);                                                               \
    return rc;

static CUresult ended(CUresult rc, CUstream stream)
{
    if (rc == CUDA_SUCCESS || (int)rc == INVALIDATED || (int)rc == MERGE || (int)rc == UNJOINED ||
        (int)rc == ISOLATION || rc == CUDA_ERROR_OUT_OF_MEMORY)
        shim_cuda_capture_ended(stream);
    return rc;
}

static CUstream own(CUstream stream)
{
    return stream ? stream : CU_STREAM_PER_THREAD;
}

CUresult cuStreamBeginCapture(CUstream stream){BEGIN(stream, CALL(cuStreamBeginCapture, stream))}

CUresult cuStreamBeginCapture_ptsz(CUstream stream){BEGIN(own(stream), CALL(cuStreamBeginCapture_ptsz, stream))}

CUresult cuStreamBeginCapture_v2(CUstream stream,
                                 CUstreamCaptureMode mode){BEGIN(stream, CALL(cuStreamBeginCapture_v2, stream, mode))}

CUresult cuStreamBeginCapture_v2_ptsz(CUstream stream, CUstreamCaptureMode mode){
    BEGIN(own(stream), CALL(cuStreamBeginCapture_v2_ptsz, stream, mode))}

CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const CUgraphNode *after,
                                     const CUgraphEdgeData *edges, size_t n, CUstreamCaptureMode mode){
    BEGIN(stream, CALL(cuStreamBeginCaptureToGraph, stream, graph, after, edges, n, mode))}

CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream stream, CUgraph graph, const CUgraphNode *after,
                                          const CUgraphEdgeData *edges, size_t n, CUstreamCaptureMode mode){
    BEGIN(own(stream), CALL(cuStreamBeginCaptureToGraph_ptsz, stream, graph, after, edges, n, mode))}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    return ended(CALL(cuStreamEndCapture, stream, graph), stream);
}

CUresult cuStreamEndCapture_ptsz(CUstream stream, CUgraph *graph)
{
    return ended(CALL(cuStreamEndCapture_ptsz, stream, graph), own(stream));
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
    CUresult rc = CALL(cuStreamDestroy_v2, stream);
    if (rc == CUDA_SUCCESS)
        shim_cuda_capture_ended(stream);
    return rc;
}
