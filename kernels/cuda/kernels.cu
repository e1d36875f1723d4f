/* SPDX-License-Identifier: Apache-2.0
 *
 * All kernels as one translation unit, which becomes one fat binary. */
#include "append.cu"
#include "decode.cu"
#include "generic.cu"
#include "pass.cu"
#include "prefill.cu"
