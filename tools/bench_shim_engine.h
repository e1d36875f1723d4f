/* SPDX-License-Identifier: Apache-2.0
 *
 * The small engine of `kvmm bench shim`: a process of its own, that keeps a KV cache as llama.cpp does and does to it what
 * decoding does, and nothing else. It takes requests on its standard input, a socket, one at a time, and answers each.
 *
 * The cache is [layer][K or V][conversation][token] rows of row_bytes: of each layer a conversation has two stretches. A step
 * writes a row of K and of V in each layer and reads all rows of the conversation, K before V, layer by layer; threads share
 * each stretch. What it read is added up, so that the sums of two engines can be compared. */
#ifndef TOOLS_BENCH_SHIM_ENGINE_H
#define TOOLS_BENCH_SHIM_ENGINE_H

#include <stdint.h>

enum engine_op {
    ENGINE_OPEN,  /* allocates and clears the cache */
    ENGINE_FILL,  /* writes a conversation's first n tokens */
    ENGINE_STEP,  /* n tokens of a conversation */
    ENGINE_TOUCH, /* reads one byte in every n of all that a conversation may fill */
    ENGINE_SYNC,  /* writes a mapped file to the disk */
};

struct engine_shape {
    uint32_t n_layers, n_tokens, n_conversations, row_bytes;
    uint32_t n_threads;
};

struct engine_request {
    uint32_t op, conversation, n;
    struct engine_shape shape; /* ENGINE_OPEN */
    int32_t map_file;          /* the cache is a file in folder, mapped, instead of allocated memory */
    char folder[512];
};

struct engine_reply {
    int32_t result; /* 0 or -errno */
    uint32_t n;     /* ENGINE_TOUCH: bytes read */
    uint64_t ns, first_ns /* of the first token */;
    uint64_t cpu_ns; /* of all the process's threads */
    uint64_t sum;
};

#endif
