/* SPDX-License-Identifier: Apache-2.0
 *
 * By its name a library of the CUDA driver: it maps memory for itself. */
#include <stddef.h>
#include <sys/mman.h>

__attribute__((visibility("default"))) void *driver_like_map(size_t bytes);

void *driver_like_map(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory != MAP_FAILED ? memory : NULL; /* and so mmap is called, not jumped to */
}
