/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/draw.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "tools/units.h"

#define RESET "\033[0m"
#define BOLD  "\033[1m"
#define DIM   "\033[2m"

#define LABEL_WIDTH 10 /* "  device  " */

struct look {
    char glyph;
    const char *colour; /* ECMA-48 SGR; one of the 16 colours that every terminal has */
    const char *word;
};

static const struct look looks[PAGEMAP_N_STATES] = {
    [PAGEMAP_DEVICE] = {'D', "\033[30;42m", "device"},   [PAGEMAP_CLEAN] = {'d', "\033[30;102m", "device, clean"},
    [PAGEMAP_AHEAD] = {'+', "\033[32m", "mapped ahead"}, [PAGEMAP_LEAVING] = {'>', "\033[30;43m", "leaving"},
    [PAGEMAP_HOST] = {'H', "\033[97;44m", "host"},       [PAGEMAP_DEMOTING] = {'v', "\033[97;45m", "demoting"},
    [PAGEMAP_NVME] = {'N', "\033[97;100m", "nvme"},      [PAGEMAP_ARRIVING] = {'<', "\033[30;46m", "arriving"},
    [PAGEMAP_LOST] = {'X', "\033[1;97;41m", "lost"},     [PAGEMAP_EMPTY] = {'.', "\033[2m", "empty"},
    [PAGEMAP_UNKNOWN] = {'?', "\033[1;31m", "unknown"},
};

/* From the device down, as the legend has them; UNKNOWN is no state of this version. */
static const enum pagemap_state legend[] = {PAGEMAP_DEVICE, PAGEMAP_CLEAN,    PAGEMAP_AHEAD, PAGEMAP_LEAVING,
                                            PAGEMAP_HOST,   PAGEMAP_DEMOTING, PAGEMAP_NVME,  PAGEMAP_ARRIVING,
                                            PAGEMAP_LOST,   PAGEMAP_EMPTY};

char draw_glyph(enum pagemap_state state)
{
    return (unsigned)state < PAGEMAP_N_STATES ? looks[state].glyph : '?';
}

uint64_t draw_pages_a_cell(uint64_t n_pages, uint64_t cells, uint64_t lines)
{
    uint64_t group = 1;
    while ((n_pages + group - 1) / group > cells * lines)
        group *= 2;
    return group;
}

enum pagemap_state draw_group_state(const struct pagemap_seq *seq, uint64_t first, uint64_t end, size_t *run,
                                    uint64_t *run_first)
{
    uint64_t counts[PAGEMAP_N_STATES] = {0};
    while (*run < seq->n_runs && *run_first < end) {
        uint64_t run_end = *run_first + seq->runs[*run].n_pages;
        uint64_t from = *run_first > first ? *run_first : first;
        uint64_t to = run_end < end ? run_end : end;
        if (from < to)
            counts[seq->runs[*run].state] += to - from;
        if (run_end > end)
            break; /* the next group begins in this run */
        *run_first = run_end;
        ++*run;
    }
    if (counts[PAGEMAP_LOST])
        return PAGEMAP_LOST;
    enum pagemap_state most = PAGEMAP_EMPTY;
    for (int state = 0; state < PAGEMAP_N_STATES; state++)
        if (counts[state] && counts[state] >= counts[most])
            most = (enum pagemap_state)state;
    return most;
}

const struct pagemap_seq *draw_find_seq(const struct pagemap_snapshot *snap, uint64_t id)
{
    for (size_t i = 0; i < snap->n_seqs; i++)
        if (snap->seqs[i].status == PAGEMAP_ROW_OK && snap->seqs[i].id == id)
            return &snap->seqs[i];
    return NULL;
}

/* ---- the head ------------------------------------------------------------------------------------------------ */

static const char *paint(const struct draw_style *style, const char *sgr)
{
    return style->colour ? sgr : "";
}

/* A line of pieces that goes on in the next one, indented, where a piece would pass the last column. The spaces that a
 * piece begins with part it from the one before it on the same line. */
struct line {
    FILE *out;
    unsigned column, columns, indent;
};

static void line_put(struct line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void line_put(struct line *line, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const char *piece = text;
    if (line->column > line->indent && line->column + strlen(piece) > line->columns) {
        fprintf(line->out, "\n%*s", (int)line->indent, "");
        line->column = line->indent;
        piece += strspn(piece, " ");
    }
    fputs(piece, line->out);
    line->column += (unsigned)strlen(piece);
}

static const char *dtype_name(enum kvmm_dtype dtype)
{
    switch (dtype) {
    case KVMM_F16:
        return "f16";
    case KVMM_BF16:
        return "bf16";
    case KVMM_F32:
        return "f32";
    }
    return "unknown type";
}

static const char *layout_name(enum kvmm_layout_kind layout)
{
    switch (layout) {
    case KVMM_PAGE_MAJOR:
        return "page-major";
    case KVMM_TOKEN_MAJOR:
        return "token-major";
    case KVMM_LAYER_MAJOR:
        return "layer-major";
    }
    return "unknown layout";
}

static void draw_process(FILE *out, const struct pagemap_snapshot *snap, const struct draw_style *style)
{
    char a[UNITS_TEXT];
    char b[UNITS_TEXT];
    uint64_t up = snap->taken_ns > snap->opened_ns ? snap->taken_ns - snap->opened_ns : 0;
    fprintf(out, "%s%s%s  pid %d, up %s, device %s, swap %s\n", paint(style, BOLD), snap->name, paint(style, RESET),
            (int)style->pid, units_elapsed(a, up), snap->device, snap->swap_backend);
    const struct kvmm_geometry *g = &snap->geometry;
    struct line line = {.out = out, .columns = style->columns, .indent = LABEL_WIDTH};
    line_put(&line, "  %-8s", "model");
    line_put(&line, "%u layers, %u KV heads x %u, %s, %s;", g->n_layers, g->n_kv_heads, g->head_dim,
             dtype_name(g->dtype), layout_name(g->layout));
    line_put(&line, " page %u tokens = %s, frame %s", g->page_tokens,
             units_bytes(a, snap->page_stride * snap->n_groups), units_bytes(b, snap->frame_bytes));
    fputc('\n', out);
}

static void draw_budget(FILE *out, const char *tier, uint64_t used, uint64_t capacity, const char *colour,
                        const struct draw_style *style)
{
    char text[UNITS_TEXT];
    if (capacity == 0) {
        fprintf(out, "  %-8s%s%s\n", tier, used ? units_bytes(text, used) : "none", used ? ", no limit" : "");
        return;
    }
    unsigned width = style->columns >= 100 ? 40 : 24;
    double share = used < capacity ? (double)used / (double)capacity : 1.0;
    unsigned full = (unsigned)(share * width + 0.5);
    if (full == 0 && used > 0)
        full = 1;
    char bar[41];
    memset(bar, '#', full);
    bar[full] = '\0';
    fprintf(out, "  %-8s[%s%s%s", tier, paint(style, colour), bar, paint(style, RESET));
    memset(bar, '.', width - full);
    bar[width - full] = '\0';
    fprintf(out, "%s%s%s] %3.0f%%  %s\n", paint(style, DIM), bar, paint(style, RESET),
            100.0 * (double)used / (double)capacity, units_bytes_of(text, used, capacity));
}

static void draw_budgets(FILE *out, const struct pagemap_snapshot *snap, const struct draw_style *style)
{
    const uint64_t *c = snap->counters;
    draw_budget(out, "device", c[VMM_COUNT_DEVICE_USED], c[VMM_COUNT_DEVICE_CAPACITY], "\033[32m", style);
    draw_budget(out, "host", c[VMM_COUNT_HOST_USED], c[VMM_COUNT_HOST_CAPACITY], "\033[34m", style);
    if (c[VMM_COUNT_NVME_CAPACITY] == 0 && c[VMM_COUNT_NVME_USED] == 0 && strcmp(snap->swap_backend, "none") != 0) {
        fprintf(out, "  %-8sempty, no limit\n", "nvme");
        return;
    }
    draw_budget(out, "nvme", c[VMM_COUNT_NVME_USED], c[VMM_COUNT_NVME_CAPACITY], "\033[37m", style);
}

static void draw_steps(FILE *out, const struct pagemap_snapshot *snap, const struct draw_style *style)
{
    const uint64_t *c = snap->counters;
    struct line line = {.out = out, .columns = style->columns, .indent = LABEL_WIDTH};
    line_put(&line, "  %-8s", "steps");
    double hit = (double)c[VMM_COUNT_FRAMES_HIT];
    double host = (double)c[VMM_COUNT_FRAMES_FROM_HOST];
    double nvme = (double)c[VMM_COUNT_FRAMES_FROM_NVME];
    double wanted = hit + host + nvme;
    uint64_t waited = c[VMM_COUNT_STEPS_WAITED];
    const char *stop = wanted > 0 ? ";" : "";
    line_put(&line, "%" PRIu64 "%s", c[VMM_COUNT_STEPS], waited ? "," : stop);
    if (waited) {
        char text[UNITS_TEXT];
        line_put(&line, " %" PRIu64 " waited, %s each%s", waited, units_wait(text, c[VMM_COUNT_WAIT_NS] / waited),
                 stop);
    }
    if (wanted > 0)
        line_put(&line, " frames: %.1f%% were there, %.1f%% from host, %.1f%% from nvme", 100.0 * hit / wanted,
                 100.0 * host / wanted, 100.0 * nvme / wanted);
    fputc('\n', out);
}

/* ---- the cells ----------------------------------------------------------------------------------------------- */

static void draw_legend(FILE *out, const struct draw_style *style)
{
    unsigned column = 0;
    for (size_t i = 0; i < sizeof legend / sizeof legend[0]; i++) {
        const struct look *look = &looks[legend[i]];
        unsigned width = (unsigned)strlen(look->word) + 4;
        if (column > 0 && column + width > style->columns) {
            fputc('\n', out);
            column = 0;
        }
        fprintf(out, "  %s%c%s %s", paint(style, look->colour), look->glyph, paint(style, RESET), look->word);
        column += width;
    }
    fputc('\n', out);
}

static void draw_share(struct line *line, const char *tier, uint64_t frames, uint64_t of)
{
    double percent = 100.0 * (double)frames / (double)of;
    if (frames == 0)
        return;
    /* What is there must not read as nothing, nor what is missing as all. */
    if (percent < 1)
        line_put(line, "  %s <1%%", tier);
    else if (frames < of && percent > 99)
        line_put(line, "  %s >99%%", tier);
    else
        line_put(line, "  %s %.0f%%", tier, percent);
}

static void draw_seq_head(FILE *out, const struct pagemap_seq *seq, uint64_t group, const struct draw_style *style)
{
    struct line line = {.out = out, .columns = style->columns, .indent = LABEL_WIDTH};
    fputs(paint(style, BOLD), out);
    line_put(&line, "seq %" PRIu64, seq->id);
    fputs(paint(style, RESET), out);
    line_put(&line, "  %u/%u tokens", seq->length, seq->max_tokens);
    line_put(&line, "  %" PRIu64 " page%s", seq->n_pages, seq->n_pages == 1 ? "" : "s");
    if (group > 1)
        line_put(&line, " (%" PRIu64 " a cell)", group);
    const uint64_t *in = seq->frames_in;
    draw_share(&line, "device", in[PAGEMAP_DEVICE] + in[PAGEMAP_CLEAN] + in[PAGEMAP_LEAVING], seq->n_frames);
    draw_share(&line, "host", in[PAGEMAP_HOST] + in[PAGEMAP_DEMOTING], seq->n_frames);
    draw_share(&line, "nvme", in[PAGEMAP_NVME], seq->n_frames);
    draw_share(&line, "arriving", in[PAGEMAP_ARRIVING], seq->n_frames);
    draw_share(&line, "lost", in[PAGEMAP_LOST], seq->n_frames);
    if (seq->in_step)
        line_put(&line, "  in step");
    if (seq->pins)
        line_put(&line, "  pinned");
    fputc('\n', out);
}

static unsigned digits(uint64_t number)
{
    unsigned n = 1;
    while (number >= 10) {
        number /= 10;
        n++;
    }
    return n;
}

static void draw_cells(FILE *out, const struct pagemap_seq *seq, uint64_t group, unsigned cells, unsigned index_width,
                       const struct draw_style *style)
{
    size_t run = 0;
    uint64_t run_first = 0;
    uint64_t page = 0;
    while (page < seq->n_pages) {
        fprintf(out, "%s%*" PRIu64 "%s ", paint(style, DIM), (int)index_width, page, paint(style, RESET));
        int last = -1;
        for (unsigned i = 0; i < cells && page < seq->n_pages; i++) {
            uint64_t end = page + group < seq->n_pages ? page + group : seq->n_pages;
            enum pagemap_state state = draw_group_state(seq, page, end, &run, &run_first);
            if (style->colour && (int)state != last)
                fprintf(out, "%s%s", RESET, looks[state].colour);
            last = (int)state;
            fputc(looks[state].glyph, out);
            page = end;
        }
        fprintf(out, "%s\n", paint(style, RESET));
    }
}

static void draw_seq(FILE *out, const struct pagemap_seq *seq, unsigned cells, unsigned index_width,
                     const struct draw_style *style)
{
    if (seq->status == PAGEMAP_ROW_TORN) {
        fprintf(out, "row %u: torn, its writer is in the middle of it\n", seq->row);
        return;
    }
    if (seq->status == PAGEMAP_ROW_REFUSED) {
        fprintf(out, "row %u (seq %" PRIu64 "): refused, %s\n", seq->row, seq->id, seq->reason);
        return;
    }
    uint64_t group = draw_pages_a_cell(seq->n_pages, cells, style->lines);
    draw_seq_head(out, seq, group, style);
    draw_cells(out, seq, group, cells, index_width, style);
}

static bool is_drawn(const struct pagemap_seq *seq, const struct draw_style *style)
{
    return !style->one_seq || (seq->status == PAGEMAP_ROW_OK && seq->id == style->seq);
}

static unsigned cells_a_line(unsigned index_width, const struct draw_style *style)
{
    if (style->cells)
        return style->cells;
    unsigned room = style->columns > index_width + 1 ? style->columns - index_width - 1 : 0;
    return room > 16 ? room - room % 16 : 16; /* so that the numbers at the left are round */
}

void draw_map(FILE *out, const struct pagemap_snapshot *snap, const struct draw_style *style)
{
    uint64_t most_pages = 0;
    for (size_t i = 0; i < snap->n_seqs; i++)
        if (is_drawn(&snap->seqs[i], style) && snap->seqs[i].n_pages > most_pages)
            most_pages = snap->seqs[i].n_pages;
    unsigned index_width = digits(most_pages) > 6 ? digits(most_pages) : 6;
    unsigned cells = cells_a_line(index_width, style);

    draw_process(out, snap, style);
    draw_budgets(out, snap, style);
    draw_steps(out, snap, style);
    fputc('\n', out);
    draw_legend(out, style);
    if (draw_pages_a_cell(most_pages, cells, style->lines) > 1)
        fputs("  a cell of several pages: what most of them are, X if any is lost\n", out);
    for (size_t i = 0; i < snap->n_seqs; i++) {
        if (!is_drawn(&snap->seqs[i], style))
            continue;
        fputc('\n', out);
        draw_seq(out, &snap->seqs[i], cells, index_width, style);
    }
    if (snap->n_seqs == 0)
        fputs("\nno sequences\n", out);
    if (snap->n_hidden > 0)
        fprintf(out, "\n%" PRIu64 " more sequences found no room in the page map\n", snap->n_hidden);
}
