/* SPDX-License-Identifier: Apache-2.0
 *
 * What a process holds, counted before and after: what was opened, started or mapped must be given back. Each is -1
 * where /proc can't be read. */
#ifndef TESTS_SUPPORT_LEAKS_H
#define TESTS_SUPPORT_LEAKS_H

#include <dirent.h>
#include <stdio.h>
#include <string.h>

static inline int leaks_count_entries(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return -1;
    int n = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* Open file descriptors; the one that counts them is among them each time. */
static inline int leaks_count_fds(void)
{
    return leaks_count_entries("/proc/self/fd");
}

static inline int leaks_count_threads(void)
{
    return leaks_count_entries("/proc/self/task");
}

/* Mappings whose line in /proc/self/maps contains `text`, such as "memfd:kvmm"; malloc's own come and go, so a count
 * of all says little. */
static inline int leaks_count_maps(const char *text)
{
    FILE *file = fopen("/proc/self/maps", "re");
    if (!file)
        return -1;
    char line[4096];
    int n = 0;
    while (fgets(line, sizeof line, file))
        n += strstr(line, text) != NULL;
    fclose(file);
    return n;
}

#endif
