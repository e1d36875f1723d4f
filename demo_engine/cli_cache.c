/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>

#include "cli.h"
#include "device_choice.h"
#include "progress.h"
#include "size_text.h"

enum {
    KEY_DEVICE = 512,
    KEY_DEVICE_MEMORY,
    KEY_HOST,
    KEY_SWAP_DIR,
    KEY_SWAP_SIZE,
    KEY_FRAME,
    KEY_LAYOUT,
    KEY_KV_TYPE,
    KEY_POLICY
};

#define MIN_FRAME (64u << 10)
#define MAX_FRAME (2u << 20)

static const struct argp_option OPTIONS[] = {
    {"device", KEY_DEVICE, "NAME", 0,
     "Where the model runs and its cache lives: host (default), cuda:N (cuda is cuda:0), or auto: a GPU if there is "
     "one "
     "that can be used",
     20},
    {"device-memory", KEY_DEVICE_MEMORY, "SIZE", 0,
     "Most device memory that the cache may hold; the default is what all conversations need at their full length", 20},
    {"host-memory", KEY_HOST, "SIZE", 0, "Host memory that cold parts of the cache move to; none by default", 20},
    {"swap-dir", KEY_SWAP_DIR, "DIR", 0,
     "Directory for a private file that cold parts of the cache move to when host memory is full; none by default", 20},
    {"swap-size", KEY_SWAP_SIZE, "SIZE", 0, "Most that the swap file may grow to; default: while the disk has room",
     20},
    {"frame", KEY_FRAME, "SIZE", 0,
     "Unit in which memory is mapped and moved: a power of two, 64KiB to 2MiB; the default is the largest of which the "
     "device memory holds 64, and 2MiB on a GPU",
     20},
    {"layout", KEY_LAYOUT, "NAME", 0, "page-major (default), token-major or layer-major", 20},
    {"kv-type", KEY_KV_TYPE, "TYPE", 0, "Elements of K and V: f16 (default), bf16 or f32", 20},
    {"policy", KEY_POLICY, "NAME", 0, "Who leaves the device first: lru (default) or clock", 20},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    static const char *const layouts[] = {"page-major", "token-major", "layer-major", NULL};
    static const char *const types[] = {"f16", "bf16", "f32", NULL};
    static const char *const policies[] = {"lru", "clock", NULL};
    struct engine_cache_config *c = &((struct cli_cache_options *)state->input)->config;
    switch (key) {
    case KEY_DEVICE:
        c->device = arg;
        return 0;
    case KEY_DEVICE_MEMORY:
        c->device_memory = cli_size("--device-memory", arg);
        if (c->device_memory == 0)
            cli_usage_error("--device-memory %s leaves no room for a conversation", arg);
        return 0;
    case KEY_HOST:
        c->host_memory = cli_size("--host-memory", arg);
        return 0;
    case KEY_SWAP_DIR:
        c->swap_dir = arg;
        return 0;
    case KEY_SWAP_SIZE:
        c->swap_bytes = cli_size("--swap-size", arg);
        if (c->swap_bytes == 0)
            cli_usage_error("--swap-size %s leaves no room for anything", arg);
        return 0;
    case KEY_FRAME:
        c->frame_bytes = cli_size("--frame", arg);
        if (c->frame_bytes < MIN_FRAME || c->frame_bytes > MAX_FRAME || (c->frame_bytes & (c->frame_bytes - 1)))
            cli_usage_error("--frame %s is not a power of two from 64KiB to 2MiB", arg);
        return 0;
    case KEY_LAYOUT:
        c->layout = (enum kvmm_layout_kind)cli_word("--layout", arg, layouts);
        return 0;
    case KEY_KV_TYPE:
        c->kv_type = (enum kvmm_dtype)cli_word("--kv-type", arg, types);
        return 0;
    case KEY_POLICY:
        c->policy = policies[cli_word("--policy", arg, policies)];
        return 0;
    case ARGP_KEY_END:
        if (c->swap_bytes && !c->swap_dir)
            cli_usage_error("--swap-size needs a --swap-dir");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp cli_cache_argp = {.options = OPTIONS, .parser = parse};

void cli_cache_options_init(struct cli_cache_options *options)
{
    engine_cache_config_init(&options->config);
}

/* What conversations need on the device: all together, and the largest of them alone. */
struct need {
    uint64_t all, largest;
    uint32_t largest_tokens;
};

static struct need needed(const struct kvmm_geometry *g, size_t frame, const uint32_t *max_tokens, uint32_t n)
{
    struct need need = {0};
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bytes = kvmm_geometry_bytes(g, frame, max_tokens[i]);
        need.all += bytes;
        if (bytes > need.largest) {
            need.largest = bytes;
            need.largest_tokens = max_tokens[i];
        }
    }
    return need;
}

static int check_budgets(const struct engine_cache_config *c, const struct need *need, uint32_t n,
                         struct engine_error *err)
{
    char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX], frame[SIZE_TEXT_MAX];
    const uint64_t device = c->device_memory / c->frame_bytes * c->frame_bytes;
    if (need->largest > device)
        return engine_fail(err,
                           "--device-memory: a conversation of %u tokens needs %s (%" PRIu64
                           " bytes, in frames of %s), the budget is %s",
                           need->largest_tokens, size_format(need->largest, a), need->largest,
                           size_format(c->frame_bytes, frame), size_format(device, b));
    if (need->all <= device || (c->swap_dir && c->swap_bytes == 0))
        return 0;
    const uint64_t host = c->host_memory / c->frame_bytes * c->frame_bytes;
    const uint64_t swap = c->swap_dir ? c->swap_bytes / c->frame_bytes * c->frame_bytes : 0;
    if (need->all - device > host + swap)
        return engine_fail(err,
                           "%u conversations need %s in all; device, host and swap budgets have room for %s: raise "
                           "--device-memory or --host-memory, or add a --swap-dir",
                           n, size_format(need->all, a), size_format(device + host + swap, b));
    return 0;
}

int cli_choose_device(struct engine_cache_config *config, struct engine_error *err)
{
    struct device_choice choice;
    int rc = device_choose(config->device, &choice, err);
    if (rc != 0)
        return rc;
    if (choice.reason.text[0])
        (void)fprintf(stderr, "kvmm-engine: --device %s takes the host: %s\n", config->device, choice.reason.text);
    if (!device_is_cuda(&choice)) {
        config->device = "host";
        return 0;
    }
    if (config->frame_bytes && config->frame_bytes % ENGINE_CUDA_FRAME != 0)
        return engine_fail(err, "--frame: frames of %s are 2 MiB", choice.name);
    config->frame_bytes = ENGINE_CUDA_FRAME;
    return 0;
}

int cli_open_cache(struct engine *engine, const struct cli_cache_options *options, const uint32_t *max_tokens,
                   uint32_t n, struct engine_error *err)
{
    struct engine_cache_config c = options->config;
    int rc = cli_choose_device(&c, err);
    if (rc != 0)
        return rc;
    struct kvmm_geometry g;
    engine_geometry(engine, c.layout, c.kv_type, &g);
    if (c.frame_bytes == 0)
        c.frame_bytes =
            engine_frame_bytes(c.device_memory ? c.device_memory : needed(&g, MIN_FRAME, max_tokens, n).all);
    const struct need need = needed(&g, c.frame_bytes, max_tokens, n);
    if (c.device_memory == 0)
        c.device_memory = need.all;
    rc = check_budgets(&c, &need, n, err);
    if (rc != 0)
        return rc;
    struct progress bar;
    progress_begin(&bar, "uploading the weights", "MiB");
    c.on_upload = progress_update;
    c.upload_user = &bar;
    rc = engine_open_cache(engine, &c, err);
    progress_end(&bar);
    return rc;
}
