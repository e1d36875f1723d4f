/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench policy`: what it counts equals what a plain simulator counts (policy_brute.c), on made-up traces and on
 * Mooncake's; what it refuses; what its output holds. */
#include <check.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "tests/support/scale.h"
#include "tests/tools/policy_brute.h"
#include "tests/tools/run.h"

#define BLOCK_BYTES (64ull << 20)

static const char *const policies[] = {"lru", "clock", "arc", "cost"};
enum { N_POLICIES = 4 };

/* ---- traces --------------------------------------------------------------------------------------------------- */

static char folder[] = "/tmp/kvmm-bench-policy-XXXXXX";
static char trace_path[64];

static void make_folder(void)
{
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(trace_path, sizeof trace_path, "%s/trace.jsonl", folder);
}

static void remove_folder(void)
{
    unlink(trace_path);
    rmdir(folder);
}

static void write_file(const char *text, size_t bytes)
{
    FILE *file = fopen(trace_path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(text, 1, bytes, file), bytes);
    ck_assert_int_eq(fclose(file), 0);
}

static void write_trace(const struct brute_trace *trace, uint64_t id_stride)
{
    FILE *file = fopen(trace_path, "w");
    ck_assert_ptr_nonnull(file);
    for (uint32_t i = 0; i < trace->n; i++) {
        const struct brute_request *request = &trace->requests[i];
        fprintf(file, "{\"timestamp\": %" PRIu64 ", \"input_length\": %u, \"output_length\": 1, \"hash_ids\": [",
                request->at_ms, request->n * 512 - 100);
        for (uint32_t j = 0; j < request->n; j++)
            fprintf(file, "%s%" PRIu64, j ? ", " : "", request->ids[j] * id_stride + 7);
        fputs("]}\n", file);
    }
    ck_assert_int_eq(fclose(file), 0);
}

static void free_trace(struct brute_trace *trace)
{
    for (uint32_t i = 0; i < trace->n; i++)
        free(trace->requests[i].ids);
    free(trace->requests);
    *trace = (struct brute_trace){0};
}

static struct brute_request *add_request(struct brute_trace *trace, uint64_t at_ms, uint32_t n)
{
    trace->requests = reallocarray(trace->requests, trace->n + 1, sizeof *trace->requests);
    ck_assert_ptr_nonnull(trace->requests);
    struct brute_request *request = &trace->requests[trace->n++];
    *request = (struct brute_request){.at_ms = at_ms, .n = n, .ids = calloc(n, sizeof(uint32_t))};
    ck_assert_ptr_nonnull(request->ids);
    return request;
}

/* Conversations that go on, end, or branch off others; requests of up to 8 blocks, some at the same moment. */
static void random_trace(struct brute_trace *trace, unsigned seed, uint32_t n_requests)
{
    uint64_t at_ms = 0;
    *trace = (struct brute_trace){0};
    for (uint32_t i = 0; i < n_requests; i++) {
        static const uint32_t waits_ms[] = {0, 400, 1000, 3000, 30000};
        at_ms += waits_ms[rand_r(&seed) % 5] * ((unsigned)rand_r(&seed) % 3);
        const struct brute_request *old = NULL;
        uint32_t kept = 0;
        if (i > 0 && rand_r(&seed) % 4) {
            uint32_t back = (unsigned)rand_r(&seed) % (rand_r(&seed) % 2 ? 10u : n_requests);
            old = &trace->requests[i - 1 - (back < i ? back : 0)];
            kept = rand_r(&seed) % 2 ? old->n : (unsigned)rand_r(&seed) % (old->n + 1);
        }
        uint32_t n = kept + (unsigned)rand_r(&seed) % 4;
        n = n < 1 ? 1 : n > 8 ? 8 : n;
        kept = kept < n ? kept : n;
        uint32_t from = old ? (uint32_t)(old - trace->requests) : 0;
        struct brute_request *request = add_request(trace, at_ms, n);
        for (uint32_t j = 0; j < n; j++)
            request->ids[j] = j < kept ? trace->requests[from].ids[j] : trace->n_ids++;
    }
}

/* One of Mooncake's, from KVMM_SHARED or beside the source tree; false, with a word, if it isn't there. */
static bool real_trace(struct brute_trace *trace, const char *name, char path[512])
{
    const char *shared = getenv("KVMM_SHARED");
    snprintf(path, 512, "%s/traces/%s", shared ? shared : KVMM_SHARED_DIR, name);
    gzFile file = gzopen(path, "rb");
    if (!file) {
        fprintf(stderr, "left out, because %s isn't there\n", path);
        return false;
    }
    *trace = (struct brute_trace){0};
    static char line[1 << 20];
    while (gzgets(file, line, sizeof line)) {
        json_t *object = json_loads(line, 0, NULL);
        json_t *ids = json_object_get(object, "hash_ids");
        ck_assert(json_is_array(ids));
        struct brute_request *request = add_request(
            trace, (uint64_t)json_integer_value(json_object_get(object, "timestamp")), (uint32_t)json_array_size(ids));
        for (uint32_t i = 0; i < request->n; i++) {
            request->ids[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
            if (request->ids[i] >= trace->n_ids)
                trace->n_ids = request->ids[i] + 1;
        }
        json_decref(object);
    }
    gzclose(file);
    return true;
}

/* ---- running it ----------------------------------------------------------------------------------------------- */

static const char *size_text(char text[32], uint32_t blocks)
{
    if (blocks == BRUTE_UNLIMITED)
        return "unlimited";
    snprintf(text, 32, "%lluM", blocks * (BLOCK_BYTES >> 20));
    return text;
}

static json_t *bench_json(const char *path, const uint32_t sizes[BRUTE_TIERS], uint32_t n_ghosts)
{
    char text[BRUTE_TIERS][32];
    struct run run;
    run_tool(&run, 0, "bench policy --json --ghosts %u --device-memory %s --host-memory %s --nvme %s %s", n_ghosts,
             size_text(text[0], sizes[0]), size_text(text[1], sizes[1]), size_text(text[2], sizes[2]), path);
    ck_assert_msg(run.status == 0, "exit %d: %s", run.status, run.err);
    ck_assert_str_eq(run.err, "");
    json_error_t error;
    json_t *root = json_loads(run.out, 0, &error);
    ck_assert_msg(root != NULL, "line %d: %s", error.line, error.text);
    run_free(&run);
    return root;
}

static json_t *one_trace(json_t *root)
{
    json_t *traces = json_object_get(root, "traces");
    ck_assert_uint_eq(json_array_size(traces), 1);
    return json_array_get(traces, 0);
}

static uint64_t count(json_t *object, const char *group, const char *name)
{
    json_t *value = json_object_get(group ? json_object_get(object, group) : object, name);
    ck_assert_msg(json_is_integer(value), "%s is no integer", name);
    return (uint64_t)json_integer_value(value);
}

static double rate(json_t *object, const char *group, const char *name)
{
    json_t *value = json_object_get(group ? json_object_get(object, group) : object, name);
    ck_assert_msg(json_is_real(value), "%s is no number", name);
    return json_real_value(value);
}

static void compare_policy(json_t *policy, const struct brute_result *expect, const char *what)
{
#define SAME(got, wanted)                                                                                              \
    ck_assert_msg((got) == (wanted), "%s, %s: " #wanted ": %llu instead of %llu", what,                                \
                  json_string_value(json_object_get(policy, "policy")), (unsigned long long)(got),                     \
                  (unsigned long long)(wanted))
    SAME(count(policy, "hits_blocks", "device"), expect->hits[BRUTE_DEVICE]);
    SAME(count(policy, "hits_blocks", "host"), expect->hits[BRUTE_HOST]);
    SAME(count(policy, "hits_blocks", "nvme"), expect->hits[BRUTE_NVME]);
    SAME(count(policy, NULL, "computed_blocks"), expect->computed);
    SAME(count(policy, NULL, "dropped_blocks"), expect->dropped);
    SAME(count(policy, "moved_bytes", "device_to_host"), expect->device_to_host * BLOCK_BYTES);
    SAME(count(policy, "moved_bytes", "device_to_nvme"), expect->device_to_nvme * BLOCK_BYTES);
    SAME(count(policy, "moved_bytes", "host_to_nvme"), expect->host_to_nvme * BLOCK_BYTES);
    SAME(count(policy, "moved_bytes", "host_to_device"), expect->host_to_device * BLOCK_BYTES);
    SAME(count(policy, "moved_bytes", "nvme_to_device"), expect->nvme_to_device * BLOCK_BYTES);
#undef SAME
}

/* The tool's counts on the file at path are those of the plain simulator on the same trace. */
static void compare(const char *path, const struct brute_trace *trace, const uint32_t sizes[BRUTE_TIERS],
                    uint32_t n_ghosts, const char *what)
{
    static const char *const down_to[BRUTE_TIERS] = {"device", "device_and_host", "all"};
    json_t *root = bench_json(path, sizes, n_ghosts);
    json_t *found = one_trace(root);
    uint64_t optimum[BRUTE_TIERS];
    for (int tier = 0, blocks = 0; tier < BRUTE_TIERS; tier++) {
        bool unlimited = sizes[tier] == BRUTE_UNLIMITED || blocks < 0;
        blocks = unlimited ? -1 : blocks + (int)sizes[tier];
        optimum[tier] = brute_optimum(trace, unlimited ? BRUTE_UNLIMITED : (uint32_t)blocks);
        ck_assert_msg(count(found, "optimum_hits_blocks", down_to[tier]) == optimum[tier], "%s: optimum", what);
    }
    json_t *list = json_object_get(found, "policies");
    ck_assert_uint_eq(json_array_size(list), N_POLICIES);
    for (size_t i = 0; i < N_POLICIES; i++) {
        struct brute_result expect;
        json_t *policy = json_array_get(list, i);
        ck_assert_str_eq(json_string_value(json_object_get(policy, "policy")), policies[i]);
        brute_simulate(trace, policies[i], sizes, n_ghosts, &expect);
        compare_policy(policy, &expect, what);
        for (uint64_t tier = 0, hits = 0; tier < BRUTE_TIERS; tier++) {
            hits += expect.hits[tier];
            ck_assert_msg(hits <= optimum[tier], "%s, %s: more hits than the optimum", what, policies[i]);
        }
    }
    json_decref(root);
}

/* ---- tests ---------------------------------------------------------------------------------------------------- */

START_TEST(made_up_traces_are_counted_as_by_the_plain_simulator)
{
    static const uint32_t all_sizes[][BRUTE_TIERS] = {
        {8, 0, 0},  {12, 20, 0},
        {8, 0, 16}, {8, 5, 9},
        {9, 1, 1},  {20, 40, BRUTE_UNLIMITED},
        {8, 8, 60}, {BRUTE_UNLIMITED, 0, 0},
    };
    struct brute_trace trace;
    for (unsigned round = 0; round < (unsigned)scaled(5); round++) {
        unsigned seed = (unsigned)_i * 100 + round;
        char what[32];
        snprintf(what, sizeof what, "seed %u", seed);
        random_trace(&trace, seed, 400);
        write_trace(&trace, round % 2 ? 1 : 1000000007);
        compare(trace_path, &trace, all_sizes[_i], 1u << 2 * round, what);
        free_trace(&trace);
    }
}
END_TEST

static const struct real {
    const char *name;
    double unlimited;
} real[] = {{"mooncake_conversation.jsonl.gz", 0.366}, {"mooncake_synthetic.jsonl.gz", 0.640}};

START_TEST(real_traces_are_counted_as_by_the_plain_simulator)
{
    static const uint32_t sizes[BRUTE_TIERS] = {400, 200, 600};
    struct brute_trace trace;
    char path[512];
    if (!real_trace(&trace, real[_i].name, path))
        return;
    uint32_t n = (uint32_t)scaled(trace.n);
    bool cut = n < trace.n;
    if (cut) { /* its beginning; ids count up from 0 */
        trace.n_ids = 0;
        for (uint32_t i = n; i < trace.n; i++)
            free(trace.requests[i].ids);
        trace.n = n;
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < trace.requests[i].n; j++)
                if (trace.requests[i].ids[j] >= trace.n_ids)
                    trace.n_ids = trace.requests[i].ids[j] + 1;
        write_trace(&trace, 1);
    }
    compare(cut ? trace_path : path, &trace, sizes, 4096, real[_i].name);
    free_trace(&trace);
}
END_TEST

START_TEST(real_traces_without_a_limit_have_their_known_hit_rates)
{
    static const uint32_t sizes[BRUTE_TIERS] = {BRUTE_UNLIMITED, 0, 0};
    struct brute_trace trace;
    char path[512];
    if (!real_trace(&trace, real[_i].name, path))
        return;
    free_trace(&trace);
    json_t *root = bench_json(path, sizes, 1);
    json_t *found = one_trace(root);
    double unlimited = rate(found, NULL, "unlimited_hit_rate");
    ck_assert_double_eq_tol(unlimited, real[_i].unlimited, 0.0005);
    ck_assert_double_eq(rate(found, "optimum_hit_rate", "device"), unlimited);
    for (size_t i = 0; i < N_POLICIES; i++) {
        json_t *policy = json_array_get(json_object_get(found, "policies"), i);
        ck_assert_double_eq(rate(policy, "hit_rate", "device"), unlimited);
        ck_assert_uint_eq(count(policy, NULL, "dropped_blocks"), 0);
    }
    json_decref(root);
}
END_TEST

START_TEST(azure_traces_are_refused)
{
    const char *shared = getenv("KVMM_SHARED");
    char path[512];
    snprintf(path, sizeof path, "%s/traces/azure_2023_conv.csv.gz", shared ? shared : KVMM_SHARED_DIR);
    if (access(path, R_OK) != 0) {
        fprintf(stderr, "left out, because %s isn't there\n", path);
        return;
    }
    struct run run;
    run_tool(&run, 0, "bench policy %s", path);
    ck_assert_int_eq(run.status, 1);
    ck_assert_int_eq(run_count_lines(run.err), 1);
    ck_assert_ptr_nonnull(strstr(run.err, "azure_2023_conv.csv.gz:1: an Azure trace has lengths only"));
    run_free(&run);
}
END_TEST

#define GOOD_LINE "{\"timestamp\": 5, \"input_length\": 600, \"output_length\": 1, \"hash_ids\": [1, 2]}\n"

static const struct bad {
    const char *text;
    const char *names; /* what the complaint must hold, behind the file's name */
} bad_traces[] = {
    {"", ": there is no request in it"},
    {"\n  \n", ": there is no request in it"},
    {GOOD_LINE "{\n", ":2: this is no JSON"},
    {GOOD_LINE "\n\n[]\n", ":4: this is no JSON object"},
    {"7\n", ":1: this is no JSON"},
    {"{\"input_length\": 1, \"hash_ids\": [1]}", ":1: there is no \"timestamp\""},
    {"{\"timestamp\": 1, \"hash_ids\": [1]}", ":1: there is no \"input_length\""},
    {"{\"timestamp\": 1, \"input_length\": 1}", ":1: there is no list \"hash_ids\""},
    {"{\"timestamp\": 1, \"input_length\": 1, \"hash_ids\": 1}", ":1: there is no list \"hash_ids\""},
    {"{\"timestamp\": -1, \"input_length\": 1, \"hash_ids\": [1]}", ":1: \"timestamp\" is not an integer"},
    {"{\"timestamp\": 1.5, \"input_length\": 1, \"hash_ids\": [1]}", ":1: \"timestamp\" is not an integer"},
    {"{\"timestamp\": 1, \"input_length\": \"1\", \"hash_ids\": [1]}", ":1: \"input_length\" is not an integer"},
    {"{\"timestamp\": 1, \"input_length\": 1, \"input_length\": 1, \"hash_ids\": [1]}", ":1: this is no JSON"},
    {"{\"timestamp\": 1, \"input_length\": 513, \"hash_ids\": [1]}", ":1: \"input_length\" 513 takes 2 blocks"},
    {"{\"timestamp\": 1, \"input_length\": 0, \"hash_ids\": []}", ":1: \"input_length\" 0 takes 0 blocks"},
    {"{\"timestamp\": 1, \"input_length\": 600, \"hash_ids\": [1, -2]}", ":1: number 2 of \"hash_ids\""},
    {"{\"timestamp\": 1, \"input_length\": 600, \"hash_ids\": [1, \"a\"]}", ":1: number 2 of \"hash_ids\""},
    {"{\"timestamp\": 1, \"input_length\": 600, \"hash_ids\": [1, 1]}", ":1: id 1 stands for two prefixes"},
    {GOOD_LINE "{\"timestamp\": 6, \"input_length\": 600, \"hash_ids\": [3, 2]}", ":2: id 2 stands for two prefixes"},
    {GOOD_LINE "{\"timestamp\": 4, \"input_length\": 1, \"hash_ids\": [1]}", ":2: \"timestamp\" 4 is before"},
    {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n", ":1: an Azure trace"},
};

static void assert_refused(const char *options, const char *names)
{
    struct run run;
    char expect[256];
    run_tool(&run, 0, "bench policy %s %s", options, trace_path);
    snprintf(expect, sizeof expect, "kvmm bench policy: %s%s", trace_path, names);
    ck_assert_msg(run.status == 1, "%s: exit %d", names, run.status);
    ck_assert_msg(run_count_lines(run.err) == 1, "%s: %s", names, run.err);
    ck_assert_msg(strncmp(run.err, expect, strlen(expect)) == 0, "%s: %s", names, run.err);
    ck_assert_str_eq(run.out, "");
    run_free(&run);
}

START_TEST(bad_lines_are_named)
{
    write_file(bad_traces[_i].text, strlen(bad_traces[_i].text));
    assert_refused("", bad_traces[_i].names);
}
END_TEST

START_TEST(files_that_can_not_be_read_are_named)
{
    unlink(trace_path);
    assert_refused("", ": No such file or directory");
    /* The first half of a packed file. */
    gzFile file = gzopen(trace_path, "wb");
    for (int i = 0; i < 2000; i++)
        gzprintf(file, "{\"timestamp\": %d, \"input_length\": 600, \"hash_ids\": [%d, %d]}\n", i, i * 7919,
                 i * 104729 + 1);
    ck_assert_int_eq(gzclose(file), Z_OK);
    FILE *whole = fopen(trace_path, "r");
    static char text[1 << 20];
    size_t bytes = fread(text, 1, sizeof text, whole);
    fclose(whole);
    write_file(text, bytes / 2);
    struct run run;
    run_tool(&run, 0, "bench policy %s", trace_path);
    ck_assert_int_eq(run.status, 1);
    ck_assert_int_eq(run_count_lines(run.err), 1);
    ck_assert_ptr_nonnull(strstr(run.err, trace_path));
    run_free(&run);
}
END_TEST

START_TEST(a_request_that_the_device_can_not_hold_is_named)
{
    write_file(GOOD_LINE, strlen(GOOD_LINE));
    assert_refused("--device-memory 64M",
                   ":1: this request has 2 blocks of 64 MiB, more than --device-memory holds: 1");
}
END_TEST

static const struct usage {
    const char *arguments;
    const char *names;
} bad_usage[] = {
    {"", "which traces?"},
    {"--policy x", "'x'"},
    {"--policy lru,fifo t", "'fifo'"},
    {"--policy lru,lru t", "'lru' twice"},
    {"--policy , t", "--policy"},
    {"--policy lru,clock,arc,cost,lru t", "'lru' twice"},
    {"--device-memory 0 t", "--device-memory"},
    {"--device-memory 63M t", "'63M'"},
    {"--host-memory 1M t", "'1M'"},
    {"--nvme 1X t", "'1X'"},
    {"--nvme -64M t", "'-64M'"},
    {"--nvme 99999999999T t", "'99999999999T'"},
    {"--ghosts 0 t", "--ghosts"},
    {"--ghosts 3 t", "'3'"},
    {"--frobnicate t", "--frobnicate"},
};

START_TEST(bad_usage_is_named_in_one_line)
{
    const struct usage *bad = &bad_usage[_i];
    struct run run;
    run_tool(&run, 0, "bench policy %s", bad->arguments);
    ck_assert_msg(run.status == 2, "%s: exit %d", bad->arguments, run.status);
    ck_assert_msg(run_count_lines(run.err) == 1, "%s: %s", bad->arguments, run.err);
    ck_assert_msg(strstr(run.err, bad->names) != NULL, "%s: %s", bad->arguments, run.err);
    ck_assert_msg(strncmp(run.err, "kvmm bench policy", 17) == 0, "%s: %s", bad->arguments, run.err);
    run_free(&run);
}
END_TEST

/* Two requests of which the second finds one block. */
#define SMALL_TRACE                                                                                                    \
    "{\"timestamp\": 0, \"input_length\": 1024, \"hash_ids\": [1, 2]}\n"                                               \
    "{\"timestamp\": 2500, \"input_length\": 1024, \"hash_ids\": [1, 3]}\n"

START_TEST(json_has_every_field)
{
    write_file(SMALL_TRACE, strlen(SMALL_TRACE));
    struct run run;
    run_tool(&run, 0, "bench policy --json --policy cost --nvme unlimited --host-memory 0 %s %s", trace_path,
             trace_path);
    ck_assert_msg(run.status == 0, "%s", run.err);
    json_t *root = json_loads(run.out, 0, NULL), *traces = json_object_get(root, "traces");
    ck_assert_uint_eq(count(root, NULL, "block_tokens"), 512);
    ck_assert_uint_eq(count(root, NULL, "block_bytes"), BLOCK_BYTES);
    ck_assert_uint_eq(count(root, "tier_bytes", "device"), 48ull << 30);
    ck_assert_uint_eq(count(root, "tier_bytes", "host"), 0);
    ck_assert_uint_eq(count(root, NULL, "ghosts"), 65536);
    ck_assert(json_is_null(json_object_get(json_object_get(root, "tier_bytes"), "nvme")));
    ck_assert_uint_eq(json_array_size(traces), 2);
    for (size_t i = 0; i < 2; i++) {
        json_t *trace = json_array_get(traces, i);
        ck_assert_str_eq(json_string_value(json_object_get(trace, "trace")), trace_path);
        ck_assert_uint_eq(count(trace, NULL, "requests"), 2);
        ck_assert_uint_eq(count(trace, NULL, "blocks"), 4);
        ck_assert_uint_eq(count(trace, NULL, "distinct_blocks"), 3);
        ck_assert_uint_eq(count(trace, NULL, "longest_request_blocks"), 2);
        ck_assert_double_eq(rate(trace, NULL, "span_s"), 2.5);
        ck_assert_double_eq(rate(trace, NULL, "unlimited_hit_rate"), 0.25);
        ck_assert_uint_eq(count(trace, "optimum_hits_blocks", "device_and_host"), 1);
        ck_assert_double_eq(rate(trace, "optimum_hit_rate", "all"), 0.25);
        json_t *list = json_object_get(trace, "policies"), *policy = json_array_get(list, 0);
        ck_assert_uint_eq(json_array_size(list), 1);
        ck_assert_str_eq(json_string_value(json_object_get(policy, "policy")), "cost");
        compare_policy(policy, &(struct brute_result){.hits = {1}, .computed = 3}, "small");
        ck_assert_double_eq(rate(policy, "hit_rate", "device"), 0.25);
        ck_assert_double_eq(rate(policy, "hit_rate", "host"), 0);
        ck_assert_double_eq(rate(policy, "hit_rate", "nvme"), 0);
        ck_assert_double_eq(rate(policy, "hit_rate", "all"), 0.25);
        ck_assert_double_eq(rate(policy, "of_optimum", "device"), 1);
        ck_assert_double_eq(rate(policy, "of_optimum", "device_and_host"), 1);
        ck_assert_double_eq(rate(policy, "of_optimum", "all"), 1);
    }
    json_decref(root);
    run_free(&run);
}
END_TEST

START_TEST(tables_have_a_row_for_each_policy_and_the_optimum)
{
    static const char *const rows[] = {"\nlru ", "\nclock ", "\narc ", "\ncost ", "\noptimum ", "host 256 GiB"};
    write_file(SMALL_TRACE, strlen(SMALL_TRACE));
    struct run run;
    run_tool(&run, 0, "bench policy %s", trace_path);
    ck_assert_int_eq(run.status, 0);
    ck_assert_str_eq(run.err, "");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        ck_assert_msg(strstr(run.out, rows[i]) != NULL, "no %s in %s", rows[i], run.out);
    run_free(&run);
    run_tool(&run, 0, "bench policy --help");
    ck_assert_int_eq(run.status, 0);
    ck_assert_ptr_nonnull(strstr(run.out, "Usage: kvmm bench policy"));
    run_free(&run);
    for (int json = 0; json < 2; json++) {
        run_tool_to(&run, "/dev/full", "bench policy %s %s", json ? "--json" : "--policy lru", trace_path);
        ck_assert_int_eq(run.status, 1);
        ck_assert_int_eq(run_count_lines(run.err), 1);
        run_free(&run);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kvmm bench policy");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 300);
    tcase_add_checked_fixture(tests, make_folder, remove_folder);
    tcase_add_loop_test(tests, made_up_traces_are_counted_as_by_the_plain_simulator, 0, 8);
    tcase_add_loop_test(tests, real_traces_are_counted_as_by_the_plain_simulator, 0, 2);
    tcase_add_loop_test(tests, real_traces_without_a_limit_have_their_known_hit_rates, 0, 2);
    tcase_add_test(tests, azure_traces_are_refused);
    tcase_add_loop_test(tests, bad_lines_are_named, 0, (int)(sizeof bad_traces / sizeof bad_traces[0]));
    tcase_add_test(tests, files_that_can_not_be_read_are_named);
    tcase_add_test(tests, a_request_that_the_device_can_not_hold_is_named);
    tcase_add_loop_test(tests, bad_usage_is_named_in_one_line, 0, (int)(sizeof bad_usage / sizeof bad_usage[0]));
    tcase_add_test(tests, json_has_every_field);
    tcase_add_test(tests, tables_have_a_row_for_each_policy_and_the_optimum);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
