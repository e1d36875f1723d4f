/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of model files share: seeded numbers, a scratch directory, files in it. */
#ifndef TESTS_ENGINE_FORMAT_SUPPORT_H
#define TESTS_ENGINE_FORMAT_SUPPORT_H

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/scale.h"
#include "gguf.h"

/* ck_assert_msg for inner loops: that one writes its place to a pipe each time, this one only if it fails. */
#define FORMAT_ASSERT(condition, ...)                                                                                  \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            ck_abort_msg(__VA_ARGS__);                                                                                 \
    } while (0)

#ifndef KVMM_SHARED_DIR /* the build says where the source is */
#define KVMM_SHARED_DIR "../shared"
#endif

/* splitmix64 (Steele, Lea, Flood 2014). */
static inline uint64_t format_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static char format_dir[] = "/tmp/kvmm-format-XXXXXX";

static inline const char *format_path(const char *name)
{
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", format_dir, name);
    return path;
}

static inline int format_count_files(void)
{
    int n = 0;
    DIR *dir = opendir(format_dir);
    ck_assert_ptr_nonnull(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static inline void format_write_file(const char *path, const void *data, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, data, size), (ssize_t)size);
    close(fd);
}

static inline char *format_read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rbe");
    if (file == NULL)
        return NULL;
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*size + 1);
    ck_assert_ptr_nonnull(data);
    ck_assert_uint_eq(fread(data, 1, *size, file), *size);
    fclose(file);
    return data;
}

/* One line that names the file. */
static inline void format_assert_error(const struct engine_error *err, const char *path)
{
    FORMAT_ASSERT(memchr(err->text, '\0', sizeof(err->text)) != NULL, "a message without an end");
    FORMAT_ASSERT(strstr(err->text, path) != NULL, "\"%s\" does not name %s", err->text, path);
    for (const char *c = err->text; *c != '\0'; c++)
        FORMAT_ASSERT((unsigned char)*c >= ' ', "a control character in the message \"%s\"", err->text);
}

/* stories260K.gguf in KVMM_SHARED or beside the source tree; NULL, and a word on stderr, if it isn't there. */
static inline const char *format_stories(void)
{
    static char path[1024];
    const char *shared = getenv("KVMM_SHARED");
    snprintf(path, sizeof(path), "%s/models/stories260K/stories260K.gguf", shared != NULL ? shared : KVMM_SHARED_DIR);
    if (access(path, R_OK) == 0)
        return path;
    fprintf(stderr, "skipped: %s is not there\n", path);
    return NULL;
}

static inline int format_run(Suite *suite)
{
    if (mkdtemp(format_dir) == NULL)
        return 1;
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    DIR *dir = opendir(format_dir);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir != NULL)
        closedir(dir);
    rmdir(format_dir);
    return failed != 0;
}

#endif
