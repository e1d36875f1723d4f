/* SPDX-License-Identifier: Apache-2.0
 *
 * Random operations on dozens of sequences against a plain model of what every byte must be, with faults in the NVMe
 * tier. What must hold: a token that the manager says is readable has the bytes last written to it; data that can't be
 * had is reported as lost, and only where a fault can explain it; new tokens never show another sequence's bytes; every
 * failure is a status code; after close no descriptor, thread or mapping is left.
 *
 * KVMM_TEST_OPS sets the number of operations (100,000), KVMM_TEST_SEED the seed, KVMM_TEST_SCALE divides the number. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "memory_model.h"
#include "tests/support/scale.h"

#define MAX_SEQS 40

struct world {
    kvmm *mm;
    struct kvmm_geometry geometry;
    struct model_seq seqs[MAX_SEQS];
    uint64_t random;
    uint64_t salt;
    bool may_lose; /* faults that can destroy data are on */
    uint64_t n_ok, n_no_memory, n_no_space, n_lost;
};

static uint64_t roll(struct world *w, uint64_t n)
{
    return model_random(&w->random) % n;
}

static unsigned long env_number(const char *name, unsigned long otherwise)
{
    const char *text = getenv(name);
    return text ? strtoul(text, NULL, 0) : otherwise;
}

static struct model_seq *any_seq(struct world *w)
{
    return &w->seqs[roll(w, MAX_SEQS)];
}

static void op_create(struct world *w, struct model_seq *m)
{
    uint32_t max_tokens = 1 + (uint32_t)roll(w, 750);
    int rc = kvmm_seq_create(w->mm, max_tokens, &m->seq);
    ck_assert_int_eq(rc, KVMM_OK);
    m->salt = ++w->salt * 0x9e3779b97f4a7c15ull;
    m->length = 0;
    m->max_tokens = max_tokens;
    m->version = calloc(max_tokens, sizeof *m->version);
}

static void forget(struct model_seq *m)
{
    free(m->version);
    *m = (struct model_seq){0};
}

static void op_destroy(struct model_seq *m)
{
    ck_assert_int_eq(kvmm_seq_destroy(&m->seq), KVMM_OK);
    ck_assert_ptr_null(m->seq);
    forget(m);
}

static void op_truncate(struct world *w, struct model_seq *m, uint32_t n)
{
    ck_assert_int_eq(kvmm_seq_truncate(m->seq, n), KVMM_OK);
    m->length = n;
}

/* Lost data: what the manager still vouches for must be there; the rest is given up. */
static void recover(struct world *w, struct model_seq *m)
{
    struct kvmm_seq_info info;
    kvmm_seq_get_info(m->seq, &info);
    ck_assert_msg(w->may_lose, "data lost without a fault: %s", kvmm_errmsg());
    ck_assert_uint_eq(info.length, m->length);
    ck_assert_uint_le(info.valid_tokens, m->length);
    w->n_lost++;
    op_truncate(w, m, info.valid_tokens);
}

static void use_seq(struct world *w, struct model_seq *m, uint32_t n_tokens)
{
    struct kvmm_layout layout;
    kvmm_seq_layout(m->seq, &layout);
    /* Not every token each time: the ends, and some between. */
    for (uint32_t token = 0; token < m->length; token += 1 + (uint32_t)roll(w, 1 + m->length / 8))
        ck_assert_msg(model_check(&w->geometry, &layout, m, token), "token %u of %u has other bytes", token, m->length);
    if (m->length)
        ck_assert(model_check(&w->geometry, &layout, m, m->length - 1));
    for (uint32_t token = m->length; token < n_tokens; token++) {
        if (roll(w, 8) == 0)
            ck_assert_msg(model_is_own_or_zero(&w->geometry, &layout, m, token), "a new token shows foreign bytes");
        m->version[token]++;
        model_write(&w->geometry, &layout, m, token);
    }
    m->length = n_tokens;
}

static void op_step(struct world *w)
{
    struct kvmm_want wants[4];
    struct model_seq *models[4];
    size_t n = 0, most = 1 + roll(w, 4);
    for (size_t tries = 0; tries < 8 && n < most; tries++) {
        struct model_seq *m = any_seq(w);
        bool twice = false;
        for (size_t i = 0; i < n; i++)
            twice |= models[i] == m;
        if (!m->seq || twice)
            continue;
        uint32_t grow = roll(w, 3) ? (uint32_t)roll(w, 3) : (uint32_t)roll(w, 200);
        uint32_t n_tokens = m->length + grow > m->max_tokens ? m->max_tokens : m->length + grow;
        models[n] = m;
        wants[n++] = (struct kvmm_want){.seq = m->seq, .n_tokens = n_tokens};
    }
    if (n == 0)
        return;
    kvmm_step *step = NULL;
    unsigned flags = roll(w, 2) ? KVMM_STEP_PARTIAL : 0;
    int rc = kvmm_step_begin(w->mm, wants, n, flags, &step);
    if (rc == KVMM_OK) {
        ck_assert_ptr_nonnull(step);
        for (size_t i = 0; i < n; i++) {
            if (wants[i].status == KVMM_OK) {
                use_seq(w, models[i], wants[i].n_tokens);
                w->n_ok++;
            }
        }
        ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
        ck_assert_ptr_null(step);
    } else {
        ck_assert_ptr_null(step);
        ck_assert_str_ne(kvmm_errmsg(), "");
        ck_assert_msg(rc == KVMM_ERR_NO_DEVICE_MEMORY || rc == KVMM_ERR_DATA_LOST ||
                          (rc == KVMM_ERR_NO_SPILL_SPACE && w->may_lose),
                      "%s: %s", kvmm_status_name(rc), kvmm_errmsg());
    }
    for (size_t i = 0; i < n; i++) {
        w->n_no_memory += wants[i].status == KVMM_ERR_NO_DEVICE_MEMORY;
        w->n_no_space += wants[i].status == KVMM_ERR_NO_SPILL_SPACE;
        if (wants[i].status == KVMM_ERR_DATA_LOST)
            recover(w, models[i]);
        else
            ck_assert_uint_eq(kvmm_seq_length(models[i]->seq), models[i]->length);
    }
}

static void one_operation(struct world *w)
{
    struct model_seq *m = any_seq(w);
    uint64_t dice = roll(w, 100);
    if (!m->seq) {
        op_create(w, m);
    } else if (dice < 80) {
        op_step(w);
    } else if (dice < 86) {
        op_truncate(w, m, m->length ? (uint32_t)roll(w, m->length + 1) : 0);
    } else if (dice < 90) {
        int rc = kvmm_seq_suspend(m->seq);
        ck_assert(rc == KVMM_OK || rc == KVMM_ERR_NO_SPILL_SPACE);
    } else if (dice < 95) {
        int rc = kvmm_seq_resume(m->seq);
        ck_assert(rc == KVMM_OK || (rc == KVMM_ERR_DATA_LOST && w->may_lose));
        if (rc)
            recover(w, m);
    } else if (dice < 97) {
        ck_assert_int_eq(kvmm_seq_pin(m->seq), KVMM_OK);
        op_step(w);
        ck_assert_int_eq(kvmm_seq_unpin(m->seq), KVMM_OK);
    } else {
        op_destroy(m);
    }
}

static void check_final(struct world *w)
{
    for (size_t i = 0; i < MAX_SEQS; i++) {
        struct model_seq *m = &w->seqs[i];
        if (!m->seq)
            continue;
        kvmm_step *step = NULL;
        struct kvmm_want want = {.seq = m->seq, .n_tokens = m->length};
        int rc = kvmm_step_begin(w->mm, &want, 1, 0, &step);
        if (rc == KVMM_ERR_DATA_LOST || rc == KVMM_ERR_NO_SPILL_SPACE || rc == KVMM_ERR_NO_DEVICE_MEMORY) {
            if (rc == KVMM_ERR_DATA_LOST)
                recover(w, m);
            continue;
        }
        ck_assert_int_eq(rc, KVMM_OK);
        struct kvmm_layout layout;
        kvmm_seq_layout(m->seq, &layout);
        for (uint32_t token = 0; token < m->length; token++)
            ck_assert_msg(model_check(&w->geometry, &layout, m, token), "token %u of %u", token, m->length);
        kvmm_step_end(&step, NULL);
    }
}

struct variant {
    struct swap_faults faults;
    uint64_t host_frames, swap_frames;
    const char *name, *backend, *policy;
    enum kvmm_layout_kind layout;
    bool may_lose;
    bool readable_tail;
};

static const struct variant variants[] = {
    {.name = "no faults, io_uring", .backend = "auto", .policy = "lru", .host_frames = 12},
    {.name = "no host tier, threads", .layout = KVMM_TOKEN_MAJOR, .backend = "threads", .policy = "clock"},
    {.name = "groups of layers, delays, readable tail",
     .readable_tail = true,
     .layout = KVMM_LAYER_MAJOR,
     .backend = "auto",
     .policy = "clock",
     .host_frames = 8,
     .faults = {.delay_ppm = 100000, .delay_us = 200, .retry_ppm = 2000, .short_ppm = 2000}},
    {.name = "errors and corruption",
     .backend = "auto",
     .policy = "lru",
     .host_frames = 12,
     .faults = {.read_error_ppm = 2000,
                .write_error_ppm = 5000,
                .retry_ppm = 20000,
                .short_ppm = 20000,
                .corrupt_ppm = 5000,
                .stale_ppm = 1000,
                .delay_ppm = 20000,
                .delay_us = 300},
     .may_lose = true},
    {.name = "a small swap file",
     .backend = "threads",
     .policy = "lru",
     .host_frames = 8,
     .swap_frames = 96,
     .may_lose = true},
};

START_TEST(random_operations)
{
    const struct variant *v = &variants[_i];
    settle_threads();
    int fds = entries_in("/proc/self/fd"), threads = entries_in("/proc/self/task");
    unsigned long n_ops =
        (unsigned long)scaled((long)(env_number("KVMM_TEST_OPS", 100000) / (sizeof variants / sizeof *variants)));
    uint64_t seed = env_number("KVMM_TEST_SEED", 20261) + (uint64_t)_i;

    struct world *w = calloc(1, sizeof *w);
    w->geometry = (struct kvmm_geometry){.n_layers = 3,
                                         .n_kv_heads = 2,
                                         .head_dim = 20,
                                         .page_tokens = 16,
                                         .dtype = KVMM_F16,
                                         .layout = v->layout,
                                         .layers_per_group = 2};
    w->random = seed;
    w->may_lose = v->may_lose;
    struct swap_faults faults = v->faults;
    faults.seed = seed;

    struct kvmm_config cfg;
    kvmm_config_init(&cfg);
    cfg.device = test_device();
    cfg.map_ahead_tokens = test_map_ahead();
    cfg.readable_tail = v->readable_tail;
    cfg.geometry = w->geometry;
    cfg.frame_bytes = 64 * 1024;
    cfg.device_memory = 13 * cfg.frame_bytes;
    cfg.host_memory = v->host_frames * cfg.frame_bytes;
    cfg.swap_dir = "/tmp";
    cfg.swap_bytes = v->swap_frames * cfg.frame_bytes;
    cfg.swap_backend = v->backend;
    cfg.policy = v->policy;
    struct vmm_open_options options = {.swap_faults = &faults};
    ck_assert_msg(vmm_open(&cfg, &options, &w->mm) == KVMM_OK, "%s", kvmm_errmsg());

    for (unsigned long i = 0; i < n_ops; i++)
        one_operation(w);
    check_final(w);

    struct kvmm_stats stats;
    kvmm_get_stats(w->mm, &stats);
    ck_assert_uint_gt(w->n_ok, n_ops / 4); /* the test must have tested something */
    ck_assert_uint_gt(stats.bytes_to_nvme, 0);
    ck_assert_uint_gt(stats.frames_from_nvme, 0);
    ck_assert(stats.device_used <= stats.device_capacity);
    ck_assert_uint_gt(w->n_no_memory + w->n_no_space, 0);
    if (v->faults.retry_ppm)
        ck_assert_uint_gt(stats.io_retries, 0);
    printf("%s (%s): seed %llu, %llu wants met, %llu short of memory, %llu of space, %llu lost; %.1f MiB to NVMe, %.1f "
           "back\n",
           v->name, kvmm_swap_backend(w->mm), (unsigned long long)seed, (unsigned long long)w->n_ok,
           (unsigned long long)w->n_no_memory, (unsigned long long)w->n_no_space, (unsigned long long)w->n_lost,
           (double)stats.bytes_to_nvme / 1048576, (double)stats.bytes_from_nvme / 1048576);

    /* Half of the sequences are left for close to destroy. */
    for (size_t i = 0; i < MAX_SEQS / 2; i++) {
        if (w->seqs[i].seq)
            op_destroy(&w->seqs[i]);
    }
    ck_assert_int_eq(kvmm_close(&w->mm), KVMM_OK);
    ck_assert_ptr_null(w->mm);
    for (size_t i = 0; i < MAX_SEQS; i++)
        forget(&w->seqs[i]);
    free(w);
    ck_assert_int_eq(entries_in("/proc/self/fd"), fds);
    ck_assert_int_eq(entries_in("/proc/self/task"), threads);
}
END_TEST

/* With an argument: that variant alone. */
int main(int argc, char **argv)
{
    int first = argc > 1 ? atoi(argv[1]) : 0, last = argc > 1 ? first + 1 : (int)(sizeof variants / sizeof *variants);
    Suite *suite = suite_create("random operations");
    TCase *tcase = tcase_create("against a model");
    tcase_set_timeout(tcase, 600);
    tcase_add_loop_test(tcase, random_operations, first, last);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
