/* SPDX-License-Identifier: Apache-2.0
 *
 * The numbers of a device's frames: those that were given back are handed out again, the latest first, before fresh ones.
 * Thread-safe. */
#ifndef VMM_NUMBERS_H
#define VMM_NUMBERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct vmm_numbers {
    pthread_mutex_t lock; /* what follows */
    uint32_t most;
    uint32_t n_fresh; /* numbers [n_fresh, most) were never handed out */
    uint32_t *given;  /* stack of those that were given back */
    uint32_t n_given;
};

/* Numbers 0 … most - 1. False: no memory for them. */
bool vmm_numbers_open(struct vmm_numbers *numbers, uint32_t most);
/* After a failed or successful open, or on zeroed memory. */
void vmm_numbers_close(struct vmm_numbers *numbers);

/* UINT32_MAX: all are out. */
uint32_t vmm_numbers_take(struct vmm_numbers *numbers);
void vmm_numbers_give(struct vmm_numbers *numbers, uint32_t number);

#endif
