/* SPDX-License-Identifier: Apache-2.0
 *
 * The file store's inside, shared by its opening and growing (file.c) and its transfers (file_io.c). */
#ifndef SWAP_FILE_H
#define SWAP_FILE_H

#include "swap/store.h"
#include "swap/timer.h"

struct file_store {
    struct swap_store base;
    struct swap_file_config config; /* dir is our copy; buffers and faults are not kept */
    char *dir;
    int fd;
    bool direct;
    uint32_t max_slots; /* UINT32_MAX: no fixed limit */
    uint32_t extent_slots;

    struct swap_backend *backend;
    struct swap_backend_info backend_info;
    const char *backend_name; /* of the one that does the I/O */
    bool has_faults;
    struct swap_timer *timer; /* back-off */

    uint32_t n_errors; /* final ones in a row; under base.lock */

    pthread_mutex_t grow_lock; /* before base.lock; held over fallocate */
    bool sparse;               /* the file system has no fallocate; under grow_lock */
    bool said_full;            /* under grow_lock */
    uint64_t full_until_ns;    /* growing is not tried before; under grow_lock */
};

void swap_file_put(struct swap_store *store, struct swap_io *io);
void swap_file_get(struct swap_store *store, struct swap_io *io);

#endif
