/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pager/rounds.h"

#define QUIET_ENOUGH (SHIM_ROUNDS_KEPT - 1) /* rounds without an arrival after which the marks rest */

void shim_rounds_open(struct shim_rounds *rounds, uint32_t spacing, uint32_t now)
{
    *rounds = (struct shim_rounds){.spacing = spacing, .chosen = now, .last = SHIM_MARKS, .round = 1};
    for (int i = 0; i < SHIM_ROUNDS_KEPT; i++)
        rounds->began[i] = now;
}

static uint32_t find(const struct shim_rounds *rounds, uint32_t chunk)
{
    uint32_t i = 0;
    while (i < SHIM_MARKS && !(rounds->marks[i].exists && rounds->marks[i].chunk == chunk))
        i++;
    return i;
}

bool shim_rounds_has(const struct shim_rounds *rounds, uint32_t chunk)
{
    return find(rounds, chunk) < SHIM_MARKS;
}

/* The one before goes out of the view now; this one stays, as other threads may follow close behind. */
static void touched_last(struct shim_rounds *rounds, uint32_t i, uint32_t now)
{
    if (rounds->last < SHIM_MARKS && rounds->last != i && !shim_rounds_quiet(rounds, now, QUIET_ENOUGH))
        rounds->marks[rounds->last].due = rounds->marks[rounds->last].exists && !rounds->marks[rounds->last].out;
    rounds->last = i;
}

void shim_rounds_offer(struct shim_rounds *rounds, uint32_t chunk, uint32_t now, uint32_t patience)
{
    if (now - rounds->chosen < rounds->spacing || shim_rounds_has(rounds, chunk))
        return;
    uint32_t place = SHIM_MARKS;
    for (uint32_t i = 0; i < SHIM_MARKS; i++) {
        const struct shim_mark *mark = &rounds->marks[i];
        if (!mark->exists) {
            place = i;
            break;
        }
        bool stale = now - mark->since > patience || rounds->round - mark->round > 2;
        if (stale && (place == SHIM_MARKS || now - mark->since > now - rounds->marks[place].since))
            place = i;
    }
    if (place == SHIM_MARKS)
        return;
    rounds->chosen = now;
    rounds->marks[place] = (struct shim_mark){.chunk = chunk, .round = rounds->round, .since = now, .exists = true};
    touched_last(rounds, place, now);
}

static bool round_over(struct shim_rounds *rounds)
{
    uint32_t n_touched = 0, n_alive = 0;
    for (uint32_t i = 0; i < SHIM_MARKS; i++) {
        const struct shim_mark *mark = &rounds->marks[i];
        n_touched += mark->exists && mark->round == rounds->round;
        n_alive += mark->exists && rounds->round - mark->round <= 2;
    }
    return n_touched >= 2 && n_touched >= n_alive / 2;
}

bool shim_rounds_touch(struct shim_rounds *rounds, uint32_t chunk, uint32_t now)
{
    uint32_t i = find(rounds, chunk);
    if (i == SHIM_MARKS || !rounds->marks[i].out)
        return false;
    struct shim_mark *mark = &rounds->marks[i];
    bool over = mark->round == rounds->round && round_over(rounds);
    if (over) {
        rounds->round++;
        for (int k = SHIM_ROUNDS_KEPT - 1; k > 0; k--)
            rounds->began[k] = rounds->began[k - 1];
        rounds->began[0] = now;
    }
    mark->out = false;
    mark->round = rounds->round;
    mark->since = now;
    touched_last(rounds, i, now);
    return over;
}

void shim_rounds_arrival(struct shim_rounds *rounds)
{
    for (uint32_t i = 0; i < SHIM_MARKS; i++) {
        struct shim_mark *mark = &rounds->marks[i];
        mark->due = mark->exists && !mark->out && i != rounds->last;
    }
}

bool shim_rounds_due(struct shim_rounds *rounds, uint32_t *chunk)
{
    for (uint32_t i = 0; i < SHIM_MARKS; i++) {
        struct shim_mark *mark = &rounds->marks[i];
        if (!mark->due)
            continue;
        mark->due = false;
        mark->out = true;
        *chunk = mark->chunk;
        return true;
    }
    return false;
}

void shim_rounds_out(struct shim_rounds *rounds, uint32_t chunk, bool out)
{
    uint32_t i = find(rounds, chunk);
    if (i < SHIM_MARKS)
        rounds->marks[i].out = out;
}

void shim_rounds_drop(struct shim_rounds *rounds, uint32_t chunk)
{
    uint32_t i = find(rounds, chunk);
    if (i < SHIM_MARKS)
        rounds->marks[i] = (struct shim_mark){0};
}

bool shim_rounds_passed(const struct shim_rounds *rounds, uint32_t time, uint32_t now, uint32_t whole)
{
    return now - time > now - rounds->began[whole];
}

bool shim_rounds_quiet(const struct shim_rounds *rounds, uint32_t now, uint32_t whole)
{
    return rounds->began[whole] == now;
}
