/* SPDX-License-Identifier: Apache-2.0
 *
 * The demonstration: documents become conversations, several times larger together than the device and host budgets;
 * then each is asked, again and again in turn, to quote passages of itself. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "conversation.h"
#include "passages.h"
#include "progress.h"
#include "prompts.h"
#include "recall_model.h"
#include "size_text.h"

enum { KEY_CHUNK = 256, KEY_THREADS, KEY_PASSAGES, KEY_ANSWER, KEY_FRACTION };

#define CUE_TOKENS   24
#define MAX_PASSAGES 64

struct arguments {
    struct engine_config engine;
    struct cli_cache_options cache;
    struct prompts documents;
    uint32_t n_passages;
    uint32_t n_answer;
    uint32_t fraction;
};

static const struct argp_option OPTIONS[] = {
    {"model", 'm', "FILE", 0, "A model of make-recall-model (required)", 1},
    {"passages", KEY_PASSAGES, "N", 0, "Passages asked of each document; default 3: beginning, middle, end", 1},
    {"answer", KEY_ANSWER, "N", 0, "Tokens that must be quoted of each passage; default 64", 1},
    {"fraction", KEY_FRACTION, "N", 0,
     "Without --device-memory and --host-memory each is 1/N of what the documents need; default 5", 1},
    {"chunk", KEY_CHUNK, "N", 0, "Most tokens computed in a step; default 512", 4},
    {"threads", KEY_THREADS, "N", 0, "Threads; default: one for each CPU", 4},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;
    struct engine_error err;
    int rc = 0;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->cache;
        return 0;
    case 'm':
        a->engine.model_path = arg;
        return 0;
    case KEY_PASSAGES:
        a->n_passages = cli_u32("--passages", arg, 1, MAX_PASSAGES);
        return 0;
    case KEY_ANSWER:
        a->n_answer = cli_u32("--answer", arg, 1, 4096);
        return 0;
    case KEY_FRACTION:
        a->fraction = cli_u32("--fraction", arg, 1, 1000);
        return 0;
    case KEY_CHUNK:
        a->engine.chunk = cli_u32("--chunk", arg, 1, ENGINE_MAX_CHUNK);
        return 0;
    case KEY_THREADS:
        a->engine.n_threads = cli_u32("--threads", arg, 1, 1024);
        return 0;
    case ARGP_KEY_ARG:
        rc = prompts_add_file(&a->documents, arg, &err);
        break;
    case ARGP_KEY_END:
        if (!a->engine.model_path)
            cli_usage_error("recall-demo: name a model with -m");
        if (a->documents.n == 0)
            cli_usage_error("recall-demo: name documents");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    if (rc != 0)
        exit(cli_error(rc, &err));
    return 0;
}

/* ---- a document and its conversation ---- */

struct document {
    const struct prompt *prompt;
    const char *name; /* without the directory */
    struct conversation *c;
    uint32_t length; /* tokens of the document in the conversation, BOS included */
    uint32_t lead;   /* of them in front of the text: BOS */
    struct passage passages[MAX_PASSAGES];
    uint32_t n_right, n_asked;
};

struct demo {
    const struct arguments *a;
    struct engine *engine;
    struct document *documents;
    uint32_t n;
    uint64_t n_tokens;
    uint64_t kv_bytes;
    double fill_seconds, ask_seconds;
    /* Sums over the returns of a conversation: its first step after the others had their turns. */
    uint64_t wait_ns, frames_hit, frames_from_host, frames_from_nvme;
    uint32_t n_returns;
};

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the page map: where each conversation is ---- */

#define BAR_WIDTH 40

/* Letters as in `kvmm map`: D device, H host, N NVMe. */
static void print_bar(const struct kvmm_seq_info *info)
{
    const uint64_t parts[] = {info->n_device, info->n_host, info->n_nvme, info->n_lost};
    const char letters[] = "DHNX";
    const char *const colours[] = {"\033[32m", "\033[33m", "\033[34m", "\033[31m"};
    bool colour = isatty(STDOUT_FILENO);
    uint64_t sum = 0, drawn = 0;
    for (int i = 0; i < 4; i++) {
        sum += parts[i];
        uint64_t to = info->n_frames ? (sum * BAR_WIDTH + info->n_frames / 2) / info->n_frames : 0;
        if (colour && to > drawn)
            (void)fputs(colours[i], stdout);
        for (; drawn < to; drawn++)
            (void)putchar(letters[i]);
        if (colour)
            (void)fputs("\033[0m", stdout);
    }
    for (; drawn < BAR_WIDTH; drawn++)
        (void)putchar('.');
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

static void print_map(const struct demo *demo, const char *title)
{
    (void)printf("\n%s (D device, H host memory, N NVMe)\n", title);
    for (uint32_t i = 0; i < demo->n; i++) {
        const struct document *d = &demo->documents[i];
        struct kvmm_seq_info info;
        kvmm_seq_get_info(conversation_seq(d->c), &info);
        (void)printf("  %-14.14s %6u tokens  ", d->name, info.length);
        print_bar(&info);
        (void)printf("  %3.0f%% %3.0f%% %3.0f%%\n", percent(info.n_device, info.n_frames),
                     percent(info.n_host, info.n_frames), percent(info.n_nvme, info.n_frames));
    }
    (void)fflush(stdout);
}

/* ---- filling in ---- */

struct fill_progress {
    struct progress bar;
    uint64_t before, total;
};

static void fill_update(void *user, uint64_t done, uint64_t total)
{
    struct fill_progress *fill = user;
    progress_update(&fill->bar, fill->before + done, fill->total);
}

static int fill_in(struct demo *demo, struct engine_error *err)
{
    struct fill_progress fill = {.total = demo->n_tokens};
    double start = now_seconds();
    progress_begin(&fill.bar, "filling in", "tokens");
    int rc = ENGINE_OK;
    for (uint32_t i = 0; i < demo->n && rc == ENGINE_OK; i++) {
        struct document *d = &demo->documents[i];
        rc = conversation_append(d->c, d->prompt->tokens, d->prompt->n_tokens, fill_update, &fill, err);
        fill.before += d->prompt->n_tokens;
    }
    progress_end(&fill.bar);
    demo->fill_seconds = now_seconds() - start;
    return rc;
}

/* ---- asking ---- */

static int ask(struct demo *demo, struct document *d, const struct passage *p, struct sampler *sampler,
               struct engine_error *err)
{
    const engine_token *text = d->prompt->tokens + d->lead;
    engine_token answer[4096];
    uint32_t n = 0;
    struct kvmm_stats before, after;
    kvmm_get_stats(engine_kvmm(demo->engine), &before);
    int rc = conversation_truncate(d->c, d->length, err);
    if (rc == ENGINE_OK)
        rc = conversation_append(d->c, text + p->start, p->n_cue, NULL, NULL, err);
    kvmm_get_stats(engine_kvmm(demo->engine), &after);
    demo->wait_ns += after.wait_ns - before.wait_ns;
    demo->frames_hit += after.frames_hit - before.frames_hit;
    demo->frames_from_host += after.frames_from_host - before.frames_from_host;
    demo->frames_from_nvme += after.frames_from_nvme - before.frames_from_nvme;
    demo->n_returns++;
    if (rc == ENGINE_OK)
        rc = conversation_generate(d->c, sampler, p->n_answer, answer, &n, NULL, NULL, err);
    if (rc != ENGINE_OK)
        return rc;
    bool right = n == p->n_answer && memcmp(answer, text + p->start + p->n_cue, n * sizeof *answer) == 0;
    d->n_asked++;
    d->n_right += right;
    return conversation_truncate(d->c, d->length, err);
}

static int ask_all(struct demo *demo, struct engine_error *err)
{
    const struct sampler_config greedy = {.top_p = 1.0f};
    struct sampler *sampler = NULL;
    struct progress bar;
    double start = now_seconds();
    int rc = sampler_open(&greedy, engine_model(demo->engine)->n_vocab, &sampler, err);
    progress_begin(&bar, "asking", "tokens");
    for (uint32_t k = 0; k < demo->a->n_passages && rc == ENGINE_OK; k++) {
        for (uint32_t i = 0; i < demo->n && rc == ENGINE_OK; i++) {
            rc = ask(demo, &demo->documents[i], &demo->documents[i].passages[k], sampler, err);
            progress_update(&bar, k * demo->n + i + 1, (uint64_t)demo->a->n_passages * demo->n);
        }
    }
    progress_end(&bar);
    sampler_close(&sampler);
    demo->ask_seconds = now_seconds() - start;
    return rc;
}

/* ---- the end ---- */

static void print_example(const struct document *d, const struct tokenizer *tok, const struct passage *p)
{
    (void)printf("\nFor example, %s was asked to go on from \"", d->name);
    for (uint32_t i = 0; i < p->n_cue + p->n_answer; i++) {
        char text[64];
        size_t len = tokenizer_decode(tok, d->prompt->tokens[d->lead + p->start + i], text, sizeof text);
        if (i == p->n_cue)
            (void)printf("\", and went on \"");
        for (size_t b = 0; b < len && len <= sizeof text; b++)
            (void)putchar(text[b] == '\n' ? ' ' : text[b]);
    }
    (void)printf("\".\n");
}

static void print_row(const char *what, const char *value)
{
    (void)printf("  %-34s %s\n", what, value);
}

static void print_table(const struct demo *demo)
{
    struct kvmm_stats s;
    struct engine_stats e;
    char line[160], a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX];
    uint32_t right = 0, asked = 0;
    for (uint32_t i = 0; i < demo->n; i++) {
        right += demo->documents[i].n_right;
        asked += demo->documents[i].n_asked;
    }
    kvmm_get_stats(engine_kvmm(demo->engine), &s);
    engine_get_stats(demo->engine, &e);
    uint64_t frames = demo->frames_hit + demo->frames_from_host + demo->frames_from_nvme;

    (void)printf("\nResult\n");
    (void)snprintf(line, sizeof line, "%u of %u", right, asked);
    print_row("passages right", line);
    (void)snprintf(line, sizeof line, "%" PRIu64 " in %.1f s: %.0f tokens/s", demo->n_tokens, demo->fill_seconds,
                   (double)demo->n_tokens / demo->fill_seconds);
    print_row("tokens filled in", line);
    (void)snprintf(line, sizeof line, "%" PRIu64 " in %.1f s: %.0f tokens/s while decoding", e.decode_tokens,
                   demo->ask_seconds, (double)e.decode_tokens / ((double)e.decode_ns * 1e-9));
    print_row("tokens quoted", line);
    (void)snprintf(line, sizeof line, "%.1f ms", 1e-6 * (double)demo->wait_ns / demo->n_returns);
    print_row("mean wait when one returns", line);
    (void)snprintf(line, sizeof line, "%s to host, %s to NVMe", size_format(s.bytes_to_host, a),
                   size_format(s.bytes_to_nvme, b));
    print_row("spilled", line);
    (void)snprintf(line, sizeof line, "%s from host, %s from NVMe", size_format(s.bytes_from_host, a),
                   size_format(s.bytes_from_nvme, b));
    print_row("fetched", line);
    (void)snprintf(line, sizeof line, "%.1f %% device, %.1f %% host, %.1f %% NVMe", percent(demo->frames_hit, frames),
                   percent(demo->frames_from_host, frames), percent(demo->frames_from_nvme, frames));
    print_row("hits when one returns", line);
    (void)snprintf(line, sizeof line, "%s; budgets: device %s, host %s", size_format(cli_status_bytes("VmHWM:"), a),
                   size_format(s.device_capacity, b), size_format(s.host_capacity, (char[SIZE_TEXT_MAX]){0}));
    print_row("peak memory of the process", line);
    (void)snprintf(line, sizeof line, "%s", size_format(demo->kv_bytes, a));
    print_row("KV cache of all conversations", line);
    if (e.data_losses) {
        (void)snprintf(line, sizeof line, "%" PRIu64 " tokens after %" PRIu64 " losses", e.recomputed_tokens,
                       e.data_losses);
        print_row("recomputed", line);
    }
}

/* ---- set-up ---- */

static int choose_passages(struct demo *demo, struct engine_error *err)
{
    engine_token bos = tokenizer_bos(engine_tokenizer(demo->engine));
    for (uint32_t i = 0; i < demo->n; i++) {
        struct document *d = &demo->documents[i];
        d->prompt = &demo->a->documents.at[i];
        const char *slash = strrchr(d->prompt->name, '/');
        d->name = slash ? slash + 1 : d->prompt->name;
        d->length = (uint32_t)d->prompt->n_tokens;
        d->lead = d->length && d->prompt->tokens[0] == bos;
        struct engine_error why;
        int rc = passages_choose(d->prompt->tokens + d->lead, d->length - d->lead, CUE_TOKENS, demo->a->n_answer,
                                 d->passages, demo->a->n_passages, &why);
        if (rc == ENGINE_BAD_INPUT)
            return engine_fail(err, "%s: %s", d->prompt->name, why.text);
        if (rc)
            return engine_broke(err, "%s", why.text);
        demo->n_tokens += d->length;
    }
    return ENGINE_OK;
}

static int open_cache(struct demo *demo, struct engine_error *err)
{
    struct cli_cache_options cache = demo->a->cache;
    int rc = cli_choose_device(&cache.config, err);
    if (rc != ENGINE_OK)
        return rc;
    struct kvmm_geometry g;
    engine_geometry(demo->engine, cache.config.layout, cache.config.kv_type, &g);
    uint32_t *lengths = calloc(demo->n, sizeof *lengths);
    if (!lengths)
        return engine_broke(err, "out of memory for %u conversations", demo->n);
    const size_t finest = strcmp(cache.config.device, "host") == 0 ? 64 << 10 : ENGINE_CUDA_FRAME;
    uint64_t largest = 0;
    for (uint32_t i = 0; i < demo->n; i++) {
        lengths[i] = demo->documents[i].length + CUE_TOKENS + demo->a->n_answer;
        uint64_t bytes = kvmm_geometry_bytes(&g, finest, lengths[i]);
        largest = bytes > largest ? bytes : largest;
        demo->kv_bytes += bytes;
    }
    if (cache.config.frame_bytes == 0)
        cache.config.frame_bytes = engine_frame_bytes(demo->kv_bytes / demo->a->fraction);
    /* The largest conversation must fit, whatever the fraction. */
    uint64_t share = demo->kv_bytes / demo->a->fraction;
    if (cache.config.device_memory == 0)
        cache.config.device_memory =
            share > largest + cache.config.frame_bytes ? share : largest + cache.config.frame_bytes;
    if (cache.config.host_memory == 0)
        cache.config.host_memory = share;
    rc = cli_open_cache(demo->engine, &cache, lengths, demo->n, err);
    for (uint32_t i = 0; i < demo->n && rc == ENGINE_OK; i++)
        rc = conversation_open(demo->engine, lengths[i], &demo->documents[i].c, err);
    free(lengths);
    return rc;
}

static void print_plan(const struct demo *demo)
{
    struct kvmm_stats s;
    char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX], c[SIZE_TEXT_MAX];
    kvmm_get_stats(engine_kvmm(demo->engine), &s);
    (void)printf("%u documents, %" PRIu64 " tokens; their KV cache takes %s.\n"
                 "Budgets: device %s, host %s; the rest goes to NVMe (%s). Frames of %s.\n",
                 demo->n, demo->n_tokens, size_format(demo->kv_bytes, a), size_format(s.device_capacity, b),
                 size_format(s.host_capacity, c), kvmm_swap_backend(engine_kvmm(demo->engine)),
                 size_format(s.frame_bytes, (char[SIZE_TEXT_MAX]){0}));
    (void)fflush(stdout);
}

static int run(struct arguments *a, bool *all_right, struct engine_error *err)
{
    struct demo demo = {.a = a, .n = a->documents.n};
    demo.documents = calloc(demo.n, sizeof *demo.documents);
    if (!demo.documents)
        return engine_broke(err, "out of memory for %u documents", demo.n);
    int rc = engine_open(&a->engine, &demo.engine, err);
    if (rc == ENGINE_OK)
        rc = prompts_encode(&a->documents, engine_tokenizer(demo.engine),
                            engine_model(demo.engine)->context_length - CUE_TOKENS - a->n_answer, err);
    if (rc == ENGINE_OK)
        rc = choose_passages(&demo, err);
    if (rc == ENGINE_OK)
        rc = open_cache(&demo, err);
    if (rc == ENGINE_OK) {
        print_plan(&demo);
        rc = fill_in(&demo, err);
    }
    if (rc == ENGINE_OK) {
        print_map(&demo, "Page map after filling in");
        rc = ask_all(&demo, err);
    }
    if (rc == ENGINE_OK) {
        print_map(&demo, "Page map after asking");
        print_example(&demo.documents[0], engine_tokenizer(demo.engine), &demo.documents[0].passages[0]);
        print_table(&demo);
    }
    *all_right = rc == ENGINE_OK;
    for (uint32_t i = 0; i < demo.n; i++) {
        *all_right = *all_right && demo.documents[i].n_right == demo.documents[i].n_asked;
        conversation_close(&demo.documents[i].c);
    }
    engine_close(&demo.engine);
    free(demo.documents);
    return rc;
}

int cli_recall_demo(int argc, char **argv)
{
    const struct argp_child children[] = {{.argp = &cli_cache_argp, .header = "Where the cache lives:", .group = 20},
                                          {0}};
    const struct argp argp = {
        .options = OPTIONS,
        .parser = parse,
        .args_doc = "DOCUMENT…",
        .doc =
            "Fills documents in as conversations under a budget that is too small for them, then asks each in turn "
            "for passages of itself.\v"
            "Exit status 1 if a passage was wrong. Passages are chosen so that their beginning determines them: what "
            "stands twice in a document with different continuations is not asked for.",
        .children = children};
    struct arguments a = {.n_passages = 3, .n_answer = 64, .fraction = 5};
    struct engine_error err;
    bool all_right = false;
    engine_config_init(&a.engine);
    cli_cache_options_init(&a.cache);
    cli_parse(&argp, argc, argv, &a);
    int rc = run(&a, &all_right, &err);
    prompts_free(&a.documents);
    if (rc != ENGINE_OK)
        return cli_error(rc, &err);
    rc = cli_close_stdout();
    return rc == CLI_OK && !all_right ? CLI_FAILED : rc;
}
