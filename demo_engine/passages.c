/* SPDX-License-Identifier: Apache-2.0 */
#include "passages.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "recall_model.h"

/* A token and the place of the RECALL_LOOKBACK tokens before it. */
struct window {
    const engine_token *before;
    uint32_t at;
};

static int compare_windows(const void *a, const void *b)
{
    const struct window *x = a, *y = b;
    return memcmp(x->before, y->before, RECALL_LOOKBACK * sizeof *x->before);
}

/* fair[i]: what stands before token i is followed by that token everywhere. NULL if memory is out. */
static bool *find_fair(const engine_token *tokens, uint32_t n)
{
    bool *fair = calloc(n, sizeof *fair);
    uint32_t n_windows = n > RECALL_LOOKBACK ? n - RECALL_LOOKBACK : 0;
    struct window *windows = malloc(((size_t)n_windows + 1) * sizeof *windows);
    if (!fair || !windows) {
        free(fair);
        free(windows);
        return NULL;
    }
    for (uint32_t i = 0; i < n_windows; i++)
        windows[i] = (struct window){tokens + i, i + RECALL_LOOKBACK};
    qsort(windows, n_windows, sizeof *windows, compare_windows);
    for (uint32_t begin = 0, end; begin < n_windows; begin = end) {
        bool same = true;
        for (end = begin; end < n_windows && compare_windows(&windows[begin], &windows[end]) == 0; end++)
            same = same && tokens[windows[end].at] == tokens[windows[begin].at];
        for (uint32_t i = begin; i < end; i++)
            fair[windows[i].at] = same;
    }
    free(windows);
    return fair;
}

static bool is_fair(const bool *fair, const struct passage *p)
{
    for (uint32_t i = p->start + p->n_cue; i < p->start + p->n_cue + p->n_answer; i++) {
        if (!fair[i])
            return false;
    }
    return true;
}

/* Moves p to the fair passage nearest to where it is. */
static bool nearest_fair(const bool *fair, uint32_t n_tokens, struct passage *p)
{
    uint32_t place = p->start, last = n_tokens - p->n_cue - p->n_answer;
    for (uint32_t away = 0; away <= last; away++) {
        for (int side = 0; side < 2; side++) {
            if (side ? place < away : place + away > last)
                continue;
            p->start = side ? place - away : place + away;
            if (is_fair(fair, p))
                return true;
        }
    }
    return false;
}

int passages_choose(const engine_token *tokens, uint32_t n_tokens, uint32_t n_cue, uint32_t n_answer,
                    struct passage *passages, uint32_t n, struct engine_error *err)
{
    uint32_t length = n_cue + n_answer;
    if (n_cue < RECALL_LOOKBACK || n_tokens / n < 2 * length)
        return engine_fail(err, "%u tokens are too few for %u passages of %u", n_tokens, n, length);
    bool *fair = find_fair(tokens, n_tokens);
    if (!fair)
        return engine_broke(err, "out of memory for choosing passages");
    int rc = ENGINE_OK;
    for (uint32_t i = 0; i < n && rc == ENGINE_OK; i++) {
        uint32_t place = n == 1 ? 0 : (uint32_t)((uint64_t)(n_tokens - length) * i / (n - 1));
        passages[i] = (struct passage){place, n_cue, n_answer};
        if (!nearest_fair(fair, n_tokens, &passages[i]))
            rc = engine_fail(err, "no passage of %u tokens is determined by its beginning", length);
    }
    free(fair);
    return rc;
}
