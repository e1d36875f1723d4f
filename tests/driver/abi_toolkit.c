/* SPDX-License-Identifier: Apache-2.0
 *
 * The same table by the toolkit's headers, and every function that kvmm and simcuda name: it exists in that version, with
 * those parameters. cuda.h has the names of vmm/driver/cuda_abi.h, so that the lists can be read after it. */
#include <cuda.h>
#include <cudaTypedefs.h>

#include "tests/driver/abi_values.h"
#include "tests/simcuda/exports.h"
#include "vmm/driver/functions.h"

const struct abi_value abi_of_toolkit[] = {ABI_VALUES(ABI_SIZE, ABI_OFFSET, ABI_VALUE)};
const size_t abi_n_of_toolkit = sizeof abi_of_toolkit / sizeof *abi_of_toolkit;

/* The typedefs without _ptsz are the forms whose stream 0 is the legacy one. */
#define X(name, version, params)                                                                                       \
    _Static_assert(__builtin_types_compatible_p(PFN_cu##name##_v##version, CUresult(CUDAAPI *) params), #name);
CUDA_DRIVER_FUNCTIONS(X)
#undef X

#define X(id, symbol, name, version, rules, params)                                                                    \
    _Static_assert(__builtin_types_compatible_p(PFN_##name##_v##version, CUresult(CUDAAPI *) params), #id);
SIMCUDA_EXPORTS(X)
#undef X
