/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/shim_client.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tools/pagemap_reader.h"
#include "tools/printable.h"

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t deadline_in(uint64_t wait_ms)
{
    return now_ms() + (wait_ms < INT_MAX ? (int64_t)wait_ms : INT_MAX);
}

/* Never 0, which is no limit for SO_SNDTIMEO. */
static int64_t left_ms(int64_t deadline)
{
    int64_t left = deadline - now_ms();
    return left > 0 ? left : 1;
}

/* ---- names --------------------------------------------------------------------------------------------------- */

/* An abstract name without its NUL, of a socket that listens. */
struct name {
    pid_t inside; /* the id in it: what the process has in its own PID namespace */
    char text[sizeof((struct sockaddr_un *)0)->sun_path];
};

/* "kvmm-shim/PID" or "kvmm-shim/PID/XXXXXXXXXXXXXXXX". */
static bool parse_name(const char *text, struct name *name)
{
    const size_t before = strlen(SHIM_CONTROL_NAME);
    if (strncmp(text, SHIM_CONTROL_NAME, before) != 0 || !isdigit((unsigned char)text[before]))
        return false;
    char *end;
    errno = 0;
    long pid = strtol(text + before, &end, 10);
    if (errno || pid <= 0 || pid > INT_MAX)
        return false;
    if (*end == '/')
        end += strspn(end + 1, "0123456789abcdef") == 16 ? 17 : 0;
    if (*end != '\0')
        return false;
    name->inside = (pid_t)pid;
    snprintf(name->text, sizeof name->text, "%s", text);
    return true;
}

/* A line of /proc/net/unix: "Num RefCount Protocol Flags Type St Inode Path", '@' being the NUL of an abstract name. */
static bool parse_line(char *line, struct name *name)
{
    enum { LISTENS = 0x10000 };
    unsigned flags;
    int at = 0;
    line[strcspn(line, "\n")] = '\0';
    if (sscanf(line, "%*s %*s %*s %x %*s %*s %*s @%n", &flags, &at) != 1 || at == 0)
        return false;
    return flags & LISTENS && parse_name(line + at, name);
}

/* Of the id `inside`, or all for 0. False: a reason in text. */
static bool find_names(pid_t inside, struct name **out, size_t *n_out, char *text)
{
    FILE *file = fopen("/proc/net/unix", "re");
    if (!file) {
        snprintf(text, SHIM_CLIENT_TEXT, "/proc/net/unix: %s", strerror(errno));
        return false;
    }
    struct name *names = NULL;
    size_t n = 0;
    char *line = NULL;
    size_t room = 0;
    bool ok = true;
    while (ok && getline(&line, &room, file) > 0) {
        struct name name;
        if (!parse_line(line, &name) || (inside && name.inside != inside))
            continue;
        struct name *more = realloc(names, (n + 1) * sizeof *names);
        ok = more != NULL;
        if (ok) {
            names = more;
            names[n++] = name;
        }
    }
    free(line);
    fclose(file);
    if (!ok) {
        free(names);
        snprintf(text, SHIM_CLIENT_TEXT, "no memory");
        return false;
    }
    *out = names;
    *n_out = n;
    return true;
}

/* ---- connections --------------------------------------------------------------------------------------------- */

/* Returns the descriptor, or -errno; -EAGAIN: not in time. *pid: whose it is, 0 if that process has no id here. */
static int connect_to(const struct name *name, int64_t deadline, pid_t *pid)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int64_t left = left_ms(deadline);
    struct timeval limit = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t n = strnlen(name->text, sizeof address.sun_path - 1);
    memcpy(address.sun_path + 1, name->text, n);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
    struct ucred peer;
    socklen_t peer_bytes = sizeof peer;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) ||
        connect(fd, (const struct sockaddr *)&address, bytes) ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_bytes)) {
        int number = errno;
        close(fd);
        return -number;
    }
    *pid = peer.pid;
    return fd;
}

/* A refusal may be there already and the other end closed: then what can't be sent isn't needed. */
static bool send_request(int fd, const char *request)
{
    ssize_t n = send(fd, request, strlen(request), MSG_NOSIGNAL);
    return n >= 0 || errno == EPIPE || errno == ECONNRESET;
}

static enum shim_client_answer read_answer(const char *packet, size_t bytes, char *text)
{
    static const struct {
        const char *begins;
        enum shim_client_answer answer;
    } kinds[] = {{"ok ", SHIM_CLIENT_OK}, {"error ", SHIM_CLIENT_ERROR}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t n = strlen(kinds[i].begins);
        if (bytes <= n || memcmp(packet, kinds[i].begins, n) != 0)
            continue;
        printable_copy(text, SHIM_CLIENT_TEXT, packet + n, bytes - n);
        bool denied = kinds[i].answer == SHIM_CLIENT_ERROR && strcmp(text, "not permitted") == 0;
        return denied ? SHIM_CLIENT_DENIED : kinds[i].answer;
    }
    text[0] = '\0';
    if (bytes == 2 && memcmp(packet, "ok", 2) == 0)
        return SHIM_CLIENT_OK;
    snprintf(text, SHIM_CLIENT_TEXT, "it answers what is neither ok nor an error");
    return SHIM_CLIENT_FAILED;
}

static enum shim_client_answer receive(int fd, int64_t deadline, char *text)
{
    char packet[SHIM_CONTROL_MAX];
    text[0] = '\0';
    for (;;) {
        int64_t left = deadline - now_ms();
        struct pollfd polled = {.fd = fd, .events = POLLIN};
        int n_ready = poll(&polled, 1, left > 0 ? (int)left : 0);
        if (n_ready == 0)
            return SHIM_CLIENT_TIMED_OUT;
        ssize_t n = n_ready > 0 ? recv(fd, packet, sizeof packet, MSG_DONTWAIT) : -1;
        if (n > 0)
            return read_answer(packet, (size_t)n, text);
        if (n == 0) {
            snprintf(text, SHIM_CLIENT_TEXT, "it closed the connection");
            return SHIM_CLIENT_FAILED;
        }
        /* ECONNRESET comes once, before what was sent to us until then. */
        if (errno != EINTR && errno != EAGAIN && errno != ECONNRESET) {
            snprintf(text, SHIM_CLIENT_TEXT, "%s", strerror(errno));
            return SHIM_CLIENT_FAILED;
        }
    }
}

/* ---- one process --------------------------------------------------------------------------------------------- */

static bool has_shim(pid_t pid, bool *known)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t room = 0;
    bool found = false;
    *known = file != NULL;
    while (file && !found && getline(&line, &room, file) > 0)
        found = strstr(line, "/libkvmm_shim.so") != NULL;
    free(line);
    if (file)
        fclose(file);
    return found;
}

static bool in_other_network(pid_t pid)
{
    char path[64];
    struct stat theirs;
    struct stat ours;
    snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
    return stat(path, &theirs) == 0 && stat("/proc/self/ns/net", &ours) == 0 &&
           (theirs.st_ino != ours.st_ino || theirs.st_dev != ours.st_dev);
}

static enum shim_client_answer without_socket(pid_t pid, char *text)
{
    text[0] = '\0';
    if (pagemap_process_ended(pid))
        return SHIM_CLIENT_NO_PROCESS;
    bool known;
    if (in_other_network(pid))
        snprintf(text, SHIM_CLIENT_TEXT, "it is in another network namespace, which `nsenter -n -t %d' enters",
                 (int)pid);
    else if (has_shim(pid, &known))
        snprintf(text, SHIM_CLIENT_TEXT, "it runs under the shim, but has no cache");
    else if (known)
        snprintf(text, SHIM_CLIENT_TEXT, "it does not run under the shim");
    else
        snprintf(text, SHIM_CLIENT_TEXT, "it does not run under the shim, or has no cache");
    return SHIM_CLIENT_NO_SOCKET;
}

enum shim_client_answer shim_client_ask(pid_t pid, const char *request, uint64_t wait_ms, char *text)
{
    int64_t deadline = deadline_in(wait_ms);
    struct name *names;
    size_t n;
    if (!find_names(pagemap_pid_inside(pid), &names, &n, text))
        return SHIM_CLIENT_FAILED;
    enum shim_client_answer answer = SHIM_CLIENT_NO_SOCKET;
    bool stuck = false; /* one of them, of whomever it is */
    for (size_t i = 0; i < n && answer == SHIM_CLIENT_NO_SOCKET; i++) {
        pid_t reached = 0;
        int fd = connect_to(&names[i], deadline, &reached);
        stuck = stuck || fd == -EAGAIN;
        if (fd >= 0 && reached == pid) {
            bool sent = send_request(fd, request);
            answer = sent ? receive(fd, deadline, text) : SHIM_CLIENT_TIMED_OUT;
        }
        if (fd >= 0)
            close(fd);
    }
    free(names);
    if (answer == SHIM_CLIENT_NO_SOCKET)
        answer = stuck ? SHIM_CLIENT_TIMED_OUT : without_socket(pid, text);
    return answer;
}

void shim_client_explain(const char *command, pid_t pid, enum shim_client_answer answer, const char *text)
{
    fprintf(stderr, "%s: ", command);
    switch (answer) {
    case SHIM_CLIENT_NO_PROCESS:
        fprintf(stderr, "there is no process %d\n", (int)pid);
        return;
    case SHIM_CLIENT_NO_SOCKET:
    case SHIM_CLIENT_FAILED:
        fprintf(stderr, "process %d can't be asked: %s\n", (int)pid, text);
        return;
    case SHIM_CLIENT_DENIED:
        fprintf(stderr, "process %d may not be controlled by this user\n", (int)pid);
        return;
    case SHIM_CLIENT_TIMED_OUT:
        fprintf(stderr, "process %d did not answer in time: it is busy or stopped\n", (int)pid);
        return;
    case SHIM_CLIENT_ERROR:
        fprintf(stderr, "process %d answers: %s\n", (int)pid, text);
        return;
    case SHIM_CLIENT_OK:
        break;
    }
    fprintf(stderr, "process %d\n", (int)pid);
}

/* ---- all processes ------------------------------------------------------------------------------------------- */

static int by_pid(const void *left, const void *right)
{
    pid_t a = ((const struct shim_client_process *)left)->pid;
    pid_t b = ((const struct shim_client_process *)right)->pid;
    return a < b ? -1 : a > b;
}

/* All are asked before the first answer is waited for, so that they work at the same time. */
static size_t ask_each(const struct name *names, size_t n_names, const char *request, uint64_t wait_ms,
                       struct shim_client_process *processes, int *fds)
{
    int64_t deadline = deadline_in(wait_ms);
    size_t n = 0;
    for (size_t i = 0; i < n_names; i++) {
        pid_t pid = 0;
        int fd = connect_to(&names[i], deadline, &pid);
        if (fd < 0)
            continue; /* it has just ended; or can't be reached, so that not even its id is known */
        if (pid == 0) {
            close(fd);
            continue;
        }
        processes[n].pid = pid;
        processes[n].answer = send_request(fd, request) ? SHIM_CLIENT_OK : SHIM_CLIENT_TIMED_OUT;
        fds[n++] = fd;
    }
    for (size_t i = 0; i < n; i++) {
        if (processes[i].answer == SHIM_CLIENT_OK)
            processes[i].answer = receive(fds[i], deadline, processes[i].text);
        close(fds[i]);
    }
    return n;
}

enum shim_client_answer shim_client_ask_all(const char *request, uint64_t wait_ms, struct shim_client_process **out,
                                            size_t *n_out, char *text)
{
    struct name *names;
    size_t n_names;
    if (!find_names(0, &names, &n_names, text))
        return SHIM_CLIENT_FAILED;
    struct shim_client_process *processes = calloc(n_names + 1, sizeof *processes);
    int *fds = calloc(n_names + 1, sizeof *fds);
    enum shim_client_answer answer = processes && fds ? SHIM_CLIENT_OK : SHIM_CLIENT_FAILED;
    if (answer == SHIM_CLIENT_OK) {
        *n_out = ask_each(names, n_names, request, wait_ms, processes, fds);
        qsort(processes, *n_out, sizeof *processes, by_pid);
        *out = processes;
    } else {
        snprintf(text, SHIM_CLIENT_TEXT, "no memory");
        free(processes);
    }
    free(fds);
    free(names);
    return answer;
}
