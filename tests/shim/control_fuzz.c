/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a request of the control socket: the answer is one line that fits, and an operation runs if and only if the
 * request is in the language that control.h describes, told apart here by a regular expression. By default seeded requests,
 * whole, mutated and random; with -DCONTROL_LIBFUZZER, clang's fuzzer brings them:
 *   clang -g -fsanitize=fuzzer,address,undefined -DCONTROL_LIBFUZZER -D_GNU_SOURCE -I. tests/shim/control_fuzz.c \
 *     shim/control_request.c */
#include <errno.h>
#include <inttypes.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim/control.h"
#include "shim/include/kvmm/shim.h"
#include "tests/support/scale.h"

/* The last call: the request again, in one spelling. */
struct call {
    int n;
    char text[128];
};

static int note_suspend(void *user, uint32_t wait_ms, char *reason, size_t size)
{
    struct call *call = user;
    call->n++;
    snprintf(call->text, sizeof call->text, "suspend %" PRIu32, wait_ms);
    return 0;
}

static int note_resume(void *user, char *reason, size_t size)
{
    struct call *call = user;
    call->n++;
    snprintf(call->text, sizeof call->text, "resume");
    memset(reason, 0xfe, size); /* no NUL, nothing printable */
    return -EINVAL;
}

static int note_advise(void *user, void *address, size_t bytes, int advice, char *reason, size_t size)
{
    static const char *const names[] = {"willneed", "cold", "free"};
    struct call *call = user;
    call->n++;
    if (advice < KVMM_WILLNEED || advice > KVMM_FREE)
        abort();
    snprintf(call->text, sizeof call->text, "advise 0x%" PRIxPTR " %zu %s", (uintptr_t)address, bytes, names[advice]);
    return 0;
}

static int note_info(void *user, char *text, size_t size)
{
    struct call *call = user;
    call->n++;
    snprintf(call->text, sizeof call->text, "info");
    memset(text, 'x', size); /* as if it had forgotten the end */
    return 0;
}

static const struct shim_control_ops ops = {note_suspend, note_resume, note_advise, note_info};

#define must(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s does not hold for a request of %zu bytes:\n%.*s\nanswer: %.*s\n", #condition, bytes,   \
                    (int)bytes, request, (int)length, answer);                                                         \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* The number that the digits of text[match] are; false if they are too many. */
static bool value_of(const char *text, regmatch_t match, int base, uint64_t most, uint64_t *value)
{
    errno = 0;
    unsigned long long number = strtoull(text + match.rm_so, NULL, base);
    *value = number;
    return errno == 0 && number <= most;
}

/* Whether the request is one, and then in which spelling note_*() writes it down. */
static bool is_request(const char *request, size_t bytes, char *spelling, size_t size)
{
    static regex_t grammar;
    static bool compiled;
    if (!compiled && regcomp(&grammar,
                             "^(suspend( ([0-9]+))?|resume|info|"
                             "advise 0x([0-9a-fA-F]+) ([0-9]+) (willneed|cold|free))$",
                             REG_EXTENDED))
        abort();
    compiled = true;
    char text[SHIM_CONTROL_MAX + 1];
    if (bytes > SHIM_CONTROL_MAX || memchr(request, '\0', bytes))
        return false;
    memcpy(text, request, bytes);
    text[bytes] = '\0';
    regmatch_t parts[7];
    if (regexec(&grammar, text, 7, parts, 0))
        return false;
    uint64_t number = 60000;
    uint64_t length;
    if (text[0] == 's') {
        if (parts[3].rm_so >= 0 && !value_of(text, parts[3], 10, UINT32_MAX, &number))
            return false;
        snprintf(spelling, size, "suspend %" PRIu64, number);
    } else if (text[0] == 'a') {
        if (!value_of(text, parts[4], 16, UINTPTR_MAX, &number) || !value_of(text, parts[5], 10, SIZE_MAX, &length) ||
            length == 0 || length - 1 > UINTPTR_MAX - number)
            return false;
        snprintf(spelling, size, "advise 0x%" PRIx64 " %" PRIu64 " %s", number, length, text + parts[6].rm_so);
    } else {
        snprintf(spelling, size, "%.8s", text);
    }
    return true;
}

/* True if the request was one. The answer's room is `size` bytes, exactly. */
static bool check(const char *request, size_t bytes, size_t size)
{
    struct call call = {0};
    char *answer = malloc(size ? size : 1);
    if (!answer)
        abort();
    answer[0] = 'z';
    size_t length = shim_control_answer(&ops, &call, request, bytes, answer, size);
    char spelling[sizeof call.text];
    bool good = is_request(request, bytes, spelling, sizeof spelling);
    if (size == 0) {
        must(length == 0 && answer[0] == 'z' && call.n == 0);
        free(answer);
        return good;
    }
    must(length < size && answer[length] == '\0' && strlen(answer) == length);
    for (size_t i = 0; i < length; i++)
        must(answer[i] >= ' ' && answer[i] <= '~');
    bool fits = size > 16;
    must(!fits || strncmp(answer, "ok", 2) == 0 || (strncmp(answer, "error ", 6) == 0 && length > 6));
    if (good && (fits || strcmp(spelling, "info") != 0)) {
        must(call.n == 1 && strcmp(call.text, spelling) == 0);
        must(!fits || (strncmp(answer, "ok", 2) == 0) == (strcmp(spelling, "resume") != 0));
    } else if (!good) {
        must(call.n == 0);
        must(!fits || strncmp(answer, "error ", 6) == 0);
    }
    free(answer);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    check((const char *)data, bytes, SHIM_CONTROL_MAX + 1);
    check((const char *)data, bytes, bytes % 40);
    return 0;
}

#ifndef CONTROL_LIBFUZZER

static uint64_t random_next(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static size_t random_below(uint64_t *state, size_t n)
{
    return (size_t)(random_next(state) % n);
}

#define PICK(list) list[random_below(state, sizeof(list) / sizeof(list)[0])]

/* A request, mostly a good one. */
static size_t write_request(uint64_t *state, char *text, size_t size)
{
    static const char *const commands[] = {"suspend", "resume", "info", "advise", "advise", "advise"};
    static const char *const numbers[] = {
        "0",    "1",          "60000",      "4294967295",           "4294967296",
        "4096", "0x7f000000", "0000000001", "18446744073709551615", "18446744073709551616"};
    static const char *const addresses[] = {"0x1000",          "0x0", "0x7fFfA0000000",      "0xffffffffffffffff",
                                            "0x0000000001000", "0x",  "0x10000000000000000", "4096"};
    static const char *const advices[] = {"willneed", "cold", "free", "free", "warm"};
    const char *command = PICK(commands);
    int n;
    if (strcmp(command, "advise") == 0)
        n = snprintf(text, size, "advise %s %s %s", PICK(addresses), PICK(numbers), PICK(advices));
    else if (strcmp(command, "suspend") == 0 && random_below(state, 4))
        n = snprintf(text, size, "suspend %s", PICK(numbers));
    else
        n = snprintf(text, size, "%s", command);
    return (size_t)n;
}

/* Changes, removes, doubles or adds bytes. */
static size_t mutate(uint64_t *state, char *text, size_t bytes, size_t room)
{
    static const char likely[] = " \0\n0129xaf-+%~\x7f\xff";
    size_t at = random_below(state, bytes + 1);
    size_t rest = bytes - at;
    size_t n = 1 + random_below(state, random_below(state, 50) ? 4 : room / 2);
    switch (random_below(state, 4)) {
    case 0:
        if (rest > 0)
            text[at] = (char)(text[at] ^ 1 << random_below(state, 8));
        return bytes;
    case 1:
        n = n < rest ? n : rest;
        memmove(text + at, text + at + n, rest - n);
        return bytes - n;
    case 2: {
        n = n < rest ? n : rest;
        n = n < room - bytes ? n : room - bytes;
        memmove(text + at + n, text + at, rest);
        return bytes + n;
    }
    default:
        n = n < room - bytes ? n : room - bytes;
        memmove(text + at + n, text + at, rest);
        memset(text + at, PICK(likely), n);
        return bytes + n;
    }
}

int main(void)
{
    const char *given = getenv("KVMM_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : 4;
    uint64_t *state = &seed;
    long rounds = scaled(400000);
    printf("KVMM_TEST_SEED=%" PRIu64 ", %ld requests\n", seed, rounds);
    long n_good = 0;
    for (long round = 0; round < rounds; round++) {
        char text[2 * SHIM_CONTROL_MAX];
        size_t bytes = write_request(state, text, sizeof text);
        if (random_below(state, 16) == 0) {
            bytes = random_below(state, random_below(state, 16) ? 40 : sizeof text);
            for (size_t i = 0; i < bytes; i++)
                text[i] = (char)random_next(state);
        }
        for (size_t n = random_below(state, 4); n > 0; n--)
            bytes = mutate(state, text, bytes, sizeof text);
        char *exact = malloc(bytes ? bytes : 1); /* so that a byte too far is seen */
        if (!exact)
            return EXIT_FAILURE;
        memcpy(exact, text, bytes);
        n_good += check(exact, bytes, round % 8 ? SHIM_CONTROL_MAX + 1 : random_below(state, 64));
        free(exact);
    }
    printf("%ld of them good\n", n_good);
    return n_good > rounds / 20 && n_good < rounds / 2 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
