/* SPDX-License-Identifier: Apache-2.0
 *
 * Handles are numbers, 16 apart, that are looked up in a table: a handle that was given back, or never given out, is found
 * to be so without a look at freed memory. */
#include "tests/simcuda/sim.h"

#define N_BUCKETS 1024
/* Above zero page and the small handles (stream 1 and 2), and no address of anything. */
#define FIRST_ID 0x51c0000000u

static struct sim_object *buckets[N_BUCKETS]; /* under sim.lock */
static uint64_t next_id = FIRST_ID;

static struct sim_object **bucket(uint64_t id)
{
    return &buckets[id / 16 % N_BUCKETS];
}

static const char *kind_name(enum sim_kind kind)
{
    static const char *const names[] = {"nothing", "context",  "stream", "event",           "memory handle",
                                        "module",  "function", "graph",  "executable graph"};
    return names[kind];
}

void sim_object_add(struct sim_object *object, enum sim_kind kind, uint64_t context)
{
    object->kind = kind;
    object->context = context;
    object->id = next_id;
    next_id += 16;
    object->next = *bucket(object->id);
    *bucket(object->id) = object;
}

void sim_object_remove(struct sim_object *object)
{
    struct sim_object **at = bucket(object->id);
    while (*at != object)
        at = &(*at)->next;
    *at = object->next;
}

CUresult sim_object_find(enum sim_kind kind, uint64_t id, struct sim_object **object)
{
    struct sim_object *at = *bucket(id);
    while (at && at->id != id)
        at = at->next;
    if (!at || at->kind != kind) {
        if (id)
            sim_violation("%s %#llx %s", kind_name(kind), (unsigned long long)id,
                          at                                               ? "is something else"
                          : id >= FIRST_ID && id < next_id && id % 16 == 0 ? "was destroyed before"
                                                                           : "never existed");
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (at->context && !sim_context_alive(at->context)) {
        sim_violation("%s %#llx went with its context", kind_name(kind), (unsigned long long)id);
        return SIM_ERROR_CONTEXT_IS_DESTROYED;
    }
    *object = at;
    return CUDA_SUCCESS;
}

void sim_object_each(enum sim_kind kind, void (*visit)(struct sim_object *object, void *user), void *user)
{
    for (size_t i = 0; i < N_BUCKETS; i++) {
        for (struct sim_object *at = buckets[i], *next; at; at = next) {
            next = at->next; /* visit may remove it */
            if (at->kind == kind)
                visit(at, user);
        }
    }
}
