/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations: what a stream's thread does, one after the other, and what of memory each is known to use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simcuda/sim.h"

struct sim_record *sim_record_new(void)
{
    struct sim_record *record = calloc(1, sizeof *record);
    if (record)
        record->references = 1;
    return record;
}

struct sim_record *sim_record_keep(struct sim_record *record)
{
    record->references++;
    return record;
}

void sim_record_drop(struct sim_record *record)
{
    if (record && --record->references == 0)
        free(record);
}

struct sim_op *sim_op_new(enum sim_op_kind kind, const char *name)
{
    struct sim_op *op = calloc(1, sizeof *op);
    if (op) {
        op->kind = kind;
        snprintf(op->name, sizeof op->name, "%s", name);
    }
    return op;
}

struct sim_op *sim_op_clone(const struct sim_op *op)
{
    struct sim_op *copy = malloc(sizeof *copy);
    if (!copy)
        return NULL;
    *copy = *op;
    copy->next = NULL;
    if (op->params) {
        copy->params = malloc(op->param_bytes);
        if (!copy->params) {
            free(copy);
            return NULL;
        }
        memcpy(copy->params, op->params, op->param_bytes);
    }
    if (op->record)
        sim_record_keep(op->record);
    return copy;
}

void sim_op_free(struct sim_op *op)
{
    if (!op)
        return;
    sim_record_drop(op->record);
    free(op->params);
    free(op);
}

void sim_ops_free(struct sim_op *first)
{
    while (first) {
        struct sim_op *next = first->next;
        sim_op_free(first);
        first = next;
    }
}

static void *reference_at(uint64_t address)
{
    return sim_arena_host(address);
}

static void run_copy(const struct sim_op *op)
{
    void *host = (void *)(uintptr_t)op->host.start; /* NOLINT(performance-no-int-to-ptr): kept as a span */
    void *to = op->writes.bytes ? sim_arena_host(op->writes.start) : host;
    const void *from = op->reads.bytes ? sim_arena_host(op->reads.start) : host;
    memmove(to, from, op->writes.bytes ? op->writes.bytes : op->reads.bytes);
}

static void run_fill(const struct sim_op *op)
{
    unsigned char *to = sim_arena_host(op->writes.start);
    if (op->word == (op->word & 0xff) * 0x01010101u) {
        memset(to, (int)(op->word & 0xff), op->writes.bytes);
        return;
    }
    for (size_t i = 0; i < op->writes.bytes; i += sizeof op->word)
        memcpy(to + i, &op->word, sizeof op->word);
}

void sim_op_run(void *arg)
{
    const struct sim_op *op = arg;
    switch (op->kind) {
    case SIM_OP_COPY:
        run_copy(op);
        break;
    case SIM_OP_FILL:
        run_fill(op);
        break;
    case SIM_OP_KERNEL:
        if (op->run)
            op->run(op->params, &op->launch);
        else
            op->reference(op->params, reference_at);
        break;
    case SIM_OP_HOST:
        sim_set_in_host_function(true);
        op->host_function(op->user);
        sim_set_in_host_function(false);
        break;
    case SIM_OP_RECORD:
    case SIM_OP_WAIT:
        break;
    }
}

static bool span_is_bad(const struct sim_op *op, const struct sim_span *span, bool write)
{
    const char *trouble = span->bytes ? sim_span_trouble(span->start, span->bytes, write) : NULL;
    if (trouble)
        sim_violation("%s %s %#llx+%#llx: %s", op->name, write ? "writes" : "reads", (unsigned long long)span->start,
                      (unsigned long long)span->bytes, trouble);
    return trouble != NULL;
}

CUresult sim_op_check(const struct sim_op *op)
{
    if (span_is_bad(op, &op->writes, true) || span_is_bad(op, &op->reads, false))
        return CUDA_ERROR_INVALID_VALUE;
    const void *host = (const void *)(uintptr_t)op->host.start; /* NOLINT(performance-no-int-to-ptr) */
    if (op->host.bytes && !op->pageable && !sim_host_is_pinned(host, op->host.bytes)) {
        sim_violation("%s: host memory %p+%#llx is not pinned", op->name, host, (unsigned long long)op->host.bytes);
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

static bool overlap(const struct sim_span *span, uint64_t start, uint64_t bytes)
{
    return span->bytes && span->start < start + bytes && start < span->start + span->bytes;
}

/* A kernel uses what its parameters point at: each of their words that is an address there counts as one. What it finds
 * through device memory, such as an array of addresses, is not known before it runs. */
static bool points_into(const struct sim_op *op, uint64_t start, uint64_t bytes)
{
    for (size_t at = 0; at + sizeof(uint64_t) <= op->param_bytes; at += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, (const char *)op->params + at, sizeof word);
        if (word - start < bytes)
            return true;
    }
    return false;
}

bool sim_op_uses(const struct sim_op *op, uint64_t start, uint64_t bytes)
{
    return overlap(&op->writes, start, bytes) || overlap(&op->reads, start, bytes) || points_into(op, start, bytes);
}

bool sim_op_uses_host(const struct sim_op *op, uint64_t start, uint64_t bytes)
{
    return overlap(&op->host, start, bytes);
}

bool sim_op_uses_module(const struct sim_op *op, uint64_t module, uint64_t b)
{
    (void)b;
    return op->module == module;
}
