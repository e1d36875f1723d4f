/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm run`: a program with the shim under it. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim/config.h"
#include "shim/rules.h"
#include "tools/command.h"
#include "tools/executable.h"
#include "tools/shim_file.h"

#define NAME "kvmm run"

enum { KEY_FIRST = 256 };

/* The settings of shim/config.h that are options, each with its variable. */
static const struct setting {
    const char *option, *variable, *argument; /* NULL argument: the option is a switch, and sets "1" */
    const char *doc;
} settings[] = {
    {"device-memory", "KVMM_DEVICE_MEMORY", "BYTES",
     "RAM for the cache of a CPU engine, device memory for that of a GPU engine (64MiB, 2G); no limit if unsaid"},
    {"host-memory", "KVMM_HOST_MEMORY", "BYTES", "Pinned host memory for a GPU engine's pages"},
    {"swap-dir", "KVMM_SWAP_DIR", "FOLDER", "Folder of the swap file; without it there is none"},
    {"swap-size", "KVMM_SWAP_SIZE", "BYTES", "Its largest size; until the file system is full if unsaid"},
    {"select", "KVMM_SELECT", "RULES",
     "Which allocation is the cache: auto, llama.cpp, stack:PATTERN, order:N, size:BYTES, cleared:BYTES, none, or list "
     "to "
     "see what there is; several with commas, the first that fits decides"},
    {"chunk", "KVMM_CHUNK", "BYTES",
     "Bytes in which a CPU engine's cache moves, 4KiB to 2MiB; if unsaid, 256KiB with 64MiB of memory or more, else "
     "64KiB"},
    {"user-faults", "KVMM_USER_FAULTS", NULL,
     "Go on where the kernel lets this user handle faults of user mode only: system calls on a page that is away fail"},
    {"suspended", "KVMM_SUSPENDED", "wait|fail", "What a call that touches a suspended GPU cache does"},
    {"verbose", "KVMM_VERBOSE", NULL, "A line of figures at exit"},
};

#define N_SETTINGS (sizeof settings / sizeof settings[0])

struct options {
    const char *values[N_SETTINGS];
    char **command;
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    if (key >= KEY_FIRST && key < KEY_FIRST + (int)N_SETTINGS) {
        static char on[] = "1";
        char *value = settings[key - KEY_FIRST].argument ? arg : on;
        if (!*value)
            return command_complain(state, "--%s: a value is missing", settings[key - KEY_FIRST].option);
        options->values[key - KEY_FIRST] = value;
        return 0;
    }
    switch (key) {
    case ARGP_KEY_ARG:
        options->command = &state->argv[state->next - 1];
        state->next = state->argc; /* the rest is the command's */
        return 0;
    case ARGP_KEY_NO_ARGS:
        return command_complain(state, "a command to run is needed; `kvmm run --help' explains");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* For shim_config_read(), which takes no argument but the name. */
static const struct options *current;

static const char *value_of(const char *variable)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        if (current->values[i] && strcmp(settings[i].variable, variable) == 0)
            return current->values[i];
    }
    return getenv(variable);
}

/* The reason with the option in the place of its variable, if it was given as one. */
static void explain(const struct options *options, const char *reason)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        size_t n = strlen(settings[i].variable);
        if (options->values[i] && strncmp(reason, settings[i].variable, n) == 0 && reason[n] == '=') {
            fprintf(stderr, NAME ": --%s%s\n", settings[i].option, reason + n);
            return;
        }
    }
    fprintf(stderr, NAME ": %s\n", reason);
}

/* What the shim would say of the settings, said before the program starts. */
static bool are_good(const struct options *options)
{
    struct shim_config config;
    struct shim_rules rules;
    char reason[400];
    current = options;
    if (shim_config_read(value_of, &config, reason, sizeof reason) &&
        shim_rules_parse(config.select, &rules, reason, sizeof reason))
        return true;
    explain(options, reason);
    return false;
}

static bool set_environment(const struct options *options, const char *shim)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        if (options->values[i] && setenv(settings[i].variable, options->values[i], 1) != 0)
            return false;
    }
    const char *others = getenv("LD_PRELOAD");
    char *all;
    if (asprintf(&all, "%s%s%s", shim, others && *others ? ":" : "", others ? others : "") < 0)
        return false;
    bool ok = setenv("LD_PRELOAD", all, 1) == 0;
    free(all);
    return ok;
}

static int run_command(const struct options *options)
{
    char program[PATH_MAX], shim[PATH_MAX], reason[PATH_MAX + 200];
    if (!shim_file_find(shim, sizeof shim)) {
        fprintf(stderr, NAME ": there is no " SHIM_FILE_NAME " where this kvmm is installed\n");
        return COMMAND_FAILED;
    }
    if (strpbrk(shim, " :")) {
        fprintf(stderr, NAME ": the loader takes no spaces or colons in the name of a library to preload: %s\n", shim);
        return COMMAND_FAILED;
    }
    if (!executable_find(options->command[0], program, sizeof program)) {
        fprintf(stderr, NAME ": %s: %s\n", options->command[0], strerror(errno));
        return errno == ENOENT ? 127 : 126; /* as the shell and env do */
    }
    if (!executable_takes_preload(program, reason, sizeof reason)) {
        fprintf(stderr, NAME ": %s\n", reason);
        return COMMAND_FAILED;
    }
    if (!set_environment(options, shim)) {
        fprintf(stderr, NAME ": no memory\n");
        return COMMAND_FAILED;
    }
    execvp(options->command[0], options->command);
    fprintf(stderr, NAME ": %s: %s\n", options->command[0], strerror(errno));
    return 126;
}

int command_run(int argc, char **argv)
{
    struct argp_option table[N_SETTINGS + 1] = {0};
    for (size_t i = 0; i < N_SETTINGS; i++)
        table[i] = (struct argp_option){
            .name = settings[i].option, .key = KEY_FIRST + (int)i, .arg = settings[i].argument, .doc = settings[i].doc};
    const struct argp parser = {
        .options = table,
        .parser = parse_option,
        .args_doc = "-- COMMAND [ARGUMENT...]",
        .doc =
            "Run a program whose KV cache kvmm pages to memory and NVMe.\v"
            "The program is unmodified: a library is preloaded under it, and under what it runs. Preloading by hand "
            "(LD_PRELOAD, and a KVMM_ variable for each option: KVMM_DEVICE_MEMORY for --device-memory) does the same.",
    };
    struct options options = {0};
    if (!command_parse(&parser, argc, argv, ARGP_IN_ORDER, &options))
        return COMMAND_BAD_USAGE;
    if (!are_good(&options))
        return COMMAND_BAD_USAGE;
    return run_command(&options);
}
