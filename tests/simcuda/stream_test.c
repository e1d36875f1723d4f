/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams and events: order is kept where it was asked for, and nowhere else. */
#include <pthread.h>
#include <unistd.h>

#include "support.h"
#include "tests/support/scale.h"

/* Waits until a stream that is not held has done its work; false after ten seconds. */
static bool done_soon(CUstream stream)
{
    for (int i = 0; i < 10000; i++) {
        CUresult rc = cuStreamQuery(stream);
        if (rc == CUDA_SUCCESS)
            return true;
        ck_assert_int_eq(rc, CUDA_ERROR_NOT_READY);
        usleep(1000);
    }
    return false;
}

static bool still_busy(CUstream stream)
{
    usleep(5000); /* time enough to do what it must not */
    return cuStreamQuery(stream) == CUDA_ERROR_NOT_READY;
}

/* One stream fills, the other reads: how often the reader saw something else than the fill of its round. */
static int stale_reads(bool with_event, int rounds)
{
    enum { N = 4096 };
    CUdeviceptr device;
    unsigned char *pinned = make_pinned(N);
    CUstream writer = make_stream(CU_STREAM_NON_BLOCKING), reader = make_stream(CU_STREAM_NON_BLOCKING);
    CUevent filled = make_event();
    int stale = 0;
    OK(cuMemAlloc_v2(&device, N));
    for (int i = 0; i < rounds; i++) {
        OK(cuMemsetD8Async(device, (unsigned char)i, N, writer));
        OK(cuEventRecord(filled, writer));
        if (with_event)
            OK(cuStreamWaitEvent(reader, filled, 0));
        OK(cuMemcpyDtoHAsync_v2(pinned, device, N, reader));
        OK(cuStreamSynchronize(reader));
        OK(cuStreamSynchronize(writer));
        stale += pinned[0] != (unsigned char)i || pinned[N - 1] != (unsigned char)i;
    }
    OK(cuMemFree_v2(device));
    OK(cuMemFreeHost(pinned));
    OK(cuStreamDestroy_v2(writer));
    OK(cuStreamDestroy_v2(reader));
    OK(cuEventDestroy_v2(filled));
    return stale;
}

START_TEST(an_event_orders_two_streams)
{
    ck_assert_int_eq(stale_reads(true, 300), 0);
}
END_TEST

START_TEST(a_missing_event_shows)
{
#ifndef RACES_ARE_REPORTED
    ck_assert_int_gt(stale_reads(false, 300), 0);
#endif
}
END_TEST

START_TEST(a_wait_is_for_the_record_of_its_time)
{
    CUdeviceptr device;
    CUstream slow = make_stream(CU_STREAM_NON_BLOCKING), fast = make_stream(CU_STREAM_NON_BLOCKING),
             waits = make_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = make_event();
    OK(cuMemAlloc_v2(&device, 16));
    simcuda_hold(slow);
    OK(cuMemsetD8Async(device, 1, 16, slow));
    OK(cuEventRecord(event, slow));
    OK(cuStreamWaitEvent(waits, event, 0));
    OK(cuEventRecord(event, fast)); /* recorded anew: the wait stays with the old one */
    OK(cuEventSynchronize(event));
    OK(cuEventQuery(event));
    ck_assert(still_busy(waits));
    simcuda_release(slow);
    ck_assert(done_soon(waits));
    OK(cuStreamSynchronize(slow));
    OK(cuMemFree_v2(device));
    OK(cuEventDestroy_v2(event));
    OK(cuStreamDestroy_v2(slow));
    OK(cuStreamDestroy_v2(fast));
    OK(cuStreamDestroy_v2(waits));
}
END_TEST

START_TEST(an_event_outlives_its_handle)
{
    CUstream slow = make_stream(CU_STREAM_NON_BLOCKING), waits = make_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = make_event();
    OK(cuEventQuery(event)); /* never recorded */
    OK(cuEventSynchronize(event));
    OK(cuStreamWaitEvent(waits, event, 0));
    ck_assert(done_soon(waits));
    simcuda_hold(slow);
    OK(cuEventRecord(event, slow));
    FAILS(cuEventQuery(event), CUDA_ERROR_NOT_READY);
    OK(cuStreamWaitEvent(waits, event, 0));
    OK(cuEventDestroy_v2(event));
    ck_assert(still_busy(waits));
    simcuda_release(slow);
    ck_assert(done_soon(waits));
    FAILS(cuEventQuery(event), CUDA_ERROR_INVALID_HANDLE);
    expect_violation("event");
    FAILS(cuEventDestroy_v2(event), CUDA_ERROR_INVALID_HANDLE);
    expect_violation("destroyed before");
    FAILS(cuStreamWaitEvent(waits, (CUevent)waits, 0), CUDA_ERROR_INVALID_HANDLE);
    expect_violation("something else");
    OK(cuStreamDestroy_v2(slow));
    OK(cuStreamDestroy_v2(waits));
}
END_TEST

START_TEST(stream_0_waits_and_is_waited_for)
{
    CUdeviceptr device;
    CUstream first = make_stream(0), later = make_stream(0), apart = make_stream(CU_STREAM_NON_BLOCKING);
    OK(cuMemAlloc_v2(&device, 64));
    simcuda_hold(first);
    OK(cuMemsetD8Async(device, 1, 16, first));
    OK(cuMemsetD8Async(device + 16, 2, 16, NULL));  /* behind `first` */
    OK(cuMemsetD8Async(device + 32, 3, 16, later)); /* behind stream 0 */
    OK(cuMemsetD8Async(device + 48, 4, 16, CU_STREAM_PER_THREAD));
    OK(cuMemsetD8Async(device + 48, 4, 16, apart));
    ck_assert(done_soon(apart));
    ck_assert(still_busy(NULL));
    ck_assert(still_busy(later));
    ck_assert(still_busy(CU_STREAM_PER_THREAD));
    simcuda_release(first);
    OK(cuStreamSynchronize(NULL));
    ck_assert_uint_eq(*at(device), 1);
    OK(cuCtxSynchronize());
    ck_assert_uint_eq(*at(device + 32), 3);
    OK(cuMemFree_v2(device));
    OK(cuStreamDestroy_v2(first));
    OK(cuStreamDestroy_v2(later));
    OK(cuStreamDestroy_v2(apart));
}
END_TEST

START_TEST(a_destroyed_stream_ends_its_work)
{
    CUdeviceptr device;
    struct simcuda_usage usage;
    CUstream stream = make_stream(0);
    OK(cuMemAlloc_v2(&device, 16));
    simcuda_hold(NULL);
    OK(cuMemsetD8Async(device, 1, 16, stream));
    OK(cuMemsetD8Async(device, 2, 16, stream));
    OK(cuStreamDestroy_v2(stream));
    FAILS(cuStreamDestroy_v2(stream), CUDA_ERROR_INVALID_HANDLE);
    expect_violation("destroyed before");
    FAILS(cuMemsetD8Async(device, 3, 16, stream), CUDA_ERROR_INVALID_HANDLE);
    expect_violation("destroyed before");
    FAILS(cuMemFree_v2(device), CUDA_ERROR_INVALID_VALUE);
    expect_violation("still uses");
    simcuda_get_usage(&usage);
    ck_assert_uint_eq(usage.queued, 2);
    simcuda_release(NULL);
    OK(cuCtxSynchronize());
    ck_assert_uint_eq(*at(device), 2);
    OK(cuMemFree_v2(device));
    FAILS(cuStreamDestroy_v2(NULL), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuStreamCreate(&stream, 7), CUDA_ERROR_INVALID_VALUE);
}
END_TEST

START_TEST(time_passes_between_events)
{
    CUevent start, end, untimed = make_event();
    CUstream stream = make_stream(0);
    float ms = -1;
    OK(cuEventCreate(&start, 0));
    OK(cuEventCreate(&end, 0));
    FAILS(cuEventElapsedTime(&ms, start, end), CUDA_ERROR_INVALID_HANDLE); /* not recorded */
    OK(cuEventRecord(start, stream));
    OK(cuStreamSynchronize(stream));
    usleep(3000);
    simcuda_hold(stream);
    OK(cuEventRecord(end, stream));
    FAILS(cuEventElapsedTime(&ms, start, end), CUDA_ERROR_NOT_READY);
    simcuda_release(stream);
    OK(cuEventSynchronize(end));
    OK(cuEventElapsedTime(&ms, start, end));
    ck_assert(ms >= 3 && ms < 60000);
    OK(cuEventRecord(untimed, stream));
    OK(cuEventSynchronize(untimed));
    FAILS(cuEventElapsedTime(&ms, start, untimed), CUDA_ERROR_INVALID_HANDLE);
    OK(cuEventDestroy_v2(start));
    OK(cuEventDestroy_v2(end));
    OK(cuEventDestroy_v2(untimed));
    OK(cuStreamDestroy_v2(stream));
}
END_TEST

struct note {
    CUdeviceptr device;
    unsigned char seen;
    CUresult driver;
};

static void look(void *arg)
{
    struct note *note = arg;
    int n;
    note->seen = *at(note->device);
    note->driver = cuDeviceGetCount(&n);
}

START_TEST(a_host_function_has_its_turn_and_no_driver)
{
    struct note note = {0};
    CUstream stream = make_stream(0);
    OK(cuMemAlloc_v2(&note.device, 16));
    OK(cuMemsetD8Async(note.device, 11, 16, stream));
    OK(cuLaunchHostFunc(stream, look, &note));
    OK(cuMemsetD8Async(note.device, 12, 16, stream));
    OK(cuStreamSynchronize(stream));
    ck_assert_uint_eq(note.seen, 11);
    ck_assert_int_eq(note.driver, CUDA_ERROR_NOT_PERMITTED);
    expect_violation("host function");
    OK(cuMemFree_v2(note.device));
    OK(cuStreamDestroy_v2(stream));
}
END_TEST

struct meeting {
    CUcontext context;
    pthread_barrier_t barrier;
    bool other_is_done;
};

static void meet(void *barrier)
{
    pthread_barrier_wait(barrier);
}

static void *use_own_stream(void *arg)
{
    struct meeting *meeting = arg;
    CUdeviceptr device;
    OK(cuCtxSetCurrent(meeting->context));
    OK(cuMemAlloc_v2(&device, 16));
    OK(cuMemsetD8Async_ptsz(device, 1, 16, NULL));
    meeting->other_is_done = done_soon(CU_STREAM_PER_THREAD);
    OK(cuStreamSynchronize_ptsz(NULL));
    OK(cuMemFree_v2(device));
    return NULL;
}

START_TEST(each_thread_has_a_stream)
{
    struct meeting meeting = {0};
    pthread_t thread;
    OK(cuCtxGetCurrent(&meeting.context));
    pthread_barrier_init(&meeting.barrier, NULL, 2);
    OK(cuLaunchHostFunc_ptsz(NULL, meet, &meeting.barrier)); /* keeps this thread's stream busy */
    ck_assert_int_eq(pthread_create(&thread, NULL, use_own_stream, &meeting), 0);
    pthread_join(thread, NULL);
    ck_assert(meeting.other_is_done);
    ck_assert_int_eq(cuStreamQuery_ptsz(NULL), CUDA_ERROR_NOT_READY);
    pthread_barrier_wait(&meeting.barrier);
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    pthread_barrier_destroy(&meeting.barrier);
}
END_TEST

struct user {
    pthread_t thread;
    CUcontext context;
    int number, rounds;
    int bad;
};

/* Everything a manager does in a step, with streams, events and memory of its own. */
static int use_once(int number, int round)
{
    enum { N = 512 };
    CUstream to = make_stream(CU_STREAM_NON_BLOCKING), from = make_stream(0);
    CUevent event = make_event();
    unsigned char *pinned = make_pinned(2 * N);
    CUdeviceptr range = reserve(GRANULE);
    map_at(range, GRANULE);
    memset(pinned, number * 16 + round % 16, N);
    memset(pinned + N, 0xee, N);
    OK(cuMemcpyHtoDAsync_v2(range, pinned, N, to));
    OK(cuMemcpyDtoDAsync_v2(range + 4096, range, N, to));
    OK(cuEventRecord(event, to));
    OK(cuStreamWaitEvent(from, event, 0));
    OK(cuMemcpyDtoHAsync_v2(pinned + N, range + 4096, N, from));
    OK(cuEventRecord(event, from));
    OK(cuStreamDestroy_v2(to));
    OK(cuEventSynchronize(event));
    int bad = memcmp(pinned, pinned + N, N) != 0;
    OK(cuStreamDestroy_v2(from));
    OK(cuEventDestroy_v2(event));
    OK(cuMemFreeHost(pinned));
    OK(cuMemUnmap(range, GRANULE));
    OK(cuMemAddressFree(range, GRANULE));
    return bad;
}

static void *use_all(void *arg)
{
    struct user *user = arg;
    OK(cuCtxSetCurrent(user->context));
    for (int i = 0; i < user->rounds; i++)
        user->bad += use_once(user->number, i);
    return NULL;
}

START_TEST(threads_share_the_driver)
{
    enum { N = 4 };
    struct user users[N] = {0};
    CUcontext context;
    OK(cuCtxGetCurrent(&context));
    for (int i = 0; i < N; i++) {
        users[i].context = context;
        users[i].number = i + 1;
        users[i].rounds = (int)scaled(100);
        ck_assert_int_eq(pthread_create(&users[i].thread, NULL, use_all, &users[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        pthread_join(users[i].thread, NULL);
        ck_assert_int_eq(users[i].bad, 0);
    }
}
END_TEST

static void write_byte(const void *params, const struct simcuda_launch *launch)
{
    CUdeviceptr device;
    memcpy(&device, params, sizeof device);
    *at(device) = 1;
    (void)launch;
}

/* A kernel that forgets that the CPU has other addresses. */
static void write_untranslated(const void *params, const struct simcuda_launch *launch)
{
    CUdeviceptr device;
    memcpy(&device, params, sizeof device);
    *(volatile unsigned char *)(uintptr_t)device = 1; /* NOLINT(performance-no-int-to-ptr): the mistake */
    (void)launch;
}

/* The kernel ends in a sticky error, which the call after it and all others give. */
static void expect_sticky(simcuda_run *run, CUdeviceptr device, const char *why)
{
    int n;
    CUstream stream = make_stream(0), other = make_stream(0);
    OK(simcuda_launch(stream, "stray", run, &device, sizeof device));
    FAILS(cuStreamSynchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
    FAILS(cuStreamQuery(other), CUDA_ERROR_ILLEGAL_ADDRESS);
    FAILS(cuDeviceGetCount(&n), CUDA_ERROR_ILLEGAL_ADDRESS);
    expect_violation(why);
    simcuda_lose_device(CUDA_SUCCESS);
    OK(cuStreamSynchronize(stream));
    OK(cuStreamDestroy_v2(stream));
    OK(cuStreamDestroy_v2(other));
}

START_TEST(a_kernel_that_goes_astray_is_stopped)
{
    CUdeviceptr range = reserve(GRANULE);
    expect_sticky(write_byte, range, "nothing is mapped");
    map_at(range, GRANULE);
    OK(set_access(range, GRANULE, CU_MEM_ACCESS_FLAGS_PROT_NONE));
    expect_sticky(write_byte, range, "access was not set");
    OK(set_access(range, GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READ));
    expect_sticky(write_byte, range, "not written");
    OK(set_access(range, GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
    expect_sticky(write_untranslated, range, "not translated");
    OK(simcuda_launch(NULL, "good", write_byte, &range, sizeof range));
    OK(cuStreamSynchronize(NULL));
    ck_assert_uint_eq(*at(range), 1);
    OK(cuMemUnmap(range, GRANULE));
    OK(cuMemAddressFree(range, GRANULE));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {an_event_orders_two_streams,
                                  a_missing_event_shows,
                                  a_wait_is_for_the_record_of_its_time,
                                  an_event_outlives_its_handle,
                                  stream_0_waits_and_is_waited_for,
                                  a_destroyed_stream_ends_its_work,
                                  time_passes_between_events,
                                  a_host_function_has_its_turn_and_no_driver,
                                  each_thread_has_a_stream,
                                  threads_share_the_driver,
                                  a_kernel_that_goes_astray_is_stopped,
                                  NULL};
    return run_suite("simcuda streams", tests);
}
