/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/gpu/shapes.h"

#include <stdio.h>

enum { LAYER = N_LAYERS - 1, TILE_TOKENS = 64, FRAME = 4096 };

const char *shape_text(const struct shape *s)
{
    static char text[256];
    int n = snprintf(text, sizeof text, "strides %d %s to %s dims %u kv heads %u x %u page %u sharpness %g sequences",
                     (int)s->strides, type_name(s->dtype), type_name(s->out_type), s->head_dim, s->n_kv_heads, s->group,
                     s->page_tokens, (double)s->sharpness);
    for (uint32_t i = 0; i < s->n_seqs && n > 0 && (size_t)n < sizeof text; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, " %u+%u", s->first_pos[i], s->n_queries[i]);
    return text;
}

uint32_t shape_rows(const struct shape *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_seqs; i++)
        n += s->n_queries[i];
    return n;
}

struct kern_cu_cache shape_cache(const struct shape *s)
{
    const uint64_t odd = s->strides == ODD ? type_bytes(s->dtype) : 0;
    const uint64_t row = s->head_dim * (uint64_t)type_bytes(s->dtype) + odd;
    struct kern_cu_cache c = {.page_tokens = s->page_tokens,
                              .n_kv_heads = s->n_kv_heads,
                              .head_dim = s->head_dim,
                              .dtype = s->dtype,
                              .group = s->strides == LAYER_MAJOR ? LAYER : 0};
    uint64_t layer;

    if (s->strides == TOKEN_MAJOR) {
        c.head_stride = row;
        c.kv_stride = row * s->n_kv_heads;
        layer = 2 * c.kv_stride;
        c.token_stride = layer * N_LAYERS;
        c.page_stride = c.token_stride * s->page_tokens;
    } else {
        c.token_stride = row;
        c.head_stride = row * s->page_tokens + odd;
        c.kv_stride = c.head_stride * s->n_kv_heads + odd;
        layer = 2 * c.kv_stride;
        c.page_stride = s->strides == LAYER_MAJOR ? layer : layer * N_LAYERS;
    }
    c.layer_offset = s->strides == LAYER_MAJOR ? 0 : layer * LAYER;
    return c;
}

void kv_memory_open(struct kv_memory *m, const struct kern_cu_cache *c, uint32_t n_pages, enum access access)
{
    const uint64_t all = ((uint64_t)n_pages + TILE_TOKENS / c->page_tokens + 2) * c->page_stride;

    m->group_stride = (all + FRAME - 1) / FRAME * FRAME;
    m->buffer = buffer_new(m->group_stride * (c->group + 1), access);
}

size_t kv_row(const struct kern_cu_cache *c, const struct kv_memory *m, uint32_t kv, uint32_t page, uint32_t slot,
              uint32_t head)
{
    return c->group * m->group_stride + c->layer_offset + kv * c->kv_stride + page * c->page_stride +
           slot * c->token_stride + head * c->head_stride;
}
