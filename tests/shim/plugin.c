/* SPDX-License-Identifier: Apache-2.0
 *
 * A library to be looked into. Compiled several times: with WHICH as its number, and each way of hashing symbols. */
#include <dlfcn.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT int plugin_which(void);
EXPORT int plugin_which(void)
{
    return WHICH;
}

#if WHICH == 3 /* it needs the first one, which is thereby the next after it */
extern int plugin_base;
EXPORT int *plugin_of_base = &plugin_base;
#else
EXPORT int plugin_base = WHICH;
#endif

/* What comes after this library in the order that belongs to it: the caller's address decides. */
EXPORT void *plugin_next(const char *name);
EXPORT void *plugin_next(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    __asm__ volatile("" ::: "memory"); /* no tail call: the caller is to be this function */
    return found;
}

EXPORT int plugin_number = 40 + WHICH;

__attribute__((noinline)) static void *plugin_inner(size_t bytes)
{
    void *memory = malloc(bytes);
    __asm__ volatile("" ::: "memory");
    return memory;
}

EXPORT void *plugin_make_cache(size_t bytes);
EXPORT void *plugin_make_cache(size_t bytes)
{
    void *memory = plugin_inner(bytes);
    __asm__ volatile("" ::: "memory");
    return memory;
}
