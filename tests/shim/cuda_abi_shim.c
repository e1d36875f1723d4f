/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/cuda/hooks.h"
#include "tests/shim/cuda_abi_values.h"

const struct cuda_abi_value cuda_abi_of_shim[] = {CUDA_ABI_VALUES(CUDA_ABI_SIZE, CUDA_ABI_OFFSET, CUDA_ABI_VALUE)};
const size_t cuda_abi_n_of_shim = sizeof cuda_abi_of_shim / sizeof *cuda_abi_of_shim;

#define ONE_FORM(symbol, name, version, ...) {#symbol, #name, version, ""},
#define TWO_FORMS(symbol, suffix, name, version, thread_version, ...)                                                  \
    {#symbol, #name, version, ""}, {#symbol #suffix, #name, thread_version, #suffix},
const struct cuda_abi_hook cuda_abi_hooks[] = {SHIM_CUDA_HOOKS(ONE_FORM, TWO_FORMS, ONE_FORM, TWO_FORMS)};
const size_t cuda_abi_n_hooks = sizeof cuda_abi_hooks / sizeof *cuda_abi_hooks;
