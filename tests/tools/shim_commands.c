/* SPDX-License-Identifier: Apache-2.0
 *
 * kvmm suspend, resume, advise and ls, run as users run them, on processes that answer the control socket as the shim
 * does. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <check.h>
#include <jansson.h>

#include "shim/include/kvmm/shim.h"
#include "tests/shim/control_support.h"
#include "tests/tools/run.h"

#define NOBODY 65534
#define INFO                                                                                                           \
    "device=cpu state=running caches=2 bytes=8589934592 memory=805306368 memory_limit=1073741824 swapped=2147483648 "  \
    "rule=auto seen=7 selected=2 newer=thing"

static struct control_calls *calls; /* shared with the processes that serve */

static void share_calls(void)
{
    calls = mmap(NULL, sizeof *calls, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(calls, MAP_FAILED);
    calls->info = INFO;
}

static void unshare_calls(void)
{
    munmap(calls, sizeof *calls);
}

/* ---- processes that serve ------------------------------------------------------------------------------------ */

static void serve(int ready, const char *name)
{
    struct shim_control *own;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves none behind */
    prctl(PR_SET_NAME, name);
    if (shim_control_open(&control_fake_ops, calls, &own))
        _exit(2);
    if (write(ready, "r", 1) != 1)
        _exit(3);
    for (;;)
        pause();
}

/* Forks one with that name; it first unshares `namespaces`, of which CLONE_NEWPID makes one more process. Its pid is in
 * ours. -1: the namespaces can't be had. */
static pid_t start_server_in(const char *name, int namespaces)
{
    int ready[2];
    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    /* As its children would be, it is in the new PID namespace: only this process's next children are. */
    int own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    if ((namespaces & CLONE_NEWPID) && unshare(CLONE_NEWPID)) {
        close(own);
        return -1;
    }
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        if ((namespaces & ~CLONE_NEWPID) && unshare(namespaces & ~CLONE_NEWPID))
            _exit(4);
        serve(ready[1], name);
    }
    if (namespaces & CLONE_NEWPID)
        ck_assert_int_eq(setns(own, CLONE_NEWPID), 0);
    close(own);
    close(ready[1]);
    char byte;
    bool started = read(ready[0], &byte, 1) == 1;
    close(ready[0]);
    int status = 0;
    if (!started)
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(started || WEXITSTATUS(status) == 4, "the server did not start: status 0x%x", (unsigned)status);
    return started ? pid : -1;
}

static pid_t start_server(const char *name)
{
    return start_server_in(name, 0);
}

static void stop(pid_t pid)
{
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

/* A process that does nothing, with a file of that name mapped. */
static pid_t start_mapping(const char *path)
{
    int ready[2];
    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
        if (path && (ftruncate(fd, 4096) || mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED))
            _exit(2);
        if (write(ready[1], "r", 1) != 1)
            _exit(3);
        for (;;)
            pause();
    }
    char byte;
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void assert_quiet(const struct run *run)
{
    ck_assert_msg(run->status == 0 && run->err[0] == '\0' && run->out[0] == '\0', "exit %d: %s%s", run->status,
                  run->err, run->out);
}

/* text with each "PID" replaced. */
static void put_pid(char *to, size_t size, const char *text, pid_t pid)
{
    size_t n = 0;
    for (; *text && n < size; text++) {
        bool here = strncmp(text, "PID", 3) == 0;
        n += here ? (size_t)snprintf(to + n, size - n, "%d", (int)pid) : 1;
        if (!here)
            to[n - 1] = *text;
        text += here ? 2 : 0;
    }
    ck_assert_uint_lt(n, size);
    to[n] = '\0';
}

/* Runs it; it must fail with just this line. "PID" in both stands for pid. */
static void assert_fails(uid_t as_user, const char *arguments, pid_t pid, const char *line)
{
    struct run run;
    char words[512];
    char expected[512];
    put_pid(words, sizeof words, arguments, pid);
    put_pid(expected, sizeof expected, line, pid);
    run_tool(&run, as_user, "%s", words);
    ck_assert_str_eq(run.err, expected);
    ck_assert_int_eq(run.status, 1);
    ck_assert_str_eq(run.out, "");
    run_free(&run);
}

/* ---- suspend, resume, advise --------------------------------------------------------------------------------- */

START_TEST(requests_reach_the_process)
{
    pid_t pid = start_server("t-shim");
    struct run run;
    run_tool(&run, 0, "suspend %d", (int)pid);
    assert_quiet(&run);
    run_free(&run);
    ck_assert_int_eq(calls->n_suspend, 1);
    ck_assert_uint_eq(calls->wait_ms, 60000);
    run_tool(&run, 0, "suspend %d --wait 250", (int)pid);
    assert_quiet(&run);
    run_free(&run);
    ck_assert_uint_eq(calls->wait_ms, 250);
    run_tool(&run, 0, "resume %d", (int)pid);
    assert_quiet(&run);
    run_free(&run);
    ck_assert_int_eq(calls->n_resume, 1);
    run_tool(&run, 0, "advise %d 0x7F00a000 4096 cold", (int)pid);
    assert_quiet(&run);
    run_free(&run);
    ck_assert(calls->address == 0x7f00a000 && calls->bytes == 4096 && calls->advice == KVMM_COLD);
    run_tool(&run, 0, "advise %d 0x1 18446744073709551615 willneed", (int)pid);
    assert_quiet(&run);
    run_free(&run);
    ck_assert(calls->address == 1 && calls->bytes == SIZE_MAX && calls->advice == KVMM_WILLNEED);
    run_tool(&run, 0, "advise %d 0xffffffffffffffff 1 free", (int)pid);
    assert_quiet(&run);
    run_free(&run);
    ck_assert(calls->address == UINTPTR_MAX && calls->bytes == 1 && calls->advice == KVMM_FREE);
    stop(pid);
}
END_TEST

START_TEST(the_process_s_error_is_told)
{
    calls->result = -ENOSPC;
    calls->reason = "the swap file is full: 64 MiB of 64 MiB used";
    pid_t pid = start_server("t-shim");
    assert_fails(0, "suspend PID", pid,
                 "kvmm suspend: process PID answers: the swap file is full: 64 MiB of 64 MiB used\n");
    calls->reason = NULL;
    assert_fails(0, "resume PID", pid, "kvmm resume: process PID answers: No space left on device\n");
    assert_fails(0, "advise PID 0x1000 1 free", pid, "kvmm advise: process PID answers: No space left on device\n");
    assert_fails(
        0, "advise PID 0xffffffffffffffff 2 free", pid,
        "kvmm advise: process PID answers: advise: 0xffffffffffffffff and 2 bytes is past the end of all memory\n");
    stop(pid);
}
END_TEST

START_TEST(a_process_that_has_ended_is_named)
{
    pid_t pid = start_server("t-shim");
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    siginfo_t end;
    ck_assert_int_eq(waitid(P_PID, (id_t)pid, &end, WEXITED | WNOWAIT), 0);
    assert_fails(0, "suspend PID", pid, "kvmm suspend: there is no process PID\n"); /* a zombie */
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    assert_fails(0, "resume PID", pid, "kvmm resume: there is no process PID\n");
    assert_fails(0, "advise PID 0x1000 1 cold", 2147483647, "kvmm advise: there is no process PID\n");
}
END_TEST

START_TEST(a_process_without_a_cache_is_named)
{
    char dir[] = "/tmp/kvmm-test-XXXXXX";
    char path[64];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/libkvmm_shim.so", dir);
    pid_t pid = start_mapping(NULL);
    assert_fails(0, "suspend PID", pid, "kvmm suspend: process PID can't be asked: it does not run under the shim\n");
    stop(pid);
    pid = start_mapping(path);
    assert_fails(0, "resume PID", pid,
                 "kvmm resume: process PID can't be asked: it runs under the shim, but has no cache\n");
    if (geteuid() == 0)
        assert_fails(NOBODY, "resume PID", pid,
                     "kvmm resume: process PID can't be asked: it does not run under the shim, or has no cache\n");
    stop(pid);
    unlink(path);
    rmdir(dir);
}
END_TEST

START_TEST(another_user_s_process_is_named)
{
    pid_t pid = start_server("t-shim");
    assert_fails(NOBODY, "suspend PID", pid, "kvmm suspend: process PID may not be controlled by this user\n");
    assert_fails(NOBODY, "resume PID", pid, "kvmm resume: process PID may not be controlled by this user\n");
    assert_fails(NOBODY, "advise PID 0x1000 1 free", pid,
                 "kvmm advise: process PID may not be controlled by this user\n");
    ck_assert_int_eq(calls->n_suspend + calls->n_resume + calls->n_advise, 0);
    stop(pid);
}
END_TEST

START_TEST(a_stopped_process_does_not_hold_the_command)
{
    pid_t pid = start_server("t-shim");
    ck_assert_int_eq(kill(pid, SIGSTOP), 0);
    assert_fails(0, "suspend PID --wait 0", pid,
                 "kvmm suspend: process PID did not answer in time: it is busy or stopped\n");
    stop(pid);
}
END_TEST

/* The name of another process, taken by one that isn't it: neither is the request told to the wrong one, nor is the right
 * one out of reach. */
START_TEST(no_process_stands_in_for_another)
{
    int gate[2];
    ck_assert_int_eq(pipe2(gate, O_CLOEXEC), 0);
    int ready[2];
    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    pid_t victim = fork();
    ck_assert_int_ge(victim, 0);
    if (victim == 0) {
        char byte;
        if (read(gate[0], &byte, 1) != 1)
            _exit(5);
        serve(ready[1], "t-victim");
    }
    int squat = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int n = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "kvmm-shim/%d", (int)victim);
    ck_assert_int_eq(
        bind(squat, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)),
        0);
    ck_assert_int_eq(listen(squat, 5), 0);
    assert_fails(0, "suspend PID", victim,
                 "kvmm suspend: process PID can't be asked: it does not run under the shim\n");
    ck_assert_int_eq(write(gate[1], "g", 1), 1);
    char byte;
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    struct run run;
    run_tool(&run, 0, "suspend %d --wait 77", (int)victim);
    assert_quiet(&run);
    run_free(&run);
    ck_assert_uint_eq(calls->wait_ms, 77);
    stop(victim);
    close(squat);
}
END_TEST

/* Two containers that share the host's network: each process is 1 to itself. */
START_TEST(pid_namespaces_are_seen_through)
{
    pid_t first = start_server_in("t-container-1", CLONE_NEWPID);
    if (first < 0) {
        puts("pid_namespaces_are_seen_through: left out, no PID namespace can be had");
        return;
    }
    pid_t second = start_server_in("t-container-2", CLONE_NEWPID);
    ck_assert_int_gt(second, 0);
    struct run run;
    run_tool(&run, 0, "suspend %d", (int)first);
    assert_quiet(&run);
    run_free(&run);
    run_tool(&run, 0, "suspend %d", (int)second);
    assert_quiet(&run);
    run_free(&run);
    ck_assert_int_eq(calls->n_suspend, 2);
    run_tool(&run, 0, "ls");
    char line[64];
    snprintf(line, sizeof line, "%d  t-container-1 ", (int)first);
    ck_assert_ptr_nonnull(strstr(run.out, line));
    snprintf(line, sizeof line, "%d  t-container-2 ", (int)second);
    ck_assert_ptr_nonnull(strstr(run.out, line));
    run_free(&run);
    stop(first);
    stop(second);
}
END_TEST

START_TEST(another_network_namespace_is_named)
{
    pid_t pid = start_server_in("t-shim", CLONE_NEWNET);
    if (pid < 0) {
        puts("another_network_namespace_is_named: left out, no network namespace can be had");
        return;
    }
    assert_fails(
        0, "resume PID", pid,
        "kvmm resume: process PID can't be asked: it is in another network namespace, which `nsenter -n -t PID' "
        "enters\n");
    stop(pid);
}
END_TEST

/* The client in shim/README.md, that of who copies it. */
START_TEST(the_example_in_the_readme_works)
{
    static const char run_it[] =
        "import re, sys; exec(re.search('```python\\n(.*?)```', open(sys.argv.pop(1)).read(), re.S)[1])";
    const char *readme = getenv("KVMM_SHIM_README");
    ck_assert_msg(readme != NULL, "KVMM_SHIM_README must name it");
    pid_t pid = start_server("t-shim");
    pid_t client = fork();
    ck_assert_int_ge(client, 0);
    if (client == 0) {
        char text[16];
        snprintf(text, sizeof text, "%d", (int)pid);
        execlp("python3", "python3", "-c", run_it, readme, text, "suspend", "321", (char *)NULL);
        _exit(127);
    }
    int status;
    ck_assert_int_eq(waitpid(client, &status, 0), client);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127) {
        puts("the_example_in_the_readme_works: left out, there is no python3");
    } else {
        ck_assert_int_eq(status, 0);
        ck_assert_uint_eq(calls->wait_ms, 321);
    }
    stop(pid);
}
END_TEST

/* ---- ls ------------------------------------------------------------------------------------------------------ */

/* The line of `kvmm ls` about that process, its columns joined by single spaces; "" if there is none. */
static void list_line(uid_t as_user, pid_t pid, char *line, size_t size)
{
    struct run run;
    run_tool(&run, as_user, "ls");
    ck_assert_msg(run.status == 0 && run.err[0] == '\0', "exit %d: %s", run.status, run.err);
    line[0] = '\0';
    char *save;
    for (char *at = strtok_r(run.out, "\n", &save); at; at = strtok_r(NULL, "\n", &save)) {
        if (strtol(at, NULL, 10) != pid)
            continue;
        size_t n = 0;
        for (at += strspn(at, " "); *at && n + 2 < size; at++)
            if (*at != ' ' || at[1] != ' ')
                line[n++] = *at;
        line[n] = '\0';
    }
    run_free(&run);
}

static const struct {
    const char *info;
    const char *line; /* after the pid */
} listed[] = {
    {INFO, "t-shim cpu - 0.8/1.0 GiB - 2 GiB - running"},
    {"device=cuda:1 state=suspended memory=0 memory_limit=0 host=1073741824 host_limit=2147483648",
     "t-shim cuda:1 - - 1.0/2.0 GiB - - suspended"},
    {"device=cpu state=running rule=stack:*no%20such* seen=12 selected=0",
     "t-shim cpu - - - - - nothing of 12 selected by stack:*no such*"},
    {"", "t-shim - - - - - - -"},
    {"rule=%1b[2J%00%zz%4", "t-shim - - - - - - -"},
};

START_TEST(ls_lists_a_process_under_the_shim)
{
    calls->info = listed[_i].info;
    pid_t pid = start_server("t-shim");
    char line[512];
    char expected[512];
    list_line(0, pid, line, sizeof line);
    snprintf(expected, sizeof expected, "%d %s", (int)pid, listed[_i].line);
    ck_assert_str_eq(line, expected);
    stop(pid);
}
END_TEST

START_TEST(ls_knows_how_long_it_is_up)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    enum { ROOM = 64 };
    char *info = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(info, MAP_FAILED);
    snprintf(info, ROOM, "started=%lld", (long long)(now.tv_sec - 7205) * 1000000000);
    calls->info = info;
    pid_t pid = start_server("t-shim");
    char line[512];
    list_line(0, pid, line, sizeof line);
    ck_assert_ptr_nonnull(strstr(line, " 2h00m "));
    stop(pid);
}
END_TEST

START_TEST(ls_does_not_wait_for_the_stopped)
{
    pid_t pids[4];
    for (int i = 0; i < 4; i++) {
        pids[i] = start_server("t-stopped");
        ck_assert_int_eq(kill(pids[i], SIGSTOP), 0);
    }
    struct timespec start;
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    char line[512];
    char expected[512];
    list_line(0, pids[3], line, sizeof line);
    clock_gettime(CLOCK_MONOTONIC, &end);
    snprintf(expected, sizeof expected, "%d t-stopped - - - - - - no answer", (int)pids[3]);
    ck_assert_str_eq(line, expected);
    ck_assert_int_lt(end.tv_sec - start.tv_sec, 4); /* a second for all together */
    for (int i = 0; i < 4; i++)
        stop(pids[i]);
}
END_TEST

START_TEST(ls_leaves_out_other_users)
{
    pid_t pid = start_server("t-shim");
    char line[512];
    list_line(NOBODY, pid, line, sizeof line);
    ck_assert_str_eq(line, "");
    stop(pid);
}
END_TEST

/* It says so, and lists the others. */
static const char *const unreadable[] = {"nonsense", "=x", "memory=much", "memory=-1", "swapped=18446744073709551616"};

START_TEST(ls_names_what_it_does_not_understand)
{
    pid_t good = start_server("t-good");
    calls->info = unreadable[_i];
    pid_t bad = start_server("t-bad");
    struct run run;
    run_tool(&run, 0, "ls");
    ck_assert_int_eq(run.status, 0);
    char expected[256];
    snprintf(expected, sizeof expected,
             "kvmm ls: process %d can't be asked: it says '%s' of itself, which is not understood\n", (int)bad,
             unreadable[_i]);
    ck_assert_msg(strstr(run.err, expected) != NULL, "%s", run.err);
    run_free(&run);
    stop(bad);
    stop(good);
}
END_TEST

START_TEST(ls_prints_json)
{
    pid_t pid = start_server("t-shim");
    pid_t stopped = start_server("t-stopped");
    ck_assert_int_eq(kill(stopped, SIGSTOP), 0);
    struct run run;
    run_tool(&run, 0, "ls --json");
    ck_assert_int_eq(run.status, 0);
    json_error_t error;
    json_t *top = json_loads(run.out, JSON_REJECT_DUPLICATES, &error);
    ck_assert_msg(top != NULL, "%s", error.text);
    int found = 0;
    size_t i;
    json_t *process;
    json_array_foreach(json_object_get(top, "processes"), i, process)
    {
        json_int_t listed_pid = json_integer_value(json_object_get(process, "pid"));
        int answers = -1;
        if (listed_pid == stopped) {
            ck_assert_int_eq(json_unpack(process, "{s:b}", "answers", &answers), 0);
            ck_assert_int_eq(answers, 0);
            found++;
        }
        if (listed_pid != pid)
            continue;
        const char *name;
        const char *device;
        const char *state;
        const char *rule;
        json_int_t caches;
        json_int_t bytes;
        json_int_t used;
        json_int_t capacity;
        json_int_t swapped;
        json_int_t seen;
        json_int_t selected;
        int shim;
        ck_assert_int_eq(json_unpack_ex(process, &error, 0,
                                        "{s:s, s:s, s:s, s:s, s:I, s:I, s:{s:I, s:I}, s:{s:I}, s:I, s:I, s:b, s:b}",
                                        "name", &name, "device", &device, "state", &state, "rule", &rule,
                                        "caches_total", &caches, "caches_bytes", &bytes, "device_memory", "used_bytes",
                                        &used, "capacity_bytes", &capacity, "nvme", "used_bytes", &swapped,
                                        "allocations_seen", &seen, "allocations_selected", &selected, "shim", &shim,
                                        "answers", &answers),
                         0);
        ck_assert_str_eq(name, "t-shim");
        ck_assert_str_eq(device, "cpu");
        ck_assert_str_eq(state, "running");
        ck_assert_str_eq(rule, "auto");
        ck_assert(caches == 2 && bytes == 8589934592 && used == 805306368 && capacity == 1073741824);
        ck_assert(swapped == 2147483648 && seen == 7 && selected == 2 && shim == 1 && answers == 1);
        found++;
    }
    ck_assert_int_eq(found, 2);
    json_decref(top);
    run_free(&run);
    stop(pid);
    stop(stopped);
}
END_TEST

/* ---- bad input ----------------------------------------------------------------------------------------------- */

static const struct {
    const char *arguments;
    const char *line;
} bad_input[] = {
    {"suspend", "kvmm suspend: which process? `kvmm ls' lists them\n"},
    {"suspend abc", "kvmm suspend: 'abc' is no process id\n"},
    {"suspend 0", "kvmm suspend: '0' is no process id\n"},
    {"suspend 2147483648", "kvmm suspend: '2147483648' is no process id\n"},
    {"suspend 1 2", "kvmm suspend: '2': one process at a time\n"},
    {"suspend 1 --wait 1s", "kvmm suspend: --wait '1s': milliseconds up to 4294967295 are needed\n"},
    {"suspend 1 --wait -1", "kvmm suspend: --wait '-1': milliseconds up to 4294967295 are needed\n"},
    {"suspend 1 --wait 4294967296", "kvmm suspend: --wait '4294967296': milliseconds up to 4294967295 are needed\n"},
    {"suspend 1 --wait", "kvmm suspend: option '--wait' requires an argument\n"},
    {"resume", "kvmm resume: which process? `kvmm ls' lists them\n"},
    {"resume x", "kvmm resume: 'x' is no process id\n"},
    {"resume 1 2", "kvmm resume: '2': one process at a time\n"},
    {"resume 1 --wait 5", "kvmm resume: unrecognized option '--wait'\n"},
    {"advise", "kvmm advise: PID, ADDRESS, LENGTH and willneed, cold or free are needed\n"},
    {"advise 1", "kvmm advise: PID, ADDRESS, LENGTH and willneed, cold or free are needed\n"},
    {"advise 1 0x1000 4096", "kvmm advise: PID, ADDRESS, LENGTH and willneed, cold or free are needed\n"},
    {"advise x 0x1000 4096 cold", "kvmm advise: 'x' is no process id\n"},
    {"advise 1 1000 4096 cold", "kvmm advise: '1000' is no address: 0x and up to 16 hexadecimal digits\n"},
    {"advise 1 0x 4096 cold", "kvmm advise: '0x' is no address: 0x and up to 16 hexadecimal digits\n"},
    {"advise 1 0x-1 4096 cold", "kvmm advise: '0x-1' is no address: 0x and up to 16 hexadecimal digits\n"},
    {"advise 1 0x11111111111111111 4096 cold",
     "kvmm advise: '0x11111111111111111' is no address: 0x and up to 16 hexadecimal digits\n"},
    {"advise 1 0x1000 0 cold", "kvmm advise: '0' is no length: a number of bytes is needed\n"},
    {"advise 1 0x1000 4k cold", "kvmm advise: '4k' is no length: a number of bytes is needed\n"},
    {"advise 1 0x1000 18446744073709551616 cold",
     "kvmm advise: '18446744073709551616' is no length: a number of bytes is needed\n"},
    {"advise 1 0x1000 4096 warm", "kvmm advise: 'warm': the advice is willneed, cold or free\n"},
    {"advise 1 0x1000 4096 cold free", "kvmm advise: 'free': one advice at a time\n"},
};

START_TEST(bad_input_is_named_in_one_line)
{
    struct run run;
    run_tool(&run, 0, "%s", bad_input[_i].arguments);
    ck_assert_str_eq(run.err, bad_input[_i].line);
    ck_assert_int_eq(run.status, 2);
    ck_assert_str_eq(run.out, "");
    run_free(&run);
}
END_TEST

START_TEST(help_explains)
{
    static const char *const commands[] = {"suspend", "resume", "advise"};
    struct run run;
    run_tool(&run, 0, "--help");
    for (size_t i = 0; i < 3; i++)
        ck_assert_ptr_nonnull(strstr(run.out, commands[i]));
    run_free(&run);
    for (size_t i = 0; i < 3; i++) {
        char usage[64];
        snprintf(usage, sizeof usage, "Usage: kvmm %s ", commands[i]);
        run_tool(&run, 0, "%s --help", commands[i]);
        ck_assert_int_eq(run.status, 0);
        ck_assert_ptr_nonnull(strstr(run.out, usage));
        ck_assert_ptr_nonnull(strstr(run.out, "Exit status"));
        run_free(&run);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("the kvmm command and the shim");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, share_calls, unshare_calls);
    tcase_add_test(tests, requests_reach_the_process);
    tcase_add_test(tests, the_process_s_error_is_told);
    tcase_add_test(tests, a_process_that_has_ended_is_named);
    tcase_add_test(tests, a_process_without_a_cache_is_named);
    tcase_add_test(tests, a_stopped_process_does_not_hold_the_command);
    tcase_add_test(tests, no_process_stands_in_for_another);
    tcase_add_test(tests, the_example_in_the_readme_works);
    tcase_add_loop_test(tests, ls_lists_a_process_under_the_shim, 0, (int)(sizeof listed / sizeof listed[0]));
    tcase_add_test(tests, ls_knows_how_long_it_is_up);
    tcase_add_test(tests, ls_does_not_wait_for_the_stopped);
    tcase_add_loop_test(tests, ls_names_what_it_does_not_understand, 0,
                        (int)(sizeof unreadable / sizeof unreadable[0]));
    tcase_add_test(tests, ls_prints_json);
    tcase_add_loop_test(tests, bad_input_is_named_in_one_line, 0, (int)(sizeof bad_input / sizeof bad_input[0]));
    tcase_add_test(tests, help_explains);
    if (geteuid() == 0) {
        tcase_add_test(tests, another_user_s_process_is_named);
        tcase_add_test(tests, ls_leaves_out_other_users);
        tcase_add_test(tests, pid_namespaces_are_seen_through);
        tcase_add_test(tests, another_network_namespace_is_named);
    } else {
        puts(
            "left out, because only root can become another user or make namespaces: what others are told, containers");
    }
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_FORK);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
