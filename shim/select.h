/* SPDX-License-Identifier: Apache-2.0
 *
 * Which allocation is the KV cache. A rule list is one or more of these, with commas between them; the first that fits an
 * allocation decides:
 *
 *   auto            the engines that are known: "llama.cpp"
 *   llama.cpp       the buffer of a tensor list whose first tensor is named cache_k* or cache_v*: what
 *                   ggml_backend_alloc_ctx_tensors_from_buft allocates next on its thread; where ggml is linked statically,
 *                   an allocation by a function whose name contains "ggml_" under one whose name contains "llama_kv_cache"
 *                   (from the executable's symbols)
 *   stack:PATTERN   a function whose (mangled) name fits the shell pattern is among the callers
 *   order:N         the Nth allocation of at least the threshold, counted from 1
 *   size:BYTES      any of at least BYTES
 *   cleared:BYTES   any of at least BYTES that is at once cleared as a whole by one memset (or cuMemsetD*) to zero
 *   list            selects nothing; each allocation over the threshold is printed, with its size, the call and the
 *                   callers' names, so that a rule can be written
 *   none            selects nothing
 *
 * Only allocations of SHIM_THRESHOLD bytes and more are looked at; the rest pass at the cost of one comparison. */
#ifndef SHIM_SELECT_H
#define SHIM_SELECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHIM_THRESHOLD ((size_t)1 << 20)

enum shim_verdict {
    SHIM_PASS,     /* the engine's allocator does it */
    SHIM_SELECTED, /* it is the cache */
    SHIM_TENTATIVE /* it is the cache if it is cleared as a whole before it is used otherwise */
};

/* Parses the list, which must stay. Called once, before any other thread runs hooks. On failure false and one line in
 * reason[size] that names the rule. */
bool shim_select_open(const char *rules, char *reason, size_t size);

/* Whether a rule may select something at all; not with none or list in front. */
bool shim_select_can(void);

/* `call` is the interposed function's name, for `list`. Thread-safe; walks the stack only if a rule needs it. PASS before
 * shim_select_open(). */
enum shim_verdict shim_select(const char *call, size_t bytes);

/* The preset's mark: from now on, the calling thread's allocations of at least `bytes` (and the threshold) are the cache, or,
 * with 0, none is more than another. */
void shim_select_expect(size_t bytes);

/* A tentative one has turned out to be the cache. */
void shim_select_adopted(void);

/* How many allocations were looked at and how many selected, and the largest that was not: for the line at exit "rule …
 * matched nothing". */
struct shim_select_counts {
    uint64_t n_seen, n_selected;
    size_t largest_passed;
};
void shim_select_count(struct shim_select_counts *counts);

/* In a child after fork(): its counts begin anew. */
void shim_select_forget_in_child(void);

#endif
