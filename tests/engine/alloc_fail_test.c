/* SPDX-License-Identifier: Apache-2.0
 *
 * Each allocation of the engine fails once. The call that needed it says so in a line, nothing leaks (a build with
 * AddressSanitizer sees to that), and a conversation that was hit goes on with the right tokens afterwards.
 * The linker puts our allocators in place of those that the static libraries call (--wrap). */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_support.h"

static atomic_int countdown; /* 1: the next allocation fails; 0: none does */
static atomic_bool armed;    /* while the engine is called: Check allocates as well */

static bool fails(void)
{
    if (!atomic_load(&armed))
        return false;
    int left = atomic_load(&countdown);
    while (left > 0) {
        if (atomic_compare_exchange_weak(&countdown, &left, left - 1))
            return left == 1;
    }
    return false;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
#define SEEN __attribute__((visibility("default"))) /* some linkers resolve shared libraries' calls to them as well */
SEEN void *__wrap_malloc(size_t size);
SEEN void *__wrap_calloc(size_t n, size_t size);
SEEN void *__wrap_realloc(void *p, size_t size);
SEEN void *__wrap_aligned_alloc(size_t alignment, size_t size);

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return fails() ? NULL : __real_realloc(p, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : __real_aligned_alloc(alignment, size);
}

/* ---- one whole use of the engine ----------------------------------------------------------------------------- */

#define TOKENS 6
static char small_path[256];
static engine_token expected[TOKENS];

static void write_model(void)
{
    struct small_model m;
    small_model_init(&m);
    m.n_layers = 1;
    (void)snprintf(small_path, sizeof small_path, "%s", test_path("small.gguf"));
    small_model_write(&m, small_path);
}

static int open_all(struct engine **engine, struct sampler **sampler, struct conversation **c, struct engine_error *err)
{
    struct engine_config config;
    struct engine_cache_config cache;
    const struct sampler_config sampling = {.temperature = 1, .top_p = 1};
    engine_config_init(&config);
    config.model_path = small_path;
    config.n_threads = 2;
    config.chunk = 8;
    engine_cache_config_init(&cache);
    cache.device_memory = 1 << 20;
    int rc = engine_open(&config, engine, err);
    if (rc == 0)
        rc = engine_open_cache(*engine, &cache, err);
    if (rc == 0)
        rc = sampler_open(&sampling, SMALL_VOCAB, sampler, err);
    if (rc == 0)
        rc = conversation_open(*engine, 100, c, err);
    return rc;
}

static int append(struct conversation *c, struct engine_error *err)
{
    return conversation_append_text(c, "the quick brown fox", 19, NULL, NULL, err);
}

static int generate(struct conversation *c, struct sampler *sampler, engine_token *out, struct engine_error *err)
{
    uint32_t n = 0, more;
    atomic_store(&armed, true);
    int rc = conversation_generate(c, sampler, TOKENS, out, &n, NULL, NULL, err);
    atomic_store(&armed, false);
    if (rc == 0)
        return 0;
    /* The fault is over: what is missing can be had. */
    struct engine_error none;
    ASSERT_OK(conversation_generate(c, sampler, TOKENS - n, out + n, &more, NULL, NULL, &none), none);
    ck_assert_uint_eq(n + more, TOKENS);
    return rc;
}

/* True if no allocation failed. */
static bool use(engine_token *out)
{
    struct engine *engine = NULL;
    struct sampler *sampler = NULL;
    struct conversation *c = NULL;
    struct engine_error err = {""};
    atomic_store(&armed, true);
    int rc = open_all(&engine, &sampler, &c, &err);
    atomic_store(&armed, false);
    if (rc == 0) {
        atomic_store(&armed, true);
        rc = append(c, &err);
        atomic_store(&armed, false);
        if (rc != 0) {
            struct engine_error none;
            if (conversation_length(c) == 0)
                ASSERT_OK(append(c, &none), none);
        }
        int generated = generate(c, sampler, out, &err);
        rc = rc != 0 ? rc : generated;
        ck_assert_mem_eq(out, expected, sizeof expected);
    }
    conversation_close(&c);
    sampler_close(&sampler);
    engine_close(&engine);
    if (rc != 0)
        ck_assert_msg(rc < 0 && err.text[0] && !strchr(err.text, '\n'), "status %d, \"%s\"", rc, err.text);
    return rc == 0;
}

START_TEST(every_allocation_may_fail)
{
    struct engine_error err;
    struct engine *engine;
    struct sampler *sampler;
    struct conversation *c;
    ASSERT_OK(open_all(&engine, &sampler, &c, &err), err);
    ASSERT_OK(append(c, &err), err);
    ASSERT_OK(generate(c, sampler, expected, &err), err); /* with no countdown set */
    conversation_close(&c);
    sampler_close(&sampler);
    engine_close(&engine);

    int nth = 0;
    bool done = false;
    while (!done) {
        engine_token out[TOKENS];
        atomic_store(&countdown, ++nth);
        done = use(out);
        if (done)
            ck_assert_int_gt(atomic_load(&countdown), 0); /* else a failure was swallowed */
        atomic_store(&countdown, 0);
        ck_assert_int_lt(nth, 1000);
    }
    ck_assert_int_gt(nth, 40);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("allocation failure");
    TCase *cases = tcase_create("all");
    tcase_set_timeout(cases, 120);
    tcase_add_unchecked_fixture(cases, write_model, NULL);
    tcase_add_test(cases, every_allocation_may_fail);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
