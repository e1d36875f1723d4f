/* SPDX-License-Identifier: Apache-2.0
 *
 * The yardstick: softmax(q·k × scale) × V as the formula stands, in double precision. */
#include <math.h>
#include <string.h>

#include "attention.h"
#include "convert.h"

static double element(enum kern_dtype dtype, const struct kern_tensor *tensor, uint32_t head, uint32_t token,
                      uint32_t dim)
{
    const uint8_t *at = (const uint8_t *)tensor->base + (size_t)(token / tensor->page_tokens) * tensor->page_stride +
                        (size_t)(token % tensor->page_tokens) * tensor->token_stride + head * tensor->head_stride;
    uint16_t half;
    float x;

    if (dtype == KERN_F32) {
        memcpy(&x, at + dim * sizeof(x), sizeof(x));
        return x;
    }
    memcpy(&half, at + dim * sizeof(half), sizeof(half));
    return dtype == KERN_F16 ? kern_f32_of_f16(half) : kern_f32_of_bf16(half);
}

static double score(const struct kern_attention_params *p, const struct kern_attention_item *item, const float *q,
                    uint32_t kv_head, uint32_t token)
{
    double sum = 0;

    for (uint32_t d = 0; d < p->head_dim; d++)
        sum += q[d] * element(p->dtype, &item->k, kv_head, token, d);
    return sum * p->scale;
}

static void reference_row(const struct kern_attention_params *p, const struct kern_attention_item *item, uint32_t query,
                          uint32_t head, double *out)
{
    const uint32_t kv_head = head / (p->n_heads / p->n_kv_heads);
    const uint32_t n_keys = item->first_pos + query + 1;
    const float *q = item->q + query * item->q_stride + (size_t)head * p->head_dim;
    double max = -INFINITY;
    double sum = 0;

    for (uint32_t t = 0; t < n_keys; t++) {
        const double s = score(p, item, q, kv_head, t);
        if (!(s <= max)) /* a NaN becomes the maximum, and so the result */
            max = s;
        if (isnan(max))
            break;
    }
    for (uint32_t d = 0; d < p->head_dim; d++)
        out[d] = 0;
    for (uint32_t t = 0; t < n_keys; t++) {
        const double weight = exp(score(p, item, q, kv_head, t) - max);
        sum += weight;
        for (uint32_t d = 0; d < p->head_dim; d++)
            out[d] += weight * element(p->dtype, &item->v, kv_head, t, d);
    }
    for (uint32_t d = 0; d < p->head_dim; d++)
        out[d] /= sum;
}

void kern_attention_reference(const struct kern_attention_params *p, const struct kern_attention_item *item,
                              double *out)
{
    for (uint32_t i = 0; i < item->n_queries; i++)
        for (uint32_t h = 0; h < p->n_heads; h++)
            reference_row(p, item, i, h, out + i * item->out_stride + (size_t)h * p->head_dim);
}
