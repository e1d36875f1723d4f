/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "conversation.h"
#include "progress.h"
#include "prompts.h"

enum {
    KEY_TEMPERATURE = 256,
    KEY_TOP_P,
    KEY_SEED,
    KEY_PRINT_IDS,
    KEY_PRINT_LOGITS,
    KEY_IGNORE_EOS,
    KEY_CHUNK,
    KEY_THREADS,
    KEY_CTX,
    KEY_TURN,
    KEY_BATCH,
    KEY_STATS,
    KEY_VERBOSE
};

struct arguments {
    struct engine_config engine;
    struct cli_cache_options cache;
    struct sampler_config sampler;
    struct prompts prompts;
    uint32_t n_tokens;
    uint32_t context; /* 0: the model's */
    uint32_t turn;
    uint32_t print_logits;
    bool print_ids, ignore_eos, batch, stats;
};

static const struct argp_option OPTIONS[] = {
    {"model", 'm', "FILE", 0, "Llama model as GGUF, with F32, F16, BF16 or Q8_0 weights (required)", 1},
    {"prompt", 'p', "TEXT", 0, "Prompt; each -p and -f is a conversation of its own. -p \"\" starts from nothing", 1},
    {"file", 'f', "FILE", 0, "Prompt from a file; - is standard input", 1},
    {"tokens", 'n', "N", 0, "Tokens to generate in each conversation; default 128", 1},
    {"temp", KEY_TEMPERATURE, "T", 0, "Temperature; 0 (default) always takes the likeliest token", 2},
    {"top-p", KEY_TOP_P, "P", 0, "Choose among the likeliest tokens that make up this much probability; default 1", 2},
    {"seed", KEY_SEED, "N", 0, "Seed of the random choice; default 0. The same seed gives the same text", 2},
    {"ignore-eos", KEY_IGNORE_EOS, NULL, 0, "Go on after the model's end-of-sequence token", 2},
    {"print-ids", KEY_PRINT_IDS, NULL, 0, "Print token ids instead of text, a line for each conversation", 3},
    {"print-logits", KEY_PRINT_LOGITS, "K", 0,
     "Print the K highest logits of the first generated position of each conversation, on stderr", 3},
    {"stats", KEY_STATS, NULL, 0, "Print speed, cache traffic and memory at the end, on stderr", 3},
    {"verbose", KEY_VERBOSE, NULL, 0, "Print what the cache reports, on stderr", 3},
    {"chunk", KEY_CHUNK, "N", 0, "Most tokens computed in a step; default 512. The answers do not depend on it", 4},
    {"threads", KEY_THREADS, "N", 0, "Threads; default: one for each CPU. The answers do not depend on it", 4},
    {"ctx", KEY_CTX, "N", 0, "Most tokens of a conversation; default: the model's context", 4},
    {"turn", KEY_TURN, "N", 0, "Conversations take turns of N tokens; default 8", 4},
    {"batch", KEY_BATCH, NULL, 0, "Generate for all conversations in each step, not in turns", 4},
    {0}};

static void log_line(void *user, enum kvmm_log_level level, const char *line)
{
    (void)user;
    static const char *const names[] = {"error", "warning", "note"};
    (void)fprintf(stderr, "kvmm-engine: cache %s: %s\n", names[level], line);
}

static int require(const struct arguments *a)
{
    if (!a->engine.model_path)
        cli_usage_error("generate: name a model with -m");
    if (a->prompts.n == 0)
        cli_usage_error("generate: give a prompt with -p or -f");
    return 0;
}

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
    case 'p':
        rc = prompts_add_text(&a->prompts, arg, &err);
        break;
    case 'f':
        rc = prompts_add_file(&a->prompts, arg, &err);
        break;
    case 'n':
        a->n_tokens = cli_u32("-n", arg, 0, 1u << 30);
        return 0;
    case KEY_TEMPERATURE:
        a->sampler.temperature = cli_float("--temp", arg);
        return 0;
    case KEY_TOP_P:
        a->sampler.top_p = cli_float("--top-p", arg);
        return 0;
    case KEY_SEED:
        a->sampler.seed = cli_u64("--seed", arg);
        return 0;
    case KEY_IGNORE_EOS:
        a->ignore_eos = true;
        return 0;
    case KEY_PRINT_IDS:
        a->print_ids = true;
        return 0;
    case KEY_PRINT_LOGITS:
        a->print_logits = cli_u32("--print-logits", arg, 1, 1u << 24);
        return 0;
    case KEY_STATS:
        a->stats = true;
        return 0;
    case KEY_VERBOSE:
        a->cache.config.log = log_line;
        return 0;
    case KEY_CHUNK:
        a->engine.chunk = cli_u32("--chunk", arg, 1, ENGINE_MAX_CHUNK);
        return 0;
    case KEY_THREADS:
        a->engine.n_threads = cli_u32("--threads", arg, 1, 1024);
        return 0;
    case KEY_CTX:
        a->context = cli_u32("--ctx", arg, 1, 1u << 30);
        return 0;
    case KEY_TURN:
        a->turn = cli_u32("--turn", arg, 1, 1u << 30);
        return 0;
    case KEY_BATCH:
        a->batch = true;
        return 0;
    case ARGP_KEY_ARG:
        cli_usage_error("generate: \"%s\" is no option; prompts are given with -p or -f", arg);
    case ARGP_KEY_END:
        return require(a);
    default:
        return ARGP_ERR_UNKNOWN;
    }
    if (rc != 0)
        exit(cli_error(rc, &err));
    return 0;
}

/* ---- answers ------------------------------------------------------------------------------------------------- */

/* What a conversation has generated. */
struct answer {
    const struct arguments *a;
    const struct tokenizer *tok;
    struct conversation *c;
    struct sampler *sampler;
    engine_token *ids; /* [n_tokens] */
    uint32_t n;
    bool ended; /* it said so, or its context is full */
    bool stream;
};

static void print_token(const struct tokenizer *tok, engine_token token)
{
    char small[64], *text = small;
    size_t len = tokenizer_decode(tok, token, small, sizeof small);
    if (len > sizeof small) {
        text = malloc(len);
        if (!text)
            return;
        (void)tokenizer_decode(tok, token, text, len);
    }
    (void)fwrite(text, 1, len, stdout);
    if (text != small)
        free(text);
}

static bool take_token(void *user, engine_token token)
{
    struct answer *answer = user;
    if (token == tokenizer_eos(answer->tok) && !answer->a->ignore_eos) {
        answer->ended = true;
        return false;
    }
    answer->ids[answer->n++] = token;
    if (answer->stream) {
        print_token(answer->tok, token);
        (void)fflush(stdout);
    }
    answer->ended = answer->n == answer->a->n_tokens;
    return !answer->ended;
}

static void print_answers(const struct arguments *a, const struct answer *answers)
{
    for (uint32_t i = 0; i < a->prompts.n; i++) {
        const struct answer *answer = &answers[i];
        if (a->print_ids) {
            for (uint32_t k = 0; k < answer->n; k++)
                (void)printf("%s%d", k ? " " : "", answer->ids[k]);
        } else if (!answer->stream) {
            (void)printf("[%s] ", a->prompts.at[i].name);
            for (uint32_t k = 0; k < answer->n; k++)
                print_token(answer->tok, answer->ids[k]);
        }
        (void)putchar('\n');
    }
}

/* Says which answers are shorter than was asked for, and why. */
static void note_full_contexts(const struct arguments *a, const struct answer *answers)
{
    for (uint32_t i = 0; i < a->prompts.n; i++) {
        const struct conversation *c = answers[i].c;
        if (answers[i].n < a->n_tokens && conversation_length(c) == conversation_max_tokens(c))
            (void)fprintf(stderr, "kvmm-engine: %s: the context of %u tokens is full after %u of %u new tokens\n",
                          a->prompts.at[i].name, a->context, answers[i].n, a->n_tokens);
    }
}

/* One line: the k highest, highest first, and of equals the lowest id first. */
static void print_logits(const float *logits, uint32_t n_vocab, uint32_t k)
{
    (void)fputs("logits", stderr);
    int64_t last = -1;
    for (uint32_t rank = 0; rank < k && rank < n_vocab; rank++) {
        int64_t best = -1;
        for (uint32_t i = 0; i < n_vocab; i++) {
            bool after = last < 0 || logits[i] < logits[last] || (logits[i] == logits[last] && i > last);
            if (after && (best < 0 || logits[i] > logits[best]))
                best = i;
        }
        if (best < 0)
            break; /* what is left is not a number */
        (void)fprintf(stderr, " %" PRId64 ":%.4f", best, (double)logits[best]);
        last = best;
    }
    (void)fputc('\n', stderr);
}

/* ---- the command --------------------------------------------------------------------------------------------- */

static uint32_t max_tokens_of(const struct arguments *a, uint32_t i)
{
    uint64_t wanted = (uint64_t)a->prompts.at[i].n_tokens + a->n_tokens;
    return wanted < a->context ? (uint32_t)wanted : a->context;
}

static int open_conversations(struct engine *engine, const struct arguments *a, struct answer *answers,
                              struct engine_error *err)
{
    uint32_t *max_tokens = calloc(a->prompts.n, sizeof *max_tokens);
    if (!max_tokens)
        return engine_broke(err, "out of memory for %u conversations", a->prompts.n);
    for (uint32_t i = 0; i < a->prompts.n; i++)
        max_tokens[i] = max_tokens_of(a, i);
    int rc = cli_open_cache(engine, &a->cache, max_tokens, a->prompts.n, err);
    for (uint32_t i = 0; rc == 0 && i < a->prompts.n; i++) {
        struct answer *answer = &answers[i];
        struct sampler_config sampling = a->sampler;
        sampling.stream = i;
        *answer = (struct answer){.a = a,
                                  .tok = engine_tokenizer(engine),
                                  .stream = a->prompts.n == 1 && !a->print_ids,
                                  .ended = a->n_tokens == 0,
                                  .ids = calloc((size_t)max_tokens[i] + 1, sizeof *answer->ids)};
        if (!answer->ids)
            rc = engine_broke(err, "out of memory for an answer of %u tokens", a->n_tokens);
        if (rc == 0)
            rc = sampler_open(&sampling, engine_model(engine)->n_vocab, &answer->sampler, err);
        if (rc == 0)
            rc = conversation_open(engine, max_tokens[i], &answer->c, err);
    }
    free(max_tokens);
    return rc;
}

static int prefill(const struct engine *engine, const struct arguments *a, struct answer *answers,
                   struct engine_error *err)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < a->prompts.n; i++) {
        const struct prompt *p = &a->prompts.at[i];
        struct progress bar;
        progress_begin(&bar, p->name, "tokens");
        rc = conversation_append(answers[i].c, p->tokens, p->n_tokens, progress_update, &bar, err);
        progress_end(&bar);
        if (rc == 0 && a->print_logits)
            print_logits(conversation_logits(answers[i].c), engine_model(engine)->n_vocab, a->print_logits);
    }
    return rc;
}

static int generate_in_turns(const struct arguments *a, struct answer *answers, struct engine_error *err)
{
    for (bool any = true; any;) {
        any = false;
        for (uint32_t i = 0; i < a->prompts.n; i++) {
            struct answer *answer = &answers[i];
            if (answer->ended)
                continue;
            int rc = conversation_generate(answer->c, answer->sampler, a->turn, NULL, NULL, take_token, answer, err);
            if (rc != 0)
                return rc;
            answer->ended |= conversation_length(answer->c) == conversation_max_tokens(answer->c);
            any |= !answer->ended;
        }
    }
    return 0;
}

static int generate_batch(struct engine *engine, const struct arguments *a, struct answer *answers,
                          struct engine_error *err)
{
    const uint32_t n = a->prompts.n;
    struct conversation **c = calloc(n, sizeof(struct conversation *));
    struct sampler **samplers = calloc(n, sizeof(struct sampler *));
    void **users = calloc(n, sizeof(void *));
    int rc;
    if (!c || !samplers || !users) {
        rc = engine_broke(err, "out of memory for %u conversations", n);
        goto free_arrays;
    }
    for (uint32_t i = 0; i < n; i++) {
        c[i] = answers[i].c;
        samplers[i] = answers[i].sampler;
        users[i] = &answers[i];
    }
    rc = conversation_generate_batch(engine, c, samplers, n, a->n_tokens, take_token, users, err);
free_arrays:
    free((void *)c);
    free((void *)samplers);
    free((void *)users);
    return rc;
}

static int generate(struct arguments *a, struct engine_error *err)
{
    struct engine *engine = NULL;
    struct answer *answers = calloc(a->prompts.n, sizeof *answers);
    if (!answers)
        return engine_broke(err, "out of memory for %u conversations", a->prompts.n);
    int rc = engine_open(&a->engine, &engine, err);
    if (rc != 0)
        goto free_answers;
    const uint32_t context = engine_model(engine)->context_length;
    if (a->context > context)
        rc = engine_fail(err, "--ctx %u is more than the model's context of %u", a->context, context);
    else if (a->context == 0)
        a->context = context;
    if (rc == 0)
        rc = prompts_encode(&a->prompts, engine_tokenizer(engine), a->context, err);
    if (rc == 0)
        rc = open_conversations(engine, a, answers, err);
    if (rc == 0)
        rc = prefill(engine, a, answers, err);
    if (rc == 0)
        rc = a->batch ? generate_batch(engine, a, answers, err) : generate_in_turns(a, answers, err);
    if (rc == 0) {
        print_answers(a, answers);
        note_full_contexts(a, answers);
        if (a->stats)
            cli_print_stats(engine);
    }
    for (uint32_t i = 0; i < a->prompts.n; i++) {
        conversation_close(&answers[i].c);
        sampler_close(&answers[i].sampler);
        free(answers[i].ids);
    }
    engine_close(&engine);
free_answers:
    free(answers);
    return rc;
}

int cli_generate(int argc, char **argv)
{
    const struct argp_child children[] = {{.argp = &cli_cache_argp, .header = "Where the cache lives:", .group = 20},
                                          {0}};
    const struct argp argp = {
        .options = OPTIONS,
        .parser = parse,
        .doc = "Continues prompts. SIZE is a number with KiB, MiB, GiB, or plain bytes.\v"
               "With several prompts the conversations are prefilled one after the other, then generate in turns; what "
               "does not fit the device memory waits in host memory or in the swap file.",
        .children = children};
    struct arguments a = {.sampler = {.top_p = 1.0f}, .n_tokens = 128, .turn = 8};
    struct engine_error err;
    engine_config_init(&a.engine);
    cli_cache_options_init(&a.cache);
    cli_parse(&argp, argc, argv, &a);
    int rc = generate(&a, &err);
    prompts_free(&a.prompts);
    return rc == 0 ? cli_close_stdout() : cli_error(rc, &err);
}
