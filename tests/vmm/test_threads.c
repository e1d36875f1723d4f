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
    const struct model_seq *base; /* that all threads fork, and nobody changes */
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
            model_set(m, t, (uint32_t)model_random(&w->random));
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
    switch (model_random(&w->random) % 14) {
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
        model_restart(m, model_random(&w->random));
        break;
    case 4:
        rc = kvmm_seq_destroy(&m->seq);
        rc = rc ? rc : kvmm_seq_fork(w->base->seq, m->max_tokens, &m->seq);
        model_fork(m, w->base);
        break;
    case 5:
        rc = kvmm_seq_destroy(&m->seq);
        rc = rc ? rc : kvmm_seq_fork(models[(first + 1) % N_SEQS].seq, 0, &m->seq);
        model_fork(m, &models[(first + 1) % N_SEQS]);
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
    for (size_t i = 0; i < N_SEQS; i++) {
        if (!model_open(&models[i], model_random(&w->random), 160) || kvmm_seq_create(w->mm, 160, &models[i].seq))
            w->failed = "create";
    }
    for (unsigned round = 0; round < w->n_rounds && !w->failed; round++)
        w->failed = one_round(w, models);
    for (size_t i = 0; i < N_SEQS; i++)
        model_close(&models[i]);
    return NULL; /* close destroys the sequences */
}

START_TEST(threads_with_sequences_of_their_own)
{
    struct kvmm_config cfg = small_config(76, 20, "/tmp");
    cfg.policy = _i ? "clock" : "lru";
    cfg.swap_backend = _i ? "threads" : "auto";
    kvmm *mm = NULL;
    ck_assert_int_eq(kvmm_open(&cfg, &mm), KVMM_OK);
    struct model_seq base;
    ck_assert(model_open(&base, 5, 100));
    base.seq = make_seq(mm, base.max_tokens);
    struct kvmm_want want = {.seq = base.seq, .n_tokens = 43};
    kvmm_step *step = NULL;
    struct kvmm_layout layout;
    ck_assert_int_eq(kvmm_step_begin(mm, &want, 1, 0, &step), KVMM_OK);
    kvmm_seq_layout(base.seq, &layout);
    for (uint32_t t = 0; t < want.n_tokens; t++) {
        model_set(&base, t, t);
        model_write(&cfg.geometry, &layout, &base, t);
    }
    base.length = want.n_tokens;
    ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
    struct worker workers[N_THREADS];
    pthread_t threads[N_THREADS];
    for (unsigned i = 0; i < N_THREADS; i++) {
        workers[i] = (struct worker){
            .mm = mm, .base = &base, .geometry = cfg.geometry, .random = 77 + i, .n_rounds = (unsigned)scaled(1200)};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    unsigned met = 0;
    for (unsigned i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_msg(!workers[i].failed, "thread %u: %s", i, workers[i].failed);
        met += workers[i].n_met;
    }
    ck_assert_uint_gt(met, workers[0].n_rounds / 4); /* of 4 threads' rounds */
    model_close(&base);
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
