/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/map_json.h"

static json_t *number(uint64_t value)
{
    return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

static json_t *tier(const struct pagemap_snapshot *snap, enum vmm_counter used, enum vmm_counter capacity)
{
    return json_pack("{s:o, s:o}", "used_bytes", number(snap->counters[used]), "capacity_bytes",
                     number(snap->counters[capacity]));
}

json_t *map_json_summary(pid_t pid, const struct pagemap_snapshot *snap)
{
    uint64_t up_ns = snap->taken_ns > snap->opened_ns ? snap->taken_ns - snap->opened_ns : 0;
    return json_pack("{s:i, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "pid", (int)pid, "name", snap->name,
                     "device", snap->device, "swap_backend", snap->swap_backend, "opened_realtime_ns",
                     number(snap->opened_ns), "up_ns", number(up_ns), "sequences_total",
                     number(snap->counters[VMM_COUNT_SEQUENCES]), "device_memory",
                     tier(snap, VMM_COUNT_DEVICE_USED, VMM_COUNT_DEVICE_CAPACITY), "host_memory",
                     tier(snap, VMM_COUNT_HOST_USED, VMM_COUNT_HOST_CAPACITY), "nvme",
                     tier(snap, VMM_COUNT_NVME_USED, VMM_COUNT_NVME_CAPACITY));
}

static const struct {
    const char *name;
    enum vmm_counter counter;
} counter_names[] = {
    {"steps", VMM_COUNT_STEPS},
    {"steps_waited", VMM_COUNT_STEPS_WAITED},
    {"wait_ns", VMM_COUNT_WAIT_NS},
    {"frames_hit", VMM_COUNT_FRAMES_HIT},
    {"frames_from_host", VMM_COUNT_FRAMES_FROM_HOST},
    {"frames_from_nvme", VMM_COUNT_FRAMES_FROM_NVME},
    {"frames_new", VMM_COUNT_FRAMES_NEW},
    {"bytes_to_host", VMM_COUNT_BYTES_TO_HOST},
    {"bytes_to_nvme", VMM_COUNT_BYTES_TO_NVME},
    {"bytes_from_host", VMM_COUNT_BYTES_FROM_HOST},
    {"bytes_from_nvme", VMM_COUNT_BYTES_FROM_NVME},
    {"bytes_dropped_clean", VMM_COUNT_BYTES_DROPPED_CLEAN},
    {"frames_lost", VMM_COUNT_FRAMES_LOST},
};

static json_t *counters(const struct pagemap_snapshot *snap)
{
    json_t *object = json_object();
    for (size_t i = 0; object && i < sizeof counter_names / sizeof counter_names[0]; i++) {
        if (json_object_set_new(object, counter_names[i].name, number(snap->counters[counter_names[i].counter]))) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *geometry(const struct pagemap_snapshot *snap)
{
    static const char *const dtypes[] = {"f16", "bf16", "f32"};
    static const char *const layouts[] = {"page-major", "token-major", "layer-major"};
    const struct kvmm_geometry *g = &snap->geometry;
    return json_pack("{s:I, s:I, s:I, s:s, s:s, s:I, s:I, s:I, s:o, s:o}", "layers", (json_int_t)g->n_layers,
                     "kv_heads", (json_int_t)g->n_kv_heads, "head_elements", (json_int_t)g->head_dim, "dtype",
                     (unsigned)g->dtype < 3 ? dtypes[g->dtype] : "unknown", "layout",
                     (unsigned)g->layout < 3 ? layouts[g->layout] : "unknown", "layers_per_group",
                     (json_int_t)g->layers_per_group, "groups", (json_int_t)snap->n_groups, "page_tokens",
                     (json_int_t)g->page_tokens, "page_bytes", number(snap->page_stride * snap->n_groups),
                     "frame_bytes", number(snap->frame_bytes));
}

static json_t *frames_by_state(const struct pagemap_seq *seq)
{
    json_t *object = json_object();
    for (int state = 0; object && state < PAGEMAP_N_STATES; state++) {
        if (seq->frames_in[state] == 0)
            continue;
        if (json_object_set_new(object, pagemap_state_name((enum pagemap_state)state), number(seq->frames_in[state]))) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *page_runs(const struct pagemap_seq *seq)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < seq->n_runs; i++) {
        json_t *run = json_pack("{s:s, s:o}", "state", pagemap_state_name(seq->runs[i].state), "pages",
                                number(seq->runs[i].n_pages));
        if (json_array_append_new(array, run)) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *sequence(const struct pagemap_seq *seq)
{
    if (seq->status == PAGEMAP_ROW_TORN)
        return json_pack("{s:s, s:I}", "status", "torn", "row", (json_int_t)seq->row);
    if (seq->status == PAGEMAP_ROW_REFUSED)
        return json_pack("{s:s, s:I, s:o, s:s}", "status", "refused", "row", (json_int_t)seq->row, "id",
                         number(seq->id), "reason", seq->reason);
    return json_pack("{s:s, s:o, s:I, s:I, s:I, s:b, s:o, s:o, s:o}", "status", "ok", "id", number(seq->id),
                     "length_tokens", (json_int_t)seq->length, "max_tokens", (json_int_t)seq->max_tokens, "pins",
                     (json_int_t)seq->pins, "in_step", (int)seq->in_step, "frames", frames_by_state(seq), "pages_total",
                     number(seq->n_pages), "pages", page_runs(seq));
}

static json_t *sequences(const struct pagemap_snapshot *snap, const uint64_t *only)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < snap->n_seqs; i++) {
        const struct pagemap_seq *seq = &snap->seqs[i];
        if (only && (seq->status != PAGEMAP_ROW_OK || seq->id != *only))
            continue;
        if (json_array_append_new(array, sequence(seq))) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

json_t *map_json_snapshot(pid_t pid, const struct pagemap_snapshot *snap, const uint64_t *seq)
{
    json_t *object = map_json_summary(pid, snap);
    if (!object)
        return NULL;
    json_t *rest = json_pack("{s:o, s:o, s:o, s:o, s:o}", "taken_realtime_ns", number(snap->taken_ns), "geometry",
                             geometry(snap), "counters", counters(snap), "sequences_hidden", number(snap->n_hidden),
                             "sequences", sequences(snap, seq));
    if (!rest || json_object_update(object, rest)) {
        json_decref(object);
        object = NULL;
    }
    json_decref(rest);
    return object;
}
