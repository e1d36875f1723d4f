/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine of the user's: COMMAND, run without and with the shim in turn. The last line that it prints is a JSON object with
 * "tokens_per_s". */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/bench_shim.h"
#include "tools/bench_spread.h"
#include "tools/command.h"

/* Runs it and keeps its last line. False if it can't be run or fails. */
static bool last_line(const struct shim_bench *bench, bool preload, char **line)
{
    int ends[2];
    char **environment = shim_bench_environment(bench, preload, bench->options.budget, 0);
    if (environment == NULL || pipe2(ends, O_CLOEXEC) != 0) {
        free(environment);
        return false;
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    pid_t child;
    int error = posix_spawnp(&child, bench->options.command[0], &actions, NULL, bench->options.command, environment);
    posix_spawn_file_actions_destroy(&actions);
    free(environment);
    close(ends[1]);
    FILE *from = fdopen(ends[0], "r");
    size_t room = 0, line_room = 0;
    char *next = NULL;
    while (error == 0 && from != NULL && getline(&next, &room, from) > 0) {
        char *kept = *line;
        size_t kept_room = line_room;
        *line = next;
        line_room = room;
        next = kept;
        room = kept_room;
    }
    free(next);
    if (from != NULL)
        (void)fclose(from);
    int status = 0;
    if (error != 0)
        fprintf(stderr, SHIM_BENCH_NAME ": %s: %s\n", bench->options.command[0], strerrordesc_np(error));
    else if (waitpid(child, &status, 0) != child || status != 0)
        fprintf(stderr, SHIM_BENCH_NAME ": %s failed (wait status 0x%x)\n", bench->options.command[0],
                (unsigned)status);
    return error == 0 && status == 0 && *line != NULL;
}

static double tokens_per_s(const struct shim_bench *bench, bool preload)
{
    char *line = NULL;
    double rate = 0;
    if (last_line(bench, preload, &line)) {
        json_t *root = json_loads(line, 0, NULL);
        rate = json_number_value(json_object_get(root, "tokens_per_s"));
        json_decref(root);
        if (rate <= 0)
            fprintf(stderr, SHIM_BENCH_NAME ": %s's last line is no JSON object with \"tokens_per_s\"\n",
                    bench->options.command[0]);
    }
    free(line);
    return rate;
}

static struct spread rates(const struct shim_bench *bench, enum shim_runner runner)
{
    double values[MOST_ROUNDS];
    for (uint64_t i = 0; i < bench->options.n_rounds; i++)
        values[i] = bench->rounds[i].fits_tokens_per_s[runner];
    return spread_of(values, bench->options.n_rounds);
}

static void print(const struct shim_bench *bench)
{
    double values[MOST_ROUNDS];
    for (uint64_t i = 0; i < bench->options.n_rounds; i++)
        values[i] = bench->rounds[i].fits_tokens_per_s[RUN_SHIM] / bench->rounds[i].fits_tokens_per_s[RUN_PLAIN];
    struct spread ratio = spread_of(values, bench->options.n_rounds);
    if (bench->options.json) {
        json_t *root =
            json_pack("{s:s, s:s, s:I, s:o, s:o, s:o}", "bench", "shim", "command", bench->options.command[0], "rounds",
                      (json_int_t)bench->options.n_rounds, "tokens_per_s_without", spread_json(rates(bench, RUN_PLAIN)),
                      "tokens_per_s_with", spread_json(rates(bench, RUN_SHIM)), "ratio", spread_json(ratio));
        json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        putchar('\n');
        json_decref(root);
        return;
    }
    printf("%s, %llu rounds in turn; medians\n\n%12s %12s   %s\n%12.2f %12.2f   %.4f  %.4f  %.4f\n",
           bench->options.command[0], (unsigned long long)bench->options.n_rounds, "tokens/s", "with shim",
           "ratio min/median/max", rates(bench, RUN_PLAIN).median, rates(bench, RUN_SHIM).median, ratio.least,
           ratio.median, ratio.most);
}

int shim_bench_command(struct shim_bench *bench)
{
    for (uint64_t i = 0; i < bench->options.n_rounds; i++)
        for (int turn = 0; turn < 2; turn++) {
            /* Each comes first in every other round. */
            enum shim_runner runner = (i + (uint64_t)turn) % 2 == 0 ? RUN_PLAIN : RUN_SHIM;
            shim_bench_progress("round %llu of %llu, %s the shim", (unsigned long long)i + 1,
                                (unsigned long long)bench->options.n_rounds, runner == RUN_SHIM ? "with" : "without");
            double rate = tokens_per_s(bench, runner == RUN_SHIM);
            if (rate <= 0)
                return COMMAND_FAILED;
            bench->rounds[i].fits_tokens_per_s[runner] = rate;
        }
    shim_bench_progress(NULL);
    print(bench);
    return command_finish_output(SHIM_BENCH_NAME);
}
