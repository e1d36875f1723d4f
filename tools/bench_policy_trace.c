/* SPDX-License-Identifier: Apache-2.0
 *
 * Mooncake's traces (Qin et al., FAST 2025): {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids":
 * [one for each 512-token block of the prompt]}. Equal ids are equal prefixes. What is generated is in no block until a
 * later prompt has it. */
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "tools/bench_policy.h"

#define MOST_LINE  ((size_t)64 << 20)
#define MOST_INPUT ((json_int_t)1 << 30) /* tokens */
#define MOST_MS    ((json_int_t)1 << 40)

struct reader {
    struct policy_trace *trace;
    gzFile file;
    char *line;
    size_t line_size;
    uint32_t line_number;
    uint32_t requests_size;
    uint64_t *ids; /* as in the file; becomes trace->blocks */
    uint64_t ids_size;
};

__attribute__((format(printf, 2, 3))) static void complain(const struct reader *reader, const char *format, ...)
{
    fprintf(stderr, POLICY_COMMAND ": %s:", reader->trace->path);
    if (reader->line_number > 0)
        fprintf(stderr, "%u:", reader->line_number);
    fputc(' ', stderr);
    va_list arguments;
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

#define REFUSE(reader, ...) (complain(reader, __VA_ARGS__), false)

/* 1: a line, without its end; 0: there are no more; -1: it said why not. */
static int next_line(struct reader *reader)
{
    size_t n = 0;
    reader->line_number++;
    for (;;) {
        if (reader->line_size - n < 2) {
            char *line = reader->line_size < MOST_LINE ? realloc(reader->line, reader->line_size * 2 + 4096) : NULL;
            if (!line) {
                complain(reader, "this line is too long");
                return -1;
            }
            reader->line = line;
            reader->line_size = reader->line_size * 2 + 4096;
        }
        if (!gzgets(reader->file, reader->line + n, (int)(reader->line_size - n))) {
            int error;
            const char *reason = gzerror(reader->file, &error);
            if (error != Z_OK && error != Z_STREAM_END) {
                complain(reader, "%s", error == Z_ERRNO ? strerror(errno) : reason);
                return -1;
            }
            return n > 0;
        }
        n += strlen(reader->line + n);
        if (n > 0 && reader->line[n - 1] == '\n') {
            reader->line[n - 1] = '\0';
            return 1;
        }
    }
}

static bool room_for(struct reader *reader, size_t n_ids)
{
    struct policy_trace *trace = reader->trace;
    if (trace->n_requests == reader->requests_size) {
        uint32_t size = reader->requests_size * 2 + 1024;
        struct policy_request *requests = reallocarray(trace->requests, size, sizeof *requests);
        if (!requests)
            return false;
        trace->requests = requests;
        reader->requests_size = size;
    }
    if (!reader->ids || trace->n_blocks + n_ids > reader->ids_size) {
        uint64_t size = reader->ids_size * 2 + n_ids + 4096;
        uint64_t *ids = reallocarray(reader->ids, size, sizeof *ids);
        if (!ids)
            return false;
        reader->ids = ids;
        reader->ids_size = size;
    }
    return true;
}

static bool read_number(const struct reader *reader, const json_t *object, const char *name, json_int_t most,
                        uint64_t *number)
{
    const json_t *value = json_object_get(object, name);
    if (!value)
        return REFUSE(reader, "there is no \"%s\"", name);
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > most)
        return REFUSE(reader, "\"%s\" is not an integer from 0 to %lld", name, (long long)most);
    *number = (uint64_t)json_integer_value(value);
    return true;
}

static bool take_request(struct reader *reader, const json_t *object)
{
    struct policy_trace *trace = reader->trace;
    uint64_t at_ms, input;
    if (!json_is_object(object))
        return REFUSE(reader, "this is no JSON object");
    if (!read_number(reader, object, "timestamp", MOST_MS, &at_ms) ||
        !read_number(reader, object, "input_length", MOST_INPUT, &input))
        return false;
    const json_t *ids = json_object_get(object, "hash_ids");
    if (!json_is_array(ids))
        return REFUSE(reader, "there is no list \"hash_ids\": nothing says which requests share a prefix");
    size_t n = json_array_size(ids);
    uint64_t expected = (input + POLICY_BLOCK_TOKENS - 1) / POLICY_BLOCK_TOKENS;
    if (n == 0 || n != expected)
        return REFUSE(reader, "\"input_length\" %llu takes %llu blocks of %u tokens, but there are %zu \"hash_ids\"",
                      (unsigned long long)input, (unsigned long long)expected, POLICY_BLOCK_TOKENS, n);
    uint64_t at_ns = at_ms * 1000000u;
    if (trace->n_requests > 0 && trace->requests[trace->n_requests - 1].at_ns > at_ns)
        return REFUSE(reader, "\"timestamp\" %llu is before that of the request above it", (unsigned long long)at_ms);
    if (trace->n_requests == UINT32_MAX / 2 || !room_for(reader, n))
        return REFUSE(reader, "there is no memory for more requests");
    trace->requests[trace->n_requests++] = (struct policy_request){
        .at_ns = at_ns, .first = trace->n_blocks, .n = (uint32_t)n, .line = reader->line_number};
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return REFUSE(reader, "number %zu of \"hash_ids\" is not an integer from 0", i + 1);
        reader->ids[trace->n_blocks++] = (uint64_t)json_integer_value(id);
    }
    return true;
}

static bool read_lines(struct reader *reader)
{
    int more;
    while ((more = next_line(reader)) > 0) {
        if (reader->line[strspn(reader->line, " \t\r")] == '\0')
            continue;
        if (strncmp(reader->line, "TIMESTAMP,ContextTokens", 23) == 0)
            return REFUSE(reader, "an Azure trace has lengths only: nothing says which requests share a prefix");
        json_error_t error;
        json_t *object = json_loads(reader->line, JSON_REJECT_DUPLICATES, &error);
        if (!object)
            return REFUSE(reader, "this is no JSON: %s", error.text);
        bool good = take_request(reader, object);
        json_decref(object);
        if (!good)
            return false;
    }
    reader->line_number = 0;
    if (more == 0 && reader->trace->n_requests == 0)
        return REFUSE(reader, "there is no request in it");
    return more == 0;
}

static int by_id(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* Ids become numbers without gaps. */
static bool number_blocks(struct reader *reader)
{
    struct policy_trace *trace = reader->trace;
    if (!reader->ids)
        return false;
    uint64_t *distinct = malloc(trace->n_blocks * sizeof *distinct);
    trace->blocks = malloc(trace->n_blocks * sizeof *trace->blocks);
    if (!distinct || !trace->blocks || trace->n_blocks >= POLICY_UNLIMITED) {
        free(distinct);
        return REFUSE(reader, "there is no memory for %llu blocks", (unsigned long long)trace->n_blocks);
    }
    memcpy(distinct, reader->ids, trace->n_blocks * sizeof *distinct);
    qsort(distinct, trace->n_blocks, sizeof *distinct, by_id);
    uint32_t n = 1;
    for (uint64_t i = 1; i < trace->n_blocks; i++)
        if (distinct[i] != distinct[n - 1])
            distinct[n++] = distinct[i];
    for (uint64_t i = 0; i < trace->n_blocks; i++) {
        const uint64_t *found = bsearch(&reader->ids[i], distinct, n, sizeof *distinct, by_id);
        trace->blocks[i] = (uint32_t)(found - distinct);
    }
    trace->n_distinct = n;
    free(distinct);
    return true;
}

/* Equal ids are equal prefixes: each block follows the same one wherever it is, and so is in a request once. */
static bool check_prefixes(struct reader *reader)
{
    struct policy_trace *trace = reader->trace;
    const uint32_t none = UINT32_MAX, unseen = UINT32_MAX - 1;
    uint32_t *before = malloc(trace->n_distinct * sizeof *before);
    if (!before)
        return REFUSE(reader, "there is no memory for %u blocks", trace->n_distinct);
    for (uint32_t i = 0; i < trace->n_distinct; i++)
        before[i] = unseen;
    bool good = true;
    for (uint32_t r = 0; r < trace->n_requests && good; r++) {
        const struct policy_request *request = &trace->requests[r];
        uint32_t last = none;
        reader->line_number = request->line;
        for (uint32_t i = 0; i < request->n && good; i++) {
            uint32_t block = trace->blocks[request->first + i];
            if (before[block] != unseen && before[block] != last)
                good = REFUSE(reader, "id %llu stands for two prefixes: it does not follow the same id as before",
                              (unsigned long long)reader->ids[request->first + i]);
            before[block] = last;
            last = block;
        }
        if (request->n > trace->requests[trace->longest].n)
            trace->longest = r;
    }
    free(before);
    return good;
}

bool policy_trace_read(const char *path, struct policy_trace *trace)
{
    *trace = (struct policy_trace){.path = path};
    struct reader reader = {.trace = trace};
    errno = 0;
    reader.file = gzopen(path, "rbe");
    if (!reader.file)
        return REFUSE(&reader, "%s", strerror(errno ? errno : ENOMEM));
    bool good = read_lines(&reader) && number_blocks(&reader) && check_prefixes(&reader);
    gzclose_r(reader.file);
    free(reader.line);
    free(reader.ids);
    if (!good)
        policy_trace_free(trace);
    return good;
}

void policy_trace_free(struct policy_trace *trace)
{
    free(trace->requests);
    free(trace->blocks);
    *trace = (struct policy_trace){0};
}
