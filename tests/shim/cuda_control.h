/* SPDX-License-Identifier: Apache-2.0
 *
 * What a test engine asks of the shim under it, past the control socket: the library that the tests preload exports these
 * beside the shim's own functions. An engine that isn't linked with it finds them by shim_test_find(). */
#ifndef TESTS_SHIM_CUDA_CONTROL_H
#define TESTS_SHIM_CUDA_CONTROL_H

#include <dlfcn.h>
#include <stdbool.h>

#include "shim/cuda/cuda.h"
#include "shim/cuda/touch.h"

#define SHIM_TEST_FUNCTIONS(F)                                                                                         \
    F(int, suspend, (uint32_t wait_ms, char *reason, size_t size))                                                     \
    F(int, resume, (char *reason, size_t size))                                                                        \
    F(int, advise, (void *address, size_t bytes, int advice, char *reason, size_t size))                               \
    F(void, get_info, (struct shim_cuda_info * info))                                                                  \
    F(void, set_swap_faults, (const struct swap_faults *faults))                                                       \
    F(void, get_totals, (uint64_t * n_ranges, uint64_t * n_frames))                                                    \
    F(struct shim_cuda_spans, spans_2d, (const CUDA_MEMCPY2D *copy))                                                   \
    F(struct shim_cuda_spans, spans_3d, (const CUDA_MEMCPY3D *copy))                                                   \
    F(struct shim_cuda_spans, spans_peer, (const CUDA_MEMCPY3D_PEER *copy))                                            \
    F(struct shim_cuda_span, span_rows, (CUdeviceptr at, size_t pitch, size_t width, size_t height))

#define F(type, name, params) __attribute__((visibility("default"))) type shim_test_##name params;
SHIM_TEST_FUNCTIONS(F)
#undef F

struct shim_test {
#define F(type, name, params) __typeof__(shim_test_##name) *name;
    SHIM_TEST_FUNCTIONS(F)
#undef F
};

/* False: no shim is under this process. */
static inline bool shim_test_find(struct shim_test *shim)
{
    bool found = true;
#define F(type, name, params) found = found && (*(void **)&shim->name = dlsym(RTLD_DEFAULT, "shim_test_" #name));
    SHIM_TEST_FUNCTIONS(F)
#undef F
    return found;
}

#endif
