/* SPDX-License-Identifier: Apache-2.0
 *
 * The policies alone, on a clock of the test's: who leaves first. What they achieve on traces is tests/tools/bench_policy.c's. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/policy.h"

#define SECOND 1000000000u

static struct vmm_policy p;
static uint64_t clock_ns;

static uint64_t now(void *user)
{
    ck_assert_ptr_eq(user, &clock_ns);
    return clock_ns;
}

static void start(const char *name)
{
    ck_assert(vmm_policy_init(&p, name));
    p.now_ns = now;
    p.user = &clock_ns;
    clock_ns = 1000ull * SECOND;
}

static void at_s(uint64_t seconds)
{
    clock_ns = (1000 + seconds) * SECOND;
}

static bool not_this(void *ctx, struct vmm_policy_item *item)
{
    return item != ctx;
}

static struct vmm_policy_item *victim(enum vmm_tier tier)
{
    return p.ops->victim(&p, tier, not_this, NULL);
}

/* A use of something that is in no tier or on the device; room for `room` items there. Returns who had to go. */
static struct vmm_policy_item *use(struct vmm_policy_item *item, unsigned *held, unsigned room)
{
    struct vmm_policy_item *gone = NULL;
    p.ops->touch(&p, item);
    if (item->link[VMM_TIER_DEVICE].next)
        return NULL;
    if (*held == room) {
        gone = victim(VMM_TIER_DEVICE);
        ck_assert_ptr_nonnull(gone);
        p.ops->remove(&p, VMM_TIER_DEVICE, gone);
    } else {
        ++*held;
    }
    p.ops->insert(&p, VMM_TIER_DEVICE, item);
    return gone;
}

static bool on_device(const struct vmm_policy_item *item)
{
    return item->link[VMM_TIER_DEVICE].next != NULL;
}

/* ---- all of them --------------------------------------------------------------------------------------------- */

static const char *const names[] = {"lru", "clock", "arc", "cost"};
enum { N_NAMES = sizeof names / sizeof *names };

START_TEST(each_has_its_name)
{
    for (size_t i = 0; i < N_NAMES; i++) {
        ck_assert_str_eq(vmm_policy_name(i), names[i]);
        ck_assert(vmm_policy_init(&p, names[i]));
        ck_assert_str_eq(p.ops->name, names[i]);
    }
    ck_assert_ptr_null(vmm_policy_name(N_NAMES));
    ck_assert(!vmm_policy_init(&p, "mru"));
    ck_assert(!vmm_policy_init(&p, ""));
}
END_TEST

START_TEST(what_is_cooled_leaves_first_in_every_tier)
{
    struct vmm_policy_item items[5] = {0};
    start(names[_i]);
    for (uint64_t i = 0; i < 5; i++) {
        at_s(10 * i);
        p.ops->touch(&p, &items[i]);
        p.ops->insert(&p, VMM_TIER_DEVICE, &items[i]);
        p.ops->insert(&p, VMM_TIER_HOST, &items[i]);
    }
    p.ops->cool(&p, &items[3]);
    ck_assert_ptr_eq(victim(VMM_TIER_DEVICE), &items[3]);
    ck_assert_ptr_eq(victim(VMM_TIER_HOST), &items[3]);
    p.ops->cool(&p, &items[4]); /* the last to be cooled is the very first */
    ck_assert_ptr_eq(victim(VMM_TIER_DEVICE), &items[4]);
    p.ops->touch(&p, &items[4]); /* and is cold no longer */
    ck_assert_ptr_eq(victim(VMM_TIER_DEVICE), &items[3]);
}
END_TEST

/* Whatever was done to them before, all of them are named once each, those that can't go are not, and an empty tier has
 * none. */
START_TEST(all_that_is_in_a_tier_leaves_it_once)
{
    enum { N = 40 };
    struct vmm_policy_item items[N] = {0};
    unsigned seed = 4711;
    start(names[_i]);
    for (int round = 0; round < 20000; round++) {
        struct vmm_policy_item *item = &items[(unsigned)rand_r(&seed) % N];
        enum vmm_tier tier = (enum vmm_tier)((unsigned)rand_r(&seed) % VMM_N_TIERS);
        clock_ns += (unsigned)rand_r(&seed) % (3 * SECOND);
        item->bytes = (uint64_t)((unsigned)rand_r(&seed) % 3) << 20;
        switch (rand_r(&seed) % 5) {
        case 0:
        case 1:
            p.ops->touch(&p, item);
            break;
        case 2:
            if (rand_r(&seed) % 8 == 0)
                p.ops->cool(&p, item);
            break;
        case 3:
            if (!item->link[tier].next)
                p.ops->insert(&p, tier, item);
            break;
        default:
            item = p.ops->victim(&p, tier, not_this, item);
            if (item)
                p.ops->remove(&p, tier, item);
        }
    }
    for (int tier = 0; tier < VMM_N_TIERS; tier++) {
        int listed = 0, left = 0;
        for (int i = 0; i < N; i++)
            listed += items[i].link[tier].next != NULL;
        ck_assert_int_gt(listed, 0);
        for (struct vmm_policy_item *item; (item = victim((enum vmm_tier)tier)); left++) {
            struct vmm_policy_item *other = p.ops->victim(&p, (enum vmm_tier)tier, not_this, item);
            ck_assert_ptr_ne(other, item);
            ck_assert(left == listed - 1 ? !other : other != NULL);
            p.ops->remove(&p, (enum vmm_tier)tier, item);
            ck_assert_ptr_null(item->link[tier].next);
        }
        ck_assert_int_eq(left, listed);
    }
}
END_TEST

/* ---- arc ----------------------------------------------------------------------------------------------------- */

START_TEST(arc_keeps_what_is_used_again_from_a_scan)
{
    enum { ROOM = 10, N_SCANNED = 100 };
    struct vmm_policy_item again[5] = {0}, scanned[N_SCANNED] = {0};
    unsigned held = 0;
    start("arc");
    for (uint64_t round = 0; round < 2; round++) {
        at_s(10 * round);
        for (int i = 0; i < 5; i++)
            use(&again[i], &held, ROOM);
    }
    for (uint64_t i = 0; i < N_SCANNED; i++) {
        at_s(100 + i);
        use(&scanned[i], &held, ROOM);
    }
    for (int i = 0; i < 5; i++)
        ck_assert(on_device(&again[i]));
}
END_TEST

/* What was let go too early says which of the two lists is too short. */
START_TEST(arc_learns_which_list_is_too_short)
{
    enum { ROOM = 8 };
    struct vmm_policy_item again[4] = {0}, once[8] = {0};
    unsigned held = 0;
    start("arc");
    for (uint64_t round = 0; round < 2; round++) {
        at_s(10 * round);
        for (int i = 0; i < 4; i++)
            use(&again[i], &held, ROOM);
    }
    at_s(100);
    for (int i = 0; i < 8; i++)
        use(&once[i], &held, ROOM);
    ck_assert_uint_eq(p.tier[VMM_TIER_DEVICE].target, 0);
    ck_assert(!on_device(&once[0]) && !on_device(&once[3]) && on_device(&again[0]));
    at_s(200);
    for (int i = 0; i < 4; i++)
        use(&once[i], &held, ROOM);
    ck_assert_uint_eq(p.tier[VMM_TIER_DEVICE].target, 4);
    /* The list of what is used again has now lost some: those that come back take the target down again. */
    ck_assert(!on_device(&again[0]));
    at_s(300);
    use(&again[0], &held, ROOM);
    ck_assert_uint_eq(p.tier[VMM_TIER_DEVICE].target, 3);
}
END_TEST

START_TEST(arc_remembers_as_much_as_the_tier_holds)
{
    enum { ROOM = 4 };
    struct vmm_policy_item items[20] = {0};
    for (int others = 3; others <= 4; others++) { /* that leave after the first */
        unsigned held = 0;
        start("arc");
        memset(items, 0, sizeof items);
        at_s(0);
        use(&items[0], &held, ROOM);
        at_s(1);
        use(&items[1], &held, ROOM);
        at_s(2);
        for (int i = 2; i < 4; i++)
            use(&items[i], &held, ROOM);
        for (int i = 4; i < 5 + others + 1; i++)
            use(&items[i], &held, ROOM);
        ck_assert(!on_device(&items[0]));
        uint64_t before = p.tier[VMM_TIER_DEVICE].target;
        at_s(50);
        use(&items[0], &held, ROOM);
        ck_assert_uint_eq(p.tier[VMM_TIER_DEVICE].target, others == 3 ? before + 1 : before);
    }
}
END_TEST

/* The steps of an answer touch a sequence 20 times a second: that is one use. */
START_TEST(arc_takes_the_steps_of_an_answer_for_one_use)
{
    enum { ROOM = 3 };
    struct vmm_policy_item again = {0}, answering = {0}, scanned[4] = {0};
    unsigned held = 0;
    start("arc");
    use(&again, &held, ROOM);
    at_s(5);
    use(&again, &held, ROOM);
    for (int i = 0; i < 100; i++) {
        clock_ns += SECOND / 20;
        use(&answering, &held, ROOM);
    }
    clock_ns += SECOND / 20;
    for (int i = 0; i < 4; i++)
        use(&scanned[i], &held, ROOM);
    ck_assert(on_device(&again));
    ck_assert(!on_device(&answering));
}
END_TEST

START_TEST(arc_knows_in_the_host_tier_what_was_used_there)
{
    struct vmm_policy_item items[3] = {0};
    start("arc");
    for (uint64_t i = 0; i < 3; i++) {
        at_s(i);
        p.ops->touch(&p, &items[i]);
        p.ops->insert(&p, VMM_TIER_HOST, &items[i]);
    }
    at_s(10);
    p.ops->touch(&p, &items[0]); /* goes up … */
    p.ops->remove(&p, VMM_TIER_HOST, &items[0]);
    p.ops->insert(&p, VMM_TIER_DEVICE, &items[0]);
    at_s(20);
    p.ops->remove(&p, VMM_TIER_DEVICE, victim(VMM_TIER_DEVICE)); /* … and down again, before something new */
    p.ops->insert(&p, VMM_TIER_HOST, &items[0]);
    for (uint64_t i = 1; i < 3; i++) {
        ck_assert_ptr_eq(victim(VMM_TIER_HOST), &items[i]);
        p.ops->remove(&p, VMM_TIER_HOST, &items[i]);
    }
    ck_assert_ptr_eq(victim(VMM_TIER_HOST), &items[0]);
}
END_TEST

START_TEST(arc_weighs_bytes)
{
    struct vmm_policy_item big = {.bytes = 100}, small[3] = {{.bytes = 1}, {.bytes = 1}, {.bytes = 1}};
    start("arc");
    p.ops->touch(&p, &big);
    p.ops->insert(&p, VMM_TIER_DEVICE, &big);
    for (int i = 0; i < 3; i++) {
        at_s(1);
        p.ops->touch(&p, &small[i]);
        p.ops->insert(&p, VMM_TIER_DEVICE, &small[i]);
    }
    ck_assert_ptr_eq(victim(VMM_TIER_DEVICE), &big);
    p.ops->remove(&p, VMM_TIER_DEVICE, &big);
    p.ops->insert(&p, VMM_TIER_DEVICE, &big); /* was not used meanwhile: nothing is learned */
    ck_assert_uint_eq(p.tier[VMM_TIER_DEVICE].target, 0);
    ck_assert_ptr_eq(victim(VMM_TIER_DEVICE), &small[0]);
    p.ops->remove(&p, VMM_TIER_DEVICE, &small[0]);
    at_s(9);
    p.ops->touch(&p, &small[0]);
    ck_assert_uint_eq(p.tier[VMM_TIER_DEVICE].target, 1);
}
END_TEST

/* ---- cost ---------------------------------------------------------------------------------------------------- */

static void used_at(struct vmm_policy_item *item, const uint64_t *seconds, int n)
{
    for (int i = 0; i < n; i++) {
        at_s(seconds[i]);
        p.ops->touch(&p, item);
    }
    if (!on_device(item))
        p.ops->insert(&p, VMM_TIER_DEVICE, item);
}

START_TEST(cost_lets_what_comes_seldom_go_first)
{
    struct vmm_policy_item seldom = {0}, often = {0}, once = {0};
    start("cost");
    used_at(&seldom, (uint64_t[]){0, 100, 200, 300}, 4);
    used_at(&often, (uint64_t[]){280, 290, 300, 310}, 4);
    at_s(312);
    ck_assert_ptr_eq(victim(VMM_TIER_DEVICE), &seldom);
    used_at(&once, (uint64_t[]){313}, 1); /* of which nothing is known but what is usual: 100 s and 10 s */
    at_s(314);
    ck_assert_ptr_eq(victim(VMM_TIER_DEVICE), &seldom);
    p.ops->remove(&p, VMM_TIER_DEVICE, &seldom);
    at_s(330); /* both have waited longer than anything was expected to */
    ck_assert_ptr_eq(victim(VMM_TIER_DEVICE), &once);
}
END_TEST

START_TEST(cost_changes_its_mind_while_something_waits)
{
    struct vmm_policy_item slow = {0}, fast = {0};
    start("cost");
    used_at(&fast, (uint64_t[]){0, 2, 4, 6}, 4);
    used_at(&slow, (uint64_t[]){0, 100, 200, 300}, 4);
    at_s(20);
    ck_assert_ptr_eq(victim(VMM_TIER_DEVICE), &slow);
    at_s(400); /* it came every two seconds, and then no more */
    ck_assert_ptr_eq(victim(VMM_TIER_DEVICE), &fast);
}
END_TEST

/* Where a byte of it is dearer to have back: the latency is for all of an item. */
START_TEST(cost_keeps_small_items_longer)
{
    struct vmm_policy_item big = {.bytes = 1u << 30}, small = {.bytes = 64u << 10};
    start("cost");
    at_s(0);
    for (int tier = 0; tier < VMM_N_TIERS; tier++) {
        p.ops->insert(&p, (enum vmm_tier)tier, &small);
        p.ops->insert(&p, (enum vmm_tier)tier, &big);
    }
    ck_assert_ptr_eq(victim(VMM_TIER_HOST), &big);
    ck_assert_ptr_eq(victim(VMM_TIER_DEVICE), &big);
    start("cost");
    for (int tier = 0; tier < VMM_N_TIERS; tier++)
        p.back[tier] = (struct vmm_policy_return){.ps_per_byte = 100};
    small = (struct vmm_policy_item){.bytes = small.bytes};
    big = (struct vmm_policy_item){.bytes = big.bytes};
    p.ops->insert(&p, VMM_TIER_HOST, &small);
    p.ops->insert(&p, VMM_TIER_HOST, &big);
    ck_assert_ptr_eq(victim(VMM_TIER_HOST), &small); /* without a latency the size is nothing, and it is older */
}
END_TEST

START_TEST(cost_goes_by_the_last_touch_and_not_by_arrival)
{
    struct vmm_policy_item items[4] = {0};
    static const int arrival[] = {2, 0, 3, 1};
    start("cost");
    for (uint64_t i = 0; i < 4; i++) {
        at_s(i);
        p.ops->touch(&p, &items[i]);
    }
    for (int i = 0; i < 4; i++)
        p.ops->insert(&p, VMM_TIER_HOST, &items[arrival[i]]);
    for (int i = 0; i < 4; i++) {
        ck_assert_ptr_eq(victim(VMM_TIER_HOST), &items[i]);
        p.ops->remove(&p, VMM_TIER_HOST, &items[i]);
    }
}
END_TEST

START_TEST(without_a_clock_a_touch_is_a_second)
{
    struct vmm_policy_item often = {0}, once[3] = {0};
    ck_assert(vmm_policy_init(&p, _i ? "cost" : "arc"));
    unsigned held = 0;
    use(&often, &held, 3);
    use(&once[0], &held, 3);
    use(&often, &held, 3);
    use(&once[1], &held, 3);
    ck_assert_ptr_eq(use(&once[2], &held, 3), &once[0]);
}
END_TEST

/* ---- ghosts of items that ended ------------------------------------------------------------------------------ */

static struct vmm_policy_item reborn(struct vmm_policy_item *item, uint64_t key)
{
    vmm_policy_forget(&p, item);
    struct vmm_policy_item other = {.key = key, .bytes = item->bytes};
    vmm_policy_recall(&p, &other);
    return other;
}

START_TEST(what_ended_is_known_again_by_its_key)
{
    struct vmm_policy_ghost ghosts[4] = {0};
    static const uint64_t twice[] = {0, 10};
    start("cost");
    struct vmm_policy_item item = {.key = 7, .bytes = 5};
    for (int table = 0; table < 2; table++) {
        if (table) {
            p.ghosts = ghosts;
            p.n_ghosts = 4;
        }
        item = (struct vmm_policy_item){.key = 7, .bytes = 5};
        used_at(&item, twice, 2);
        p.ops->remove(&p, VMM_TIER_DEVICE, &item);
        struct vmm_policy_item same = reborn(&item, 7);
        ck_assert_uint_eq(same.uses, table ? 2 : 0);
        ck_assert_uint_eq(same.interval_ns, table ? 10ull * SECOND : 0);
        ck_assert_uint_eq(reborn(&item, 3).uses, 0); /* another, in the same place */
        ck_assert_uint_eq(reborn(&item, 0).uses, 0); /* without a key */
    }
    struct vmm_policy_item other = {.key = 3};
    used_at(&other, twice, 2);
    p.ops->remove(&p, VMM_TIER_DEVICE, &other);
    vmm_policy_forget(&p, &item);
    vmm_policy_forget(&p, &other); /* takes the place */
    struct vmm_policy_item same = {.key = 7};
    vmm_policy_recall(&p, &same);
    ck_assert_uint_eq(same.uses, 0);
}
END_TEST

START_TEST(arc_learns_from_what_ended)
{
    enum { ROOM = 4 };
    struct vmm_policy_ghost ghosts[8] = {0};
    struct vmm_policy_item items[5] = {0}, again = {.key = 2};
    unsigned held = 0;
    start("arc");
    p.ghosts = ghosts;
    p.n_ghosts = 8;
    for (uint64_t i = 0; i < 5; i++) {
        items[i].key = i + 1;
        at_s(i);
        if (i == 2)
            use(&items[0], &held, ROOM);
        struct vmm_policy_item *gone = use(&items[i], &held, ROOM);
        if (gone)
            vmm_policy_forget(&p, gone);
    }
    ck_assert(!on_device(&items[1]));
    vmm_policy_recall(&p, &again);
    at_s(20);
    use(&again, &held, ROOM);
    ck_assert_uint_eq(p.tier[VMM_TIER_DEVICE].target, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("replacement policies");
    TCase *tests = tcase_create("all");
    tcase_add_test(tests, each_has_its_name);
    tcase_add_loop_test(tests, what_is_cooled_leaves_first_in_every_tier, 0, N_NAMES);
    tcase_add_loop_test(tests, all_that_is_in_a_tier_leaves_it_once, 0, N_NAMES);
    tcase_add_test(tests, arc_keeps_what_is_used_again_from_a_scan);
    tcase_add_test(tests, arc_learns_which_list_is_too_short);
    tcase_add_test(tests, arc_remembers_as_much_as_the_tier_holds);
    tcase_add_test(tests, arc_takes_the_steps_of_an_answer_for_one_use);
    tcase_add_test(tests, arc_knows_in_the_host_tier_what_was_used_there);
    tcase_add_test(tests, arc_weighs_bytes);
    tcase_add_test(tests, cost_lets_what_comes_seldom_go_first);
    tcase_add_test(tests, cost_changes_its_mind_while_something_waits);
    tcase_add_test(tests, cost_keeps_small_items_longer);
    tcase_add_test(tests, cost_goes_by_the_last_touch_and_not_by_arrival);
    tcase_add_loop_test(tests, without_a_clock_a_touch_is_a_second, 0, 2);
    tcase_add_test(tests, what_ended_is_known_again_by_its_key);
    tcase_add_test(tests, arc_learns_from_what_ended);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
