/* SPDX-License-Identifier: Apache-2.0
 *
 * The GPU side of the shim as a library to link with, for builds with a sanitizer, under which nothing can be preloaded: the
 * settings, the rules and the symbols that engines find, without what is interposed of the C library. */
#include <stdio.h>
#include <stdlib.h>

#include "shim/cuda/cuda.h"
#include "shim/hook.h"
#include "shim/include/kvmm/shim.h"
#include "shim/log.h"
#include "shim/start.h"
#include "tests/shim/cuda_dlsym.h"

#undef dlsym

SHIM_THREAD_LOCAL unsigned shim_inside;

enum shim_verdict shim_ask(const char *call, size_t bytes)
{
    return shim_inside ? SHIM_PASS : shim_select(call, bytes);
}

void shim_control_start(void)
{
}

SHIM_EXPORT int kvmm_advise(void *address, size_t bytes, int advice)
{
    char reason[200];
    return shim_cuda_advise(address, bytes, advice, reason, sizeof reason);
}

void *shim_test_dlsym(void *handle, const char *name)
{
    void *hook = shim_cuda_dlsym(handle, name);
    return hook ? hook : dlsym(handle, name);
}

static const char *get(const char *name)
{
    return getenv(name);
}

__attribute__((constructor)) static void start(void)
{
    static struct shim_config config;
    char reason[400];
    if (!shim_config_read(get, &config, reason, sizeof reason) ||
        !shim_select_open(config.select, reason, sizeof reason) || shim_cuda_open(&config, reason, sizeof reason) != 0)
        shim_log("%s", reason);
}
