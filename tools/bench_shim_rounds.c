/* SPDX-License-Identifier: Apache-2.0
 *
 * What is done with the small engine. All that is compared runs in turn within a round; each part has its own processes, which
 * live through all rounds where caches must get into a steady state. Whatever two engines do in the same order must add up to the same sum. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bench_shim.h"
#include "tools/bench_spread.h"

enum {
    N_CONVERSATIONS = 4,
    STEPS_AFTER = 4, /* tokens after the first of a switch */
    SHORT_STEPS = 4, /* tokens of a round with too little memory */
    BURST_MS = 250,  /* of everything that fits: as many tokens as that takes, four times a round */
    LEAST_BURST = 2
};

static const char *const names[] = {"without the shim", "with the shim", "with Linux swap", "with a mapped file"};

static bool takes_part(const struct shim_bench *bench, enum shim_part part, enum shim_runner runner)
{
    return bench->why_not[part][runner] == NULL &&
           (runner == RUN_SHIM || (part == PART_FITS ? runner == RUN_PLAIN : runner >= RUN_SWAP));
}

/* A rival that dies of the limit (the kernel kills where it finds nothing to put out quickly enough) is out of this part; any
 * other failure is the bench's. */
static int or_rival_out(struct shim_bench *bench, enum shim_part part, enum shim_runner runner, int result)
{
    if (result >= 0)
        return result;
    if (runner < RUN_SWAP) {
        fprintf(stderr, SHIM_BENCH_NAME ": the engine %s ended: %s\n", names[runner], strerrordesc_np(-result));
        return result;
    }
    bench->why_not[part][runner] = "the kernel killed the engine under this limit";
    return 0;
}

/* One request after the other; a rival that is out already is left alone. */
static int ask(struct shim_bench *bench, enum shim_part part, enum shim_runner runner, struct shim_child *child,
               enum engine_op op, uint32_t conversation, uint32_t n, struct engine_reply *reply)
{
    *reply = (struct engine_reply){.ns = 1, .first_ns = 1};
    if (!takes_part(bench, part, runner))
        return 0;
    return or_rival_out(bench, part, runner, shim_child_ask(child, op, conversation, n, reply));
}

/* Starts the engines that take part, and fills all conversations but for what the steps will add. */
static int start(struct shim_bench *bench, enum shim_part part, uint32_t n_conversations, uint64_t budget,
                 struct shim_child *children)
{
    int result = 0;
    for (enum shim_runner runner = 0; runner < N_RUNNERS; runner++)
        children[runner].fd = -1;
    for (enum shim_runner runner = 0; runner < N_RUNNERS && result == 0; runner++) {
        struct engine_reply reply;
        if (!takes_part(bench, part, runner))
            continue;
        shim_bench_progress("filling the cache of an engine: %s", names[runner]);
        result = or_rival_out(
            bench, part, runner,
            shim_child_open(bench, runner, n_conversations, budget, runner == RUN_MMAP, &children[runner]));
        for (uint32_t i = 0; i < n_conversations && result == 0; i++)
            result = ask(bench, part, runner, &children[runner], ENGINE_FILL, i, bench->shape.n_tokens - 1, &reply);
        if (result == 0)
            result = ask(bench, part, runner, &children[runner], ENGINE_SYNC, 0, 0, &reply);
    }
    return result;
}

static void stop(struct shim_child *children)
{
    for (enum shim_runner runner = 0; runner < N_RUNNERS; runner++)
        shim_child_close(&children[runner]);
}

static int compare_sums(const struct shim_bench *bench, enum shim_part part, const uint64_t *sums)
{
    for (enum shim_runner runner = 0; runner < N_RUNNERS; runner++)
        if (takes_part(bench, part, runner) && sums[runner] != sums[RUN_SHIM]) {
            fprintf(stderr, SHIM_BENCH_NAME ": engines read different bytes: with the shim and %s\n", names[runner]);
            return -EBADMSG;
        }
    return 0;
}

/* Everything fits: without, with, with, without, so that a drift of the machine's speed cancels out. */
static int round_fits(struct shim_bench *bench, struct shim_child *children, uint32_t n_steps, struct shim_round *round)
{
    static const enum shim_runner order[] = {RUN_PLAIN, RUN_SHIM, RUN_SHIM, RUN_PLAIN};
    uint64_t ns[N_RUNNERS] = {0}, cpu_ns[N_RUNNERS] = {0}, sums[N_RUNNERS] = {0};
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        struct engine_reply reply;
        int result = ask(bench, PART_FITS, order[i], &children[order[i]], ENGINE_STEP, 0, n_steps, &reply);
        if (result < 0)
            return result;
        ns[order[i]] += reply.ns;
        cpu_ns[order[i]] += reply.cpu_ns;
        sums[order[i]] = reply.sum;
    }
    for (enum shim_runner runner = RUN_PLAIN; runner <= RUN_SHIM; runner++) {
        bench->n_done[PART_FITS][runner]++;
        round->fits_tokens_per_s[runner] = 2e9 * n_steps / (double)ns[runner];
        round->fits_cpu[runner] = (double)cpu_ns[runner] * 1e-9 / (2 * n_steps);
    }
    return compare_sums(bench, PART_FITS, sums);
}

/* New processes each time: where in memory pages happen to lie makes a difference of several per cent. */
static int measure_fits(struct shim_bench *bench)
{
    uint32_t n_steps = 0;
    int result = 0;
    for (uint64_t i = 0; i < bench->options.n_rounds && result == 0; i++) {
        struct shim_child children[N_RUNNERS];
        struct engine_reply reply;
        result = start(bench, PART_FITS, 1, bench->options.bytes * 2, children);
        shim_bench_progress("everything fits: round %llu of %llu", (unsigned long long)i + 1,
                            (unsigned long long)bench->options.n_rounds);
        for (enum shim_runner runner = RUN_PLAIN; runner <= RUN_SHIM && result == 0; runner++)
            result = ask(bench, PART_FITS, runner, &children[runner], ENGINE_STEP, 0, LEAST_BURST, &reply);
        if (result == 0 && n_steps == 0)
            n_steps = LEAST_BURST + (uint32_t)((uint64_t)BURST_MS * 1000000u * LEAST_BURST / reply.ns);
        if (result == 0)
            result = round_fits(bench, children, n_steps, &bench->rounds[i]);
        stop(children);
    }
    return result;
}

static double median(double *values, size_t n)
{
    return spread_of(values, n).median;
}

/* Once round the conversations. Each begins with a first token, for which all of it must come back. */
static int round_turns(struct shim_bench *bench, enum shim_runner runner, struct shim_child *child,
                       struct shim_round *round, uint64_t *sum)
{
    double firsts[N_CONVERSATIONS], afters[N_CONVERSATIONS];
    for (uint32_t i = 0; i < N_CONVERSATIONS; i++) {
        struct engine_reply reply;
        int result = ask(bench, PART_TURNS, runner, child, ENGINE_STEP, i, 1 + STEPS_AFTER, &reply);
        if (result < 0)
            return result;
        firsts[i] = (double)reply.first_ns * 1e-9;
        afters[i] = (double)(reply.ns - reply.first_ns) * 1e-9 / STEPS_AFTER;
        *sum = reply.sum;
    }
    if (!takes_part(bench, PART_TURNS, runner))
        return 0;
    bench->n_done[PART_TURNS][runner]++;
    round->first_token[runner] = median(firsts, N_CONVERSATIONS);
    round->second_token[runner] = median(afters, N_CONVERSATIONS);
    uint64_t bytes = shim_child_memory(child, runner);
    if (bytes > bench->memory_bytes[runner])
        bench->memory_bytes[runner] = bytes;
    return 0;
}

static int measure_turns(struct shim_bench *bench)
{
    struct shim_child children[N_RUNNERS];
    int result = start(bench, PART_TURNS, N_CONVERSATIONS, bench->budget_one, children);
    for (uint64_t i = 0; i < bench->options.n_rounds && result == 0; i++) {
        uint64_t sums[N_RUNNERS] = {0};
        for (enum shim_runner runner = 0; runner < N_RUNNERS && result == 0; runner++) {
            if (!takes_part(bench, PART_TURNS, runner))
                continue;
            shim_bench_progress("conversations in turn: round %llu of %llu, %s", (unsigned long long)i + 1,
                                (unsigned long long)bench->options.n_rounds, names[runner]);
            result = round_turns(bench, runner, &children[runner], &bench->rounds[i], &sums[runner]);
        }
        if (result == 0)
            result = compare_sums(bench, PART_TURNS, sums);
    }
    stop(children);
    return result;
}

/* One conversation, three quarters of the memory that it takes. */
static int measure_short(struct shim_bench *bench, struct shim_disk *disk)
{
    struct shim_child children[N_RUNNERS];
    int result = start(bench, PART_SHORT, 1, bench->budget_short, children);
    for (uint64_t i = 0; i < bench->options.n_rounds && result == 0; i++) {
        struct shim_round *round = &bench->rounds[i];
        uint64_t sums[N_RUNNERS] = {0};
        for (enum shim_runner runner = 0; runner < N_RUNNERS && result == 0; runner++) {
            struct engine_reply reply;
            if (!takes_part(bench, PART_SHORT, runner))
                continue;
            shim_bench_progress("three quarters of the memory: round %llu of %llu, %s", (unsigned long long)i + 1,
                                (unsigned long long)bench->options.n_rounds, names[runner]);
            /* In the first round the sweep is new, for the rivals as well. */
            if (i == 0)
                result = ask(bench, PART_SHORT, runner, &children[runner], ENGINE_STEP, 0, SHORT_STEPS, &reply);
            if (result == 0)
                result = ask(bench, PART_SHORT, runner, &children[runner], ENGINE_STEP, 0, SHORT_STEPS, &reply);
            round->short_token[runner] = (double)reply.ns * 1e-9 / SHORT_STEPS;
            bench->n_done[PART_SHORT][runner] += takes_part(bench, PART_SHORT, runner);
            sums[runner] = reply.sum;
        }
        if (result == 0)
            result = compare_sums(bench, PART_SHORT, sums);
        if (result == 0)
            result = shim_disk_measure(&bench->options, disk, round);
    }
    stop(children);
    return result;
}

/* Fresh memory each time: a new process. */
static int measure_faults(struct shim_bench *bench)
{
    int result = 0;
    for (uint64_t i = 0; i < bench->options.n_rounds && result == 0; i++) {
        struct shim_child child;
        struct engine_reply reply;
        shim_bench_progress("faults: round %llu of %llu", (unsigned long long)i + 1,
                            (unsigned long long)bench->options.n_rounds);
        bench->rounds[i].bare_fault = shim_bare_fault(bench->options.chunk);
        result = shim_child_open(bench, RUN_SHIM, 1, bench->options.bytes * 2, 0, &child);
        if (result == 0)
            result = shim_child_ask(&child, ENGINE_TOUCH, 0, (uint32_t)bench->options.chunk, &reply);
        if (result == 0)
            bench->rounds[i].fault = (double)reply.ns * 1e-9 / reply.n;
        shim_child_close(&child);
    }
    return result;
}

int shim_bench_rounds(struct shim_bench *bench)
{
    struct shim_disk disk;
    shim_bench_progress("the disk's best depths");
    int result = shim_disk_open(&bench->options, &disk);
    if (result == 0)
        result = measure_fits(bench);
    if (result == 0)
        result = measure_turns(bench);
    if (result == 0)
        result = measure_short(bench, &disk);
    if (result == 0)
        result = measure_faults(bench);
    shim_disk_close(&disk);
    shim_bench_progress(NULL);
    return result;
}
