/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pager/state.h"

#include <errno.h>

#include "swap/thread.h"

static void let_go_on(struct shim_pager *pager)
{
    pager->suspended = false;
    pager->info.suspended = false;
    pager->suspend_error = 0;
    for (int i = 0; i < SHIM_MAX_RANGES; i++)
        if (atomic_load_explicit(&pager->ranges[i].base, memory_order_relaxed) != 0)
            shim_wish_add(pager, pager->ranges[i].first, pager->ranges[i].first + pager->ranges[i].n_chunks, true);
    shim_queue_serve(pager);
    shim_room_balance(pager);
}

int shim_pager_suspend(struct shim_pager *pager, uint32_t wait_ms)
{
    if (pager->forgotten)
        return -ECHILD;
    uint64_t until_ns = swap_now_ns() + (uint64_t)wait_ms * 1000000;
    int error = 0;
    shim_pager_lock(pager);
    if (!pager->suspended) {
        pager->suspended = pager->info.suspended = true;
        pager->suspend_next = 0;
        pager->suspend_error = 0;
        pager->n_wishes = 0;
    }
    shim_room_balance(pager);
    while (pager->suspended && pager->used > 0 && !pager->suspend_error && error == 0)
        error = swap_cond_wait_until(&pager->changed, &pager->lock, until_ns) ? 0 : -ETIMEDOUT;
    if (!pager->suspended)
        error = -EINTR; /* resumed by another thread meanwhile */
    else if (pager->suspend_error) {
        error = pager->suspend_error;
        let_go_on(pager);
    } else if (pager->used == 0)
        error = 0;
    shim_pager_unlock(pager);
    return error;
}

int shim_pager_resume(struct shim_pager *pager)
{
    if (pager->forgotten)
        return -ECHILD;
    shim_pager_lock(pager);
    if (pager->suspended) {
        let_go_on(pager);
        pthread_cond_broadcast(&pager->changed);
    }
    shim_pager_unlock(pager);
    return 0;
}
