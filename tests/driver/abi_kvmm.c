/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/driver/abi_values.h"
#include "vmm/driver/cuda_abi.h"

const struct abi_value abi_of_kvmm[] = {ABI_VALUES(ABI_SIZE, ABI_OFFSET, ABI_VALUE)};
const size_t abi_n_of_kvmm = sizeof abi_of_kvmm / sizeof *abi_of_kvmm;
