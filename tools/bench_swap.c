/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench swap`: spilling to a file store and fetching from it, with checksums, beside what the disk itself can do:
 * fio, and a bare io_uring loop with the same buffers, each at its best depth. Disks drift, so all are measured in turn
 * within a round, and only the ratios of one round mean anything. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef SWAP_HAVE_URING
#include <liburing.h>
#endif

#include "swap/swap.h"
#include "tools/bench.h"
#include "tools/bench_spread.h"
#include "tools/command.h"
#include "tools/units.h"

#define NAME "kvmm bench swap"

#define BLOCK_BYTES  ((size_t)2 << 20)
#define WINDOW       32u          /* blocks in flight at the store; also the deepest rival */
#define N_BLOCKS     (WINDOW + 1) /* and one for the urgent fetch */
#define MOST_ROUNDS  99
#define N_LATENCIES  300u
#define N_SWEEPS     2
#define CREW_THREADS 1 /* hashes some 25 GB/s, and two would share a core with the thread of the ring */

static const uint32_t depths[] = {1, 2, 4, 8, 16, WINDOW};
#define N_DEPTHS (sizeof(depths) / sizeof(depths[0]))

enum { SPILL, FETCH, N_WAYS };
static const char *const way_names[] = {"spill", "fetch"};

enum { KVMM, BARE, FIO, N_RUNNERS };
static const char *const runner_names[] = {"kvmm", "bare_loop", "fio"};

struct options {
    const char *dir;
    uint64_t bytes;
    uint64_t n_rounds;
    bool json;
};

/* One pass over all blocks. */
struct pass {
    double bytes_per_s; /* 0: this runner can't run here */
    double cpu_ms_per_gb;
};

struct bench {
    struct options options;
    uint32_t n_slots; /* blocks of a pass */
    char *memory;     /* N_BLOCKS blocks */
    int rival_fd;     /* the file of the bare loop and of fio */
    struct swap_crew *crew;
    struct swap_store *store;
    uint32_t *slots;
    uint32_t best_depth[N_RUNNERS][N_WAYS];
    struct pass passes[MOST_ROUNDS][N_WAYS][N_RUNNERS];
    double idle_us[N_LATENCIES], spilling_us[N_LATENCIES]; /* sorted */
    double spilling_bytes_per_s;                           /* while urgent fetches went on */
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double cpu_s(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static int complain(const char *what, int result)
{
    fprintf(stderr, NAME ": %s: %s\n", what, strerrordesc_np(-result));
    return result;
}

/* The store: a stream keeps WINDOW ios in flight until `left` is used up or it is stopped. */

struct stream {
    struct bench *bench;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool put;
    bool endless;      /* goes round until stopped; under lock */
    uint32_t next;     /* block to start; under lock */
    uint32_t n_flying; /* under lock */
    uint64_t n_ended;  /* under lock */
    int result;        /* the first error; under lock */
    struct stream_io {
        struct swap_io io;
        struct stream *stream;
    } ios[WINDOW];
};

static void stream_start(struct stream_io *each)
{
    struct stream *stream = each->stream;
    struct bench *bench = stream->bench;
    pthread_mutex_lock(&stream->lock);
    if (stream->endless && stream->next == bench->n_slots)
        stream->next = 0;
    bool starts = stream->next < bench->n_slots && stream->result == 0;
    if (starts) {
        each->io.slot = bench->slots[stream->next];
        each->io.stamp = (struct swap_stamp){stream->next, 1};
        stream->next++;
    } else if (--stream->n_flying == 0) {
        pthread_cond_signal(&stream->ended);
    }
    pthread_mutex_unlock(&stream->lock);
    if (starts && stream->put)
        swap_put(bench->store, &each->io);
    else if (starts)
        swap_get(bench->store, &each->io);
}

static void stream_done(struct swap_io *io)
{
    struct stream_io *each = (struct stream_io *)io;
    struct stream *stream = each->stream;
    pthread_mutex_lock(&stream->lock);
    stream->n_ended++;
    if (io->result < 0 && stream->result == 0)
        stream->result = io->result;
    pthread_mutex_unlock(&stream->lock);
    stream_start(each);
}

static void stream_begin(struct stream *stream, struct bench *bench, bool put, bool endless)
{
    *stream = (struct stream){.bench = bench, .put = put, .endless = endless, .n_flying = WINDOW};
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->ended, NULL);
    for (uint32_t i = 0; i < WINDOW; i++) {
        stream->ios[i].stream = stream;
        stream->ios[i].io.buf = bench->memory + i * BLOCK_BYTES;
        stream->ios[i].io.done = stream_done;
    }
    for (uint32_t i = 0; i < WINDOW; i++)
        stream_start(&stream->ios[i]);
}

/* Waits for the end. Returns 0 or the first error. */
static int stream_end(struct stream *stream, bool stop)
{
    pthread_mutex_lock(&stream->lock);
    if (stop) {
        stream->endless = false;
        stream->next = stream->bench->n_slots;
    }
    while (stream->n_flying > 0)
        pthread_cond_wait(&stream->ended, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
    pthread_cond_destroy(&stream->ended);
    pthread_mutex_destroy(&stream->lock);
    return stream->result;
}

static int run_kvmm(struct bench *bench, int way, uint32_t depth, struct pass *pass)
{
    struct stream stream;
    double start = now_s(), start_cpu = cpu_s(), bytes = (double)bench->n_slots * BLOCK_BYTES;
    stream_begin(&stream, bench, way == SPILL, false);
    int result = stream_end(&stream, false);
    if (result < 0)
        return complain(way_names[way], result);
    pass->bytes_per_s = bytes / (now_s() - start);
    pass->cpu_ms_per_gb = (cpu_s() - start_cpu) * 1e3 / (bytes * 1e-9);
    return 0;
}

/* The bare loop: one thread, one ring, no checks. */

#ifdef SWAP_HAVE_URING
static int bare_ring(struct bench *bench, uint32_t depth, struct io_uring *ring)
{
    int result = io_uring_queue_init(depth, ring,
                                     IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL);
    if (result == -EINVAL)
        result = io_uring_queue_init(depth, ring, 0);
    return result;
}

/* Goes through all the buffers that the store's ios use, whatever the depth: two that stay in the cache would be another
 * task than moving blocks to and from where they live. */
static void bare_queue(struct bench *bench, struct io_uring *ring, int way, bool fixed, uint32_t block)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    char *buf = bench->memory + block % WINDOW * BLOCK_BYTES;
    uint64_t offset = (uint64_t)block * BLOCK_BYTES;
    if (fixed && way == SPILL)
        io_uring_prep_write_fixed(sqe, bench->rival_fd, buf, BLOCK_BYTES, offset, 0);
    else if (fixed)
        io_uring_prep_read_fixed(sqe, bench->rival_fd, buf, BLOCK_BYTES, offset, 0);
    else if (way == SPILL)
        io_uring_prep_write(sqe, bench->rival_fd, buf, BLOCK_BYTES, offset);
    else
        io_uring_prep_read(sqe, bench->rival_fd, buf, BLOCK_BYTES, offset);
}

static int bare_loop(struct bench *bench, struct io_uring *ring, int way, uint32_t depth)
{
    struct iovec memory = {bench->memory, N_BLOCKS * BLOCK_BYTES};
    bool fixed = io_uring_register_buffers(ring, &memory, 1) == 0;
    uint32_t next = 0;
    for (; next < depth && next < bench->n_slots; next++)
        bare_queue(bench, ring, way, fixed, next);
    for (uint32_t n_ended = 0; n_ended < bench->n_slots;) {
        int result = io_uring_submit_and_wait(ring, 1);
        if (result < 0 && result != -EINTR)
            return result;
        struct io_uring_cqe *cqe;
        while (io_uring_peek_cqe(ring, &cqe) == 0) {
            if (cqe->res != (int)BLOCK_BYTES)
                return cqe->res < 0 ? cqe->res : -EIO;
            io_uring_cqe_seen(ring, cqe);
            n_ended++;
            if (next < bench->n_slots)
                bare_queue(bench, ring, way, fixed, next++);
        }
    }
    return 0;
}

static int run_bare(struct bench *bench, int way, uint32_t depth, struct pass *pass)
{
    struct io_uring ring;
    int result = bare_ring(bench, depth, &ring);
    if (result < 0) {
        *pass = (struct pass){0};
        return 0;
    }
    double start = now_s(), start_cpu = cpu_s(), bytes = (double)bench->n_slots * BLOCK_BYTES;
    result = bare_loop(bench, &ring, way, depth);
    pass->bytes_per_s = bytes / (now_s() - start);
    pass->cpu_ms_per_gb = (cpu_s() - start_cpu) * 1e3 / (bytes * 1e-9);
    io_uring_queue_exit(&ring);
    return result < 0 ? complain("bare loop", result) : 0;
}
#else
static int run_bare(struct bench *bench, int way, uint32_t depth, struct pass *pass)
{
    *pass = (struct pass){0};
    return 0;
}
#endif

/* fio: a child on the same file. */

/* Runs fio and returns what it printed, for the caller to free; NULL if it can't be run, or fails. */
static char *fio_output(char **arguments)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return NULL;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    pid_t child;
    int error = posix_spawnp(&child, "fio", &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    char *text = NULL;
    size_t bytes = 0;
    FILE *from = fdopen(ends[0], "r");
    if (from == NULL)
        close(ends[0]);
    else if (error == 0 && getdelim(&text, &bytes, '\0', from) < 0) {
        free(text);
        text = NULL;
    }
    if (from != NULL)
        fclose(from);
    int status = 0;
    if (error != 0 || waitpid(child, &status, 0) != child || status != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static bool parse_fio(const char *text, int way, struct pass *pass)
{
    json_t *root = json_loads(text, JSON_DISABLE_EOF_CHECK, NULL);
    json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
    json_t *side = json_object_get(job, way == SPILL ? "write" : "read");
    double bytes = json_number_value(json_object_get(side, "io_bytes"));
    double runtime_ms = json_number_value(json_object_get(side, "runtime"));
    double cpu_percent =
        json_number_value(json_object_get(job, "usr_cpu")) + json_number_value(json_object_get(job, "sys_cpu"));
    bool good = bytes > 0 && runtime_ms > 0;
    if (good) {
        pass->bytes_per_s = json_number_value(json_object_get(side, "bw_bytes"));
        pass->cpu_ms_per_gb = runtime_ms * cpu_percent / 100 / (bytes * 1e-9);
    }
    json_decref(root);
    return good;
}

static int run_fio(struct bench *bench, int way, uint32_t depth, struct pass *pass)
{
    /* libaio where io_uring, or that much locked memory, is not to be had. */
    static const char *const engines[] = {"--ioengine=io_uring", "--ioengine=libaio"};
    static unsigned engine;
    char file[64], size[64], iodepth[32];
    snprintf(file, sizeof(file), "--filename=/proc/%d/fd/%d", (int)getpid(), bench->rival_fd);
    snprintf(size, sizeof(size), "--size=%llu", (unsigned long long)bench->n_slots * BLOCK_BYTES);
    snprintf(iodepth, sizeof(iodepth), "--iodepth=%u", depth);
    *pass = (struct pass){0};
    for (; engine < 2; engine++) {
        char *arguments[] = {(char *)"fio",
                             (char *)"--name=kvmm",
                             file,
                             size,
                             iodepth,
                             (char *)(way == SPILL ? "--rw=write" : "--rw=read"),
                             (char *)"--bs=2m",
                             (char *)"--direct=1",
                             (char *)"--fallocate=none",
                             (char *)"--scramble_buffers=0",
                             (char *)"--iomem_align=2m",
                             (char *)"--output-format=json",
                             (char *)engines[engine],
                             (char *)(engine == 0 ? "--fixedbufs=1" : NULL), /* the list ends here for libaio */
                             (char *)"--registerfiles=1",
                             NULL};
        char *text = fio_output(arguments);
        bool good = text != NULL && parse_fio(text, way, pass);
        free(text);
        if (good)
            break;
    }
    return 0;
}

static int (*const runners[])(struct bench *bench, int way, uint32_t depth, struct pass *pass) = {run_kvmm, run_bare,
                                                                                                  run_fio};

/* Latency of one urgent fetch. */

struct waiter {
    struct swap_io io;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool done;
};

static void waiter_done(struct swap_io *io)
{
    struct waiter *waiter = (struct waiter *)io;
    pthread_mutex_lock(&waiter->lock);
    waiter->done = true;
    pthread_cond_signal(&waiter->ended);
    pthread_mutex_unlock(&waiter->lock);
}

/* Fetches of one block that nobody else writes, one after the other. */
static int measure_latency(struct bench *bench, uint32_t slot, double *sorted_us)
{
    struct waiter waiter = {.io = {.slot = slot,
                                   .stamp = {UINT64_MAX, 1},
                                   .buf = bench->memory + WINDOW * BLOCK_BYTES,
                                   .urgent = true,
                                   .done = waiter_done}};
    pthread_mutex_init(&waiter.lock, NULL);
    pthread_cond_init(&waiter.ended, NULL);
    int result = 0;
    for (uint32_t i = 0; i <= N_LATENCIES && result == 0; i++) {
        waiter.done = false;
        double start = now_s();
        if (i == 0)
            swap_put(bench->store, &waiter.io);
        else
            swap_get(bench->store, &waiter.io);
        pthread_mutex_lock(&waiter.lock);
        while (!waiter.done)
            pthread_cond_wait(&waiter.ended, &waiter.lock);
        pthread_mutex_unlock(&waiter.lock);
        if (i > 0)
            sorted_us[i - 1] = (now_s() - start) * 1e6;
        result = waiter.io.result;
    }
    pthread_cond_destroy(&waiter.ended);
    pthread_mutex_destroy(&waiter.lock);
    qsort(sorted_us, N_LATENCIES, sizeof(*sorted_us), spread_by_value);
    return result < 0 ? complain("urgent fetch", result) : 0;
}

static int measure_latencies(struct bench *bench)
{
    uint32_t slot;
    int result = swap_slot_alloc(bench->store, &slot);
    if (result < 0)
        return complain("slot of the urgent fetch", result);
    result = measure_latency(bench, slot, bench->idle_us);
    if (result < 0)
        return result;
    struct stream spilling;
    double start = now_s();
    stream_begin(&spilling, bench, true, true);
    result = measure_latency(bench, slot, bench->spilling_us);
    pthread_mutex_lock(&spilling.lock);
    bench->spilling_bytes_per_s = (double)spilling.n_ended * BLOCK_BYTES / (now_s() - start);
    pthread_mutex_unlock(&spilling.lock);
    int spilled = stream_end(&spilling, true);
    return result < 0 ? result : spilled < 0 ? complain("spill", spilled) : 0;
}

/* The course of the bench. */

/* Adds one pass at every depth to the sums. */
static int sweep_once(struct bench *bench, double sums[N_RUNNERS][N_WAYS][N_DEPTHS])
{
    for (unsigned depth = 0; depth < N_DEPTHS; depth++) {
        for (int way = 0; way < N_WAYS; way++) {
            for (int runner = BARE; runner < N_RUNNERS; runner++) {
                struct pass pass;
                int result = runners[runner](bench, way, depths[depth], &pass);
                if (result < 0)
                    return result;
                sums[runner][way][depth] += pass.bytes_per_s;
            }
        }
    }
    return 0;
}

/* Finds the depth at which each rival is best. */
static int sweep(struct bench *bench)
{
    double sums[N_RUNNERS][N_WAYS][N_DEPTHS] = {0};
    for (int i = 0; i < N_SWEEPS; i++) {
        int result = sweep_once(bench, sums);
        if (result < 0)
            return result;
    }
    for (int runner = BARE; runner < N_RUNNERS; runner++) {
        for (int way = 0; way < N_WAYS; way++) {
            unsigned best = 0;
            for (unsigned depth = 1; depth < N_DEPTHS; depth++)
                if (sums[runner][way][depth] > sums[runner][way][best])
                    best = depth;
            bench->best_depth[runner][way] = depths[best];
        }
    }
    return 0;
}

static int run_rounds(struct bench *bench)
{
    for (unsigned round = 0; round < bench->options.n_rounds; round++) {
        for (int way = 0; way < N_WAYS; way++) {
            for (unsigned turn = 0; turn < N_RUNNERS; turn++) {
                unsigned runner = (round + turn) % N_RUNNERS; /* nobody is always first */
                int result =
                    runners[runner](bench, way, bench->best_depth[runner][way], &bench->passes[round][way][runner]);
                if (result < 0)
                    return result;
            }
        }
    }
    return 0;
}

/* Makes the rivals' file: no name, its blocks written once, so that no extent is new when it is measured. */
static int open_rival_file(struct bench *bench)
{
    bench->rival_fd = open(bench->options.dir, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    if (bench->rival_fd < 0)
        return complain(bench->options.dir, -errno);
    if (fallocate(bench->rival_fd, 0, 0, (off_t)(bench->n_slots * BLOCK_BYTES)) != 0)
        return complain(bench->options.dir, -errno);
    for (uint32_t i = 0; i < bench->n_slots; i++) {
        ssize_t n = pwrite(bench->rival_fd, bench->memory, BLOCK_BYTES, (off_t)(i * BLOCK_BYTES));
        if (n != (ssize_t)BLOCK_BYTES)
            return complain(bench->options.dir, n < 0 ? -errno : -EIO);
    }
    return 0;
}

static void log_line(void *user, bool warning, const char *line)
{
    fprintf(stderr, NAME ": %s\n", line);
}

static int open_store(struct bench *bench)
{
    struct iovec memory = {bench->memory, N_BLOCKS * BLOCK_BYTES};
    struct swap_file_config config = {
        .dir = bench->options.dir,
        .block_bytes = BLOCK_BYTES,
        .max_bytes = (bench->n_slots + 1) * BLOCK_BYTES,
        .checksum_seed = 1,
        .backend = "auto",
        .buffers = &memory,
        .n_buffers = 1,
        .log = log_line,
    };
    char reason[512];
    int result = swap_crew_open(CREW_THREADS, &bench->crew);
    if (result < 0)
        return complain("threads", result);
    config.crew = bench->crew;
    result = swap_file_open(&config, &bench->store, reason, sizeof(reason));
    if (result < 0) {
        fprintf(stderr, NAME ": %s\n", reason);
        return result;
    }
    for (uint32_t i = 0; i < bench->n_slots && result == 0; i++)
        result = swap_slot_alloc(bench->store, &bench->slots[i]);
    if (result < 0)
        return complain("slots", result);
    struct pass unmeasured;
    return run_kvmm(bench, SPILL, 0, &unmeasured);
}

static int open_memory(struct bench *bench)
{
    bench->slots = calloc(bench->n_slots, sizeof(*bench->slots));
    char *memory = mmap(NULL, (N_BLOCKS + 1) * BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bench->slots == NULL || memory == MAP_FAILED)
        return complain("memory", -ENOMEM);
    memory += BLOCK_BYTES - (uintptr_t)memory % BLOCK_BYTES; /* a huge page's address */
    madvise(memory, N_BLOCKS * BLOCK_BYTES, MADV_HUGEPAGE);
    uint64_t word = 1;
    for (size_t i = 0; i < N_BLOCKS * BLOCK_BYTES; i += sizeof(word)) {
        word = word * 6364136223846793005u + 1442695040888963407u;
        memcpy(memory + i, &word, sizeof(word));
    }
    bench->memory = memory;
    return 0;
}

/* What comes out. */

static struct spread rate_of(const struct bench *bench, int way, int runner)
{
    double values[MOST_ROUNDS];
    for (size_t i = 0; i < bench->options.n_rounds; i++)
        values[i] = bench->passes[i][way][runner].bytes_per_s;
    return spread_of(values, bench->options.n_rounds);
}

static struct spread cpu_of(const struct bench *bench, int way, int runner)
{
    double values[MOST_ROUNDS];
    for (size_t i = 0; i < bench->options.n_rounds; i++)
        values[i] = bench->passes[i][way][runner].cpu_ms_per_gb;
    return spread_of(values, bench->options.n_rounds);
}

/* To the better rival of the same round; all 0 where there is none. */
static struct spread ratio_of(const struct bench *bench, int way)
{
    double values[MOST_ROUNDS];
    for (size_t i = 0; i < bench->options.n_rounds; i++) {
        const struct pass *passes = bench->passes[i][way];
        double rival = passes[BARE].bytes_per_s;
        if (passes[FIO].bytes_per_s > rival)
            rival = passes[FIO].bytes_per_s;
        values[i] = rival > 0 ? passes[KVMM].bytes_per_s / rival : 0;
    }
    return spread_of(values, bench->options.n_rounds);
}

static double percentile(const double *sorted, double percent)
{
    return sorted[(size_t)((double)(N_LATENCIES - 1) * percent / 100)];
}

static json_t *way_json(const struct bench *bench, int way)
{
    json_t *object = json_object();
    for (int runner = 0; runner < N_RUNNERS; runner++) {
        if (rate_of(bench, way, runner).least <= 0)
            continue;
        json_t *one = json_pack("{s:o, s:o}", "bytes_per_s", spread_json(rate_of(bench, way, runner)), "cpu_ms_per_gb",
                                spread_json(cpu_of(bench, way, runner)));
        if (runner != KVMM)
            json_object_set_new(one, "depth", json_integer(bench->best_depth[runner][way]));
        json_object_set_new(object, runner_names[runner], one);
    }
    json_object_set_new(object, "ratio_to_better_rival", spread_json(ratio_of(bench, way)));
    return object;
}

static json_t *latency_json(const double *sorted_us)
{
    return json_pack("{s:f, s:f}", "p50_us", percentile(sorted_us, 50), "p99_us", percentile(sorted_us, 99));
}

static void print_json(const struct bench *bench, const struct swap_store_info *info)
{
    json_t *root = json_pack(
        "{s:s, s:I, s:I, s:I, s:s, s:b, s:b, s:o, s:o, s:o, s:o, s:f}", "bench", "swap", "block_bytes",
        (json_int_t)BLOCK_BYTES, "pass_bytes", (json_int_t)(bench->n_slots * BLOCK_BYTES), "rounds",
        (json_int_t)bench->options.n_rounds, "backend", info->backend, "direct", info->direct, "registered_buffers",
        info->backend_info.fixed_buffers, way_names[SPILL], way_json(bench, SPILL), way_names[FETCH],
        way_json(bench, FETCH), "urgent_fetch_idle", latency_json(bench->idle_us), "urgent_fetch_while_spilling",
        latency_json(bench->spilling_us), "spill_bytes_per_s_beside_urgent_fetches", bench->spilling_bytes_per_s);
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(root);
}

static void print_table(const struct bench *bench, const struct swap_store_info *info)
{
    char pass[UNITS_TEXT];
    printf("%s in %s: blocks of 2 MiB with checksums, %s%s%s\n", units_bytes(pass, bench->n_slots * BLOCK_BYTES),
           bench->options.dir, info->backend, info->direct ? ", direct" : "",
           info->backend_info.fixed_buffers ? ", registered buffers" : "");
    printf("%llu rounds; rates and CPU time are medians; the ratio is to the better rival of the same round\n\n",
           (unsigned long long)bench->options.n_rounds);
    printf("%-6s %10s %22s %22s  %20s %10s\n", "", "kvmm MB/s", "bare loop MB/s (depth)", "fio MB/s (depth)",
           "ratio min/median/max", "CPU ms/GB");
    for (int way = 0; way < N_WAYS; way++) {
        struct spread ratio = ratio_of(bench, way);
        printf("%-6s %10.0f %17.0f (%2u) %17.0f (%2u)  %6.2f %6.2f %6.2f %10.1f\n", way_names[way],
               rate_of(bench, way, KVMM).median * 1e-6, rate_of(bench, way, BARE).median * 1e-6,
               bench->best_depth[BARE][way], rate_of(bench, way, FIO).median * 1e-6, bench->best_depth[FIO][way],
               ratio.least, ratio.median, ratio.most, cpu_of(bench, way, KVMM).median);
    }
    printf("\none urgent fetch     p50 us    p99 us\n");
    printf("  idle           %10.0f %9.0f\n", percentile(bench->idle_us, 50), percentile(bench->idle_us, 99));
    printf("  while spilling %10.0f %9.0f   (spilling at %.0f MB/s)\n", percentile(bench->spilling_us, 50),
           percentile(bench->spilling_us, 99), bench->spilling_bytes_per_s * 1e-6);
}

static int run(struct bench *bench)
{
    int result = open_memory(bench);
    if (result == 0)
        result = open_rival_file(bench);
    if (result == 0)
        result = open_store(bench);
    if (result == 0)
        result = sweep(bench);
    if (result == 0)
        result = run_rounds(bench);
    if (result == 0)
        result = measure_latencies(bench);
    if (result < 0)
        return COMMAND_FAILED;
    struct swap_store_info info;
    swap_get_info(bench->store, &info);
    if (bench->options.json)
        print_json(bench, &info);
    else
        print_table(bench, &info);
    return command_finish_output(NAME);
}

enum { KEY_DIR = 'd', KEY_JSON = 'j', KEY_ROUNDS = 'n', KEY_BYTES = 'b' };

static const struct argp_option option_list[] = {
    {"dir", KEY_DIR, "DIR", 0, "where the files are made (default: $TMPDIR, or /var/tmp)", 0},
    {"json", KEY_JSON, NULL, 0, "print JSON", 0},
    {"rounds", KEY_ROUNDS, "N", 0, "rounds in which all are measured in turn (default: 7)", 0},
    {"bytes", KEY_BYTES, "SIZE", 0, "size of a pass, such as 512M or 4G (default: 1G)", 0},
    {0},
};

/* "64M", "2G", "1048576". */
static bool parse_size(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "KMGT";
    char digits[24];
    size_t n = strlen(text);
    unsigned shift = 0;
    if (n == 0 || n >= sizeof(digits))
        return false;
    memcpy(digits, text, n + 1);
    const char *suffix = strchr(suffixes, digits[n - 1]);
    if (suffix != NULL) {
        shift = 10 * (unsigned)(suffix - suffixes + 1);
        digits[n - 1] = '\0';
    }
    uint64_t number;
    if (!command_number(digits, 1, (uint64_t)1 << (42 - shift), &number))
        return false;
    *bytes = number << shift;
    return true;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    switch (key) {
    case KEY_DIR:
        options->dir = arg;
        return 0;
    case KEY_JSON:
        options->json = true;
        return 0;
    case KEY_ROUNDS:
        if (!command_number(arg, 1, MOST_ROUNDS, &options->n_rounds))
            return command_complain(state, "--rounds takes a number from 1 to %d, not '%s'", MOST_ROUNDS, arg);
        return 0;
    case KEY_BYTES:
        if (!parse_size(arg, &options->bytes) || options->bytes < WINDOW * BLOCK_BYTES)
            return command_complain(state, "--bytes takes a size from 64M to 4T, not '%s'", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp parser = {
    .options = option_list,
    .parser = parse_option,
    .doc = "Measure spilling to a file and fetching from it, with checksums, in turn with a bare io_uring loop and "
           "with fio "
           "(if it is installed), each at its best depth from 1 to 32.",
};

int bench_swap(int argc, char **argv)
{
    const char *temporary = getenv("TMPDIR");
    struct options options = {
        .dir = temporary == NULL || *temporary == '\0' ? "/var/tmp" : temporary,
        .bytes = (uint64_t)1 << 30,
        .n_rounds = 7,
    };
    if (!command_parse(&parser, argc, argv, 0, &options))
        return COMMAND_BAD_USAGE;
    struct bench *bench = calloc(1, sizeof(*bench));
    if (bench == NULL) {
        complain("memory", -ENOMEM);
        return COMMAND_FAILED;
    }
    bench->options = options;
    bench->n_slots = (uint32_t)(options.bytes / BLOCK_BYTES);
    bench->rival_fd = -1;
    int status = run(bench);
    swap_close(&bench->store);
    swap_crew_close(&bench->crew);
    if (bench->rival_fd >= 0)
        close(bench->rival_fd);
    free(bench->slots);
    free(bench);
    return status;
}
