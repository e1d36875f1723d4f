/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm ls`: the processes that use kvmm. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "tools/command.h"
#include "tools/map_json.h"
#include "tools/shim_client.h"
#include "tools/shim_info.h"
#include "tools/units.h"

#define NAME "kvmm ls"

/* For all processes under the shim together: one that is just being suspended answers nothing. */
#define SHIM_WAIT_MS 1000

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
           "A line for each page map, and for each process under the shim that has a cache or was given a rule for "
           "which allocation is one: sequences; device, host and NVMe memory, used/capacity; time since it was opened; "
           "state. Processes that may not be looked into are left out. `kvmm map PID' shows a page map in full.",
};

enum kind {
    MAP,      /* snap */
    SHIM,     /* name, info */
    SHIM_MUTE /* name; it did not answer in time */
};

struct entry {
    pid_t pid;
    enum kind kind;
    struct pagemap_snapshot snap;
    char name[64];
    struct shim_info info;
};

struct entries {
    struct entry *all;
    size_t n, room;
};

static bool add_entry(struct entries *entries, const struct entry *entry)
{
    if (entries->n == entries->room) {
        size_t room = entries->room ? entries->room * 2 : 16;
        struct entry *all = realloc(entries->all, room * sizeof *all);
        if (!all)
            return false;
        entries->all = all;
        entries->room = room;
    }
    entries->all[entries->n++] = *entry;
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
        struct entry entry = {.pid = pid, .kind = MAP};
        if (pagemap_read(list.readers[i], PAGEMAP_HEADER, &entry.snap, &error) == PAGEMAP_OK)
            ok = add_entry(entries, &entry);
    }
    pagemap_close_list(&list);
    return ok;
}

/* Of one that can't be read, what is wrong is said, and the others are still listed. */
static bool add_shim(struct entries *entries, const struct shim_client_process *process)
{
    struct entry entry = {.pid = process->pid, .kind = SHIM};
    char reason[256];
    switch (process->answer) {
    case SHIM_CLIENT_OK:
        if (!shim_info_parse(process->text, &entry.info, reason, sizeof reason)) {
            shim_client_explain(NAME, process->pid, SHIM_CLIENT_FAILED, reason);
            return true;
        }
        break;
    case SHIM_CLIENT_TIMED_OUT:
        entry.kind = SHIM_MUTE;
        break;
    case SHIM_CLIENT_DENIED:
        return true;
    default:
        if (!pagemap_process_ended(process->pid))
            shim_client_explain(NAME, process->pid, process->answer, process->text);
        return true;
    }
    shim_info_name(process->pid, entry.name, sizeof entry.name);
    return add_entry(entries, &entry);
}

static bool collect_shims(struct entries *entries)
{
    struct shim_client_process *processes;
    size_t n;
    char text[SHIM_CLIENT_TEXT];
    if (shim_client_ask_all("info", SHIM_WAIT_MS, &processes, &n, text) != SHIM_CLIENT_OK) {
        fprintf(stderr, NAME ": processes under the shim can't be found: %s\n", text);
        return false;
    }
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++)
        ok = add_shim(entries, &processes[i]);
    free(processes);
    if (!ok)
        fprintf(stderr, NAME ": no memory\n");
    return ok;
}

static bool collect_maps(struct entries *entries)
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

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static json_t *entry_json(const struct entry *entry)
{
    if (entry->kind == MAP)
        return map_json_summary(entry->pid, &entry->snap);
    return shim_info_json(entry->pid, entry->name, entry->kind == SHIM ? &entry->info : NULL, now_ns());
}

static int print_json(const struct entries *entries)
{
    json_t *array = json_array();
    bool ok = array != NULL;
    for (size_t i = 0; ok && i < entries->n; i++)
        ok = json_array_append_new(array, entry_json(&entries->all[i])) == 0;
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

#define N_COLUMNS    9
#define LONGEST_CELL 320 /* a rule that selected nothing is one */

struct line {
    char cells[N_COLUMNS][LONGEST_CELL];
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

static void fill_map_line(struct line *line, const struct entry *entry)
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

static void fill_shim_line(struct line *line, const struct entry *entry)
{
    const struct shim_info *info = &entry->info;
    size_t room = sizeof line->cells[0];
    snprintf(line->cells[0], room, "%d", (int)entry->pid);
    snprintf(line->cells[1], room, "%s", entry->name);
    if (entry->kind == SHIM_MUTE) {
        snprintf(line->cells[8], room, "no answer");
        return;
    }
    snprintf(line->cells[2], room, "%s", info->device[0] ? info->device : "-");
    tier_cell(line->cells[4], info->memory, info->memory_limit);
    tier_cell(line->cells[5], info->host, info->host_limit);
    tier_cell(line->cells[6], info->swapped, info->swap_limit);
    uint64_t now = now_ns();
    if (info->started)
        units_elapsed(line->cells[7], now > info->started ? now - info->started : 0);
    if (info->counted && info->selected == 0)
        snprintf(line->cells[8], room, "nothing of %" PRIu64 " selected by %s", info->seen, info->rule);
    else
        snprintf(line->cells[8], room, "%s", info->state[0] ? info->state : "-");
}

static void fill_line(struct line *line, const struct entry *entry)
{
    for (int column = 0; column < N_COLUMNS; column++)
        snprintf(line->cells[column], sizeof line->cells[column], "-");
    if (entry->kind == MAP)
        fill_map_line(line, entry);
    else
        fill_shim_line(line, entry);
}

static void print_line(const struct line *line, const int *widths)
{
    static const bool is_text[N_COLUMNS] = {[1] = true, [2] = true};
    for (int i = 0; i + 1 < N_COLUMNS; i++)
        printf("%*s  ", is_text[i] ? -widths[i] : widths[i], line->cells[i]);
    puts(line->cells[N_COLUMNS - 1]);
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
    lines[0] = (struct line){{"PID", "NAME", "DEVICE", "SEQS", "DEVICE MEM", "HOST", "NVME", "UP", "STATE"}};
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
    if (collect_maps(&entries) && collect_shims(&entries))
        status = options.json ? print_json(&entries) : print_table(&entries);
    for (size_t i = 0; i < entries.n; i++)
        if (entries.all[i].kind == MAP)
            pagemap_snapshot_free(&entries.all[i].snap);
    free(entries.all);
    return status;
}
