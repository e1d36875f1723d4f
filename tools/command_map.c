/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm map PID`: where each page of a process is, once or again and again. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "tools/command.h"
#include "tools/draw.h"
#include "tools/map_json.h"

#define NAME "kvmm map"

#define LINES_A_SEQUENCE 6
#define MOST_CELLS       10000

enum colour { COLOUR_AUTO, COLOUR_ALWAYS, COLOUR_NEVER };

struct options {
    uint64_t pid; /* 0: none yet */
    bool json;
    bool one_seq;
    uint64_t seq;
    uint64_t width; /* 0: by the terminal */
    enum colour colour;
    double watch_s; /* 0: once */
};

/* ---- arguments ----------------------------------------------------------------------------------------------- */

static bool parse_seconds(const char *text, double *seconds)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value) || value < 0.01 || value > 86400)
        return false;
    *seconds = value;
    return true;
}

static error_t parse_watch(struct options *options, const char *arg, struct argp_state *state)
{
    options->watch_s = 1;
    /* `map PID --watch 2`: with the PID already there a number that follows can only be the seconds. */
    if (!arg && options->pid && state->next < state->argc && state->argv[state->next][0] != '-')
        arg = state->argv[state->next++];
    if (arg && !parse_seconds(arg, &options->watch_s))
        return command_complain(state, "--watch '%s': seconds between 0.01 and 86400 are needed", arg);
    return 0;
}

static error_t parse_colour(struct options *options, const char *arg, const struct argp_state *state)
{
    if (strcmp(arg, "auto") == 0)
        options->colour = COLOUR_AUTO;
    else if (strcmp(arg, "always") == 0)
        options->colour = COLOUR_ALWAYS;
    else if (strcmp(arg, "never") == 0)
        options->colour = COLOUR_NEVER;
    else
        return command_complain(state, "--color '%s': it is auto, always or never", arg);
    return 0;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    switch (key) {
    case 'j':
        options->json = true;
        return 0;
    case 's':
        options->one_seq = true;
        if (!command_number(arg, 1, UINT64_MAX, &options->seq))
            return command_complain(state, "--seq '%s': a sequence's number is needed", arg);
        return 0;
    case 'W':
        if (!command_number(arg, 1, MOST_CELLS, &options->width))
            return command_complain(state, "--width '%s': it is 1 to %d", arg, MOST_CELLS);
        return 0;
    case 'c':
        return parse_colour(options, arg, state);
    case 'w':
        return parse_watch(options, arg, state);
    case ARGP_KEY_ARG:
        if (options->pid)
            return command_complain(state, "'%s': one process at a time", arg);
        if (!command_number(arg, 1, INT_MAX, &options->pid))
            return command_complain(state, "'%s' is no process id", arg);
        return 0;
    case ARGP_KEY_NO_ARGS:
        return command_complain(state, "which process? `kvmm ls' lists them");
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option option_table[] = {
    {.name = "json", .key = 'j', .doc = "Print JSON: pages in runs of equal state. With --watch, a line each time"},
    {.name = "seq", .key = 's', .arg = "ID", .doc = "Show only this sequence"},
    {.name = "width", .key = 'W', .arg = "N", .doc = "N cells a line, instead of what fits the terminal"},
    {.name = "color", .key = 'c', .arg = "WHEN", .doc = "auto (the default: on a terminal), always or never"},
    {.name = "watch",
     .key = 'w',
     .arg = "SECONDS",
     .flags = OPTION_ARG_OPTIONAL,
     .doc = "Draw again and again, each second by default, until the process ends"},
    {0},
};

static const struct argp parser = {
    .options = option_table,
    .parser = parse_option,
    .args_doc = "PID",
    .doc = "Draw where each page of a process is.\v"
           "A letter is a page:\n"
           "  D  on the device, the only copy     H  in host memory\n"
           "  d  on the device, copied below      v  going from host memory to NVMe\n"
           "  +  mapped ahead, for tokens to come N  on NVMe\n"
           "  >  leaving the device               <  coming to the device\n"
           "  X  lost                             .  empty\n"
           "A page that lies on several frames is as far away as the farthest of them. Where a sequence has more "
           "pages than a few lines hold, a letter stands for several: for what most of them are, but X if any is "
           "lost. The number before a line is its first page.\n\n"
           "The process is neither stopped nor slowed. Exit status: 0; 1 if there is nothing to show; 2 for bad "
           "arguments.",
};

/* ---- one look ------------------------------------------------------------------------------------------------ */

struct looks {
    struct pagemap_snapshot *snaps;
    size_t n;
};

static void free_looks(struct looks *looks)
{
    for (size_t i = 0; i < looks->n; i++)
        pagemap_snapshot_free(&looks->snaps[i]);
    free(looks->snaps);
    *looks = (struct looks){0};
}

/* Maps that can't be read are told of on stderr; the answer is OK if there is any other. */
static enum pagemap_answer look(pid_t pid, struct looks *looks, struct pagemap_error *error)
{
    struct pagemap_list list;
    enum pagemap_answer answer = pagemap_open_process(pid, &list, error);
    if (answer)
        return answer;
    if (list.n_refused)
        command_explain(NAME, pid, PAGEMAP_REFUSED, error);
    *looks = (struct looks){.snaps = calloc(list.n_readers, sizeof *looks->snaps)};
    for (size_t i = 0; looks->snaps && i < list.n_readers; i++) {
        enum pagemap_answer one = pagemap_read(list.readers[i], PAGEMAP_ROWS, &looks->snaps[looks->n], error);
        if (one == PAGEMAP_OK)
            looks->n++;
        else if (list.n_readers > 1)
            command_explain(NAME, pid, one, error);
        answer = one;
    }
    pagemap_close_list(&list);
    if (!looks->snaps) {
        snprintf(error->text, sizeof error->text, "no memory");
        return PAGEMAP_FAILED;
    }
    if (looks->n > 0)
        return PAGEMAP_OK;
    free_looks(looks);
    return answer;
}

static bool has_seq(const struct looks *looks, uint64_t id)
{
    for (size_t i = 0; i < looks->n; i++)
        if (draw_find_seq(&looks->snaps[i], id))
            return true;
    return false;
}

/* ---- output -------------------------------------------------------------------------------------------------- */

static bool print_json(const struct options *options, const struct looks *looks)
{
    json_t *array = json_array();
    bool ok = array != NULL;
    for (size_t i = 0; ok && i < looks->n; i++) {
        json_t *map = map_json_snapshot((pid_t)options->pid, &looks->snaps[i], options->one_seq ? &options->seq : NULL);
        ok = json_array_append_new(array, map) == 0;
    }
    json_t *top = ok ? json_pack("{s:O}", "maps", array) : NULL;
    json_decref(array);
    ok = top && json_dumpf(top, stdout, options->watch_s > 0 ? JSON_COMPACT : JSON_INDENT(2)) == 0;
    json_decref(top);
    if (ok)
        putchar('\n');
    else
        fprintf(stderr, NAME ": the JSON could not be made or written\n");
    return ok;
}

static unsigned number_from_environment(const char *name)
{
    const char *text = getenv(name);
    uint64_t number = 0;
    return text && command_number(text, 1, MOST_CELLS, &number) ? (unsigned)number : 0;
}

static void screen_size(unsigned *columns, unsigned *rows)
{
    struct winsize size;
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0;
    *columns = known && size.ws_col ? size.ws_col : number_from_environment("COLUMNS");
    *rows = known && size.ws_row ? size.ws_row : number_from_environment("LINES");
    if (*columns == 0)
        *columns = 80;
    if (*rows == 0)
        *rows = 24;
}

static bool want_colour(enum colour colour)
{
    const char *term = getenv("TERM");
    const char *no_color = getenv("NO_COLOR");
    if (colour != COLOUR_AUTO)
        return colour == COLOUR_ALWAYS;
    return isatty(STDOUT_FILENO) && !(no_color && *no_color) && !(term && strcmp(term, "dumb") == 0);
}

/* Over the last drawing, line by line, so that nothing flickers; what does not fit the screen is left out. */
static void print_over(const char *text, unsigned rows)
{
    fputs("\033[H", stdout);
    unsigned line = 0;
    for (const char *at = text; *at; line++) {
        const char *end = strchrnul(at, '\n');
        if (line + 2 >= rows && *end && end[1]) {
            fputs("... more below; --seq ID shows one sequence\033[K\n", stdout);
            break;
        }
        fwrite(at, 1, (size_t)(end - at), stdout);
        fputs("\033[K\n", stdout);
        at = *end ? end + 1 : end;
    }
    fputs("\033[J", stdout);
}

/* Lines of cells for each sequence with which all of them fit the screen, if that can be: around them are about 13 lines
 * for the whole map, and 2 for each sequence. */
static unsigned lines_that_fit(const struct options *options, const struct looks *looks, unsigned rows)
{
    size_t n_seqs = 0;
    size_t around = 0;
    for (size_t i = 0; i < looks->n; i++) {
        n_seqs += options->one_seq ? 1 : looks->snaps[i].n_seqs;
        around += 13;
    }
    size_t each = n_seqs > 0 && rows > around ? (rows - around) / n_seqs : 0;
    if (each < 3)
        return 1;
    return each - 2 < LINES_A_SEQUENCE ? (unsigned)each - 2 : LINES_A_SEQUENCE;
}

static bool print_drawing(const struct options *options, const struct looks *looks)
{
    struct draw_style style = {
        .pid = (pid_t)options->pid,
        .cells = (unsigned)options->width,
        .lines = LINES_A_SEQUENCE,
        .colour = want_colour(options->colour),
        .one_seq = options->one_seq,
        .seq = options->seq,
    };
    unsigned rows;
    screen_size(&style.columns, &rows);
    bool over = options->watch_s > 0 && isatty(STDOUT_FILENO);
    if (over)
        style.lines = lines_that_fit(options, looks, rows);
    char *text;
    size_t bytes;
    FILE *memory = open_memstream(&text, &bytes);
    if (!memory) {
        fprintf(stderr, NAME ": %s\n", strerror(errno));
        return false;
    }
    for (size_t i = 0; i < looks->n; i++) {
        if (i > 0)
            fputc('\n', memory);
        draw_map(memory, &looks->snaps[i], &style);
    }
    if (fclose(memory)) {
        fprintf(stderr, NAME ": no memory\n");
        free(text);
        return false;
    }
    if (over)
        print_over(text, rows);
    else
        fwrite(text, 1, bytes, stdout);
    if (options->watch_s > 0 && !over)
        putchar('\n');
    free(text);
    return true;
}

/* ---- the command --------------------------------------------------------------------------------------------- */

static int show(const struct options *options, const struct looks *looks)
{
    if (options->one_seq && !has_seq(looks, options->seq)) {
        fprintf(stderr, NAME ": process %d has no sequence %" PRIu64 "\n", (int)options->pid, options->seq);
        return COMMAND_FAILED;
    }
    bool ok = options->json ? print_json(options, looks) : print_drawing(options, looks);
    int status = command_finish_output(NAME);
    return ok ? status : COMMAND_FAILED;
}

static void wait_for(double seconds)
{
    struct timespec left = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - floor(seconds)) * 1e9)};
    while (nanosleep(&left, &left) && errno == EINTR)
        ;
}

int command_map(int argc, char **argv)
{
    struct options options = {0};
    if (!command_parse(&parser, argc, argv, ARGP_IN_ORDER, &options))
        return COMMAND_BAD_USAGE;
    pid_t pid = (pid_t)options.pid;
    if (options.watch_s > 0 && !options.json && isatty(STDOUT_FILENO))
        fputs("\033[2J", stdout);
    for (bool first = true;; first = false) {
        struct looks looks;
        struct pagemap_error error = {0};
        enum pagemap_answer answer = look(pid, &looks, &error);
        if (!first && (answer == PAGEMAP_NO_PROCESS || answer == PAGEMAP_NO_MAP)) {
            fprintf(stderr, NAME ": process %d has %s\n", (int)pid,
                    answer == PAGEMAP_NO_PROCESS ? "ended" : "closed its page map");
            return COMMAND_DONE;
        }
        if (answer) {
            command_explain(NAME, pid, answer, &error);
            return COMMAND_FAILED;
        }
        int status = show(&options, &looks);
        free_looks(&looks);
        if (status != COMMAND_DONE || options.watch_s <= 0)
            return status;
        wait_for(options.watch_s);
    }
}
