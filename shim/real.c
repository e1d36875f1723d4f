/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/real.h"

#include <errno.h>
#include <stdint.h>

#include "shim/elf_objects.h"

/* In this file and those that use the table, names of members are not calls of the functions. */

#define EACH(X) SHIM_REAL_ALLOCATOR(X) SHIM_REAL_SYSTEM(X)

#define DECLARE_FIRST(type, name, parameters, arguments, failure) static type first_##name parameters;
EACH(DECLARE_FIRST)

#define FIRST_MEMBER(type, name, parameters, arguments, failure) .name = first_##name,
struct shim_real shim_real = {EACH(FIRST_MEMBER)};

/* What the shim itself allocates with. It differs from shim_real where the program itself, which comes before the shim,
 * defines malloc: then strdup() takes memory from that one, and the shim's free() must go there, too. */
#define OWN_MEMBER(type, name, parameters, arguments, failure) type(*name) parameters;
static struct {
    SHIM_REAL_ALLOCATOR(OWN_MEMBER)
} own = {SHIM_REAL_ALLOCATOR(FIRST_MEMBER)};

static uintptr_t allocator_start, allocator_end; /* written before the shim is on */

#define DEFINE_MISSING(type, name, parameters, arguments, failure)                                                     \
    static type missing_##name parameters                                                                              \
    {                                                                                                                  \
        errno = ENOSYS;                                                                                                \
        return failure;                                                                                                \
    }
EACH(DEFINE_MISSING)

/* Threads that come here at the same time store the same. */
void shim_real_find(void)
{
    void *found;
#define FIND(type, name, parameters, arguments, failure)                                                               \
    found = shim_elf_next(#name);                                                                                      \
    __atomic_store_n((void **)&shim_real.name, found ? found : (void *)missing_##name, __ATOMIC_RELAXED);
#define FIND_OWN(type, name, parameters, arguments, failure)                                                           \
    found = shim_elf_first(#name);                                                                                     \
    __atomic_store_n((void **)&own.name, found ? found : (void *)missing_##name, __ATOMIC_RELAXED);
    SHIM_REAL_ALLOCATOR(FIND_OWN)
    EACH(FIND)
}

void shim_real_find_allocator(void)
{
    struct shim_object object;
    if (shim_elf_at((void *)own.malloc, &object)) {
        allocator_start = object.start;
        allocator_end = object.end;
    }
}

bool shim_real_is_allocator(const void *address)
{
    return (uintptr_t)address >= allocator_start && (uintptr_t)address < allocator_end;
}

#define DEFINE_FIRST(type, name, parameters, arguments, failure)                                                       \
    static type first_##name parameters                                                                                \
    {                                                                                                                  \
        shim_real_find();                                                                                              \
        return shim_real.name arguments;                                                                               \
    }
EACH(DEFINE_FIRST)

/* The shim's own calls, those of the libraries that are linked into it, and those that the compiler makes. */
#define DEFINE_WRAP_OWN(type, name, parameters, arguments, failure)                                                    \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters                                                                                      \
    {                                                                                                                  \
        return own.name arguments;                                                                                     \
    }
SHIM_REAL_ALLOCATOR(DEFINE_WRAP_OWN)

#define DEFINE_WRAP(type, name, parameters, arguments, failure)                                                        \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters                                                                                      \
    {                                                                                                                  \
        return shim_real.name arguments;                                                                               \
    }
SHIM_REAL_SYSTEM(DEFINE_WRAP)
