/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/bench_shim.h"

/* Page tables, and what else the kernel charges a rival's control group for. */
#define BESIDE_CACHE ((uint64_t)8 << 20)

static int complain(const char *what, int result)
{
    fprintf(stderr, SHIM_BENCH_NAME ": %s: %s\n", what, strerrordesc_np(-result));
    return result;
}

char **shim_bench_environment(const struct shim_bench *bench, bool preload, uint64_t budget, uint64_t cache_bytes)
{
    enum { MORE = 8, TEXT = 1024 };
    size_t n = 0, kept = 0;
    while (environ[n] != NULL)
        n++;
    char **list = calloc(1, (n + MORE) * sizeof(*list) + MORE * TEXT);
    if (list == NULL)
        return NULL;
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "KVMM_", 5) != 0 && strncmp(environ[i], "LD_PRELOAD=", 11) != 0)
            list[kept++] = environ[i];
    char *text = (char *)(list + n + MORE);
    if (preload) {
        const struct {
            const char *name, *text;
            uint64_t number;
        } settings[] = {
            {"LD_PRELOAD", bench->options.shim, 0},
            {"KVMM_SWAP_DIR", bench->options.dir, 0},
            {"KVMM_CHUNK", NULL, bench->options.chunk},
            {"KVMM_DEVICE_MEMORY", NULL, budget},
        };
        for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++, text += TEXT) {
            if (settings[i].text == NULL && settings[i].number == 0)
                continue;
            if (settings[i].text != NULL)
                (void)snprintf(text, TEXT, "%s=%s", settings[i].name, settings[i].text);
            else
                (void)snprintf(text, TEXT, "%s=%llu", settings[i].name, (unsigned long long)settings[i].number);
            list[kept++] = text;
        }
        if (cache_bytes != 0) {
            (void)snprintf(text, TEXT, "KVMM_SELECT=cleared:%llu", (unsigned long long)cache_bytes);
            list[kept++] = text;
        }
    }
    list[kept] = NULL;
    return list;
}

static int spawn(const struct shim_bench *bench, bool preload, uint64_t budget, uint64_t cache_bytes,
                 struct shim_child *child)
{
    int ends[2];
    char **environment = shim_bench_environment(bench, preload, budget, cache_bytes);
    if (environment == NULL)
        return -ENOMEM;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        free(environment);
        return -errno;
    }
    char *arguments[] = {(char *)"kvmm", (char *)"bench", (char *)"shim-engine", NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    int error = posix_spawn(&child->pid, "/proc/self/exe", &actions, NULL, arguments, environment);
    posix_spawn_file_actions_destroy(&actions);
    free(environment);
    close(ends[1]);
    if (error != 0)
        close(ends[0]);
    else
        child->fd = ends[0];
    return -error;
}

static int ask(struct shim_child *child, const struct engine_request *request, struct engine_reply *reply)
{
    if (send(child->fd, request, sizeof(*request), MSG_NOSIGNAL) != (ssize_t)sizeof(*request) ||
        recv(child->fd, reply, sizeof(*reply), MSG_WAITALL) != (ssize_t)sizeof(*reply))
        return -EPIPE;
    return reply->result < 0 ? complain("the engine", reply->result) : 0;
}

int shim_child_open(const struct shim_bench *bench, enum shim_runner runner, uint32_t n_conversations, uint64_t budget,
                    int group, struct shim_child *child)
{
    struct engine_request request = {.op = ENGINE_OPEN, .shape = bench->shape, .map_file = runner == RUN_MMAP};
    struct engine_reply reply;
    request.shape.n_conversations = n_conversations;
    (void)snprintf(request.folder, sizeof(request.folder), "%s", bench->options.dir);
    *child = (struct shim_child){.fd = -1};
    int result = spawn(bench, runner == RUN_SHIM, budget, bench->options.bytes * n_conversations, child);
    if (result < 0)
        return complain("the engine can't be started", result);
    if (runner >= RUN_SWAP) {
        result = limit_process(&bench->limit, group, child->pid, budget + BESIDE_CACHE, runner == RUN_SWAP);
        if (result < 0)
            (void)complain("the engine's memory can't be limited", result);
    }
    if (result == 0)
        result = ask(child, &request, &reply);
    if (result == -EPIPE)
        (void)complain("an engine has ended as it began", result);
    if (result < 0)
        shim_child_close(child);
    return result;
}

int shim_child_ask(struct shim_child *child, enum engine_op op, uint32_t conversation, uint32_t n,
                   struct engine_reply *reply)
{
    struct engine_request request = {.op = (uint32_t)op, .conversation = conversation, .n = n};
    return ask(child, &request, reply);
}

/* A line of /proc/PID/status, such as "RssAnon:". */
static uint64_t status_bytes(pid_t pid, const char *name)
{
    char path[64], line[256];
    unsigned long long kilobytes = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *status = fopen(path, "re");
    while (status != NULL && fgets(line, sizeof(line), status) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            kilobytes = strtoull(line + strlen(name), NULL, 10);
    if (status != NULL)
        (void)fclose(status);
    return kilobytes * 1024;
}

uint64_t shim_child_memory(const struct shim_child *child, enum shim_runner runner)
{
    if (runner != RUN_SHIM)
        return status_bytes(child->pid, "VmRSS:");
    uint64_t bytes = status_bytes(child->pid, "RssAnon:");
    char folder[64], path[400], target[64];
    (void)snprintf(folder, sizeof(folder), "/proc/%d/fd", (int)child->pid);
    DIR *fds = opendir(folder);
    struct dirent *entry;
    while (fds != NULL && (entry = readdir(fds)) != NULL) {
        struct stat stat_of;
        (void)snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (readlink(path, target, sizeof(target)) > 7 && memcmp(target, "/memfd:", 7) == 0 &&
            stat(path, &stat_of) == 0)
            bytes += (uint64_t)stat_of.st_blocks * 512;
    }
    if (fds != NULL)
        closedir(fds);
    return bytes;
}

void shim_child_close(struct shim_child *child)
{
    if (child->fd < 0)
        return;
    close(child->fd);
    child->fd = -1;
    kill(child->pid, SIGKILL);
    (void)waitpid(child->pid, NULL, 0);
}
