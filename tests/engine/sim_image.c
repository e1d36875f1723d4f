/* SPDX-License-Identifier: Apache-2.0
 *
 * Where there is no nvcc: an image that the software driver takes for kernels, and runs their plain C forms. */
extern const unsigned char kern_cuda_image[];
const unsigned char kern_cuda_image[] = ".version 8.0\n.target sm_80\n.address_size 64\n";
