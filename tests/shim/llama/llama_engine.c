/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine over prebuilt llama.cpp: does a list of operations and prints what came out, token for token and with a hash of
 * each step's logits, so that two runs can be compared to the bit. README.md lists the operations. */
#include <argp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "llama_library.h"

#define MOST_SEQUENCES 64
#define N_BATCH        512

struct options {
    const char *folder, *model, *text;
    uint32_t n_ctx, n_sequences, n_threads;
    int flash;
    bool unified, global, json;
    char **operations;
    int n_operations;
};

/* A conversation: how long it is, and the token that the last logits make the likeliest. */
struct sequence {
    int32_t length, next;
};

struct engine {
    const struct options *options;
    struct llama_library llama;
    llama_model model;
    llama_context context;
    struct llama_batch batch;
    int32_t n_vocab;
    int32_t *source; /* tokens of the text; NULL: made up */
    int32_t n_source;
    struct sequence sequences[MOST_SEQUENCES];
    /* What `save` kept. */
    uint8_t *state;
    size_t state_bytes;
    struct sequence saved[MOST_SEQUENCES];
    /* For the JSON line. */
    double start_s, generate_s, first_s[256]; /* of each go or all, until its first token */
    size_t n_generated, n_firsts;
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

_Noreturn static void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)fflush(stdout);
    (void)fputs("llama_engine: ", stderr);
    (void)vfprintf(stderr, format, arguments);
    (void)fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

/* Tokens that a prompt is made of: the text's, again and again, or hashed from their place, so that no two stretches are
 * alike. The first three of a vocabulary are control tokens. */
static int32_t source_token(const struct engine *engine, int32_t place)
{
    if (engine->source != NULL)
        return engine->source[place % engine->n_source];
    uint64_t x = (uint64_t)place * 0x9E3779B97F4A7C15u + 1;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return 3 + (int32_t)((x ^ x >> 31) % (uint64_t)(engine->n_vocab - 3));
}

static uint64_t hash_more(uint64_t hash, const void *data, size_t bytes) /* FNV-1a */
{
    const uint8_t *at = data;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ at[i]) * 0x100000001B3u;
    return hash;
}
#define HASH_START 0xCBF29CE484222325u

static void batch_add(struct engine *engine, int32_t token, int32_t seq, bool wants_logits)
{
    struct llama_batch *batch = &engine->batch;
    int32_t i = batch->n_tokens++;
    batch->token[i] = token;
    batch->pos[i] = engine->sequences[seq].length++;
    batch->n_seq_id[i] = 1;
    batch->seq_id[i][0] = seq;
    batch->logits[i] = wants_logits;
}

static void decode(struct engine *engine)
{
    int32_t result = engine->llama.llama_decode(engine->context, engine->batch);
    if (result != 0)
        fail("llama_decode of %d tokens gave %d", engine->batch.n_tokens, result);
}

/* Takes the logits of the batch's token i: seq's likeliest next token, and the hash goes on. */
static uint64_t take_logits(struct engine *engine, int32_t i, int32_t seq, uint64_t hash)
{
    const float *logits = engine->llama.llama_get_logits_ith(engine->context, i);
    if (logits == NULL)
        fail("no logits for token %d", i);
    int32_t best = 0;
    for (int32_t token = 1; token < engine->n_vocab; token++)
        if (logits[token] > logits[best])
            best = token;
    engine->sequences[seq].next = best;
    return hash_more(hash, logits, (size_t)engine->n_vocab * sizeof(*logits));
}

/* The operations. */

static void op_take(struct engine *engine, const int32_t *a)
{
    for (int32_t done = 0; done < a[2];) {
        engine->batch.n_tokens = 0;
        while (engine->batch.n_tokens < N_BATCH && done < a[2]) {
            batch_add(engine, source_token(engine, a[1] + done), a[0], done == a[2] - 1);
            done++;
        }
        decode(engine);
    }
    printf("logits %016llx\n", (unsigned long long)take_logits(engine, engine->batch.n_tokens - 1, a[0], HASH_START));
}

static void op_show(struct engine *engine, const int32_t *a)
{
    for (int32_t i = 0; i < a[1]; i++)
        printf("%d%s", source_token(engine, a[0] + i), i == a[1] - 1 ? "\n" : " ");
}

/* n_steps of one token for each of the sequences. */
static void generate(struct engine *engine, const int32_t *seqs, int32_t n_seqs, int32_t n_steps)
{
    uint64_t hash = HASH_START;
    double start = now_s();
    for (int32_t step = 0; step < n_steps; step++) {
        engine->batch.n_tokens = 0;
        for (int32_t i = 0; i < n_seqs; i++) {
            printf("%d ", engine->sequences[seqs[i]].next);
            batch_add(engine, engine->sequences[seqs[i]].next, seqs[i], true);
        }
        decode(engine);
        for (int32_t i = 0; i < n_seqs; i++)
            hash = take_logits(engine, i, seqs[i], hash);
        if (step == 0 && engine->n_firsts < sizeof(engine->first_s) / sizeof(engine->first_s[0]))
            engine->first_s[engine->n_firsts++] = now_s() - start;
    }
    engine->generate_s += now_s() - start;
    engine->n_generated += (size_t)n_seqs * (size_t)n_steps;
    printf("logits %016llx\n", (unsigned long long)hash);
}

static void op_go(struct engine *engine, const int32_t *a)
{
    generate(engine, a, 1, a[1]);
}

static void op_all(struct engine *engine, const int32_t *a)
{
    int32_t seqs[MOST_SEQUENCES], n_seqs = 0;
    for (int32_t seq = 0; seq < (int32_t)engine->options->n_sequences; seq++)
        if (engine->sequences[seq].length > 0)
            seqs[n_seqs++] = seq;
    generate(engine, seqs, n_seqs, a[0]);
}

static void op_copy(struct engine *engine, const int32_t *a)
{
    llama_memory memory = engine->llama.llama_get_memory(engine->context);
    engine->llama.llama_memory_seq_rm(memory, a[1], -1, -1);
    engine->llama.llama_memory_seq_cp(memory, a[0], a[1], -1, -1);
    engine->sequences[a[1]] = engine->sequences[a[0]];
    puts("done");
}

static void op_drop(struct engine *engine, const int32_t *a)
{
    engine->llama.llama_memory_seq_rm(engine->llama.llama_get_memory(engine->context), a[0], -1, -1);
    engine->sequences[a[0]] = (struct sequence){0};
    puts("done");
}

/* Context shift, as servers do it: n tokens from `from` on are forgotten and the rest moves up, which turns its keys. */
static void op_shift(struct engine *engine, const int32_t *a)
{
    llama_memory memory = engine->llama.llama_get_memory(engine->context);
    if (!engine->llama.llama_memory_seq_rm(memory, a[0], a[1], a[1] + a[2]))
        fail("can't remove %d tokens from %d on", a[2], a[1]);
    engine->llama.llama_memory_seq_add(memory, a[0], a[1] + a[2], -1, -a[2]);
    engine->sequences[a[0]].length -= a[2];
    puts("done");
}

static void op_clear(struct engine *engine, const int32_t *a)
{
    engine->llama.llama_memory_clear(engine->llama.llama_get_memory(engine->context), true);
    memset(engine->sequences, 0, sizeof(engine->sequences));
    puts("done");
}

static void op_save(struct engine *engine, const int32_t *a)
{
    free(engine->state);
    engine->state_bytes = engine->llama.llama_state_get_size(engine->context);
    engine->state = malloc(engine->state_bytes);
    if (engine->state == NULL)
        fail("no memory for a state of %zu bytes", engine->state_bytes);
    engine->state_bytes = engine->llama.llama_state_get_data(engine->context, engine->state, engine->state_bytes);
    if (engine->state_bytes == 0)
        fail("the state can't be had");
    memcpy(engine->saved, engine->sequences, sizeof(engine->saved));
    printf("%zu bytes\n", engine->state_bytes);
}

static void op_restore(struct engine *engine, const int32_t *a)
{
    if (engine->state == NULL)
        fail("restore before save");
    size_t bytes = engine->llama.llama_state_set_data(engine->context, engine->state, engine->state_bytes);
    if (bytes != engine->state_bytes)
        fail("%zu of %zu bytes of the state were taken", bytes, engine->state_bytes);
    memcpy(engine->sequences, engine->saved, sizeof(engine->sequences));
    puts("done");
}

/* To and from a file in the current folder. */
static void op_write(struct engine *engine, const int32_t *a)
{
    const struct sequence *sequence = &engine->sequences[a[0]];
    const int32_t kept[2] = {sequence->length, sequence->next};
    size_t bytes = engine->llama.llama_state_seq_save_file(engine->context, "sequence.state", a[0], kept, 2);
    if (bytes == 0)
        fail("sequence %d can't be written", a[0]);
    printf("%zu bytes\n", bytes);
}

static void op_read(struct engine *engine, const int32_t *a)
{
    int32_t kept[2];
    size_t n = 0;
    op_drop(engine, a);
    if (engine->llama.llama_state_seq_load_file(engine->context, "sequence.state", a[0], kept, 2, &n) == 0 || n != 2)
        fail("sequence %d can't be read back", a[0]);
    engine->sequences[a[0]] = (struct sequence){kept[0], kept[1]};
}

static void op_sleep(struct engine *engine, const int32_t *a)
{
    struct timespec time = {a[0] / 1000, a[0] % 1000 * 1000000L};
    (void)nanosleep(&time, NULL);
    puts("done");
}

static const struct operation {
    const char *name;
    uint32_t n_numbers, n_sequences; /* the first n_sequences numbers are sequences */
    void (*run)(struct engine *engine, const int32_t *numbers);
} operations[] = {
    {"take", 3, 1, op_take},   {"show", 2, 0, op_show},       {"go", 2, 1, op_go},       {"all", 1, 0, op_all},
    {"copy", 2, 2, op_copy},   {"drop", 1, 1, op_drop},       {"shift", 3, 1, op_shift}, {"clear", 0, 0, op_clear},
    {"save", 0, 0, op_save},   {"restore", 0, 0, op_restore}, {"write", 1, 1, op_write}, {"read", 1, 1, op_read},
    {"sleep", 1, 0, op_sleep},
};

/* "go:0:16": a name and its numbers. */
static const struct operation *parse_operation(const struct engine *engine, const char *text, int32_t *numbers)
{
    size_t length = strcspn(text, ":");
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        const struct operation *operation = &operations[i];
        if (strlen(operation->name) != length || memcmp(operation->name, text, length) != 0)
            continue;
        const char *at = text + length;
        uint32_t n = 0;
        for (char *end; n < operation->n_numbers && *at == ':'; n++, at = end) {
            long number = strtol(at + 1, &end, 10);
            long most = n < operation->n_sequences ? (long)engine->options->n_sequences - 1 : INT32_MAX;
            if (end == at + 1 || number < 0 || number > most)
                break;
            numbers[n] = (int32_t)number;
        }
        if (n != operation->n_numbers || *at != '\0')
            break;
        return operation;
    }
    fail("no operation, or not with these numbers: %s", text);
}

/* Setting up. */

static void read_text(struct engine *engine)
{
    FILE *file = fopen(engine->options->text, "r");
    static char text[1 << 20];
    size_t bytes = file == NULL ? 0 : fread(text, 1, sizeof(text), file);
    if (bytes == 0)
        fail("%s: can't be read", engine->options->text);
    (void)fclose(file);
    engine->source = calloc(bytes + 1, sizeof(*engine->source));
    if (engine->source == NULL)
        fail("no memory");
    engine->n_source = engine->llama.llama_tokenize(engine->llama.llama_model_get_vocab(engine->model), text,
                                                    (int32_t)bytes, engine->source, (int32_t)bytes + 1, true, false);
    if (engine->n_source <= 0)
        fail("%s: no tokens", engine->options->text);
}

static void open_engine(struct engine *engine)
{
    const struct options *options = engine->options;
    struct llama_context_wish wish = {options->n_ctx, N_BATCH, options->n_sequences, options->flash, options->unified};
    struct llama_any_params params;
    char reason[512];
    if (!llama_library_open(&engine->llama, options->folder, options->global, reason, sizeof(reason)) ||
        !llama_library_context_params(&engine->llama, &wish, &params, reason, sizeof(reason)))
        fail("%s", reason);
    engine->model =
        engine->llama.llama_model_load_from_file(options->model, engine->llama.llama_model_default_params());
    if (engine->model == NULL)
        fail("%s: not loaded", options->model);
    engine->n_vocab = engine->llama.llama_vocab_n_tokens(engine->llama.llama_model_get_vocab(engine->model));
    engine->start_s = now_s();
    engine->context = engine->llama.llama_init_from_model(engine->model, params);
    engine->start_s = now_s() - engine->start_s;
    if (engine->context == NULL)
        fail("no context of %u tokens", options->n_ctx);
    uint32_t for_each = options->unified ? options->n_ctx : options->n_ctx / options->n_sequences;
    if (engine->llama.llama_n_ctx(engine->context) != options->n_ctx ||
        engine->llama.llama_n_ctx_seq(engine->context) != for_each ||
        engine->llama.llama_n_seq_max(engine->context) != options->n_sequences)
        fail("asked for %u tokens, %u for each of %u sequences, and got %u, %u, %u", options->n_ctx, for_each,
             options->n_sequences, engine->llama.llama_n_ctx(engine->context),
             engine->llama.llama_n_ctx_seq(engine->context), engine->llama.llama_n_seq_max(engine->context));
    engine->llama.llama_set_n_threads(engine->context, (int32_t)options->n_threads, (int32_t)options->n_threads);
    engine->batch = engine->llama.llama_batch_init(N_BATCH, 0, 1);
    if (options->text != NULL)
        read_text(engine);
}

static void print_json(const struct engine *engine, double run_s)
{
    printf("{\"start_s\": %.6f, \"run_s\": %.6f, \"generated\": %zu, \"tokens_per_s\": %.6f, \"first_s\": [",
           engine->start_s, run_s, engine->n_generated,
           engine->generate_s > 0 ? (double)engine->n_generated / engine->generate_s : 0);
    for (size_t i = 0; i < engine->n_firsts; i++)
        printf("%s%.6f", i > 0 ? ", " : "", engine->first_s[i]);
    puts("]}");
}

enum {
    KEY_CONTEXT = 'c',
    KEY_SEQUENCES = 's',
    KEY_THREADS = 't',
    KEY_FLASH = 256,
    KEY_UNIFIED,
    KEY_GLOBAL,
    KEY_JSON,
    KEY_TEXT
};

static const struct argp_option option_list[] = {
    {"context", KEY_CONTEXT, "N", 0, "tokens of all sequences together (default: 4096)", 0},
    {"sequences", KEY_SEQUENCES, "N", 0, "sequences (default: 4)", 0},
    {"threads", KEY_THREADS, "N", 0, "threads (default: 1)", 0},
    {"flash", KEY_FLASH, "0|1", 0, "flash attention (default: as llama.cpp decides)", 0},
    {"unified", KEY_UNIFIED, NULL, 0, "one cache for all sequences instead of a part for each", 0},
    {"global", KEY_GLOBAL, NULL, 0, "load the libraries with RTLD_GLOBAL", 0},
    {"text", KEY_TEXT, "FILE", 0, "what prompts are made of (default: made up tokens)", 0},
    {"json", KEY_JSON, NULL, 0, "print times as JSON in the last line", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    switch (key) {
    case KEY_CONTEXT:
        options->n_ctx = (uint32_t)strtoul(arg, NULL, 10);
        return 0;
    case KEY_SEQUENCES:
        options->n_sequences = (uint32_t)strtoul(arg, NULL, 10);
        return 0;
    case KEY_THREADS:
        options->n_threads = (uint32_t)strtoul(arg, NULL, 10);
        return 0;
    case KEY_FLASH:
        options->flash = atoi(arg) != 0;
        return 0;
    case KEY_UNIFIED:
        options->unified = true;
        return 0;
    case KEY_GLOBAL:
        options->global = true;
        return 0;
    case KEY_TEXT:
        options->text = arg;
        return 0;
    case KEY_JSON:
        options->json = true;
        return 0;
    case ARGP_KEY_ARGS:
        if (state->argc - state->next < 2)
            argp_usage(state);
        options->folder = state->argv[state->next];
        options->model = state->argv[state->next + 1];
        options->operations = state->argv + state->next + 2;
        options->n_operations = state->argc - state->next - 2;
        return 0;
    case ARGP_KEY_END:
        if (options->n_sequences < 1 || options->n_sequences > MOST_SEQUENCES || options->n_ctx < 1 ||
            options->n_threads < 1)
            argp_error(state, "1 to %d sequences, 1 token and 1 thread or more", MOST_SEQUENCES);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp parser = {.options = option_list,
                                       .parser = parse_option,
                                       .args_doc = "LIBRARIES MODEL.gguf OPERATION...",
                                       .doc = "Runs llama.cpp and prints what it says, to the bit."};
    struct options options = {.n_ctx = 4096, .n_sequences = 4, .n_threads = 1, .flash = -1};
    static struct engine engine;
    if (argp_parse(&parser, argc, argv, ARGP_IN_ORDER, NULL, &options) != 0)
        return 2;
    engine.options = &options;
    open_engine(&engine);
    double start = now_s();
    for (int i = 0; i < options.n_operations; i++) {
        int32_t numbers[3];
        const struct operation *operation = parse_operation(&engine, options.operations[i], numbers);
        printf("%s: ", options.operations[i]);
        (void)fflush(stdout);
        operation->run(&engine, numbers);
    }
    if (options.json)
        print_json(&engine, now_s() - start);
    (void)fflush(stdout);
    free(engine.state);
    free(engine.source);
    engine.llama.llama_batch_free(engine.batch);
    engine.llama.llama_free(engine.context);
    engine.llama.llama_model_free(engine.model);
    return 0;
}
