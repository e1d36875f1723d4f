/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench_shim_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tools/bench.h"

#define MOST_THREADS 64
#define LANE         64 /* bytes that are added at a time */

typedef uint64_t lanes __attribute__((vector_size(LANE)));

struct engine {
    struct engine_shape shape;
    char *cache;
    size_t bytes;
    bool mapped; /* a file */
    uint32_t lengths[64];
    /* What the threads share; written by the first between the barriers. */
    pthread_barrier_t barrier;
    const char *stretch;
    size_t stretch_bytes;
    uint64_t sums[MOST_THREADS][LANE / sizeof(uint64_t)]; /* a cache line each */
};

struct worker {
    struct engine *engine;
    uint32_t number;
};

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t add_up(const char *at, size_t bytes)
{
    lanes sum[4] = {{0}, {0}, {0}, {0}};
    const lanes *row = (const lanes *)at;
    size_t i = 0, n = bytes / LANE;
    for (; i + 4 <= n; i += 4) {
        sum[0] += row[i];
        sum[1] += row[i + 1];
        sum[2] += row[i + 2];
        sum[3] += row[i + 3];
    }
    for (; i < n; i++)
        sum[0] += row[i];
    lanes all = sum[0] + sum[1] + sum[2] + sum[3];
    uint64_t total = 0;
    for (size_t lane = 0; lane < LANE / sizeof(uint64_t); lane++)
        total += all[lane];
    return total;
}

/* The number-th thread's part of the stretch. */
static void add_part(struct engine *engine, uint32_t number)
{
    size_t n_lanes = engine->stretch_bytes / LANE, threads = engine->shape.n_threads;
    size_t from = n_lanes * number / threads, to = n_lanes * (number + 1) / threads;
    engine->sums[number][0] += add_up(engine->stretch + from * LANE, (to - from) * LANE);
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    for (;;) {
        pthread_barrier_wait(&worker->engine->barrier);
        add_part(worker->engine, worker->number);
        pthread_barrier_wait(&worker->engine->barrier);
    }
    return NULL;
}

static char *row_of(const struct engine *engine, uint32_t layer, uint32_t v, uint32_t conversation, uint32_t token)
{
    const struct engine_shape *shape = &engine->shape;
    size_t stretch = ((size_t)layer * 2 + v) * shape->n_conversations + conversation;
    return engine->cache + (stretch * shape->n_tokens + token) * shape->row_bytes;
}

static void write_row(char *row, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes; i += sizeof(seed)) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        memcpy(row + i, &seed, sizeof(seed));
    }
}

static void write_token(struct engine *engine, uint32_t layer, uint32_t conversation, uint32_t token)
{
    for (uint32_t v = 0; v < 2; v++)
        write_row(row_of(engine, layer, v, conversation, token), engine->shape.row_bytes,
                  ((uint64_t)layer * 2 + v) << 48 | (uint64_t)conversation << 32 | token);
}

static void sweep(struct engine *engine, const char *stretch, size_t bytes)
{
    engine->stretch = stretch;
    engine->stretch_bytes = bytes;
    if (engine->shape.n_threads > 1)
        pthread_barrier_wait(&engine->barrier);
    add_part(engine, 0);
    if (engine->shape.n_threads > 1)
        pthread_barrier_wait(&engine->barrier);
}

static void step(struct engine *engine, uint32_t conversation)
{
    uint32_t token = engine->lengths[conversation];
    if (token == engine->shape.n_tokens) /* full: the last token once more */
        token--;
    engine->lengths[conversation] = token + 1;
    for (uint32_t layer = 0; layer < engine->shape.n_layers; layer++) {
        write_token(engine, layer, conversation, token);
        for (uint32_t v = 0; v < 2; v++)
            sweep(engine, row_of(engine, layer, v, conversation, 0), (size_t)(token + 1) * engine->shape.row_bytes);
    }
}

static int open_threads(struct engine *engine)
{
    static struct worker workers[MOST_THREADS];
    int error = pthread_barrier_init(&engine->barrier, NULL, engine->shape.n_threads);
    for (uint32_t i = 1; i < engine->shape.n_threads && error == 0; i++) {
        pthread_t thread;
        workers[i] = (struct worker){engine, i};
        error = pthread_create(&thread, NULL, work, &workers[i]);
    }
    return -error;
}

static int map_file(struct engine *engine, const char *folder)
{
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)engine->bytes) != 0)
        return -errno;
    engine->cache = mmap(NULL, engine->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    engine->mapped = true;
    close(fd);
    return engine->cache == MAP_FAILED ? -errno : 0;
}

static int open_cache(struct engine *engine, const struct engine_request *request)
{
    const struct engine_shape *shape = &engine->shape;
    engine->shape = request->shape;
    if (shape->n_conversations > sizeof(engine->lengths) / sizeof(engine->lengths[0]) || shape->n_threads < 1 ||
        shape->n_threads > MOST_THREADS || shape->row_bytes % LANE != 0)
        return -EINVAL;
    engine->bytes = (size_t)2 * shape->n_layers * shape->n_conversations * shape->n_tokens * shape->row_bytes;
    if (request->map_file) {
        int result = map_file(engine, request->folder);
        return result < 0 ? result : open_threads(engine);
    }
    void *cache;
    int error = posix_memalign(&cache, LANE, engine->bytes);
    if (error != 0)
        return -error;
    engine->cache = cache;
    memset(engine->cache, 0, engine->bytes);
    return open_threads(engine);
}

static void answer(struct engine *engine, const struct engine_request *request, struct engine_reply *reply)
{
    uint64_t start = now_ns(), start_cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    switch (request->op) {
    case ENGINE_OPEN:
        reply->result = open_cache(engine, request);
        break;
    case ENGINE_FILL:
        for (uint32_t layer = 0; layer < engine->shape.n_layers; layer++)
            for (uint32_t token = 0; token < request->n; token++)
                write_token(engine, layer, request->conversation, token);
        engine->lengths[request->conversation] = request->n;
        break;
    case ENGINE_STEP:
        for (uint32_t i = 0; i < request->n; i++) {
            step(engine, request->conversation);
            if (i == 0)
                reply->first_ns = now_ns() - start;
        }
        break;
    case ENGINE_TOUCH:
        for (uint32_t stretch = 0; stretch < 2 * engine->shape.n_layers; stretch++) {
            const volatile char *at = row_of(engine, stretch / 2, stretch % 2, request->conversation, 0);
            for (size_t i = 0; i < (size_t)engine->shape.n_tokens * engine->shape.row_bytes; i += request->n) {
                reply->sum += (uint64_t)at[i];
                reply->n++;
            }
        }
        break;
    case ENGINE_SYNC:
        reply->result = !engine->mapped || msync(engine->cache, engine->bytes, MS_SYNC) == 0 ? 0 : -errno;
        break;
    default:
        reply->result = -EINVAL;
    }
    reply->ns = now_ns() - start;
    reply->cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - start_cpu;
    for (uint32_t i = 0; i < engine->shape.n_threads; i++)
        reply->sum += engine->sums[i][0];
}

int bench_shim_engine(int argc, char **argv)
{
    static struct engine engine;
    struct engine_request request;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (recv(STDIN_FILENO, &request, sizeof(request), MSG_WAITALL) == (ssize_t)sizeof(request)) {
        struct engine_reply reply = {0};
        answer(&engine, &request, &reply);
        if (send(STDIN_FILENO, &reply, sizeof(reply), MSG_NOSIGNAL) != (ssize_t)sizeof(reply))
            return 1;
    }
    /* The threads wait for ever; exit ends them. */
    return 0;
}
