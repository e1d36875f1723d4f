/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/rules.h"

#include <stdio.h>
#include <string.h>

#include "shim/config.h"
#include "shim/select.h"

#define RULE_BYTES (SHIM_PATTERN_BYTES + 16)

static const struct {
    const char *name;
    enum shim_rule_kind kind;
    bool with_value;
} grammar[] = {
    {"auto", SHIM_RULE_LLAMA_CPP, false}, {"llama.cpp", SHIM_RULE_LLAMA_CPP, false},
    {"stack", SHIM_RULE_STACK, true},     {"order", SHIM_RULE_ORDER, true},
    {"size", SHIM_RULE_SIZE, true},       {"cleared", SHIM_RULE_CLEARED, true},
    {"list", SHIM_RULE_LIST, false},      {"none", SHIM_RULE_NONE, false},
};

/* What is wrong with the value, or NULL. */
static const char *take_value(struct shim_rule *rule, const char *value)
{
    switch (rule->kind) {
    case SHIM_RULE_STACK:
        if (strlen(value) >= sizeof rule->pattern)
            return "the pattern is too long";
        memcpy(rule->pattern, value, strlen(value) + 1);
        return NULL;
    case SHIM_RULE_ORDER:
        if (strspn(value, "0123456789") != strlen(value) || !shim_config_bytes(value, &rule->number) ||
            rule->number == 0)
            return "not a number from 1";
        return NULL;
    default:
        if (!shim_config_bytes(value, &rule->number))
            return "not a number of bytes such as 4096, 64MiB or 2G";
        if (rule->number < SHIM_THRESHOLD)
            return "allocations under 1MiB are not looked at";
        return NULL;
    }
}

static bool parse_rule(const char *text, struct shim_rule *rule, char *reason, size_t size)
{
    size_t n_name = strcspn(text, ":");
    for (size_t i = 0; i < sizeof grammar / sizeof grammar[0]; i++) {
        if (strlen(grammar[i].name) != n_name || strncmp(grammar[i].name, text, n_name) != 0)
            continue;
        *rule = (struct shim_rule){.kind = grammar[i].kind};
        const char *wrong = NULL;
        if (grammar[i].with_value)
            wrong = text[n_name] && text[n_name + 1] ? take_value(rule, text + n_name + 1) : "a value is missing";
        else if (text[n_name])
            wrong = "it takes no value";
        if (wrong)
            snprintf(reason, size, "rule '%s': %s", text, wrong);
        return !wrong;
    }
    snprintf(reason, size, "rule '%s': there are auto, llama.cpp, stack:, order:, size:, cleared:, list and none",
             text);
    return false;
}

bool shim_rules_parse(const char *text, struct shim_rules *rules, char *reason, size_t size)
{
    rules->n = 0;
    for (const char *at = text;; at++) {
        size_t n = strcspn(at, ",");
        char one[RULE_BYTES];
        if (n >= sizeof one) {
            snprintf(reason, size, "rule '%.32s...' is too long", at);
            return false;
        }
        memcpy(one, at, n);
        one[n] = '\0';
        if (rules->n == SHIM_RULES_MAX) {
            snprintf(reason, size, "rule '%s': there may be %d rules at most", one, SHIM_RULES_MAX);
            return false;
        }
        if (!parse_rule(one, &rules->all[rules->n], reason, size))
            return false;
        rules->n++;
        at += n;
        if (*at == '\0')
            return true;
    }
}
