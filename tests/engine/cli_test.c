/* SPDX-License-Identifier: Apache-2.0
 *
 * The command as its users meet it: what it prints, its exit status, one line for each mistake. The path of kvmm-engine
 * is the first argument. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_support.h"
#include "program.h"

static const char *program;
static char small_path[256], long_path[256], prompt_path[256];

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "we");
    ck_assert(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
}

static void run_to(struct result *r, const char *const *args, const char *stdout_path)
{
    program_run(r, program, args, stdout_path);
}

static void run(struct result *r, const char *const *args)
{
    run_to(r, args, NULL);
}

/* ---- mistakes ------------------------------------------------------------------------------------------------ */

/* "MODEL" and "LONG" stand for the small model's path and that of a text longer than its context. */
static const struct mistake {
    const char *args[12];
    const char *reason;
} MISTAKES[] = {
    {{NULL}, "no command"},
    {{"bake"}, "\"bake\" is not a command"},
    {{"generate"}, "-m"},
    {{"generate", "-m", "MODEL"}, "-p or -f"},
    {{"generate", "-m", "MODEL", "-p", "x", "more"}, "\"more\""},
    {{"generate", "-m", "MODEL", "-p", "x", "--no-such-option"}, "--no-such-option"},
    {{"generate", "-m", "MODEL", "-p"}, "argument"},
    {{"generate", "-m", "/nonexistent/model.gguf", "-p", "x"}, "/nonexistent/model.gguf"},
    {{"generate", "-m", "/", "-p", "x"}, "/: "},
    {{"generate", "-m", "LONG", "-p", "x"}, "long.txt: "},
    {{"generate", "-m", "MODEL", "-f", "/nonexistent/prompt"}, "/nonexistent/prompt: No such file"},
    {{"generate", "-m", "MODEL", "-f", "/"}, "/: Is a directory"},
    {{"generate", "-m", "MODEL", "-f", "LONG"}, "5001 tokens long, the context holds 4096"},
    {{"generate", "-m", "MODEL", "-p", "four", "--ctx", "4"}, "5 tokens long, the context holds 4"},
    {{"generate", "-m", "MODEL", "-p", "x", "--ctx", "5000"}, "--ctx 5000 is more than the model's context of 4096"},
    {{"generate", "-m", "MODEL", "-p", "x", "--ctx", "0"}, "--ctx 0"},
    {{"generate", "-m", "MODEL", "-p", "x", "--device-memory", "12x"}, "--device-memory \"12x\" is not a size"},
    {{"generate", "-m", "MODEL", "-p", "x", "--device-memory", "0"}, "--device-memory 0"},
    {{"generate", "-m", "MODEL", "-p", "x", "--device-memory", "1"}, "the budget is 0 bytes"},
    {{"generate", "-m", "MODEL", "-p", "x", "-n", "2000", "--device-memory", "128K"}, "needs 1.5 MiB"},
    {{"generate", "-m", "MODEL", "-p", "x", "-p", "y", "-n", "2000", "--device-memory", "2M"}, "need 3 MiB in all"},
    {{"generate", "-m", "MODEL", "-p", "x", "--host-memory", "-1"}, "--host-memory \"-1\""},
    {{"generate", "-m", "MODEL", "-p", "x", "--frame", "96KiB"}, "--frame 96KiB"},
    {{"generate", "-m", "MODEL", "-p", "x", "--frame", "4KiB"}, "--frame 4KiB"},
    {{"generate", "-m", "MODEL", "-p", "x", "--swap-dir", "/nonexistent/dir"}, "/nonexistent/dir"},
    {{"generate", "-m", "MODEL", "-p", "x", "--swap-dir", "/dev/null"}, "/dev/null"},
    {{"generate", "-m", "MODEL", "-p", "x", "--swap-dir", "/proc"}, "/proc"},
    {{"generate", "-m", "MODEL", "-p", "x", "--swap-size", "1GiB"}, "--swap-dir"},
    {{"generate", "-m", "MODEL", "-p", "x", "--layout", "diagonal"}, "\"diagonal\" is not one of page-major"},
    {{"generate", "-m", "MODEL", "-p", "x", "--kv-type", "q4"}, "\"q4\" is not one of f16"},
    {{"generate", "-m", "MODEL", "-p", "x", "--policy", "fifo"}, "\"fifo\" is not one of lru"},
    {{"generate", "-m", "MODEL", "-p", "x", "--chunk", "0"}, "--chunk 0"},
    {{"generate", "-m", "MODEL", "-p", "x", "--chunk", "many"}, "--chunk \"many\""},
    {{"generate", "-m", "MODEL", "-p", "x", "--threads", "0"}, "--threads 0"},
    {{"generate", "-m", "MODEL", "-p", "x", "--turn", "0"}, "--turn 0"},
    {{"generate", "-m", "MODEL", "-p", "x", "-n", "-3"}, "-n \"-3\""},
    {{"generate", "-m", "MODEL", "-p", "x", "-n", "99999999999"}, "-n 99999999999"},
    {{"generate", "-m", "MODEL", "-p", "x", "--temp", "hot"}, "--temp \"hot\""},
    {{"generate", "-m", "MODEL", "-p", "x", "--temp", "-1"}, "temperature -1"},
    {{"generate", "-m", "MODEL", "-p", "x", "--top-p", "0"}, "top-p 0"},
    {{"generate", "-m", "MODEL", "-p", "x", "--seed", "0x12"}, "--seed \"0x12\""},
    {{"generate", "-m", "MODEL", "-p", "x", "--device", "gpu"}, "\"gpu\" is not auto, host, cuda or cuda:N"},
    {{"generate", "-m", "MODEL", "-p", "x", "--device", "cuda:-1"}, "\"cuda:-1\" is not"},
    {{"generate", "-m", "MODEL", "-p", "x", "--device", "cuda:999"}, "cuda:999: "},
    {{"make-recall-model"}, "name the file"},
    {{"make-recall-model", "/nonexistent/dir/model.gguf"}, "/nonexistent/dir/model.gguf"},
    {{"make-recall-model", "a", "b"}, "\"b\""},
    {{"make-recall-model", "a", "--head-dim", "96"}, "--head-dim 96"},
    {{"make-recall-model", "a", "--kv-heads", "3"}, "--kv-heads 3"},
    {{"make-recall-model", "a", "--context", "0"}, "--context 0"},
};

START_TEST(a_mistake_is_one_line_and_status_2)
{
    const struct mistake *m = &MISTAKES[_i];
    const char *args[13] = {NULL};
    char line[1024] = "";
    for (int i = 0; m->args[i]; i++) {
        args[i] = m->args[i];
        if (strcmp(m->args[i], "MODEL") == 0)
            args[i] = small_path;
        if (strcmp(m->args[i], "LONG") == 0)
            args[i] = long_path;
        (void)snprintf(line + strlen(line), sizeof line - strlen(line), " %s", m->args[i]);
    }
    static struct result r;
    run(&r, args);
    ck_assert_msg(r.status == 2, "%s: status %d, \"%s\"", line, r.status, r.err);
    ck_assert_msg(one_line(r.err), "%s: not one line: \"%s\"", line, r.err);
    ck_assert_msg(strncmp(r.err, "kvmm-engine", 11) == 0, "%s: \"%s\"", line, r.err);
    ck_assert_msg(strstr(r.err, m->reason) != NULL, "%s: \"%s\" does not say \"%s\"", line, r.err, m->reason);
    ck_assert_str_eq(r.out, "");
}
END_TEST

START_TEST(a_full_disk_under_stdout_is_noticed)
{
    static struct result r;
    const char *const args[] = {"generate", "-m", small_path, "-p", "x", "-n", "4", "--print-ids", NULL};
    run_to(&r, args, "/dev/full");
    ck_assert_int_eq(r.status, 1);
    ck_assert_msg(one_line(r.err) && strstr(r.err, "standard output"), "%s", r.err);
}
END_TEST

/* ---- spoilt models ------------------------------------------------------------------------------------------- */

/* Whatever the file, the program ends by itself: with an answer or with one line. */
static void run_spoilt(const void *image, size_t size, const char *what, uint64_t at)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s", test_path("spoilt.gguf"));
    write_file(path, image, size);
    static struct result r;
    const char *const args[] = {"generate", "-m", path, "-p", "x", "-n", "2", "--print-ids", "--threads", "1", NULL};
    run(&r, args);
    bool fine = r.status == 0 && r.err[0] == '\0';
    bool refused = (r.status == 1 || r.status == 2) && one_line(r.err) && strstr(r.err, path);
    ck_assert_msg(fine || refused, "%s at %llu: status %d, \"%s\"", what, (unsigned long long)at, r.status, r.err);
}

static uint8_t *load_small(size_t *size)
{
    FILE *f = fopen(small_path, "re");
    ck_assert(f && fseek(f, 0, SEEK_END) == 0);
    *size = (size_t)ftell(f);
    rewind(f);
    uint8_t *image = malloc(*size);
    ck_assert(image && fread(image, 1, *size, f) == *size);
    (void)fclose(f);
    return image;
}

START_TEST(truncated_models_are_refused)
{
    size_t size;
    uint8_t *image = load_small(&size);
    uint64_t state = 3;
    for (uint32_t i = 0; i < (uint32_t)scaled(40); i++) {
        size_t cut = (size_t)(test_random(&state) % (i % 2 ? size : 20000));
        run_spoilt(image, cut, "cut", cut);
    }
    free(image);
}
END_TEST

START_TEST(flipped_bits_do_no_harm)
{
    size_t size;
    uint8_t *image = load_small(&size);
    uint64_t state = 4;
    for (uint32_t i = 0; i < (uint32_t)scaled(120); i++) {
        size_t at = (size_t)(test_random(&state) % 20000); /* metadata and the tensor table */
        uint8_t bit = (uint8_t)(1u << test_random(&state) % 8);
        image[at] ^= bit;
        run_spoilt(image, size, "flip", at);
        image[at] ^= bit;
    }
    free(image);
}
END_TEST

/* ---- answers ------------------------------------------------------------------------------------------------- */

START_TEST(help_is_help)
{
    static struct result r;
    static const char *const commands[][3] = {{"--help"}, {"generate", "--help"}, {"make-recall-model", "--help"}};
    for (int i = 0; i < 3; i++) {
        const char *const args[] = {commands[i][0], commands[i][1], NULL};
        run(&r, args);
        ck_assert_int_eq(r.status, 0);
        ck_assert_str_eq(r.err, "");
        ck_assert_msg(strncmp(r.out, "Usage: kvmm-engine", 18) == 0, "%s", r.out);
    }
    ck_assert_ptr_nonnull(strstr(r.out, "OUT.gguf"));
}
END_TEST

START_TEST(paged_and_in_turns_prints_the_same)
{
    static struct result all, paged, batch;
    const char *const room_for_all[] = {"generate", "-m",          small_path,     "-p",        "",
                                        "-p",       "second",      "-f",           prompt_path, "-n",
                                        "200",      "--print-ids", "--ignore-eos", NULL};
    const char *const quarter[] = {"generate",
                                   "-m",
                                   small_path,
                                   "-p",
                                   "",
                                   "-p",
                                   "second",
                                   "-f",
                                   prompt_path,
                                   "-n",
                                   "200",
                                   "--print-ids",
                                   "--ignore-eos",
                                   "--device-memory",
                                   "192KiB",
                                   "--host-memory",
                                   "128KiB",
                                   "--swap-dir",
                                   test_dir(),
                                   "--stats",
                                   "--turn",
                                   "3",
                                   "--chunk",
                                   "7",
                                   NULL};
    const char *const batched[] = {"generate",     "-m",      small_path,  "-p", "",    "-p",
                                   "second",       "-f",      prompt_path, "-n", "200", "--print-ids",
                                   "--ignore-eos", "--batch", "--threads", "3",  NULL};
    run(&all, room_for_all);
    ck_assert_msg(all.status == 0, "%s", all.err);
    ck_assert_str_eq(all.err, "");
    int lines = 0, spaces = 0;
    for (const char *p = all.out; *p; p++) {
        lines += *p == '\n';
        spaces += *p == ' ';
        ck_assert_msg(strchr("0123456789 \n", *p) != NULL, "%s", all.out);
    }
    ck_assert_int_eq(lines, 3);
    ck_assert_int_eq(spaces, 3 * 199);

    run(&paged, quarter);
    ck_assert_msg(paged.status == 0, "%s", paged.err);
    ck_assert_str_eq(paged.out, all.out);
    ck_assert_msg(strstr(paged.err, "tokens/s") && strstr(paged.err, "read back"), "%s", paged.err);
    run(&batch, batched);
    ck_assert_str_eq(batch.out, all.out);
}
END_TEST

START_TEST(a_full_context_ends_the_answer)
{
    static struct result r;
    const char *const args[] = {"generate", "-m",    small_path, "-p",           "x",           "-n",
                                "100",      "--ctx", "20",       "--ignore-eos", "--print-ids", NULL};
    run(&r, args);
    ck_assert_int_eq(r.status, 0);
    ck_assert_msg(one_line(r.err) && strstr(r.err, "context of 20 tokens is full after 18 of 100"), "%s", r.err);
    int spaces = 0;
    for (const char *p = r.out; *p; p++)
        spaces += *p == ' ';
    ck_assert_int_eq(spaces, 17);
}
END_TEST

START_TEST(a_seed_is_an_answer)
{
    static struct result first, second, other;
    const char *args[] = {"generate", "-m",      small_path, "-p",          "x",      "-n", "30", "--temp",
                          "1.2",      "--top-p", "0.9",      "--print-ids", "--seed", "7",  NULL};
    run(&first, args);
    run(&second, args);
    args[13] = "8";
    run(&other, args);
    ck_assert_msg(first.status == 0, "%s", first.err);
    ck_assert_str_eq(first.out, second.out);
    ck_assert_str_ne(first.out, other.out);
}
END_TEST

START_TEST(stories_oracle)
{
    static struct result r;
    const char *const ids[] = {"generate", "-m",          stories_path(),   "-p", "",          "-n",  "16", "--temp",
                               "0",        "--print-ids", "--print-logits", "3",  "--kv-type", "f32", NULL};
    run(&r, ids);
    ck_assert_str_eq(r.out, "403 407 261 378 432 383 286 261 376 298 315 421 395 317 426 338\n");
    ck_assert_str_eq(r.err, "logits 403:17.0235 385:15.4062 410:13.1083\n");
    const char *const text[] = {"generate", "-m", stories_path(), "-p", "Once upon a time", "-n", "12", NULL};
    run(&r, text);
    ck_assert_str_eq(r.out, ", there was a little girl named Lily. She\n");
    ck_assert_str_eq(r.err, "");
}
END_TEST

static void write_files(void)
{
    static char text[5000];
    memset(text, 'a', sizeof text);
    struct small_model m;
    small_model_init(&m);
    (void)snprintf(small_path, sizeof small_path, "%s", test_path("small.gguf"));
    (void)snprintf(long_path, sizeof long_path, "%s", test_path("long.txt"));
    small_model_write(&m, small_path);
    write_file(long_path, text, sizeof text);
    (void)snprintf(prompt_path, sizeof prompt_path, "%s", test_path("prompt.txt"));
    write_file(prompt_path, "two\nlines\n", 10);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        (void)fputs("usage: cli_test PATH-OF-KVMM-ENGINE\n", stderr);
        return 2;
    }
    program = argv[1];
    Suite *suite = suite_create("cli");
    TCase *cases = tcase_create("all");
    tcase_set_timeout(cases, 120);
    tcase_add_unchecked_fixture(cases, write_files, NULL);
    tcase_add_loop_test(cases, a_mistake_is_one_line_and_status_2, 0, (int)(sizeof MISTAKES / sizeof *MISTAKES));
    tcase_add_test(cases, a_full_disk_under_stdout_is_noticed);
    tcase_add_test(cases, truncated_models_are_refused);
    tcase_add_test(cases, flipped_bits_do_no_harm);
    tcase_add_test(cases, help_is_help);
    tcase_add_test(cases, paged_and_in_turns_prints_the_same);
    tcase_add_test(cases, a_full_context_ends_the_answer);
    tcase_add_test(cases, a_seed_is_an_answer);
    if (stories_path())
        tcase_add_test(cases, stories_oracle);
    else
        (void)puts("stories260K.gguf is not there: its part is skipped");
    suite_add_tcase(suite, cases);
    return test_run(suite);
}
