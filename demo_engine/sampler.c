/* SPDX-License-Identifier: Apache-2.0 */
#include "sampler.h"

#include <math.h>
#include <stdlib.h>

/* PCG32 (O'Neill 2014, pcg-random.org): an LCG of 64 bits, whose output is permuted; an odd increment is its stream. */
struct pcg32 {
    uint64_t state, increment;
};

static uint32_t pcg32_next(struct pcg32 *rng)
{
    uint64_t old = rng->state;
    rng->state = old * 6364136223846793005u + rng->increment;
    uint32_t mixed = (uint32_t)(((old >> 18) ^ old) >> 27);
    uint32_t turn = (uint32_t)(old >> 59);
    return mixed >> turn | mixed << (-turn & 31);
}

static void pcg32_seed(struct pcg32 *rng, uint64_t seed, uint64_t stream)
{
    *rng = (struct pcg32){.state = 0, .increment = stream << 1 | 1};
    (void)pcg32_next(rng);
    rng->state += seed;
    (void)pcg32_next(rng);
}

struct candidate {
    float logit;
    engine_token token;
};

struct sampler {
    struct sampler_config config;
    struct pcg32 rng;
    uint32_t n_vocab;
    struct candidate *candidates; /* [n_vocab] */
    double *weights;              /* [n_vocab], of the candidates */
};

int sampler_open(const struct sampler_config *config, uint32_t n_vocab, struct sampler **sampler,
                 struct engine_error *err)
{
    if (!(config->temperature >= 0) || isinf(config->temperature))
        return engine_fail(err, "temperature %g is not a number ≥ 0", (double)config->temperature);
    if (!(config->top_p > 0) || config->top_p > 1)
        return engine_fail(err, "top-p %g is not above 0 and at most 1", (double)config->top_p);
    struct sampler *s = calloc(1, sizeof *s);
    if (s) {
        s->candidates = calloc(n_vocab, sizeof *s->candidates);
        s->weights = calloc(n_vocab, sizeof *s->weights);
    }
    if (!s || !s->candidates || !s->weights) {
        sampler_close(&s);
        return engine_fail(err, "out of memory for a sampler of %u tokens", n_vocab);
    }
    s->config = *config;
    s->n_vocab = n_vocab;
    pcg32_seed(&s->rng, config->seed, config->stream);
    *sampler = s;
    return 0;
}

void sampler_close(struct sampler **sampler)
{
    if (!sampler || !*sampler)
        return;
    free((*sampler)->candidates);
    free((*sampler)->weights);
    free(*sampler);
    *sampler = NULL;
}

static engine_token highest(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (logits[i] > logits[best])
            best = i;
    }
    return (engine_token)best;
}

static int by_logit_then_token(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    if (a->logit != b->logit)
        return a->logit > b->logit ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

/* 53 random bits in [0, 1). */
static double uniform(struct pcg32 *rng)
{
    uint64_t high = pcg32_next(rng) >> 5, low = pcg32_next(rng) >> 6;
    return (double)(high << 26 | low) * 0x1p-53;
}

static engine_token draw(struct sampler *s, const float *logits)
{
    for (uint32_t i = 0; i < s->n_vocab; i++)
        s->candidates[i] = (struct candidate){.logit = logits[i], .token = (engine_token)i};
    qsort(s->candidates, s->n_vocab, sizeof *s->candidates, by_logit_then_token);

    double total = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        double below = (double)s->candidates[i].logit - (double)s->candidates[0].logit;
        s->weights[i] = exp(below / (double)s->config.temperature);
        total += s->weights[i];
    }
    uint32_t kept = 0;
    double kept_weight = 0;
    do
        kept_weight += s->weights[kept++];
    while (kept < s->n_vocab && kept_weight < (double)s->config.top_p * total);

    double point = uniform(&s->rng) * kept_weight;
    uint32_t i = 0;
    while (i + 1 < kept && point >= s->weights[i])
        point -= s->weights[i++];
    return s->candidates[i].token;
}

engine_token sampler_pick(struct sampler *s, const float *logits)
{
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        if (!isfinite(logits[i]))
            return -1;
    }
    return s->config.temperature > 0 ? draw(s, logits) : highest(logits, s->n_vocab);
}
