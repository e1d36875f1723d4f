/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine: a model, its tokenizer, threads, and a kvmm that holds the conversations' caches. Opened in two strides,
 * because what the cache must hold is known when the prompts have been tokenised.
 *
 * For one thread at a time. Results: enum engine_status, with one line in err. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <kvmm/kvmm.h>

#include "model.h"
#include "status.h"
#include "tokenizer.h"

struct conversation;
struct engine;

struct engine_config {
    const char *model_path;
    uint32_t n_threads; /* 0: as many as there are CPUs for this process */
    uint32_t chunk;     /* most tokens of a step, 1 … ENGINE_MAX_CHUNK; default 512 */
};
#define ENGINE_MAX_CHUNK 65536

/* For progress bars: done of total tokens, or MiB of weights. */
typedef void (*engine_progress)(void *user, uint64_t done, uint64_t total);

struct engine_cache_config {
    const char *device;     /* "host" (default), "cuda", "cuda:N", "auto": see device_choice.h; passes run there too */
    uint64_t device_memory; /* of the cache; ≥ 1 frame */
    uint64_t host_memory;   /* 0: none */
    const char *swap_dir;   /* NULL: none */
    uint64_t swap_bytes;    /* 0: no limit but the file system's */
    size_t frame_bytes;     /* 0: engine_frame_bytes(device_memory), or ENGINE_CUDA_FRAME */
    enum kvmm_layout_kind layout;
    enum kvmm_dtype kv_type;
    const char *policy; /* "lru" or "clock" */
    void (*log)(void *user, enum kvmm_log_level level, const char *line);
    void *user;
    engine_progress on_upload; /* NULL, or told of the upload of the weights to a GPU */
    void *upload_user;
};
#define ENGINE_CUDA_FRAME (2u << 20) /* the granularity of all GPUs so far */

/* Numbers since open. */
struct engine_stats {
    uint64_t prefill_tokens, prefill_ns;
    uint64_t decode_tokens, decode_ns;
    uint64_t recomputed_tokens; /* of both: computed once more, because their K and V were lost in a spill tier */
    uint64_t data_losses;       /* times that happened */
    uint64_t captures, replays; /* CUDA graphs: captured, and passes that were replays of one */
};

void engine_config_init(struct engine_config *config);
void engine_cache_config_init(struct engine_cache_config *config);

int engine_open(const struct engine_config *config, struct engine **engine, struct engine_error *err);
void engine_close(struct engine **engine); /* sets NULL; NULL is ignored. Precondition: no conversation is open */

const struct model *engine_model(const struct engine *engine);
const struct tokenizer *engine_tokenizer(const struct engine *engine);
void engine_get_stats(const struct engine *engine, struct engine_stats *stats);

/* The largest power of two, from 64 KiB to 2 MiB, of which `bytes` holds 64: large frames cost few mappings, but a
 * budget of few frames pages coarsely. */
size_t engine_frame_bytes(uint64_t bytes);

/* The shape of a token's K and V with this layout and type. */
void engine_geometry(const struct engine *engine, enum kvmm_layout_kind layout, enum kvmm_dtype kv_type,
                     struct kvmm_geometry *geometry);

/* Opens the cache, and on a GPU uploads the weights; once. "auto" that is the host says why by log, as a warning. */
int engine_open_cache(struct engine *engine, const struct engine_cache_config *config, struct engine_error *err);
kvmm *engine_kvmm(const struct engine *engine); /* NULL before engine_open_cache() */

/* Which of the two sums in engine_stats a run counts for. */
enum engine_phase { ENGINE_PREFILL, ENGINE_DECODE };

/* Computes what is pending in these conversations, in steps of at most `chunk` tokens, as many conversations in a step
 * as the device budget holds at once; each has logits afterwards. A conversation whose cache lost data is cut to what
 * is left and computed from its tokens again. progress may be NULL.
 * On failure each conversation keeps its tokens; what was not computed is still pending. */
int engine_run(struct engine *engine, struct conversation *const *conversations, uint32_t n, enum engine_phase phase,
               engine_progress progress, void *user, struct engine_error *err);

#endif
