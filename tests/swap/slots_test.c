/* SPDX-License-Identifier: Apache-2.0
 *
 * Slots: no slot is owned twice, neighbours are taken together, retired slots stay away. */
#include <errno.h>
#include <stdlib.h>

#include "support.h"
#include "swap/slots.h"

START_TEST(taken_in_a_row)
{
    struct swap_slots slots;
    swap_slots_init(&slots);
    ck_assert_int_eq(swap_slots_grow(&slots, 200), 0);
    uint32_t slot;
    for (uint32_t i = 0; i < 200; i++) {
        ck_assert_int_eq(swap_slots_take(&slots, &slot), 0);
        ck_assert_uint_eq(slot, i);
    }
    slot = 12345;
    ck_assert_int_eq(swap_slots_take(&slots, &slot), -ENOSPC);
    ck_assert_uint_eq(slot, 12345);
    /* The search goes on behind the last one taken, then around. */
    swap_slots_give(&slots, 3);
    swap_slots_give(&slots, 130);
    swap_slots_give(&slots, 131);
    ck_assert_int_eq(swap_slots_take(&slots, &slot), 0);
    ck_assert_uint_eq(slot, 3);
    swap_slots_give(&slots, 2);
    ck_assert_int_eq(swap_slots_take(&slots, &slot), 0);
    ck_assert_uint_eq(slot, 130);
    ck_assert_int_eq(swap_slots_take(&slots, &slot), 0);
    ck_assert_uint_eq(slot, 131);
    ck_assert_int_eq(swap_slots_take(&slots, &slot), 0);
    ck_assert_uint_eq(slot, 2);
    swap_slots_close(&slots);
}
END_TEST

START_TEST(blamed_slots_are_retired)
{
    struct swap_slots slots;
    swap_slots_init(&slots);
    ck_assert_int_eq(swap_slots_grow(&slots, 3), 0);
    uint32_t slot;
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(swap_slots_take(&slots, &slot), 0);
    swap_slots_blame(&slots, 1);
    ck_assert_uint_eq(slots.n_retired, 0);
    ck_assert(swap_slots_owned(&slots, 1));
    swap_slots_give(&slots, 1);
    swap_slots_give(&slots, 1); /* not owned any more: nothing happens */
    ck_assert_uint_eq(slots.n_retired, 1);
    ck_assert_uint_eq(slots.n_taken, 2);
    ck_assert(!swap_slots_owned(&slots, 1));
    ck_assert_int_eq(swap_slots_take(&slots, &slot), -ENOSPC);
    swap_slots_give(&slots, 0);
    swap_slots_give(&slots, 2);
    ck_assert_int_eq(swap_slots_take(&slots, &slot), 0);
    ck_assert_uint_ne(slot, 1);
    ck_assert_int_eq(swap_slots_take(&slots, &slot), 0);
    ck_assert_uint_ne(slot, 1);
    ck_assert_int_eq(swap_slots_take(&slots, &slot), -ENOSPC);
    swap_slots_close(&slots);
}
END_TEST

START_TEST(a_freed_slot_forgets_its_block)
{
    struct swap_slots slots;
    swap_slots_init(&slots);
    ck_assert_int_eq(swap_slots_grow(&slots, 1), 0);
    uint32_t slot;
    uint64_t checksum = 0;
    ck_assert_int_eq(swap_slots_take(&slots, &slot), 0);
    ck_assert(!swap_slots_full(&slots, slot, &checksum));
    swap_slots_fill(&slots, slot, 77);
    ck_assert(swap_slots_full(&slots, slot, &checksum));
    ck_assert_uint_eq(checksum, 77);
    swap_slots_give(&slots, slot);
    ck_assert_int_eq(swap_slots_take(&slots, &slot), 0);
    ck_assert(!swap_slots_full(&slots, slot, &checksum));
    swap_slots_close(&slots);
}
END_TEST

enum state { FREE, OWNED, BLAMED, RETIRED };

/* What the slots must be, kept the simplest way. */
struct model {
    enum state *state;
    uint64_t *checksum; /* 0: empty */
    uint32_t n, n_owned, n_retired;
};

static void check_model(const struct swap_slots *slots, const struct model *model)
{
    ck_assert_uint_eq(slots->n, model->n);
    ck_assert_uint_eq(slots->n_taken, model->n_owned);
    ck_assert_uint_eq(slots->n_retired, model->n_retired);
    for (uint32_t i = 0; i < model->n; i++) {
        bool owned = model->state[i] == OWNED || model->state[i] == BLAMED;
        ck_assert_int_eq(swap_slots_owned(slots, i), owned);
        uint64_t checksum = 0;
        if (owned)
            ck_assert_int_eq(swap_slots_full(slots, i, &checksum), model->checksum[i] != 0);
        ck_assert_uint_eq(checksum, owned ? model->checksum[i] : 0);
    }
    ck_assert(!swap_slots_owned(slots, model->n));
    ck_assert(!swap_slots_owned(slots, UINT32_MAX));
}

static void step_model(struct swap_slots *slots, struct model *model, uint64_t *random)
{
    uint32_t slot = (uint32_t)(random_next(random) % model->n);
    bool owned = model->state[slot] == OWNED || model->state[slot] == BLAMED;
    switch (random_next(random) % 16) {
    case 0:
        if (owned) {
            model->state[slot] = BLAMED;
            swap_slots_blame(slots, slot);
        }
        break;
    case 1:
    case 2:
    case 3:
        if (owned)
            swap_slots_fill(slots, slot, model->checksum[slot] = random_next(random) | 1);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
        swap_slots_give(slots, slot);
        if (owned) {
            model->n_owned--;
            model->n_retired += model->state[slot] == BLAMED;
            model->state[slot] = model->state[slot] == BLAMED ? RETIRED : FREE;
            model->checksum[slot] = 0;
        }
        break;
    default:
        if (model->n_owned + model->n_retired == model->n) {
            ck_assert_int_eq(swap_slots_take(slots, &slot), -ENOSPC);
        } else {
            ck_assert_int_eq(swap_slots_take(slots, &slot), 0);
            ck_assert_int_eq(model->state[slot], FREE);
            model->state[slot] = OWNED;
            model->n_owned++;
        }
    }
}

START_TEST(random_life)
{
    enum { MOST = 700 };
    uint64_t random = (uint64_t)_i;
    struct model model = {calloc(MOST, sizeof(enum state)), calloc(MOST, sizeof(uint64_t)), 0, 0, 0};
    struct swap_slots slots;
    swap_slots_init(&slots);
    model.n = 1 + (uint32_t)(random_next(&random) % 100);
    ck_assert_int_eq(swap_slots_grow(&slots, model.n), 0);
    for (int i = 0; i < 3000; i++) {
        step_model(&slots, &model, &random);
        if (i % 300 == 299) {
            check_model(&slots, &model);
            model.n += (uint32_t)(random_next(&random) % ((MOST - model.n) / 2 + 1));
            ck_assert_int_eq(swap_slots_grow(&slots, model.n), 0);
        }
    }
    swap_slots_close(&slots);
    free(model.state);
    free(model.checksum);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("slots");
    tcase_add_test(tests, taken_in_a_row);
    tcase_add_test(tests, blamed_slots_are_retired);
    tcase_add_test(tests, a_freed_slot_forgets_its_block);
    tcase_add_loop_test(tests, random_life, 0, scaled(20));
    return run_suite("swap slots", tests);
}
