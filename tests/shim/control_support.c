/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/shim/control_support.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <check.h>

static int finish(struct control_calls *calls, char *reason, size_t size)
{
    if (calls->reason)
        snprintf(reason, size, "%s", calls->reason);
    return calls->result;
}

static int note_suspend(void *user, uint32_t wait_ms, char *reason, size_t size)
{
    struct control_calls *calls = user;
    calls->wait_ms = wait_ms;
    atomic_fetch_add(&calls->n_suspend, 1);
    while (atomic_load(&calls->slow_suspend))
        usleep(1000);
    return finish(calls, reason, size);
}

static int note_resume(void *user, char *reason, size_t size)
{
    struct control_calls *calls = user;
    atomic_fetch_add(&calls->n_resume, 1);
    return finish(calls, reason, size);
}

static int note_advise(void *user, void *address, size_t bytes, int advice, char *reason, size_t size)
{
    struct control_calls *calls = user;
    calls->address = (uintptr_t)address;
    calls->bytes = bytes;
    calls->advice = advice;
    atomic_fetch_add(&calls->n_advise, 1);
    return finish(calls, reason, size);
}

static int note_info(void *user, char *text, size_t size)
{
    struct control_calls *calls = user;
    atomic_fetch_add(&calls->n_info, 1);
    if (!calls->info)
        return -EIO;
    return snprintf(text, size, "%s", calls->info) < (int)size ? 0 : -ENOSPC;
}

const struct shim_control_ops control_fake_ops = {note_suspend, note_resume, note_advise, note_info};

struct control_calls control_calls;
struct shim_control *control;

void control_start(void)
{
    control_calls = (struct control_calls){.info = "state=running"};
    ck_assert_int_eq(shim_control_open(&control_fake_ops, &control_calls, &control), 0);
}

void control_stop(void)
{
    shim_control_close(&control);
    ck_assert_ptr_null(control);
}

int control_client(void)
{
    int fd = control_connect(shim_control_name(control));
    ck_assert_msg(fd >= 0, "%s", strerror(errno));
    return fd;
}

int control_connect(const char *name)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t n = strlen(name);
    memcpy(address.sun_path + 1, name, n);
    if (connect(fd, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)) == 0)
        return fd;
    int number = errno;
    close(fd);
    errno = number;
    return -1;
}

const char *control_ask_bytes(int fd, const void *request, size_t bytes)
{
    static char answer[SHIM_CONTROL_MAX + 1];
    /* Where the other end is closed already, its last words may still be there. */
    ssize_t n = send(fd, request, bytes, MSG_NOSIGNAL);
    ck_assert_msg(n == (ssize_t)bytes || errno == EPIPE || errno == ECONNRESET, "%s", strerror(errno));
    ck_assert_int_eq(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 30000), 1);
    n = recv(fd, answer, sizeof answer - 1, 0);
    if (n <= 0)
        return "(gone)";
    answer[n] = '\0';
    ck_assert_uint_eq(strlen(answer), (size_t)n);
    return answer;
}

const char *control_ask(int fd, const char *request)
{
    return control_ask_bytes(fd, request, strlen(request));
}
