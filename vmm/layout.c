/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/layout.h"

#include "vmm/error.h"

size_t kvmm_dtype_bytes(enum kvmm_dtype dtype)
{
    switch (dtype) {
    case KVMM_F16:
    case KVMM_BF16:
        return 2;
    case KVMM_F32:
        return 4;
    }
    return 0;
}

static int check_bound(const char *field, uint32_t value, uint32_t most)
{
    if (value >= 1 && value <= most)
        return KVMM_OK;
    vmm_fail(KVMM_ERR_INVALID, "geometry.%s is %u; it must be 1 to %u", field, value, most);
    return KVMM_ERR_INVALID;
}

int vmm_geometry_check(const struct kvmm_geometry *g)
{
    int rc;
    if ((rc = check_bound("n_layers", g->n_layers, 1024)) || (rc = check_bound("n_kv_heads", g->n_kv_heads, 1024)) ||
        (rc = check_bound("head_dim", g->head_dim, 1024)) || (rc = check_bound("page_tokens", g->page_tokens, 256)))
        return rc;
    if (kvmm_dtype_bytes(g->dtype) == 0)
        return vmm_fail(KVMM_ERR_INVALID, "geometry.dtype is %d, which is no kvmm_dtype", (int)g->dtype);
    if (g->layout != KVMM_PAGE_MAJOR && g->layout != KVMM_TOKEN_MAJOR && g->layout != KVMM_LAYER_MAJOR)
        return vmm_fail(KVMM_ERR_INVALID, "geometry.layout is %d, which is no kvmm_layout_kind", (int)g->layout);
    if (g->layout == KVMM_LAYER_MAJOR && g->layers_per_group > g->n_layers)
        return vmm_fail(KVMM_ERR_INVALID, "geometry.layers_per_group is %u of %u layers", g->layers_per_group,
                        g->n_layers);
    return KVMM_OK;
}

void vmm_layout_init(const struct kvmm_geometry *g, struct kvmm_layout *layout)
{
    size_t elem = kvmm_dtype_bytes(g->dtype);
    size_t row = (size_t)g->head_dim * elem;
    uint32_t per_group = g->n_layers;
    if (g->layout == KVMM_LAYER_MAJOR)
        per_group = g->layers_per_group ? g->layers_per_group : 1;

    *layout = (struct kvmm_layout){
        .elem_bytes = elem,
        .layers_per_group = per_group,
        .n_groups = (g->n_layers + per_group - 1) / per_group,
        .page_tokens = g->page_tokens,
    };
    if (g->layout == KVMM_TOKEN_MAJOR) {
        layout->head_stride = row;
        layout->kv_stride = row * g->n_kv_heads;
        layout->layer_stride = layout->kv_stride * 2;
        layout->token_stride = layout->layer_stride * g->n_layers;
        layout->page_stride = layout->token_stride * g->page_tokens;
    } else {
        layout->token_stride = row;
        layout->head_stride = row * g->page_tokens;
        layout->kv_stride = layout->head_stride * g->n_kv_heads;
        layout->layer_stride = layout->kv_stride * 2;
        layout->page_stride = layout->layer_stride * per_group;
    }
}

/* Geometry bounds keep a page below 2^43 bytes and tokens are 32 bits, so the products need more than 64. */
static uint64_t frames_up_to(const struct kvmm_layout *layout, size_t frame_bytes, uint64_t pages)
{
    __extension__ unsigned __int128 bytes = (unsigned __int128)pages * layout->page_stride;
    return (uint64_t)((bytes + frame_bytes - 1) / frame_bytes);
}

static uint64_t pages_of(const struct kvmm_layout *layout, uint32_t n_tokens)
{
    return ((uint64_t)n_tokens + layout->page_tokens - 1) / layout->page_tokens;
}

uint64_t vmm_group_frames(const struct kvmm_layout *layout, size_t frame_bytes, uint32_t n_tokens)
{
    return frames_up_to(layout, frame_bytes, pages_of(layout, n_tokens));
}

void vmm_group_span(const struct kvmm_layout *layout, size_t frame_bytes, uint32_t first, uint32_t last,
                    uint64_t *begin, uint64_t *end)
{
    uint64_t first_page = first / layout->page_tokens;
    *begin = first_page * layout->page_stride / frame_bytes;
    *end = frames_up_to(layout, frame_bytes, pages_of(layout, last));
}

uint32_t vmm_tokens_before(const struct kvmm_layout *layout, size_t frame_bytes, uint64_t frame)
{
    uint64_t tokens = frame * frame_bytes / layout->page_stride * layout->page_tokens;
    return tokens > UINT32_MAX ? UINT32_MAX : (uint32_t)tokens;
}

uint64_t kvmm_geometry_bytes(const struct kvmm_geometry *g, size_t frame_bytes, uint32_t n_tokens)
{
    if (!g || frame_bytes == 0 || vmm_geometry_check(g) != KVMM_OK)
        return 0;
    struct kvmm_layout layout;
    vmm_layout_init(g, &layout);
    uint64_t bytes;
    if (__builtin_mul_overflow(vmm_group_frames(&layout, frame_bytes, n_tokens), layout.n_groups * frame_bytes, &bytes))
        return UINT64_MAX;
    return bytes;
}
