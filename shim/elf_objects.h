/* SPDX-License-Identifier: Apache-2.0
 *
 * The objects that the loader has mapped (elf(5), dl_iterate_phdr(3)), read in memory: no call here allocates or calls dlsym,
 * so that the hooks of malloc and dlsym can use them.
 *
 * dl_iterate_phdr holds the loader's lock while a callback runs; it is recursive, so a hook that the loader itself calls
 * finds it free. Strings and tables are the object's and live until it is unloaded. */
#ifndef SHIM_ELF_OBJECTS_H
#define SHIM_ELF_OBJECTS_H

#include <elf.h>
#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shim_object {
    uintptr_t base;       /* what is added to the addresses in the file */
    uintptr_t start, end; /* of its segments in memory */
    const char *path;     /* "" for the program */
    const ElfW(Phdr) * segments;
    size_t n_segments;
    const ElfW(Sym) * symbols; /* dynamic ones; NULL: it has none */
    const char *strings;
    const uint32_t *gnu_hash;    /* NULL: none */
    const uint32_t *hash;        /* the older table; NULL: none */
    const ElfW(Half) * versions; /* a number for each symbol; NULL: it has no versions */
    bool is_program;
    bool is_shim; /* the object that this code is in, unless that is the program (tests) */
};

/* All objects in load order, which for those of the start is the order in which symbols are looked up: the program,
 * preloaded libraries, libraries. Stops when visit returns true. */
void shim_elf_each(bool (*visit)(const struct shim_object *object, void *user), void *user);

/* Increase when objects are loaded, unloaded. */
struct shim_elf_changes {
    unsigned long long n_loaded, n_unloaded;
};
struct shim_elf_changes shim_elf_changes(void);

/* The object's own definition of a function or variable, in its default version; an IFUNC is resolved. NULL: none. */
void *shim_elf_symbol(const struct shim_object *object, const char *name);

/* These two call nothing of any other library, whose functions may be interposed by one that isn't ready yet, and take no
 * lock; they are for names that an object of the start has, those being there for good.
 * next: the first definition after the shim, what dlsym(RTLD_NEXT) would find from here; first: the first in any object but
 * the shim. NULL: none. */
void *shim_elf_next(const char *name);
void *shim_elf_first(const char *name);

/* The first definition in any object but the shim, also in one that was loaded later, RTLD_LOCAL. NULL: none. */
void *shim_elf_any(const char *name);

/* The object whose segments hold address. False: none does. */
bool shim_elf_at(const void *address, struct shim_object *object);

/* How many dynamic symbols there are, which no table says directly. */
size_t shim_elf_n_symbols(const struct shim_object *object);

#endif
