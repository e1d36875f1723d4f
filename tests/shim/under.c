/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/shim/under.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "shim/include/kvmm/shim.h"

static int (*advise_function)(void *, size_t, int);

void under_shim(void)
{
    advise_function = (int (*)(void *, size_t, int))dlsym(RTLD_DEFAULT, "kvmm_advise");
    if (advise_function)
        return;
    printf("skipped: the shim is not preloaded (LD_PRELOAD)\n");
    exit(77);
}

int advise(void *address, size_t bytes, int advice)
{
    return advise_function(address, bytes, advice);
}

bool is_managed(const void *address)
{
    return advise((void *)address, 1, KVMM_WILLNEED) != -ENOENT;
}

bool was_managed(uintptr_t address)
{
    return is_managed((const void *)address);
}

struct fake_pager_calls *pager_calls(void)
{
    struct fake_pager_calls *(*get)(void) =
        (struct fake_pager_calls * (*)(void)) dlsym(RTLD_DEFAULT, "fake_pager_calls");
    return get ? get() : NULL;
}

static unsigned char byte_at(size_t i, unsigned seed)
{
    return (unsigned char)((i * 2654435761u + seed) >> 5 | 1);
}

void fill(void *address, size_t bytes, unsigned seed)
{
    unsigned char *at = address;
    for (size_t i = 0; i < bytes; i++)
        at[i] = byte_at(i, seed);
}

bool holds(const void *address, size_t bytes, unsigned seed)
{
    const unsigned char *at = address;
    for (size_t i = 0; i < bytes; i++) {
        if (at[i] != byte_at(i, seed))
            return false;
    }
    return true;
}

bool is_zero(const void *address, size_t bytes)
{
    const unsigned char *at = address;
    for (size_t i = 0; i < bytes; i++) {
        if (at[i])
            return false;
    }
    return true;
}

static int caught = -1;

void catch_stderr(void)
{
    caught = memfd_create("stderr", MFD_CLOEXEC);
    ck_assert_int_ge(caught, 0);
    ck_assert_int_eq(dup2(caught, STDERR_FILENO), STDERR_FILENO);
}

const char *caught_stderr(void)
{
    static char text[1 << 16];
    ssize_t n = pread(caught, text, sizeof text - 1, 0);
    ck_assert_int_ge(n, 0);
    text[n] = '\0';
    return text;
}

int count_lines(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

int in_child(int (*run)(void *arg), void *arg)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        _exit(run(arg));
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
