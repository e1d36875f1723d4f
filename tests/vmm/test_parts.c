/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts that stand alone: layout, policy, the device budget. */
#include "fixture.h"

#include "vmm/layout.h"

static struct kvmm_geometry llama8b(enum kvmm_layout_kind layout)
{
    return (struct kvmm_geometry){.n_layers = 32,
                                  .n_kv_heads = 8,
                                  .head_dim = 128,
                                  .page_tokens = 16,
                                  .dtype = KVMM_BF16,
                                  .layout = layout,
                                  .layers_per_group = 4};
}

START_TEST(a_page_of_llama_3_8b_is_one_frame_of_2_mib)
{
    struct kvmm_geometry g = llama8b(KVMM_PAGE_MAJOR);
    ck_assert_uint_eq(kvmm_geometry_bytes(&g, 2 << 20, 16), 2 << 20);
    ck_assert_uint_eq(kvmm_geometry_bytes(&g, 2 << 20, 17), 4 << 20);
    ck_assert_uint_eq(kvmm_geometry_bytes(&g, 2 << 20, 65536), 8ull << 30);
    g.layout = KVMM_LAYER_MAJOR; /* 8 groups of 4 layers: 8 pages a frame in each */
    ck_assert_uint_eq(kvmm_geometry_bytes(&g, 2 << 20, 16), 16 << 20);
    ck_assert_uint_eq(kvmm_geometry_bytes(&g, 2 << 20, 128), 16 << 20);
    g.n_layers = 0;
    ck_assert_uint_eq(kvmm_geometry_bytes(&g, 2 << 20, 16), 0);
}
END_TEST

/* No two elements share an address, and all lie in the frames that are counted for them. */
START_TEST(every_element_has_a_place_of_its_own)
{
    for (int kind = KVMM_PAGE_MAJOR; kind <= KVMM_LAYER_MAJOR; kind++) {
        struct kvmm_geometry g = {.n_layers = 5,
                                  .n_kv_heads = 3,
                                  .head_dim = 7,
                                  .page_tokens = 4,
                                  .dtype = KVMM_F16,
                                  .layout = (enum kvmm_layout_kind)kind,
                                  .layers_per_group = 2};
        enum { TOKENS = 37, FRAME_BYTES = 512 };
        struct kvmm_layout l;
        vmm_layout_init(&g, &l);
        uint64_t group_frames = vmm_group_frames(&l, FRAME_BYTES, TOKENS);
        l.group_stride = group_frames * FRAME_BYTES;
        ck_assert_uint_eq(kvmm_geometry_bytes(&g, FRAME_BYTES, TOKENS), l.group_stride * l.n_groups);
        uint8_t *seen = calloc(1, l.group_stride * l.n_groups);
        l.base = seen;
        for (uint32_t layer = 0; layer < 5; layer++)
            for (uint32_t kv = 0; kv < 2; kv++)
                for (uint32_t head = 0; head < 3; head++)
                    for (uint32_t t = 0; t < TOKENS; t++)
                        for (uint32_t d = 0; d < 7; d++) {
                            uint8_t *at = (uint8_t *)kvmm_layout_at(&l, layer, kv) + t / 4 * l.page_stride +
                                          t % 4 * l.token_stride + head * l.head_stride + d * l.elem_bytes;
                            ck_assert(at + 2 <= seen + l.group_stride * l.n_groups);
                            ck_assert(at[0] == 0 && at[1] == 0);
                            at[0] = at[1] = 1;
                            uint64_t begin, end;
                            vmm_group_span(&l, FRAME_BYTES, t, t + 1, &begin, &end);
                            uint64_t frame = (uint64_t)(at - seen) % l.group_stride / FRAME_BYTES;
                            ck_assert(frame >= begin && frame < end);
                        }
        free(seen);
    }
}
END_TEST

START_TEST(tokens_before_a_lost_frame_do_not_touch_it)
{
    struct kvmm_geometry g = {.n_layers = 3, .n_kv_heads = 1, .head_dim = 11, .page_tokens = 16, .dtype = KVMM_F16};
    struct kvmm_layout l;
    vmm_layout_init(&g, &l);
    for (uint64_t frame = 0; frame < 50; frame++) {
        uint32_t valid = vmm_tokens_before(&l, 4096, frame);
        ck_assert_uint_le(vmm_group_frames(&l, 4096, valid), frame);
        ck_assert_uint_gt(vmm_group_frames(&l, 4096, valid + 16), frame);
    }
}
END_TEST

static bool not_this(void *ctx, struct vmm_policy_item *item)
{
    return item != ctx;
}

START_TEST(lru_takes_the_least_recently_used)
{
    struct vmm_policy p;
    struct vmm_policy_item items[4] = {0};
    ck_assert(vmm_policy_init(&p, "lru"));
    for (int i = 0; i < 4; i++)
        p.ops->insert(&p, VMM_TIER_DEVICE, &items[i]);
    p.ops->touch(&p, &items[0]);
    p.ops->touch(&p, &items[2]);
    ck_assert_ptr_eq(p.ops->victim(&p, VMM_TIER_DEVICE, not_this, NULL), &items[1]);
    ck_assert_ptr_eq(p.ops->victim(&p, VMM_TIER_DEVICE, not_this, &items[1]), &items[3]);
    p.ops->cool(&p, &items[2]);
    ck_assert_ptr_eq(p.ops->victim(&p, VMM_TIER_DEVICE, not_this, NULL), &items[2]);
    ck_assert_ptr_null(p.ops->victim(&p, VMM_TIER_HOST, not_this, NULL));
    p.ops->remove(&p, VMM_TIER_DEVICE, &items[2]);
    ck_assert_ptr_eq(p.ops->victim(&p, VMM_TIER_DEVICE, not_this, NULL), &items[1]);
}
END_TEST

START_TEST(clock_gives_what_was_used_a_second_chance)
{
    struct vmm_policy p;
    struct vmm_policy_item items[3] = {0};
    ck_assert(vmm_policy_init(&p, "clock"));
    for (int i = 0; i < 3; i++)
        p.ops->insert(&p, VMM_TIER_HOST, &items[i]);
    p.ops->touch(&p, &items[0]);
    ck_assert_ptr_eq(p.ops->victim(&p, VMM_TIER_HOST, not_this, NULL), &items[1]);
    ck_assert_ptr_eq(p.ops->victim(&p, VMM_TIER_HOST, not_this, &items[1]), &items[2]);
    for (int i = 0; i < 3; i++)
        p.ops->touch(&p, &items[i]);
    struct vmm_policy_item *victim = p.ops->victim(&p, VMM_TIER_HOST, not_this, NULL); /* all used: one round, then */
    ck_assert_ptr_eq(victim, &items[1]);
    ck_assert_ptr_null(p.ops->victim(&p, VMM_TIER_DEVICE, not_this, NULL));
    ck_assert(!vmm_policy_init(&p, "mru"));
}
END_TEST

START_TEST(the_budget_hands_out_each_frame_once)
{
    struct vmm_device *dev = NULL;
    struct vmm_frames *frames = NULL;
    enum { N = 130 };
    uint32_t taken[N], extra;
    bool zeroed, seen[N] = {0};
    const struct vmm_device_budget budget = {.bytes = (uint64_t)N * FRAME};
    ck_assert_int_eq(vmm_host_device_open(FRAME, &budget, &dev), KVMM_OK);
    ck_assert_int_eq(vmm_frames_open(dev, &frames), KVMM_OK);
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(vmm_frames_take(frames, VMM_FRAME_FOR_ZERO, 0, &taken[i], &zeroed), KVMM_OK);
        ck_assert(zeroed && taken[i] < N && !seen[taken[i]]);
        seen[taken[i]] = true;
    }
    ck_assert_int_eq(vmm_frames_take(frames, VMM_FRAME_FOR_DATA, 0, &extra, &zeroed), KVMM_ERR_NO_DEVICE_MEMORY);
    vmm_frames_give(frames, 70, false);
    vmm_frames_give(frames, 3, false);
    vmm_frames_give(frames, 71, true);
    ck_assert_uint_eq(vmm_frames_free(frames), 3);
    ck_assert_int_eq(vmm_frames_take(frames, VMM_FRAME_FOR_DATA, 70, &extra, &zeroed), KVMM_OK);
    ck_assert(extra == 70 && !zeroed);
    ck_assert_int_eq(vmm_frames_take(frames, VMM_FRAME_FOR_ZERO, 5, &extra, &zeroed), KVMM_OK);
    ck_assert(extra == 71 && zeroed);
    ck_assert_int_eq(vmm_frames_take(frames, VMM_FRAME_FOR_ZERO, 5, &extra, &zeroed), KVMM_OK);
    ck_assert(extra == 3 && !zeroed);
    for (uint32_t i = 0; i < N; i++)
        vmm_frames_give(frames, i, false);
    vmm_frames_close(&frames);
    dev->ops->close(dev);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {a_page_of_llama_3_8b_is_one_frame_of_2_mib,
                            every_element_has_a_place_of_its_own,
                            tokens_before_a_lost_frame_do_not_touch_it,
                            lru_takes_the_least_recently_used,
                            clock_gives_what_was_used_a_second_chance,
                            the_budget_hands_out_each_frame_once,
                            NULL};
    return run_suite("parts", tests);
}
