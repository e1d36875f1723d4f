/* SPDX-License-Identifier: Apache-2.0
 *
 * The requests that wait in a back end, in the order in which it takes them: urgent reads, urgent writes, reads,
 * writes; of one kind, first come first served. No lock of its own. */
#ifndef SWAP_QUEUE_H
#define SWAP_QUEUE_H

#include "swap/backend.h"

struct swap_queue {
    struct swap_request *first, *last;
};

struct swap_lanes {
    struct swap_queue lane[2][2]; /* [not urgent][write] */
};

static inline void swap_queue_push(struct swap_queue *queue, struct swap_request *request)
{
    request->next = NULL;
    if (queue->first == NULL)
        queue->first = request;
    else
        queue->last->next = request;
    queue->last = request;
}

static inline struct swap_request *swap_queue_pop(struct swap_queue *queue)
{
    struct swap_request *request = queue->first;
    if (request != NULL)
        queue->first = request->next;
    return request;
}

static inline void swap_lanes_push(struct swap_lanes *lanes, struct swap_request *request)
{
    swap_queue_push(&lanes->lane[!request->urgent][request->write], request);
}

/* The next request of those wanted, or NULL. */
static inline struct swap_request *swap_lanes_pop(struct swap_lanes *lanes, bool reads, bool writes)
{
    struct swap_request *request = NULL;
    for (int usual = 0; usual < 2 && request == NULL; usual++) {
        if (reads)
            request = swap_queue_pop(&lanes->lane[usual][0]);
        if (writes && request == NULL)
            request = swap_queue_pop(&lanes->lane[usual][1]);
    }
    return request;
}

static inline bool swap_lanes_empty(const struct swap_lanes *lanes)
{
    return lanes->lane[0][0].first == NULL && lanes->lane[0][1].first == NULL && lanes->lane[1][0].first == NULL &&
           lanes->lane[1][1].first == NULL;
}

#endif
