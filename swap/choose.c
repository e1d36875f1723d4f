/* SPDX-License-Identifier: Apache-2.0 */
#include "swap/choose.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "swap/swap.h"

#define LINE_BYTES 512

void swap_log(const struct swap_file_config *config, bool warning, const char *format, ...)
{
    if (config->log == NULL)
        return;
    char line[LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    config->log(config->log_user, warning, line);
}

int swap_explain(char *reason, size_t reason_size, int error, const char *format, ...)
{
    if (reason != NULL && reason_size > 0) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(reason, reason_size, format, arguments);
        va_end(arguments);
    }
    return -error;
}

/* The kernel's switch (kernel.io_uring_disabled), or -1 where there is none to read. */
static int uring_switch(void)
{
    char digit = 0;
    int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, &digit, 1);
    close(fd);
    return n == 1 && digit >= '0' && digit <= '9' ? digit - '0' : -1;
}

/* Why io_uring is not to be had, for a person. */
static const char *why_no_uring(int result)
{
    if (result == -ENOSYS)
        return "the kernel or this build has none";
    if (result == -EPERM || result == -EACCES)
        return uring_switch() > 0 ? "kernel.io_uring_disabled forbids it"
                                  : "forbidden to this process, as in many containers";
    if (result == -ENOMEM)
        return "not enough memory that may be locked (RLIMIT_MEMLOCK)";
    if (result == -EMFILE || result == -ENFILE)
        return "too many open files";
    return strerrordesc_np(-result);
}

static int open_auto(const struct swap_file_config *config, const struct swap_backend_config *what,
                     struct swap_backend **backend, struct swap_backend_info *info, char *reason, size_t reason_size)
{
    bool wants_uring = strcmp(config->backend, "threads") != 0, may_fall_back = strcmp(config->backend, "auto") == 0;
    if (wants_uring) {
        int result = swap_uring_open(what, backend, info);
        if (result == 0 && what->n_buffers > 0 && !info->fixed_buffers)
            swap_log(config, true,
                     "swap: buffers could not be registered with io_uring (limit of locked memory, "
                     "RLIMIT_MEMLOCK?): plain transfers, at more CPU time");
        if (result == 0)
            return 0;
        if (!may_fall_back)
            return swap_explain(reason, reason_size, -result, "swap directory %s: io_uring: %s", config->dir,
                                why_no_uring(result));
        swap_log(config, true, "swap: no io_uring (%s): threads do the I/O", why_no_uring(result));
    }
    int result = swap_threads_open(what, backend, info);
    if (result < 0)
        return swap_explain(reason, reason_size, -result, "swap directory %s: I/O threads: %s", config->dir,
                            strerrordesc_np(-result));
    return 0;
}

int swap_choose_backend(const struct swap_file_config *config, int fd, struct swap_backend **backend,
                        struct swap_backend_info *info, const char **name, char *reason, size_t reason_size)
{
    const struct swap_backend_config what = {
        .fd = fd,
        .block_bytes = config->block_bytes,
        .read_depth = config->read_depth,
        .write_depth = config->write_depth,
        .buffers = config->buffers,
        .n_buffers = config->buffers == NULL ? 0 : config->n_buffers,
    };
    struct swap_backend *made, *faults;
    int result = open_auto(config, &what, &made, info, reason, reason_size);
    if (result < 0)
        return result;
    *name = made->ops->name;
    if (config->faults != NULL) {
        result = swap_faults_open(made, config->faults, &faults);
        if (result < 0) {
            made->ops->close(made);
            return swap_explain(reason, reason_size, -result, "swap directory %s: fault injector: %s", config->dir,
                                strerrordesc_np(-result));
        }
        made = faults;
    }
    *backend = made;
    return 0;
}
