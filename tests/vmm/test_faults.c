/* SPDX-License-Identifier: Apache-2.0
 *
 * Every call that can fail is made to fail once, by its number, in a fixed scenario: the failure is a status code with a
 * line of text, no byte is wrong afterwards, the scenario can go on, and after close nothing is left. Device calls fail
 * through a device that stacks on the host device; allocations and thread creation through the linker's --wrap. */
#include <stdbool.h>

static __thread bool injecting;
#define LIB(call)                                                                                                      \
    ({                                                                                                                 \
        injecting = true;                                                                                              \
        int lib_rc_ = (call);                                                                                          \
        injecting = false;                                                                                             \
        lib_rc_;                                                                                                       \
    })

#include "fixture.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/error.h"

/* ---- a device that fails its nth call ---- */

static _Atomic long device_countdown; /* 0: never */

struct faulty {
    struct vmm_device base;
    struct vmm_device *lower;
};

static bool due(_Atomic long *countdown)
{
    return atomic_load(countdown) > 0 && atomic_fetch_sub(countdown, 1) == 1;
}

#define LOWER(dev) (((struct faulty *)(dev))->lower)

static int f_reserve(struct vmm_device *dev, size_t bytes, void **base)
{
    if (due(&device_countdown))
        return vmm_fail(KVMM_ERR_NO_ADDRESS_SPACE, "injected");
    return LOWER(dev)->ops->reserve(LOWER(dev), bytes, base);
}
static void f_unreserve(struct vmm_device *dev, void *base, size_t bytes)
{
    LOWER(dev)->ops->unreserve(LOWER(dev), base, bytes);
}
static int f_frame_create(struct vmm_device *dev, uint32_t *frame)
{
    if (due(&device_countdown))
        return vmm_fail(KVMM_ERR_NO_DEVICE_MEMORY, "injected");
    return LOWER(dev)->ops->frame_create(LOWER(dev), frame);
}
static void f_frame_release(struct vmm_device *dev, uint32_t frame)
{
    LOWER(dev)->ops->frame_release(LOWER(dev), frame);
}
static int f_map(struct vmm_device *dev, void *base, const uint32_t *frames, size_t n)
{
    if (due(&device_countdown))
        return vmm_fail(KVMM_ERR_NO_ADDRESS_SPACE, "injected");
    return LOWER(dev)->ops->map(LOWER(dev), base, frames, n);
}
static int f_map_zeros(struct vmm_device *dev, void *base)
{
    if (due(&device_countdown))
        return vmm_fail(KVMM_ERR_NO_ADDRESS_SPACE, "injected");
    return LOWER(dev)->ops->map_zeros(LOWER(dev), base);
}
static int f_unmap(struct vmm_device *dev, void *base, size_t n)
{
    if (due(&device_countdown))
        return vmm_fail(KVMM_ERR_DEVICE, "injected");
    return LOWER(dev)->ops->unmap(LOWER(dev), base, n);
}
static void *f_view_get(struct vmm_device *dev, uint32_t frame)
{
    return LOWER(dev)->ops->view_get(LOWER(dev), frame);
}
static void f_view_put(struct vmm_device *dev, uint32_t frame)
{
    LOWER(dev)->ops->view_put(LOWER(dev), frame);
}
static int f_zero(struct vmm_device *dev, uint32_t frame)
{
    return LOWER(dev)->ops->zero_frame(LOWER(dev), frame);
}
static int f_fence_record(struct vmm_device *dev, void *stream, struct vmm_fence *fence)
{
    return LOWER(dev)->ops->fence_record(LOWER(dev), stream, fence);
}
static bool f_fence_passed(struct vmm_device *dev, struct vmm_fence fence)
{
    return LOWER(dev)->ops->fence_passed(LOWER(dev), fence);
}
static void f_close(struct vmm_device *dev)
{
    LOWER(dev)->ops->close(LOWER(dev));
    free(dev);
}

static void f_copy(struct vmm_device *dev, struct vmm_copy *copy)
{
    LOWER(dev)->ops->copy(LOWER(dev), copy);
}
static int f_memory_register(struct vmm_device *dev, void *base, size_t bytes)
{
    if (due(&device_countdown))
        return vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "injected");
    return LOWER(dev)->ops->memory_register(LOWER(dev), base, bytes);
}
static void f_memory_unregister(struct vmm_device *dev, void *base)
{
    LOWER(dev)->ops->memory_unregister(LOWER(dev), base);
}

static struct vmm_device *wrap(struct vmm_device *lower, void *arg)
{
    static struct vmm_device_ops ops;
    bool copies = lower->ops->copy != NULL;
    ops = (struct vmm_device_ops){.reserve = f_reserve,
                                  .unreserve = f_unreserve,
                                  .frame_create = f_frame_create,
                                  .frame_release = f_frame_release,
                                  .map = f_map,
                                  .map_zeros = f_map_zeros,
                                  .unmap = f_unmap,
                                  .view_get = copies ? NULL : f_view_get,
                                  .view_put = copies ? NULL : f_view_put,
                                  .zero_frame = copies ? NULL : f_zero,
                                  .copy = copies ? f_copy : NULL,
                                  .memory_register = copies ? f_memory_register : NULL,
                                  .memory_unregister = copies ? f_memory_unregister : NULL,
                                  .fence_record = f_fence_record,
                                  .fence_passed = f_fence_passed,
                                  .close = f_close};
    struct faulty *dev = malloc(sizeof *dev);
    *dev = (struct faulty){*lower, lower};
    dev->base.ops = &ops;
    return &dev->base;
}

/* ---- allocations and threads ---- */

static _Atomic long alloc_countdown, thread_countdown;

void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void *__real_realloc(void *, size_t);
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
void *__wrap_malloc(size_t);
void *__wrap_calloc(size_t, size_t);
void *__wrap_realloc(void *, size_t);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

void *__wrap_malloc(size_t n)
{
    return injecting && due(&alloc_countdown) ? NULL : __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size)
{
    return injecting && due(&alloc_countdown) ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n)
{
    return injecting && due(&alloc_countdown) ? NULL : __real_realloc(p, n);
}
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*run)(void *), void *arg)
{
    return injecting && due(&thread_countdown) ? EAGAIN : __real_pthread_create(t, a, run, arg);
}

/* ---- the scenario ---- */

static int n_failures;
static bool readable_tail; /* of the scenario */

/* A call that may fail once because of the fault, and must then succeed. */
#define TWICE(call)                                                                                                    \
    do {                                                                                                               \
        int rc_ = (call);                                                                                              \
        if (rc_ != KVMM_OK) {                                                                                          \
            n_failures++;                                                                                              \
            ck_assert_int_lt(rc_, 0);                                                                                  \
            ck_assert_str_ne(kvmm_errmsg(), "");                                                                       \
            ck_assert_str_ne(kvmm_status_name(rc_), "unknown");                                                        \
            rc_ = (call);                                                                                              \
        }                                                                                                              \
        ck_assert_msg(rc_ == KVMM_OK, "%s: %s", #call, kvmm_errmsg());                                                 \
    } while (0)

static void scenario(const struct kvmm_config *cfg, const struct vmm_open_options *options)
{
    kvmm *mm = NULL;
    kvmm_seq *seqs[3] = {0};
    TWICE(LIB(vmm_open(cfg, options, &mm)));
    for (size_t i = 0; i < 3; i++)
        TWICE(LIB(kvmm_seq_create(mm, 200, &seqs[i])));
    for (uint32_t n = 20; n <= 80; n += 30) {
        for (size_t i = 0; i < 3; i++)
            TWICE(grow(mm, seqs[i], n, (uint8_t)(i * 60)));
    }
    TWICE(LIB(kvmm_seq_suspend(seqs[0])));
    TWICE(LIB(kvmm_seq_truncate(seqs[1], 33)));
    TWICE(LIB(kvmm_seq_resume(seqs[0])));
    for (size_t i = 0; i < 3; i++)
        TWICE(grow(mm, seqs[i], 90, (uint8_t)(i * 60)));
    TWICE(LIB(kvmm_seq_destroy(&seqs[2])));
    TWICE(LIB(kvmm_close(&mm)));
}

static int memfds(void)
{
    int n = 0;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        n += strstr(line, "memfd:kvmm") != NULL;
    fclose(maps);
    return n;
}

/* Runs the scenario with the countdown at 1, 2, … until a run has no failure: every call has failed once. */
static void sweep(_Atomic long *countdown, const struct vmm_open_options *options, int at_least)
{
    struct kvmm_config cfg = small_config(14, 6, "/tmp");
    cfg.swap_backend = "threads";
    cfg.n_threads = 1;
    cfg.readable_tail = readable_tail;
    settle_threads();
    int fds = entries_in("/proc/self/fd"), threads = entries_in("/proc/self/task"), maps = memfds();
    int swept = 0;
    for (long nth = 1;; nth++) {
        n_failures = 0;
        atomic_store(countdown, nth);
        scenario(&cfg, options);
        bool fired = atomic_load(countdown) <= 0;
        atomic_store(countdown, 0);
        ck_assert_int_eq(entries_in("/proc/self/fd"), fds);
        ck_assert_int_eq(entries_in("/proc/self/task"), threads);
        ck_assert_int_eq(memfds(), maps);
        if (!fired)
            break;
        swept++;
    }
    ck_assert_int_ge(swept, at_least);
}

START_TEST(every_device_call_fails_once)
{
    struct vmm_open_options options = {.wrap_device = wrap};
    sweep(&device_countdown, &options, 30);
}
END_TEST

START_TEST(every_device_call_fails_once_with_a_readable_tail)
{
    struct vmm_open_options options = {.wrap_device = wrap};
    readable_tail = true;
    sweep(&device_countdown, &options, 40);
    readable_tail = false;
}
END_TEST

START_TEST(every_allocation_fails_once)
{
    sweep(&alloc_countdown, NULL, 15);
}
END_TEST

START_TEST(every_thread_creation_fails_once)
{
    sweep(&thread_countdown, NULL, 2);
}
END_TEST

/* A device with less memory than the budget promised: what fits in what there is works. */
static int short_create(struct vmm_device *dev, uint32_t *frame)
{
    static uint32_t made;
    if (made == 9)
        return vmm_fail(KVMM_ERR_NO_DEVICE_MEMORY, "injected");
    made++;
    return LOWER(dev)->ops->frame_create(LOWER(dev), frame);
}

static struct vmm_device *wrap_short(struct vmm_device *lower, void *arg)
{
    static struct vmm_device_ops ops;
    struct vmm_device *dev = wrap(lower, NULL);
    ops = *dev->ops;
    ops.frame_create = short_create;
    dev->ops = &ops;
    return dev;
}

START_TEST(a_device_with_less_memory_than_promised)
{
    struct kvmm_config cfg = small_config(14, 6, "/tmp");
    struct vmm_open_options options = {.wrap_device = wrap_short};
    kvmm *mm = NULL;
    ck_assert_int_eq(vmm_open(&cfg, &options, &mm), KVMM_OK);
    kvmm_seq *a = make_seq(mm, 200), *b = make_seq(mm, 200);
    ck_assert_int_eq(grow(mm, a, 80, 1), KVMM_ERR_NO_DEVICE_MEMORY);
    ck_assert_ptr_nonnull(strstr(kvmm_errmsg(), "no memory for 1 more frames"));
    ck_assert_int_eq(grow(mm, a, 64, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 64, 2), KVMM_OK);
    ck_assert_int_eq(grow(mm, a, 64, 1), KVMM_OK);
    struct kvmm_stats stats;
    kvmm_get_stats(mm, &stats);
    ck_assert_uint_eq(stats.device_used, 9 * FRAME);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {every_device_call_fails_once,
                            every_device_call_fails_once_with_a_readable_tail,
                            every_allocation_fails_once,
                            every_thread_creation_fails_once,
                            a_device_with_less_memory_than_promised,
                            NULL};
    return run_suite("faults", tests);
}
