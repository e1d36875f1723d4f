/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench scale`: what the manager's own bookkeeping costs for each page, at numbers of pages that this machine has no memory
 * for. The device is one of numbers only: it maps nothing and holds nothing, so what is measured is libkvmm. A page is a frame of
 * 4 KiB. Suspending goes to a real host tier: its figure has a copy and a checksum of 4 KiB in it. In each round all sizes, in turn. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "tools/bench.h"
#include "tools/bench_spread.h"
#include "tools/command.h"
#include "vmm/mm.h"

#define NAME "kvmm bench scale"

enum { FRAME = 4096, SEQ_PAGES = 1024, PAGE_TOKENS = 16, MOST_ROUNDS = 100, DECODE_SEQS = 256, DECODE_STEPS = 2000 };
enum { FORK_PAGES = 4096 };   /* 64 K tokens */
enum { SAME_PAGES = 100000 }; /* fewer are measured again and again, until they are as many */

/* ---- a device of numbers ---- */

struct paper_device {
    struct vmm_device base;
    struct vmm_device *lower; /* only to be closed */
    uintptr_t next_address;
    uint32_t n_frames;
    _Alignas(FRAME) char scratch[FRAME]; /* what every frame reads as */
};

static int paper_reserve(struct vmm_device *dev, size_t bytes, void **base)
{
    struct paper_device *paper = (struct paper_device *)dev;
    *base = (void *)paper->next_address; /* NOLINT(performance-no-int-to-ptr): nobody looks there */
    paper->next_address += bytes;
    return KVMM_OK;
}

static void paper_unreserve(struct vmm_device *dev, void *base, size_t bytes)
{
}

static int paper_create(struct vmm_device *dev, uint32_t *frame)
{
    *frame = ((struct paper_device *)dev)->n_frames++;
    return KVMM_OK;
}

static void paper_release(struct vmm_device *dev, uint32_t frame)
{
}

static int paper_map(struct vmm_device *dev, void *base, const uint32_t *frames, size_t n, bool writable)
{
    return KVMM_OK;
}

static int paper_change(struct vmm_device *dev, void *base, size_t n)
{
    return KVMM_OK;
}

static int paper_map_zeros(struct vmm_device *dev, void *base)
{
    return KVMM_OK;
}

static void *paper_view(struct vmm_device *dev, uint32_t frame)
{
    return ((struct paper_device *)dev)->scratch;
}

static void paper_view_put(struct vmm_device *dev, uint32_t frame)
{
}

static int paper_zero(struct vmm_device *dev, uint32_t frame)
{
    return KVMM_OK;
}

static int paper_copy(struct vmm_device *dev, uint32_t frame, uint32_t source, size_t bytes)
{
    return KVMM_OK;
}

static int paper_fence(struct vmm_device *dev, void *stream, struct vmm_fence *fence)
{
    *fence = (struct vmm_fence){0};
    return KVMM_OK;
}

static bool paper_passed(struct vmm_device *dev, struct vmm_fence fence)
{
    return true;
}

static void paper_close(struct vmm_device *dev)
{
    struct paper_device *paper = (struct paper_device *)dev;
    paper->lower->ops->close(paper->lower);
    free(paper);
}

static const struct vmm_device_ops paper_ops = {
    .reserve = paper_reserve,
    .unreserve = paper_unreserve,
    .frame_create = paper_create,
    .frame_release = paper_release,
    .map = paper_map,
    .protect = paper_change,
    .map_zeros = paper_map_zeros,
    .unmap = paper_change,
    .view_get = paper_view,
    .view_put = paper_view_put,
    .zero_frame = paper_zero,
    .copy_frame = paper_copy,
    .fence_record = paper_fence,
    .fence_passed = paper_passed,
    .close = paper_close,
};

static struct vmm_device *on_paper(struct vmm_device *lower, void *max_frames)
{
    struct paper_device *paper = aligned_alloc(FRAME, (sizeof *paper + FRAME - 1) / FRAME * FRAME);
    if (!paper)
        return NULL;
    memset(paper, 0, sizeof *paper);
    paper->base = (struct vmm_device){.ops = &paper_ops,
                                      .name = "paper",
                                      .frame_bytes = FRAME,
                                      .max_frames = *(const uint32_t *)max_frames,
                                      .frames_start_zero = true};
    paper->lower = lower;
    paper->next_address = 1ull << 44;
    return &paper->base;
}

/* ---- what is measured ---- */

enum figure {
    EXTEND,     /* ns a page: steps that add one page each */
    TOUCH,      /* ns a sequence of 1024 pages: one step over all */
    FORK,       /* ns a page */
    FORK_LONG,  /* µs: one sequence of 64 K tokens */
    FORK_WRITE, /* µs: the first step of a fork that writes: replaces a page, maps 64 K tokens */
    SUSPEND,    /* ns a page, to the host tier, until all are there */
    RETURN,     /* ns a page: a step that names them all */
    DESTROY,    /* ns a page */
    DECODE,     /* µs: a step over 256 sequences that have all pages together */
    METADATA,   /* bytes a page: the process's growth */
    N_FIGURES
};

static const struct {
    const char *label, *key;
} figures[] = {
    [EXTEND] = {"extend, ns a page", "extend_ns_per_page"},
    [TOUCH] = {"touch, ns a sequence of 1024 pages", "touch_ns_per_sequence"},
    [FORK] = {"fork, ns a page", "fork_ns_per_page"},
    [FORK_LONG] = {"fork of 64 K tokens, µs", "fork_64k_tokens_us"},
    [FORK_WRITE] = {"first write of that fork, µs", "fork_64k_first_write_us"},
    [SUSPEND] = {"suspend to host memory, ns a page", "suspend_ns_per_page"},
    [RETURN] = {"return from there, ns a page", "return_ns_per_page"},
    [DESTROY] = {"destroy, ns a page", "destroy_ns_per_page"},
    [DECODE] = {"decode step of 256 sequences, µs", "decode_256_us"},
    [METADATA] = {"metadata, bytes a page", "metadata_bytes_per_page"},
};
_Static_assert(sizeof figures / sizeof *figures == N_FIGURES, "each has its names");

enum { MOST_SIZES = 8, MOST_PAGES = 10000000 };

struct options {
    uint64_t n_rounds;
    uint64_t sizes[MOST_SIZES]; /* pages, about */
    size_t n_sizes;
    bool json;
};

struct bench {
    struct options options;
    double value[MOST_SIZES][N_FIGURES][MOST_ROUNDS];
};

struct run {
    kvmm *mm;
    kvmm_seq **seqs, **forks;
    struct kvmm_want *wants;
    size_t n_seqs;
    double *value[N_FIGURES]; /* of this round */
};

static double now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

static double resident_bytes(void)
{
    unsigned long long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file && fscanf(file, "%llu %llu", &total, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static bool step(struct run *run, size_t n, uint32_t n_tokens, kvmm_seq *const *seqs)
{
    for (size_t i = 0; i < n; i++)
        run->wants[i] = (struct kvmm_want){.seq = seqs[i], .n_tokens = n_tokens};
    kvmm_step *opened;
    return kvmm_step_begin(run->mm, run->wants, n, 0, &opened) == KVMM_OK && kvmm_step_end(&opened, NULL) == KVMM_OK;
}

static bool open_run(struct run *run, uint64_t pages, uint32_t *max_frames)
{
    struct kvmm_config cfg;
    kvmm_config_init(&cfg);
    /* A page: 16 tokens × K and V × 64 elements of 2 bytes. */
    cfg.geometry = (struct kvmm_geometry){
        .n_layers = 1, .n_kv_heads = 1, .head_dim = 64, .page_tokens = PAGE_TOKENS, .dtype = KVMM_F16};
    cfg.frame_bytes = 64 * 1024; /* of the device that is opened below it, and never used */
    cfg.device_memory = cfg.frame_bytes;
    cfg.host_memory = (pages + SEQ_PAGES) * FRAME;
    /* Enough for frames that nobody had to be there at all times: clearing others is the device's work. */
    *max_frames = (uint32_t)pages * 4 + 2 * SAME_PAGES + 16 * FORK_PAGES;
    struct vmm_open_options options = {.wrap_device = on_paper, .wrap_arg = max_frames};
    run->n_seqs = (pages + SEQ_PAGES - 1) / SEQ_PAGES;
    size_t most = run->n_seqs > DECODE_SEQS ? run->n_seqs : DECODE_SEQS;
    run->seqs = calloc(most, sizeof(kvmm_seq *));
    run->forks = calloc(most, sizeof(kvmm_seq *));
    run->wants = calloc(most, sizeof *run->wants);
    if (run->seqs && run->forks && run->wants)
        return vmm_open(&cfg, &options, &run->mm) == KVMM_OK;
    vmm_fail(KVMM_ERR_NO_HOST_MEMORY, "no memory for the bench");
    return false;
}

static void close_run(struct run *run)
{
    kvmm_close(&run->mm);
    free(run->seqs);
    free(run->forks);
    free(run->wants);
}

static bool create(struct run *run, size_t n, uint32_t pages, kvmm_seq **seqs)
{
    for (size_t i = 0; i < n; i++) {
        if (kvmm_seq_create(run->mm, (pages + 1) * PAGE_TOKENS, &seqs[i]))
            return false;
    }
    return true;
}

static bool destroy(size_t n, kvmm_seq **seqs)
{
    for (size_t i = 0; i < n; i++) {
        if (kvmm_seq_destroy(&seqs[i]))
            return false;
    }
    return true;
}

static bool time_pages(struct run *run, double pages, bool first)
{
    double before = resident_bytes(), start = now_ns();
    if (!create(run, run->n_seqs, SEQ_PAGES, run->seqs))
        return false;
    for (uint32_t page = 1; page <= SEQ_PAGES; page++) {
        for (size_t i = 0; i < run->n_seqs; i++) {
            if (!step(run, 1, page * PAGE_TOKENS, &run->seqs[i]))
                return false;
        }
    }
    *run->value[EXTEND] += (now_ns() - start) / pages;
    if (first)
        *run->value[METADATA] = (resident_bytes() - before) / pages;

    enum { TOUCHES = 20 };
    start = now_ns();
    for (int i = 0; i < TOUCHES; i++) {
        if (!step(run, run->n_seqs, SEQ_PAGES * PAGE_TOKENS, run->seqs))
            return false;
    }
    *run->value[TOUCH] += (now_ns() - start) / TOUCHES / (double)run->n_seqs;

    start = now_ns();
    for (size_t i = 0; i < run->n_seqs; i++) {
        if (kvmm_seq_fork(run->seqs[i], 0, &run->forks[i]))
            return false;
    }
    *run->value[FORK] += (now_ns() - start) / pages;
    return destroy(run->n_seqs, run->forks);
}

/* Until all are in host memory. */
static bool suspend_all(struct run *run)
{
    for (size_t i = 0; i < run->n_seqs; i++) {
        if (kvmm_seq_suspend(run->seqs[i]))
            return false;
    }
    pthread_mutex_lock(&run->mm->lock);
    while (run->mm->n_moving || run->mm->n_suspending)
        vmm_wait(run->mm);
    pthread_mutex_unlock(&run->mm->lock);
    return true;
}

/* The second time: the first has the kernel make the host tier's memory. */
static bool time_moving(struct run *run, double pages)
{
    for (int i = 0; i < 2; i++) {
        double start = now_ns();
        if (!suspend_all(run))
            return false;
        double suspended = now_ns();
        if (!step(run, run->n_seqs, SEQ_PAGES * PAGE_TOKENS, run->seqs))
            return false;
        if (i == 0)
            continue;
        *run->value[SUSPEND] += (suspended - start) / pages;
        *run->value[RETURN] += (now_ns() - suspended) / pages;
    }
    double start = now_ns();
    if (!destroy(run->n_seqs, run->seqs))
        return false;
    *run->value[DESTROY] += (now_ns() - start) / pages;
    return true;
}

/* Called twice: the second time is not the first for the memory that it touches. */
static bool time_long_fork(struct run *run)
{
    kvmm_seq *seq, *fork = NULL;
    uint32_t tokens = FORK_PAGES * PAGE_TOKENS - 8; /* the last page is begun */
    if (!create(run, 1, FORK_PAGES, &seq) || !step(run, 1, tokens, &seq))
        return false;
    double start = now_ns();
    if (kvmm_seq_fork(seq, 0, &fork))
        return false;
    *run->value[FORK_LONG] = (now_ns() - start) / 1000;
    start = now_ns();
    if (!step(run, 1, tokens + 1, &fork))
        return false;
    *run->value[FORK_WRITE] = (now_ns() - start) / 1000;
    return destroy(1, &fork) && destroy(1, &seq);
}

/* The sequences have all the pages together; each step adds a token to each, within its last page. */
static bool time_decode(struct run *run, uint64_t pages)
{
    uint32_t each = (uint32_t)(pages / DECODE_SEQS) + 1;
    if (!create(run, DECODE_SEQS, each + DECODE_STEPS / PAGE_TOKENS, run->seqs) ||
        !step(run, DECODE_SEQS, each * PAGE_TOKENS, run->seqs))
        return false;
    double spent = 0;
    int n = 0;
    for (uint32_t i = 1; i <= DECODE_STEPS; i++) {
        bool new_page = (i - 1) % PAGE_TOKENS == 0; /* what a new page costs is EXTEND's figure */
        double start = now_ns();
        if (!step(run, DECODE_SEQS, each * PAGE_TOKENS + i, run->seqs))
            return false;
        spent += new_page ? 0 : now_ns() - start;
        n += !new_page;
    }
    *run->value[DECODE] = spent / n / 1000;
    return destroy(DECODE_SEQS, run->seqs);
}

static bool run_size(struct bench *bench, size_t size, size_t round)
{
    uint32_t max_frames;
    struct run run = {0};
    for (int i = 0; i < N_FIGURES; i++)
        run.value[i] = &bench->value[size][i][round];
    bool good =
        open_run(&run, bench->options.sizes[size] + DECODE_SEQS * (DECODE_STEPS / PAGE_TOKENS + 2), &max_frames);
    uint64_t most = run.n_seqs;
    run.n_seqs = (bench->options.sizes[size] + SEQ_PAGES - 1) / SEQ_PAGES;
    run.n_seqs = run.n_seqs < most ? run.n_seqs : most;
    double pages = (double)run.n_seqs * SEQ_PAGES;
    unsigned times = pages < SAME_PAGES ? (unsigned)(SAME_PAGES / pages) : 1;
    for (unsigned i = 0; i < times && good; i++)
        good = time_pages(&run, pages, i == 0) && time_moving(&run, pages);
    static const enum figure repeated[] = {EXTEND, TOUCH, FORK, SUSPEND, RETURN, DESTROY};
    for (size_t i = 0; i < sizeof repeated / sizeof *repeated; i++)
        *run.value[repeated[i]] /= times;
    good = good && time_long_fork(&run) && time_long_fork(&run) && time_decode(&run, bench->options.sizes[size]);
    if (!good)
        fprintf(stderr, NAME ": %s\n", kvmm_errmsg());
    close_run(&run);
    return good;
}

/* ---- output ---- */

static void print_table(struct bench *bench)
{
    printf("%-36s", "median (least – most)");
    for (size_t s = 0; s < bench->options.n_sizes; s++)
        printf("  %14llu pages", (unsigned long long)bench->options.sizes[s]);
    printf("  most ÷ least\n");
    for (int i = 0; i < N_FIGURES; i++) {
        double least = 0, most = 0;
        printf("%-*s", 36 + (strchr(figures[i].label, '\xc2') != NULL), figures[i].label); /* µ is two bytes */
        for (size_t s = 0; s < bench->options.n_sizes; s++) {
            struct spread spread = spread_of(bench->value[s][i], bench->options.n_rounds);
            char text[64];
            snprintf(text, sizeof text, "%.4g (%.4g–%.4g)", spread.median, spread.least, spread.most);
            printf("  %22s", text); /* – is three bytes for one place */
            least = s == 0 || spread.median < least ? spread.median : least;
            most = spread.median > most ? spread.median : most;
        }
        printf("  %12.2f\n", least > 0 ? most / least : 0);
    }
}

static int print_json(struct bench *bench)
{
    json_t *list = json_array();
    for (size_t s = 0; s < bench->options.n_sizes; s++) {
        json_t *row = json_pack("{s:I}", "pages", (json_int_t)bench->options.sizes[s]);
        for (int i = 0; i < N_FIGURES; i++)
            json_object_set_new(row, figures[i].key,
                                spread_json(spread_of(bench->value[s][i], bench->options.n_rounds)));
        json_array_append_new(list, row);
    }
    json_t *root =
        json_pack("{s:I, s:i, s:o}", "rounds", (json_int_t)bench->options.n_rounds, "page_bytes", FRAME, "sizes", list);
    bool printed = root && json_dumpf(root, stdout, JSON_INDENT(2)) == 0;
    json_decref(root);
    if (!printed)
        return COMMAND_FAILED;
    putchar('\n');
    return command_finish_output(NAME);
}

/* ---- the command ---- */

enum { KEY_JSON = 'j', KEY_ROUNDS = 'n', KEY_PAGES = 'p' };

static const struct argp_option option_list[] = {
    {"json", KEY_JSON, NULL, 0, "print JSON", 0},
    {"pages", KEY_PAGES, "N[,N...]", 0, "so many pages (default: 1000,100000,1000000)", 0},
    {"rounds", KEY_ROUNDS, "N", 0, "rounds in which all are measured in turn (default: 5)", 0},
    {0},
};

static bool parse_sizes(char *list, struct options *options)
{
    options->n_sizes = 0;
    for (char *rest = list, *item; (item = strsep(&rest, ","));) {
        if (options->n_sizes == MOST_SIZES || !command_number(item, 1, MOST_PAGES, &options->sizes[options->n_sizes]))
            return false;
        options->n_sizes++;
    }
    return true;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    switch (key) {
    case KEY_JSON:
        options->json = true;
        return 0;
    case KEY_PAGES:
        if (!parse_sizes(arg, options))
            return command_complain(state, "--pages takes up to %d numbers from 1 to %d, with commas between them",
                                    MOST_SIZES, MOST_PAGES);
        return 0;
    case KEY_ROUNDS:
        if (!command_number(arg, 1, MOST_ROUNDS, &options->n_rounds))
            return command_complain(state, "--rounds takes a number from 1 to %d, not '%s'", MOST_ROUNDS, arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp parser = {
    .options = option_list,
    .parser = parse_option,
    .doc = "Measure what libkvmm's own bookkeeping costs for each page, at a thousand, a hundred thousand and a "
           "million pages. "
           "The device is one of numbers only, so what mapping costs is not in it (see `kvmm bench device'); the host "
           "tier, "
           "which the pages of 4 KiB are suspended to, is real: a million take 4.5 GiB.",
};

int bench_scale(int argc, char **argv)
{
    struct options options = {.n_rounds = 5, .sizes = {1000, 100000, 1000000}, .n_sizes = 3};
    if (!command_parse(&parser, argc, argv, 0, &options))
        return COMMAND_BAD_USAGE;
    struct bench *bench = calloc(1, sizeof *bench);
    if (!bench) {
        fprintf(stderr, NAME ": out of memory\n");
        return COMMAND_FAILED;
    }
    bench->options = options;
    bool good = true;
    for (size_t round = 0; round < options.n_rounds && good; round++) {
        for (size_t size = 0; size < options.n_sizes && good; size++) {
            if (isatty(STDERR_FILENO))
                fprintf(stderr, "\rround %zu of %llu, %llu pages \033[K", round + 1,
                        (unsigned long long)options.n_rounds, (unsigned long long)bench->options.sizes[size]);
            good = run_size(bench, size, round);
        }
    }
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K");
    int status = good ? COMMAND_DONE : COMMAND_FAILED;
    if (good && options.json) {
        status = print_json(bench);
    } else if (good) {
        print_table(bench);
        status = command_finish_output(NAME);
    }
    free(bench);
    return status;
}
