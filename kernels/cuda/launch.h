/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of kernels/cuda.h for tests: kernels from an image of their own. */
#ifndef KERN_CUDA_LAUNCH_H
#define KERN_CUDA_LAUNCH_H

#include "kernels/cuda.h"

/* kern_cuda_open() with the module that the driver makes of `image`. */
CUresult kern_cuda_open_image(const struct cuda_driver *driver, CUdevice device, const void *image,
                              struct kern_cuda **kernels);

#endif
