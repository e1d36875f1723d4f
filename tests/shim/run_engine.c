/* SPDX-License-Identifier: Apache-2.0
 *
 * A small engine for `kvmm run`: says whether its 8 MiB are kvmm's. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTES ((size_t)8 << 20)

#ifdef WITH_SANITIZER_MARK
/* What the shim knows a program with a sanitizer by. */
__attribute__((visibility("default"))) void __asan_init(void);
void __asan_init(void)
{
}
#endif

int main(void)
{
    int (*advise)(void *, size_t, int) = (int (*)(void *, size_t, int))dlsym(RTLD_DEFAULT, "kvmm_advise");
    unsigned char *memory = malloc(BYTES);
    if (!memory)
        return 1;
    for (size_t i = 0; i < BYTES; i++)
        memory[i] = (unsigned char)(i * 7 >> 3);
    for (size_t i = 0; i < BYTES; i++) {
        if (memory[i] != (unsigned char)(i * 7 >> 3))
            return 2;
    }
    puts(!advise ? "without kvmm" : advise(memory, BYTES, 1) == 0 ? "a cache" : "no cache");
    free(memory);
    return 3;
}
