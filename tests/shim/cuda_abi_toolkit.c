/* SPDX-License-Identifier: Apache-2.0
 *
 * The same table by the toolkit's headers, and every hook: it exists under that name, in that version and form, with those
 * parameters. */
#define __CUDA_API_VERSION_INTERNAL /* the forms that newer ones took the place of, too */
#include <cuda.h>
#include <cudaTypedefs.h>

#include "shim/cuda/hooks.h"
#include "tests/shim/cuda_abi_values.h"

const struct cuda_abi_value cuda_abi_of_toolkit[] = {CUDA_ABI_VALUES(CUDA_ABI_SIZE, CUDA_ABI_OFFSET, CUDA_ABI_VALUE)};
const size_t cuda_abi_n_of_toolkit = sizeof cuda_abi_of_toolkit / sizeof *cuda_abi_of_toolkit;

#define CHECK(typedef_name, params)                                                                                    \
    _Static_assert(__builtin_types_compatible_p(typedef_name, CUresult(CUDAAPI *) params), #typedef_name);
#define ONE_FORM(symbol, name, version, params, ...) CHECK(PFN_##name##_v##version, params)
#define TWO_FORMS(symbol, suffix, name, version, thread_version, params, ...)                                          \
    CHECK(PFN_##name##_v##version, params)                                                                             \
    CHECK(PFN_##name##_v##thread_version##suffix, params)
SHIM_CUDA_HOOKS(ONE_FORM, TWO_FORMS, ONE_FORM, TWO_FORMS)
