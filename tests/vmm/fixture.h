/* SPDX-License-Identifier: Apache-2.0
 *
 * A small manager for tests: 4 layers, 4 heads of 128, f16, so that a page of 16 tokens is two frames of 64 KiB, and
 * tokens and frames are easy to reckon with. */
#ifndef TESTS_VMM_FIXTURE_H
#define TESTS_VMM_FIXTURE_H

#include <check.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "on_device.h"
#include "vmm/mm.h"

#define FRAME (64u * 1024u)

/* Around each call of the library; the fault tests inject inside it only. */
#ifndef LIB
#define LIB(call) (call)
#endif

static inline struct kvmm_config small_config(uint32_t device_frames, uint32_t host_frames, const char *swap_dir)
{
    struct kvmm_config cfg;
    kvmm_config_init(&cfg);
    cfg.geometry =
        (struct kvmm_geometry){.n_layers = 4, .n_kv_heads = 4, .head_dim = 128, .page_tokens = 16, .dtype = KVMM_F16};
    cfg.device = test_device();
    cfg.map_ahead_tokens = test_map_ahead();
    cfg.frame_bytes = FRAME;
    cfg.device_memory = (uint64_t)device_frames * FRAME;
    cfg.host_memory = (uint64_t)host_frames * FRAME;
    cfg.swap_dir = swap_dir;
    return cfg;
}
static inline kvmm *open_small(uint32_t device_frames, uint32_t host_frames, const char *swap_dir)
{
    struct kvmm_config cfg = small_config(device_frames, host_frames, swap_dir);
    kvmm *mm = NULL;
    ck_assert_msg(kvmm_open(&cfg, &mm) == KVMM_OK, "%s", kvmm_errmsg());
    return mm;
}

static inline kvmm_seq *make_seq(kvmm *mm, uint32_t max_tokens)
{
    kvmm_seq *seq = NULL;
    ck_assert_msg(kvmm_seq_create(mm, max_tokens, &seq) == KVMM_OK, "%s", kvmm_errmsg());
    return seq;
}

/* What comes next finds no fence pending, so that what it starts is started at once. */
static inline void let_fences_pass(kvmm *mm)
{
    for (bool pending = true; pending;) {
        pthread_mutex_lock(&mm->lock);
        vmm_reap_steps(mm);
        pending = mm->pending != NULL;
        pthread_mutex_unlock(&mm->lock);
        if (pending)
            usleep(50);
    }
}

/* A step over one sequence that grows it to n_tokens; the status of begin. Fills new tokens' first bytes with a value
 * that names them, and checks those of the old ones. */
static inline int grow(kvmm *mm, kvmm_seq *seq, uint32_t n_tokens, uint8_t tag)
{
    uint32_t old = kvmm_seq_length(seq);
    struct kvmm_want want = {.seq = seq, .n_tokens = n_tokens};
    kvmm_step *step = NULL;
    int rc = LIB(kvmm_step_begin(mm, &want, 1, 0, &step));
    ck_assert_int_eq(want.status, rc);
    if (rc) {
        ck_assert_ptr_null(step);
        return rc;
    }
    struct kvmm_layout l;
    kvmm_seq_layout(seq, &l);
    for (uint32_t layer = 0; layer < 4; layer++) {
        for (uint32_t t = 0; t < n_tokens; t++) {
            uint8_t *at =
                cpu_at((uint8_t *)kvmm_layout_at(&l, layer, 1) + t / 16 * l.page_stride + t % 16 * l.token_stride);
            uint8_t value = (uint8_t)(tag + layer * 31 + t * 7 + t / 16);
            if (t >= old)
                *at = value;
            else
                ck_assert_msg(*at == value, "layer %u token %u is %u, not %u", layer, t, *at, value);
        }
    }
    rc = LIB(kvmm_step_end(&step, NULL));
    ck_assert_int_eq(rc, KVMM_OK);
    ck_assert_uint_eq(kvmm_seq_length(seq), n_tokens);
    let_fences_pass(mm);
    return KVMM_OK;
}

static inline struct kvmm_seq_info info_of(const kvmm_seq *seq)
{
    struct kvmm_seq_info info;
    kvmm_seq_get_info(seq, &info);
    return info;
}

static inline int entries_in(const char *path)
{
    DIR *dir = opendir(path);
    int n = 0;
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

static inline void *no_work(void *arg)
{
    return arg;
}

/* Before threads and descriptors are counted: a sanitizer starts a thread of its own beside a process's first, and a CUDA
 * driver, once loaded, stays. */
static inline void settle_threads(void)
{
    if (on_cuda()) {
        kvmm *mm = open_small(8, 0, NULL);
        ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
    }
    pthread_t first;
    ck_assert_int_eq(pthread_create(&first, NULL, no_work, NULL), 0);
    pthread_join(first, NULL);
}

/* tests ends with NULL. */
static inline int run_suite(const char *name, const TTest *const *tests)
{
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 120);
    for (; *tests; tests++)
        tcase_add_test(tcase, *tests);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
