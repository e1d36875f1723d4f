/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/tools/publisher.h"

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

static int ready_fd = -1;

void publisher_ready(void)
{
    if (ready_fd < 0)
        return;
    if (write(ready_fd, "r", 1) != 1)
        _exit(3);
    close(ready_fd);
    ready_fd = -1;
}

static void publish(const char *name, void (*body)(struct vmm_pagemap *map))
{
    struct vmm_pagemap_header header = {
        .frame_bytes = 64 << 10,
        .page_stride = 64 << 10,
        .n_groups = 1,
        .geometry = {.n_layers = 1, .n_kv_heads = 8, .head_dim = 128, .page_tokens = 16, .dtype = KVMM_BF16},
        .device = "host",
        .swap_backend = "threads",
    };
    snprintf(header.name, sizeof header.name, "%s", name);
    struct vmm_pagemap *map;
    if (vmm_pagemap_open(&header, &map) != KVMM_OK)
        _exit(2);
    body(map);
    publisher_ready();
    for (;;)
        pause();
}

pid_t publisher_start(const char *name, void (*body)(struct vmm_pagemap *map))
{
    int ready[2];
    ck_assert_int_eq(pipe(ready), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves none behind */
        close(ready[0]);
        ready_fd = ready[1];
        publish(name, body);
    }
    close(ready[1]);
    char byte;
    ck_assert_msg(read(ready[0], &byte, 1) == 1, "the publisher died before it was ready");
    close(ready[0]);
    return pid;
}

void publisher_kill(pid_t pid)
{
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}
