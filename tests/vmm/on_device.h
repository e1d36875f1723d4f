/* SPDX-License-Identifier: Apache-2.0
 *
 * The device that the tests run on: KVMM_TEST_DEVICE, "host" by default. On the software driver's device a device address
 * is no CPU address; cpu_at() is where the CPU finds its bytes, with the access that the device has. */
#ifndef TESTS_VMM_ON_DEVICE_H
#define TESTS_VMM_ON_DEVICE_H

#include <check.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline const char *test_device(void)
{
    const char *name = getenv("KVMM_TEST_DEVICE");
    return name && *name ? name : "host";
}

static inline bool on_cuda(void)
{
    return strncmp(test_device(), "cuda", 4) == 0;
}

/* Tokens that are mapped ahead: KVMM_TEST_AHEAD, 0 by default, so that frames can be counted exactly. */
static inline uint32_t test_map_ahead(void)
{
    const char *tokens = getenv("KVMM_TEST_AHEAD");
    return tokens ? (uint32_t)strtoul(tokens, NULL, 10) : 0;
}

/* A function of the software driver, which kvmm has loaded. */
static inline void *simcuda_symbol(const char *name)
{
    void *library = dlopen(getenv("KVMM_LIBCUDA"), RTLD_NOW | RTLD_NOLOAD);
    ck_assert_msg(library != NULL, "KVMM_LIBCUDA is not loaded");
    void *symbol = dlsym(library, name);
    ck_assert_msg(symbol != NULL, "the driver has no %s: is it simcuda?", name);
    dlclose(library);
    return symbol;
}

static inline void *cpu_at(const void *device_address)
{
    static void *_Atomic symbol; /* several threads may be the first */
    if (!on_cuda())
        return (void *)(uintptr_t)device_address;
    void *found = symbol;
    if (!found)
        symbol = found = simcuda_symbol("simcuda_host_address");
    void *(*host_address)(unsigned long long);
    *(void **)&host_address = found;
    return host_address((uintptr_t)device_address);
}

#endif
