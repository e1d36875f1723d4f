/* SPDX-License-Identifier: Apache-2.0
 *
 * The control socket: what it lets in, what it holds out, and that no client gets in another's way. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <check.h>

#include "shim/include/kvmm/shim.h"
#include "tests/shim/control_support.h"
#include "tests/support/leaks.h"

#define NOBODY 65534

#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZER
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define THREAD_SANITIZER
#endif

static struct control_calls calls;
static struct shim_control *control;

static void open_control(void)
{
    calls = (struct control_calls){.info = "state=running"};
    ck_assert_int_eq(shim_control_open(&control_fake_ops, &calls, &control), 0);
}

static void close_control(void)
{
    shim_control_close(&control);
    ck_assert_ptr_null(control);
}

static int new_client(void)
{
    int fd = control_connect(shim_control_name(control));
    ck_assert_msg(fd >= 0, "%s", strerror(errno));
    return fd;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- requests ------------------------------------------------------------------------------------------------ */

START_TEST(requests_reach_their_operations)
{
    int fd = new_client();
    ck_assert_str_eq(control_ask(fd, "suspend"), "ok");
    ck_assert_uint_eq(calls.wait_ms, 60000);
    ck_assert_str_eq(control_ask(fd, "suspend 0"), "ok");
    ck_assert_uint_eq(calls.wait_ms, 0);
    ck_assert_str_eq(control_ask(fd, "suspend 4294967295"), "ok");
    ck_assert_uint_eq(calls.wait_ms, UINT32_MAX);
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    ck_assert_int_eq(calls.n_suspend, 3);
    ck_assert_int_eq(calls.n_resume, 1);
    ck_assert_str_eq(control_ask(fd, "advise 0x7fA0 4096 willneed"), "ok");
    ck_assert(calls.address == 0x7fa0 && calls.bytes == 4096 && calls.advice == KVMM_WILLNEED);
    ck_assert_str_eq(control_ask(fd, "advise 0xffffffffffffffff 1 cold"), "ok");
    ck_assert(calls.address == UINTPTR_MAX && calls.bytes == 1 && calls.advice == KVMM_COLD);
    ck_assert_str_eq(control_ask(fd, "advise 0x1 18446744073709551615 free"), "ok");
    ck_assert(calls.address == 1 && calls.bytes == SIZE_MAX && calls.advice == KVMM_FREE);
    ck_assert_int_eq(calls.n_advise, 3);
    ck_assert_str_eq(control_ask(fd, "info"), "ok state=running");
    calls.info = "";
    ck_assert_str_eq(control_ask(fd, "info"), "ok");
    ck_assert_int_eq(calls.n_info, 2);
    close(fd);
}
END_TEST

START_TEST(errors_of_operations_are_told_in_one_line)
{
    int fd = new_client();
    calls.result = -EBUSY;
    ck_assert_str_eq(control_ask(fd, "suspend"), "error Device or resource busy");
    ck_assert_str_eq(control_ask(fd, "resume"), "error Device or resource busy");
    ck_assert_str_eq(control_ask(fd, "advise 0x1000 1 cold"), "error Device or resource busy");
    calls.reason = "2 streams\nwere busy";
    ck_assert_str_eq(control_ask(fd, "suspend"), "error 2 streams?were busy");
    calls.reason = NULL;
    calls.result = -100000;
    ck_assert_str_eq(control_ask(fd, "resume"), "error number 100000");
    calls.info = NULL;
    ck_assert_str_eq(control_ask(fd, "info"), "error Input/output error");
    close(fd);
}
END_TEST

static const struct bad {
    const char *request;
    size_t bytes; /* 0: up to the NUL */
    const char *answer;
} bad_requests[] = {
    {"", 0, "error the request is empty"},
    {"dance", 0, "error there is no command 'dance': suspend, resume, advise, info"},
    {"suspend\0", 8, "error byte 7 of the request is 0x00, not printable ASCII"},
    {"resume\n", 0, "error byte 6 of the request is 0x0a, not printable ASCII"},
    {"sus\xc3\xa9", 0, "error byte 3 of the request is 0xc3, not printable ASCII"},
    {" resume", 0, "error byte 0 of the request is a space too many"},
    {"resume ", 0, "error byte 6 of the request is a space too many"},
    {"suspend  5", 0, "error byte 7 of the request is a space too many"},
    {" ", 0, "error byte 0 of the request is a space too many"},
    {"Suspend", 0, "error there is no command 'Suspend': suspend, resume, advise, info"},
    {"suspen", 0, "error there is no command 'suspen': suspend, resume, advise, info"},
    {"suspends", 0, "error there is no command 'suspends': suspend, resume, advise, info"},
    {"suspend5", 0, "error there is no command 'suspend5': suspend, resume, advise, info"},
    {"a-command-of-more-than-thirty-two-bytes", 0,
     "error there is no command 'a-command-of-more-than-thirty-tw...': suspend, resume, advise, info"},
    {"suspend 1 2", 0, "error suspend takes at most 1 argument, milliseconds, not 2"},
    {"suspend -1", 0, "error suspend: '-1' is not a number of milliseconds up to 4294967295"},
    {"suspend +1", 0, "error suspend: '+1' is not a number of milliseconds up to 4294967295"},
    {"suspend 1s", 0, "error suspend: '1s' is not a number of milliseconds up to 4294967295"},
    {"suspend 0x10", 0, "error suspend: '0x10' is not a number of milliseconds up to 4294967295"},
    {"suspend 4294967296", 0, "error suspend: '4294967296' is not a number of milliseconds up to 4294967295"},
    {"suspend 99999999999999999999999999999999999", 0,
     "error suspend: '99999999999999999999999999999999...' is not a number of milliseconds up to 4294967295"},
    {"resume now", 0, "error resume takes no arguments, not 1"},
    {"info 1 2 3 4 5", 0, "error info takes no arguments, not 5"},
    {"advise", 0, "error advise takes 3 arguments, an address, a length and an advice, not 0"},
    {"advise 0x1000 4096", 0, "error advise takes 3 arguments, an address, a length and an advice, not 2"},
    {"advise 0x1000 4096 cold x", 0, "error advise takes 3 arguments, an address, a length and an advice, not 4"},
    {"advise 1000 4096 cold", 0, "error advise: '1000' is not an address in hexadecimal with 0x before it"},
    {"advise 0 4096 cold", 0, "error advise: '0' is not an address in hexadecimal with 0x before it"},
    {"advise 0x 4096 cold", 0, "error advise: '0x' is not an address in hexadecimal with 0x before it"},
    {"advise 0X10 4096 cold", 0, "error advise: '0X10' is not an address in hexadecimal with 0x before it"},
    {"advise 0x1g 4096 cold", 0, "error advise: '0x1g' is not an address in hexadecimal with 0x before it"},
    {"advise 0x10000000000000000 1 cold", 0,
     "error advise: '0x10000000000000000' is not an address in hexadecimal with 0x before it"},
    {"advise 0x1000 0 cold", 0, "error advise: '0' is not a number of bytes from 1 to 18446744073709551615"},
    {"advise 0x1000 4k cold", 0, "error advise: '4k' is not a number of bytes from 1 to 18446744073709551615"},
    {"advise 0x1000 18446744073709551616 cold", 0,
     "error advise: '18446744073709551616' is not a number of bytes from 1 to 18446744073709551615"},
    {"advise 0x2 18446744073709551615 cold", 0,
     "error advise: 0x2 and 18446744073709551615 bytes is past the end of all memory"},
    {"advise 0x1000 1 warm", 0, "error advise: 'warm' is not willneed, cold or free"},
    {"advise 0x1000 1 colder", 0, "error advise: 'colder' is not willneed, cold or free"},
};

START_TEST(bad_requests_are_named_and_do_nothing)
{
    const struct bad *bad = &bad_requests[_i];
    int fd = new_client();
    ck_assert_str_eq(control_ask_bytes(fd, bad->request, bad->bytes ? bad->bytes : strlen(bad->request)), bad->answer);
    ck_assert_int_eq(calls.n_suspend + calls.n_resume + calls.n_advise + calls.n_info, 0);
    ck_assert_str_eq(control_ask(fd, "resume"), "ok"); /* the connection goes on */
    close(fd);
}
END_TEST

START_TEST(requests_that_are_too_large_are_refused)
{
    static char large[100000];
    memset(large, 'x', sizeof large);
    int fd = new_client();
    ck_assert_str_eq(control_ask_bytes(fd, large, SHIM_CONTROL_MAX),
                     "error there is no command 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...': suspend, resume, advise, info");
    ck_assert_str_eq(control_ask_bytes(fd, large, SHIM_CONTROL_MAX + 1),
                     "error the request has 4097 bytes, more than 4096");
    ck_assert_str_eq(control_ask_bytes(fd, large, sizeof large), "error the request has 100000 bytes, more than 4096");
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    close(fd);
}
END_TEST

START_TEST(answers_are_cut_to_their_room)
{
    char answer[8];
    memset(answer, 'z', sizeof answer);
    ck_assert_uint_eq(shim_control_answer(&control_fake_ops, &calls, "dance", 5, answer, 0), 0);
    ck_assert_int_eq(answer[0], 'z');
    ck_assert_uint_eq(shim_control_answer(&control_fake_ops, &calls, "dance", 5, answer, sizeof answer), 7);
    ck_assert_str_eq(answer, "error t");
    ck_assert_uint_eq(shim_control_answer(&control_fake_ops, &calls, "resume", 6, answer, 2), 1);
    ck_assert_str_eq(answer, "o");
    ck_assert_uint_eq(shim_control_answer(&control_fake_ops, &calls, "info", 4, answer, sizeof answer), 7);
    ck_assert_str_eq(answer, "error N"); /* no room for the pairs: No space left on device */
    ck_assert_uint_eq(shim_control_answer(&control_fake_ops, &calls, "", 0, answer, 1), 0);
    ck_assert_str_eq(answer, "");
}
END_TEST

START_TEST(pairs_hold_any_value)
{
    char text[64] = "";
    ck_assert_int_eq(shim_control_pair(text, sizeof text, "rule", "stack:a b%\n\xff=z"), 0);
    ck_assert_int_eq(shim_control_pair_number(text, sizeof text, "n", UINT64_MAX), 0);
    ck_assert_int_eq(shim_control_pair(text, sizeof text, "e", ""), 0);
    ck_assert_str_eq(text, "rule=stack:a%20b%25%0A%FF=z n=18446744073709551615 e=");
    for (size_t size = 0; size <= 10; size++) { /* "a=1 b=%20x" takes 11 */
        char small[12] = "";
        memcpy(small, "a=1", size >= 4 ? 4 : 0);
        char before[12];
        memcpy(before, small, sizeof before);
        ck_assert_int_eq(shim_control_pair(small, size, size >= 4 ? "b" : "abcd", " x"), -ENOSPC);
        ck_assert_str_eq(small, before);
    }
    char fits[11] = "a=1";
    ck_assert_int_eq(shim_control_pair(fits, sizeof fits, "b", " x"), 0);
    ck_assert_str_eq(fits, "a=1 b=%20x");
}
END_TEST

/* ---- who may ask --------------------------------------------------------------------------------------------- */

/* Forks a client of that user; its exit status is 0 if the answer to each of two requests is the one expected. */
static void ask_as(uid_t user, const char *expected)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        if (setgid(user) || setuid(user))
            _exit(2);
        for (int i = 0; i < 200; i++) {
            int fd = control_connect(shim_control_name(control));
            if (fd < 0 || strcmp(control_ask(fd, "resume"), expected) != 0)
                _exit(1);
            close(fd);
        }
        _exit(0);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status 0x%x", (unsigned)status);
}

START_TEST(another_user_is_refused)
{
    ask_as(NOBODY, "error not permitted");
    ask_as(12345, "error not permitted");
    ck_assert_int_eq(calls.n_resume, 0);
    ask_as(0, "ok");
    ck_assert_int_eq(calls.n_resume, 200);
}
END_TEST

/* The engine gives up root after the start: then its new user counts, and root still. */
START_TEST(the_user_of_the_moment_counts)
{
    ck_assert_int_eq(seteuid(12345), 0);
    int fd = new_client(); /* with the effective user of now */
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    close(fd);
    ck_assert_int_eq(seteuid(0), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        usleep(200000); /* the parent is user 12345 by then */
        fd = control_connect(shim_control_name(control));
        _exit(fd >= 0 && strcmp(control_ask(fd, "resume"), "ok") == 0 ? 0 : 1);
    }
    ck_assert_int_eq(seteuid(12345), 0);
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(seteuid(0), 0);
}
END_TEST

/* ---- clients that are in the way ----------------------------------------------------------------------------- */

START_TEST(silent_clients_make_room)
{
    int silent[2 * SHIM_CONTROL_CLIENTS];
    size_t n = sizeof silent / sizeof silent[0];
    for (size_t i = 0; i < n; i++)
        silent[i] = new_client();
    double start = seconds();
    int fd = new_client();
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    ck_assert_double_lt(seconds() - start, 20);
    for (size_t i = 0; i < n; i++)
        close(silent[i]);
    close(fd);
}
END_TEST

START_TEST(as_many_clients_as_there_are_places_keep_theirs)
{
    int fds[SHIM_CONTROL_CLIENTS];
    for (int i = 0; i < SHIM_CONTROL_CLIENTS; i++)
        fds[i] = new_client();
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < SHIM_CONTROL_CLIENTS; i++)
            ck_assert_str_eq(control_ask(fds[i], "resume"), "ok");
    for (int i = 0; i < SHIM_CONTROL_CLIENTS; i++)
        close(fds[i]);
    ck_assert_int_eq(calls.n_resume, 3 * SHIM_CONTROL_CLIENTS);
}
END_TEST

/* Who never reads is cut off, in bounded memory, while others are served. */
START_TEST(a_client_that_never_reads_is_cut_off)
{
    int deaf = new_client();
    long n = 0;
    while (send(deaf, "dance", 5, MSG_NOSIGNAL) == 5 && n < 1000000)
        n++;
    ck_assert_int_eq(errno, EPIPE);
    int fd = new_client();
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    close(fd);
    close(deaf);
}
END_TEST

static void *ask_often(void *argument)
{
    for (int i = 0; i < 100; i++) {
        int fd = control_connect(argument);
        ssize_t n = -1;
        char answer[64];
        if (fd >= 0 && send(fd, "resume", 6, MSG_NOSIGNAL) == 6)
            n = recv(fd, answer, sizeof answer, 0);
        if (fd >= 0)
            close(fd);
        if (n != 2 || memcmp(answer, "ok", 2) != 0)
            return argument;
    }
    return NULL;
}

START_TEST(many_clients_at_a_time_are_all_answered)
{
    enum { N = 24 };
    pthread_t threads[N];
    char name[128];
    snprintf(name, sizeof name, "%s", shim_control_name(control));
    for (int i = 0; i < N; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, ask_often, name), 0);
    for (int i = 0; i < N; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        ck_assert_ptr_null(failed);
    }
    ck_assert_int_eq(calls.n_resume, N * 100);
}
END_TEST

START_TEST(a_client_that_goes_away_undoes_nothing)
{
    int fd = new_client();
    ck_assert_int_eq(send(fd, "resume", 6, 0), 6);
    ck_assert_int_eq(send(fd, "suspend 7", 9, 0), 9);
    close(fd);
    fd = new_client();
    for (int i = 0; i < 1000 && atomic_load(&calls.n_suspend) == 0; i++)
        usleep(10000);
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    ck_assert_int_eq(calls.n_resume, 2);
    ck_assert_uint_eq(calls.wait_ms, 7);
    close(fd);
}
END_TEST

/* Descriptors sent along are closed, not kept. */
START_TEST(descriptors_sent_along_are_dropped)
{
    int fd = new_client();
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    int n = leaks_count_fds();
    int sent = fd;
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof sent)];
    } space = {0};
    struct iovec data = {(char[]){"resume"}, 6};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &space, .msg_controllen = sizeof space.room};
    *CMSG_FIRSTHDR(&message) =
        (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof sent), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &sent, sizeof sent);
    ck_assert_int_eq(sendmsg(fd, &message, MSG_NOSIGNAL), 6);
    char answer[8];
    ck_assert_int_eq(recv(fd, answer, sizeof answer, 0), 2);
    ck_assert_int_eq(leaks_count_fds(), n);
    close(fd);
}
END_TEST

/* With no descriptor left in the process, a client waits; it is served when there is one again. A limit below what poll()
 * is given is another case. */
START_TEST(no_descriptors_left_is_lived_through)
{
    static const rlim_t limits[] = {64, 3};
    int fd = new_client();
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    int waiting = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(waiting, 0);
    struct rlimit before;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct rlimit none = {limits[_i], before.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    while (dup(waiting) >= 0) {
    }
    ck_assert_int_eq(errno, EMFILE);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t n = strlen(shim_control_name(control));
    memcpy(address.sun_path + 1, shim_control_name(control), n);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
    ck_assert_int_eq(connect(waiting, (struct sockaddr *)&address, bytes), 0);
    ck_assert_int_eq(send(waiting, "resume", 6, 0), 6);
    usleep(100000);
    clock_t used = clock();
    usleep(300000);
    ck_assert_msg(clock() - used < CLOCKS_PER_SEC / 10, "the thread spins");
    ck_assert_int_eq(calls.n_resume, 1);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    char answer[8];
    ck_assert_int_eq(recv(waiting, answer, sizeof answer, 0), 2);
    close(waiting);
    close(fd);
}
END_TEST

/* ---- open, close, fork --------------------------------------------------------------------------------------- */

static int find_listener(void)
{
    for (int fd = 3; fd < 256; fd++) {
        int listens = 0;
        socklen_t bytes = sizeof listens;
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &bytes) == 0 && listens)
            return fd;
    }
    return -1;
}

START_TEST(close_gives_everything_back)
{
    int n_fds = leaks_count_fds();
    for (int i = 0; i < 50; i++) {
        struct shim_control *second;
        ck_assert_int_eq(shim_control_open(&control_fake_ops, &calls, &second), 0);
        int fds[5];
        for (int k = 0; k < 5; k++) {
            fds[k] = control_connect(shim_control_name(second));
            ck_assert_int_ge(fds[k], 0);
        }
        if (i % 2)
            ck_assert_str_eq(control_ask(fds[0], "resume"), "ok");
        shim_control_close(&second);
        ck_assert_ptr_null(second);
        for (int k = 0; k < 5; k++) {
            ck_assert_str_eq(control_ask(fds[k], "resume"), "(gone)");
            close(fds[k]);
        }
    }
    shim_control_close(&(struct shim_control *){NULL});
    ck_assert_int_eq(leaks_count_fds(), n_fds);
}
END_TEST

static void *close_it(void *argument)
{
    shim_control_close(argument);
    return NULL;
}

START_TEST(close_waits_for_the_request_that_is_served)
{
    struct shim_control *second;
    ck_assert_int_eq(shim_control_open(&control_fake_ops, &calls, &second), 0);
    int fd = control_connect(shim_control_name(second));
    atomic_store(&calls.slow_suspend, 1);
    ck_assert_int_eq(send(fd, "suspend", 7, 0), 7);
    while (atomic_load(&calls.n_suspend) == 0)
        usleep(1000);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, close_it, &second), 0);
    usleep(50000);
    ck_assert_int_eq(pthread_tryjoin_np(thread, NULL), EBUSY);
    atomic_store(&calls.slow_suspend, 0);
    pthread_join(thread, NULL);
    char answer[8];
    ck_assert_int_eq(recv(fd, answer, sizeof answer, 0), 2);
    close(fd);
}
END_TEST

/* Where the name is taken, by whomever, there is another one; the kernel's word tells them apart. */
START_TEST(a_name_that_is_taken_is_varied)
{
    char expected[64];
    snprintf(expected, sizeof expected, "kvmm-shim/%d", (int)getpid());
    ck_assert_str_eq(shim_control_name(control), expected);
    struct shim_control *second;
    ck_assert_int_eq(shim_control_open(&control_fake_ops, &calls, &second), 0);
    size_t n = strlen(expected);
    ck_assert_int_eq(strncmp(shim_control_name(second), expected, n), 0);
    ck_assert_int_eq(shim_control_name(second)[n], '/');
    ck_assert_uint_eq(strlen(shim_control_name(second)), n + 17);
    int fd = control_connect(shim_control_name(second));
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    ck_assert_int_eq(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes), 0);
    ck_assert_int_eq(peer.pid, getpid());
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    close(fd);
    shim_control_close(&second);
}
END_TEST

/* A child that lives on keeps neither the name nor the connections. */
START_TEST(a_forked_child_forgets)
{
    int fd = new_client();
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    char name[128];
    snprintf(name, sizeof name, "%s", shim_control_name(control));
    int says[2];
    ck_assert_int_eq(pipe(says), 0);
    int n_fds = leaks_count_fds();
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        shim_control_forget_in_child(control);
        shim_control_forget_in_child(NULL);
        char byte = leaks_count_fds() == n_fds - 2 ? 'y' : 'n'; /* the listener, the connection */
        if (write(says[1], &byte, 1) != 1)
            _exit(1);
        pause();
    }
    char byte;
    ck_assert_int_eq(read(says[0], &byte, 1), 1);
    ck_assert_int_eq(byte, 'y');
    ck_assert_str_eq(control_ask(fd, "resume"), "ok"); /* the parent's goes on */
    shim_control_close(&control);
    ck_assert_str_eq(control_ask(fd, "resume"), "(gone)");
    ck_assert_int_eq(control_connect(name), -1);
    ck_assert_int_eq(errno, ECONNREFUSED);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(fd);
}
END_TEST

/* Whenever the fork comes, in the middle of whatever the thread does. */
START_TEST(forks_come_at_any_moment)
{
    enum { N = 3 };
    pthread_t threads[N];
    char name[128];
    snprintf(name, sizeof name, "%s", shim_control_name(control));
    for (int i = 0; i < N; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, ask_often, name), 0);
    int others = open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (int i = 0; i < 100; i++) {
        pid_t child = fork();
        if (child == 0) { /* without Check, whose lock another thread may have held */
            shim_control_forget_in_child(control);
            _exit(fcntl(others, F_GETFD) >= 0 && find_listener() < 0 ? 0 : 1);
        }
        ck_assert_int_gt(child, 0);
        int status;
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert_int_eq(status, 0);
    }
    for (int i = 0; i < N; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        ck_assert_ptr_null(failed);
    }
    close(others);
}
END_TEST

#ifndef THREAD_SANITIZER /* it can't start a thread in a child of a process with several */
START_TEST(a_forked_child_may_have_its_own)
{
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        shim_control_forget_in_child(control);
        struct shim_control *own;
        if (shim_control_open(&control_fake_ops, &calls, &own))
            _exit(1);
        int fd = control_connect(shim_control_name(own));
        int status = fd >= 0 && strcmp(control_ask(fd, "suspend 9"), "ok") == 0 && calls.wait_ms == 9 ? 0 : 2;
        shim_control_close(&own);
        _exit(status);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}
END_TEST
#endif

/* An engine that closes whatever is open: the thread ends and closes nothing that has the number since. */
START_TEST(a_listener_that_the_engine_closed_is_given_up)
{
    int fd = new_client();
    atomic_store(&calls.slow_suspend, 1);
    ck_assert_int_eq(send(fd, "suspend", 7, 0), 7);
    while (atomic_load(&calls.n_suspend) == 0)
        usleep(1000);
    int listener = find_listener();
    ck_assert_int_ge(listener, 0);
    close(listener);
    atomic_store(&calls.slow_suspend, 0);
    ck_assert_str_eq(control_ask(fd, "x"), "ok");     /* of suspend */
    ck_assert_str_eq(control_ask(fd, "x"), "(gone)"); /* the thread has ended */
    ck_assert_int_eq(dup2(fd, listener), listener);
    shim_control_close(&control);
    ck_assert_int_ge(fcntl(listener, F_GETFD), 0);
    close(listener);
    close(fd);
}
END_TEST

/* The lines of /proc/self/task/TID/status; true if it is the control thread's. */
static bool signals_of(const char *tid, unsigned long long *blocked)
{
    char path[300];
    char line[256];
    snprintf(path, sizeof path, "/proc/self/task/%s/status", tid);
    FILE *file = fopen(path, "re");
    ck_assert_ptr_nonnull(file);
    bool ours = false;
    while (fgets(line, sizeof line, file)) {
        ours = ours || strcmp(line, "Name:\tkvmm-control\n") == 0;
        sscanf(line, "SigBlk: %llx", blocked);
    }
    fclose(file);
    return ours;
}

START_TEST(all_signals_are_blocked_in_the_thread)
{
    int fd = new_client();
    ck_assert_str_eq(control_ask(fd, "resume"), "ok"); /* it has its name by now */
    close(fd);
    int found = 0;
    DIR *tasks = opendir("/proc/self/task");
    ck_assert_ptr_nonnull(tasks);
    for (struct dirent *task; (task = readdir(tasks));) {
        unsigned long long blocked = 0;
        if (task->d_name[0] == '.' || !signals_of(task->d_name, &blocked))
            continue;
        found++;
        /* All but KILL and STOP, which can't be, and the two that the C library keeps. */
        unsigned long long never = 1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1) | 1ull << 31 | 1ull << 32;
        ck_assert_uint_eq(blocked | never, UINT64_MAX);
    }
    closedir(tasks);
    ck_assert_int_eq(found, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("the control socket");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, open_control, close_control);
    tcase_add_test(tests, requests_reach_their_operations);
    tcase_add_test(tests, errors_of_operations_are_told_in_one_line);
    tcase_add_loop_test(tests, bad_requests_are_named_and_do_nothing, 0,
                        (int)(sizeof bad_requests / sizeof bad_requests[0]));
    tcase_add_test(tests, requests_that_are_too_large_are_refused);
    tcase_add_test(tests, answers_are_cut_to_their_room);
    tcase_add_test(tests, pairs_hold_any_value);
    tcase_add_test(tests, silent_clients_make_room);
    tcase_add_test(tests, as_many_clients_as_there_are_places_keep_theirs);
    tcase_add_test(tests, a_client_that_never_reads_is_cut_off);
    tcase_add_test(tests, many_clients_at_a_time_are_all_answered);
    tcase_add_test(tests, a_client_that_goes_away_undoes_nothing);
    tcase_add_test(tests, descriptors_sent_along_are_dropped);
    tcase_add_loop_test(tests, no_descriptors_left_is_lived_through, 0, 2);
    tcase_add_test(tests, close_gives_everything_back);
    tcase_add_test(tests, close_waits_for_the_request_that_is_served);
    tcase_add_test(tests, a_name_that_is_taken_is_varied);
    tcase_add_test(tests, a_forked_child_forgets);
    tcase_add_test(tests, forks_come_at_any_moment);
#ifndef THREAD_SANITIZER
    tcase_add_test(tests, a_forked_child_may_have_its_own);
#else
    puts("left out under ThreadSanitizer: a socket of a forked child's own");
#endif
    tcase_add_test(tests, a_listener_that_the_engine_closed_is_given_up);
    tcase_add_test(tests, all_signals_are_blocked_in_the_thread);
    if (geteuid() == 0) {
        tcase_add_test(tests, another_user_is_refused);
        tcase_add_test(tests, the_user_of_the_moment_counts);
    } else {
        puts("left out, because only root can become another user: what others are told");
    }
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_FORK); /* tests change their process: limits, descriptors, users */
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
