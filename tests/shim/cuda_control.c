/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/shim/cuda_control.h"

#include "shim/cuda/ranges.h"

int shim_test_suspend(uint32_t wait_ms, char *reason, size_t size)
{
    return shim_cuda_suspend(wait_ms, reason, size);
}

int shim_test_resume(char *reason, size_t size)
{
    return shim_cuda_resume(reason, size);
}

int shim_test_advise(void *address, size_t bytes, int advice, char *reason, size_t size)
{
    return shim_cuda_advise(address, bytes, advice, reason, size);
}

void shim_test_get_info(struct shim_cuda_info *info)
{
    shim_cuda_get_info(info);
}

void shim_test_set_swap_faults(const struct swap_faults *faults)
{
    shim_cuda_set_swap_faults(faults);
}

/* By the ranges themselves, past the counters. */
void shim_test_get_totals(uint64_t *n_ranges, uint64_t *n_frames)
{
    *n_ranges = *n_frames = 0;
    shim_cuda_lock();
    for (size_t i = 0; i < shim_cuda.n_slots; i++) {
        *n_ranges += shim_cuda.ranges[i].end != 0;
        *n_frames += shim_cuda.ranges[i].n_frames;
    }
    shim_cuda_unlock();
}

struct shim_cuda_spans shim_test_spans_2d(const CUDA_MEMCPY2D *copy)
{
    return shim_cuda_spans_2d(copy);
}

struct shim_cuda_spans shim_test_spans_3d(const CUDA_MEMCPY3D *copy)
{
    return shim_cuda_spans_3d(copy);
}

struct shim_cuda_spans shim_test_spans_peer(const CUDA_MEMCPY3D_PEER *copy)
{
    return shim_cuda_spans_peer(copy);
}

struct shim_cuda_span shim_test_span_rows(CUdeviceptr at, size_t pitch, size_t width, size_t height)
{
    return shim_cuda_span_rows(at, pitch, width, height);
}
