/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define LINE_BYTES 512

/* vsnprintf of integers, strings and pointers takes no memory and no lock in glibc. */
static __attribute__((format(printf, 1, 0))) void write_line(const char *format, va_list args)
{
    static const char mark[] = "kvmm: ";
    int error = errno;
    char line[LINE_BYTES];
    int n = snprintf(line, sizeof line, "%s", mark);
    int more = vsnprintf(line + n, sizeof line - (size_t)n, format, args);
    n = more < 0 ? n : n + more;
    if (n > LINE_BYTES - 1)
        n = LINE_BYTES - 1;
    line[n++] = '\n'; /* in place of the NUL */
    ssize_t written;
    do
        written = write(STDERR_FILENO, line, (size_t)n);
    while (written < 0 && errno == EINTR);
    errno = error;
}

void shim_log(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    write_line(format, args);
    va_end(args);
}

void shim_log_once(bool *said, const char *format, ...)
{
    bool *flag = said;
    if (__atomic_exchange_n(flag, true, __ATOMIC_RELAXED))
        return;
    va_list args;
    va_start(args, format);
    write_line(format, args);
    va_end(args);
}

void shim_log_line(void *user, bool warning, const char *line)
{
    shim_log("%s%s", warning ? "warning: " : "", line);
}
