/* SPDX-License-Identifier: Apache-2.0 */
#include "program.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_support.h"

static void read_file(const char *path, char *text)
{
    FILE *f = fopen(path, "re");
    ck_assert_ptr_nonnull(f);
    text[fread(text, 1, TEXT_MAX - 1, f)] = '\0';
    (void)fclose(f);
}

void program_run(struct result *r, const char *program, const char *const *args, const char *stdout_path)
{
    char out_path[256], err_path[256];
    (void)snprintf(out_path, sizeof out_path, "%s", test_path("stdout"));
    (void)snprintf(err_path, sizeof err_path, "%s", test_path("stderr"));
    union {
        const char *in[MAX_ARGS + 2];
        char *out[MAX_ARGS + 2];
    } argv = {{program}};
    for (int i = 0; args[i]; i++) {
        ck_assert_int_lt(i, MAX_ARGS);
        argv.in[i + 1] = args[i];
    }
    posix_spawn_file_actions_t actions;
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    (void)posix_spawn_file_actions_addopen(&actions, 1, stdout_path ? stdout_path : out_path,
                                           O_WRONLY | O_CREAT | O_TRUNC, 0600);
    (void)posix_spawn_file_actions_addopen(&actions, 2, err_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    pid_t pid;
    ck_assert_int_eq(posix_spawn(&pid, program, &actions, NULL, argv.out, environ), 0);
    (void)posix_spawn_file_actions_destroy(&actions);
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    r->status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    if (!stdout_path)
        read_file(out_path, r->out);
    read_file(err_path, r->err);
}

bool one_line(const char *text)
{
    const char *end = strchr(text, '\n');
    return end && end > text && end[1] == '\0';
}
