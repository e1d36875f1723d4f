/* SPDX-License-Identifier: Apache-2.0
 *
 * The entry points of the CUDA kernels, the only list of them: X(name, parameters, form). The entry point is kern_cu_<name>,
 * its parameter struct kern_cu_<parameters>; the plain C form is shared by the variants of a kernel.
 */
#ifndef KERN_CUDA_FUNCTIONS_H
#define KERN_CUDA_FUNCTIONS_H

#define KERN_CU_FUNCTIONS(X)                                                                                           \
    X(embed, embed, embed)                                                                                             \
    X(turn, turn, turn)                                                                                                \
    X(norm, norm, norm)                                                                                                \
    X(append, append, append)                                                                                          \
    X(swiglu, swiglu, swiglu)                                                                                          \
    X(argmax, argmax, argmax)                                                                                          \
    X(gather, gather, gather)                                                                                          \
    X(generic, attention, prefill)

#endif
