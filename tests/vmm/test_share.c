/* SPDX-License-Identifier: Apache-2.0
 *
 * Forks: what is shared is there once, whoever writes gets frames of its own, and nobody sees what the other wrote. */
#include <errno.h>
#include <fcntl.h>

#include "fixture.h"

static uint64_t device_frames(kvmm *mm)
{
    struct kvmm_stats stats;
    kvmm_get_stats(mm, &stats);
    return stats.device_used / FRAME;
}

static uint64_t copied(kvmm *mm)
{
    struct kvmm_stats stats;
    kvmm_get_stats(mm, &stats);
    return stats.frames_copied;
}

static kvmm_seq *fork_of(kvmm_seq *seq, uint32_t max_tokens)
{
    kvmm_seq *child = NULL;
    ck_assert_msg(kvmm_seq_fork(seq, max_tokens, &child) == KVMM_OK, "%s", kvmm_errmsg());
    ck_assert_uint_eq(kvmm_seq_length(child), kvmm_seq_length(seq));
    return child;
}

/* Nothing moves and everything that was to leave has left. */
static void let_moves_end(kvmm *mm)
{
    pthread_mutex_lock(&mm->lock);
    while (mm->n_moving > 0)
        vmm_wait(mm);
    pthread_mutex_unlock(&mm->lock);
}

/* A page is two frames. */
START_TEST(a_fork_copies_nothing_before_a_write)
{
    kvmm *mm = open_small(64, 0, NULL);
    kvmm_seq *a = make_seq(mm, 400);
    ck_assert_int_eq(grow(mm, a, 100, 1), KVMM_OK);
    ck_assert_uint_eq(device_frames(mm), 14);
    kvmm_seq *b = fork_of(a, 0);
    ck_assert_uint_eq(info_of(b).n_frames, 14);
    ck_assert_uint_eq(info_of(b).n_device, 14);
    ck_assert_uint_eq(info_of(b).n_shared, 14);
    ck_assert_uint_eq(info_of(b).max_tokens, 400);
    ck_assert_int_eq(grow(mm, b, 100, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, a, 100, 1), KVMM_OK);
    ck_assert_uint_eq(device_frames(mm), 14);
    ck_assert_uint_eq(copied(mm), 0);

    ck_assert_int_eq(grow(mm, b, 101, 1), KVMM_OK); /* token 101 lies in the page of token 100 */
    ck_assert_uint_eq(copied(mm), 2);
    ck_assert_uint_eq(device_frames(mm), 16);
    ck_assert_uint_eq(info_of(a).n_shared, 12);
    ck_assert_int_eq(grow(mm, a, 101, 1), KVMM_OK); /* nobody else has the old ones any more */
    ck_assert_uint_eq(copied(mm), 2);
    ck_assert_uint_eq(device_frames(mm), 16);
    ck_assert_int_eq(grow(mm, b, 130, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, a, 120, 1), KVMM_OK);
    ck_assert_uint_eq(copied(mm), 2);

    ck_assert_int_eq(kvmm_seq_destroy(&a), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 131, 1), KVMM_OK);
    ck_assert_uint_eq(device_frames(mm), 18);
    ck_assert_int_eq(kvmm_seq_destroy(&b), KVMM_OK);
    let_fences_pass(mm);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

/* At a page's end the next token begins a frame, so nothing needs to be copied at all. */
START_TEST(a_fork_at_a_page_s_end_never_copies)
{
    kvmm *mm = open_small(64, 0, NULL);
    kvmm_seq *a = make_seq(mm, 200);
    ck_assert_int_eq(grow(mm, a, 64, 1), KVMM_OK);
    kvmm_seq *b = fork_of(a, 100);
    ck_assert_int_eq(grow(mm, b, 70, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, a, 90, 1), KVMM_OK);
    ck_assert_uint_eq(copied(mm), 0);
    ck_assert_uint_eq(info_of(a).n_shared, 8);
    ck_assert_uint_eq(info_of(b).max_tokens, 100);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(forks_use_the_memory_of_one_and_their_tails)
{
    enum { FORKS = 64 };
    kvmm *mm = open_small(400, 0, NULL);
    kvmm_seq *a = make_seq(mm, 400), *forks[FORKS];
    ck_assert_int_eq(grow(mm, a, 300, 1), KVMM_OK);
    for (size_t i = 0; i < FORKS; i++)
        forks[i] = fork_of(i % 2 ? forks[i - 1] : a, 0);
    ck_assert_uint_eq(device_frames(mm), 38);
    struct kvmm_want wants[FORKS];
    kvmm_step *step = NULL;
    for (size_t i = 0; i < FORKS; i++)
        wants[i] = (struct kvmm_want){.seq = forks[i], .n_tokens = 301};
    ck_assert_msg(kvmm_step_begin(mm, wants, FORKS, 0, &step) == KVMM_OK, "%s", kvmm_errmsg());
    ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
    ck_assert_uint_eq(device_frames(mm), 38 + FORKS * 2);
    let_fences_pass(mm);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

/* The budget holds what the two have in common once, and what they have not. */
START_TEST(a_step_counts_what_is_shared_once)
{
    kvmm *mm = open_small(14, 0, "/tmp");
    kvmm_seq *a = make_seq(mm, 200), *c = make_seq(mm, 200);
    ck_assert_int_eq(grow(mm, a, 80, 1), KVMM_OK); /* 10 frames */
    kvmm_seq *b = fork_of(a, 0);
    ck_assert_int_eq(grow(mm, c, 100, 9), KVMM_OK); /* 14 frames: the shared ones leave */
    ck_assert_uint_eq(info_of(a).n_device, 0);
    ck_assert_uint_eq(info_of(b).n_nvme, 10);
    struct kvmm_want wants[2] = {{.seq = a, .n_tokens = 96}, {.seq = b, .n_tokens = 96}};
    kvmm_step *step = NULL;
    ck_assert_msg(kvmm_step_begin(mm, wants, 2, 0, &step) == KVMM_OK, "%s", kvmm_errmsg());
    ck_assert_uint_eq(info_of(a).n_device, 12);
    ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
    let_fences_pass(mm);
    wants[0].n_tokens = wants[1].n_tokens = 97;
    ck_assert_int_eq(kvmm_step_begin(mm, wants, 2, 0, &step), KVMM_ERR_NO_DEVICE_MEMORY);
    ck_assert_msg(strstr(kvmm_errmsg(), "(18 frames of 64 KiB)") != NULL, "%s", kvmm_errmsg());
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

/* One's step holds what the other's suspend would send away; when both sleep, it goes. */
START_TEST(what_is_shared_leaves_when_all_sleep)
{
    kvmm *mm = open_small(32, 32, NULL);
    kvmm_seq *a = make_seq(mm, 200);
    ck_assert_int_eq(grow(mm, a, 80, 1), KVMM_OK);
    kvmm_seq *b = fork_of(a, 0);
    ck_assert_int_eq(grow(mm, b, 96, 1), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_suspend(b), KVMM_OK);
    let_moves_end(mm);
    ck_assert_uint_eq(info_of(b).n_host, 2);
    ck_assert_uint_eq(info_of(a).n_device, 10);
    ck_assert_int_eq(kvmm_seq_suspend(a), KVMM_OK);
    let_moves_end(mm);
    ck_assert_uint_eq(info_of(a).n_host, 10);
    ck_assert_uint_eq(info_of(b).n_host, 12);
    ck_assert_int_eq(kvmm_seq_resume(b), KVMM_OK);
    let_moves_end(mm);
    ck_assert_uint_eq(info_of(b).n_device, 12);
    ck_assert_uint_eq(info_of(a).n_device, 10);
    ck_assert_int_eq(grow(mm, a, 80, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 97, 1), KVMM_OK);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

/* Truncates cut what is shared in pieces, and each writes on from another place. */
START_TEST(truncates_of_what_is_shared)
{
    kvmm *mm = open_small(64, 0, "/tmp");
    kvmm_seq *a = make_seq(mm, 200);
    ck_assert_int_eq(grow(mm, a, 150, 1), KVMM_OK);
    kvmm_seq *b = fork_of(a, 0), *c = fork_of(b, 0);
    ck_assert_int_eq(kvmm_seq_truncate(b, 70), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_truncate(c, 20), KVMM_OK);
    ck_assert_uint_eq(info_of(b).n_frames, 10);
    ck_assert_uint_eq(info_of(c).n_frames, 4);
    ck_assert_int_eq(grow(mm, c, 180, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 170, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, a, 160, 1), KVMM_OK);
    kvmm_seq *d = fork_of(c, 0);
    ck_assert_int_eq(kvmm_seq_destroy(&c), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_truncate(a, 0), KVMM_OK);
    ck_assert_int_eq(grow(mm, a, 40, 77), KVMM_OK);
    ck_assert_int_eq(grow(mm, d, 190, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 190, 1), KVMM_OK);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

/* The keeper maps what it has ready at a step's end. */
static void step_until_mapped_ahead(kvmm *mm, kvmm_seq *seq)
{
    for (bool ahead = false; !ahead;) {
        struct kvmm_want want = {.seq = seq, .n_tokens = kvmm_seq_length(seq)};
        kvmm_step *step = NULL;
        ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &step), KVMM_OK);
        ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
        let_fences_pass(mm);
        usleep(500);
        pthread_mutex_lock(&mm->lock);
        ahead = seq->ahead > 0;
        pthread_mutex_unlock(&mm->lock);
    }
}

/* A page is three quarters of a frame: the truncate takes no frame away, but the next write begins in one that is shared. */
START_TEST(a_truncate_into_a_page_that_straddles_what_is_shared)
{
    struct kvmm_config cfg = small_config(32, 0, NULL);
    cfg.geometry.n_layers = 3;
    cfg.geometry.n_kv_heads = 2;
    cfg.map_ahead_tokens = 16;
    kvmm *mm = NULL;
    ck_assert_int_eq(kvmm_open(&cfg, &mm), KVMM_OK);
    kvmm_seq *a = make_seq(mm, 200);
    kvmm_step *step = NULL;
    struct kvmm_want want = {.seq = a, .n_tokens = 50};
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &step), KVMM_OK);
    ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
    let_fences_pass(mm);
    kvmm_seq *b = fork_of(a, 0);
    want = (struct kvmm_want){.seq = b, .n_tokens = 51};
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &step), KVMM_OK);
    ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
    let_fences_pass(mm);
    step_until_mapped_ahead(mm, b);
    ck_assert_int_eq(kvmm_seq_truncate(b, 40), KVMM_OK);
    ck_assert_uint_eq(info_of(b).n_frames, 3);
    want.n_tokens = 80;
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &step), KVMM_OK);
    ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
    let_fences_pass(mm);
    ck_assert_int_eq(kvmm_seq_destroy(&a), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_destroy(&b), KVMM_OK);
    for (int i = 0; i < 2000 && device_frames(mm) > 0; i++) /* the keeper takes them down */
        usleep(1000);
    ck_assert_uint_eq(device_frames(mm), 0);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

/* A step that can't be had leaves the fork as it was: nothing is copied for good, nothing lost. */
START_TEST(a_fork_whose_step_fails)
{
    kvmm *mm = open_small(10, 0, NULL);
    kvmm_seq *a = make_seq(mm, 200);
    ck_assert_int_eq(grow(mm, a, 72, 1), KVMM_OK); /* all ten frames */
    kvmm_seq *b = fork_of(a, 0);
    ck_assert_int_eq(grow(mm, b, 73, 1), KVMM_ERR_NO_DEVICE_MEMORY);
    ck_assert_uint_eq(info_of(b).n_shared, 10);
    ck_assert_int_eq(grow(mm, b, 72, 1), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_destroy(&a), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 80, 1), KVMM_OK); /* taken over: no room is needed */
    ck_assert_uint_eq(copied(mm), 0);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(bad_forks)
{
    kvmm *mm = open_small(32, 0, NULL);
    kvmm_seq *a = make_seq(mm, 200), *b = NULL;
    ck_assert_int_eq(grow(mm, a, 72, 1), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_fork(NULL, 0, &b), KVMM_ERR_INVALID);
    ck_assert_int_eq(kvmm_seq_fork(a, 0, NULL), KVMM_ERR_INVALID);
    ck_assert_int_eq(kvmm_seq_fork(a, 71, &b), KVMM_ERR_INVALID);
    ck_assert_msg(strstr(kvmm_errmsg(), "max_tokens is 71") != NULL, "%s", kvmm_errmsg());
    ck_assert_int_eq(kvmm_seq_fork(a, KVMM_MAX_TOKENS + 1, &b), KVMM_ERR_INVALID);
    struct kvmm_want want = {.seq = a, .n_tokens = 72};
    kvmm_step *step = NULL;
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &step), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_fork(a, 0, &b), KVMM_ERR_STATE);
    ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
    ck_assert_ptr_null(b);
    b = fork_of(a, 72); /* as long as it is */
    ck_assert_int_eq(grow(mm, b, 73, 1), KVMM_ERR_RANGE_FULL);
    kvmm_seq *empty = make_seq(mm, 10), *c = fork_of(empty, 0);
    ck_assert_int_eq(grow(mm, c, 10, 5), KVMM_OK);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

/* Asks the kernel, which answers without a signal. */
static bool is_writable(void *at)
{
    int zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(zeros, 0);
    bool writable = read(zeros, at, 1) == 1;
    ck_assert(writable || errno == EFAULT);
    close(zeros);
    return writable;
}

static bool may_write(kvmm *mm, kvmm_seq *seq, uint32_t token, uint32_t n_tokens)
{
    struct kvmm_want want = {.seq = seq, .n_tokens = n_tokens};
    kvmm_step *step = NULL;
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &step), KVMM_OK);
    struct kvmm_layout l;
    kvmm_seq_layout(seq, &l);
    bool writable = is_writable(cpu_at((char *)l.base + token / 16 * l.page_stride));
    ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
    let_fences_pass(mm);
    return writable;
}

START_TEST(what_is_shared_can_only_be_read)
{
    kvmm *mm = open_small(32, 0, NULL);
    kvmm_seq *a = make_seq(mm, 200);
    ck_assert_int_eq(grow(mm, a, 72, 1), KVMM_OK);
    ck_assert(may_write(mm, a, 0, 72));
    kvmm_seq *b = fork_of(a, 0);
    ck_assert(!may_write(mm, a, 0, 72));
    ck_assert(!may_write(mm, b, 0, 72));
    ck_assert(!may_write(mm, b, 71, 72));
    ck_assert(may_write(mm, b, 71, 73)); /* its own now */
    ck_assert(!may_write(mm, b, 0, 73));
    ck_assert(!may_write(mm, a, 71, 72));
    ck_assert(may_write(mm, a, 71, 73));
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        a_fork_copies_nothing_before_a_write,
        a_fork_at_a_page_s_end_never_copies,
        forks_use_the_memory_of_one_and_their_tails,
        a_step_counts_what_is_shared_once,
        what_is_shared_leaves_when_all_sleep,
        truncates_of_what_is_shared,
        a_truncate_into_a_page_that_straddles_what_is_shared,
        a_fork_whose_step_fails,
        what_is_shared_can_only_be_read,
        bad_forks,
        NULL,
    };
    return run_suite("sharing", tests);
}
