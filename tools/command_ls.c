/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm ls`: the processes that use kvmm. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "tools/command.h"
#include "tools/map_json.h"
#include "tools/units.h"

#define NAME "kvmm ls"

struct options {
    bool json;
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    switch (key) {
    case 'j':
        options->json = true;
        return 0;
    case ARGP_KEY_ARG:
        return command_complain(state, "'%s': it takes no arguments", arg);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option option_table[] = {
    {.name = "json", .key = 'j', .doc = "Print JSON"},
    {0},
};

static const struct argp parser = {
    .options = option_table,
    .parser = parse_option,
    .doc = "List the processes that use kvmm: yours, or everyone's for root.\v"
           "A line for each page map: sequences; device, host and NVMe memory, used/capacity; time since it was "
           "opened. Processes that may not be looked into are left out. `kvmm map PID' shows one in full.",
};

struct entry {
    pid_t pid;
    struct pagemap_snapshot snap;
};

struct entries {
    struct entry *all;
    size_t n, room;
};

static bool add_entry(struct entries *entries, pid_t pid, const struct pagemap_snapshot *snap)
{
    if (entries->n == entries->room) {
        size_t room = entries->room ? entries->room * 2 : 16;
        struct entry *all = realloc(entries->all, room * sizeof *all);
        if (!all)
            return false;
        entries->all = all;
        entries->room = room;
    }
    entries->all[entries->n++] = (struct entry){.pid = pid, .snap = *snap};
    return true;
}

static bool collect_process(struct entries *entries, pid_t pid)
{
    struct pagemap_list list;
    struct pagemap_error error = {0};
    enum pagemap_answer answer = pagemap_open_process(pid, &list, &error);
    if (answer == PAGEMAP_REFUSED || answer == PAGEMAP_FAILED)
        command_explain(NAME, pid, answer, &error); /* the others are still listed */
    bool ok = true;
    for (size_t i = 0; ok && i < list.n_readers; i++) {
        struct pagemap_snapshot snap;
        if (pagemap_read(list.readers[i], PAGEMAP_HEADER, &snap, &error) == PAGEMAP_OK)
            ok = add_entry(entries, pid, &snap);
    }
    pagemap_close_list(&list);
    return ok;
}

static bool collect(struct entries *entries)
{
    pid_t *pids;
    size_t n;
    struct pagemap_error error = {0};
    if (pagemap_processes(&pids, &n, &error) != PAGEMAP_OK) {
        fprintf(stderr, NAME ": %s\n", error.text);
        return false;
    }
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++)
        ok = collect_process(entries, pids[i]);
    free(pids);
    if (!ok)
        fprintf(stderr, NAME ": no memory\n");
    return ok;
}

static int print_json(const struct entries *entries)
{
    json_t *array = json_array();
    bool ok = array != NULL;
    for (size_t i = 0; ok && i < entries->n; i++)
        ok = json_array_append_new(array, map_json_summary(entries->all[i].pid, &entries->all[i].snap)) == 0;
    json_t *top = ok ? json_pack("{s:O}", "processes", array) : NULL;
    json_decref(array);
    ok = top && json_dumpf(top, stdout, JSON_INDENT(2)) == 0;
    json_decref(top);
    if (!ok) {
        fprintf(stderr, NAME ": the JSON could not be made or written\n");
        return COMMAND_FAILED;
    }
    putchar('\n');
    return command_finish_output(NAME);
}

#define N_COLUMNS 8

struct line {
    char cells[N_COLUMNS][UNITS_TEXT * 2];
};

static void tier_cell(char *cell, uint64_t used, uint64_t capacity)
{
    if (capacity)
        units_bytes_of(cell, used, capacity);
    else if (used)
        units_bytes(cell, used);
    else
        snprintf(cell, UNITS_TEXT, "-"); /* no such tier; or no fixed limit, and nothing there */
}

static void fill_line(struct line *line, const struct entry *entry)
{
    const struct pagemap_snapshot *snap = &entry->snap;
    const uint64_t *c = snap->counters;
    size_t room = sizeof line->cells[0];
    snprintf(line->cells[0], room, "%d", (int)entry->pid);
    snprintf(line->cells[1], room, "%.*s", (int)room - 1, snap->name);
    snprintf(line->cells[2], room, "%s", snap->device);
    snprintf(line->cells[3], room, "%" PRIu64, c[VMM_COUNT_SEQUENCES]);
    tier_cell(line->cells[4], c[VMM_COUNT_DEVICE_USED], c[VMM_COUNT_DEVICE_CAPACITY]);
    tier_cell(line->cells[5], c[VMM_COUNT_HOST_USED], c[VMM_COUNT_HOST_CAPACITY]);
    tier_cell(line->cells[6], c[VMM_COUNT_NVME_USED], c[VMM_COUNT_NVME_CAPACITY]);
    units_elapsed(line->cells[7], snap->taken_ns > snap->opened_ns ? snap->taken_ns - snap->opened_ns : 0);
}

static void print_line(const struct line *line, const int *widths)
{
    static const bool is_text[N_COLUMNS] = {false, true, true, false, false, false, false, false};
    for (int i = 0; i < N_COLUMNS; i++)
        printf("%*s%s", is_text[i] ? -widths[i] : widths[i], line->cells[i], i + 1 < N_COLUMNS ? "  " : "\n");
}

static int print_table(const struct entries *entries)
{
    if (entries->n == 0) {
        puts("no process that this user may look into uses kvmm");
        return command_finish_output(NAME);
    }
    struct line *lines = calloc(entries->n + 1, sizeof *lines);
    if (!lines) {
        fprintf(stderr, NAME ": no memory\n");
        return COMMAND_FAILED;
    }
    lines[0] = (struct line){{"PID", "NAME", "DEVICE", "SEQS", "DEVICE MEM", "HOST", "NVME", "UP"}};
    for (size_t i = 0; i < entries->n; i++)
        fill_line(&lines[i + 1], &entries->all[i]);
    int widths[N_COLUMNS] = {0};
    for (size_t i = 0; i <= entries->n; i++)
        for (int column = 0; column < N_COLUMNS; column++) {
            int width = (int)strlen(lines[i].cells[column]);
            widths[column] = width > widths[column] ? width : widths[column];
        }
    for (size_t i = 0; i <= entries->n; i++)
        print_line(&lines[i], widths);
    free(lines);
    return command_finish_output(NAME);
}

int command_ls(int argc, char **argv)
{
    struct options options = {0};
    if (!command_parse(&parser, argc, argv, 0, &options))
        return COMMAND_BAD_USAGE;
    struct entries entries = {0};
    int status = COMMAND_FAILED;
    if (collect(&entries))
        status = options.json ? print_json(&entries) : print_table(&entries);
    for (size_t i = 0; i < entries.n; i++)
        pagemap_snapshot_free(&entries.all[i].snap);
    free(entries.all);
    return status;
}
