/* SPDX-License-Identifier: Apache-2.0
 *
 * The CUDA kernels in plain C, by the names of their entry points: what a software driver runs, and what tells the tests how
 * a kernel is meant. One thread, f32 and double, sums in one fixed order: a row's bits do not depend on the rows beside it,
 * nor on how a sequence's tokens are cut into passes, and decode followed by combine gives the bits of prefill. */
#ifndef KERN_CUDA_REFERENCE_H
#define KERN_CUDA_REFERENCE_H

#include <stddef.h>
#include <stdint.h>

struct kern_cu_reference {
    const char *name;   /* of the entry point */
    size_t param_bytes; /* of its only parameter */
    /* at: where the bytes of a device address are. It is asked for each element of an array of indices or structs, and
     * for each row; what it gives is used for that element or row only. */
    void (*run)(const void *params, void *(*at)(uint64_t address));
};

extern const struct kern_cu_reference kern_cu_references[];
extern const size_t kern_cu_n_references;

#endif
