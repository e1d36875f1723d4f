/* SPDX-License-Identifier: Apache-2.0
 *
 * Situations that were wrong once: shortages at awkward moments, and calls that cross each other. */
#include "fixture.h"

#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/layout.h"

static void let_moves_end(kvmm *mm)
{
    for (int i = 0; i < 20000; i++) {
        pthread_mutex_lock(&mm->lock);
        bool moving = mm->n_moving > 0 || (mm->pending && mm->n_suspending + mm->n_resuming > 0);
        pthread_mutex_unlock(&mm->lock);
        if (!moving)
            return;
        usleep(500);
    }
    ck_abort_msg("moves never ended");
}

/* Keeps the manager's only crew thread busy, so that puts to and gets from host memory stay in flight. */
struct plug {
    struct swap_job job;
    sem_t in, out;
};

static void hold(struct swap_job *job)
{
    struct plug *plug = (struct plug *)(void *)job;
    sem_post(&plug->in);
    sem_wait(&plug->out);
}

static void plug_crew(kvmm *mm, struct plug *plug)
{
    sem_init(&plug->in, 0, 0);
    sem_init(&plug->out, 0, 0);
    plug->job.run = hold;
    swap_crew_give(mm->crew, &plug->job, true);
    sem_wait(&plug->in);
}

static kvmm *open_single(uint32_t device_frames, uint32_t host_frames, const char *swap_dir)
{
    struct kvmm_config cfg = small_config(device_frames, host_frames, swap_dir);
    cfg.n_threads = 1;
    kvmm *mm = NULL;
    ck_assert_msg(kvmm_open(&cfg, &mm) == KVMM_OK, "%s", kvmm_errmsg());
    return mm;
}

/* The only cold frames are clean ones of another sequence: they leave without a transfer, whose end would have woken the
 * background. */
START_TEST(a_resume_goes_on_when_room_is_made_at_once)
{
    kvmm *mm = open_small(4, 0, "/tmp");
    kvmm_seq *a = make_seq(mm, 16), *b = make_seq(mm, 32);
    ck_assert_int_eq(grow(mm, a, 16, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 32, 2), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_suspend(b), KVMM_OK);
    let_moves_end(mm);
    ck_assert_int_eq(grow(mm, b, 32, 2), KVMM_OK);
    ck_assert_uint_eq(b->n[VMM_CELL_CLEAN], 4);
    ck_assert_int_eq(kvmm_seq_resume(a), KVMM_OK);
    let_moves_end(mm);
    ck_assert_uint_eq(info_of(a).n_device, 2);
    ck_assert(!a->resuming);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

struct second_thread {
    kvmm *mm;
    kvmm_seq *seq;
    int rc;
};

static void *step_of_32(void *arg)
{
    struct second_thread *t = arg;
    struct kvmm_want want = {t->seq, 32, 0};
    kvmm_step *step = NULL;
    t->rc = kvmm_step_begin(t->mm, &want, 1, 0, &step);
    if (t->rc == KVMM_OK)
        kvmm_step_end(&step, NULL);
    return NULL;
}

static void *destroy(void *arg)
{
    struct second_thread *t = arg;
    t->rc = kvmm_seq_destroy(&t->seq);
    return NULL;
}

/* The frames that a step needs belong to a sequence that waits for a transfer to be destroyed. */
START_TEST(a_step_waits_for_a_destroy_under_way)
{
    for (int round = 0; round < 60; round++) {
        kvmm *mm = open_single(4, 8, NULL);
        kvmm_seq *a = make_seq(mm, 32), *b = make_seq(mm, 32);
        ck_assert_int_eq(grow(mm, a, 32, 1), KVMM_OK);
        int why;
        pthread_mutex_lock(&mm->lock);
        vmm_evict_from(a, 1, false, &why);
        pthread_mutex_unlock(&mm->lock);
        let_moves_end(mm);
        struct plug plug;
        plug_crew(mm, &plug);
        ck_assert_int_eq(kvmm_seq_resume(a), KVMM_OK);
        pthread_t threads[2];
        struct second_thread stepper = {mm, b, 1}, destroyer = {mm, a, 1};
        pthread_create(&threads[0], NULL, step_of_32, &stepper);
        usleep(1000);
        pthread_create(&threads[1], NULL, destroy, &destroyer);
        usleep(1000);
        sem_post(&plug.out);
        pthread_join(threads[0], NULL);
        pthread_join(threads[1], NULL);
        ck_assert_int_eq(destroyer.rc, KVMM_OK);
        ck_assert_msg(stepper.rc == KVMM_OK, "round %d: %s", round, kvmm_status_name(stepper.rc));
        ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
    }
}
END_TEST

START_TEST(a_partial_step_begins_with_what_is_resident)
{
    kvmm *mm = open_small(4, 0, NULL);
    kvmm_seq *a = make_seq(mm, 16), *b = make_seq(mm, 16), *c = make_seq(mm, 16);
    ck_assert_int_eq(grow(mm, a, 16, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, c, 16, 1), KVMM_OK);
    kvmm_step *step = NULL;
    struct kvmm_want wants[] = {{a, 16, 9}, {b, 16, 9}};
    ck_assert_int_eq(kvmm_step_begin(mm, wants, 2, KVMM_STEP_PARTIAL, &step), KVMM_OK);
    ck_assert_int_eq(wants[0].status, KVMM_OK);
    ck_assert_int_eq(wants[1].status, KVMM_ERR_NO_SPILL_SPACE);
    ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
    ck_assert_uint_eq(info_of(b).n_frames, 0);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(a_partial_step_fails_with_its_first_wants_reason)
{
    struct swap_faults faults = {.seed = 1};
    struct kvmm_config cfg = small_config(4, 0, "/tmp");
    struct vmm_open_options options = {.swap_faults = &faults};
    kvmm *mm = NULL;
    ck_assert_int_eq(vmm_open(&cfg, &options, &mm), KVMM_OK);
    kvmm_seq *a = make_seq(mm, 16), *b = make_seq(mm, 16);
    ck_assert_int_eq(grow(mm, b, 16, 2), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_suspend(b), KVMM_OK);
    let_moves_end(mm);
    faults.read_error_ppm = 1000000;
    swap_set_faults(mm->nvme, &faults);
    for (int round = 0; round < 2; round++) { /* b's data is lost in the first, and known to be in the second */
        kvmm_step *step = NULL;
        struct kvmm_want wants[] = {{a, 17, 9}, {b, 16, 9}};
        ck_assert_int_eq(kvmm_step_begin(mm, wants, 2, KVMM_STEP_PARTIAL, &step), KVMM_ERR_RANGE_FULL);
        ck_assert_int_eq(wants[0].status, KVMM_ERR_RANGE_FULL);
        ck_assert_int_eq(wants[1].status, KVMM_ERR_DATA_LOST);
        ck_assert_ptr_nonnull(strstr(kvmm_errmsg(), "reserved for 16"));
    }
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(copies_of_what_stays_on_the_device_make_way)
{
    kvmm *mm = open_single(4, 2, NULL);
    kvmm_seq *a = make_seq(mm, 16), *c = make_seq(mm, 16), *d = make_seq(mm, 16);
    ck_assert_int_eq(grow(mm, a, 16, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, c, 16, 2), KVMM_OK);
    struct plug plug;
    plug_crew(mm, &plug);
    ck_assert_int_eq(kvmm_seq_suspend(a), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_pin(a), KVMM_OK); /* while it is leaving */
    sem_post(&plug.out);
    let_moves_end(mm);
    ck_assert_uint_eq(a->n[VMM_CELL_CLEAN], 2);
    ck_assert_msg(grow(mm, d, 16, 3) == KVMM_OK, "%s", kvmm_errmsg());
    ck_assert_int_eq(grow(mm, a, 16, 1), KVMM_OK);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(frames_on_their_way_are_counted_where_they_come_from)
{
    kvmm *mm = open_single(8, 8, NULL);
    kvmm_seq *a = make_seq(mm, 16);
    ck_assert_int_eq(grow(mm, a, 16, 1), KVMM_OK);
    ck_assert_int_eq(kvmm_seq_suspend(a), KVMM_OK);
    let_moves_end(mm);
    struct plug plug;
    plug_crew(mm, &plug);
    ck_assert_int_eq(kvmm_seq_resume(a), KVMM_OK);
    ck_assert_uint_eq(info_of(a).n_host, 2);
    ck_assert_uint_eq(info_of(a).n_device, 0);
    sem_post(&plug.out);
    let_moves_end(mm);
    ck_assert_uint_eq(info_of(a).n_device, 2);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(success_leaves_the_message_alone)
{
    kvmm *mm = open_small(4, 4, NULL);
    kvmm_seq *a = make_seq(mm, 32), *b = make_seq(mm, 32);
    ck_assert_int_eq(kvmm_seq_unpin(a), KVMM_ERR_STATE);
    char before[512];
    snprintf(before, sizeof before, "%s", kvmm_errmsg());
    ck_assert_int_eq(grow(mm, a, 32, 1), KVMM_OK);
    ck_assert_int_eq(grow(mm, b, 32, 1), KVMM_OK); /* a must leave */
    ck_assert_str_eq(kvmm_errmsg(), before);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

START_TEST(the_largest_geometry_does_not_wrap)
{
    struct kvmm_geometry g = {
        .n_layers = 1024, .n_kv_heads = 1024, .head_dim = 1024, .page_tokens = 16, .dtype = KVMM_F32};
    ck_assert_uint_eq(kvmm_geometry_bytes(&g, 2 << 20, 1u << 30), 1ull << 63);
    ck_assert_uint_eq(kvmm_geometry_bytes(&g, 2 << 20, 1u << 31), UINT64_MAX);
}
END_TEST

/* Runs `check` in a child, so that limits and filled tables stay there; its exit status. */
static int in_child(int (*check)(void))
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(check());
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int open_under_a_file_size_limit(void)
{
    struct rlimit limit = {1 << 20, 1 << 20};
    setrlimit(RLIMIT_FSIZE, &limit);
    struct kvmm_config cfg = small_config(64, 0, NULL);
    kvmm *mm = NULL;
    if (kvmm_open(&cfg, &mm) != KVMM_ERR_NO_HOST_MEMORY || !strstr(kvmm_errmsg(), "ulimit -f"))
        return 1;
    cfg.device_memory = 8 * FRAME;
    if (kvmm_open(&cfg, &mm) != KVMM_ERR_NO_HOST_MEMORY || !strstr(kvmm_errmsg(), "page map"))
        return 2;
    cfg.no_page_map = true;
    return kvmm_open(&cfg, &mm) == KVMM_OK && kvmm_close(&mm) == KVMM_OK ? 0 : 3;
}

START_TEST(a_file_size_limit_is_an_error_and_no_signal)
{
    if (on_cuda()) /* the file is the host device's */
        return;
    ck_assert_int_eq(in_child(open_under_a_file_size_limit), 0);
}
END_TEST

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* a sanitizer would run out itself */
#define HAVE_MAPPINGS_TEST

/* Uses up the kernel's limit on mappings, all but `leave` of them. */
static void use_up_mappings(int leave)
{
    const size_t pages = 140000, page = 4096;
    char *p = mmap(NULL, page * pages, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (size_t i = 0; i < pages && mprotect(p + page * i, page, PROT_READ) == 0; i += 2)
        ;
    for (int i = 0; i < leave; i++)
        mprotect(p + page * 2 * (size_t)i, page, PROT_NONE);
}

/* Parts of the process's frames that are mapped in the sequence's range with access. Reads without allocating. */
static int accessible_parts(const kvmm_seq *seq)
{
    static char text[16 << 20];
    size_t n = 0;
    int fd = open("/proc/self/maps", O_RDONLY), parts = 0;
    for (ssize_t got; (got = read(fd, text + n, sizeof text - n - 1)) > 0;)
        n += (size_t)got;
    close(fd);
    text[n] = 0;
    uintptr_t first = (uintptr_t)seq->layout.base, last = first + seq->range_bytes;
    for (char *line = text; *line; line = strchr(line, '\n') + 1) {
        char *rest;
        unsigned long from = strtoul(line, &rest, 16), to = strtoul(rest + 1, &rest, 16);
        parts += from < last && to > first && (rest[1] == 'r' || rest[2] == 'w');
    }
    return parts;
}

static int leave_mappings;

static int scattered_maps_at_the_limit(void)
{
    struct kvmm_config cfg = small_config(64, 64, NULL);
    kvmm *mm = NULL;
    kvmm_seq *a, *b, *c;
    kvmm_step *step;
    if (kvmm_open(&cfg, &mm) || kvmm_seq_create(mm, 400, &a) || kvmm_seq_create(mm, 400, &b) ||
        kvmm_seq_create(mm, 400, &c))
        return 10;
    for (uint32_t i = 1; i <= 10; i++) { /* a's and c's frames alternate */
        struct kvmm_want wants[] = {{a, 16 * i, 0}, {c, 16 * i, 0}};
        if (kvmm_step_begin(mm, wants, 1, 0, &step) || kvmm_step_end(&step, NULL) ||
            kvmm_step_begin(mm, wants + 1, 1, 0, &step) || kvmm_step_end(&step, NULL))
            return 11;
    }
    struct kvmm_want all = {a, 352, 0};
    if (kvmm_step_begin(mm, &all, 1, 0, &step) || kvmm_step_end(&step, NULL) || kvmm_seq_destroy(&c))
        return 12;
    use_up_mappings(leave_mappings);
    struct kvmm_want want = {b, 160, 0};
    int rc = kvmm_step_begin(mm, &want, 1, 0, &step);
    if (rc == KVMM_OK)
        return leave_mappings < 10 ? 13 : 0;
    if (rc != KVMM_ERR_NO_ADDRESS_SPACE || !strstr(kvmm_errmsg(), "max_map_count"))
        return 14;
    if (accessible_parts(b) != 0)
        return 15;
    if (kvmm_seq_suspend(a) || kvmm_seq_destroy(&a) || kvmm_seq_destroy(&b) || kvmm_close(&mm))
        return 16;
    return 0;
}

START_TEST(running_out_of_mappings_leaves_no_frame_behind)
{
    if (on_cuda()) /* a GPU's mappings are not the kernel's */
        return;
    for (leave_mappings = 0; leave_mappings < 6; leave_mappings++) {
        int status = in_child(scattered_maps_at_the_limit);
        ck_assert_msg(status == 0, "with %d mappings left: %d", leave_mappings, status);
    }
}
END_TEST

#endif

int main(void)
{
    const TTest *tests[] = {a_resume_goes_on_when_room_is_made_at_once,
                            a_step_waits_for_a_destroy_under_way,
                            a_partial_step_begins_with_what_is_resident,
                            a_partial_step_fails_with_its_first_wants_reason,
                            copies_of_what_stays_on_the_device_make_way,
                            frames_on_their_way_are_counted_where_they_come_from,
                            success_leaves_the_message_alone,
                            the_largest_geometry_does_not_wrap,
                            a_file_size_limit_is_an_error_and_no_signal,
#ifdef HAVE_MAPPINGS_TEST
                            running_out_of_mappings_leaves_no_frame_behind,
#endif
                            NULL};
    return run_suite("corners", tests);
}
