/* SPDX-License-Identifier: Apache-2.0
 *
 * Capture and replay: what was captured runs as often as it is launched, in its order; what a capture forbids spoils it. */
#include <pthread.h>

#include "support.h"

enum { ILLEGAL_STATE = 401, ISOLATION = 905, WRONG_THREAD = 908 }; /* which kvmm does not name */

struct add {
    CUdeviceptr to;
    uint64_t value;
};

static void add(const void *params, const struct simcuda_launch *launch)
{
    const struct add *p = params;
    *(uint64_t *)(void *)at(p->to) += p->value;
    (void)launch;
}

static CUgraph end_capture(CUstream stream)
{
    CUgraph graph = NULL;
    OK(cuStreamEndCapture(stream, &graph));
    return graph;
}

/* The capture was spoiled, and says so at its end. */
static void expect_spoiled(CUstream stream)
{
    CUgraph graph = (CUgraph)stream;
    sim_capture_status status;
    OK(cuStreamIsCapturing(stream, &status));
    ck_assert_int_eq(status, 2);
    FAILS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    ck_assert_ptr_null(graph);
    OK(cuStreamIsCapturing(stream, &status));
    ck_assert_int_eq(status, 0);
}

START_TEST(a_capture_runs_when_it_is_launched)
{
    CUdeviceptr device;
    CUgraphExec exec;
    uint64_t *pinned = (uint64_t *)(void *)make_pinned(16);
    CUstream stream = make_stream(CU_STREAM_NON_BLOCKING), other = make_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = make_event();
    struct add p = {0, 5};
    OK(cuMemAlloc_v2(&device, 16));
    OK(cuMemsetD8_v2(device, 0, 16));
    p.to = device;
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    FAILS(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), ILLEGAL_STATE);
    OK(simcuda_launch(stream, "add", add, &p, sizeof p));
    OK(cuEventRecord(event, stream));
    OK(cuStreamWaitEvent(stream, event, 0));
    OK(cuMemcpyDtoDAsync_v2(device + 8, device, 8, stream));
    OK(cuMemcpyDtoHAsync_v2(pinned, device, 16, stream));
    p.value = 1000; /* what was captured is a copy */
    CUgraph graph = end_capture(stream);
    OK(cuStreamSynchronize(stream));
    ck_assert_uint_eq(*(uint64_t *)(void *)at(device), 0); /* nothing has run */
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphDestroy(graph));
    for (int i = 1; i <= 20; i++) /* launches of one graph follow each other, on any stream */
        OK(cuGraphLaunch(exec, i % 2 ? stream : other));
    OK(cuGraphExecDestroy(exec));
    OK(cuCtxSynchronize());
    ck_assert_uint_eq(pinned[0], 100);
    ck_assert_uint_eq(pinned[1], 100);
    OK(cuMemFree_v2(device));
    OK(cuMemFreeHost(pinned));
    OK(cuEventDestroy_v2(event));
    OK(cuStreamDestroy_v2(stream));
    OK(cuStreamDestroy_v2(other));
}
END_TEST

START_TEST(a_launch_checks_its_memory_again)
{
    CUdeviceptr range = reserve(GRANULE);
    CUgraphExec exec;
    CUstream stream = make_stream(0);
    map_at(range, GRANULE);
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuMemsetD8Async(range, 1, 16, stream));
    CUgraph graph = end_capture(stream);
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphLaunch(exec, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuMemUnmap(range, GRANULE));
    FAILS(cuGraphLaunch(exec, stream), CUDA_ERROR_INVALID_VALUE);
    expect_violation("nothing is mapped");
    map_at(range, GRANULE); /* other memory at the same address: no need to capture again */
    simcuda_hold(stream);
    OK(cuGraphLaunch(exec, stream));
    FAILS(cuMemUnmap(range, GRANULE), CUDA_ERROR_INVALID_VALUE);
    expect_violation("still uses");
    simcuda_release(stream);
    OK(cuStreamSynchronize(stream));
    ck_assert_uint_eq(*at(range + 15), 1);
    OK(cuMemUnmap(range, GRANULE));
    OK(cuMemAddressFree(range, GRANULE));
    OK(cuGraphExecDestroy(exec));
    FAILS(cuGraphLaunch(exec, stream), CUDA_ERROR_INVALID_HANDLE);
    expect_violation("destroyed before");
    OK(cuGraphDestroy(graph));
    FAILS(cuGraphDestroy(graph), CUDA_ERROR_INVALID_HANDLE);
    expect_violation("destroyed before");
    OK(cuStreamDestroy_v2(stream));
}
END_TEST

START_TEST(a_graph_can_be_part_of_a_capture)
{
    CUdeviceptr device;
    CUgraphExec inner, outer;
    CUstream stream = make_stream(0);
    OK(cuMemAlloc_v2(&device, 8));
    OK(cuMemsetD8_v2(device, 0, 8));
    struct add p = {device, 1};
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(simcuda_launch(stream, "add", add, &p, sizeof p));
    CUgraph graph = end_capture(stream);
    OK(cuGraphInstantiateWithFlags(&inner, graph, 0));
    OK(cuGraphDestroy(graph));
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuGraphLaunch(inner, stream));
    OK(cuGraphLaunch(inner, stream));
    graph = end_capture(stream);
    OK(cuGraphInstantiateWithFlags(&outer, graph, 0));
    OK(cuGraphDestroy(graph));
    OK(cuGraphExecDestroy(inner));
    OK(cuGraphLaunch(outer, stream));
    OK(cuStreamSynchronize(stream));
    ck_assert_uint_eq(*(uint64_t *)(void *)at(device), 2);
    OK(cuGraphExecDestroy(outer));
    OK(cuMemFree_v2(device));
    OK(cuStreamDestroy_v2(stream));
}
END_TEST

START_TEST(forbidden_calls_spoil_a_capture)
{
    CUdeviceptr device, none = 1;
    CUstream stream = make_stream(0);
    CUevent inside = make_event(), outside = make_event();
    OK(cuMemAlloc_v2(&device, 16));
    OK(cuEventRecord(outside, NULL));
    OK(cuEventSynchronize(outside));

    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    FAILS(cuMemAlloc_v2(&none, 16), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    FAILS(cuMemsetD8Async(device, 1, 16, stream), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    expect_spoiled(stream);
    ck_assert_uint_eq(none, 1);

    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    FAILS(cuEventQuery(outside), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    expect_spoiled(stream);

    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuEventQuery(outside));
    FAILS(cuStreamSynchronize(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    expect_spoiled(stream);

    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    FAILS(cuStreamQuery(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    expect_spoiled(stream);

    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    FAILS(cuMemsetD8Async(device, 1, 16, NULL), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    expect_spoiled(stream);

    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    FAILS(cuStreamWaitEvent(stream, outside, 0), ISOLATION);
    expect_spoiled(stream);

    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuEventRecord(inside, stream));
    FAILS(cuEventQuery(inside), CUDA_ERROR_CAPTURED_EVENT);
    expect_spoiled(stream);

    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    FAILS(cuCtxSynchronize(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    expect_spoiled(stream);

    FAILS(cuStreamBeginCapture_v2(NULL, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    OK(cuMemFree_v2(device));
    OK(cuEventDestroy_v2(inside));
    OK(cuEventDestroy_v2(outside));
    OK(cuStreamDestroy_v2(stream));
}
END_TEST

START_TEST(a_fork_is_refused_and_says_so)
{
    CUstream stream = make_stream(CU_STREAM_NON_BLOCKING), other = make_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = make_event();
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuEventRecord(event, stream));
    FAILS(cuStreamWaitEvent(other, event, 0), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    expect_violation("forks");
    expect_spoiled(stream);
    OK(cuEventRecord(event, other)); /* an ordinary event again */
    OK(cuEventSynchronize(event));
    OK(cuEventDestroy_v2(event));
    OK(cuStreamDestroy_v2(stream));
    OK(cuStreamDestroy_v2(other));
}
END_TEST

struct other_thread {
    CUcontext context;
    CUstream stream;
    CUevent event;
    CUstreamCaptureMode mode;
    CUresult query, end;
};

static void *ask_from_another_thread(void *arg)
{
    struct other_thread *other = arg;
    CUgraph graph;
    OK(cuCtxSetCurrent(other->context));
    OK(cuThreadExchangeStreamCaptureMode(&other->mode));
    ck_assert_int_eq(other->mode, CU_STREAM_CAPTURE_MODE_GLOBAL);
    other->query = cuEventQuery(other->event);
    other->end = cuStreamEndCapture(other->stream, &graph);
    return NULL;
}

/* What another thread gets for a query while this one captures, and for ending the capture. */
static void expect_in_another_thread(CUstreamCaptureMode capture, CUstreamCaptureMode thread_mode, CUresult query,
                                     CUresult end)
{
    struct other_thread other = {.stream = make_stream(CU_STREAM_NON_BLOCKING), .event = make_event()};
    pthread_t thread;
    other.mode = thread_mode;
    OK(cuCtxGetCurrent(&other.context));
    OK(cuStreamBeginCapture_v2(other.stream, capture));
    ck_assert_int_eq(pthread_create(&thread, NULL, ask_from_another_thread, &other), 0);
    pthread_join(thread, NULL);
    ck_assert_int_eq(other.query, query);
    ck_assert_int_eq(other.end, end);
    if (query != CUDA_SUCCESS)
        expect_spoiled(other.stream);
    else
        OK(cuGraphDestroy(end_capture(other.stream)));
    OK(cuStreamDestroy_v2(other.stream));
    OK(cuEventDestroy_v2(other.event));
}

START_TEST(modes_decide_about_other_threads)
{
    const CUresult forbidden = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    const CUstreamCaptureMode global = CU_STREAM_CAPTURE_MODE_GLOBAL, local = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
                              relaxed = CU_STREAM_CAPTURE_MODE_RELAXED;
    expect_in_another_thread(global, global, forbidden, (CUresult)WRONG_THREAD);
    expect_in_another_thread(global, local, CUDA_SUCCESS, (CUresult)WRONG_THREAD);
    expect_in_another_thread(global, relaxed, CUDA_SUCCESS, (CUresult)WRONG_THREAD);
    expect_in_another_thread(local, global, CUDA_SUCCESS, (CUresult)WRONG_THREAD);
}
END_TEST

START_TEST(what_is_not_capturing_cannot_end)
{
    CUgraph graph;
    CUstream stream = make_stream(0);
    FAILS(cuStreamEndCapture(stream, &graph), ILLEGAL_STATE);
    FAILS(cuStreamBeginCapture_v2(stream, (CUstreamCaptureMode)3), CUDA_ERROR_INVALID_VALUE);
    OK(cuStreamDestroy_v2(stream));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_capture_runs_when_it_is_launched, a_launch_checks_its_memory_again,
                                  a_graph_can_be_part_of_a_capture,   forbidden_calls_spoil_a_capture,
                                  a_fork_is_refused_and_says_so,      modes_decide_about_other_threads,
                                  what_is_not_capturing_cannot_end,   NULL};
    return run_suite("simcuda capture", tests);
}
