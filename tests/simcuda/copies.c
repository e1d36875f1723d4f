/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies, fills and host functions. An asynchronous copy from or to host memory that is not pinned is a violation: on a
 * GPU it is silently no asynchronous copy. */
#include "tests/simcuda/sim.h"

static struct sim_op *fill(CUdeviceptr to, unsigned char value, size_t bytes)
{
    struct sim_op *op = sim_op_new(SIM_OP_FILL, "fill");
    if (op) {
        op->writes = (struct sim_span){to, bytes};
        op->word = value * 0x01010101u;
    }
    return op;
}

static struct sim_op *host_to_device(CUdeviceptr to, const void *from, size_t bytes)
{
    struct sim_op *op = sim_op_new(SIM_OP_COPY, "copy to the device");
    if (op) {
        op->writes = (struct sim_span){to, bytes};
        op->host = (struct sim_span){(uintptr_t)from, bytes};
    }
    return op;
}

static struct sim_op *device_to_host(void *to, CUdeviceptr from, size_t bytes)
{
    struct sim_op *op = sim_op_new(SIM_OP_COPY, "copy to the host");
    if (op) {
        op->reads = (struct sim_span){from, bytes};
        op->host = (struct sim_span){(uintptr_t)to, bytes};
    }
    return op;
}

static struct sim_op *device_to_device(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    struct sim_op *op = sim_op_new(SIM_OP_COPY, "copy on the device");
    if (op) {
        op->writes = (struct sim_span){to, bytes};
        op->reads = (struct sim_span){from, bytes};
    }
    return op;
}

/* Queues the operation on the stream, and frees it on failure. Nothing to do is done at once. */
static CUresult put(CUstream handle, struct sim_op *op, size_t bytes)
{
    struct sim_stream *stream;
    CUresult rc = sim_stream_find(handle, &stream);
    if (rc || bytes == 0) {
        sim_op_free(op);
        return rc;
    }
    return sim_stream_put(stream, op);
}

/* The caller waits, so that any host memory will do. */
static CUresult put_and_wait(CUstream handle, struct sim_op *op, size_t bytes)
{
    struct sim_stream *stream;
    if (op)
        op->pageable = true;
    CUresult rc = put(handle, op, bytes);
    if (rc == CUDA_SUCCESS)
        rc = sim_stream_find(handle, &stream);
    return rc ? rc : sim_stream_drain(stream);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    CUresult rc = sim_enter(SIM_MemcpyHtoDAsync);
    return rc ? rc : sim_leave(put(stream, host_to_device(to, from, bytes), bytes));
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    CUresult rc = sim_enter(SIM_MemcpyDtoHAsync);
    return rc ? rc : sim_leave(put(stream, device_to_host(to, from, bytes), bytes));
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    CUresult rc = sim_enter(SIM_MemcpyDtoDAsync);
    return rc ? rc : sim_leave(put(stream, device_to_device(to, from, bytes), bytes));
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream)
{
    CUresult rc = sim_enter(SIM_MemsetD8Async);
    return rc ? rc : sim_leave(put(stream, fill(to, value, bytes), bytes));
}

static CUresult copy_to_device(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    CUresult rc = sim_enter(SIM_MemcpyHtoD);
    return rc ? rc : sim_leave(put_and_wait(stream, host_to_device(to, from, bytes), bytes));
}

static CUresult copy_to_host(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    CUresult rc = sim_enter(SIM_MemcpyDtoH);
    return rc ? rc : sim_leave(put_and_wait(stream, device_to_host(to, from, bytes), bytes));
}

static CUresult copy_on_device(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    CUresult rc = sim_enter(SIM_MemcpyDtoD);
    return rc ? rc : sim_leave(put_and_wait(stream, device_to_device(to, from, bytes), bytes));
}

static CUresult fill_now(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream)
{
    CUresult rc = sim_enter(SIM_MemsetD8);
    return rc ? rc : sim_leave(put_and_wait(stream, fill(to, value, bytes), bytes));
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
    return copy_to_device(to, from, bytes, CU_STREAM_LEGACY);
}

CUresult cuMemcpyHtoD_v2_ptds(CUdeviceptr to, const void *from, size_t bytes)
{
    return copy_to_device(to, from, bytes, CU_STREAM_PER_THREAD);
}

CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
    return copy_to_host(to, from, bytes, CU_STREAM_LEGACY);
}

CUresult cuMemcpyDtoH_v2_ptds(void *to, CUdeviceptr from, size_t bytes)
{
    return copy_to_host(to, from, bytes, CU_STREAM_PER_THREAD);
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    return copy_on_device(to, from, bytes, CU_STREAM_LEGACY);
}

CUresult cuMemcpyDtoD_v2_ptds(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    return copy_on_device(to, from, bytes, CU_STREAM_PER_THREAD);
}

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t bytes)
{
    return fill_now(to, value, bytes, CU_STREAM_LEGACY);
}

CUresult cuMemsetD8_v2_ptds(CUdeviceptr to, unsigned char value, size_t bytes)
{
    return fill_now(to, value, bytes, CU_STREAM_PER_THREAD);
}

/* By the addresses; NULL also where neither is device memory: simcuda copies nothing from host to host. */
static struct sim_op *unified(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    bool to_device = sim_arena_contains(to, 1), from_device = sim_arena_contains(from, 1);
    if (to_device && from_device)
        return device_to_device(to, from, bytes);
    /* NOLINTBEGIN(performance-no-int-to-ptr): the interface's own type */
    if (to_device)
        return host_to_device(to, (const void *)(uintptr_t)from, bytes);
    return from_device ? device_to_host((void *)(uintptr_t)to, from, bytes) : NULL;
    /* NOLINTEND(performance-no-int-to-ptr) */
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    CUresult rc = sim_enter(SIM_MemcpyAsync);
    return rc ? rc : sim_leave(put(stream, unified(to, from, bytes), bytes));
}

static CUresult copy_unified(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    CUresult rc = sim_enter(SIM_Memcpy);
    return rc ? rc : sim_leave(put_and_wait(stream, unified(to, from, bytes), bytes));
}

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    return copy_unified(to, from, bytes, CU_STREAM_LEGACY);
}

CUresult cuMemcpy_ptds(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    return copy_unified(to, from, bytes, CU_STREAM_PER_THREAD);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t n, CUstream stream)
{
    CUresult rc = sim_enter(SIM_MemsetD32Async);
    if (rc)
        return rc;
    if (to % sizeof value)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    struct sim_op *op = fill(to, 0, n * sizeof value);
    if (op)
        op->word = value;
    return sim_leave(put(stream, op, n * sizeof value));
}

static CUresult put_host_function(CUstream handle, CUhostFn function, void *user)
{
    struct sim_stream *stream;
    CUresult rc = function ? sim_stream_find(handle, &stream) : CUDA_ERROR_INVALID_VALUE;
    if (rc)
        return rc;
    struct sim_op *op = sim_op_new(SIM_OP_HOST, "host function");
    if (op) {
        op->host_function = function;
        op->user = user;
    }
    return sim_stream_put(stream, op);
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *user)
{
    CUresult rc = sim_enter(SIM_LaunchHostFunc);
    return rc ? rc : sim_leave(put_host_function(stream, function, user));
}

static _Thread_local bool in_host_function;

bool sim_in_host_function(void)
{
    return in_host_function;
}

void sim_set_in_host_function(bool inside)
{
    in_host_function = inside;
}
