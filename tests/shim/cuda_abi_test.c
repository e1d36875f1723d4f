/* SPDX-License-Identifier: Apache-2.0
 *
 * The hooks against the toolkit: types and numbers are cuda.h's; every function of cudaTypedefs.h that takes device memory
 * is hooked or left alone for a reason; every hook is a symbol of libcuda. */
#include <dlfcn.h>
#include <regex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/shim/cuda_abi_left.h"
#include "tests/shim/cuda_abi_values.h"

static int n_bad;

static void compare(void)
{
    n_bad += cuda_abi_n_of_shim != cuda_abi_n_of_toolkit;
    for (size_t i = 0; i < cuda_abi_n_of_shim && i < cuda_abi_n_of_toolkit; i++) {
        const struct cuda_abi_value *ours = &cuda_abi_of_shim[i], *theirs = &cuda_abi_of_toolkit[i];
        if (strcmp(ours->name, theirs->name) == 0 && ours->value == theirs->value)
            continue;
        printf("%s is %lld, and %s of the toolkit %lld\n", ours->name, ours->value, theirs->name, theirs->value);
        n_bad++;
    }
}

static bool is_left(const char *name)
{
    static const char *const names[] = {
#define X(name, why) #name,
        CUDA_ABI_LEFT(X)
#undef X
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

static bool is_hooked(const char *name, int version, const char *suffix)
{
    for (size_t i = 0; i < cuda_abi_n_hooks; i++) {
        const struct cuda_abi_hook *hook = &cuda_abi_hooks[i];
        if (strcmp(hook->name, name) == 0 && hook->version == version && strcmp(hook->suffix, suffix) == 0)
            return true;
    }
    return false;
}

/* Whether a function has to do with device memory, by its name and parameters. */
static bool concerns_us(const char *name, const char *params)
{
    static const char *const marks[] = {"CUdeviceptr", "CUDA_MEMCPY", "CUDA_MEMSET",  "CUDA_LAUNCH",
                                        "CUlaunch",    "BatchMemOp",  "BATCH_MEM_OP", "CUmemDecompress"};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (strstr(params, marks[i]))
            return true;
    return strncmp(name, "cuLaunch", 8) == 0 || strncmp(name, "cuGraphLaunch", 13) == 0;
}

/* One typedef: name, version, suffix and parameters. Returns whether it concerns the shim. */
static int judge(const char *name, int version, const char *suffix, const char *params)
{
    if (!concerns_us(name, params))
        return 0;
    bool is_old = strstr(params, "CUdeviceptr_v1") || strstr(params, "CUDA_MEMCPY2D_v1") ||
                  (strstr(params, "CUDA_MEMCPY3D_v1") != NULL);
    bool good = is_hooked(name, version, suffix) || is_left(name) || is_old;
    if (!good)
        printf("%s of version %d%s is neither hooked nor left alone\n", name, version, suffix);
    n_bad += !good;
    return 1;
}

static char *read_file(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = calloc(1, (size_t)4 << 20);
    if (!file || !text || fread(text, 1, ((size_t)4 << 20) - 1, file) == 0) {
        printf("%s can't be read\n", path);
        exit(EXIT_FAILURE);
    }
    fclose(file);
    return text;
}

static void part(char *out, size_t size, const char *text, regmatch_t match)
{
    size_t n = match.rm_so < 0 ? 0 : (size_t)(match.rm_eo - match.rm_so);
    snprintf(out, size, "%.*s", (int)n, match.rm_so < 0 ? "" : text + match.rm_so);
}

static void check_typedefs(const char *path)
{
    regex_t pattern;
    regmatch_t match[5];
    char name[128], version[16], suffix[16], params[2048];
    char *text = read_file(path), *at = text;
    int n = 0;
    if (regcomp(&pattern, "PFN_(cu[A-Za-z0-9]+)_v([0-9]+)(_ptds|_ptsz)?\\)[ \n]*\\(([^;]*)\\);", REG_EXTENDED))
        exit(EXIT_FAILURE);
    while (regexec(&pattern, at, 5, match, 0) == 0) {
        part(name, sizeof name, at, match[1]);
        part(version, sizeof version, at, match[2]);
        part(suffix, sizeof suffix, at, match[3]);
        part(params, sizeof params, at, match[4]);
        n += judge(name, (int)strtol(version, NULL, 10), suffix, params);
        at += match[0].rm_eo;
    }
    regfree(&pattern);
    free(text);
    printf("%d functions concern device memory\n", n);
    n_bad += n < 150;
}

/* The toolkit's stub has the symbols of the driver. */
static void check_symbols(const char *path)
{
    void *library = dlopen(path, RTLD_LAZY);
    if (!library) {
        printf("no symbols are compared: %s\n", dlerror());
        return;
    }
    for (size_t i = 0; i < cuda_abi_n_hooks; i++) {
        if (!dlsym(library, cuda_abi_hooks[i].symbol)) {
            printf("libcuda has no %s\n", cuda_abi_hooks[i].symbol);
            n_bad++;
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        printf("usage: %s cudaTypedefs.h libcuda.so\n", argv[0]);
        return EXIT_FAILURE;
    }
    compare();
    check_typedefs(argv[1]);
    check_symbols(argv[2]);
    printf("%zu values and %zu hooks compared, %d bad\n", cuda_abi_n_of_shim, cuda_abi_n_hooks, n_bad);
    return n_bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
