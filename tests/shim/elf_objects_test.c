/* SPDX-License-Identifier: Apache-2.0
 *
 * Symbols of loaded objects: what is found is what dlsym finds, and functions are named. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <check.h>

#include "shim/elf_objects.h"
#include "shim/symbols.h"

static const char *plugin_path(const char *name)
{
    static char path[4096];
    const char *folder = getenv("SHIM_TEST_PLUGINS");
    ck_assert_msg(folder != NULL, "SHIM_TEST_PLUGINS must name the folder of the plugins");
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

START_TEST(finds_what_dlsym_finds)
{
    static const char *const names[] = {"malloc", "free",         "mmap",           "memset", "dlsym",
                                        "memcpy", "fopen",        "realpath",       "nftw",   "fnmatch",
                                        "strlen", "gettimeofday", "pthread_create", "environ"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        void *found = shim_elf_first(names[i]);
        ck_assert_ptr_nonnull(found);
        /* By dlsym of the C library itself: the program may have its own or a copy. */
        void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
        ck_assert_ptr_nonnull(libc);
        struct shim_object object;
        ck_assert(shim_elf_at(found, &object));
        if (strstr(object.path, "libc.so"))
            ck_assert_msg(found == dlsym(libc, names[i]), "%s", names[i]);
        else
            ck_assert_ptr_eq(found, dlsym(RTLD_DEFAULT, names[i]));
        ck_assert_ptr_eq(shim_elf_any(names[i]), found);
        dlclose(libc);
    }
    ck_assert_ptr_null(shim_elf_first("no_such_function_anywhere"));
    ck_assert_ptr_null(shim_elf_any("no_such_function_anywhere"));
    ck_assert_ptr_null(shim_elf_first(""));
}
END_TEST

/* In all of glibc, where many names have several versions, and some are IFUNCs. */
static bool compare_all(const struct shim_object *object, void *user)
{
    unsigned *n = user;
    if (!strstr(object->path, "libc.so"))
        return false;
    void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    size_t n_symbols = shim_elf_n_symbols(object);
    ck_assert_uint_gt(n_symbols, 1000);
    for (size_t i = 1; i < n_symbols; i++) {
        const ElfW(Sym) *symbol = &object->symbols[i];
        unsigned type = ELF64_ST_TYPE(symbol->st_info);
        if (symbol->st_shndx == SHN_UNDEF || (type != STT_FUNC && type != STT_GNU_IFUNC) ||
            (object->versions[i] & 0x8000))
            continue;
        const char *name = object->strings + symbol->st_name;
        void *theirs = dlsym(libc, name);
        if (!theirs)
            continue; /* GLIBC_PRIVATE */
        ck_assert_msg(shim_elf_symbol(object, name) == theirs, "%s", name);
        *n += 1;
    }
    dlclose(libc);
    return true;
}

START_TEST(every_function_of_libc)
{
    unsigned n = 0;
    shim_elf_each(compare_all, &n);
    ck_assert_uint_gt(n, 1000);
}
END_TEST

START_TEST(libraries_that_are_loaded_locally)
{
    static const char *const plugins[] = {"libplugin_gnu.so", "libplugin_sysv.so"};
    ck_assert_ptr_null(shim_elf_any("plugin_which"));
    struct shim_elf_changes before = shim_elf_changes();
    void *plugin = dlopen(plugin_path(plugins[_i]), RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(plugin != NULL, "%s", dlerror());
    ck_assert_uint_gt(shim_elf_changes().n_loaded, before.n_loaded);
    ck_assert_ptr_null(dlsym(RTLD_DEFAULT, "plugin_which"));
    void *found = shim_elf_any("plugin_which");
    ck_assert(found && found == dlsym(plugin, "plugin_which"));
    ck_assert_int_eq(((int (*)(void))found)(), _i + 1);
    ck_assert_int_eq(*(int *)shim_elf_any("plugin_number"), 41 + _i);
    ck_assert_ptr_null(shim_elf_any("plugin_inner")); /* static */
    struct shim_object object;
    ck_assert(shim_elf_at(found, &object));
    ck_assert_ptr_nonnull(strstr(object.path, plugins[_i]));
    ck_assert(!object.is_program && !object.is_shim);
    ck_assert((object.gnu_hash != NULL) == (_i == 0) && (object.hash != NULL) == (_i == 1));
    ck_assert_uint_ge(shim_elf_n_symbols(&object), 4);
    dlclose(plugin);
    ck_assert_ptr_null(shim_elf_any("plugin_which"));
    ck_assert_uint_gt(shim_elf_changes().n_unloaded, before.n_unloaded);
}
END_TEST

__attribute__((noinline)) static int a_static_function(int x)
{
    __asm__ volatile("" : "+r"(x));
    return x + 1;
}

START_TEST(functions_are_named)
{
    char name[100];
    ck_assert(a_static_function(1) == 2);
    ck_assert(shim_symbols_name((const char *)a_static_function + 1, name, sizeof name)); /* from the file */
    ck_assert_str_eq(name, "a_static_function");
    void *found = shim_elf_first("fopen");
    ck_assert(shim_symbols_name(found, name, sizeof name));
    ck_assert_msg(strstr(name, "fopen") != NULL, "%s", name);
    void *plugin = dlopen(plugin_path("libplugin_gnu.so"), RTLD_NOW | RTLD_LOCAL);
    ck_assert_ptr_nonnull(plugin);
    ck_assert(shim_symbols_name(dlsym(plugin, "plugin_make_cache"), name, sizeof name));
    ck_assert_str_eq(name, "plugin_make_cache");
    char cut[7];
    ck_assert(shim_symbols_name(dlsym(plugin, "plugin_make_cache"), cut, sizeof cut));
    ck_assert_str_eq(cut, "plugin");
    dlclose(plugin);
    char local;
    ck_assert(!shim_symbols_name(&local, name, sizeof name));
    ck_assert(!shim_symbols_name(NULL, name, sizeof name));
}
END_TEST

static bool look_in_program(const struct shim_object *object, void *user)
{
    ck_assert(object->is_program);
    ck_assert(shim_symbols_file_has(object, "a_static_func"));
    ck_assert(!shim_symbols_file_has(object, "no such name"));
    return true;
}

START_TEST(the_file_of_the_program)
{
    shim_elf_each(look_in_program, NULL);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("shim elf");
    TCase *elf = tcase_create("elf");
    tcase_add_test(elf, finds_what_dlsym_finds);
    tcase_add_test(elf, every_function_of_libc);
    tcase_add_loop_test(elf, libraries_that_are_loaded_locally, 0, 2);
    tcase_add_test(elf, functions_are_named);
    tcase_add_test(elf, the_file_of_the_program);
    suite_add_tcase(s, elf);
    return s;
}

int main(void)
{
    SRunner *runner = srunner_create(suite());
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
