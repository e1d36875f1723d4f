/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/command.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* getopt says what is wrong in one line; argp would add a second one, on err_stream, and exit. */
static error_t parse_quietly(int key, char *arg, struct argp_state *state)
{
    if (key == ARGP_KEY_INIT) {
        state->child_inputs[0] = state->input;
        state->err_stream = NULL;
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

bool command_parse(const struct argp *argp, int argc, char **argv, unsigned flags, void *input)
{
    const struct argp_child children[] = {{.argp = argp}, {0}};
    const struct argp quiet = {.parser = parse_quietly, .children = children};
    return argp_parse(&quiet, argc, argv, flags, NULL, input) == 0;
}

error_t command_complain(const struct argp_state *state, const char *format, ...)
{
    fprintf(stderr, "%s: ", state->name);
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return EINVAL;
}

bool command_number(const char *text, uint64_t least, uint64_t most, uint64_t *number)
{
    if (!isdigit((unsigned char)text[0]))
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*end != '\0' || errno || value < least || value > most)
        return false;
    *number = value;
    return true;
}

void command_explain(const char *command, pid_t pid, enum pagemap_answer answer, const struct pagemap_error *error)
{
    fprintf(stderr, "%s: ", command);
    switch (answer) {
    case PAGEMAP_NO_PROCESS:
        fprintf(stderr, "there is no process %d\n", (int)pid);
        return;
    case PAGEMAP_DENIED:
        fprintf(stderr, "process %d may not be looked into by this user: %s\n", (int)pid, error->text);
        return;
    case PAGEMAP_NO_MAP:
        fprintf(stderr, "process %d has no kvmm page map\n", (int)pid);
        return;
    case PAGEMAP_UNREADY:
        fprintf(stderr, "process %d is just opening kvmm; try again\n", (int)pid);
        return;
    case PAGEMAP_REFUSED:
        fprintf(stderr, "process %d has a page map that is refused: %s\n", (int)pid, error->text);
        return;
    case PAGEMAP_FAILED:
        fprintf(stderr, "process %d can't be shown: %s\n", (int)pid, error->text);
        return;
    case PAGEMAP_OK:
        break;
    }
    fprintf(stderr, "process %d\n", (int)pid);
}

int command_finish_output(const char *command)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return COMMAND_DONE;
    fprintf(stderr, "%s: standard output: %s\n", command, strerror(errno ? errno : EIO));
    return COMMAND_FAILED;
}
