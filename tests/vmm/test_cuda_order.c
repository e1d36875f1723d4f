/* SPDX-License-Identifier: Apache-2.0
 *
 * Nothing moves under work that is queued: an engine's kernels run late, in streams of their own, and every byte is right
 * all the same. And the test can fail: with a device whose fences lie, the same scenario is caught. On the software driver,
 * whose streams can be held; what needs no hold runs on a GPU too. */
#include "fixture.h"

#include <stdio.h>
#include <unistd.h>

#include "tests/simcuda/simcuda.h"
#include "tests/support/scale.h"
#include "vmm/driver/driver.h"

#define PAGE      (2u * FRAME)
#define MOST      40 /* pages of a sequence */
#define N_SEQS    5
#define N_STREAMS 2

static const struct cuda_driver *cu;
static struct simcuda_control sim;
static bool simulated;

/* False: there is no driver, or no device. */
static bool find_driver(void)
{
    char reason[CUDA_DRIVER_REASON];
    if (cuda_driver_get(&cu, reason) != CUDA_DRIVER_OK) {
        printf("skipped: %s\n", reason);
        return false;
    }
    simulated = simcuda_find(&sim);
    if (simulated)
        sim.violations_clear();
    return true;
}

/* ---- a device whose fences have always passed ---- */

struct lying {
    struct vmm_device base;
    struct vmm_device *lower;
    struct vmm_device_ops ops;
    struct vmm_fence told[64]; /* still to be released */
    unsigned n_told;
};

#define LOWER(dev) (((struct lying *)(dev))->lower)

static int l_reserve(struct vmm_device *dev, size_t bytes, void **base)
{
    return LOWER(dev)->ops->reserve(LOWER(dev), bytes, base);
}
static void l_unreserve(struct vmm_device *dev, void *base, size_t bytes)
{
    LOWER(dev)->ops->unreserve(LOWER(dev), base, bytes);
}
static int l_frame_create(struct vmm_device *dev, uint32_t *frame)
{
    return LOWER(dev)->ops->frame_create(LOWER(dev), frame);
}
static void l_frame_release(struct vmm_device *dev, uint32_t frame)
{
    LOWER(dev)->ops->frame_release(LOWER(dev), frame);
}
static int l_map(struct vmm_device *dev, void *base, const uint32_t *frames, size_t n)
{
    return LOWER(dev)->ops->map(LOWER(dev), base, frames, n);
}
static int l_unmap(struct vmm_device *dev, void *base, size_t n)
{
    return LOWER(dev)->ops->unmap(LOWER(dev), base, n);
}
static void l_copy(struct vmm_device *dev, struct vmm_copy *copy)
{
    LOWER(dev)->ops->copy(LOWER(dev), copy);
}
static int l_memory_register(struct vmm_device *dev, void *base, size_t bytes)
{
    return LOWER(dev)->ops->memory_register(LOWER(dev), base, bytes);
}
static void l_memory_unregister(struct vmm_device *dev, void *base)
{
    LOWER(dev)->ops->memory_unregister(LOWER(dev), base);
}
static int l_fence_record(struct vmm_device *dev, void *stream, struct vmm_fence *fence)
{
    return LOWER(dev)->ops->fence_record(LOWER(dev), stream, fence);
}
static bool l_fence_passed(struct vmm_device *dev, struct vmm_fence fence)
{
    struct lying *lying = (struct lying *)dev;
    ck_assert_uint_lt(lying->n_told, 64);
    lying->told[lying->n_told++] = fence;
    return true;
}
static void l_close(struct vmm_device *dev)
{
    struct lying *lying = (struct lying *)dev;
    while (lying->n_told > 0) {
        while (!lying->lower->ops->fence_passed(lying->lower, lying->told[lying->n_told - 1]))
            ;
        lying->n_told--;
    }
    lying->lower->ops->close(lying->lower);
    free(lying);
}

static struct vmm_device *wrap_lying(struct vmm_device *lower, void *arg)
{
    struct lying *lying = calloc(1, sizeof *lying);
    lying->base = *lower;
    lying->lower = lower;
    lying->ops = (struct vmm_device_ops){.reserve = l_reserve,
                                         .unreserve = l_unreserve,
                                         .frame_create = l_frame_create,
                                         .frame_release = l_frame_release,
                                         .map = l_map,
                                         .unmap = l_unmap,
                                         .copy = l_copy,
                                         .memory_register = l_memory_register,
                                         .memory_unregister = l_memory_unregister,
                                         .fence_record = l_fence_record,
                                         .fence_passed = l_fence_passed,
                                         .close = l_close};
    lying->base.ops = &lying->ops;
    return &lying->base;
}

/* ---- sequences whose "kernels" are copies and fills on streams ---- */

struct world {
    kvmm *mm;
    CUcontext context;
    CUdevice device;
    CUstream streams[N_STREAMS];
    uint8_t *pinned; /* MOST pages */
    struct one {
        kvmm_seq *seq;
        uint8_t tag;
        uint32_t pages;
    } seqs[N_SEQS];
};

static void open_world(struct world *w, const struct vmm_open_options *options, uint32_t device_frames)
{
    *w = (struct world){0};
    struct kvmm_config cfg = small_config(device_frames, 12, "/tmp");
    if (!simulated) { /* a GPU's frames are larger: as tight a budget, in fewer */
        cfg.frame_bytes = 0;
        cfg.device_memory = 8 << 20;
        cfg.host_memory = 8 << 20;
    }
    ck_assert_msg(vmm_open(&cfg, options, &w->mm) == KVMM_OK, "%s", kvmm_errmsg());
    ck_assert(find_driver());
    ck_assert_int_eq(cu->DeviceGet(&w->device, 0), CUDA_SUCCESS);
    ck_assert_int_eq(cu->DevicePrimaryCtxRetain(&w->context, w->device), CUDA_SUCCESS);
    ck_assert_int_eq(cu->CtxSetCurrent(w->context), CUDA_SUCCESS);
    for (int i = 0; i < N_STREAMS; i++)
        ck_assert_int_eq(cu->StreamCreateWithPriority(&w->streams[i], CU_STREAM_NON_BLOCKING, 0), CUDA_SUCCESS);
    void *pinned;
    ck_assert_int_eq(cu->MemHostAlloc(&pinned, (size_t)MOST * PAGE, 0), CUDA_SUCCESS);
    w->pinned = pinned;
}

static void close_world(struct world *w)
{
    ck_assert_msg(kvmm_close(&w->mm) == KVMM_OK, "%s", kvmm_errmsg());
    for (int i = 0; i < N_STREAMS; i++)
        ck_assert_int_eq(cu->StreamDestroy(w->streams[i]), CUDA_SUCCESS);
    ck_assert_int_eq(cu->MemFreeHost(w->pinned), CUDA_SUCCESS);
    ck_assert_int_eq(cu->CtxSetCurrent(NULL), CUDA_SUCCESS);
    ck_assert_int_eq(cu->DevicePrimaryCtxRelease(w->device), CUDA_SUCCESS);
}

static uint8_t value_of(const struct one *one, uint32_t page)
{
    return (uint8_t)(one->tag * 37u + page * 11u + 1u);
}

static CUdeviceptr page_at(const struct one *one, uint32_t page)
{
    struct kvmm_layout l;
    kvmm_seq_layout(one->seq, &l);
    return (uintptr_t)l.base + (CUdeviceptr)page * l.page_stride;
}

/* A step that fills pages [old, pages) by work on the stream; nobody waits for it. */
static int fill(struct world *w, struct one *one, uint32_t pages, CUstream stream)
{
    struct kvmm_want want = {.seq = one->seq, .n_tokens = pages * 16};
    kvmm_step *step;
    int rc = kvmm_step_begin(w->mm, &want, 1, 0, &step);
    if (rc)
        return rc;
    for (uint32_t page = one->pages; page < pages; page++)
        ck_assert_int_eq(cu->MemsetD8Async(page_at(one, page), value_of(one, page), PAGE, stream), CUDA_SUCCESS);
    one->pages = pages;
    ck_assert_int_eq(kvmm_step_end(&step, stream), KVMM_OK);
    return KVMM_OK;
}

/* A step that reads all pages on the stream, and waits for it; how many bytes are wrong. */
static unsigned wrong_bytes(struct world *w, struct one *one, CUstream stream)
{
    struct kvmm_want want = {.seq = one->seq, .n_tokens = one->pages * 16};
    kvmm_step *step;
    ck_assert_msg(kvmm_step_begin(w->mm, &want, 1, 0, &step) == KVMM_OK, "%s", kvmm_errmsg());
    memset(w->pinned, 0, (size_t)one->pages * PAGE);
    if (one->pages)
        ck_assert_int_eq(cu->MemcpyDtoHAsync(w->pinned, page_at(one, 0), (size_t)one->pages * PAGE, stream),
                         CUDA_SUCCESS);
    ck_assert_int_eq(kvmm_step_end(&step, stream), KVMM_OK);
    ck_assert_int_eq(cu->StreamSynchronize(stream), CUDA_SUCCESS);
    unsigned wrong = 0;
    for (uint32_t page = 0; page < one->pages; page++) {
        for (uint32_t i = 0; i < PAGE; i++)
            wrong += w->pinned[(size_t)page * PAGE + i] != value_of(one, page);
    }
    return wrong;
}

/* A conversation is suspended while its kernel has not even begun; the kernel runs, and the conversation comes back. What
 * went wrong: violations, and bytes. */
static uint64_t suspend_under_a_late_kernel(const struct vmm_open_options *options)
{
    struct world w;
    open_world(&w, options, 16);
    struct one *one = &w.seqs[0];
    *one = (struct one){.seq = make_seq(w.mm, MOST * 16), .tag = 3};
    ck_assert_int_eq(fill(&w, one, 2, w.streams[0]), KVMM_OK);
    ck_assert_uint_eq(wrong_bytes(&w, one, w.streams[0]), 0);
    sim.hold(w.streams[0]);
    ck_assert_int_eq(fill(&w, one, 4, w.streams[0]), KVMM_OK);
    (void)kvmm_seq_suspend(one->seq); /* a wrong manager is told by the driver that work still uses what it unmaps */
    usleep(20000);                    /* … and moves frames meanwhile */
    sim.release(w.streams[0]);
    ck_assert_int_eq(cu->StreamSynchronize(w.streams[0]), CUDA_SUCCESS);
    uint64_t wrong = wrong_bytes(&w, one, w.streams[0]);
    wrong += sim.violations(NULL, 0);
    close_world(&w);
    return wrong;
}

START_TEST(frames_stay_until_a_late_kernel_has_run)
{
    ck_assert_uint_eq(suspend_under_a_late_kernel(NULL), 0);
}
END_TEST

START_TEST(a_device_whose_fences_lie_is_caught)
{
    struct vmm_open_options options = {.wrap_device = wrap_lying};
    ck_assert_uint_gt(suspend_under_a_late_kernel(&options), 0);
}
END_TEST

static uint32_t draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

START_TEST(every_byte_is_right_under_random_delays)
{
    struct world w;
    open_world(&w, NULL, 2 * 2 * MOST / 3);
    uint64_t random = 4711 + (uint64_t)_i;
    if (simulated)
        sim.set_delays(random, 300);
    for (int i = 0; i < N_SEQS; i++)
        w.seqs[i] = (struct one){.seq = make_seq(w.mm, MOST * 16), .tag = (uint8_t)i};
    for (unsigned round = 0; round < scaled(1500); round++) {
        struct one *one = &w.seqs[draw(&random) % N_SEQS];
        CUstream stream = w.streams[(one - w.seqs) % N_STREAMS]; /* a sequence's kernels are ordered by its stream */
        int rc;
        switch (draw(&random) % 8) {
        case 0:
            ck_assert_int_eq(kvmm_seq_suspend(one->seq), KVMM_OK);
            break;
        case 1:
            ck_assert_int_eq(kvmm_seq_resume(one->seq), KVMM_OK);
            break;
        case 2:
            ck_assert_msg(wrong_bytes(&w, one, stream) == 0, "round %u", round);
            break;
        case 3: { /* the tokens kept must have been written before: waits for its kernels */
            uint32_t pages = one->pages ? draw(&random) % one->pages : 0;
            ck_assert_int_eq(kvmm_seq_truncate(one->seq, pages * 16), KVMM_OK);
            one->pages = pages;
            break;
        }
        case 4: /* while its kernels may still run */
            if (draw(&random) % 4)
                break;
            ck_assert_int_eq(kvmm_seq_destroy(&one->seq), KVMM_OK);
            *one = (struct one){.seq = make_seq(w.mm, MOST * 16), .tag = (uint8_t)(one->tag + N_SEQS)};
            break;
        default:
            rc = one->pages < MOST / 2
                     ? fill(&w, one, one->pages + 1 + draw(&random) % 3, w.streams[(one - w.seqs) % N_STREAMS])
                     : KVMM_OK;
            ck_assert_msg(rc == KVMM_OK, "%s", kvmm_errmsg());
        }
    }
    for (int i = 0; i < N_SEQS; i++)
        ck_assert_uint_eq(wrong_bytes(&w, &w.seqs[i], w.streams[i % N_STREAMS]), 0);
    char text[256];
    ck_assert_msg(!simulated || sim.violations(text, sizeof text) == 0, "%s", text);
    close_world(&w);
}
END_TEST

int main(void)
{
    if (!on_cuda()) {
        printf("skipped: for a device with streams; KVMM_TEST_DEVICE names one\n");
        return 77;
    }
    if (!find_driver())
        return 77;
    Suite *suite = suite_create("cuda order");
    TCase *tcase = tcase_create("cuda order");
    if (simulated) {
        tcase_add_test(tcase, frames_stay_until_a_late_kernel_has_run);
        tcase_add_test(tcase, a_device_whose_fences_lie_is_caught);
    }
    tcase_add_loop_test(tcase, every_byte_is_right_under_random_delays, 0, 3);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK); /* the driver is loaded, and CUDA after a fork is undefined */
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
