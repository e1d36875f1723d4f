/* SPDX-License-Identifier: Apache-2.0
 *
 * What a GPU can do at most, measured: the yardsticks of the benches. Functions as in bench_cuda.h. */
#ifndef TOOLS_BENCH_CUDA_PEAKS_H
#define TOOLS_BENCH_CUDA_PEAKS_H

#include "tools/bench_cuda.h"

struct cuda_peaks {
    const struct bench_cuda *gpu;
    CUdeviceptr from, to; /* bytes each */
    size_t bytes;
    int n;                  /* matrices are n × n */
    enum kern_dtype factor; /* of the product in progress */
    cudaDataType result;    /* what it is written as */
    unsigned copy_repeats, matrix_repeats[2];
};

/* Takes up to 2 GiB of the device. On failure nothing is left. */
bool cuda_peaks_open(const struct bench_cuda *gpu, struct cuda_peaks *peaks);
/* Zeros are ignored. */
void cuda_peaks_close(struct cuda_peaks *peaks);

/* Of a copy from device memory to device memory, in bytes/s, what is read and what is written counted both. */
bool cuda_peaks_copy(struct cuda_peaks *peaks, double *bytes_per_s);

/* Of cuBLAS multiplying dense matrices of f16 or bf16 with sums in f32, in FLOP/s. gpu->handle is not NULL. */
bool cuda_peaks_matrix(struct cuda_peaks *peaks, enum kern_dtype type, double *flop_per_s);

#endif
