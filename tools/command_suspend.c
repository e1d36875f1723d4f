/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm suspend PID`, `kvmm resume PID`, `kvmm advise PID ADDRESS LENGTH ADVICE`: requests to a process under the shim. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/command.h"
#include "tools/shim_client.h"

#define DEFAULT_WAIT_MS 60000
#define LONG_WAIT_MS    600000 /* for a request that sets no time: a whole cache may be read back */
#define MARGIN_MS       5000   /* that the answer to "not in time" may take */

/* Asks, and answers the exit status. */
static int ask(const char *name, uint64_t pid, const char *request, uint64_t wait_ms)
{
    char text[SHIM_CLIENT_TEXT];
    enum shim_client_answer answer = shim_client_ask((pid_t)pid, request, wait_ms, text);
    if (answer == SHIM_CLIENT_OK)
        return COMMAND_DONE;
    shim_client_explain(name, (pid_t)pid, answer, text);
    return COMMAND_FAILED;
}

/* ARGP_KEY_ARG of a command that takes one process. */
static error_t parse_pid(uint64_t *pid, const char *arg, const struct argp_state *state)
{
    if (*pid)
        return command_complain(state, "'%s': one process at a time", arg);
    if (!command_number(arg, 1, INT_MAX, pid))
        return command_complain(state, "'%s' is no process id", arg);
    return 0;
}

/* ---- suspend ------------------------------------------------------------------------------------------------- */

struct suspend_options {
    uint64_t pid; /* 0: none yet */
    uint64_t wait_ms;
};

static error_t parse_suspend(int key, char *arg, struct argp_state *state)
{
    struct suspend_options *options = state->input;
    switch (key) {
    case 'w':
        if (!command_number(arg, 0, UINT32_MAX, &options->wait_ms))
            return command_complain(state, "--wait '%s': milliseconds up to %" PRIu32 " are needed", arg, UINT32_MAX);
        return 0;
    case ARGP_KEY_ARG:
        return parse_pid(&options->pid, arg, state);
    case ARGP_KEY_NO_ARGS:
        return command_complain(state, "which process? `kvmm ls' lists them");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option suspend_options[] = {
    {.name = "wait", .key = 'w', .arg = "MS", .doc = "Give up after so many milliseconds; 60000 by default"},
    {0},
};

static const struct argp suspend_parser = {
    .options = suspend_options,
    .parser = parse_suspend,
    .args_doc = "PID",
    .doc =
        "Take a process's KV cache out of memory, so that others have room.\v"
        "The process must run under the shim (`kvmm run') as the same user. Its cache goes to host memory and the swap "
        "file: of a GPU engine, device memory is given back when its work has drained; of a CPU engine, RAM. What "
        "touches the cache then waits or brings it back, as the process is set up; `kvmm resume PID' brings all of it "
        "back.\n\n"
        "Exit status: 0 when that is done; 1 if it can't be done, or not in time; 2 for bad arguments.",
};

int command_suspend(int argc, char **argv)
{
    struct suspend_options options = {.wait_ms = DEFAULT_WAIT_MS};
    if (!command_parse(&suspend_parser, argc, argv, 0, &options))
        return COMMAND_BAD_USAGE;
    char request[64];
    snprintf(request, sizeof request, "suspend %" PRIu64, options.wait_ms);
    return ask("kvmm suspend", options.pid, request, options.wait_ms + MARGIN_MS);
}

/* ---- resume -------------------------------------------------------------------------------------------------- */

static error_t parse_resume(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case ARGP_KEY_ARG:
        return parse_pid(state->input, arg, state);
    case ARGP_KEY_NO_ARGS:
        return command_complain(state, "which process? `kvmm ls' lists them");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp resume_parser = {
    .parser = parse_resume,
    .args_doc = "PID",
    .doc = "Bring back the KV cache of a process that was suspended.\v"
           "Of a GPU engine it is at the same addresses again, and the calls that wait go on. That a process isn't "
           "suspended is no error.\n\n"
           "Exit status: 0; 1 if it can't be done, as where another process has taken the memory; 2 for bad arguments.",
};

int command_resume(int argc, char **argv)
{
    uint64_t pid = 0;
    if (!command_parse(&resume_parser, argc, argv, 0, &pid))
        return COMMAND_BAD_USAGE;
    return ask("kvmm resume", pid, "resume", LONG_WAIT_MS);
}

/* ---- advise -------------------------------------------------------------------------------------------------- */

struct advise_options {
    uint64_t pid, address, bytes;
    const char *advice; /* NULL: not yet */
};

/* 0x and hexadecimal digits. */
static bool parse_address(const char *text, uint64_t *address)
{
    size_t digits = strlen(text) > 2 ? strlen(text) - 2 : 0;
    if (strncmp(text, "0x", 2) != 0 || digits == 0 || digits > 16 ||
        strspn(text + 2, "0123456789abcdefABCDEF") != digits)
        return false;
    *address = strtoull(text, NULL, 16);
    return true;
}

static error_t parse_advise_argument(struct advise_options *options, char *arg, const struct argp_state *state)
{
    switch (state->arg_num) {
    case 0:
        return parse_pid(&options->pid, arg, state);
    case 1:
        if (!parse_address(arg, &options->address))
            return command_complain(state, "'%s' is no address: 0x and up to 16 hexadecimal digits", arg);
        return 0;
    case 2:
        if (!command_number(arg, 1, SIZE_MAX, &options->bytes))
            return command_complain(state, "'%s' is no length: a number of bytes is needed", arg);
        return 0;
    case 3:
        if (strcmp(arg, "willneed") != 0 && strcmp(arg, "cold") != 0 && strcmp(arg, "free") != 0)
            return command_complain(state, "'%s': the advice is willneed, cold or free", arg);
        options->advice = arg;
        return 0;
    default:
        return command_complain(state, "'%s': one advice at a time", arg);
    }
}

static error_t parse_advise(int key, char *arg, struct argp_state *state)
{
    struct advise_options *options = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        return parse_advise_argument(options, arg, state);
    case ARGP_KEY_END:
        if (!options->advice)
            return command_complain(state, "PID, ADDRESS, LENGTH and willneed, cold or free are needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp advise_parser = {
    .parser = parse_advise,
    .args_doc = "PID ADDRESS LENGTH willneed|cold|free",
    .doc =
        "Tell a process's shim what will become of a part of its KV cache.\v"
        "ADDRESS is one of the process's, in hexadecimal with 0x before it; LENGTH is in bytes. It is what the engine "
        "itself says by kvmm_advise():\n"
        "  willneed  it will be used soon: fetch it\n"
        "  cold      it will not be used for a while: it may leave memory first\n"
        "  free      its contents are not needed any more, and lost\n\n"
        "Exit status: 0; 1 if it can't be done; 2 for bad arguments.",
};

int command_advise(int argc, char **argv)
{
    struct advise_options options = {0};
    if (!command_parse(&advise_parser, argc, argv, 0, &options))
        return COMMAND_BAD_USAGE;
    char request[128];
    snprintf(request, sizeof request, "advise 0x%" PRIx64 " %" PRIu64 " %s", options.address, options.bytes,
             options.advice);
    return ask("kvmm advise", options.pid, request, LONG_WAIT_MS);
}
