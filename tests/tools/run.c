/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/tools/run.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#define MOST_ARGUMENTS 16

static void split(char *text, char *argv[MOST_ARGUMENTS + 1])
{
    static char name[] = "kvmm";
    int n = 0;
    argv[n++] = name;
    char *save;
    for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        ck_assert_int_lt(n, MOST_ARGUMENTS);
        argv[n++] = word;
    }
    argv[n] = NULL;
}

/* In the child. The tool is opened before the user changes: its folder may be closed to others. */
static void become_tool(char **argv, uid_t as_user, int out, int err)
{
    const char *path = getenv("KVMM_TOOL");
    int tool = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (tool < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
        _exit(250);
    if (as_user && (setgid(as_user) || setuid(as_user)))
        _exit(251);
    unsetenv("COLUMNS");
    fexecve(tool, argv, environ);
    _exit(252);
}

static char *contents(int fd)
{
    off_t bytes = lseek(fd, 0, SEEK_END);
    ck_assert_int_ge(bytes, 0);
    char *text = calloc(1, (size_t)bytes + 1);
    ck_assert_ptr_nonnull(text);
    ck_assert_int_eq(pread(fd, text, (size_t)bytes, 0), bytes);
    close(fd);
    return text;
}

static void run_argv(struct run *run, uid_t as_user, int out, char **argv)
{
    int err = memfd_create("stderr", MFD_CLOEXEC);
    ck_assert_int_ge(err, 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        become_tool(argv, as_user, out, err);
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    run->status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    ck_assert_msg(run->status < 250, "the tool could not be run: KVMM_TOOL must name it");
    run->err = contents(err);
}

void run_tool(struct run *run, uid_t as_user, const char *arguments, ...)
{
    char text[1024];
    va_list args;
    va_start(args, arguments);
    vsnprintf(text, sizeof text, arguments, args);
    va_end(args);
    char *argv[MOST_ARGUMENTS + 1];
    split(text, argv);
    int out = memfd_create("stdout", MFD_CLOEXEC);
    ck_assert_int_ge(out, 0);
    run_argv(run, as_user, out, argv);
    run->out = contents(out);
}

void run_tool_to(struct run *run, const char *stdout_path, const char *arguments, ...)
{
    char text[1024];
    va_list args;
    va_start(args, arguments);
    vsnprintf(text, sizeof text, arguments, args);
    va_end(args);
    char *argv[MOST_ARGUMENTS + 1];
    split(text, argv);
    int out = open(stdout_path, O_WRONLY | O_CLOEXEC);
    ck_assert_int_ge(out, 0);
    run_argv(run, 0, out, argv);
    close(out);
    run->out = calloc(1, 1);
}

void run_free(struct run *run)
{
    free(run->out);
    free(run->err);
    *run = (struct run){0};
}

int run_count_lines(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += *text == '\n' || text[1] == '\0';
    return n;
}
