/* SPDX-License-Identifier: Apache-2.0
 *
 * The entry points of the CUDA kernels, the only list of them: X(name, parameters, form). The entry point is kern_cu_<name>,
 * its parameter struct kern_cu_<parameters>; the plain C form is shared by the variants of a kernel.
 *
 * The attention tiles are compiled for f16 and bf16 and for head dims padded to 32, 64, 128 and 256, in this order;
 * those over a block table for 128 alone. */
#ifndef KERN_CUDA_FUNCTIONS_H
#define KERN_CUDA_FUNCTIONS_H

#define KERN_CU_TILES(X, kernel)                                                                                       \
    X(kernel##_f16_32, attention, kernel)                                                                              \
    X(kernel##_f16_64, attention, kernel)                                                                              \
    X(kernel##_f16_128, attention, kernel)                                                                             \
    X(kernel##_f16_256, attention, kernel)                                                                             \
    X(kernel##_bf16_32, attention, kernel)                                                                             \
    X(kernel##_bf16_64, attention, kernel)                                                                             \
    X(kernel##_bf16_128, attention, kernel)                                                                            \
    X(kernel##_bf16_256, attention, kernel)

#define KERN_CU_FUNCTIONS(X)                                                                                           \
    X(embed, embed, embed)                                                                                             \
    X(turn, turn, turn)                                                                                                \
    X(norm, norm, norm)                                                                                                \
    X(append, append, append)                                                                                          \
    X(swiglu, swiglu, swiglu)                                                                                          \
    X(argmax, argmax, argmax)                                                                                          \
    X(gather, gather, gather)                                                                                          \
    X(generic, attention, prefill)                                                                                     \
    X(combine, attention, combine)                                                                                     \
    KERN_CU_TILES(X, prefill)                                                                                          \
    KERN_CU_TILES(X, decode)                                                                                           \
    X(prefill_paged_f16_128, paged, prefill_paged)                                                                     \
    X(prefill_paged_bf16_128, paged, prefill_paged)                                                                    \
    X(decode_paged_f16_128, paged, decode_paged)                                                                       \
    X(decode_paged_bf16_128, paged, decode_paged)

#endif
