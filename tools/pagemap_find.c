/* SPDX-License-Identifier: Apache-2.0
 *
 * From a process to its page maps: its file descriptors are looked through for the memfd's name. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/pagemap_reader.h"

#define LINK_TEXT "/memfd:" VMM_PAGEMAP_MEMFD " (deleted)"

struct file_identity {
    dev_t dev;
    ino_t ino;
};

/* What a look through one process has come across. */
struct search {
    pid_t pid;
    /* The process's own idea of its id: another one than ours if it lives in a PID namespace (a container). */
    pid_t pid_inside;
    struct pagemap_list list;
    struct file_identity *files; /* of list.readers */
    enum pagemap_answer worst;   /* of the maps that could not be opened */
};

/* The last number of "NSpid:" in /proc/PID/status. */
pid_t pagemap_pid_inside(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return pid;
    char line[512];
    pid_t inside = pid;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "NSpid:", 6) != 0)
            continue;
        char *end;
        for (char *at = line + 6;; at = end) {
            long number = strtol(at, &end, 10);
            if (end == at)
                break;
            inside = (pid_t)number;
        }
        break;
    }
    fclose(file);
    return inside;
}

static bool seen_before(struct search *search, const struct stat *st)
{
    for (size_t i = 0; i < search->list.n_readers; i++)
        if (search->files[i].dev == st->st_dev && search->files[i].ino == st->st_ino)
            return true;
    return false;
}

/* Grows both lists by one place; the caller fills it. */
static bool make_room(struct search *search)
{
    size_t n = search->list.n_readers + 1;
    /* The elements are pointers. NOLINTNEXTLINE(bugprone-sizeof-expression) */
    struct pagemap_reader **readers = realloc(search->list.readers, n * sizeof *readers);
    if (readers)
        search->list.readers = readers;
    struct file_identity *files = realloc(search->files, n * sizeof *files);
    if (files)
        search->files = files;
    return readers && files;
}

static void try_fd(struct search *search, int fd, struct pagemap_error *error)
{
    struct stat st;
    if (fstat(fd, &st) || seen_before(search, &st))
        return;
    struct pagemap_reader *reader;
    enum pagemap_answer answer = pagemap_open_fd(fd, &reader, error);
    if (answer) {
        search->worst = answer > search->worst ? answer : search->worst;
        search->list.n_refused++;
        return;
    }
    pid_t owner = pagemap_pid(reader);
    if (owner != search->pid && owner != search->pid_inside) {
        pagemap_close(&reader);
        return;
    }
    if (!make_room(search)) {
        snprintf(error->text, sizeof error->text, "no memory");
        search->worst = PAGEMAP_FAILED;
        search->list.n_refused++;
        pagemap_close(&reader);
        return;
    }
    search->files[search->list.n_readers] = (struct file_identity){st.st_dev, st.st_ino};
    search->list.readers[search->list.n_readers++] = reader;
}

static void try_entry(struct search *search, int dir_fd, const char *name, struct pagemap_error *error)
{
    char link[sizeof LINK_TEXT + 1];
    ssize_t n = readlinkat(dir_fd, name, link, sizeof link);
    if (n != (ssize_t)strlen(LINK_TEXT) || memcmp(link, LINK_TEXT, (size_t)n) != 0)
        return;
    /* By now the number may stand for another file: a FIFO must not block us, a terminal not become ours. */
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        if (errno == EACCES || errno == EPERM) {
            snprintf(error->text, sizeof error->text, "%s", strerror(errno));
            search->worst = search->worst > PAGEMAP_DENIED ? search->worst : PAGEMAP_DENIED;
            search->list.n_refused++;
        }
        return;
    }
    try_fd(search, fd, error);
    close(fd);
}

bool pagemap_process_ended(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return true;
    char line[512];
    bool ended = false;
    /* The state follows the name, which is in parentheses and may hold some itself: proc(5). */
    const char *name_end = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    if (name_end && name_end[1] == ' ')
        ended = name_end[2] == 'Z' || name_end[2] == 'X';
    fclose(file);
    return ended;
}

static enum pagemap_answer answer_for_errno(int number, struct pagemap_error *error)
{
    snprintf(error->text, sizeof error->text, "%s", strerror(number));
    if (number == ENOENT || number == ESRCH)
        return PAGEMAP_NO_PROCESS;
    if (number == EACCES || number == EPERM)
        return PAGEMAP_DENIED;
    return PAGEMAP_FAILED;
}

enum pagemap_answer pagemap_open_process(pid_t pid, struct pagemap_list *list, struct pagemap_error *error)
{
    *list = (struct pagemap_list){0};
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    if (!dir) {
        enum pagemap_answer answer = answer_for_errno(errno, error);
        return answer == PAGEMAP_DENIED && pagemap_process_ended(pid) ? PAGEMAP_NO_PROCESS : answer;
    }
    struct search search = {.pid = pid, .pid_inside = pagemap_pid_inside(pid)};
    struct dirent *entry;
    while ((entry = readdir(dir)))
        if (entry->d_name[0] != '.')
            try_entry(&search, dirfd(dir), entry->d_name, error);
    closedir(dir);
    free(search.files);
    if (search.list.n_readers > 0) {
        *list = search.list;
        return PAGEMAP_OK;
    }
    free(search.list.readers);
    if (pagemap_process_ended(pid))
        return PAGEMAP_NO_PROCESS;
    return search.worst ? search.worst : PAGEMAP_NO_MAP;
}

void pagemap_close_list(struct pagemap_list *list)
{
    for (size_t i = 0; i < list->n_readers; i++)
        pagemap_close(&list->readers[i]);
    free(list->readers);
    *list = (struct pagemap_list){0};
}

static int by_value(const void *left, const void *right)
{
    pid_t a = *(const pid_t *)left;
    pid_t b = *(const pid_t *)right;
    return a < b ? -1 : a > b;
}

enum pagemap_answer pagemap_processes(pid_t **out, size_t *n_out, struct pagemap_error *error)
{
    DIR *dir = opendir("/proc");
    if (!dir) {
        snprintf(error->text, sizeof error->text, "/proc: %s", strerror(errno));
        return PAGEMAP_FAILED;
    }
    pid_t *pids = NULL;
    size_t n = 0;
    size_t room = 0;
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        if (*end != '\0' || pid <= 0 || pid > INT_MAX)
            continue;
        if (n == room) {
            room = room ? room * 2 : 256;
            pid_t *more = realloc(pids, room * sizeof *more);
            if (!more) {
                free(pids);
                closedir(dir);
                snprintf(error->text, sizeof error->text, "no memory");
                return PAGEMAP_FAILED;
            }
            pids = more;
        }
        pids[n++] = (pid_t)pid;
    }
    closedir(dir);
    if (n > 0)
        qsort(pids, n, sizeof *pids, by_value);
    *out = pids;
    *n_out = n;
    return PAGEMAP_OK;
}
