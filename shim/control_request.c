/* SPDX-License-Identifier: Apache-2.0
 *
 * The control socket's requests: text in, text out. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "shim/control.h"
#include "shim/include/kvmm/shim.h"

#define DEFAULT_WAIT_MS 60000
#define MOST_ARGUMENTS  3
#define QUOTED          32 /* bytes of a request that an error repeats */

/* Part of the request; no NUL at its end. */
struct word {
    const char *text;
    size_t bytes;
};

struct request {
    struct word command;
    struct word arguments[MOST_ARGUMENTS]; /* the first ones */
    size_t n_arguments;
};

struct answer {
    char *text;
    size_t size;
};

/* Printable ASCII and cut to the size, whatever the pieces were; returns the length. */
__attribute__((format(printf, 3, 4))) static size_t say(const struct answer *answer, size_t at, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(answer->text + at, answer->size - at, format, args);
    va_end(args);
    size_t length = at + (n > 0 ? (size_t)n : 0);
    length = length < answer->size ? length : answer->size - 1;
    for (size_t i = 0; i < length; i++)
        if (answer->text[i] < ' ' || answer->text[i] > '~')
            answer->text[i] = '?';
    return length;
}

static bool equals(struct word word, const char *text)
{
    return word.bytes == strlen(text) && memcmp(word.text, text, word.bytes) == 0;
}

/* What "%.*s%s" prints of a word: its beginning and, of a long one, dots. */
#define QUOTE(word)                                                                                                    \
    (int)((word).bytes < QUOTED ? (word).bytes : QUOTED), (word).text, (word).bytes > QUOTED ? "..." : ""

/* All digits of the base, and at most `most`. */
static bool number(struct word word, unsigned base, uint64_t most, uint64_t *value)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < word.bytes; i++) {
        char c = word.text[i];
        unsigned digit = base;
        if (c >= '0' && c <= '9')
            digit = (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            digit = (unsigned)(c - 'a') + 10;
        else if (c >= 'A' && c <= 'F')
            digit = (unsigned)(c - 'A') + 10;
        if (digit >= base || sum > (most - digit) / base)
            return false;
        sum = sum * base + digit;
    }
    *value = sum;
    return word.bytes > 0;
}

/* ---- from bytes to words ------------------------------------------------------------------------------------- */

/* False with an answer that says what is wrong. */
static bool check_bytes(const char *text, size_t bytes, const struct answer *answer, size_t *length)
{
    if (bytes == 0) {
        *length = say(answer, 0, "error the request is empty");
        return false;
    }
    if (bytes > SHIM_CONTROL_MAX) {
        *length = say(answer, 0, "error the request has %zu bytes, more than %d", bytes, SHIM_CONTROL_MAX);
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < ' ' || c > '~') {
            *length = say(answer, 0, "error byte %zu of the request is 0x%02x, not printable ASCII", i, c);
            return false;
        }
        if (c == ' ' && (i == 0 || i == bytes - 1 || text[i + 1] == ' ')) {
            *length = say(answer, 0, "error byte %zu of the request is a space too many", i);
            return false;
        }
    }
    return true;
}

/* Of checked bytes. */
static void split(const char *text, size_t bytes, struct request *request)
{
    *request = (struct request){0};
    const char *end = text + bytes;
    const char *space = memchr(text, ' ', bytes);
    request->command = (struct word){text, (size_t)((space ? space : end) - text)};
    while (space) {
        const char *start = space + 1;
        space = memchr(start, ' ', (size_t)(end - start));
        if (request->n_arguments < MOST_ARGUMENTS)
            request->arguments[request->n_arguments] = (struct word){start, (size_t)((space ? space : end) - start)};
        request->n_arguments++;
    }
}

/* ---- commands ------------------------------------------------------------------------------------------------ */

static size_t finish(const struct answer *answer, int result, char *reason, size_t size)
{
    if (result >= 0)
        return say(answer, 0, "ok");
    reason[size - 1] = '\0';
    if (reason[0] != '\0')
        return say(answer, 0, "error %s", reason);
    /* Unlike strerror, it never allocates. */
    const char *description = strerrordesc_np(-result);
    if (description)
        return say(answer, 0, "error %s", description);
    return say(answer, 0, "error number %d", -result);
}

static size_t do_suspend(const struct shim_control_ops *ops, void *user, const struct request *request,
                         const struct answer *answer)
{
    uint64_t wait_ms = DEFAULT_WAIT_MS;
    if (request->n_arguments == 1 && !number(request->arguments[0], 10, UINT32_MAX, &wait_ms))
        return say(answer, 0, "error suspend: '%.*s%s' is not a number of milliseconds up to %" PRIu32,
                   QUOTE(request->arguments[0]), UINT32_MAX);
    char reason[256] = "";
    int result = ops->suspend(user, (uint32_t)wait_ms, reason, sizeof reason);
    return finish(answer, result, reason, sizeof reason);
}

static size_t do_resume(const struct shim_control_ops *ops, void *user, const struct request *request,
                        const struct answer *answer)
{
    char reason[256] = "";
    int result = ops->resume(user, reason, sizeof reason);
    return finish(answer, result, reason, sizeof reason);
}

static int advice_of(struct word word)
{
    static const struct {
        const char *name;
        int advice;
    } names[] = {{"willneed", KVMM_WILLNEED}, {"cold", KVMM_COLD}, {"free", KVMM_FREE}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (equals(word, names[i].name))
            return names[i].advice;
    return -1;
}

static size_t do_advise(const struct shim_control_ops *ops, void *user, const struct request *request,
                        const struct answer *answer)
{
    const struct word *words = request->arguments;
    uint64_t address;
    uint64_t bytes;
    if (words[0].bytes < 3 || memcmp(words[0].text, "0x", 2) != 0 ||
        !number((struct word){words[0].text + 2, words[0].bytes - 2}, 16, UINTPTR_MAX, &address))
        return say(answer, 0, "error advise: '%.*s%s' is not an address in hexadecimal with 0x before it",
                   QUOTE(words[0]));
    if (!number(words[1], 10, SIZE_MAX, &bytes) || bytes == 0)
        return say(answer, 0, "error advise: '%.*s%s' is not a number of bytes from 1 to %zu", QUOTE(words[1]),
                   SIZE_MAX);
    if (bytes - 1 > UINTPTR_MAX - address)
        return say(answer, 0, "error advise: 0x%" PRIx64 " and %" PRIu64 " bytes is past the end of all memory",
                   address, bytes);
    int advice = advice_of(words[2]);
    if (advice < 0)
        return say(answer, 0, "error advise: '%.*s%s' is not willneed, cold or free", QUOTE(words[2]));
    char reason[256] = "";
    int result = ops->advise(user, (void *)(uintptr_t)address, bytes, advice, reason, sizeof reason);
    return finish(answer, result, reason, sizeof reason);
}

static size_t do_info(const struct shim_control_ops *ops, void *user, const struct request *request,
                      const struct answer *answer)
{
    static const char ok[] = "ok ";
    size_t before = sizeof ok - 1;
    if (answer->size <= before + 1)
        return say(answer, 0, "%s", ok);
    char *text = answer->text + before;
    text[0] = '\0';
    int result = ops->info(user, text, answer->size - before);
    if (result < 0)
        return finish(answer, result, (char[]){""}, 1);
    answer->text[answer->size - 1] = '\0';
    memcpy(answer->text, ok, before);
    size_t length = before + strlen(text);
    return say(answer, length > before ? length : before - 1, "%s", "");
}

static const struct command {
    const char *name;
    size_t least, most; /* arguments */
    const char *takes;
    size_t (*run)(const struct shim_control_ops *ops, void *user, const struct request *request,
                  const struct answer *answer);
} commands[] = {
    {"suspend", 0, 1, "at most 1 argument, milliseconds", do_suspend},
    {"resume", 0, 0, "no arguments", do_resume},
    {"advise", 3, 3, "3 arguments, an address, a length and an advice", do_advise},
    {"info", 0, 0, "no arguments", do_info},
};

size_t shim_control_answer(const struct shim_control_ops *ops, void *user, const char *text, size_t bytes, char *out,
                           size_t size)
{
    struct answer answer;
    answer.text = out;
    answer.size = size;
    size_t length = 0;
    if (size == 0 || !check_bytes(text, bytes, &answer, &length))
        return length;
    struct request request;
    split(text, bytes, &request);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        const struct command *command = &commands[i];
        if (!equals(request.command, command->name))
            continue;
        if (request.n_arguments < command->least || request.n_arguments > command->most)
            return say(&answer, 0, "error %s takes %s, not %zu", command->name, command->takes, request.n_arguments);
        return command->run(ops, user, &request, &answer);
    }
    return say(&answer, 0, "error there is no command '%.*s%s': suspend, resume, advise, info", QUOTE(request.command));
}

/* ---- pairs --------------------------------------------------------------------------------------------------- */

int shim_control_pair(char *text, size_t size, const char *name, const char *value)
{
    size_t start = strnlen(text, size);
    if (start == size)
        return -ENOSPC;
    int n = snprintf(text + start, size - start, "%s%s=", start ? " " : "", name);
    size_t at = start + (n > 0 ? (size_t)n : size);
    for (; *value && at < size; value++) {
        unsigned char c = (unsigned char)*value;
        if (c > ' ' && c <= '~' && c != '%')
            text[at++] = *value;
        else if (size - at > 3)
            at += (size_t)snprintf(text + at, size - at, "%%%02X", c);
        else
            at = size;
    }
    if (at >= size) {
        text[start] = '\0';
        return -ENOSPC;
    }
    text[at] = '\0';
    return 0;
}

int shim_control_pair_number(char *text, size_t size, const char *name, uint64_t value)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%" PRIu64, value);
    return shim_control_pair(text, size, name, digits);
}
