/* SPDX-License-Identifier: Apache-2.0
 *
 * Model files when the system refuses: each call that can fail is made to fail, one at a time. Every operation then
 * returns -1 with a line, gives nothing out, leaks nothing (the address sanitizer looks) and leaves no file. The calls
 * are caught by the linker (--wrap). */
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "format_support.h"
#include "gguf_write.h"
#include "recall_model.h"
#include "tokenizer.h"

/* Counts down to the call that fails; negative: none. */
static int countdown = -1;
static bool fired;
static bool short_writes;
static int n_writes;

static bool fails(void)
{
    if (countdown < 0 || countdown-- > 0)
        return false;
    fired = true;
    return true;
}

#define WRAP(type, name, failure, why, parameters, arguments)                                                          \
    type __real_##name parameters;                                                                                     \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters                                                                                      \
    {                                                                                                                  \
        if (!fails())                                                                                                  \
            return __real_##name arguments;                                                                            \
        errno = why;                                                                                                   \
        return failure;                                                                                                \
    }

WRAP(void *, malloc, NULL, ENOMEM, (size_t n), (n))
WRAP(void *, calloc, NULL, ENOMEM, (size_t n, size_t size), (n, size))
WRAP(void *, realloc, NULL, ENOMEM, (void *p, size_t n), (p, n))
WRAP(char *, strdup, NULL, ENOMEM, (const char *s), (s))
/* Under both names: the build may ask for 64-bit offsets. */
WRAP(int, fstat, -1, EIO, (int fd, struct stat *st), (fd, st))
WRAP(int, fstat64, -1, EIO, (int fd, struct stat *st), (fd, st))
WRAP(int, fsync, -1, EIO, (int fd), (fd))
WRAP(int, rename, -1, EXDEV, (const char *from, const char *to), (from, to))
WRAP(void *, mmap, MAP_FAILED, ENOMEM, (void *at, size_t n, int prot, int flags, int fd, off_t offset),
     (at, n, prot, flags, fd, offset))
WRAP(void *, mmap64, MAP_FAILED, ENOMEM, (void *at, size_t n, int prot, int flags, int fd, off_t offset),
     (at, n, prot, flags, fd, offset))

ssize_t __real_write(int fd, const void *data, size_t n);
ssize_t __wrap_write(int fd, const void *data, size_t n);
ssize_t __wrap_write(int fd, const void *data, size_t n)
{
    if (fails()) {
        errno = ENOSPC;
        return -1;
    }
    if (short_writes && n_writes++ % 2 == 0) {
        errno = EINTR;
        return -1;
    }
    return __real_write(fd, data, short_writes && n > 5000 ? 5000 : n);
}

/* Runs the operation with its first, second, … call failing until none is left to fail; returns how many there were. */
static int fail_each(int (*operation)(struct engine_error *err), const char *names)
{
    struct engine_error err;
    int n = 0;
    for (;; n++) {
        int files = format_count_files();
        memset(&err, 0, sizeof(err));
        fired = false;
        countdown = n;
        int rc = operation(&err);
        countdown = -1;
        if (!fired) {
            ck_assert_msg(rc == 0, "%s", err.text);
            return n;
        }
        ck_assert_msg(rc == -1, "call %d failed and nobody said so", n);
        format_assert_error(&err, names);
        ck_assert_int_eq(format_count_files(), files);
    }
}

static int write_model(struct engine_error *err)
{
    struct recall_config config;
    recall_config_init(&config);
    return recall_model_write(format_path("written.gguf"), &config, err);
}

START_TEST(a_model_is_written_whole_or_not_at_all)
{
    format_write_file(format_path("written.gguf"), "old", 3);
    ck_assert_int_ge(fail_each(write_model, format_path("written.gguf")), 8);
    struct stat st;
    ck_assert_int_eq(stat(format_path("written.gguf"), &st), 0);
    ck_assert_int_gt(st.st_size, 1000000);
}
END_TEST

START_TEST(short_and_interrupted_writes_are_continued)
{
    struct engine_error err;
    size_t size = 0, short_size = 0;
    ck_assert_msg(write_model(&err) == 0, "%s", err.text);
    char *want = format_read_file(format_path("written.gguf"), &size);
    short_writes = true;
    int rc = write_model(&err);
    short_writes = false;
    ck_assert_msg(rc == 0, "%s", err.text);
    char *got = format_read_file(format_path("written.gguf"), &short_size);
    ck_assert(want != NULL && got != NULL && size == short_size && memcmp(want, got, size) == 0);
    free(want);
    free(got);
}
END_TEST

static int open_model(struct engine_error *err)
{
    struct gguf *file = NULL;
    int rc = gguf_open(format_path("model.gguf"), &file, err);
    countdown = -1; /* what Check calls must not fail */
    ck_assert((rc == 0) == (file != NULL));
    gguf_close(&file);
    return rc;
}

static struct gguf *open_file;

static int open_tokenizer(struct engine_error *err)
{
    struct tokenizer *tok = NULL;
    int rc = tokenizer_open(open_file, &tok, err);
    countdown = -1;
    ck_assert((rc == 0) == (tok != NULL));
    tokenizer_close(&tok);
    return rc;
}

static struct tokenizer *open_tok;

static int encode(struct engine_error *err)
{
    engine_token *ids = NULL;
    size_t n = 77;
    int rc = tokenizer_encode(open_tok, "some text", 9, true, true, &ids, &n, err);
    countdown = -1;
    ck_assert(rc == 0 ? ids != NULL && n == 10 : ids == NULL && n == 77);
    free(ids);
    return rc;
}

START_TEST(opening_and_encoding_fail_cleanly)
{
    struct recall_config config;
    struct engine_error err;
    recall_config_init(&config);
    ck_assert_int_eq(recall_model_write(format_path("model.gguf"), &config, &err), 0);
    ck_assert_int_ge(fail_each(open_model, format_path("model.gguf")), 8);
    ck_assert_int_eq(gguf_open(format_path("model.gguf"), &open_file, &err), 0);
    ck_assert_int_ge(fail_each(open_tokenizer, format_path("model.gguf")), 4);
    ck_assert_int_eq(tokenizer_open(open_file, &open_tok, &err), 0);
    ck_assert_int_ge(fail_each(encode, "9 bytes"), 4);
    tokenizer_close(&open_tok);
    gguf_close(&open_file);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model faults");
    TCase *tc = tcase_create("model faults");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, a_model_is_written_whole_or_not_at_all);
    tcase_add_test(tc, short_and_interrupted_writes_are_continued);
    tcase_add_test(tc, opening_and_encoding_fail_cleanly);
    suite_add_tcase(suite, tc);
    return format_run(suite);
}
