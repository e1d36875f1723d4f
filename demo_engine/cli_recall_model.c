/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "recall_model.h"

enum { KEY_HEAD_DIM = 256, KEY_KV_HEADS, KEY_CONTEXT };

struct arguments {
    const char *path;
    struct recall_config config;
};

static const struct argp_option OPTIONS[] = {
    {"head-dim", KEY_HEAD_DIM, "N", 0, "64 (default) or 128 dimensions a head", 0},
    {"kv-heads", KEY_KV_HEADS, "N", 0, "1, 2 or 4 (default) KV heads: the same answers, a larger cache", 0},
    {"context", KEY_CONTEXT, "N", 0, "Tokens of context; default 131072", 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case KEY_HEAD_DIM:
        a->config.head_dim = cli_u32("--head-dim", arg, 1, UINT32_MAX);
        if (a->config.head_dim != 64 && a->config.head_dim != 128)
            cli_usage_error("--head-dim %s is not 64 or 128", arg);
        return 0;
    case KEY_KV_HEADS:
        a->config.n_kv_heads = cli_u32("--kv-heads", arg, 1, UINT32_MAX);
        if (a->config.n_kv_heads != 1 && a->config.n_kv_heads != 2 && a->config.n_kv_heads != 4)
            cli_usage_error("--kv-heads %s is not 1, 2 or 4", arg);
        return 0;
    case KEY_CONTEXT:
        a->config.context_length = cli_u32("--context", arg, 1, 1u << 30);
        return 0;
    case ARGP_KEY_ARG:
        if (a->path)
            cli_usage_error("\"%s\": one model file is enough", arg);
        a->path = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->path)
            cli_usage_error("make-recall-model: name the file to write, such as recall.gguf");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cli_make_recall_model(int argc, char **argv)
{
    const struct argp argp = {.options = OPTIONS,
                              .parser = parse,
                              .args_doc = "OUT.gguf",
                              .doc = "Writes a model that is constructed, not trained: given the first bytes of a "
                                     "passage that stands earlier in its context, it goes on with the passage."};
    struct arguments a = {0};
    struct engine_error err;
    recall_config_init(&a.config);
    cli_parse(&argp, argc, argv, &a);
    int rc = recall_model_write(a.path, &a.config, &err);
    return rc == 0 ? CLI_OK : cli_error(rc, &err);
}
