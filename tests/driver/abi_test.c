/* SPDX-License-Identifier: Apache-2.0
 *
 * vmm/driver/cuda_abi.h has the types and numbers of the toolkit's cuda.h, all of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/driver/abi_values.h"

static int n_bad;

static void compare(void)
{
    if (abi_n_of_kvmm != abi_n_of_toolkit)
        n_bad++;
    for (size_t i = 0; i < abi_n_of_kvmm && i < abi_n_of_toolkit; i++) {
        const struct abi_value *ours = &abi_of_kvmm[i], *theirs = &abi_of_toolkit[i];
        if (strcmp(ours->name, theirs->name) == 0 && ours->value == theirs->value)
            continue;
        printf("%s is %lld, and %s of the toolkit %lld\n", ours->name, ours->value, theirs->name, theirs->value);
        n_bad++;
    }
}

static int is_listed(const char *name, size_t length)
{
    for (size_t i = 0; i < abi_n_of_kvmm; i++)
        if (strncmp(abi_of_kvmm[i].name, name, length) == 0 && abi_of_kvmm[i].name[length] == '\0')
            return 1;
    return 0;
}

/* Every name that the header's code has must be in the table: tags of opaque types and the header's own guard apart. */
static void check_names(char *line)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
    for (char *at = line + strcspn(line, letters); *at; at += strcspn(at, letters)) {
        size_t length = strspn(at, letters);
        int tag = length > 3 && strncmp(at + length - 3, "_st", 3) == 0;
        if (strncmp(at, "CU", 2) == 0 && !tag && strncmp(at, "CUDA_ABI_H", length) != 0 && !is_listed(at, length)) {
            printf("%.*s is in cuda_abi.h and not compared\n", (int)length, at);
            n_bad++;
        }
        at += length;
    }
}

static int check_header(const char *path)
{
    char line[512];
    int n = 0;
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "/*", 2) == 0 || strncmp(line, " *", 2) == 0)
            continue;
        check_names(line);
        n++;
    }
    fclose(file);
    return n;
}

int main(int argc, char **argv)
{
    compare();
    if (argc != 2 || check_header(argv[1]) < 50) {
        printf("usage: %s cuda_abi.h\n", argv[0]);
        return EXIT_FAILURE;
    }
    printf("%zu values compared, %d bad\n", abi_n_of_kvmm, n_bad);
    return n_bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
