/* SPDX-License-Identifier: Apache-2.0
 *
 * The control socket's requests: what reaches the operations, and how each that doesn't is answered. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <check.h>

#include "shim/include/kvmm/shim.h"
#include "tests/shim/control_support.h"

START_TEST(requests_reach_their_operations)
{
    int fd = control_client();
    ck_assert_str_eq(control_ask(fd, "suspend"), "ok");
    ck_assert_uint_eq(control_calls.wait_ms, 60000);
    ck_assert_str_eq(control_ask(fd, "suspend 0"), "ok");
    ck_assert_uint_eq(control_calls.wait_ms, 0);
    ck_assert_str_eq(control_ask(fd, "suspend 4294967295"), "ok");
    ck_assert_uint_eq(control_calls.wait_ms, UINT32_MAX);
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    ck_assert_int_eq(control_calls.n_suspend, 3);
    ck_assert_int_eq(control_calls.n_resume, 1);
    ck_assert_str_eq(control_ask(fd, "advise 0x7fA0 4096 willneed"), "ok");
    ck_assert(control_calls.address == 0x7fa0 && control_calls.bytes == 4096 && control_calls.advice == KVMM_WILLNEED);
    ck_assert_str_eq(control_ask(fd, "advise 0xffffffffffffffff 1 cold"), "ok");
    ck_assert(control_calls.address == UINTPTR_MAX && control_calls.bytes == 1 && control_calls.advice == KVMM_COLD);
    ck_assert_str_eq(control_ask(fd, "advise 0x1 18446744073709551615 free"), "ok");
    ck_assert(control_calls.address == 1 && control_calls.bytes == SIZE_MAX && control_calls.advice == KVMM_FREE);
    ck_assert_int_eq(control_calls.n_advise, 3);
    ck_assert_str_eq(control_ask(fd, "info"), "ok state=running");
    control_calls.info = "";
    ck_assert_str_eq(control_ask(fd, "info"), "ok");
    ck_assert_int_eq(control_calls.n_info, 2);
    close(fd);
}
END_TEST

START_TEST(errors_of_operations_are_told_in_one_line)
{
    int fd = control_client();
    control_calls.result = -EBUSY;
    ck_assert_str_eq(control_ask(fd, "suspend"), "error Device or resource busy");
    ck_assert_str_eq(control_ask(fd, "resume"), "error Device or resource busy");
    ck_assert_str_eq(control_ask(fd, "advise 0x1000 1 cold"), "error Device or resource busy");
    control_calls.reason = "2 streams\nwere busy";
    ck_assert_str_eq(control_ask(fd, "suspend"), "error 2 streams?were busy");
    control_calls.reason = NULL;
    control_calls.result = -100000;
    ck_assert_str_eq(control_ask(fd, "resume"), "error number 100000");
    control_calls.info = NULL;
    ck_assert_str_eq(control_ask(fd, "info"), "error Input/output error");
    close(fd);
}
END_TEST

static const struct bad {
    const char *request;
    size_t bytes; /* 0: up to the NUL */
    const char *answer;
} bad_requests[] = {
    {"", 0, "error the request is empty"},
    {"dance", 0, "error there is no command 'dance': suspend, resume, advise, info"},
    {"suspend\0", 8, "error byte 7 of the request is 0x00, not printable ASCII"},
    {"resume\n", 0, "error byte 6 of the request is 0x0a, not printable ASCII"},
    {"sus\xc3\xa9", 0, "error byte 3 of the request is 0xc3, not printable ASCII"},
    {" resume", 0, "error byte 0 of the request is a space too many"},
    {"resume ", 0, "error byte 6 of the request is a space too many"},
    {"suspend  5", 0, "error byte 7 of the request is a space too many"},
    {" ", 0, "error byte 0 of the request is a space too many"},
    {"Suspend", 0, "error there is no command 'Suspend': suspend, resume, advise, info"},
    {"suspen", 0, "error there is no command 'suspen': suspend, resume, advise, info"},
    {"suspends", 0, "error there is no command 'suspends': suspend, resume, advise, info"},
    {"suspend5", 0, "error there is no command 'suspend5': suspend, resume, advise, info"},
    {"a-command-of-more-than-thirty-two-bytes", 0,
     "error there is no command 'a-command-of-more-than-thirty-tw...': suspend, resume, advise, info"},
    {"suspend 1 2", 0, "error suspend takes at most 1 argument, milliseconds, not 2"},
    {"suspend -1", 0, "error suspend: '-1' is not a number of milliseconds up to 4294967295"},
    {"suspend +1", 0, "error suspend: '+1' is not a number of milliseconds up to 4294967295"},
    {"suspend 1s", 0, "error suspend: '1s' is not a number of milliseconds up to 4294967295"},
    {"suspend 0x10", 0, "error suspend: '0x10' is not a number of milliseconds up to 4294967295"},
    {"suspend 4294967296", 0, "error suspend: '4294967296' is not a number of milliseconds up to 4294967295"},
    {"suspend 99999999999999999999999999999999999", 0,
     "error suspend: '99999999999999999999999999999999...' is not a number of milliseconds up to 4294967295"},
    {"resume now", 0, "error resume takes no arguments, not 1"},
    {"info 1 2 3 4 5", 0, "error info takes no arguments, not 5"},
    {"advise", 0, "error advise takes 3 arguments, an address, a length and an advice, not 0"},
    {"advise 0x1000 4096", 0, "error advise takes 3 arguments, an address, a length and an advice, not 2"},
    {"advise 0x1000 4096 cold x", 0, "error advise takes 3 arguments, an address, a length and an advice, not 4"},
    {"advise 1000 4096 cold", 0, "error advise: '1000' is not an address in hexadecimal with 0x before it"},
    {"advise 0 4096 cold", 0, "error advise: '0' is not an address in hexadecimal with 0x before it"},
    {"advise 0x 4096 cold", 0, "error advise: '0x' is not an address in hexadecimal with 0x before it"},
    {"advise 0X10 4096 cold", 0, "error advise: '0X10' is not an address in hexadecimal with 0x before it"},
    {"advise 0x1g 4096 cold", 0, "error advise: '0x1g' is not an address in hexadecimal with 0x before it"},
    {"advise 0x10000000000000000 1 cold", 0,
     "error advise: '0x10000000000000000' is not an address in hexadecimal with 0x before it"},
    {"advise 0x1000 0 cold", 0, "error advise: '0' is not a number of bytes from 1 to 18446744073709551615"},
    {"advise 0x1000 4k cold", 0, "error advise: '4k' is not a number of bytes from 1 to 18446744073709551615"},
    {"advise 0x1000 18446744073709551616 cold", 0,
     "error advise: '18446744073709551616' is not a number of bytes from 1 to 18446744073709551615"},
    {"advise 0x2 18446744073709551615 cold", 0,
     "error advise: 0x2 and 18446744073709551615 bytes is past the end of all memory"},
    {"advise 0x1000 1 warm", 0, "error advise: 'warm' is not willneed, cold or free"},
    {"advise 0x1000 1 colder", 0, "error advise: 'colder' is not willneed, cold or free"},
};

START_TEST(bad_requests_are_named_and_do_nothing)
{
    const struct bad *bad = &bad_requests[_i];
    int fd = control_client();
    ck_assert_str_eq(control_ask_bytes(fd, bad->request, bad->bytes ? bad->bytes : strlen(bad->request)), bad->answer);
    ck_assert_int_eq(control_calls.n_suspend + control_calls.n_resume + control_calls.n_advise + control_calls.n_info,
                     0);
    ck_assert_str_eq(control_ask(fd, "resume"), "ok"); /* the connection goes on */
    close(fd);
}
END_TEST

START_TEST(requests_that_are_too_large_are_refused)
{
    static char large[100000];
    memset(large, 'x', sizeof large);
    int fd = control_client();
    ck_assert_str_eq(control_ask_bytes(fd, large, SHIM_CONTROL_MAX),
                     "error there is no command 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...': suspend, resume, advise, info");
    ck_assert_str_eq(control_ask_bytes(fd, large, SHIM_CONTROL_MAX + 1),
                     "error the request has 4097 bytes, more than 4096");
    ck_assert_str_eq(control_ask_bytes(fd, large, sizeof large), "error the request has 100000 bytes, more than 4096");
    ck_assert_str_eq(control_ask(fd, "resume"), "ok");
    close(fd);
}
END_TEST

START_TEST(answers_are_cut_to_their_room)
{
    char answer[8];
    memset(answer, 'z', sizeof answer);
    ck_assert_uint_eq(shim_control_answer(&control_fake_ops, &control_calls, "dance", 5, answer, 0), 0);
    ck_assert_int_eq(answer[0], 'z');
    ck_assert_uint_eq(shim_control_answer(&control_fake_ops, &control_calls, "dance", 5, answer, sizeof answer), 7);
    ck_assert_str_eq(answer, "error t");
    ck_assert_uint_eq(shim_control_answer(&control_fake_ops, &control_calls, "resume", 6, answer, 2), 1);
    ck_assert_str_eq(answer, "o");
    ck_assert_uint_eq(shim_control_answer(&control_fake_ops, &control_calls, "info", 4, answer, sizeof answer), 7);
    ck_assert_str_eq(answer, "error N"); /* no room for the pairs: No space left on device */
    ck_assert_uint_eq(shim_control_answer(&control_fake_ops, &control_calls, "", 0, answer, 1), 0);
    ck_assert_str_eq(answer, "");
}
END_TEST

START_TEST(pairs_hold_any_value)
{
    char text[64] = "";
    ck_assert_int_eq(shim_control_pair(text, sizeof text, "rule", "stack:a b%\n\xff=z"), 0);
    ck_assert_int_eq(shim_control_pair_number(text, sizeof text, "n", UINT64_MAX), 0);
    ck_assert_int_eq(shim_control_pair(text, sizeof text, "e", ""), 0);
    ck_assert_str_eq(text, "rule=stack:a%20b%25%0A%FF=z n=18446744073709551615 e=");
    for (size_t size = 0; size <= 10; size++) { /* "a=1 b=%20x" takes 11 */
        char small[12] = "";
        memcpy(small, "a=1", size >= 4 ? 4 : 0);
        char before[12];
        memcpy(before, small, sizeof before);
        ck_assert_int_eq(shim_control_pair(small, size, size >= 4 ? "b" : "abcd", " x"), -ENOSPC);
        ck_assert_str_eq(small, before);
    }
    char fits[11] = "a=1";
    ck_assert_int_eq(shim_control_pair(fits, sizeof fits, "b", " x"), 0);
    ck_assert_str_eq(fits, "a=1 b=%20x");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("the control socket's requests");
    TCase *tests = tcase_create("all");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, control_start, control_stop);
    tcase_add_test(tests, requests_reach_their_operations);
    tcase_add_test(tests, errors_of_operations_are_told_in_one_line);
    tcase_add_loop_test(tests, bad_requests_are_named_and_do_nothing, 0,
                        (int)(sizeof bad_requests / sizeof bad_requests[0]));
    tcase_add_test(tests, requests_that_are_too_large_are_refused);
    tcase_add_test(tests, answers_are_cut_to_their_room);
    tcase_add_test(tests, pairs_hold_any_value);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
