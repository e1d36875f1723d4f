/* SPDX-License-Identifier: Apache-2.0
 *
 * The C forms of everything but attention. */
#include <math.h>

#include "kernels/cuda/reference_forms.h"

void reference_embed(const void *params, reference_at at)
{
    const struct kern_cu_embed *p = params;
    const uint64_t bytes = p->width * reference_bytes(p->table_type);

    for (uint32_t row = 0; row < p->n_rows; row++) {
        float *x = at(p->x + (uint64_t)row * p->width * sizeof(float));
        reference_load(x, at(p->table + reference_index(at, p->tokens, row) * bytes), p->width, p->table_type);
    }
}

static uint32_t position(const struct kern_cu_seq *seq, uint32_t row)
{
    return seq->first_pos + (row - seq->first_row);
}

void reference_turn(const void *params, reference_at at)
{
    const struct kern_cu_turn *p = params;

    for (uint32_t row = 0; row < p->n_rows; row++) {
        const struct kern_cu_seq seq = reference_seq(at, p->seqs, reference_index(at, p->row_seq, row));
        const double pos = position(&seq, row);
        const float *theta = at(p->theta);
        float *turn = at(p->turn + (uint64_t)row * p->rope_dims * sizeof(float));

        for (uint32_t j = 0; j < p->rope_dims / 2; j++) {
            turn[2 * j] = (float)cos(pos * theta[j]);
            turn[2 * j + 1] = (float)sin(pos * theta[j]);
        }
    }
}

void reference_norm(const void *params, reference_at at)
{
    const struct kern_cu_norm *p = params;
    const uint64_t bytes = p->width * sizeof(float);

    for (uint32_t i = 0; i < p->n_rows; i++) {
        float *x = at(p->x + (p->rows ? reference_index(at, p->rows, i) : i) * bytes);
        double sum = 0;

        if (p->delta && !p->rows) {
            const float *delta = at(p->delta + i * bytes);
            for (uint32_t j = 0; j < p->width; j++)
                x[j] += delta[j];
        }
        if (!p->out)
            continue;
        for (uint32_t j = 0; j < p->width; j++)
            sum += (double)x[j] * x[j];
        const float factor = (float)(1 / sqrt(sum / p->width + (double)p->eps));
        const float *weight = at(p->weight);
        const uint64_t element = reference_bytes(p->out_type);
        uint8_t *out = at(p->out + i * p->width * element);
        for (uint32_t j = 0; j < p->width; j++) {
            const float y = x[j] * factor * weight[j];
            reference_store(out + j * element, p->out_type, &y, 1);
        }
    }
}

static void append_head(uint64_t to, uint32_t type, uint64_t from, const float *turn, uint32_t rope_dims,
                        uint32_t head_dim, reference_at at)
{
    float x[KERN_MAX_HEAD_DIM];

    memcpy(x, at(from), head_dim * sizeof(float));
    for (uint32_t j = 0; j < rope_dims; j += 2) {
        const float first = x[j] * turn[j] - x[j + 1] * turn[j + 1];
        x[j + 1] = x[j] * turn[j + 1] + x[j + 1] * turn[j];
        x[j] = first;
    }
    reference_store(at(to), type, x, head_dim);
}

void reference_append(const void *params, reference_at at)
{
    const struct kern_cu_append *p = params;
    const struct kern_cu_cache *cache = &p->cache;
    const uint32_t head_dim = cache->head_dim;

    for (uint32_t row = 0; row < p->n_rows; row++) {
        const struct kern_cu_seq seq = reference_seq(at, p->seqs, reference_index(at, p->row_seq, row));
        const float *turn = p->rope_dims > 0 ? at(p->turn + (uint64_t)row * p->rope_dims * sizeof(float)) : NULL;

        for (uint32_t h = 0; h < p->n_heads; h++) {
            const uint64_t first = ((uint64_t)row * p->n_heads + h) * head_dim;
            append_head(p->q_out + first * reference_bytes(p->q_type), p->q_type, p->q + first * sizeof(float), turn,
                        p->rope_dims, head_dim, at);
        }
        for (uint32_t h = 0; h < cache->n_kv_heads; h++) {
            const uint64_t from = ((uint64_t)row * cache->n_kv_heads + h) * head_dim * sizeof(float);
            const uint32_t pos = position(&seq, row);
            const uint64_t to = reference_row(cache, &seq, pos / cache->page_tokens, pos, h);
            append_head(to, cache->dtype, p->k + from, turn, p->rope_dims, head_dim, at);
            append_head(to + cache->kv_stride, cache->dtype, p->v + from, turn, 0, head_dim, at);
        }
    }
}

void reference_swiglu(const void *params, reference_at at)
{
    const struct kern_cu_swiglu *p = params;
    const uint64_t element = reference_bytes(p->out_type);

    for (uint64_t row = 0; row < p->n_rows; row++) {
        const float *gate = at(p->gate + row * p->width * sizeof(float));
        const float *up = at(p->up + row * p->width * sizeof(float));
        uint8_t *out = at(p->out + row * p->width * element);

        for (uint32_t i = 0; i < p->width; i++) {
            const float y = up[i] * (gate[i] / (1 + expf(-gate[i])));
            reference_store(out + i * element, p->out_type, &y, 1);
        }
    }
}

void reference_argmax(const void *params, reference_at at)
{
    const struct kern_cu_argmax *p = params;

    for (uint32_t row = 0; row < p->n_rows; row++) {
        const float *logits = at(p->logits + (uint64_t)row * p->width * sizeof(float));
        uint32_t *out = at(p->out + row * sizeof(uint32_t));
        float best = -INFINITY;

        *out = 0;
        for (uint32_t i = 0; i < p->width; i++)
            if (logits[i] > best) {
                best = logits[i];
                *out = i;
            }
    }
}

void reference_gather(const void *params, reference_at at)
{
    const struct kern_cu_gather *p = params;

    for (uint32_t i = 0; i < p->n; i++) {
        const struct kern_cu_copy copy = *(const struct kern_cu_copy *)at(p->copies + i * sizeof(copy));
        memcpy(at(copy.to), at(copy.from), p->bytes);
    }
}
