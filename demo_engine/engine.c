/* SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

#include "device_choice.h"
#include "engine_state.h"
#include "forward_cpu.h"
#include "forward_cuda.h"

#define MIN_FRAME        (64u << 10)
#define MAX_FRAME        (2u << 20)
#define FRAMES_IN_BUDGET 64

void engine_config_init(struct engine_config *config)
{
    *config = (struct engine_config){.chunk = 512};
}

void engine_cache_config_init(struct engine_cache_config *config)
{
    *config =
        (struct engine_cache_config){.device = "host", .layout = KVMM_PAGE_MAJOR, .kv_type = KVMM_F16, .policy = "lru"};
}

int engine_open(const struct engine_config *config, struct engine **engine, struct engine_error *err)
{
    if (config->chunk < 1 || config->chunk > ENGINE_MAX_CHUNK)
        return engine_fail(err, "a chunk of %u tokens is not 1 to %u", config->chunk, ENGINE_MAX_CHUNK);
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return engine_broke(err, "out of memory");
    e->chunk = config->chunk;
    int rc = model_open(config->model_path, &e->model, err);
    if (rc == 0)
        rc = tokenizer_open(e->model->file, &e->tokenizer, err);
    if (rc == 0 && tokenizer_n_vocab(e->tokenizer) != e->model->n_vocab)
        rc = engine_fail(err, "%s: the tokenizer has %u tokens, the embedding %u", config->model_path,
                         tokenizer_n_vocab(e->tokenizer), e->model->n_vocab);
    int pool_rc = rc == 0 ? kern_pool_open(config->n_threads, &e->pool) : 0;
    if (pool_rc != 0)
        rc = engine_broke(err, "can't start %u threads: %s", config->n_threads, strerror(-pool_rc));
    if (rc != 0) {
        engine_close(&e);
        return rc;
    }
    *engine = e;
    return 0;
}

void engine_close(struct engine **engine)
{
    if (!engine || !*engine)
        return;
    struct engine *e = *engine;
    (void)kvmm_close(&e->mm); /* no step is open between calls */
    forward_close(&e->forward);
    kern_pool_close(&e->pool);
    tokenizer_close(&e->tokenizer);
    model_close(&e->model);
    free(e->parts);
    free(e->wants);
    free(e->items);
    free(e);
    *engine = NULL;
}

const struct model *engine_model(const struct engine *engine)
{
    return engine->model;
}

const struct tokenizer *engine_tokenizer(const struct engine *engine)
{
    return engine->tokenizer;
}

kvmm *engine_kvmm(const struct engine *engine)
{
    return engine->mm;
}

void engine_get_stats(const struct engine *engine, struct engine_stats *stats)
{
    *stats = engine->stats;
    if (engine->forward) {
        stats->captures = engine->forward->n_captures;
        stats->replays = engine->forward->n_replays;
    }
}

size_t engine_frame_bytes(uint64_t bytes)
{
    size_t frame = MAX_FRAME;
    while (frame > MIN_FRAME && bytes / frame < FRAMES_IN_BUDGET)
        frame /= 2;
    return frame;
}

void engine_geometry(const struct engine *engine, enum kvmm_layout_kind layout, enum kvmm_dtype kv_type,
                     struct kvmm_geometry *geometry)
{
    struct kvmm_config defaults;
    kvmm_config_init(&defaults);
    *geometry = defaults.geometry;
    geometry->n_layers = engine->model->n_layers;
    geometry->n_kv_heads = engine->model->n_kv_heads;
    geometry->head_dim = engine->model->head_dim;
    geometry->dtype = kv_type;
    geometry->layout = layout;
}

int engine_kvmm_failure(int status, const char *what, struct engine_error *err)
{
    switch (status) {
    case KVMM_ERR_INVALID:
    case KVMM_ERR_RANGE_FULL:
    case KVMM_ERR_UNSUPPORTED:
    case KVMM_ERR_NO_DEVICE_MEMORY:
    case KVMM_ERR_SWAP:
        return engine_fail(err, "%s: %s", what, kvmm_errmsg());
    default:
        return engine_broke(err, "%s: %s", what, kvmm_errmsg());
    }
}

static int fill_kvmm_config(const struct engine *e, const struct engine_cache_config *config,
                            const struct device_choice *device, struct kvmm_config *k, struct engine_error *err)
{
    const size_t frame = device_is_cuda(device) ? ENGINE_CUDA_FRAME : engine_frame_bytes(config->device_memory);
    kvmm_config_init(k);
    engine_geometry(e, config->layout, config->kv_type, &k->geometry);
    k->device = device->name;
    k->device_memory = config->device_memory;
    k->frame_bytes = config->frame_bytes ? config->frame_bytes : frame;
    if (k->device_memory < k->frame_bytes) /* 0 would mean "what is free" to kvmm */
        return engine_fail(err, "device memory of %llu bytes is less than a frame of %zu bytes",
                           (unsigned long long)k->device_memory, k->frame_bytes);
    k->host_memory = config->host_memory;
    k->swap_dir = config->swap_dir;
    k->swap_bytes = config->swap_bytes;
    k->policy = config->policy;
    k->log = config->log;
    k->user = config->user;
    return 0;
}

static int open_forward(struct engine *e, const struct engine_cache_config *config, const struct device_choice *device,
                        struct engine_error *err)
{
    if (!device_is_cuda(device))
        return forward_cpu_open(e->model, e->pool, config->kv_type, e->chunk, &e->forward, err);
    return forward_cuda_open(e->model, e->pool, device->ordinal, config->kv_type, e->chunk, config->on_upload,
                             config->upload_user, &e->forward, err);
}

int engine_open_cache(struct engine *e, const struct engine_cache_config *config, struct engine_error *err)
{
    struct device_choice device;
    struct kvmm_config k;
    if (e->mm)
        return engine_fail(err, "the cache is open already");
    int rc = device_choose(config->device, &device, err);
    if (rc == 0)
        rc = fill_kvmm_config(e, config, &device, &k, err);
    if (rc != 0)
        return rc;
    if (device.reason.text[0] && config->log)
        config->log(config->user, KVMM_LOG_WARNING, device.reason.text);
    /* The cache first: it may refuse, and takes no memory yet, while the weights may take minutes. */
    rc = kvmm_open(&k, &e->mm);
    if (rc != KVMM_OK)
        return engine_kvmm_failure(rc, "the cache can't be opened", err);
    rc = open_forward(e, config, &device, err);
    if (rc != 0)
        (void)kvmm_close(&e->mm);
    return rc;
}
