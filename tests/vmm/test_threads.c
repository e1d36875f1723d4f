/* SPDX-License-Identifier: Apache-2.0
 *
 * Many threads, each with sequences of its own, on one manager whose budget is far too small for all: every byte right,
 * nobody waits for ever, and shortage is an answer. Meant above all for the thread sanitizer. */
#include "fixture.h"

#include <pthread.h>
#include <stdio.h>

#include "memory_model.h"
#include "tests/support/scale.h"

#define N_THREADS 4
#define N_SEQS    3

struct worker {
    kvmm *mm;
    struct kvmm_geometry geometry;
    uint64_t random;
    unsigned n_rounds, n_met, n_short;
    const char *failed; /* asserts are for the main thread */
};

static const char *one_step(struct worker *w, struct model_seq *models, size_t first, size_t n)
{
    struct kvmm_want wants[N_SEQS];
    for (size_t i = 0; i < n; i++) {
        struct model_seq *m = &models[(first + i) % N_SEQS];
        uint32_t want = m->length + (uint32_t)(model_random(&w->random) % 40);
        wants[i] = (struct kvmm_want){.seq = m->seq, .n_tokens = want > m->max_tokens ? m->max_tokens : want};
    }
    kvmm_step *step = NULL;
    int rc = kvmm_step_begin(w->mm, wants, n, 0, &step);
    if (rc == KVMM_ERR_NO_DEVICE_MEMORY) {
        w->n_short++;
        return NULL;
    }
    if (rc)
        return kvmm_errmsg();
    for (size_t i = 0; i < n; i++) {
        struct model_seq *m = &models[(first + i) % N_SEQS];
        struct kvmm_layout l;
        kvmm_seq_layout(m->seq, &l);
        for (uint32_t t = 0; t < m->length; t += 7) {
            if (!model_check(&w->geometry, &l, m, t))
                return "a token has other bytes";
        }
        for (uint32_t t = m->length; t < wants[i].n_tokens; t++) {
            m->version[t]++;
            model_write(&w->geometry, &l, m, t);
        }
        m->length = wants[i].n_tokens;
    }
    w->n_met++;
    return kvmm_step_end(&step, NULL) ? kvmm_errmsg() : NULL;
}

static const char *one_round(struct worker *w, struct model_seq *models)
{
    size_t first = model_random(&w->random) % N_SEQS;
    struct model_seq *m = &models[first];
    int rc = KVMM_OK;
    switch (model_random(&w->random) % 12) {
    case 0:
        m->length = m->length ? (uint32_t)(model_random(&w->random) % m->length) : 0;
        rc = kvmm_seq_truncate(m->seq, m->length);
        break;
    case 1:
        rc = kvmm_seq_suspend(m->seq);
        break;
    case 2:
        rc = kvmm_seq_resume(m->seq);
        break;
    case 3:
        rc = kvmm_seq_destroy(&m->seq);
        rc = rc ? rc : kvmm_seq_create(w->mm, m->max_tokens, &m->seq);
        m->length = 0;
        m->salt = model_random(&w->random);
        memset(m->version, 0, m->max_tokens * sizeof *m->version);
        break;
    default:
        return one_step(w, models, first, 1 + model_random(&w->random) % N_SEQS);
    }
    return rc ? kvmm_errmsg() : NULL;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct model_seq models[N_SEQS] = {0};
    uint32_t versions[N_SEQS][160] = {0};
    for (size_t i = 0; i < N_SEQS; i++) {
        models[i] = (struct model_seq){.salt = model_random(&w->random), .max_tokens = 160, .version = versions[i]};
        if (kvmm_seq_create(w->mm, 160, &models[i].seq))
            w->failed = "create";
    }
    for (unsigned round = 0; round < w->n_rounds && !w->failed; round++)
        w->failed = one_round(w, models);
    return NULL; /* close destroys the sequences */
}

START_TEST(threads_with_sequences_of_their_own)
{
    struct kvmm_config cfg = small_config(76, 20, "/tmp");
    cfg.policy = _i ? "clock" : "lru";
    cfg.swap_backend = _i ? "threads" : "auto";
    kvmm *mm = NULL;
    ck_assert_int_eq(kvmm_open(&cfg, &mm), KVMM_OK);
    struct worker workers[N_THREADS];
    pthread_t threads[N_THREADS];
    for (unsigned i = 0; i < N_THREADS; i++) {
        workers[i] =
            (struct worker){.mm = mm, .geometry = cfg.geometry, .random = 77 + i, .n_rounds = (unsigned)scaled(1200)};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    unsigned met = 0;
    for (unsigned i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_msg(!workers[i].failed, "thread %u: %s", i, workers[i].failed);
        met += workers[i].n_met;
    }
    ck_assert_uint_gt(met, workers[0].n_rounds / 4); /* of 4 threads' rounds */
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("threads");
    TCase *tcase = tcase_create("threads");
    tcase_set_timeout(tcase, 300);
    tcase_add_loop_test(tcase, threads_with_sequences_of_their_own, 0, 2);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
