/* SPDX-License-Identifier: Apache-2.0
 *
 * Rule lists as text (select.h has the grammar) to structs. Pure: `kvmm run` checks --select by it, too. */
#ifndef SHIM_RULES_H
#define SHIM_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum shim_rule_kind {
    SHIM_RULE_LLAMA_CPP,
    SHIM_RULE_STACK,
    SHIM_RULE_ORDER,
    SHIM_RULE_SIZE,
    SHIM_RULE_CLEARED,
    SHIM_RULE_LIST,
    SHIM_RULE_NONE
};

#define SHIM_RULES_MAX     12
#define SHIM_PATTERN_BYTES 256 /* with its NUL */

struct shim_rule {
    enum shim_rule_kind kind;
    uint64_t number; /* order: which; size, cleared: bytes */
    char pattern[SHIM_PATTERN_BYTES];
};

struct shim_rules {
    size_t n;
    struct shim_rule all[SHIM_RULES_MAX];
};

/* True if the whole list is good; else *rules is undefined and reason[size] has one line that names the rule. */
bool shim_rules_parse(const char *text, struct shim_rules *rules, char *reason, size_t size);

#endif
