/* SPDX-License-Identifier: Apache-2.0
 *
 * What holds of every store (the loop index says which): a block comes back as it was put, or not at all. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support.h"

enum { HOST, FILE_THREADS, FILE_URING, N_KINDS };

static struct swap_crew *crew;
static struct swap_store *store;

static bool has_uring(void)
{
    struct swap_backend *backend;
    struct swap_backend_info info;
    struct swap_backend_config config = {0, 4096, 1, 1, NULL, 0};
    if (swap_uring_open(&config, &backend, &info) < 0)
        return false;
    backend->ops->close(backend);
    return true;
}

static int open_kind(int kind, size_t block_bytes, uint32_t n_slots, const struct iovec *buffer)
{
    ck_assert_int_eq(swap_crew_open(2, &crew), 0);
    if (kind == HOST) {
        struct swap_host_config config = {block_bytes, n_slots, 99, crew};
        return swap_host_open(&config, &store);
    }
    struct swap_file_config config = {
        .dir = test_dir(),
        .block_bytes = block_bytes,
        .max_bytes = n_slots * (uint64_t)block_bytes,
        .checksum_seed = 99,
        .backend = kind == FILE_URING ? "io_uring" : "threads",
        .buffers = buffer,
        .n_buffers = buffer != NULL,
        .crew = crew,
    };
    char reason[256] = "";
    int result = swap_file_open(&config, &store, reason, sizeof(reason));
    ck_assert_str_eq(reason, "");
    return result;
}

#define need(kind)                                                                                                     \
    do {                                                                                                               \
        if ((kind) == FILE_URING && !has_uring())                                                                      \
            skip("no io_uring here");                                                                                  \
    } while (0)

static void close_store(void)
{
    swap_close(&store);
    ck_assert_ptr_null(store);
    swap_crew_close(&crew);
}

static const size_t sizes[] = {4096, 8192, 36864, 65536, 917504, 2 << 20};

START_TEST(blocks_of_every_size)
{
    enum { N = 12 };
    int kind = _i % N_KINDS;
    need(kind);
    size_t bytes = sizes[_i / N_KINDS];
    char *memory = new_block(2 * N * bytes);
    struct iovec buffer = {memory, 2 * N * bytes};
    ck_assert_int_eq(open_kind(kind, bytes, N, &buffer), 0);
    struct waited_io ios[N] = {0};
    struct tally *tally = tally_new();
    uint32_t slot;
    for (int i = 0; i < N; i++) {
        char *buf = memory + (size_t)i * bytes;
        fill_block(buf, bytes, (uint64_t)i, 3);
        ck_assert_int_eq(swap_slot_alloc(store, &slot), 0);
        ios[i] = (struct waited_io){{.slot = slot,
                                     .stamp = {(uint64_t)i, 3},
                                     .buf = buf,
                                     .urgent = i % 4 == 0,
                                     .done = waited_done,
                                     .result = 1},
                                    tally};
        swap_put(store, &ios[i].io);
    }
    ck_assert_int_eq(swap_slot_alloc(store, &slot), -ENOSPC);
    tally_wait(tally, N);
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(ios[i].io.result, 0);
        ios[i].io.buf = memory + (size_t)(N + i) * bytes;
        ios[i].io.result = 1;
        swap_get(store, &ios[i].io);
    }
    tally_wait(tally, 2 * N);
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(ios[i].io.result, 0);
        ck_assert(is_block(ios[i].io.buf, bytes, (uint64_t)i, 3));
    }
    struct swap_store_info info;
    swap_get_info(store, &info);
    ck_assert_uint_eq(info.n_slots, N);
    ck_assert_uint_eq(info.n_used, N);
    ck_assert_uint_eq(info.n_retired, 0);
    ck_assert_uint_eq(info.n_retries, 0);
    ck_assert(!info.failed);
    ck_assert_str_eq(info.backend, kind == HOST ? "memory" : kind == FILE_URING ? "io_uring" : "threads");
    for (int i = 0; i < N; i++)
        swap_slot_free(store, ios[i].io.slot);
    swap_get_info(store, &info);
    ck_assert_uint_eq(info.n_used, 0);
    close_store();
    free(memory);
    tally_free(tally);
}
END_TEST

START_TEST(another_stamp_or_slot_gets_nothing)
{
    need(_i);
    enum { BYTES = 16384 };
    char *block = new_block(BYTES), *got = new_block(BYTES);
    ck_assert_int_eq(open_kind(_i, BYTES, 3, NULL), 0);
    uint32_t a, b, empty;
    ck_assert_int_eq(swap_slot_alloc(store, &a), 0);
    ck_assert_int_eq(swap_slot_alloc(store, &b), 0);
    ck_assert_int_eq(swap_slot_alloc(store, &empty), 0);
    fill_block(block, BYTES, 1, 0);
    struct swap_stamp stamp = {1, 7}, other = {2, 7};
    ck_assert_int_eq(put_wait(store, a, stamp, block), 0);
    ck_assert_int_eq(put_wait(store, b, other, block), 0); /* the same bytes */
    ck_assert_int_eq(get_wait(store, a, (struct swap_stamp){1, 8}, got), -EBADMSG);
    ck_assert_int_eq(get_wait(store, a, (struct swap_stamp){3, 7}, got), -EBADMSG);
    ck_assert_int_eq(get_wait(store, b, stamp, got), -EBADMSG);
    ck_assert_int_eq(get_wait(store, empty, stamp, got), -EBADMSG);
    ck_assert_int_eq(get_wait(store, a, stamp, got), 0);
    ck_assert(is_block(got, BYTES, 1, 0));
    /* A slot freed and taken again holds nothing yet, also for the stamp that it once had. */
    swap_slot_free(store, a);
    ck_assert_int_eq(swap_slot_alloc(store, &a), 0);
    ck_assert_int_eq(get_wait(store, a, stamp, got), -EBADMSG);
    /* A newer version in the same slot doesn't pass for the older one. */
    ck_assert_int_eq(put_wait(store, a, (struct swap_stamp){1, 9}, block), 0);
    ck_assert_int_eq(get_wait(store, a, stamp, got), -EBADMSG);
    close_store();
    free(block);
    free(got);
}
END_TEST

START_TEST(mistakes_are_answered)
{
    need(_i);
    enum { BYTES = 4096 };
    char *block = new_block(2 * BYTES);
    ck_assert_int_eq(open_kind(_i, BYTES, 2, NULL), 0);
    struct swap_stamp stamp = {1, 1};
    uint32_t slot;
    ck_assert_int_eq(put_wait(store, 0, stamp, block), -EINVAL); /* not taken yet */
    ck_assert_int_eq(get_wait(store, 1000000, stamp, block), -EINVAL);
    ck_assert_int_eq(swap_slot_alloc(store, &slot), 0);
    ck_assert_int_eq(put_wait(store, slot, stamp, block + 512), -EINVAL);
    ck_assert_int_eq(put_wait(store, slot, stamp, block), 0);
    swap_slot_free(store, slot);
    swap_slot_free(store, slot);
    swap_slot_free(store, UINT32_MAX);
    ck_assert_int_eq(get_wait(store, slot, stamp, block), -EINVAL);
    struct swap_store_info info;
    swap_get_info(store, &info);
    ck_assert_uint_eq(info.n_used, 0);
    close_store();
    struct swap_store *none = NULL;
    swap_close(&none);
    free(block);
}
END_TEST

START_TEST(host_slots_have_addresses)
{
    enum { BYTES = 65536, N = 40 };
    ck_assert_int_eq(open_kind(HOST, BYTES, N, NULL), 0);
    struct iovec memory = swap_memory(store);
    ck_assert_uint_eq(memory.iov_len, BYTES * N);
    for (int i = 0; i < N; i++) {
        uint32_t slot;
        ck_assert_int_eq(swap_slot_alloc(store, &slot), 0);
        char *address = swap_slot_address(store, slot);
        ck_assert_ptr_eq(address, (char *)memory.iov_base + (size_t)slot * BYTES);
        ck_assert_uint_eq((uintptr_t)address % SWAP_ALIGN, 0);
        fill_block(address, BYTES, (uint64_t)i, 0);
        struct swap_stamp stamp = {(uint64_t)i, 0};
        ck_assert_int_eq(put_wait(store, slot, stamp, address), 0); /* in place */
        ck_assert_int_eq(get_wait(store, slot, stamp, address), 0);
        char *got = new_block(BYTES);
        ck_assert_int_eq(get_wait(store, slot, stamp, got), 0);
        ck_assert(is_block(got, BYTES, (uint64_t)i, 0));
        free(got);
        address[i * 100] ^= 4; /* memory that was trodden on */
        ck_assert_int_eq(get_wait(store, slot, stamp, address), -EBADMSG);
    }
    ck_assert_ptr_null(swap_slot_address(store, N));
    close_store();
}
END_TEST

/* The descriptor of the store's file: the only unnamed one in the test directory. */
static int find_file(void)
{
    DIR *dir = opendir("/proc/self/fd");
    ck_assert_ptr_nonnull(dir);
    int found = -1;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char target[512];
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
        if (n < 0)
            continue;
        target[n] = '\0';
        struct stat status;
        int fd = (int)strtol(entry->d_name, NULL, 10);
        if (strstr(target, " (deleted)") != NULL && strncmp(target, test_dir(), strlen(test_dir())) == 0 &&
            fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 0)
            found = fd;
    }
    closedir(dir);
    ck_assert_int_ge(found, 0);
    return found;
}

START_TEST(silent_zeros_are_not_delivered)
{
    need(_i);
    enum { BYTES = 65536 };
    char *block = new_block(BYTES);
    ck_assert_int_eq(open_kind(_i, BYTES, 4, NULL), 0);
    struct swap_stamp stamp = {5, 5};
    uint32_t slot;
    ck_assert_int_eq(swap_slot_alloc(store, &slot), 0);
    fill_block(block, BYTES, 5, 5);
    ck_assert_int_eq(put_wait(store, slot, stamp, block), 0);
    int fd = find_file();
    struct stat status;
    ck_assert_int_eq(fstat(fd, &status), 0);
    ck_assert_uint_eq(status.st_mode & 07777, 0600);
    /* Cut and made long again: the file reads as zeros, with no error. */
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    ck_assert_int_eq(ftruncate(fd, status.st_size), 0);
    ck_assert_int_eq(get_wait(store, slot, stamp, block), -EBADMSG);
    /* Cut only: short for good. */
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    ck_assert_int_eq(get_wait(store, slot, stamp, block), -EIO);
    /* A block of zeros isn't excused either. */
    memset(block, 0, BYTES);
    ck_assert_int_eq(put_wait(store, slot, stamp, block), 0);
    ck_assert_int_eq(get_wait(store, slot, stamp, block), 0);
    ck_assert_int_eq(get_wait(store, slot, (struct swap_stamp){6, 5}, block), -EBADMSG);
    close_store();
    free(block);
}
END_TEST

/* Several threads, each with slots of its own, put, get and free at random. */
struct worker {
    pthread_t thread;
    uint64_t random;
    size_t bytes;
    int n_steps;
    int kind;
};

enum { WORKER_SLOTS = 6 };

struct held_slot {
    uint32_t slot;
    bool owned;
    struct swap_stamp stamp;
};

static void start(struct waited_io *waited, const struct held_slot *held, bool urgent, bool put)
{
    waited->io.slot = held->slot;
    waited->io.stamp = held->stamp;
    waited->io.urgent = urgent;
    waited->io.done = waited_done;
    waited->io.result = 1;
    if (put)
        swap_put(store, &waited->io);
    else
        swap_get(store, &waited->io);
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct held_slot held[WORKER_SLOTS] = {0};
    struct waited_io ios[WORKER_SLOTS] = {0};
    struct tally *tally = tally_new();
    int n_waited = 0;
    for (int i = 0; i < WORKER_SLOTS; i++)
        ios[i] = (struct waited_io){.io.buf = new_block(worker->bytes), .tally = tally};
    for (int step = 0; step < worker->n_steps; step++) {
        bool started[WORKER_SLOTS] = {0};
        for (int i = 0; i < WORKER_SLOTS; i++) {
            uint64_t choice = random_next(&worker->random);
            if (!held[i].owned) {
                ck_assert_int_eq(swap_slot_alloc(store, &held[i].slot), 0);
                held[i].owned = true;
                held[i].stamp = (struct swap_stamp){random_next(&worker->random), (uint32_t)choice};
                fill_block(ios[i].io.buf, worker->bytes, held[i].stamp.key, held[i].stamp.generation);
                start(&ios[i], &held[i], choice >> 32 & 1, true);
                started[i] = true;
            } else if (choice % 4 == 0) {
                swap_slot_free(store, held[i].slot);
                held[i].owned = false;
            } else {
                memset(ios[i].io.buf, 0, worker->bytes);
                start(&ios[i], &held[i], choice >> 32 & 1, false);
                started[i] = true;
            }
            n_waited += started[i];
        }
        tally_wait(tally, n_waited);
        for (int i = 0; i < WORKER_SLOTS; i++) {
            if (!started[i])
                continue;
            ck_assert_int_eq(ios[i].io.result, 0);
            ck_assert(is_block(ios[i].io.buf, worker->bytes, held[i].stamp.key, held[i].stamp.generation));
        }
    }
    for (int i = 0; i < WORKER_SLOTS; i++) {
        if (held[i].owned)
            swap_slot_free(store, held[i].slot);
        free(ios[i].io.buf);
    }
    tally_free(tally);
    return NULL;
}

START_TEST(many_at_once)
{
    enum { WORKERS = 4 };
    int kind = _i % N_KINDS;
    need(kind);
    int fds = count_fds(), threads = count_threads();
    uint64_t random = (uint64_t)_i + 1;
    size_t bytes = SWAP_ALIGN * (1 + random_next(&random) % 64);
    ck_assert_int_eq(open_kind(kind, bytes, WORKERS * WORKER_SLOTS, NULL), 0);
    struct worker workers[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        workers[i] =
            (struct worker){.random = random_next(&random), .bytes = bytes, .n_steps = scaled(40), .kind = kind};
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < WORKERS; i++)
        pthread_join(workers[i].thread, NULL);
    struct swap_store_info info;
    swap_get_info(store, &info);
    ck_assert_uint_eq(info.n_used, 0);
    close_store();
    expect_nothing_left(fds, threads);
}
END_TEST

/* One slot read by several at once. */
START_TEST(one_slot_many_readers)
{
    need(_i);
    enum { N = 16, BYTES = 32768 };
    ck_assert_int_eq(open_kind(_i, BYTES, 1, NULL), 0);
    char *memory = new_block(N * BYTES);
    uint32_t slot;
    struct swap_stamp stamp = {9, 9};
    ck_assert_int_eq(swap_slot_alloc(store, &slot), 0);
    fill_block(memory, BYTES, 9, 9);
    ck_assert_int_eq(put_wait(store, slot, stamp, memory), 0);
    memset(memory, 0, BYTES);
    struct tally *tally = tally_new();
    struct waited_io ios[N];
    for (int i = 0; i < N; i++) {
        ios[i] = (struct waited_io){
            {.slot = slot, .stamp = stamp, .buf = memory + (size_t)i * BYTES, .urgent = i % 2, .done = waited_done},
            tally};
        swap_get(store, &ios[i].io);
    }
    tally_wait(tally, N);
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(ios[i].io.result, 0);
        ck_assert(is_block(ios[i].io.buf, BYTES, 9, 9));
    }
    close_store();
    free(memory);
    tally_free(tally);
}
END_TEST

START_TEST(bad_host_configurations)
{
    ck_assert_int_eq(swap_crew_open(1, &crew), 0);
    static const size_t blocks[] = {0, 1, 4095, 6144};
    store = NULL;
    for (int i = 0; i < 4; i++) {
        struct swap_host_config config = {blocks[i], 1, 0, crew};
        ck_assert_int_eq(swap_host_open(&config, &store), -EINVAL);
    }
    struct swap_host_config config = {4096, 0, 0, crew};
    ck_assert_int_eq(swap_host_open(&config, &store), -EINVAL);
    config = (struct swap_host_config){SIZE_MAX - 4095, 2, 0, crew};
    ck_assert_int_eq(swap_host_open(&config, &store), -EINVAL);
    config = (struct swap_host_config){(size_t)1 << 40, 1 << 20, 0, crew}; /* more than any address space */
    ck_assert_int_eq(swap_host_open(&config, &store), -ENOMEM);
    ck_assert_ptr_null(store);
    swap_crew_close(&crew);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("store");
    tcase_add_loop_test(tests, blocks_of_every_size, 0, (int)(sizeof(sizes) / sizeof(sizes[0])) * N_KINDS);
    tcase_add_loop_test(tests, another_stamp_or_slot_gets_nothing, 0, N_KINDS);
    tcase_add_loop_test(tests, mistakes_are_answered, 0, N_KINDS);
    tcase_add_test(tests, host_slots_have_addresses);
    tcase_add_loop_test(tests, silent_zeros_are_not_delivered, FILE_THREADS, N_KINDS);
    tcase_add_loop_test(tests, many_at_once, 0, 3 * N_KINDS);
    tcase_add_loop_test(tests, one_slot_many_readers, 0, N_KINDS);
    tcase_add_test(tests, bad_host_configurations);
    return run_suite("swap stores", tests);
}
