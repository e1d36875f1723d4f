/* SPDX-License-Identifier: Apache-2.0
 *
 * The io_uring back end where the kernel doesn't play along: no ring, nothing registered, a ring that breaks. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "support.h"

enum { BLOCK = 1 << 20 };

static int fd = -1;
static struct swap_backend *backend;
static struct swap_backend_info info;

static int open_ring(const struct iovec *buffers, uint32_t n_buffers)
{
    fd = open(test_dir(), O_TMPFILE | O_CLOEXEC | O_RDWR | O_DIRECT, 0600);
    ck_assert_int_ge(fd, 0);
    struct swap_backend_config config = {fd, BLOCK, 4, 4, buffers, n_buffers};
    return swap_uring_open(&config, &backend, &info);
}

/* Whether this machine has io_uring at all. */
static bool has_uring(void)
{
    if (open_ring(NULL, 0) < 0)
        return false;
    backend->ops->close(backend);
    close(fd);
    fd = -1;
    return true;
}

struct waited_request {
    struct swap_request request;
    struct tally *tally;
    int n_done;
};

static void request_done(struct swap_request *request)
{
    ((struct waited_request *)request)->n_done++;
    tally_add(((struct waited_request *)request)->tally);
}

static int64_t transfer(bool write, void *buf, uint64_t offset)
{
    struct waited_request waited = {
        .request = {.write = write, .buf = buf, .bytes = BLOCK, .offset = offset, .done = request_done}};
    waited.tally = tally_new();
    backend->ops->submit(backend, &waited.request);
    tally_wait(waited.tally, 1);
    tally_free(waited.tally);
    return waited.request.result;
}

static void write_and_read(char *memory)
{
    fill_block(memory, BLOCK, 11, 1);
    ck_assert_int_eq(transfer(true, memory, 0), BLOCK);
    memset(memory, 0, BLOCK);
    ck_assert_int_eq(transfer(false, memory, 0), BLOCK);
    ck_assert(is_block(memory, BLOCK, 11, 1));
}

START_TEST(everything_is_registered)
{
    if (!has_uring())
        skip("no io_uring here");
    /* More than 1 GiB, so that it must be registered in pieces; one small file stands behind all of it. */
    const size_t part = (size_t)16 << 20, bytes = ((size_t)1 << 30) + part;
    int memory_fd = memfd_create("parts", MFD_CLOEXEC);
    ck_assert_int_ge(memory_fd, 0);
    ck_assert_int_eq(ftruncate(memory_fd, (off_t)part), 0);
    char *memory = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    for (size_t at = 0; at < bytes; at += part)
        ck_assert_ptr_eq(mmap(memory + at, part, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory_fd, 0),
                         memory + at);
    struct iovec buffer = {memory, bytes};
    bool may_lock = mlock(memory, bytes) == 0;
    munlock(memory, bytes);
    ck_assert_int_eq(open_ring(&buffer, 1), 0);
    if (may_lock) {
        ck_assert(info.fixed_buffers);
        ck_assert(info.fixed_file);
        write_and_read(memory);
        write_and_read(memory + bytes - BLOCK);
    }
    backend->ops->close(backend);
    munmap(memory, bytes);
    close(memory_fd);
    close(fd);
    if (!may_lock)
        skip("the limit of locked memory is too low");
}
END_TEST

static int open_with_low_limit(const struct iovec *buffer)
{
    int result = -ENOMEM;
    for (size_t bytes = 64 << 10; bytes < buffer->iov_len && result == -ENOMEM; bytes *= 2) {
        if (fd >= 0)
            close(fd);
        if (set_locked_limit(bytes))
            result = open_ring(buffer, 1);
    }
    return result;
}

START_TEST(locked_memory_limit_means_plain_buffers)
{
    if (!has_uring())
        skip("no io_uring here");
    drop_privileges();
    const size_t bytes = (size_t)64 * BLOCK;
    char *memory = new_block(bytes);
    struct iovec buffer = {memory, bytes};
    ck_assert_int_eq(open_with_low_limit(&buffer), 0);
    ck_assert(!info.fixed_buffers);
    ck_assert(info.fixed_file);
    write_and_read(memory);
    backend->ops->close(backend);
    close(fd);
    free(memory);
}
END_TEST

START_TEST(nothing_registered_still_works)
{
    if (!has_uring())
        skip("no io_uring here");
    if (!deny_call(SYS_io_uring_register, -1, 0, ENOMEM))
        skip("no seccomp here");
    char *memory = new_block(BLOCK);
    struct iovec buffer = {memory, BLOCK};
    ck_assert_int_eq(open_ring(&buffer, 1), 0);
    ck_assert(!info.fixed_buffers);
    ck_assert(!info.fixed_file);
    write_and_read(memory);
    backend->ops->close(backend);
    close(fd);
    free(memory);
}
END_TEST

START_TEST(a_forbidden_ring_is_an_answer)
{
    static const int errors[] = {EPERM, ENOSYS, EACCES};
    int error = errors[_i];
    if (!deny_call(SYS_io_uring_setup, -1, 0, error))
        skip("no seccomp here");
    int fds = count_fds(), threads = count_threads();
    backend = NULL;
    int result = open_ring(NULL, 0);
    close(fd);
    ck_assert(result == -error || result == -ENOSYS); /* the latter: built without */
    ck_assert_ptr_null(backend);
    expect_nothing_left(fds, threads);
}
END_TEST

/* Requests are under way when io_uring_enter begins to fail, so that their completions can't even be asked for. */
START_TEST(a_broken_ring_ends_every_request)
{
    enum { N = 32 };
    if (!has_uring())
        skip("no io_uring here");
    int fds = count_fds(), threads = count_threads();
    char *memory = new_block((size_t)N * BLOCK);
    struct tally *tally = tally_new();
    struct waited_request requests[N];
    ck_assert_int_eq(open_ring(NULL, 0), 0);
    for (int i = 0; i < N; i++) {
        fill_block(memory + (size_t)i * BLOCK, BLOCK, (uint64_t)i, 0);
        requests[i] = (struct waited_request){.request = {.write = true,
                                                          .buf = memory + (size_t)i * BLOCK,
                                                          .bytes = BLOCK,
                                                          .offset = (uint64_t)i * BLOCK,
                                                          .done = request_done},
                                              .tally = tally};
        backend->ops->submit(backend, &requests[i].request);
    }
    if (!deny_call(SYS_io_uring_enter, -1, 0, EIO))
        skip("no seccomp here");
    tally_wait(tally, N);
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(requests[i].n_done, 1);
        ck_assert(requests[i].request.result == BLOCK || requests[i].request.result == -ENODEV);
    }
    /* Later ones are refused, also when they come from other threads. */
    ck_assert_int_eq(transfer(false, memory, 0), -ENODEV);
    ck_assert_int_eq(transfer(true, memory, 0), -ENODEV);
    backend->ops->close(backend);
    close(fd);
    expect_nothing_left(fds, threads);
    free(memory);
    tally_free(tally);
}
END_TEST

/* The same with a ring that sleeps when it breaks. */
START_TEST(an_idle_ring_breaks)
{
    if (!has_uring())
        skip("no io_uring here");
    char *memory = new_block(BLOCK);
    ck_assert_int_eq(open_ring(NULL, 0), 0);
    write_and_read(memory);
    usleep(20000);
    if (!deny_call(SYS_io_uring_enter, -1, 0, EIO))
        skip("no seccomp here");
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(transfer(i % 2, memory, 0), -ENODEV);
    backend->ops->close(backend);
    close(fd);
    free(memory);
}
END_TEST

/* Trouble that passes (-EAGAIN) is borne; trouble that stays ends the ring, not the process. */
START_TEST(a_ring_that_always_says_later)
{
    if (!has_uring())
        skip("no io_uring here");
    char *memory = new_block(BLOCK);
    ck_assert_int_eq(open_ring(NULL, 0), 0);
    if (!deny_call(SYS_io_uring_enter, -1, 0, EAGAIN))
        skip("no seccomp here");
    ck_assert_int_eq(transfer(false, memory, 0), -ENODEV);
    backend->ops->close(backend);
    close(fd);
    free(memory);
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("ring");
    tcase_add_test(tests, everything_is_registered);
    tcase_add_test(tests, locked_memory_limit_means_plain_buffers);
    tcase_add_test(tests, nothing_registered_still_works);
    tcase_add_loop_test(tests, a_forbidden_ring_is_an_answer, 0, 3);
    tcase_add_test(tests, a_broken_ring_ends_every_request);
    tcase_add_test(tests, an_idle_ring_breaks);
    tcase_add_test(tests, a_ring_that_always_says_later);
    return run_suite("swap ring", tests);
}
