/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of functions, from the dynamic symbols in memory and from the symbol table (.symtab) of the object's file, which also
 * has static functions and those of what was linked statically. Nothing is allocated; a file is mapped for the time of the
 * call. A file that isn't the one that was loaded (its program headers differ) is not believed. */
#ifndef SHIM_SYMBOLS_H
#define SHIM_SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>

#include "shim/elf_objects.h"

/* The (mangled) name of the function that address is in, cut to size. False: no table knows one. A scan of the object's
 * symbols: 10 µs to milliseconds. */
bool shim_symbols_name(const void *address, char *name, size_t size);

/* Whether text is within a name in the symbol table of the object's file. */
bool shim_symbols_file_has(const struct shim_object *object, const char *text);

#endif
