/* SPDX-License-Identifier: Apache-2.0
 *
 * The control socket: whom it lets in, that no client gets in another's way, and that nothing is left of it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
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

#include "tests/shim/control_support.h"
#include "tests/support/leaks.h"

#define NOBODY 65534

/* Whether a child of a process with several threads may start one: the sanitizers' own locks aren't made for that, and now and then
 * it waits for ever. */
#define CHILDREN_HAVE_THREADS
#ifdef __has_feature
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#undef CHILDREN_HAVE_THREADS
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#undef CHILDREN_HAVE_THREADS
#endif

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- who may ask --------------------------------------------------------------------------------------------- */

/* 200 connections by a client of that user, each of which must be answered so. */
static void ask_as(uid_t user, const char *name, const char *expected)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        if (setgid(user) || setuid(user))
            _exit(2);
        for (int i = 0; i < 200; i++) {
            int fd = control_connect(name);
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
    ask_as(NOBODY, shim_control_name(control), "error not permitted");
    ask_as(12345, shim_control_name(control), "error not permitted");
    ck_assert_int_eq(control_calls.n_resume, 0);
    ask_as(0, shim_control_name(control), "ok");
    ck_assert_int_eq(control_calls.n_resume, 200);
}
END_TEST

#ifdef CHILDREN_HAVE_THREADS
/* In a user namespace all who aren't mapped into it have one number, and so has the process if it isn't itself: they aren't
 * the same user. */
START_TEST(users_that_can_t_be_told_apart_are_refused)
{
    char name[128] = "";
    int says[2];
    ck_assert_int_eq(pipe2(says, O_CLOEXEC), 0);
    pid_t server = fork();
    ck_assert_int_ge(server, 0);
    if (server == 0) {
        struct shim_control *own;
        if (unshare(CLONE_NEWUSER))
            _exit(3);
        if (geteuid() != NOBODY || shim_control_open(&control_fake_ops, &control_calls, &own))
            _exit(4);
        if (write(says[1], shim_control_name(own), strlen(shim_control_name(own))) < 0)
            _exit(5);
        pause();
    }
    close(says[1]);
    if (read(says[0], name, sizeof name - 1) > 0) {
        ask_as(12345, name, "error not permitted");
        ask_as(NOBODY, name, "error not permitted");
        kill(server, SIGKILL);
    }
    int status;
    ck_assert_int_eq(waitpid(server, &status, 0), server);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 3)
        puts("users_that_can_t_be_told_apart_are_refused: left out, no user namespace can be had");
    else
        ck_assert(WIFSIGNALED(status));
}
END_TEST
#endif

/* The engine gives up root after the start: then its new user counts, and root still. */
START_TEST(the_user_of_the_moment_counts)
{
    ck_assert_int_eq(seteuid(12345), 0);
    int fd = control_client(); /* with the effective user of now */
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
        silent[i] = control_client();
    double start = seconds();
    int fd = control_client();
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
        fds[i] = control_client();
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < SHIM_CONTROL_CLIENTS; i++)
            ck_assert_str_eq(control_ask(fds[i], "resume"), "ok");
    for (int i = 0; i < SHIM_CONTROL_CLIENTS; i++)
        close(fds[i]);
    ck_assert_int_eq(control_calls.n_resume, 3 * SHIM_CONTROL_CLIENTS);
}
END_TEST

/* Who never reads is cut off, in bounded memory, while others are served. */
START_TEST(a_client_that_never_reads_is_cut_off)
{
    int deaf = control_client();
    long n = 0;
    while (send(deaf, "dance", 5, MSG_NOSIGNAL) == 5 && n < 1000000)
        n++;
    ck_assert_int_eq(errno, EPIPE);
    int fd = control_client();
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
    ck_assert_int_eq(control_calls.n_resume, N * 100);
}
END_TEST

START_TEST(a_client_that_goes_away_undoes_nothing)
{
    int fd = control_client();
    ck_assert_int_eq(send(fd, "resume", 6, 0), 6);
    ck_assert_int_eq(send(fd, "suspend 7", 9, 0), 9);
    close(fd);
    fd = control_client();
    for (int i = 0; i < 1000 && atomic_load(&control_calls.n_suspend) == 0; i++)
        usleep(10000);
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    ck_assert_int_eq(control_calls.n_resume, 2);
    ck_assert_uint_eq(control_calls.wait_ms, 7);
    close(fd);
}
END_TEST

/* Descriptors sent along are closed, not kept. */
START_TEST(descriptors_sent_along_are_dropped)
{
    int fd = control_client();
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
    int fd = control_client();
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
    ck_assert_int_eq(control_calls.n_resume, 1);
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
        ck_assert_int_eq(shim_control_open(&control_fake_ops, &control_calls, &second), 0);
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
    ck_assert_int_eq(shim_control_open(&control_fake_ops, &control_calls, &second), 0);
    int fd = control_connect(shim_control_name(second));
    atomic_store(&control_calls.slow_suspend, 1);
    ck_assert_int_eq(send(fd, "suspend", 7, 0), 7);
    while (atomic_load(&control_calls.n_suspend) == 0)
        usleep(1000);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, close_it, &second), 0);
    usleep(50000);
    ck_assert_int_eq(pthread_tryjoin_np(thread, NULL), EBUSY);
    atomic_store(&control_calls.slow_suspend, 0);
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
    ck_assert_int_eq(shim_control_open(&control_fake_ops, &control_calls, &second), 0);
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
    int fd = control_client();
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

#ifdef CHILDREN_HAVE_THREADS
START_TEST(a_forked_child_may_have_its_own)
{
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        shim_control_forget_in_child(control);
        struct shim_control *own;
        if (shim_control_open(&control_fake_ops, &control_calls, &own))
            _exit(1);
        int fd = control_connect(shim_control_name(own));
        int status = fd >= 0 && strcmp(control_ask(fd, "suspend 9"), "ok") == 0 && control_calls.wait_ms == 9 ? 0 : 2;
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
    int fd = control_client();
    atomic_store(&control_calls.slow_suspend, 1);
    ck_assert_int_eq(send(fd, "suspend", 7, 0), 7);
    while (atomic_load(&control_calls.n_suspend) == 0)
        usleep(1000);
    int listener = find_listener();
    ck_assert_int_ge(listener, 0);
    close(listener);
    atomic_store(&control_calls.slow_suspend, 0);
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
    int fd = control_client();
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
    tcase_add_checked_fixture(tests, control_start, control_stop);
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
#ifdef CHILDREN_HAVE_THREADS
    tcase_add_test(tests, a_forked_child_may_have_its_own);
#else
    puts("left out under ThreadSanitizer: sockets that a forked child opens");
#endif
    tcase_add_test(tests, a_listener_that_the_engine_closed_is_given_up);
    tcase_add_test(tests, all_signals_are_blocked_in_the_thread);
    if (geteuid() == 0) {
        tcase_add_test(tests, another_user_is_refused);
        tcase_add_test(tests, the_user_of_the_moment_counts);
#ifdef CHILDREN_HAVE_THREADS
        tcase_add_test(tests, users_that_can_t_be_told_apart_are_refused);
#endif
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
