/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/select.h"

#include <fnmatch.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "shim/elf_objects.h"
#include "shim/log.h"
#include "shim/rules.h"
#include "shim/stack.h"
#include "shim/symbols.h"

/* Written by shim_select_open() alone. */
static struct shim_rules rules;
static bool may_walk; /* a rule needs the stack, if only in a process with llama.cpp in it */

static atomic_uint_fast64_t n_seen, n_selected;
static atomic_size_t largest_passed;

static _Thread_local size_t expected __attribute__((tls_model("initial-exec")));

bool shim_select_open(const char *text, char *reason, size_t size)
{
    struct shim_rules parsed;
    if (!shim_rules_parse(text, &parsed, reason, size))
        return false;
    bool walk = false;
    for (size_t i = 0; i < parsed.n; i++)
        walk |= parsed.all[i].kind == SHIM_RULE_STACK || parsed.all[i].kind == SHIM_RULE_LLAMA_CPP;
    rules = parsed;
    may_walk = walk;
    return true;
}

bool shim_select_can(void)
{
    return rules.n > 0 && rules.all[0].kind != SHIM_RULE_LIST && rules.all[0].kind != SHIM_RULE_NONE;
}

void shim_select_expect(size_t bytes)
{
    expected = bytes;
}

/* ---- What a caller's name says ------------------------------------------------------------------------------- */

/* One bit for each stack: rule, at the rule's place in the list, and two for llama.cpp. */
enum { IN_KV_CACHE = 1 << SHIM_RULES_MAX, IN_GGML = 2 << SHIM_RULES_MAX, IS_KNOWN = 4 << SHIM_RULES_MAX };
_Static_assert(IS_KNOWN < 1 << 16, "the bits share a word with an address");

/* What is known of callers: address << 16 | bits, by a hash of the address. Addresses have 48 bits (x86-64 and arm64
 * without larger address spaces, which a process must ask for); what has more isn't kept. */
#define N_KNOWN 4096
static atomic_uint_fast64_t known[N_KNOWN];
static atomic_uint_fast64_t n_unloaded; /* when `known` was last valid */

static unsigned bits_of_name(const char *name)
{
    unsigned bits = 0;
    if (strstr(name, "llama_kv_cache"))
        bits |= IN_KV_CACHE;
    if (strstr(name, "ggml_"))
        bits |= IN_GGML;
    for (size_t i = 0; i < rules.n; i++) {
        if (rules.all[i].kind == SHIM_RULE_STACK && fnmatch(rules.all[i].pattern, name, 0) == 0)
            bits |= 1u << i;
    }
    return bits;
}

static unsigned bits_of_caller(const void *caller)
{
    uint64_t address = (uint64_t)(uintptr_t)caller;
    atomic_uint_fast64_t *entry = &known[(address ^ address >> 12) % N_KNOWN];
    uint64_t value = atomic_load_explicit(entry, memory_order_relaxed);
    if (value >> 16 == address && (value & IS_KNOWN))
        return (unsigned)(value & 0xffff);
    char name[1024];
    unsigned bits = shim_symbols_name(caller, name, sizeof name) ? bits_of_name(name) : 0;
    if (address >> 48 == 0)
        atomic_store_explicit(entry, address << 16 | bits | IS_KNOWN, memory_order_relaxed);
    return bits;
}

/* Other functions may be at the addresses of an object that was unloaded. */
static void forget_unloaded(uint64_t n_now)
{
    if (atomic_exchange_explicit(&n_unloaded, n_now, memory_order_relaxed) == n_now)
        return;
    for (size_t i = 0; i < N_KNOWN; i++)
        atomic_store_explicit(&known[i], 0, memory_order_relaxed);
}

static bool look_for_llama(const struct shim_object *object, void *user)
{
    bool *found = user;
    *found = shim_elf_symbol(object, "llama_backend_init") ||
             (object->is_program && shim_symbols_file_has(object, "llama_kv_cache"));
    return *found;
}

/* Whether llama.cpp is in this process. It is looked for again when objects were loaded. */
static bool llama_is_here(uint64_t n_loaded)
{
    static atomic_uint_fast64_t looked_at;
    static atomic_bool here;
    if (!atomic_load_explicit(&here, memory_order_relaxed) &&
        atomic_exchange_explicit(&looked_at, n_loaded, memory_order_relaxed) != n_loaded) {
        bool found = false;
        shim_elf_each(look_for_llama, &found);
        if (found)
            atomic_store_explicit(&here, true, memory_order_relaxed);
    }
    return atomic_load_explicit(&here, memory_order_relaxed);
}

/* All bits of the callers; for llama.cpp's two only if ggml's is the inner one. */
static unsigned bits_of_stack(void)
{
    struct shim_elf_changes changes = shim_elf_changes();
    bool walk = llama_is_here(changes.n_loaded) && !expected;
    for (size_t i = 0; i < rules.n; i++)
        walk |= rules.all[i].kind == SHIM_RULE_STACK;
    if (!walk)
        return 0;
    forget_unloaded(changes.n_unloaded);
    const void *callers[SHIM_STACK_MAX];
    size_t n = shim_stack_callers(callers);
    unsigned bits = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned more = bits_of_caller(callers[i]);
        if (!(bits & IN_GGML))
            more &= ~(unsigned)IN_KV_CACHE;
        bits |= more;
    }
    return bits;
}

/* ---- list ---------------------------------------------------------------------------------------------------- */

#define LIST_LINE 440 /* what a line of the log holds, less what stands before it */

static void print_seen(const char *call, size_t bytes, uint64_t order)
{
    const void *callers[SHIM_STACK_MAX];
    size_t n = shim_stack_callers(callers);
    char line[LIST_LINE] = "";
    size_t used = 0;
    shim_log("order:%llu %s of %zu bytes (%.1f MiB), called by", (unsigned long long)order, call, bytes,
             (double)bytes / (1 << 20));
    for (size_t i = 0; i < n; i++) {
        char name[256], one[LIST_LINE];
        struct shim_object object;
        if (shim_symbols_name(callers[i], name, sizeof name))
            snprintf(one, sizeof one, " < %s", name);
        else if (shim_elf_at(callers[i], &object))
            snprintf(one, sizeof one, " < (%.200s+0x%zx)", object.is_program ? "the program" : object.path,
                     (size_t)((uintptr_t)callers[i] - object.base));
        else
            snprintf(one, sizeof one, " < (%p)", callers[i]);
        size_t more = strlen(one);
        if (used + more >= sizeof line) {
            shim_log("   %s", line);
            used = 0;
        }
        memcpy(line + used, one, more + 1);
        used += more;
    }
    if (used)
        shim_log("   %s", line);
}

/* ---- Rules --------------------------------------------------------------------------------------------------- */

struct allocation {
    const char *call;
    size_t bytes;
    uint64_t order;
    unsigned bits;
};

static bool fits(size_t i, const struct allocation *a)
{
    const struct shim_rule *rule = &rules.all[i];
    switch (rule->kind) {
    case SHIM_RULE_LLAMA_CPP:
        return (expected && a->bytes >= expected) || (a->bits & IN_KV_CACHE);
    case SHIM_RULE_STACK:
        return a->bits >> i & 1;
    case SHIM_RULE_ORDER:
        return a->order == rule->number;
    case SHIM_RULE_SIZE:
    case SHIM_RULE_CLEARED:
        return a->bytes >= rule->number;
    case SHIM_RULE_LIST:
    case SHIM_RULE_NONE:
        break;
    }
    return true;
}

static enum shim_verdict judge(const struct allocation *a)
{
    for (size_t i = 0; i < rules.n; i++) {
        if (!fits(i, a))
            continue;
        switch (rules.all[i].kind) {
        case SHIM_RULE_LIST:
            print_seen(a->call, a->bytes, a->order);
            return SHIM_PASS;
        case SHIM_RULE_NONE:
            return SHIM_PASS;
        case SHIM_RULE_CLEARED:
            return SHIM_TENTATIVE;
        default:
            return SHIM_SELECTED;
        }
    }
    return SHIM_PASS;
}

enum shim_verdict shim_select(const char *call, size_t bytes)
{
    if (bytes < SHIM_THRESHOLD || rules.n == 0)
        return SHIM_PASS;
    struct allocation allocation = {
        .call = call,
        .bytes = bytes,
        .order = atomic_fetch_add_explicit(&n_seen, 1, memory_order_relaxed) + 1,
        .bits = may_walk ? bits_of_stack() : 0,
    };
    enum shim_verdict verdict = judge(&allocation);
    if (verdict == SHIM_SELECTED) {
        atomic_fetch_add_explicit(&n_selected, 1, memory_order_relaxed);
        return verdict;
    }
    size_t largest = atomic_load_explicit(&largest_passed, memory_order_relaxed);
    while (bytes > largest && !atomic_compare_exchange_weak_explicit(&largest_passed, &largest, bytes,
                                                                     memory_order_relaxed, memory_order_relaxed))
        ;
    return verdict;
}

void shim_select_adopted(void)
{
    atomic_fetch_add_explicit(&n_selected, 1, memory_order_relaxed);
}

void shim_select_count(struct shim_select_counts *counts)
{
    *counts = (struct shim_select_counts){
        .n_seen = atomic_load_explicit(&n_seen, memory_order_relaxed),
        .n_selected = atomic_load_explicit(&n_selected, memory_order_relaxed),
        .largest_passed = atomic_load_explicit(&largest_passed, memory_order_relaxed),
    };
}

void shim_select_forget_in_child(void)
{
    atomic_store_explicit(&n_seen, 0, memory_order_relaxed);
    atomic_store_explicit(&n_selected, 0, memory_order_relaxed);
    atomic_store_explicit(&largest_passed, 0, memory_order_relaxed);
}
