/* SPDX-License-Identifier: Apache-2.0
 *
 * The fat binary of kernels.cu as bytes of the library. KERN_CUDA_IMAGE is its file. */
    .section .rodata
    .balign 64
    .globl kern_cuda_image
    .hidden kern_cuda_image
    .type kern_cuda_image, %object
kern_cuda_image:
    .incbin KERN_CUDA_IMAGE
    .size kern_cuda_image, . - kern_cuda_image
    .section .note.GNU-stack, "", %progbits
