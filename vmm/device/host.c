/* SPDX-License-Identifier: Apache-2.0
 *
 * The host device: a memfd is the physical memory, and a frame is a place in it. Ranges are mmap'd address space, and
 * mapping a frame is mmap(MAP_FIXED) of its place. A second mapping of the whole memfd, the window, is where the CPU
 * reaches frames that are mapped nowhere else; its page-table entries are dropped after each use, so that the
 * kernel's count of the process's memory counts a frame once.
 *
 * Frames are populated through the window, which is advised for huge pages: a 2 MiB frame is one huge page where
 * shmem_enabled allows it, and is then mapped by one entry in the range too. */
#include "vmm/device/device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "kvmm/kvmm.h"
#include "vmm/device/numbers.h"
#include "vmm/error.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define DEFAULT_FRAME ((size_t)2 << 20)

struct host_device {
    struct vmm_device base;
    int memfd;
    char *window; /* max_frames frames */
    struct vmm_numbers numbers;
};

static struct host_device *host_of(struct vmm_device *dev)
{
    return (struct host_device *)dev;
}

static char *window_of(struct host_device *host, uint32_t frame)
{
    return host->window + (size_t)frame * host->base.frame_bytes;
}

static int host_reserve(struct vmm_device *dev, size_t bytes, void **base)
{
    /* One frame more, to cut an aligned piece out of it. */
    size_t frame = dev->frame_bytes;
    if (bytes > SIZE_MAX - frame)
        return vmm_fail(KVMM_ERR_NO_ADDRESS_SPACE, "a range of %zu bytes can't be reserved", bytes);
    char *raw = mmap(NULL, bytes + frame, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
        return vmm_fail(KVMM_ERR_NO_ADDRESS_SPACE, "a range of %zu bytes can't be reserved: %s", bytes,
                        strerror(errno));
    size_t lead = (frame - (uintptr_t)raw % frame) % frame;
    if (lead)
        munmap(raw, lead);
    if (frame - lead)
        munmap(raw + lead + bytes, frame - lead);
    *base = raw + lead;
    return KVMM_OK;
}

static void host_unreserve(struct vmm_device *dev, void *base, size_t bytes)
{
    munmap(base, bytes);
}

static int host_frame_create(struct vmm_device *dev, uint32_t *frame)
{
    struct host_device *host = host_of(dev);
    uint32_t id = vmm_numbers_take(&host->numbers);
    if (id == UINT32_MAX)
        return vmm_fail(KVMM_ERR_NO_DEVICE_MEMORY, "all %u frames of the host device are made", dev->max_frames);
    char *view = window_of(host, id);
    /* Populating now makes a machine without memory an error here instead of a SIGBUS in a kernel later. */
    int rc = madvise(view, dev->frame_bytes, MADV_POPULATE_WRITE);
    if (rc && errno == EINVAL) /* before Linux 5.14 */
        rc = fallocate(host->memfd, 0, (off_t)id * (off_t)dev->frame_bytes, (off_t)dev->frame_bytes);
    if (rc) {
        rc = vmm_fail(KVMM_ERR_NO_DEVICE_MEMORY, "no memory for a frame of %zu bytes: %s", dev->frame_bytes,
                      strerror(errno));
        vmm_numbers_give(&host->numbers, id);
        return rc;
    }
    madvise(view, dev->frame_bytes, MADV_DONTNEED);
    *frame = id;
    return KVMM_OK;
}

static void host_frame_release(struct vmm_device *dev, uint32_t frame)
{
    struct host_device *host = host_of(dev);
    fallocate(host->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)frame * (off_t)dev->frame_bytes,
              (off_t)dev->frame_bytes);
    vmm_numbers_give(&host->numbers, frame);
}

static int host_unmap(struct vmm_device *dev, void *base, size_t n)
{
    size_t bytes = n * dev->frame_bytes;
    if (mmap(base, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED)
        return KVMM_OK;
    /* At vm.max_map_count no mapping can be made, but whole ones can still be closed to access. */
    int error = errno;
    if (mprotect(base, bytes, PROT_NONE) == 0) {
        madvise(base, bytes, MADV_DONTNEED);
        return KVMM_OK;
    }
    return vmm_fail(KVMM_ERR_NO_ADDRESS_SPACE, "%zu frames can't be unmapped: %s%s", n, strerror(error),
                    error == ENOMEM ? " (see vm.max_map_count)" : "");
}

static int host_map(struct vmm_device *dev, void *base, const uint32_t *frames, size_t n)
{
    struct host_device *host = host_of(dev);
    size_t bytes = dev->frame_bytes;
    size_t done = 0;
    while (done < n) {
        size_t run = 1; /* neighbours in the memfd are one call, and one mapping of the kernel's limited number */
        while (done + run < n && frames[done + run] == frames[done] + run)
            run++;
        void *p = mmap((char *)base + done * bytes, run * bytes, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_FIXED | MAP_POPULATE, host->memfd, (off_t)frames[done] * (off_t)bytes);
        if (p == MAP_FAILED) {
            int error = errno;
            if (host_unmap(dev, base, done + run))
                return KVMM_ERR_DEVICE; /* frames are where nobody will look for them */
            return vmm_fail(KVMM_ERR_NO_ADDRESS_SPACE, "%zu frames can't be mapped: %s%s", run, strerror(error),
                            error == ENOMEM ? " (see vm.max_map_count)" : "");
        }
        done += run;
    }
    return KVMM_OK;
}

/* The kernel's own page of zeros: no memory at all. */
static int host_map_zeros(struct vmm_device *dev, void *base)
{
    if (mmap(base, dev->frame_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) !=
        MAP_FAILED)
        return KVMM_OK;
    return vmm_fail(KVMM_ERR_NO_ADDRESS_SPACE, "a frame of zeros can't be mapped: %s%s", strerror(errno),
                    errno == ENOMEM ? " (see vm.max_map_count)" : "");
}

static void *host_view_get(struct vmm_device *dev, uint32_t frame)
{
    return window_of(host_of(dev), frame);
}

static void host_view_put(struct vmm_device *dev, uint32_t frame)
{
    madvise(window_of(host_of(dev), frame), dev->frame_bytes, MADV_DONTNEED);
}

static int host_zero_frame(struct vmm_device *dev, uint32_t frame)
{
    memset(window_of(host_of(dev), frame), 0, dev->frame_bytes);
    host_view_put(dev, frame);
    return KVMM_OK;
}

static int host_fence_record(struct vmm_device *dev, void *stream, struct vmm_fence *fence)
{
    if (stream)
        return vmm_fail(KVMM_ERR_INVALID, "the host device has no streams; pass NULL");
    *fence = (struct vmm_fence){0};
    return KVMM_OK;
}

static bool host_fence_passed(struct vmm_device *dev, struct vmm_fence fence)
{
    return true;
}

static void host_close(struct vmm_device *dev)
{
    struct host_device *host = host_of(dev);
    munmap(host->window, (size_t)dev->max_frames * dev->frame_bytes);
    close(host->memfd);
    vmm_numbers_close(&host->numbers);
    free(host);
}

static const struct vmm_device_ops host_ops = {
    .reserve = host_reserve,
    .unreserve = host_unreserve,
    .frame_create = host_frame_create,
    .frame_release = host_frame_release,
    .map = host_map,
    .map_zeros = host_map_zeros,
    .unmap = host_unmap,
    .view_get = host_view_get,
    .view_put = host_view_put,
    .zero_frame = host_zero_frame,
    .fence_record = host_fence_record,
    .fence_passed = host_fence_passed,
    .close = host_close,
};

/* Memory that this machine could give to frames now, in bytes. */
static uint64_t memory_available(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    }
    if (file)
        fclose(file);
    return kib * 1024;
}

int vmm_host_device_open(size_t frame_bytes, const struct vmm_device_budget *budget, struct vmm_device **dev)
{
    frame_bytes = frame_bytes ? frame_bytes : DEFAULT_FRAME;
    if (frame_bytes < 64 * 1024 || frame_bytes > 2 * 1024 * 1024 || (frame_bytes & (frame_bytes - 1)))
        return vmm_fail(KVMM_ERR_INVALID, "frame_bytes is %zu; it must be a power of two, 64 KiB to 2 MiB",
                        frame_bytes);
    uint32_t max_frames;
    int rc = vmm_device_capacity(budget, budget->bytes ? 0 : memory_available(), frame_bytes, &max_frames);
    if (rc)
        return rc;

    rc = KVMM_ERR_NO_HOST_MEMORY;
    struct rlimit limit;
    size_t bytes = (size_t)max_frames * frame_bytes;
    struct host_device *host = calloc(1, sizeof *host);
    if (!host)
        return vmm_fail(rc, "no memory for the host device");
    host->base = (struct vmm_device){.ops = &host_ops,
                                     .name = "host",
                                     .frame_bytes = frame_bytes,
                                     .max_frames = max_frames,
                                     .frames_start_zero = true};
    if (!vmm_numbers_open(&host->numbers, max_frames)) {
        vmm_fail(rc, "no memory for the host device");
        goto err_free;
    }
    host->memfd = memfd_create("kvmm-frames", MFD_CLOEXEC);
    if (host->memfd < 0) {
        vmm_fail(rc, "memfd_create: %s", strerror(errno));
        goto err_free;
    }
    /* Beyond the limit ftruncate would end the process by SIGXFSZ. */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) {
        vmm_fail(rc, "a memfd of %zu bytes is over the file size limit of %llu (ulimit -f)", bytes,
                 (unsigned long long)limit.rlim_cur);
        goto err_close;
    }
    if (ftruncate(host->memfd, (off_t)bytes)) {
        vmm_fail(rc, "a memfd of %zu bytes can't be made: %s", bytes, strerror(errno));
        goto err_close;
    }
    void *window = NULL;
    rc = host_reserve(&host->base, bytes, &window);
    if (rc)
        goto err_close;
    if (mmap(window, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, host->memfd, 0) == MAP_FAILED) {
        rc = vmm_fail(KVMM_ERR_NO_ADDRESS_SPACE, "%zu bytes of frames can't be mapped: %s", bytes, strerror(errno));
        goto err_unreserve;
    }
    madvise(window, bytes, MADV_HUGEPAGE); /* where shmem_enabled allows; good without */
    madvise(window, bytes, MADV_DONTDUMP); /* a core file has the ranges' copy */
    host->window = window;
    *dev = &host->base;
    return KVMM_OK;

err_unreserve:
    munmap(window, bytes);
err_close:
    close(host->memfd);
err_free:
    vmm_numbers_close(&host->numbers);
    free(host);
    return rc;
}
