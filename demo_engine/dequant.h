/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF tensor elements to f32. */
#ifndef ENGINE_DEQUANT_H
#define ENGINE_DEQUANT_H

#include "gguf.h"

/* Writes n elements of `type` at src to dst. Exact for F32, F16 and BF16; Q8_0 is scale × int8 rounded once to f32, so
 * the bits are the same on every CPU. n is a multiple of the type's block; src is aligned to its 2- or 4-byte words. */
void engine_dequant(enum gguf_type type, const void *src, size_t n, float *dst);

#endif
