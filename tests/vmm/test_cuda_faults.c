/* SPDX-License-Identifier: Apache-2.0
 *
 * Every call that kvmm makes of the CUDA driver fails once, by its number, in a fixed scenario, on the software driver: the
 * failure is a status with a line of text or is got over, no byte that is given out is wrong, and after close the driver
 * holds nothing that it did not hold before. And: a device that is lost. */
#include "fixture.h"

#include <stdio.h>
#include <unistd.h>

#include "tests/simcuda/simcuda.h"
#include "tests/support/scale.h"
#include "vmm/driver/driver.h"

#undef fail /* a macro of Check's for its first callers, and a function of simcuda's */

static struct simcuda_control sim;

static void find_driver(void)
{
    const struct cuda_driver *cu;
    char reason[CUDA_DRIVER_REASON];
    ck_assert_msg(cuda_driver_get(&cu, reason) == CUDA_DRIVER_OK, "%s", reason);
    ck_assert(simcuda_find(&sim));
    sim.set_delays(0, 0);
}

/* True if it did what it should; else it failed properly. */
static bool worked(int rc)
{
    if (rc == KVMM_OK)
        return true;
    ck_assert_int_lt(rc, 0);
    ck_assert_str_ne(kvmm_errmsg(), "");
    ck_assert_ptr_null(strchr(kvmm_errmsg(), '\n'));
    return false;
}

static uint8_t value_of(unsigned tag, uint32_t token)
{
    return (uint8_t)(tag * 71 + token * 7 + 1);
}

/* A step of one sequence to n_tokens: checks what is there, writes what is new. */
static bool step_to(kvmm *mm, kvmm_seq *seq, uint32_t n_tokens, unsigned tag)
{
    uint32_t old = kvmm_seq_length(seq);
    struct kvmm_want want = {.seq = seq, .n_tokens = n_tokens > old ? n_tokens : old};
    kvmm_step *step = NULL;
    if (!worked(kvmm_step_begin(mm, &want, 1, 0, &step)))
        return false;
    struct kvmm_layout l;
    kvmm_seq_layout(seq, &l);
    for (uint32_t t = 0; t < want.n_tokens; t++) {
        uint8_t *at = cpu_at((uint8_t *)kvmm_layout_at(&l, 2, 1) + t / 16 * l.page_stride + t % 16 * l.token_stride);
        if (t >= old)
            *at = value_of(tag, t);
        else
            ck_assert_msg(*at == value_of(tag, t), "token %u of sequence %u is wrong", t, tag);
    }
    return worked(kvmm_step_end(&step, NULL));
}

/* All that can go wrong may: it goes on with what there is. */
static void scenario(const struct kvmm_config *cfg)
{
    kvmm *mm = NULL;
    kvmm_seq *seqs[3] = {0};
    if (!worked(kvmm_open(cfg, &mm))) {
        ck_assert_ptr_null(mm);
        return;
    }
    for (unsigned i = 0; i < 3; i++)
        (void)worked(kvmm_seq_create(mm, 200, &seqs[i]));
    for (uint32_t n = 20; n <= 80; n += 30) {
        for (unsigned i = 0; i < 3; i++) {
            if (seqs[i])
                (void)step_to(mm, seqs[i], n, i);
        }
    }
    if (seqs[0]) {
        (void)worked(kvmm_seq_suspend(seqs[0]));
        usleep(1000);
        (void)worked(kvmm_seq_resume(seqs[0]));
    }
    if (seqs[1])
        (void)worked(kvmm_seq_truncate(seqs[1], kvmm_seq_length(seqs[1]) / 2));
    for (unsigned i = 0; i < 3; i++) {
        if (seqs[i])
            (void)step_to(mm, seqs[i], 90, i);
    }
    if (seqs[2])
        (void)worked(kvmm_seq_destroy(&seqs[2]));
    int rc = kvmm_close(&mm);
    if (rc)
        rc = kvmm_close(&mm);
    ck_assert_msg(rc == KVMM_OK, "%s", kvmm_errmsg());
}

static struct kvmm_config fault_config(void)
{
    struct kvmm_config cfg = small_config(14, 6, "/tmp");
    cfg.swap_backend = "threads";
    cfg.n_threads = 1;
    cfg.readable_tail = cfg.map_ahead_tokens == 0; /* its calls too */
    return cfg;
}

/* The fd table is whole and nothing is held; `what` was injected. */
static void check_rest(const struct simcuda_usage *before, int fds, const char *what, uint64_t nth)
{
    struct simcuda_usage after;
    sim.get_usage(&after);
    ck_assert_msg(
        memcmp(before, &after, sizeof after) == 0,
        "%s call %lu: contexts %lu handles %lu mappings %lu reservations %lu streams %lu events %lu pinned %lu", what,
        (unsigned long)nth, (unsigned long)after.contexts, (unsigned long)after.handles, (unsigned long)after.mappings,
        (unsigned long)after.reservations, (unsigned long)after.streams, (unsigned long)after.events,
        (unsigned long)after.registrations);
    ck_assert_int_eq(entries_in("/proc/self/fd"), fds);
    char text[256];
    ck_assert_msg(sim.violations(text, sizeof text) == 0, "%s call %lu: %s", what, (unsigned long)nth, text);
}

/* Those that kvmm's memory manager calls; the others are the engine's and the kernels'. */
static const char *const CALLS[] = {"cuDeviceGetCount",
                                    "cuDeviceGet",
                                    "cuDeviceGetAttribute",
                                    "cuDevicePrimaryCtxRetain",
                                    "cuDevicePrimaryCtxRelease",
                                    "cuCtxPushCurrent",
                                    "cuCtxPopCurrent",
                                    "cuCtxSetCurrent",
                                    "cuMemGetInfo",
                                    "cuMemHostRegister",
                                    "cuMemHostUnregister",
                                    "cuMemGetAllocationGranularity",
                                    "cuMemAddressReserve",
                                    "cuMemAddressFree",
                                    "cuMemCreate",
                                    "cuMemRelease",
                                    "cuMemMap",
                                    "cuMemUnmap",
                                    "cuMemSetAccess",
                                    "cuMemcpyHtoDAsync",
                                    "cuMemcpyDtoHAsync",
                                    "cuMemsetD8Async",
                                    "cuStreamCreateWithPriority",
                                    "cuStreamDestroy",
                                    "cuEventCreate",
                                    "cuEventDestroy",
                                    "cuEventRecord",
                                    "cuEventQuery",
                                    "cuEventSynchronize"};
enum { N_CALLS = sizeof CALLS / sizeof *CALLS };

/* The nth call from now on, for n = 1, 2, … until the scenario has fewer. */
START_TEST(every_driver_call_fails_once)
{
    static const CUresult results[] = {CUDA_ERROR_UNKNOWN, CUDA_ERROR_OUT_OF_MEMORY};
    const char *name = CALLS[_i];
    find_driver();
    settle_threads();
    struct kvmm_config cfg = fault_config();
    struct simcuda_usage before;
    sim.get_usage(&before);
    int fds = entries_in("/proc/self/fd");
    uint64_t start = sim.calls(name);
    scenario(&cfg);
    uint64_t total = sim.calls(name) - start;
    ck_assert_msg(total > 0, "%s is never called", name);
    uint64_t most = (uint64_t)scaled(40);
    uint64_t stride = total > most ? total / most : 1; /* calls that are made all the time are sampled */
    for (uint64_t nth = 1; nth <= total; nth += stride) {
        ck_assert_int_eq(sim.fail(name, nth, results[nth / stride % 2]), CUDA_SUCCESS);
        scenario(&cfg);
        sim.fail_clear();
        check_rest(&before, fds, name, nth);
    }
}
END_TEST

/* What is on host and NVMe keeps its place, every call says which device and why, and closing gives back what is kvmm's. */
START_TEST(a_lost_device_is_an_error_and_no_end)
{
    find_driver();
    struct kvmm_config cfg = fault_config();
    kvmm *mm = NULL;
    ck_assert_int_eq(kvmm_open(&cfg, &mm), KVMM_OK);
    kvmm_seq *a = make_seq(mm, 200), *b = make_seq(mm, 200), *c = NULL;
    ck_assert(step_to(mm, a, 48, 0) && step_to(mm, b, 48, 1));
    ck_assert_int_eq(kvmm_seq_suspend(a), KVMM_OK);
    for (int i = 0; i < 2000 && info_of(a).n_device > 0; i++)
        usleep(500);
    ck_assert_uint_eq(info_of(a).n_device, 0);
    sim.lose_device(CUDA_ERROR_ILLEGAL_ADDRESS);
    struct kvmm_want want = {.seq = a, .n_tokens = 49};
    kvmm_step *step = NULL;
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &step), KVMM_ERR_DEVICE);
    ck_assert_msg(strstr(kvmm_errmsg(), "CUDA_ERROR_ILLEGAL_ADDRESS") != NULL, "%s", kvmm_errmsg());
    struct kvmm_seq_info info = info_of(a);
    ck_assert_uint_eq(info.n_host + info.n_nvme, 6);
    ck_assert_uint_eq(info.valid_tokens, 48);
    ck_assert_int_lt(kvmm_seq_create(mm, 200, &c), 0);
    ck_assert_ptr_null(c);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
    sim.lose_device(CUDA_SUCCESS);
}
END_TEST

int main(void)
{
    if (!on_cuda()) {
        printf("skipped: for the software driver; KVMM_LIBCUDA and KVMM_TEST_DEVICE=cuda choose it\n");
        return 77;
    }
    Suite *suite = suite_create("cuda faults");
    TCase *tcase = tcase_create("cuda faults");
    tcase_set_timeout(tcase, 600);
    tcase_add_loop_test(tcase, every_driver_call_fails_once, 0, N_CALLS);
    tcase_add_test(tcase, a_lost_device_is_an_error_and_no_end);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
