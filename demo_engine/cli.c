/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "size_text.h"

int cli_error(int rc, const struct engine_error *err)
{
    (void)fprintf(stderr, "kvmm-engine: %s\n", err->text);
    return rc == ENGINE_BAD_INPUT ? CLI_BAD_INPUT : CLI_FAILED;
}

void cli_usage_error(const char *format, ...)
{
    va_list args;
    (void)fputs("kvmm-engine: ", stderr);
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    exit(CLI_BAD_INPUT);
}

/* ---- argp ---------------------------------------------------------------------------------------------------- */

/* A wrapper around the command's parser, which takes argp's hint lines away: getopt has named the wrong option by then,
 * and the line that counts should stand alone. */
// NOLINTNEXTLINE(readability-non-const-parameter): argp's type
static error_t quiet_parser(int key, char *arg, struct argp_state *state)
{
    (void)arg;
    static FILE *nowhere;
    if (key != ARGP_KEY_INIT)
        return ARGP_ERR_UNKNOWN;
    state->child_inputs[0] = state->input;
    if (!nowhere)
        nowhere = fopen("/dev/null", "we");
    if (nowhere)
        state->err_stream = nowhere;
    return 0;
}

void cli_parse(const struct argp *argp, int argc, char **argv, void *input)
{
    const struct argp_child children[] = {{.argp = argp}, {0}};
    const struct argp quiet = {.parser = quiet_parser, .children = children};
    argp_err_exit_status = CLI_BAD_INPUT;
    error_t rc = argp_parse(&quiet, argc, argv, 0, NULL, input);
    if (rc != 0)
        cli_usage_error("%s", strerror(rc));
}

uint64_t cli_u64(const char *name, const char *arg)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(arg, &end, 10);
    if (errno != 0 || end == arg || *end || *arg < '0' || *arg > '9')
        cli_usage_error("%s \"%s\" is not a whole number", name, arg);
    return v;
}

uint32_t cli_u32(const char *name, const char *arg, uint32_t min, uint32_t max)
{
    uint64_t v = cli_u64(name, arg);
    if (v < min || v > max)
        cli_usage_error("%s %s is not %u to %u", name, arg, min, max);
    return (uint32_t)v;
}

float cli_float(const char *name, const char *arg)
{
    char *end;
    float v = strtof(arg, &end);
    if (end == arg || *end || !isfinite(v))
        cli_usage_error("%s \"%s\" is not a number", name, arg);
    return v;
}

uint64_t cli_size(const char *name, const char *arg)
{
    uint64_t bytes;
    if (!size_parse(arg, &bytes))
        cli_usage_error("%s \"%s\" is not a size, such as 512KiB, 64MiB, 2GiB or plain bytes", name, arg);
    return bytes;
}

int cli_word(const char *name, const char *arg, const char *const *words)
{
    char list[128];
    size_t len = 0;
    list[0] = '\0';
    for (int i = 0; words[i]; i++) {
        if (strcmp(arg, words[i]) == 0)
            return i;
        int n = snprintf(list + len, sizeof list - len, "%s%s", i ? ", " : "", words[i]);
        len += n > 0 && (size_t)n < sizeof list - len ? (size_t)n : 0;
    }
    cli_usage_error("%s \"%s\" is not one of %s", name, arg, list);
}

int cli_close_stdout(void)
{
    bool lost = ferror(stdout) != 0;
    if (fflush(stdout) != 0 || lost) {
        (void)fprintf(stderr, "kvmm-engine: standard output: %s\n", errno ? strerror(errno) : "a write failed");
        return CLI_FAILED;
    }
    return CLI_OK;
}
