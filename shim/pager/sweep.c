/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pager/sweep.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "shim/pager/runs.h"

#define N_THREADS 64 /* followed at a time; the one heard of least recently makes room */

#define WINDOW_MIN      4u
#define RUN_MAX         8u /* chunks mapped at a touch: what a touch costs is then small beside reading them */
#define WINDOW_LEAST    (2 * RUN_MAX) /* so that this many are there to be mapped */
#define SLACK_MIN       64u           /* a thread that skips fewer entries of the log than this still follows it */
#define CALM            2u            /* windows of uses in time until the window shrinks by an eighth */
#define STRAYS          4u /* chunks not in the log that are fetched after one that is and that they follow in address */
#define RECENT          256u /* uses within which an active thread is heard of */
#define COUNT_EVERY     64u
#define TRUST_MOST      256u
#define TRUST_GOOD      64u
#define TRUST_WASTED    8u /* uses that make up for one chunk fetched for nothing */
#define ONWARDS_DOUBTED 4u
#define LOG_MIN         (1u << 12)
#define LOG_CAPACITY    16u /* times the memory: what was loaded longer ago is forgotten */

struct thread {
    bool exists;
    uint32_t tid;
    uint32_t stamp; /* sweep->n_uses when heard of last */
    uint32_t chunk; /* used last */
    bool known;     /* that chunk was in the log before */
    bool following, stray;
    uint32_t at;        /* while following: index in the log of where the thread is */
    uint32_t fetched;   /* index up to which was asked for */
    uint32_t n_onwards; /* uses in a row that went on from the one before */
    uint32_t stray_at;  /* if stray: index of a chunk used that is elsewhere */
    struct shim_run *run;
    struct shim_run_history history;
};

struct shim_sweep {
    uint32_t n_chunks;
    uint32_t trust; /* goes up with what was fetched and used, down with what was not used */
    uint32_t window, window_max, limit;
    bool settled; /* the window was large enough once: from then on it grows less at a time */
    uint32_t n_uses, n_calm, n_since_growth;
    uint32_t n_active;

    /* Indices count up and wrap around at 2^32; an entry is at its index modulo the size. place[chunk] is the index of its
     * latest entry + 1; 0: none. wasted: one bit a chunk. */
    uint32_t *log, *place, *wasted;
    uint32_t log_size, head, n_noted;

    struct thread threads[N_THREADS];
    struct shim_runs runs;
};

static void *table_map(size_t bytes)
{
    void *table = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return table == MAP_FAILED ? NULL : table;
}

static size_t wasted_bytes(uint32_t n_chunks)
{
    return ((size_t)n_chunks + 31) / 32 * sizeof(uint32_t);
}

int shim_sweep_open(uint32_t n_chunks, uint32_t capacity, uint32_t window_max, struct shim_sweep **sweep)
{
    struct shim_sweep *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->n_chunks = s->runs.n_chunks = n_chunks;
    s->window_max = window_max ? window_max : 1;
    s->window = s->window_max < WINDOW_LEAST ? s->window_max : WINDOW_LEAST;
    s->limit = s->window_max;
    s->n_active = 1;
    s->trust = TRUST_MOST;
    uint64_t entries = 2 * (uint64_t)n_chunks;
    if (entries > (uint64_t)LOG_CAPACITY * capacity)
        entries = (uint64_t)LOG_CAPACITY * capacity;
    s->log_size = LOG_MIN;
    while (s->log_size < entries && s->log_size < 1u << 30)
        s->log_size *= 2;
    s->log = table_map((size_t)s->log_size * sizeof *s->log);
    s->place = table_map((size_t)n_chunks * sizeof *s->place);
    s->wasted = table_map(wasted_bytes(n_chunks));
    if (!s->log || !s->place || !s->wasted) {
        shim_sweep_close(&s);
        return -ENOMEM;
    }
    *sweep = s;
    return 0;
}

void shim_sweep_close(struct shim_sweep **sweep)
{
    struct shim_sweep *s = *sweep;
    if (!s)
        return;
    if (s->log)
        munmap(s->log, (size_t)s->log_size * sizeof *s->log);
    if (s->place)
        munmap(s->place, (size_t)s->n_chunks * sizeof *s->place);
    if (s->wasted)
        munmap(s->wasted, wasted_bytes(s->n_chunks));
    free(s);
    *sweep = NULL;
}

static bool was_wasted(const struct shim_sweep *sweep, uint32_t chunk)
{
    return sweep->wasted[chunk / 32] >> (chunk % 32) & 1;
}

/* The table of threads */

static struct thread *thread_find(struct shim_sweep *sweep, uint32_t tid)
{
    for (struct thread *t = sweep->threads; t < sweep->threads + N_THREADS && t->exists; t++) {
        if (t->tid == tid)
            return t;
    }
    return NULL;
}

static struct thread *thread_get(struct shim_sweep *sweep, uint32_t tid)
{
    struct thread *place = thread_find(sweep, tid);
    if (place)
        return place;
    place = sweep->threads;
    for (struct thread *t = sweep->threads; t < sweep->threads + N_THREADS; t++) {
        if (!t->exists) {
            place = t;
            break;
        }
        if (sweep->n_uses - t->stamp > sweep->n_uses - place->stamp)
            place = t;
    }
    *place = (struct thread){.exists = true, .tid = tid};
    return place;
}

static void threads_count(struct shim_sweep *sweep)
{
    if (sweep->n_uses % COUNT_EVERY)
        return;
    sweep->n_active = 0;
    for (struct thread *t = sweep->threads; t < sweep->threads + N_THREADS && t->exists; t++)
        sweep->n_active += sweep->n_uses - t->stamp < RECENT;
}

/* The log */

static bool log_place(const struct shim_sweep *sweep, uint32_t chunk, uint32_t *index)
{
    *index = sweep->place[chunk] - 1;
    return sweep->place[chunk] && sweep->head - *index <= sweep->n_noted &&
           sweep->log[*index % sweep->log_size] == chunk;
}

static void log_note(struct shim_sweep *sweep, uint32_t chunk)
{
    if (sweep->head == UINT32_MAX) /* place is index + 1, and 0 is none */
        sweep->head = sweep->n_noted = 0;
    sweep->log[sweep->head % sweep->log_size] = chunk;
    sweep->place[chunk] = ++sweep->head;
    if (sweep->n_noted < sweep->log_size)
        sweep->n_noted++;
}

static void window_adapt(struct shim_sweep *sweep, enum shim_sweep_luck luck)
{
    sweep->n_since_growth++;
    if (luck == SHIM_SWEEP_LATE) {
        sweep->n_calm = 0;
        /* What was asked for before the window grew is late still. */
        if (sweep->n_since_growth < sweep->window / 2)
            return;
        sweep->n_since_growth = 0;
        sweep->window += sweep->settled ? sweep->window / 4 + 1 : sweep->window;
        if (sweep->window > sweep->window_max)
            sweep->window = sweep->window_max;
        if (sweep->window > 2 * sweep->limit)
            sweep->window = 2 * sweep->limit;
    } else if (luck == SHIM_SWEEP_IN_TIME && ++sweep->n_calm >= CALM * sweep->window) {
        sweep->n_calm = 0;
        sweep->settled = true;
        uint32_t less = sweep->window - sweep->window / 8;
        if (less >= WINDOW_LEAST)
            sweep->window = less;
    }
}

static uint32_t window_now(const struct shim_sweep *sweep)
{
    return sweep->window < sweep->limit ? sweep->window : sweep->limit;
}

/* Has this thread gone on in order for long enough, for how good predictions were of late? */
static bool believed(const struct shim_sweep *sweep, uint32_t n_onwards)
{
    return n_onwards >= (sweep->trust >= TRUST_GOOD ? 0 : ONWARDS_DOUBTED);
}

/* The thread uses what it, or another, used before at this place of the log. */
static void thread_follow(struct shim_sweep *sweep, struct thread *t, uint32_t at, enum shim_sweep_luck luck)
{
    uint32_t slack = 2 * sweep->window > SLACK_MIN ? 2 * sweep->window : SLACK_MIN;
    if (t->following && at - t->at - 1 < slack) {
        if (t->fetched - at - 1 > slack)
            t->fetched = at + 1;
        t->n_onwards++;
    } else if (luck != SHIM_SWEEP_MISSED || (t->stray && at - t->stray_at - 1 < slack)) {
        t->fetched = at + 1;
        t->n_onwards = 0;
    } else {
        /* One chunk out of order is no reason to leave the place; a second that follows it is. */
        t->stray = true;
        t->stray_at = at;
        t->n_onwards = 0;
        return;
    }
    t->following = true;
    t->stray = false;
    t->at = at;
}

void shim_sweep_use(struct shim_sweep *sweep, uint32_t tid, uint32_t chunk, enum shim_sweep_luck luck)
{
    struct thread *t = thread_get(sweep, tid);
    sweep->n_uses++;
    t->stamp = sweep->n_uses;
    threads_count(sweep);
    window_adapt(sweep, luck);
    if (was_wasted(sweep, chunk))
        sweep->wasted[chunk / 32] &= ~(1u << chunk % 32);
    if (luck != SHIM_SWEEP_MISSED && sweep->trust < TRUST_MOST)
        sweep->trust++;

    uint32_t at;
    t->known = log_place(sweep, chunk, &at);
    log_note(sweep, chunk);
    t->chunk = chunk;
    t->run = shim_runs_use(&sweep->runs, &t->history, chunk, window_now(sweep), sweep->head);
    if (t->known)
        thread_follow(sweep, t, at, luck);
}

void shim_sweep_pass(struct shim_sweep *sweep, uint32_t tid, uint32_t chunk)
{
    struct thread *t = thread_find(sweep, tid);
    if (!t)
        return;
    uint32_t at;
    if (t->following && log_place(sweep, chunk, &at) && at - t->at < sweep->window)
        t->at = at;
    log_note(sweep, chunk);
    shim_runs_pass(&sweep->runs, &t->history, chunk);
}

void shim_sweep_wasted(struct shim_sweep *sweep, uint32_t chunk)
{
    sweep->wasted[chunk / 32] |= 1u << chunk % 32;
    sweep->trust = sweep->trust > TRUST_WASTED ? sweep->trust - TRUST_WASTED : 0;
}

void shim_sweep_forget(struct shim_sweep *sweep, uint32_t chunk)
{
    if (sweep->place[chunk])
        sweep->place[chunk] = 0;
    if (was_wasted(sweep, chunk))
        sweep->wasted[chunk / 32] &= ~(1u << chunk % 32);
}

struct taker {
    const struct shim_sweep *sweep;
    bool (*take)(void *, uint32_t, bool);
    void *user;
    uint32_t since; /* index in the log where the run began */
};

static bool take_unless_wasted(const struct taker *taker, uint32_t chunk, bool neighbour)
{
    return !was_wasted(taker->sweep, chunk) && taker->take(taker->user, chunk, neighbour);
}

static size_t log_ahead(struct shim_sweep *sweep, struct thread *t, struct taker *taker, uint32_t *chunks, size_t max)
{
    size_t n = 0;
    uint32_t i = t->fetched;
    for (; i - t->at <= window_now(sweep) && i != sweep->head && n < max; i++) {
        uint32_t chunk = sweep->log[i % sweep->log_size];
        /* If it was used since then another thread is ahead of where it was: it has passed already. */
        if (sweep->place[chunk] != i + 1)
            continue;
        if (take_unless_wasted(taker, chunk, false))
            chunks[n++] = chunk;
        /* What was added to the conversation since follows it in address, and is in no log. */
        for (uint32_t stray = chunk + 1; stray - chunk <= STRAYS && stray < sweep->n_chunks && n < max; stray++) {
            if (sweep->place[stray] || !take_unless_wasted(taker, stray, true))
                break;
            chunks[n++] = stray;
        }
    }
    t->fetched = i;
    return n;
}

/* What was used since the run began has passed already: in the part of another thread. */
static bool take_of_run(void *user, uint32_t chunk, bool neighbour)
{
    const struct taker *taker = user;
    uint32_t place = taker->sweep->place[chunk];
    if (place && (int32_t)(place - 1 - taker->since) >= 0)
        return false;
    return taker->take(taker->user, chunk, neighbour);
}

size_t shim_sweep_ahead(struct shim_sweep *sweep, uint32_t tid, uint32_t chunk, bool (*take)(void *, uint32_t, bool),
                        void *user, uint32_t *chunks, size_t max)
{
    struct thread *t = thread_find(sweep, tid);
    if (!t || t->chunk != chunk || max == 0)
        return 0;
    struct taker taker = {sweep, take, user, t->run->began};
    if (t->known)
        return t->following && believed(sweep, t->n_onwards) ? log_ahead(sweep, t, &taker, chunks, max) : 0;
    return shim_runs_ahead(&sweep->runs, &t->history, t->run, take_of_run, &taker, chunks, max);
}

bool shim_sweep_learned(const struct shim_sweep *sweep, uint32_t tid)
{
    for (uint32_t i = 0; i < N_THREADS && sweep->threads[i].exists; i++) {
        if (sweep->threads[i].tid == tid)
            return sweep->threads[i].known;
    }
    return false;
}

void shim_sweep_limit(struct shim_sweep *sweep, uint32_t limit)
{
    sweep->limit = limit < WINDOW_MIN ? WINDOW_MIN : limit;
}

uint32_t shim_sweep_run(const struct shim_sweep *sweep)
{
    uint32_t run = window_now(sweep) / 2;
    return run < 1 ? 1 : run > RUN_MAX ? RUN_MAX : run;
}

uint32_t shim_sweep_window(const struct shim_sweep *sweep)
{
    return window_now(sweep);
}

uint32_t shim_sweep_threads(const struct shim_sweep *sweep)
{
    return sweep->n_active ? sweep->n_active : 1;
}
