/* SPDX-License-Identifier: Apache-2.0
 *
 * What holds of both back ends: bytes out are bytes in, results are true, urgent requests go first, every request ends,
 * nothing is left. The loop index says which one. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support.h"

enum { BLOCK = 64 << 10, N_BACKENDS = 2 };

static int open_backend(int which, const struct swap_backend_config *config, struct swap_backend **backend)
{
    struct swap_backend_info info;
    return which == 0 ? swap_threads_open(config, backend, &info) : swap_uring_open(config, backend, &info);
}

/* Skips the test where the kernel forbids io_uring. */
#define need(which)                                                                                                    \
    do {                                                                                                               \
        struct swap_backend *needed;                                                                                   \
        struct swap_backend_config small = {0, BLOCK, 1, 1, NULL, 0};                                                  \
        int opened = open_backend(which, &small, &needed);                                                             \
        if ((which) == 1 && (opened == -ENOSYS || opened == -EPERM || opened == -EACCES))                              \
            skip("no io_uring here");                                                                                  \
        ck_assert_int_eq(opened, 0);                                                                                   \
        needed->ops->close(needed);                                                                                    \
    } while (0)

static int open_file(int flags)
{
    int fd = open(test_dir(), O_TMPFILE | O_CLOEXEC | flags, 0600);
    ck_assert_int_ge(fd, 0);
    return fd;
}

struct waited_request {
    struct swap_request request;
    struct tally *tally;
};

static void request_done(struct swap_request *request)
{
    tally_add(((struct waited_request *)request)->tally);
}

static int64_t transfer(struct swap_backend *backend, bool write, void *buf, size_t bytes, uint64_t offset)
{
    struct waited_request waited = {
        .request = {.write = write, .buf = buf, .bytes = bytes, .offset = offset, .done = request_done}};
    waited.tally = tally_new();
    backend->ops->submit(backend, &waited.request);
    tally_wait(waited.tally, 1);
    tally_free(waited.tally);
    return waited.request.result;
}

START_TEST(bytes_out_are_bytes_in)
{
    need(_i);
    enum { N = 64 };
    int fd = open_file(O_RDWR | O_DIRECT);
    char *memory = new_block((size_t)2 * N * BLOCK);
    /* One half of the memory is registered, the other isn't, and some requests lie across the border. */
    struct iovec buffer = {memory, (size_t)N * BLOCK + BLOCK / 2};
    struct swap_backend_config config = {fd, BLOCK, 3, 2, &buffer, 1};
    struct swap_backend *backend;
    ck_assert_int_eq(open_backend(_i, &config, &backend), 0);
    struct waited_request requests[2 * N] = {0};
    struct tally *tally = tally_new();
    int total = 0;
    for (int round = 0; round < 2; round++) {
        bool write = round == 0;
        for (int i = 0; i < 2 * N; i++) {
            char *buf = memory + (size_t)i * BLOCK;
            if (write)
                fill_block(buf, BLOCK, (uint64_t)i, 0);
            else
                memset(buf, 0, BLOCK);
        }
        for (int i = 0; i < 2 * N; i++) {
            requests[i] = (struct waited_request){.request = {.write = write,
                                                              .urgent = i % 5 == 0,
                                                              .buf = memory + (size_t)i * BLOCK,
                                                              .bytes = BLOCK,
                                                              .offset = (uint64_t)(2 * N - i) * BLOCK,
                                                              .done = request_done},
                                                  .tally = tally};
            backend->ops->submit(backend, &requests[i].request);
        }
        tally_wait(tally, total += 2 * N);
        for (int i = 0; i < 2 * N; i++) {
            ck_assert_int_eq(requests[i].request.result, BLOCK);
            ck_assert(is_block(memory + (size_t)i * BLOCK, BLOCK, (uint64_t)i, 0));
        }
    }
    backend->ops->close(backend);
    tally_free(tally);
    free(memory);
    close(fd);
}
END_TEST

START_TEST(results_are_true)
{
    need(_i);
    int fd = open_file(O_RDWR);
    ck_assert_int_eq(ftruncate(fd, BLOCK + BLOCK / 2), 0);
    char *block = new_block(BLOCK);
    struct swap_backend_config config = {fd, BLOCK, 2, 2, NULL, 0};
    struct swap_backend *backend;
    ck_assert_int_eq(open_backend(_i, &config, &backend), 0);
    ck_assert_int_eq(transfer(backend, false, block, BLOCK, 0), BLOCK);
    ck_assert_int_eq(transfer(backend, false, block, BLOCK, BLOCK), BLOCK / 2); /* the file's end */
    ck_assert_int_eq(transfer(backend, false, block, BLOCK, UINT64_C(8) * BLOCK), 0);
    ck_assert_int_eq(transfer(backend, false, (void *)8, BLOCK, 0), -EFAULT);
    ck_assert_int_eq(transfer(backend, true, block, BLOCK, UINT64_C(8) * BLOCK), BLOCK);
    backend->ops->close(backend);
    close(fd);

    fd = open_file(O_WRONLY);
    config.fd = fd;
    ck_assert_int_eq(open_backend(_i, &config, &backend), 0);
    ck_assert_int_eq(transfer(backend, false, block, BLOCK, 0), -EBADF);
    ck_assert_int_eq(transfer(backend, true, block, BLOCK, 0), BLOCK);
    backend->ops->close(backend);
    close(fd);
    free(block);
}
END_TEST

/* With windows of one, a request whose done() submits the others holds the class, so they all wait together. */
static struct {
    struct swap_backend *backend;
    struct swap_request *held;
    struct swap_request *ended[8];
    int n_ended;
    struct tally *tally;
} row;

static void row_done(struct swap_request *request)
{
    row.ended[row.n_ended++] = request;
    tally_add(row.tally);
}

static void first_done(struct swap_request *request)
{
    for (int i = 0; i < 6; i++)
        row.backend->ops->submit(row.backend, &row.held[i]);
    tally_add(row.tally);
}

START_TEST(urgent_requests_go_first)
{
    need(_i);
    int fd = open_file(O_RDWR);
    ck_assert_int_eq(ftruncate(fd, BLOCK), 0);
    char *block = new_block(BLOCK);
    struct swap_backend_config config = {fd, BLOCK, 1, 1, NULL, 0};
    ck_assert_int_eq(open_backend(_i, &config, &row.backend), 0);
    row.tally = tally_new();
    int total = 0;
    for (int write = 0; write < 2; write++) {
        struct swap_request requests[6], first = {.write = write, .buf = block, .bytes = BLOCK, .done = first_done};
        for (int i = 0; i < 6; i++)
            requests[i] =
                (struct swap_request){.write = write, .urgent = i >= 3, .buf = block, .bytes = BLOCK, .done = row_done};
        row.held = requests;
        row.n_ended = 0;
        row.backend->ops->submit(row.backend, &first);
        tally_wait(row.tally, total += 7);
        static const int expected[] = {3, 4, 5, 0, 1, 2};
        for (int i = 0; i < 6; i++)
            ck_assert_ptr_eq(row.ended[i], &requests[expected[i]]);
    }
    row.backend->ops->close(row.backend);
    tally_free(row.tally);
    free(block);
    close(fd);
}
END_TEST

struct chain {
    struct swap_request request;
    struct swap_backend *backend;
    int left;
};

static void chain_done(struct swap_request *request)
{
    struct chain *chain = (struct chain *)request;
    if (--chain->left > 0) {
        request->write = chain->left % 2 == 0;
        chain->backend->ops->submit(chain->backend, request);
    }
}

START_TEST(close_waits_for_what_is_in_flight)
{
    need(_i);
    enum { N = 20 };
    int fd = open_file(O_RDWR);
    char *block = new_block((size_t)N * 4096);
    int fds = count_fds(), threads = count_threads();
    struct swap_backend_config config = {fd, BLOCK, 4, 4, NULL, 0};
    for (int round = 0; round < scaled(20); round++) {
        struct swap_backend *backend;
        ck_assert_int_eq(open_backend(_i, &config, &backend), 0);
        struct chain chains[N];
        for (int i = 0; i < N; i++) {
            chains[i] = (struct chain){{.write = i % 2,
                                        .urgent = i % 3 == 0,
                                        .buf = block + (size_t)i * 4096,
                                        .bytes = 4096,
                                        .done = chain_done},
                                       backend,
                                       i + 1};
            backend->ops->submit(backend, &chains[i].request);
        }
        backend->ops->close(backend);
        for (int i = 0; i < N; i++)
            ck_assert_int_eq(chains[i].left, 0);
        expect_nothing_left(fds, threads);
    }
    free(block);
    close(fd);
}
END_TEST

START_TEST(bad_depths_are_refused)
{
    static const uint32_t bad[] = {0, SWAP_DEPTH_LIMIT + 1, UINT32_MAX};
    int fds = count_fds(), threads = count_threads();
    struct swap_backend *backend = NULL;
    for (int i = 0; i < 3; i++) {
        struct swap_backend_config config = {0, BLOCK, bad[i], 1, NULL, 0};
        int result = open_backend(_i, &config, &backend);
        ck_assert(result == -EINVAL || (_i == 1 && result == -ENOSYS));
        config = (struct swap_backend_config){0, BLOCK, 1, bad[i], NULL, 0};
        result = open_backend(_i, &config, &backend);
        ck_assert(result == -EINVAL || (_i == 1 && result == -ENOSYS));
    }
    ck_assert_ptr_null(backend);
    expect_nothing_left(fds, threads);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("backend");
    tcase_add_loop_test(tests, bytes_out_are_bytes_in, 0, N_BACKENDS);
    tcase_add_loop_test(tests, results_are_true, 0, N_BACKENDS);
    tcase_add_loop_test(tests, urgent_requests_go_first, 0, N_BACKENDS);
    tcase_add_loop_test(tests, close_waits_for_what_is_in_flight, 0, N_BACKENDS);
    tcase_add_loop_test(tests, bad_depths_are_refused, 0, N_BACKENDS);
    return run_suite("swap back ends", tests);
}
