/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench attention --device cuda:N`, in parts: what is measured (the plan), on which memory (bench_cuda_cache.h), and
 * how it is told. What returns bool has said on stderr, in one line, why it is false. */
#ifndef TOOLS_BENCH_ATTENTION_CUDA_H
#define TOOLS_BENCH_ATTENTION_CUDA_H

#include <argp.h>

#include "tools/bench_cuda.h"
#include "tools/bench_cuda_cache.h"
#include "tools/bench_cuda_peaks.h"

enum { ATTENTION_MOST_ROUNDS = 100, ATTENTION_MOST_SIZES = 8 };

struct attention_sizes {
    uint32_t n, of[ATTENTION_MOST_SIZES];
};

struct attention_cuda_options {
    bool on_cuda; /* --device cuda was given */
    bool any;     /* one of the options that only mean something there was */
    int ordinal;
    struct attention_sizes batches, contexts, prefills;
    uint32_t n_layers, n_steps;
    int shape, type, layout; /* −1: all */
    uint32_t n_rounds;
    bool json;
};

/* The arguments that only the bench on a CUDA device has. Its input is a struct attention_cuda_options. */
extern const struct argp attention_cuda_argp;
/* What is measured if nothing else is asked for. */
struct attention_cuda_options attention_cuda_defaults(void);

enum attention_work { ATTENTION_DECODE, ATTENTION_PREFILL };

/* Who does the work. kvmm first; the others are its rivals. */
enum { CONTENDER_KVMM, CONTENDER_PAGED, N_CONTENDERS };
extern const char *const contender_names[N_CONTENDERS];

/* One line of the result. */
struct attention_row {
    enum attention_work work;
    const struct cuda_shape *shape;
    enum kern_dtype type;
    enum kvmm_layout_kind layout;
    uint32_t batch, context;                             /* measured */
    uint32_t wanted_batch, wanted_context;               /* more, if the memory was too small for it */
    double copy[ATTENTION_MOST_ROUNDS];                  /* bytes/s */
    double matrix[ATTENTION_MOST_ROUNDS];                /* FLOP/s; 0: not measured */
    double seconds[N_CONTENDERS][ATTENTION_MOST_ROUNDS]; /* a pass over the layers; 0: not measured */
};

/* How long a decode step takes while its sequences grow. */
enum mapping_way { MAPPED_UP_FRONT, MAPPED_ON_DEMAND, MAPPED_ON_DEMAND_GRAPH, N_MAPPING_WAYS };

struct mapping_row {
    const struct cuda_shape *shape;
    enum kern_dtype type;
    enum kvmm_layout_kind layout;
    uint32_t batch, wanted_batch, context, n_steps;
    double seconds[N_MAPPING_WAYS][ATTENTION_MOST_ROUNDS]; /* a step */
};

struct attention_cuda {
    struct attention_cuda_options options;
    struct bench_cuda gpu;
    char device_text[16]; /* "cuda:0" */
    struct cuda_peaks peaks;
    struct attention_row *rows;
    size_t n_rows;
    struct mapping_row *mappings;
    size_t n_mappings;
};

/* bench_attention_cuda_work.c: all rounds of a row; its sizes are made smaller until they fit. */
bool attention_measure(struct attention_cuda *bench, struct attention_row *row);
/* bench_attention_cuda_mapping.c: the same for growing sequences. */
bool attention_measure_mapping(struct attention_cuda *bench, struct mapping_row *row);
/* bench_attention_cuda_print.c */
void attention_print_json(struct attention_cuda *bench);
void attention_print_table(struct attention_cuda *bench);

/* What one query of each sequence at its end, or all queries of one sequence, need of K and V: read once, in all layers. */
double attention_kv_bytes(const struct cuda_shape *shape, uint32_t n_layers, uint32_t batch, uint32_t context);
/* The multiply-adds of a causal prefill, as FLOP, in all layers. */
double attention_prefill_flop(const struct cuda_shape *shape, uint32_t n_layers, uint32_t batch, uint32_t context);

/* The exit status. */
int bench_attention_cuda(const struct attention_cuda_options *options);

#endif
