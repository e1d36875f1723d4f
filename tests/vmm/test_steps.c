/* SPDX-License-Identifier: Apache-2.0
 *
 * What the calls of kvmm.h promise: results, statuses, and that nothing changes when they fail. */
#include "fixture.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

START_TEST(a_sequence_grows_and_keeps_its_bytes)
{
    kvmm *mm = open_small(64, 0, NULL);
    kvmm_seq *seq = make_seq(mm, 300);
    for (uint32_t n = 1; n <= 300; n += 13)
        ck_assert_int_eq(grow(mm, seq, n, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, seq, 300, 1), KVMM_OK);
    ck_assert_uint_eq(info_of(seq).n_frames, 38);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(conversations_in_turn_share_a_budget_of_one)
{
    kvmm *mm = open_small(20, 10, "/tmp");
    kvmm_seq *seqs[5];
    for (size_t i = 0; i < 5; i++)
        seqs[i] = make_seq(mm, 160);
    for (uint32_t round = 1; round <= 10; round++) {
        for (size_t i = 0; i < 5; i++)
            ck_assert_msg(grow(mm, seqs[i], round * 16, (uint8_t)(i * 50)) == KVMM_OK, "%s", kvmm_errmsg());
    }
    struct kvmm_stats stats;
    kvmm_get_stats(mm, &stats);
    ck_assert_uint_le(stats.device_used, 20 * FRAME);
    ck_assert_uint_gt(stats.frames_from_nvme, 0);
    ck_assert_uint_gt(stats.frames_from_host, 0);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(too_small_a_budget_says_how_much_is_needed)
{
    kvmm *mm = open_small(19, 0, "/tmp");
    kvmm_seq *seq = make_seq(mm, 320);
    ck_assert_int_eq(grow(mm, seq, 144, 0), KVMM_OK);
    ck_assert_int_eq(grow(mm, seq, 160, 0), KVMM_ERR_NO_DEVICE_MEMORY);
    ck_assert_ptr_nonnull(strstr(kvmm_errmsg(), "needs 1.25 MiB"));
    ck_assert_ptr_nonnull(strstr(kvmm_errmsg(), "budget of 1.19 MiB"));
    ck_assert_uint_eq(kvmm_seq_length(seq), 144);
    ck_assert_uint_eq(info_of(seq).n_frames, 18);
    ck_assert_int_eq(grow(mm, seq, 144, 0), KVMM_OK);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(no_tier_below_is_no_spill_space)
{
    kvmm *mm = open_small(4, 0, NULL);
    kvmm_seq *a = make_seq(mm, 100), *b = make_seq(mm, 100);
    ck_assert_int_eq(grow(mm, a, 32, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 16, 2), KVMM_ERR_NO_SPILL_SPACE);
    ck_assert_int_eq(kvmm_seq_suspend(a), KVMM_ERR_NO_SPILL_SPACE);
    ck_assert_int_eq(grow(mm, a, 32, 1), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_truncate(a, 16), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 16, 2), KVMM_OK);
    ck_assert_int_eq(grow(mm, a, 16, 1), KVMM_OK);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(partial_steps_take_what_fits)
{
    kvmm *mm = open_small(8, 0, "/tmp");
    kvmm_seq *seqs[3] = {make_seq(mm, 100), make_seq(mm, 100), make_seq(mm, 10)};
    struct kvmm_want wants[] = {{seqs[0], 48, 9}, {seqs[1], 32, 9}, {seqs[2], 10, 9}};
    kvmm_step *step = NULL;
    ck_assert_int_eq(kvmm_step_begin(mm, wants, 3, 0, &step), KVMM_ERR_NO_DEVICE_MEMORY);
    ck_assert_int_eq(wants[0].status, KVMM_OK);
    ck_assert_int_eq(wants[1].status, KVMM_ERR_NO_DEVICE_MEMORY);
    ck_assert_int_eq(wants[2].status, KVMM_ERR_NO_DEVICE_MEMORY);
    ck_assert_ptr_null(step);
    ck_assert_int_eq(kvmm_step_begin(mm, wants, 3, KVMM_STEP_PARTIAL, &step), KVMM_OK);
    ck_assert_int_eq(wants[0].status, KVMM_OK);
    ck_assert_int_eq(wants[1].status, KVMM_ERR_NO_DEVICE_MEMORY);
    ck_assert_int_eq(wants[2].status, KVMM_OK);
    ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
    ck_assert_uint_eq(kvmm_seq_length(seqs[0]), 48);
    ck_assert_uint_eq(kvmm_seq_length(seqs[1]), 0);
    ck_assert_uint_eq(kvmm_seq_length(seqs[2]), 10);
    struct kvmm_want only = {seqs[1], 96, 0};
    ck_assert_int_eq(kvmm_step_begin(mm, &only, 1, KVMM_STEP_PARTIAL, &step), KVMM_ERR_NO_DEVICE_MEMORY);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(wrong_calls_are_refused_and_change_nothing)
{
    kvmm *mm = open_small(32, 0, "/tmp"), *other = open_small(4, 0, NULL);
    kvmm_seq *a = make_seq(mm, 64), *b = make_seq(mm, 64), *foreign = make_seq(other, 64), *none = NULL;
    kvmm_step *step = NULL, *second = NULL;
    struct kvmm_want twice[] = {{a, 16, 0}, {a, 16, 0}};
    ck_assert_int_eq(kvmm_step_begin(mm, twice, 2, 0, &step), KVMM_ERR_INVALID);
    struct kvmm_want want = {foreign, 16, 0};
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &step), KVMM_ERR_INVALID);
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 0, 0, &step), KVMM_ERR_INVALID);
    want = (struct kvmm_want){a, 65, 0};
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &step), KVMM_ERR_RANGE_FULL);
    want.n_tokens = 20;
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 4, &step), KVMM_ERR_INVALID);
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &step), KVMM_OK);
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &second), KVMM_ERR_STATE);
    ck_assert_int_eq(kvmm_seq_truncate(a, 0), KVMM_ERR_STATE);
    ck_assert_int_eq(kvmm_seq_suspend(a), KVMM_ERR_STATE);
    ck_assert_int_eq(kvmm_seq_destroy(&a), KVMM_ERR_STATE);
    ck_assert_ptr_nonnull(a);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_ERR_STATE);
    ck_assert_ptr_nonnull(mm);
    ck_assert_int_eq(grow(mm, b, 64, 3), KVMM_OK); /* another step beside it */
    /* No stream of the host device's; on a GPU it is one. */
    ck_assert_int_eq(kvmm_step_end(&step, (void *)1), on_cuda() ? KVMM_OK : KVMM_ERR_INVALID);
    ck_assert_ptr_null(step);
    ck_assert_uint_eq(kvmm_seq_length(a), 20);
    want.n_tokens = 19;
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &step), KVMM_ERR_INVALID);
    ck_assert_int_eq(kvmm_seq_truncate(a, 21), KVMM_ERR_INVALID);
    ck_assert_int_eq(kvmm_seq_unpin(a), KVMM_ERR_STATE);
    ck_assert_int_eq(kvmm_seq_pin(a), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_suspend(a), KVMM_ERR_STATE);
    ck_assert_int_eq(kvmm_seq_unpin(a), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_create(mm, 0, &none), KVMM_ERR_INVALID);
    ck_assert_int_eq(kvmm_seq_create(mm, UINT32_MAX, &none), KVMM_ERR_INVALID);
    ck_assert_ptr_null(none);
    ck_assert_int_eq(kvmm_seq_destroy(&none), KVMM_OK);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
    ck_assert_int_eq(kvmm_close(&other), KVMM_OK);
}
END_TEST

START_TEST(bad_configurations_name_the_field)
{
    settle_threads();
    struct bad {
        const char *word;
        int status;
        struct kvmm_config cfg;
    } bad[24];
    size_t n = 0;
#define BAD(word_, status_, ...)                                                                                       \
    do {                                                                                                               \
        struct kvmm_config cfg = small_config(8, 0, NULL);                                                             \
        __VA_ARGS__;                                                                                                   \
        bad[n++] = (struct bad){word_, status_, cfg};                                                                  \
    } while (0)
    BAD("kvmm_config_init", KVMM_ERR_INVALID, cfg.struct_size = 8);
    BAD("n_layers", KVMM_ERR_INVALID, cfg.geometry.n_layers = 0);
    BAD("head_dim", KVMM_ERR_INVALID, cfg.geometry.head_dim = 5000);
    BAD("dtype", KVMM_ERR_INVALID, cfg.geometry.dtype = (enum kvmm_dtype)9);
    BAD("layout", KVMM_ERR_INVALID, cfg.geometry.layout = (enum kvmm_layout_kind)9);
    BAD("\"tpu\"", KVMM_ERR_INVALID, cfg.device = "tpu");
    BAD("\"cuda:\"", KVMM_ERR_INVALID, cfg.device = "cuda:");
    BAD("\"cuda:1x\"", KVMM_ERR_INVALID, cfg.device = "cuda:1x");
    BAD("(null)", KVMM_ERR_INVALID, cfg.device = NULL);
    BAD("frame_bytes", KVMM_ERR_INVALID, cfg.frame_bytes = 100000);
    BAD("smaller than one frame", KVMM_ERR_INVALID, cfg.device_memory = 1000);
    BAD("utilization", KVMM_ERR_INVALID, (cfg.device_memory = 0, cfg.device_memory_utilization = 1.5));
    BAD("watermarks", KVMM_ERR_INVALID, cfg.host_low_percent = 95);
    BAD("n_threads", KVMM_ERR_INVALID, cfg.n_threads = 0);
    BAD("\"fifo\"", KVMM_ERR_INVALID, cfg.policy = "fifo");
    BAD("\"aio\"", KVMM_ERR_INVALID, cfg.swap_backend = "aio");
    BAD("/no/such/dir", KVMM_ERR_SWAP, cfg.swap_dir = "/no/such/dir");
    BAD("/etc/hostname", KVMM_ERR_SWAP, cfg.swap_dir = "/etc/hostname");
    int fds = entries_in("/proc/self/fd"), threads = entries_in("/proc/self/task");
    for (size_t i = 0; i < n; i++) {
        kvmm *mm = NULL;
        ck_assert_msg(kvmm_open(&bad[i].cfg, &mm) == bad[i].status, "%s: %s", bad[i].word, kvmm_errmsg());
        ck_assert_ptr_null(mm);
        ck_assert_msg(strstr(kvmm_errmsg(), bad[i].word) != NULL, "%s not in: %s", bad[i].word, kvmm_errmsg());
    }
    ck_assert_int_eq(entries_in("/proc/self/fd"), fds);
    ck_assert_int_eq(entries_in("/proc/self/task"), threads);
}
END_TEST

/* Waits until the background is done with what suspend or resume began. */
static void settle(kvmm_seq *seq)
{
    for (int i = 0; i < 20000; i++) {
        pthread_mutex_lock(&seq->mm->lock);
        bool busy = vmm_seq_moving(seq) || seq->suspending || seq->resuming;
        pthread_mutex_unlock(&seq->mm->lock);
        if (!busy)
            return;
        usleep(500);
    }
    ck_abort_msg("the background never finished");
}

START_TEST(suspend_empties_the_device_and_resume_fills_it)
{
    kvmm *mm = open_small(64, 8, "/tmp");
    kvmm_seq *a = make_seq(mm, 400), *b = make_seq(mm, 400);
    ck_assert_int_eq(grow(mm, a, 200, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 200, 2), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_suspend(a), KVMM_OK);
    settle(a);
    ck_assert_uint_eq(info_of(a).n_device, 0);
    ck_assert_uint_eq(info_of(a).n_host + info_of(a).n_nvme, 26);
    ck_assert_uint_eq(info_of(b).n_device, 26);
    ck_assert_int_eq(kvmm_seq_resume(a), KVMM_OK);
    settle(a);
    ck_assert_uint_eq(info_of(a).n_device, 26);
    struct kvmm_stats before, after;
    kvmm_get_stats(mm, &before);
    ck_assert_int_eq(grow(mm, a, 200, 1), KVMM_OK);
    kvmm_get_stats(mm, &after);
    ck_assert_uint_eq(after.frames_from_nvme + after.frames_from_host,
                      before.frames_from_nvme + before.frames_from_host);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(pinned_sequences_stay)
{
    kvmm *mm = open_small(16, 0, "/tmp");
    kvmm_seq *a = make_seq(mm, 400), *b = make_seq(mm, 400);
    ck_assert_int_eq(grow(mm, a, 64, 1), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_pin(a), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 64, 2), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 65, 2), KVMM_ERR_NO_DEVICE_MEMORY);
    ck_assert_uint_eq(info_of(a).n_device, 8);
    ck_assert_int_eq(kvmm_seq_unpin(a), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 65, 2), KVMM_OK);
    ck_assert_uint_lt(info_of(a).n_device, 8);
    ck_assert_int_eq(grow(mm, a, 64, 1), KVMM_OK);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(an_unchanged_conversation_leaves_without_a_write)
{
    kvmm *mm = open_small(16, 0, "/tmp");
    kvmm_seq *a = make_seq(mm, 128), *b = make_seq(mm, 128);
    ck_assert_int_eq(grow(mm, a, 128, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 128, 2), KVMM_OK);
    ck_assert_int_eq(grow(mm, a, 128, 1), KVMM_OK);
    struct kvmm_stats before, after;
    kvmm_get_stats(mm, &before);
    for (int round = 0; round < 3; round++) {
        ck_assert_int_eq(grow(mm, b, 128, 2), KVMM_OK);
        ck_assert_int_eq(grow(mm, a, 128, 1), KVMM_OK);
    }
    kvmm_get_stats(mm, &after);
    ck_assert_uint_eq(after.bytes_to_nvme, before.bytes_to_nvme);
    ck_assert_uint_eq(after.bytes_from_nvme - before.bytes_from_nvme, 6 * 16 * FRAME);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

static sigjmp_buf landing;

static void on_fault(int signal)
{
    siglongjmp(landing, 1);
}

static bool readable(volatile const char *at)
{
    if (sigsetjmp(landing, 1))
        return false;
    (void)*at;
    return true;
}

START_TEST(addresses_behind_the_tail_and_of_spilled_frames_fault)
{
    struct sigaction action = {.sa_handler = on_fault}, old;
    sigaction(SIGSEGV, &action, &old);
    struct kvmm_config cfg = small_config(64, 0, "/tmp");
    cfg.map_ahead_tokens = 0; /* else what lies behind the tail may be the next frame already */
    kvmm *mm = NULL;
    ck_assert_int_eq(kvmm_open(&cfg, &mm), KVMM_OK);
    kvmm_seq *a = make_seq(mm, 400);
    struct kvmm_layout l;
    kvmm_seq_layout(a, &l);
    ck_assert(!readable(cpu_at(l.base)));
    ck_assert_int_eq(grow(mm, a, 16, 1), KVMM_OK);
    ck_assert(readable((char *)cpu_at(l.base) + 2 * FRAME - 1));
    ck_assert(!readable((char *)cpu_at(l.base) + 2 * FRAME));
    ck_assert_int_eq(kvmm_seq_suspend(a), KVMM_OK);
    settle(a);
    ck_assert(!readable(cpu_at(l.base)));
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
    sigaction(SIGSEGV, &old, NULL);
}
END_TEST

static sigjmp_buf write_landing;

static void on_write_fault(int signal)
{
    siglongjmp(write_landing, 1);
}

static bool writable(volatile char *at)
{
    struct sigaction action = {.sa_handler = on_write_fault}, old;
    sigaction(SIGSEGV, &action, &old);
    bool can = sigsetjmp(write_landing, 1) == 0;
    if (can)
        *at = 1;
    sigaction(SIGSEGV, &old, NULL);
    return can;
}

/* In every group, wherever the sequence ends, and gone when it is gone. */
static void check_readable_tail(enum kvmm_layout_kind layout)
{
    struct sigaction action = {.sa_handler = on_fault}, old;
    sigaction(SIGSEGV, &action, &old);
    struct kvmm_config cfg = small_config(16, 8, "/tmp");
    cfg.readable_tail = true;
    cfg.geometry.layout = layout;
    cfg.geometry.layers_per_group = 2;
    kvmm *mm = NULL;
    ck_assert_msg(kvmm_open(&cfg, &mm) == KVMM_OK, "%s", kvmm_errmsg());
    kvmm_seq *a = make_seq(mm, 64), *b = make_seq(mm, 128);
    struct kvmm_layout l;
    kvmm_seq_layout(a, &l);
    static const uint32_t lengths[] = {16, 30, 48, 33, 17, 64};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        if (lengths[i] < kvmm_seq_length(a))
            ck_assert_int_eq(kvmm_seq_truncate(a, lengths[i]), KVMM_OK);
        ck_assert_msg(grow(mm, a, lengths[i], 1) == KVMM_OK, "%s", kvmm_errmsg());
        size_t end = (size_t)a->live * FRAME;
        for (uint32_t g = 0; g < l.n_groups && a->live < a->group_frames; g++) {
            char *tail = cpu_at((char *)l.base + g * l.group_stride + end);
            for (size_t at = 0; at < FRAME; at += 512)
                ck_assert(readable(tail + at) && tail[at] == 0);
            ck_assert(!writable(tail) && !writable(tail + FRAME - 1));
            if (a->live + 1 < a->group_frames)
                ck_assert(!readable(cpu_at((char *)l.base + g * l.group_stride + end + FRAME)));
        }
        ck_assert_int_eq(grow(mm, b, 16 * ((uint32_t)i + 1), 2), KVMM_OK); /* takes frames from a */
        ck_assert_int_eq(grow(mm, a, lengths[i], 1), KVMM_OK);
    }
    ck_assert_int_eq(kvmm_seq_destroy(&a), KVMM_OK);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
    sigaction(SIGSEGV, &old, NULL);
}

START_TEST(a_readable_tail_is_zeros_that_nobody_can_write)
{
    check_readable_tail(KVMM_PAGE_MAJOR);
}
END_TEST

START_TEST(every_group_of_layers_has_a_readable_tail)
{
    check_readable_tail(KVMM_LAYER_MAJOR);
}
END_TEST

static uint64_t fake_now(void *user)
{
    return *(uint64_t *)user += 1000;
}

START_TEST(a_fake_clock_measures_the_waits)
{
    struct kvmm_config cfg = small_config(8, 0, "/tmp");
    kvmm *mm = NULL;
    static uint64_t now;
    cfg.now_ns = fake_now;
    cfg.user = &now;
    ck_assert_int_eq(kvmm_open(&cfg, &mm), KVMM_OK);
    kvmm_seq *a = make_seq(mm, 64);
    ck_assert_int_eq(grow(mm, a, 64, 1), KVMM_OK);
    struct kvmm_stats stats;
    kvmm_get_stats(mm, &stats);
    ck_assert_uint_eq(stats.n_steps_waited, 1);
    ck_assert_uint_eq(stats.wait_ns, 1000);
    ck_assert_int_eq(grow(mm, a, 64, 1), KVMM_OK);
    kvmm_get_stats(mm, &stats);
    ck_assert_uint_eq(stats.n_steps, 2);
    ck_assert_uint_eq(stats.n_steps_waited, 1);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(names_of_statuses)
{
    ck_assert_str_eq(kvmm_status_name(KVMM_ERR_DATA_LOST), "KVMM_ERR_DATA_LOST");
    ck_assert_str_eq(kvmm_status_name(-999), "unknown");
}
END_TEST

int main(void)
{
    const TTest *tests[] = {a_sequence_grows_and_keeps_its_bytes,
                            conversations_in_turn_share_a_budget_of_one,
                            too_small_a_budget_says_how_much_is_needed,
                            no_tier_below_is_no_spill_space,
                            partial_steps_take_what_fits,
                            wrong_calls_are_refused_and_change_nothing,
                            bad_configurations_name_the_field,
                            suspend_empties_the_device_and_resume_fills_it,
                            pinned_sequences_stay,
                            an_unchanged_conversation_leaves_without_a_write,
                            addresses_behind_the_tail_and_of_spilled_frames_fault,
                            a_readable_tail_is_zeros_that_nobody_can_write,
                            every_group_of_layers_has_a_readable_tail,
                            a_fake_clock_measures_the_waits,
                            names_of_statuses,
                            NULL};
    return run_suite("steps", tests);
}
