/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/reference.h"

#include "kernels/cuda/functions.h"
#include "kernels/cuda/reference_forms.h"

const struct kern_cu_reference kern_cu_references[] = {
#define X(name, parameters, form) {"kern_cu_" #name, sizeof(struct kern_cu_##parameters), reference_##form},
    KERN_CU_FUNCTIONS(X)
#undef X
};
const size_t kern_cu_n_references = sizeof kern_cu_references / sizeof kern_cu_references[0];
