/* SPDX-License-Identifier: Apache-2.0
 *
 * What a fault costs at least with userfaultfd over a memfd, one thread that touches and one that answers: the chunk's pages
 * are allocated through the file, then mapped. Nothing is kept about any chunk. */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tools/bench_shim.h"

#define VIEW_BYTES ((size_t)128 << 20)

struct bare {
    int memfd, uffd;
    char *view;
    size_t chunk_bytes;
    uint32_t n_chunks;
};

static void *answer_faults(void *argument)
{
    struct bare *bare = argument;
    for (uint32_t i = 0; i < bare->n_chunks; i++) {
        struct uffd_msg message;
        if (read(bare->uffd, &message, sizeof(message)) != (ssize_t)sizeof(message) ||
            message.event != UFFD_EVENT_PAGEFAULT)
            break;
        uint64_t view = (uintptr_t)bare->view;
        uint64_t offset = (message.arg.pagefault.address - view) / bare->chunk_bytes * bare->chunk_bytes;
        struct uffdio_continue mapped = {.range = {view + offset, bare->chunk_bytes}};
        if (fallocate(bare->memfd, 0, (off_t)offset, (off_t)bare->chunk_bytes) != 0 ||
            ioctl(bare->uffd, UFFDIO_CONTINUE, &mapped) != 0)
            break;
    }
    /* If it failed: faults that nobody answers must not hang the bench. */
    close(bare->uffd);
    return NULL;
}

static double touch_all(struct bare *bare)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, answer_faults, bare) != 0) {
        close(bare->uffd);
        return 0;
    }
    uint64_t start = shim_bench_now_ns();
    for (uint32_t i = 0; i < bare->n_chunks; i++)
        (void)*(volatile char *)(bare->view + i * bare->chunk_bytes);
    double seconds = (double)(shim_bench_now_ns() - start) * 1e-9;
    pthread_join(thread, NULL);
    return seconds / bare->n_chunks;
}

/* Through the system call, or the device. */
static int open_uffd(void)
{
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
#ifdef USERFAULTFD_IOC_NEW
    if (uffd < 0) {
        int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        if (device >= 0) {
            uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC);
            close(device);
        }
    }
#endif
    return uffd;
}

double shim_bare_fault(size_t chunk_bytes)
{
    struct bare bare = {.chunk_bytes = chunk_bytes, .n_chunks = (uint32_t)(VIEW_BYTES / chunk_bytes)};
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MINOR_SHMEM};
    double seconds = 0;
    bare.memfd = memfd_create("kvmm-bench", MFD_CLOEXEC);
    bare.uffd = open_uffd();
    char *view = MAP_FAILED;
    if (bare.memfd >= 0 && ftruncate(bare.memfd, VIEW_BYTES) == 0)
        view = mmap(NULL, VIEW_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, bare.memfd, 0);
    struct uffdio_register registration = {.range = {(uintptr_t)view, VIEW_BYTES},
                                           .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR};
    bare.view = view;
    bool ready = bare.uffd >= 0 && view != MAP_FAILED && ioctl(bare.uffd, UFFDIO_API, &api) == 0 &&
                 ioctl(bare.uffd, UFFDIO_REGISTER, &registration) == 0;
    if (ready)
        seconds = touch_all(&bare);
    else if (bare.uffd >= 0)
        close(bare.uffd);
    if (view != MAP_FAILED)
        munmap(view, VIEW_BYTES);
    if (bare.memfd >= 0)
        close(bare.memfd);
    return seconds;
}
