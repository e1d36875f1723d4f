/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules that ask who allocates, each in a process of its own (KVMM_SELECT is read at the start, so this program runs itself
 * again), and dlsym, which asks who calls. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "tests/shim/ggml_like.h"
#include "tests/shim/under.h"

static void *load(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("SHIM_TEST_PLUGINS"), name);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        fprintf(stderr, "%s\n", dlerror());
        exit(99);
    }
    return handle;
}

static void *symbol(void *handle, const char *name)
{
    void *found = dlsym(handle, name);
    if (!found) {
        fprintf(stderr, "%s\n", dlerror());
        exit(99);
    }
    return found;
}

/* ---- The engines: each ends with 1 if its allocation is the cache, 0 if not -------------------------------------- */

static int finish(unsigned char *memory, size_t bytes)
{
    if (!memory)
        return 98;
    fill(memory, bytes, 1);
    return holds(memory, bytes, 1) ? is_managed(memory + 4096) : 97;
}

static int engine_of_plugin(void)
{
    void *(*make)(size_t) = (void *(*)(size_t))symbol(load("libplugin_gnu.so"), "plugin_make_cache");
    return finish(make(4 * MIB), 4 * MIB);
}

static int engine_of_itself(void)
{
    return finish(malloc(4 * MIB), 4 * MIB);
}

static int engine_third(void)
{
    unsigned char *memory[4];
    int others = 0;
    for (int i = 0; i < 4; i++) {
        free(malloc(100000)); /* not counted */
        memory[i] = malloc(2 * MIB);
        others += i != 2 && is_managed(memory[i] + 4096);
    }
    int result = others ? 96 : finish(memory[2], 2 * MIB);
    for (int i = 0; i < 4; i++)
        free(memory[i]);
    return result;
}

static int llama_engine(const char *first, const char *second, size_t bytes)
{
    struct ggml_context ctx = {.n_tensors = 2, .tensors = {{first, bytes}, {second, bytes}}};
    void *(*buffer)(struct ggml_context *) =
        (void *(*)(struct ggml_context *))symbol(load("libllama_like.so"), "llama_like_buffer");
    int result = finish(buffer(&ctx), 2 * bytes);
    unsigned char *other = malloc(2 * bytes); /* the mark is gone */
    if (is_managed(other + 4096))
        result = 96;
    free(other);
    return result;
}

static int engine_llama(void)
{
    return llama_engine("cache_k_l0", "cache_v_l0", 3 * MIB);
}

static int engine_llama_v(void)
{
    return llama_engine("cache_v_l7 (view)", "x", 3 * MIB);
}

static int engine_llama_weights(void)
{
    return llama_engine("token_embd.weight", "cache_k_l0", 3 * MIB);
}

/* Over the threshold only both together. */
static int engine_llama_small(void)
{
    return llama_engine("cache_k_l0", "cache_v_l0", 600 << 10);
}

/* As in a program that llama.cpp is linked into. */
__attribute__((noinline)) static void *ggml_static_alloc(size_t bytes)
{
    void *memory = malloc(bytes);
    __asm__ volatile("" ::: "memory");
    return memory;
}

__attribute__((noinline)) static void *llama_kv_cache_static_init(size_t bytes, bool by_ggml)
{
    void *memory = by_ggml ? ggml_static_alloc(bytes) : malloc(bytes);
    __asm__ volatile("" ::: "memory");
    return memory;
}

static int engine_static(void)
{
    return finish(llama_kv_cache_static_init(4 * MIB, true), 4 * MIB);
}

static int engine_static_cells(void)
{
    return finish(llama_kv_cache_static_init(4 * MIB, false), 4 * MIB);
}

static int engine_static_weights(void)
{
    return finish(ggml_static_alloc(4 * MIB), 4 * MIB);
}

static const struct {
    const char *rules; /* NULL: none are given */
    int (*run)(void);
    bool selected;
    const char *said; /* on stderr; NULL: nothing */
} engines[] = {
    {"stack:plugin_make_cache", engine_of_plugin, true, NULL},
    {"stack:plugin_inner", engine_of_plugin, true, NULL}, /* static: from the file */
    {"stack:*_make_*", engine_of_plugin, true, NULL},
    {"stack:plugin", engine_of_plugin, false,
     "the rule stack:plugin selected nothing; the largest of 1 allocations was "
     "4194304 bytes"},
    {"stack:engine_of_plugin", engine_of_plugin, true, NULL},
    {"stack:plugin_*", engine_of_itself, false, "selected nothing"},
    {"none,stack:plugin_*", engine_of_plugin, false, NULL},
    {"none", engine_of_itself, false, NULL},
    {"order:3", engine_third, true, NULL},
    {"order:1", engine_of_itself, true, NULL},
    {"order:2", engine_of_itself, false, "selected nothing"},
    {"size:4M", engine_of_itself, true, NULL},
    {"size:5M,order:2", engine_of_itself, false, "the rule size:5M,order:2 selected nothing"},
    {"list", engine_of_itself, false, "order:1 malloc of 4194304 bytes (4.0 MiB), called by"},
    {"list", engine_of_plugin, false, "< plugin_inner < plugin_make_cache < engine_of_plugin"},
    {"list,size:1M", engine_of_itself, false, "order:1"},
    {"size:1M,list", engine_of_itself, true, NULL},
    {NULL, engine_of_itself, false, NULL},
    {NULL, engine_llama, true, NULL},
    {"llama.cpp", engine_llama, true, NULL},
    {NULL, engine_llama_v, true, NULL},
    {NULL, engine_llama_weights, false, NULL},
    {NULL, engine_llama_small, true, NULL},
    {"none", engine_llama, false, NULL},
    {"stack:llama_like_buffer", engine_llama, true, NULL},
    {NULL, engine_static, true, NULL},
    {NULL, engine_static_cells, false, NULL},
    {NULL, engine_static_weights, false, NULL},
    {"nonsense", engine_of_itself, false, "rule 'nonsense'"},
};

#define N_ENGINES ((int)(sizeof engines / sizeof engines[0]))

START_TEST(rules_select)
{
    char number[12];
    snprintf(number, sizeof number, "%d", _i);
    if (engines[_i].rules)
        setenv("KVMM_SELECT", engines[_i].rules, 1);
    else
        unsetenv("KVMM_SELECT");
    catch_stderr();
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        execl("/proc/self/exe", "callers_test", number, (char *)NULL);
        _exit(95);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    const char *said = caught_stderr(), *rules = engines[_i].rules ? engines[_i].rules : "(unset)";
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == engines[_i].selected, "engine %d, %s: status 0x%x; %s",
                  _i, rules, (unsigned)status, said);
    if (engines[_i].said)
        ck_assert_msg(strstr(said, engines[_i].said) != NULL, "engine %d, %s: '%s'", _i, rules, said);
    else
        ck_assert_msg(said[0] == '\0', "engine %d, %s: '%s'", _i, rules, said);
}
END_TEST

/* ---- dlsym --------------------------------------------------------------------------------------------------- */

static const char *file_of(void *address)
{
    Dl_info info;
    ck_assert(address != NULL && dladdr(address, &info) != 0);
    return info.dli_fname;
}

START_TEST(dlsym_finds_as_before)
{
    const char *shim = file_of(symbol(RTLD_DEFAULT, "kvmm_advise"));
    ck_assert_str_eq(file_of(dlsym(RTLD_DEFAULT, "malloc")), shim);
    ck_assert_str_eq(file_of(dlsym(RTLD_NEXT, "malloc")), shim); /* after the program comes the shim */
    ck_assert_ptr_nonnull(strstr(file_of(dlsym(RTLD_NEXT, "fopen")), "libc.so"));
    void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    ck_assert_ptr_nonnull(strstr(file_of(dlsym(libc, "malloc")), "libc.so"));
    ck_assert_ptr_null(dlsym(RTLD_DEFAULT, "no_such_function"));
    const char *error = dlerror();
    ck_assert(error && strstr(error, "no_such_function"));
    ck_assert_ptr_null(dlerror());
    ck_assert_ptr_null(dlsym(libc, "cuGetProcAddress_v2"));
}
END_TEST

/* Each plugin's next one is the one it is linked with, not what comes next after the shim. */
START_TEST(next_is_next_to_the_caller)
{
    void *plugin = load("libplugin_linked.so");
    void *(*next)(const char *) = (void *(*)(const char *))symbol(plugin, "plugin_next");
    int (*which)(void) = (int (*)(void))symbol(plugin, "plugin_which");
    ck_assert_int_eq(which(), 3);
    int (*next_which)(void) = (int (*)(void))next("plugin_which");
    ck_assert_ptr_nonnull(next_which);
    ck_assert_int_eq(next_which(), 1);
    ck_assert_ptr_nonnull(strstr(file_of(next("malloc")), "libc.so"));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("shim callers");
    TCase *callers = tcase_create("callers");
    tcase_set_timeout(callers, 60);
    tcase_add_loop_test(callers, rules_select, 0, N_ENGINES);
    tcase_add_test(callers, dlsym_finds_as_before);
    tcase_add_test(callers, next_is_next_to_the_caller);
    suite_add_tcase(s, callers);
    return s;
}

int main(int argc, char **argv)
{
    under_shim();
    if (argc == 2)
        return engines[atoi(argv[1])].run();
    SRunner *runner = srunner_create(suite());
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
