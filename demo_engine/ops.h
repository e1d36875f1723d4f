/* SPDX-License-Identifier: Apache-2.0
 *
 * What a layer does to one token apart from matrices and attention. Each works on one token alone, with one fixed order
 * of summation. */
#ifndef ENGINE_OPS_H
#define ENGINE_OPS_H

#include <stdint.h>

/* out = x / sqrt(mean(x²) + eps) × weight; the sum in double. out may be x. */
void ops_rms_norm(const float *x, const float *weight, uint32_t n, float eps, float *out);

void ops_add(float *x, const float *y, uint32_t n); /* x += y */

/* gate = silu(gate) × up */
void ops_swiglu(float *gate, const float *up, uint32_t n);

/* theta[j] = base^(−2j / dims), j < dims / 2, by a double pow rounded to f32. */
void ops_rope_theta(float base, uint32_t dims, float *theta);

/* turn[2j] = cos(pos × theta[j]), turn[2j + 1] = sin. The angle is a double: exact for every position, where an f32
 * product would be off by 0.004 rad at 64 K. */
void ops_rope_turn(const float *theta, uint32_t dims, uint32_t pos, float *turn);

/* Turns the pairs (2j, 2j + 1), j < dims / 2, of n_heads heads of head_dim each: ggml's NORM order. */
void ops_rope(float *x, uint32_t n_heads, uint32_t head_dim, uint32_t dims, const float *turn);

#endif
