/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/shim/policy_pager.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define T_USE   sim->use
#define T_FAULT 20
#define T_LOAD  100
#define T_DISK  20

#define AHEAD_ROOM 4096

/* Check writes a line for each of its assertions, which would be most of the time. */
#define must(condition, ...)                                                                                           \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            ck_abort_msg(__VA_ARGS__);                                                                                 \
    } while (0)

static void *array(size_t n, size_t bytes)
{
    void *memory = calloc(n, bytes);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

void sim_open(struct sim *sim, uint32_t n_chunks, uint32_t memory, uint32_t read_ahead, uint32_t n_threads)
{
    *sim = (struct sim){.n_chunks = n_chunks, .memory = memory, .n_threads = n_threads, .use = 8};
    struct shim_policy_config config = {n_chunks, memory, read_ahead};
    ck_assert_int_eq(shim_policy_open(&config, &sim->policy), 0);
    sim->place = array(n_chunks, sizeof *sim->place);
    sim->ahead = array(n_chunks, sizeof *sim->ahead);
    sim->dirty = array(n_chunks, sizeof *sim->dirty);
    sim->named = array(n_chunks, sizeof *sim->named);
    sim->advance = array(2 * (size_t)n_chunks, sizeof *sim->advance);
    sim->ready = array(n_chunks, sizeof *sim->ready);
    sim->loading = array(n_chunks, sizeof *sim->loading);
    sim->clock = array(n_threads, sizeof *sim->clock);
}

void sim_close(struct sim *sim)
{
    shim_policy_close(&sim->policy);
    ck_assert_ptr_null(sim->policy);
    free(sim->place);
    free(sim->ahead);
    free(sim->dirty);
    free(sim->named);
    free(sim->advance);
    free(sim->ready);
    free(sim->loading);
    free(sim->clock);
    free(sim->trace);
}

uint64_t sim_time(const struct sim *sim)
{
    uint64_t latest = 0;
    for (uint32_t i = 0; i < sim->n_threads; i++)
        latest = sim->clock[i] > latest ? sim->clock[i] : latest;
    return latest;
}

void sim_barrier(struct sim *sim)
{
    uint64_t latest = sim_time(sim);
    for (uint32_t i = 0; i < sim->n_threads; i++)
        sim->clock[i] = latest;
}

struct sim_counts sim_since(const struct sim *sim, const struct sim_counts *before)
{
    struct sim_counts now = sim->count;
    uint64_t *to = (uint64_t *)&now;
    const uint64_t *from = (const uint64_t *)before;
    for (size_t i = 0; i < sizeof now / sizeof *to; i++)
        to[i] -= from[i];
    return now;
}

static void loads_end(struct sim *sim, uint64_t time)
{
    while (sim->n_loading) {
        uint32_t chunk = sim->loading[sim->loading_first];
        if (sim->ready[chunk] > time)
            return;
        sim->loading_first = (sim->loading_first + 1) % sim->n_chunks;
        sim->n_loading--;
        must(sim->place[chunk] == LOADING, "the pager lost its load of %u", chunk);
        sim->place[chunk] = sim->ahead[chunk] ? READY : MAPPED;
        if (sim->ahead[chunk] && !sim->arrives_early)
            shim_policy_arrives(sim->policy, chunk);
    }
}

static void leave(struct sim *sim, uint32_t chunk)
{
    must(sim->place[chunk] >= READY, "victim %u is not in memory", chunk);
    sim->count.victims++;
    sim->count.wasted += sim->ahead[chunk];
    sim->ahead[chunk] = 0;
    sim->count.writes += sim->dirty[chunk];
    sim->dirty[chunk] = 0;
    sim->place[chunk] = SWAPPED;
    sim->n_resident--;
    shim_policy_left(sim->policy, chunk, true);
}

static uint32_t victim(struct sim *sim)
{
    uint32_t chunk = shim_policy_victim(sim->policy);
    if (chunk == SHIM_NO_CHUNK)
        return chunk;
    must(chunk < sim->n_chunks, "victim %u is no chunk", chunk);
    must(!sim->named[chunk], "victim %u is named twice", chunk);
    if (sim->place[chunk] >= READY)
        return chunk;
    must(sim->place[chunk] == LOADING || chunk == sim->touched, "victim %u is not in memory", chunk);
    shim_policy_keep(sim->policy, chunk);
    return sim->n_chunks;
}

/* Named in advance, so that they can be written before their room is needed; mapped ones are used unseen meanwhile. */
static void name_in_advance(struct sim *sim)
{
    for (uint32_t tries = 0; sim->n_named < sim->in_advance && tries < 2 * sim->in_advance; tries++) {
        if (sim->n_resident + sim->in_advance < sim->memory)
            return;
        uint32_t chunk = victim(sim);
        if (chunk == SHIM_NO_CHUNK)
            return;
        if (chunk == sim->n_chunks)
            continue;
        sim->named[chunk] = 1;
        sim->n_named++;
        sim->advance[(sim->advance_first + sim->n_advance++) % (2 * sim->n_chunks)] = chunk;
    }
}

static void unname(struct sim *sim, uint32_t chunk)
{
    sim->n_named -= sim->named[chunk];
    sim->named[chunk] = 0;
}

static bool leave_named(struct sim *sim)
{
    while (sim->n_advance) {
        uint32_t chunk = sim->advance[sim->advance_first];
        sim->advance_first = (sim->advance_first + 1) % (2 * sim->n_chunks);
        sim->n_advance--;
        if (!sim->named[chunk])
            continue;
        unname(sim, chunk);
        leave(sim, chunk);
        return true;
    }
    return false;
}

/* Room for one chunk, if something can leave for it. */
static bool make_room(struct sim *sim)
{
    while (sim->n_resident >= sim->memory) {
        if (leave_named(sim))
            continue;
        uint32_t chunk = victim(sim);
        if (chunk == SHIM_NO_CHUNK) {
            /* All that is in memory is on its way there. */
            must(sim->n_loading == sim->n_resident, "no victim, with %u in memory", sim->n_resident - sim->n_loading);
            return false;
        }
        if (chunk != sim->n_chunks)
            leave(sim, chunk);
    }
    return true;
}

static void load_begins(struct sim *sim, uint32_t chunk, uint64_t time, bool ahead)
{
    if (sim->disk_free < time)
        sim->disk_free = time;
    sim->ready[chunk] = sim->disk_free + T_LOAD;
    sim->disk_free += T_DISK;
    sim->place[chunk] = LOADING;
    sim->ahead[chunk] = ahead;
    sim->loading[(sim->loading_first + sim->n_loading++) % sim->n_chunks] = chunk;
    sim->n_resident++;
    sim->count.loads++;
    if (ahead && sim->arrives_early)
        shim_policy_arrives(sim->policy, chunk);
}

static bool wanted(void *user, uint32_t chunk)
{
    const struct sim *sim = user;
    must(chunk < sim->n_chunks, "%u is no chunk", chunk);
    return sim->place[chunk] == SWAPPED;
}

static void after_touch(struct sim *sim, uint32_t thread, uint32_t chunk, uint64_t time)
{
    static uint32_t list[AHEAD_ROOM];
    size_t n = shim_policy_read_ahead(sim->policy, thread, chunk, wanted, sim, list, AHEAD_ROOM);
    must(n <= AHEAD_ROOM, "%zu asked for of at most %d", n, AHEAD_ROOM);
    for (size_t i = 0; i < n; i++) {
        must(sim->place[list[i]] == SWAPPED, "%u is asked for, and not in swap", list[i]);
        if (make_room(sim))
            load_begins(sim, list[i], time, true);
    }
    for (;;) {
        uint32_t probe = shim_policy_probe(sim->policy);
        if (probe == SHIM_NO_CHUNK)
            return;
        must(sim->place[probe] >= LOADING, "probe %u is not in memory", probe);
        sim->count.probes++;
        must(!sim->named[probe], "probe %u is named to leave", probe);
        if (sim->place[probe] == LOADING)
            shim_policy_keep(sim->policy, probe);
        else
            sim->place[probe] = READY;
    }
}

static void trace_note(struct sim *sim, uint32_t chunk)
{
    if (sim->n_trace == sim->room_trace) {
        sim->room_trace *= 2;
        sim->trace = realloc(sim->trace, sim->room_trace * sizeof *sim->trace);
        must(sim->trace, "out of memory");
    }
    sim->trace[sim->n_trace++] = chunk;
}

void sim_access(struct sim *sim, uint32_t thread, uint32_t chunk)
{
    uint64_t *clock = &sim->clock[thread];
    *clock += T_USE;
    sim->count.accesses++;
    if (sim->trace)
        trace_note(sim, chunk);
    loads_end(sim, *clock);
    enum place place = sim->place[chunk];
    if (place == MAPPED)
        return;
    sim->count.faults++;
    *clock += T_FAULT;
    sim->touched = chunk;
    unname(sim, chunk);
    sim->count.soon += place == READY && sim->ahead[chunk];
    sim->count.late += place == LOADING && sim->ahead[chunk];
    sim->count.missed += place == SWAPPED;
    sim->ahead[chunk] = 0;
    shim_policy_touch(sim->policy, chunk, thread, place != READY, place == ZERO);
    if (place == READY) {
        uint32_t ready = 1;
        while (chunk + ready < sim->n_chunks && sim->place[chunk + ready] == READY && sim->ahead[chunk + ready])
            ready++;
        uint32_t run = shim_policy_map_run(sim->policy, thread, chunk, ready);
        must(run >= 1 && run <= ready, "%u to be mapped of %u", run, ready);
        for (uint32_t i = 0; i < run; i++) {
            sim->place[chunk + i] = MAPPED;
            sim->count.soon += i > 0;
            sim->ahead[chunk + i] = 0;
        }
    } else {
        if (place != LOADING && make_room(sim)) {
            if (place == ZERO) {
                sim->place[chunk] = MAPPED;
                sim->count.fresh++;
                sim->n_resident++;
            } else {
                load_begins(sim, chunk, *clock, false);
            }
        }
        if (sim->place[chunk] == LOADING)
            *clock = sim->ready[chunk] > *clock ? sim->ready[chunk] : *clock;
    }
    after_touch(sim, thread, chunk, *clock);
    name_in_advance(sim);
}

void sim_write(struct sim *sim, uint32_t thread, uint32_t chunk)
{
    bool unseen = sim->place[chunk] == MAPPED && sim->dirty[chunk];
    sim_access(sim, thread, chunk);
    if (unseen)
        return;
    if (sim->place[chunk] == MAPPED && !sim->dirty[chunk]) { /* it was mapped to be read */
        unname(sim, chunk);
        shim_policy_touch(sim->policy, chunk, thread, false, false);
    }
    sim->dirty[chunk] = 1;
    shim_policy_written(sim->policy, chunk);
}

void sim_discard(struct sim *sim, uint32_t chunk)
{
    if (sim->place[chunk] == LOADING)
        return;
    sim->n_resident -= sim->place[chunk] >= LOADING;
    unname(sim, chunk);
    sim->place[chunk] = ZERO;
    sim->ahead[chunk] = 0;
    shim_policy_left(sim->policy, chunk, false);
}

/* The engine */

void cache_open(struct cache *cache, struct sim *sim, uint32_t n_tensors, uint32_t n_slots, uint32_t per_slot)
{
    *cache = (struct cache){.sim = sim, .n_tensors = n_tensors, .n_slots = n_slots, .per_slot = per_slot};
}

static uint32_t cache_chunk(const struct cache *cache, uint32_t tensor, uint32_t slot, uint32_t i)
{
    return (tensor * cache->n_slots + slot) * cache->per_slot + i;
}

/* Reads [from, to) by one thread each chunk in turn, whoever's clock is behind going on. */
static void read_tensors(struct cache *cache, uint32_t tensor, uint32_t n, uint32_t slot)
{
    struct sim *sim = cache->sim;
    uint32_t length = cache->length[slot];
    uint32_t at[64] = {0}, end[64] = {0};
    for (uint32_t t = 0; t < sim->n_threads; t++) {
        at[t] = cache->together ? 0 : (uint32_t)((uint64_t)length * t / sim->n_threads);
        end[t] = cache->together ? length : (uint32_t)((uint64_t)length * (t + 1) / sim->n_threads);
    }
    for (;;) {
        uint32_t who = UINT32_MAX;
        for (uint32_t t = 0; t < sim->n_threads; t++) {
            if (at[t] < end[t] && (who == UINT32_MAX || sim->clock[t] < sim->clock[who]))
                who = t;
        }
        if (who == UINT32_MAX)
            break;
        for (uint32_t i = 0; i < n; i++)
            sim_access(sim, who, cache_chunk(cache, tensor + i, slot, at[who]));
        at[who]++;
    }
    sim_barrier(sim);
}

void cache_decode(struct cache *cache, uint32_t slot)
{
    uint32_t n = cache->k_with_v ? 2 : 1;
    for (uint32_t tensor = 0; tensor < cache->n_tensors; tensor += n) {
        for (uint32_t i = 0; i < n && cache->writes; i++)
            sim_write(cache->sim, 0, cache_chunk(cache, tensor + i, slot, cache->length[slot] - 1));
        read_tensors(cache, tensor, n, slot);
    }
}

void cache_prefill(struct cache *cache, uint32_t slot, uint32_t chunks)
{
    uint32_t n = cache->k_with_v ? 2 : 1;
    for (uint32_t i = 0; i < chunks; i++) {
        cache->length[slot]++;
        must(cache->length[slot] <= cache->per_slot, "slot %u is full", slot);
        for (uint32_t tensor = 0; tensor < cache->n_tensors; tensor += n) {
            for (uint32_t j = 0; j < n; j++)
                sim_access(cache->sim, 0, cache_chunk(cache, tensor + j, slot, cache->length[slot] - 1));
            read_tensors(cache, tensor, n, slot);
        }
    }
}
