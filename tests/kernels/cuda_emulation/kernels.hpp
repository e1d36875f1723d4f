/* SPDX-License-Identifier: Apache-2.0
 *
 * A CUDA driver of one device, for kernels/cuda.c, whose launches run at once: the emulated kernels, or their plain C
 * forms. */
#ifndef TESTS_CUDA_EMULATION_KERNELS_H
#define TESTS_CUDA_EMULATION_KERNELS_H

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

extern "C" {
#include "kernels/attention.h"
#include "kernels/cuda.h"
#include "kernels/cuda/launch.h"
}

struct emulated_device {
    bool plain_c = false; /* launches run the C forms */
    uint64_t seed = 0;    /* of the order of threads; 0: in turn */
    std::function<bool(uintptr_t address)> may_read;

    int n_multiprocessors = 132;
    int major = 9;
    CUresult fails = CUDA_SUCCESS; /* what the next launch returns instead of running */

    std::vector<std::string> launched; /* the names of the entry points, in order */
    std::string error;                 /* the first of emulation::run() */
};
extern emulated_device device;

/* The driver that acts on `device`. */
const struct cuda_driver *emulated_driver();

#endif
