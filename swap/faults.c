/* SPDX-License-Identifier: Apache-2.0
 *
 * The fault injector. A request's fate is settled when it is submitted, from the seed and its number alone; so the same
 * requests in the same order meet the same faults, whatever the threads do. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "swap/backend.h"
#include "swap/timer.h"

#define PART_BYTES ((size_t)4096) /* short transfers end on a multiple: direct I/O takes no less */

/* A request on its way through the injector. */
struct errand {
    struct swap_request lower; /* what the back end below sees */
    struct swap_request *upper;
    struct faults *faults;
    struct swap_alarm alarm;
    uint64_t delay_ns;
    uint64_t flip_bit; /* of a read's data, or NO_BIT */
};

#define NO_BIT UINT64_MAX

struct faults {
    struct swap_backend base;
    struct swap_backend *lower;
    struct swap_timer *timer;
    pthread_mutex_t lock;
    pthread_cond_t idle;     /* n_errands became 0 */
    struct swap_faults what; /* under lock */
    uint64_t n_requests;     /* under lock */
    uint64_t n_errands;      /* submitted, done() not yet returned; under lock */
};

/* The finaliser of splitmix64. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* A random number for one question about one request. */
static uint64_t draw(const struct swap_faults *what, uint64_t number, uint64_t question)
{
    return mix(mix(what->seed + 0x9e3779b97f4a7c15u * number) + question);
}

enum {
    ASK_ERROR = 1,
    ASK_RETRY,
    ASK_WHICH,
    ASK_SHORT,
    ASK_LENGTH,
    ASK_CORRUPT,
    ASK_BIT,
    ASK_STALE,
    ASK_DELAY,
    ASK_TIME
};

static bool strikes(const struct swap_faults *what, uint64_t number, uint64_t question, uint32_t ppm)
{
    return draw(what, number, question) % 1000000 < ppm;
}

/* Settles a request's fate in its errand. Returns whether it goes to the back end below; if not, lower.result is what
 * it ends with. */
static bool settle(const struct swap_faults *what, uint64_t number, struct errand *errand)
{
    static const int retries[] = {-EAGAIN, -EINTR, -ENOMEM};
    struct swap_request *lower = &errand->lower;
    if (strikes(what, number, ASK_DELAY, what->delay_ppm))
        errand->delay_ns = draw(what, number, ASK_TIME) % (UINT64_C(1000) * what->delay_us + 1);
    if (number == what->fail_nth || (what->fail_after != 0 && number >= what->fail_after)) {
        lower->result = -what->fail_errno;
        return false;
    }
    if (strikes(what, number, ASK_ERROR, lower->write ? what->write_error_ppm : what->read_error_ppm)) {
        lower->result = -EIO;
        return false;
    }
    if (strikes(what, number, ASK_RETRY, what->retry_ppm)) {
        lower->result = retries[draw(what, number, ASK_WHICH) % 3];
        return false;
    }
    if (lower->write && strikes(what, number, ASK_STALE, what->stale_ppm)) {
        lower->result = (int64_t)lower->bytes;
        return false;
    }
    if (strikes(what, number, ASK_SHORT, what->short_ppm)) {
        size_t parts = (lower->bytes + PART_BYTES - 1) / PART_BYTES;
        lower->bytes = draw(what, number, ASK_LENGTH) % parts * PART_BYTES;
        lower->result = 0;
        return lower->bytes > 0;
    }
    if (!lower->write && strikes(what, number, ASK_CORRUPT, what->corrupt_ppm))
        errand->flip_bit = draw(what, number, ASK_BIT) % (lower->bytes * 8);
    return true;
}

static void deliver(struct errand *errand)
{
    struct faults *faults = errand->faults;
    struct swap_request *upper = errand->upper;
    upper->result = errand->lower.result;
    free(errand);
    upper->done(upper);
    pthread_mutex_lock(&faults->lock);
    if (--faults->n_errands == 0)
        pthread_cond_signal(&faults->idle);
    pthread_mutex_unlock(&faults->lock);
}

static void delay_over(struct swap_alarm *alarm)
{
    deliver((struct errand *)((char *)alarm - offsetof(struct errand, alarm)));
}

static void lower_done(struct swap_request *request)
{
    struct errand *errand = (struct errand *)request; /* its first member */
    if (errand->flip_bit != NO_BIT && request->result == (int64_t)request->bytes)
        ((unsigned char *)request->buf)[errand->flip_bit / 8] ^= (unsigned char)(1u << (errand->flip_bit % 8));
    if (errand->delay_ns > 0)
        swap_timer_set(errand->faults->timer, &errand->alarm, errand->delay_ns);
    else
        deliver(errand);
}

static void faults_submit(struct swap_backend *backend, struct swap_request *request)
{
    struct faults *faults = (struct faults *)backend;
    struct errand *errand = calloc(1, sizeof(*errand));
    pthread_mutex_lock(&faults->lock);
    uint64_t number = ++faults->n_requests;
    bool goes_down = true;
    if (errand != NULL) {
        faults->n_errands++;
        errand->lower = *request;
        errand->lower.done = lower_done;
        errand->upper = request;
        errand->faults = faults;
        errand->alarm.ring = delay_over;
        errand->flip_bit = NO_BIT;
        goes_down = settle(&faults->what, number, errand);
    }
    pthread_mutex_unlock(&faults->lock);
    if (errand == NULL)
        faults->lower->ops->submit(faults->lower, request); /* no memory for a fault: none happens */
    else if (goes_down)
        faults->lower->ops->submit(faults->lower, &errand->lower);
    else
        swap_timer_set(faults->timer, &errand->alarm, errand->delay_ns); /* done() never runs inside submit() */
}

static void faults_close(struct swap_backend *backend)
{
    struct faults *faults = (struct faults *)backend;
    pthread_mutex_lock(&faults->lock);
    while (faults->n_errands > 0)
        pthread_cond_wait(&faults->idle, &faults->lock);
    pthread_mutex_unlock(&faults->lock);
    faults->lower->ops->close(faults->lower);
    swap_timer_close(&faults->timer);
    pthread_cond_destroy(&faults->idle);
    pthread_mutex_destroy(&faults->lock);
    free(faults);
}

static void faults_forget(struct swap_backend *backend)
{
    struct faults *faults = (struct faults *)backend;
    if (faults->lower->ops->forget != NULL)
        faults->lower->ops->forget(faults->lower);
}

static const struct swap_backend_ops faults_ops = {
    .name = "faults",
    .submit = faults_submit,
    .close = faults_close,
    .forget = faults_forget,
};

int swap_faults_open(struct swap_backend *lower, const struct swap_faults *faults, struct swap_backend **backend)
{
    struct faults *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return -ENOMEM;
    int result = swap_timer_open(&made->timer);
    if (result < 0) {
        free(made);
        return result;
    }
    made->base.ops = &faults_ops;
    made->lower = lower;
    made->what = *faults;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->idle, NULL);
    *backend = &made->base;
    return 0;
}

void swap_faults_set(struct swap_backend *backend, const struct swap_faults *faults)
{
    struct faults *made = (struct faults *)backend;
    pthread_mutex_lock(&made->lock);
    made->what = *faults;
    pthread_mutex_unlock(&made->lock);
}
