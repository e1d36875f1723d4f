/* SPDX-License-Identifier: Apache-2.0 */
#include "ops.h"

#include <math.h>

void ops_rms_norm(const float *x, const float *weight, uint32_t n, float eps, float *out)
{
    double sums[4] = {0};
    for (uint32_t i = 0; i < n; i++)
        sums[i % 4] += (double)x[i] * x[i];
    double mean = ((sums[0] + sums[1]) + (sums[2] + sums[3])) / n;
    float scale = (float)(1.0 / sqrt(mean + (double)eps));
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] * scale * weight[i];
}

void ops_add(float *x, const float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] += y[i];
}

void ops_swiglu(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

void ops_rope_theta(float base, uint32_t dims, float *theta)
{
    for (uint32_t j = 0; j < dims / 2; j++)
        theta[j] = (float)pow(base, -2.0 * j / dims);
}

void ops_rope_turn(const float *theta, uint32_t dims, uint32_t pos, float *turn)
{
    for (uint32_t j = 0; j < dims / 2; j++) {
        double angle = (double)pos * (double)theta[j];
        turn[2 * j] = (float)cos(angle);
        turn[2 * j + 1] = (float)sin(angle);
    }
}

void ops_rope(float *x, uint32_t n_heads, uint32_t head_dim, uint32_t dims, const float *turn)
{
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        for (uint32_t i = 0; i < dims; i += 2) {
            float a = x[i], b = x[i + 1];
            x[i] = a * turn[i] - b * turn[i + 1];
            x[i + 1] = a * turn[i + 1] + b * turn[i];
        }
    }
}
