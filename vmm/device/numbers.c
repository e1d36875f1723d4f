/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/device/numbers.h"

#include <stdlib.h>

bool vmm_numbers_open(struct vmm_numbers *numbers, uint32_t most)
{
    *numbers = (struct vmm_numbers){.most = most, .given = malloc((size_t)most * sizeof *numbers->given)};
    if (numbers->given)
        pthread_mutex_init(&numbers->lock, NULL);
    return numbers->given != NULL;
}

void vmm_numbers_close(struct vmm_numbers *numbers)
{
    if (!numbers->given)
        return;
    pthread_mutex_destroy(&numbers->lock);
    free(numbers->given);
    numbers->given = NULL;
}

uint32_t vmm_numbers_take(struct vmm_numbers *numbers)
{
    uint32_t number = UINT32_MAX;
    pthread_mutex_lock(&numbers->lock);
    if (numbers->n_given > 0)
        number = numbers->given[--numbers->n_given];
    else if (numbers->n_fresh < numbers->most)
        number = numbers->n_fresh++;
    pthread_mutex_unlock(&numbers->lock);
    return number;
}

void vmm_numbers_give(struct vmm_numbers *numbers, uint32_t number)
{
    pthread_mutex_lock(&numbers->lock);
    numbers->given[numbers->n_given++] = number;
    pthread_mutex_unlock(&numbers->lock);
}
