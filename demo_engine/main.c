/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "cli.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *doc;
} COMMANDS[] = {
    {"generate", cli_generate, "Continue one or more prompts with a GGUF model"},
    {"recall-demo", cli_recall_demo, "Fill documents in under a small budget, then have each quote itself"},
    {"make-recall-model", cli_make_recall_model, "Write a small model that quotes from its context"},
};
#define N_COMMANDS (sizeof COMMANDS / sizeof *COMMANDS)

static void print_help(void)
{
    (void)puts("Usage: kvmm-engine COMMAND [OPTION...]\n"
               "An LLM inference engine whose KV caches live in kvmm's virtual memory.\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        (void)printf("  %-20s %s\n", COMMANDS[i].name, COMMANDS[i].doc);
    (void)puts("\n`kvmm-engine COMMAND --help' tells a command's options.\n"
               "Exit status: 0, 1 if something failed, 2 if what was asked for can't be done.");
}

int main(int argc, char **argv)
{
    if (argc < 2)
        cli_usage_error("no command; `kvmm-engine --help' lists them");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0 || strcmp(argv[1], "help") == 0) {
        print_help();
        return cli_close_stdout();
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        (void)printf("kvmm-engine %d.%d.%d\n", KVMM_VERSION_MAJOR, KVMM_VERSION_MINOR, KVMM_VERSION_PATCH);
        return cli_close_stdout();
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], COMMANDS[i].name) != 0)
            continue;
        char name[64];
        (void)snprintf(name, sizeof name, "kvmm-engine %s", argv[1]);
        argv[1] = name;
        return COMMANDS[i].run(argc - 1, argv + 1);
    }
    cli_usage_error("\"%s\" is not a command; `kvmm-engine --help' lists them", argv[1]);
}
