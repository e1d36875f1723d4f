/* SPDX-License-Identifier: Apache-2.0
 *
 * Settings and rules: what is good means what the headers say, and what is bad is named. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "shim/config.h"
#include "shim/rules.h"

START_TEST(bytes)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"4096", 4096},
                {"64K", 65536},
                {"64KiB", 65536},
                {"3M", 3 << 20},
                {"2G", 2ull << 30},
                {"2GiB", 2ull << 30},
                {"1T", 1ull << 40},
                {"18446744073709551615", UINT64_MAX},
                {"16777215T", 16777215ull << 40}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        uint64_t number = 1;
        ck_assert_msg(shim_config_bytes(good[i].text, &number), "%s is refused", good[i].text);
        ck_assert_msg(number == good[i].bytes, "%s is taken for %llu", good[i].text, (unsigned long long)number);
    }
    static const char *const bad[] = {"",          " 1",
                                      "1 ",        "-1",
                                      "+1",        "0x10",
                                      "1.5G",      "G",
                                      "KiB",       "1KB",
                                      "1Kib",      "1k",
                                      "1GiBs",     "1i",
                                      "1P",        "18446744073709551616",
                                      "16777216T", "99999999999999999999999",
                                      "1Ki"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t number = 4711;
        ck_assert_msg(!shim_config_bytes(bad[i], &number), "'%s' is taken for %llu", bad[i],
                      (unsigned long long)number);
        ck_assert_uint_eq(number, 4711);
    }
}
END_TEST

/* "NAME=VALUE" as they are to be found. */
static const char *const *variables;

static const char *get(const char *name)
{
    for (const char *const *at = variables; *at; at++) {
        if (strncmp(*at, name, strlen(name)) == 0 && (*at)[strlen(name)] == '=')
            return *at + strlen(name) + 1;
    }
    return NULL;
}

START_TEST(without_variables)
{
    static const char *const none[] = {"KVMM_SWAP_DIR=", "KVMM_SELECT=", "KVMM_CHUNK=", NULL};
    for (int i = 0; i < 2; i++) {
        struct shim_config config;
        char reason[200];
        variables = none + (i == 0 ? 0 : 3); /* empty ones are unset */
        ck_assert_msg(shim_config_read(get, &config, reason, sizeof reason), "%s", reason);
        ck_assert(config.device_memory == 0 && config.host_memory == 0 && config.swap_bytes == 0);
        ck_assert_ptr_null(config.swap_dir);
        ck_assert_str_eq(config.select, "auto");
        ck_assert_uint_eq(config.chunk_bytes, 0);
        ck_assert(!config.select_given && !config.user_faults && !config.fail_while_suspended && !config.verbose);
    }
}
END_TEST

START_TEST(with_all_variables)
{
    static const char *const all[] = {"KVMM_DEVICE_MEMORY=64MiB", "KVMM_HOST_MEMORY=1G",
                                      "KVMM_SWAP_DIR=/var/tmp",   "KVMM_SWAP_SIZE=100G",
                                      "KVMM_SELECT=order:3",      "KVMM_CHUNK=4K",
                                      "KVMM_USER_FAULTS=1",       "KVMM_SUSPENDED=fail",
                                      "KVMM_VERBOSE=1",           NULL};
    struct shim_config config;
    char reason[200];
    variables = all;
    ck_assert_msg(shim_config_read(get, &config, reason, sizeof reason), "%s", reason);
    ck_assert_uint_eq(config.device_memory, 64 << 20);
    ck_assert_uint_eq(config.host_memory, 1 << 30);
    ck_assert_str_eq(config.swap_dir, "/var/tmp");
    ck_assert_uint_eq(config.swap_bytes, 100ull << 30);
    ck_assert_str_eq(config.select, "order:3");
    ck_assert_uint_eq(config.chunk_bytes, 4096);
    ck_assert(config.select_given && config.user_faults && config.fail_while_suspended && config.verbose);
}
END_TEST

START_TEST(bad_variables_are_named)
{
    static const char *const bad[] = {"KVMM_DEVICE_MEMORY=lots", "KVMM_HOST_MEMORY=-1",  "KVMM_SWAP_SIZE=1.5G",
                                      "KVMM_CHUNK=2K",           "KVMM_CHUNK=4M",        "KVMM_CHUNK=12K",
                                      "KVMM_USER_FAULTS=yes",    "KVMM_SUSPENDED=maybe", "KVMM_VERBOSE=2"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *const one[] = {bad[i], NULL};
        struct shim_config config = {.chunk_bytes = 4711, .select = "as before"};
        char reason[200] = "";
        variables = one;
        ck_assert_msg(!shim_config_read(get, &config, reason, sizeof reason), "%s is taken", bad[i]);
        ck_assert_msg(strncmp(reason, bad[i], strlen(bad[i])) == 0, "%s: %s", bad[i], reason);
        ck_assert_ptr_null(strchr(reason, '\n'));
        ck_assert(config.chunk_bytes == 4711 && strcmp(config.select, "as before") == 0 && config.device_memory == 0);
    }
}
END_TEST

START_TEST(rules_in_their_order)
{
    struct shim_rules rules;
    char reason[200] = "";
    ck_assert_msg(shim_rules_parse("stack:*kv_cache*,order:12,size:2G,cleared:1M,llama.cpp,auto,list,none", &rules,
                                   reason, sizeof reason),
                  "%s", reason);
    static const enum shim_rule_kind kinds[] = {SHIM_RULE_STACK,   SHIM_RULE_ORDER,     SHIM_RULE_SIZE,
                                                SHIM_RULE_CLEARED, SHIM_RULE_LLAMA_CPP, SHIM_RULE_LLAMA_CPP,
                                                SHIM_RULE_LIST,    SHIM_RULE_NONE};
    ck_assert_uint_eq(rules.n, sizeof kinds / sizeof kinds[0]);
    for (size_t i = 0; i < rules.n; i++)
        ck_assert_int_eq(rules.all[i].kind, kinds[i]);
    ck_assert_str_eq(rules.all[0].pattern, "*kv_cache*");
    ck_assert_uint_eq(rules.all[1].number, 12);
    ck_assert_uint_eq(rules.all[2].number, 2ull << 30);
    ck_assert_uint_eq(rules.all[3].number, 1 << 20);
}
END_TEST

START_TEST(bad_rules_are_named)
{
    static const struct {
        const char *text, *named;
    } bad[] = {{"", "rule ''"},
               {"llama", "rule 'llama'"},
               {"auto,", "rule ''"},
               {"none,,list", "rule ''"},
               {"Auto", "rule 'Auto'"},
               {" auto", "rule ' auto'"},
               {"auto:1", "takes no value"},
               {"stack", "value is missing"},
               {"stack:", "value is missing"},
               {"order:0", "rule 'order:0'"},
               {"order:1K", "rule 'order:1K'"},
               {"order:-1", "rule 'order:-1'"},
               {"size:many", "rule 'size:many'"},
               {"size:1023K", "under 1MiB"},
               {"cleared:1", "under 1MiB"},
               {"auto,size:1G,order:x", "rule 'order:x'"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct shim_rules rules;
        char reason[200] = "";
        ck_assert_msg(!shim_rules_parse(bad[i].text, &rules, reason, sizeof reason), "'%s' is taken", bad[i].text);
        ck_assert_msg(strstr(reason, bad[i].named), "'%s': %s", bad[i].text, reason);
        ck_assert_ptr_null(strchr(reason, '\n'));
    }
}
END_TEST

/* What has no room is refused, not cut. */
START_TEST(long_lists_are_refused)
{
    struct shim_rules rules;
    char reason[64], text[4096] = "stack:";
    for (size_t n = SHIM_PATTERN_BYTES - 1; n < 3000; n += n < SHIM_PATTERN_BYTES ? 1 : 1000) {
        memset(text + 6, 'x', n);
        text[6 + n] = '\0';
        ck_assert(shim_rules_parse(text, &rules, reason, sizeof reason) == (n < SHIM_PATTERN_BYTES));
        if (n < SHIM_PATTERN_BYTES)
            ck_assert_uint_eq(strlen(rules.all[0].pattern), n);
    }
    for (size_t n = SHIM_RULES_MAX; n <= SHIM_RULES_MAX + 1; n++) {
        for (size_t i = 0; i < n; i++)
            memcpy(text + i * 5, "auto,", 5);
        text[n * 5 - 1] = '\0';
        ck_assert(shim_rules_parse(text, &rules, reason, sizeof reason) == (n == SHIM_RULES_MAX));
    }
    ck_assert_uint_lt(strlen(reason), sizeof reason);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("shim text");
    TCase *text = tcase_create("text");
    tcase_add_test(text, bytes);
    tcase_add_test(text, without_variables);
    tcase_add_test(text, with_all_variables);
    tcase_add_test(text, bad_variables_are_named);
    tcase_add_test(text, rules_in_their_order);
    tcase_add_test(text, bad_rules_are_named);
    tcase_add_test(text, long_lists_are_refused);
    suite_add_tcase(s, text);
    return s;
}

int main(void)
{
    SRunner *runner = srunner_create(suite());
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
