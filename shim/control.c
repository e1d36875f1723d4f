/* SPDX-License-Identifier: Apache-2.0
 *
 * The control socket and its thread, which alone touches the connections. It waits in poll() only: no read and no write
 * blocks, so a client that is slow or stuck holds up nobody. */
#include "shim/control.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES    (256 << 10) /* the engine's thread-local variables are taken from it too */
#define BACKLOG        64
#define SILENCE_NS     1000000000 /* a client that was silent for so long may be closed for another one */
#define ACCEPT_WAIT_NS 1000000000 /* after an accept that failed: the engine has no descriptors left */
#define OVERFLOW_UID   65534      /* stands for users who aren't mapped into our user namespace: user_namespaces(7) */

struct client {
    atomic_int fd; /* -1: free. Written by the thread, read in a forked child. */
    int64_t heard_ns;
};

struct shim_control {
    struct shim_control_ops ops;
    void *user;
    pthread_t thread;
    atomic_int listener;
    atomic_bool stop;
    int64_t accept_after_ns;
    struct client clients[SHIM_CONTROL_CLIENTS];
    struct pollfd polled[SHIM_CONTROL_CLIENTS + 1]; /* the last one is the listener's */
    char name[sizeof((struct sockaddr_un *)0)->sun_path];
    char request[SHIM_CONTROL_MAX + 1];
    char answer[SHIM_CONTROL_MAX + 1];
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- connections --------------------------------------------------------------------------------------------- */

/* What was sent reaches the client still. Unread requests would turn it into ECONNRESET: none can come behind the
 * shutdown, and those that are there are read. The shutdown holds for a copy in a forked child too. */
static void hang_up(int fd)
{
    char byte;
    shutdown(fd, SHUT_RD);
    while (recv(fd, &byte, 1, MSG_DONTWAIT) > 0) {
    }
    shutdown(fd, SHUT_WR);
    close(fd);
}

/* The number is forgotten before it is free for others: a child forked in between closes none but ours. */
static void drop(struct client *client)
{
    int fd = atomic_exchange(&client->fd, -1);
    if (fd >= 0)
        hang_up(fd);
}

/* False if the client has left so many answers unread that there is no room for this one. */
static bool tell(int fd, const char *text, size_t bytes)
{
    ssize_t n;
    do
        n = send(fd, text, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)bytes || (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM);
}

/* True if each user outside has one number of its own in here, so that OVERFLOW_UID is one user and not all the rest. */
static bool every_user_is_mapped(void)
{
    char text[128];
    int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    unsigned first;
    unsigned outside;
    unsigned count;
    return sscanf(text, "%u %u %u", &first, &outside, &count) == 3 && first == 0 && count == UINT32_MAX;
}

/* The engine may have changed its user since the start, so it is asked each time. */
static bool may_ask(int fd)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) || bytes != sizeof peer)
        return false;
    if (peer.uid == 0)
        return true;
    return peer.uid == geteuid() && (peer.uid != OVERFLOW_UID || every_user_is_mapped());
}

/* A free place, or that of the client that was silent for longest if that is long enough; NULL: none. *wait_ns: after
 * which time to look again. */
static struct client *find_place(struct shim_control *control, int64_t now, int64_t *wait_ns)
{
    struct client *oldest = &control->clients[0];
    for (int i = 0; i < SHIM_CONTROL_CLIENTS; i++) {
        struct client *client = &control->clients[i];
        if (atomic_load(&client->fd) < 0)
            return client;
        if (client->heard_ns < oldest->heard_ns)
            oldest = client;
    }
    *wait_ns = oldest->heard_ns + SILENCE_NS - now;
    return *wait_ns <= 0 ? oldest : NULL;
}

static void accept_client(struct shim_control *control, struct client *place)
{
    static const char refusal[] = "error not permitted";
    int fd = accept4(atomic_load(&control->listener), NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            control->accept_after_ns = now_ns() + ACCEPT_WAIT_NS;
        return;
    }
    if (!may_ask(fd)) {
        tell(fd, refusal, sizeof refusal - 1);
        hang_up(fd);
        return;
    }
    drop(place);
    place->heard_ns = now_ns();
    atomic_store(&place->fd, fd);
}

/* One request of a client that poll() has something of. */
static void serve(struct shim_control *control, struct client *client, short events)
{
    int fd = atomic_load(&client->fd);
    if (events & POLLNVAL) { /* closed by the engine: the number isn't ours any more */
        atomic_store(&client->fd, -1);
        return;
    }
    ssize_t bytes = recv(fd, control->request, sizeof control->request, MSG_DONTWAIT | MSG_TRUNC);
    /* ECONNRESET: it went away without reading an answer; its requests behind that one are still there. */
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNRESET))
        return;
    /* An empty packet looks like the end, but that one is announced. */
    if (bytes < 0 || (bytes == 0 && (events & (POLLHUP | POLLRDHUP | POLLERR)))) {
        drop(client);
        return;
    }
    size_t length = shim_control_answer(&control->ops, control->user, control->request, (size_t)bytes, control->answer,
                                        sizeof control->answer);
    if (!tell(fd, control->answer, length))
        drop(client);
    client->heard_ns = now_ns();
}

/* ---- the thread ---------------------------------------------------------------------------------------------- */

/* Fills control->polled; returns poll()'s timeout in milliseconds. */
static int prepare_poll(struct shim_control *control)
{
    for (int i = 0; i < SHIM_CONTROL_CLIENTS; i++)
        control->polled[i] = (struct pollfd){.fd = atomic_load(&control->clients[i].fd), .events = POLLIN | POLLRDHUP};
    int64_t now = now_ns();
    int64_t wait_ns = 0;
    struct client *place = find_place(control, now, &wait_ns);
    if (control->accept_after_ns > now) {
        place = NULL;
        wait_ns = control->accept_after_ns - now;
    }
    /* Without events it still tells of the shutdown that ends the thread. */
    control->polled[SHIM_CONTROL_CLIENTS] =
        (struct pollfd){.fd = atomic_load(&control->listener), .events = place ? POLLIN : 0};
    return place ? -1 : (int)(wait_ns / 1000000) + 1;
}

static void *run(void *argument)
{
    struct shim_control *control = argument;
    pthread_setname_np(pthread_self(), "kvmm-control");
    while (!atomic_load(&control->stop)) {
        int timeout_ms = prepare_poll(control);
        int n = poll(control->polled, SHIM_CONTROL_CLIENTS + 1, timeout_ms);
        if (n < 0 && errno != EINTR) /* no memory; RLIMIT_NOFILE below what is polled */
            clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 100000000}, NULL);
        short events = n > 0 ? control->polled[SHIM_CONTROL_CLIENTS].revents : 0;
        if (events & POLLNVAL) { /* the engine has closed what it doesn't know */
            atomic_store(&control->listener, -1);
            break;
        }
        for (int i = 0; n > 0 && i < SHIM_CONTROL_CLIENTS && !atomic_load(&control->stop); i++)
            if (control->polled[i].revents)
                serve(control, &control->clients[i], control->polled[i].revents);
        int64_t wait_ns;
        struct client *place = events & POLLIN ? find_place(control, now_ns(), &wait_ns) : NULL;
        if (place && !atomic_load(&control->stop))
            accept_client(control, place);
    }
    for (int i = 0; i < SHIM_CONTROL_CLIENTS; i++)
        drop(&control->clients[i]);
    return NULL;
}

/* ---- open and close ------------------------------------------------------------------------------------------ */

static int bind_name(struct shim_control *control, int fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t n = strlen(control->name);
    memcpy(address.sun_path + 1, control->name, n);
    return bind(fd, (const struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n));
}

static int bind_any(struct shim_control *control, int fd)
{
    snprintf(control->name, sizeof control->name, SHIM_CONTROL_NAME "%d", (int)getpid());
    if (bind_name(control, fd) == 0)
        return 0;
    if (errno != EADDRINUSE)
        return -errno;
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return -EADDRINUSE;
    snprintf(control->name, sizeof control->name, SHIM_CONTROL_NAME "%d/%016" PRIx64, (int)getpid(), random);
    return bind_name(control, fd) ? -errno : 0;
}

static int start_thread(struct shim_control *control)
{
    pthread_attr_t attributes;
    int result = pthread_attr_init(&attributes);
    if (result)
        return -result;
    result = pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    if (result == 0)
        result = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (result == 0) {
        result = pthread_create(&control->thread, &attributes, run, control);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_attr_destroy(&attributes);
    return -result;
}

int shim_control_open(const struct shim_control_ops *ops, void *user, struct shim_control **out)
{
    /* Not of the engine's allocator. */
    struct shim_control *control =
        mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (control == MAP_FAILED)
        return -errno;
    control->ops = *ops;
    control->user = user;
    for (int i = 0; i < SHIM_CONTROL_CLIENTS; i++)
        atomic_init(&control->clients[i].fd, -1);
    int result;
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0) {
        result = -errno;
        goto err_unmap;
    }
    atomic_init(&control->listener, listener);
    result = bind_any(control, listener);
    if (result)
        goto err_close;
    if (listen(listener, BACKLOG)) {
        result = -errno;
        goto err_close;
    }
    result = start_thread(control);
    if (result)
        goto err_close;
    *out = control;
    return 0;

err_close:
    close(listener);
err_unmap:
    munmap(control, sizeof *control);
    return result;
}

void shim_control_close(struct shim_control **out)
{
    struct shim_control *control = *out;
    if (!control)
        return;
    *out = NULL;
    atomic_store(&control->stop, true);
    shutdown(atomic_load(&control->listener), SHUT_RDWR); /* wakes the thread */
    pthread_join(control->thread, NULL);
    if (atomic_load(&control->listener) >= 0)
        close(atomic_load(&control->listener));
    munmap(control, sizeof *control);
}

void shim_control_forget_in_child(struct shim_control *control)
{
    if (!control)
        return;
    if (atomic_load(&control->listener) >= 0)
        close(atomic_load(&control->listener));
    for (int i = 0; i < SHIM_CONTROL_CLIENTS; i++) {
        int fd = atomic_load(&control->clients[i].fd);
        if (fd >= 0)
            close(fd);
    }
    munmap(control, sizeof *control);
}

const char *shim_control_name(const struct shim_control *control)
{
    return control->name;
}
