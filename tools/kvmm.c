/* SPDX-License-Identifier: Apache-2.0
 *
 * The kvmm command. */
#include <stdio.h>
#include <string.h>

#include "tools/command.h"

/* Looked up by argp in libc, so it must not be hidden. */
__attribute__((visibility("default"))) const char *argp_program_version = "kvmm " TOOLS_VERSION;

static const struct command {
    const char *name;
    const char *title; /* argv[0] of the command: what its messages begin with */
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "kvmm run", command_run},          {"ls", "kvmm ls", command_ls},
    {"map", "kvmm map", command_map},          {"suspend", "kvmm suspend", command_suspend},
    {"resume", "kvmm resume", command_resume}, {"advise", "kvmm advise", command_advise},
    {"bench", "kvmm bench", command_bench},
};

struct options {
    char *name;
    int first;
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        options->name = arg;
        options->first = state->next - 1;
        state->next = state->argc; /* the rest is the command's */
        return 0;
    case ARGP_KEY_NO_ARGS:
        return command_complain(state, "a command is needed, as ls; `kvmm --help' lists them");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp parser = {
    .parser = parse_option,
    .args_doc = "COMMAND [ARGUMENT...]",
    .doc = "Run programs whose KV caches kvmm manages, look at the caches, and steer them.\v"
           "  run COMMAND  a program with kvmm under it\n"
           "  ls           the processes that use kvmm\n"
           "  map PID      where each page of a process is: device, host memory, NVMe\n"
           "  suspend PID  take a process's cache out of memory\n"
           "  resume PID   bring it back\n"
           "  advise PID ADDRESS LENGTH willneed|cold|free\n"
           "               say what will become of a part of it\n"
           "  bench NAME   measure a part of kvmm on this machine\n"
           "`kvmm COMMAND --help' has the arguments of each.",
};

int main(int argc, char **argv)
{
    static char title[] = "kvmm";
    if (argc > 0)
        argv[0] = title;
    struct options options = {0};
    if (!command_parse(&parser, argc, argv, ARGP_IN_ORDER, &options))
        return COMMAND_BAD_USAGE;
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(commands[i].name, options.name) != 0)
            continue;
        char command_title[32];
        snprintf(command_title, sizeof command_title, "%s", commands[i].title);
        argv[options.first] = command_title;
        return commands[i].run(argc - options.first, argv + options.first);
    }
    fprintf(stderr, "kvmm: there is no command '%s'; `kvmm --help' lists them\n", options.name);
    return COMMAND_BAD_USAGE;
}
