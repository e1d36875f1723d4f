/* SPDX-License-Identifier: Apache-2.0
 *
 * Sizes are read as they are meant, or not at all. */
#include "size_text.h"

#include "engine_support.h"

START_TEST(sizes_are_read)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } right[] = {{"0", 0},
                 {"17", 17},
                 {"17B", 17},
                 {"512KiB", 512 << 10},
                 {"64MiB", 64 << 20},
                 {"64 MiB", 64 << 20},
                 {"2GiB", UINT64_C(2) << 30},
                 {"2g", UINT64_C(2) << 30},
                 {"3T", UINT64_C(3) << 40},
                 {"9223372036854775808", UINT64_C(1) << 63}};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        uint64_t bytes;
        ck_assert_msg(size_parse(right[i].text, &bytes) && bytes == right[i].bytes, "%s", right[i].text);
    }
}
END_TEST

START_TEST(anything_else_is_refused)
{
    static const char *const wrong[] = {"",
                                        " ",
                                        "x",
                                        "12x",
                                        "-1",
                                        "1.5GiB",
                                        "GiB",
                                        "12 ",
                                        "12MB",
                                        "12MiBs",
                                        "12 x",
                                        "0x10",
                                        "1e3",
                                        "+5",
                                        "12  MiB",
                                        "12\n",
                                        "16E",
                                        "9223372036854775809",
                                        "99999999999999999999",
                                        "8388609T",
                                        "12 K iB"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        uint64_t bytes = 77;
        ck_assert_msg(!size_parse(wrong[i], &bytes), "\"%s\" was read as %llu", wrong[i], (unsigned long long)bytes);
        ck_assert_uint_eq(bytes, 77);
    }
}
END_TEST

START_TEST(sizes_are_written)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } sizes[] = {{0, "0 bytes"},
                 {1023, "1023 bytes"},
                 {1024, "1 KiB"},
                 {640 << 10, "640 KiB"},
                 {1536 << 20, "1.5 GiB"},
                 {UINT64_C(1) << 63, "8388608 TiB"},
                 {(64 << 20) + 1, "64.0 MiB"}};
    char text[SIZE_TEXT_MAX];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        ck_assert_str_eq(size_format(sizes[i].bytes, text), sizes[i].text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("size text");
    TCase *cases = tcase_create("all");
    tcase_add_test(cases, sizes_are_read);
    tcase_add_test(cases, anything_else_is_refused);
    tcase_add_test(cases, sizes_are_written);
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
