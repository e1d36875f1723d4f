/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm run`: what it sets, and what it says where the loader would say nothing. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "tests/tools/run.h"

#define NOBODY 65534

static char folder[] = "/tmp/kvmm-run-XXXXXX";

static const char *engine(void)
{
    const char *path = getenv("SHIM_TEST_ENGINE");
    ck_assert_msg(path != NULL, "SHIM_TEST_ENGINE must name the engine");
    return path;
}

static const char *in_folder(const char *name)
{
    static char path[2][64];
    static int which;
    which = !which;
    snprintf(path[which], sizeof path[which], "%s/%s", folder, name);
    return path[which];
}

static void write_file(const char *name, const void *bytes, size_t n, mode_t mode)
{
    int fd = open(in_folder(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, n), n);
    ck_assert_int_eq(fchmod(fd, mode), 0);
    close(fd);
}

static void write_script(const char *name, const char *text)
{
    write_file(name, text, strlen(text), 0755);
}

static void make_folder(void)
{
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(chmod(folder, 0755), 0);
}

static void remove_folder(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    ck_assert_int_eq(system(command), 0);
}

/* ---- What it sets -------------------------------------------------------------------------------------------- */

/* The value in the output of env, or NULL. */
static const char *value_in(const char *env, const char *name)
{
    static char value[4096];
    for (const char *line = env; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        if (strncmp(line, name, strlen(name)) != 0 || line[strlen(name)] != '=')
            continue;
        const char *at = line + strlen(name) + 1;
        snprintf(value, sizeof value, "%.*s", (int)strcspn(at, "\n"), at);
        return value;
    }
    return NULL;
}

START_TEST(sets_the_variables_and_nothing_else)
{
    setenv("KVMM_SWAP_SIZE", "3G", 1); /* by hand, and left alone */
    struct run before, run;
    run_tool(&before, 0, "run -- /usr/bin/env");
    run_tool(&run, 0,
             "run --device-memory=64MiB --host-memory 1G --swap-dir=/tmp --select=list,size:1M --chunk 4K "
             "--user-faults --suspended=fail --verbose -- /usr/bin/env");
    ck_assert_msg(run.status == 0 && run.err[0] == '\0', "status %d: %s", run.status, run.err);
    static const char *const set[][2] = {
        {"KVMM_DEVICE_MEMORY", "64MiB"}, {"KVMM_HOST_MEMORY", "1G"}, {"KVMM_SWAP_DIR", "/tmp"},
        {"KVMM_SELECT", "list,size:1M"}, {"KVMM_CHUNK", "4K"},       {"KVMM_USER_FAULTS", "1"},
        {"KVMM_SUSPENDED", "fail"},      {"KVMM_VERBOSE", "1"}};
    for (size_t i = 0; i < sizeof set / sizeof set[0]; i++) {
        const char *value = value_in(run.out, set[i][0]);
        ck_assert_msg(value && strcmp(value, set[i][1]) == 0, "%s=%s", set[i][0], value ? value : "(unset)");
        ck_assert_msg(!value_in(before.out, set[i][0]), "%s is set without its option", set[i][0]);
    }
    ck_assert_str_eq(value_in(run.out, "KVMM_SWAP_SIZE"), "3G");
    const char *preload = value_in(run.out, "LD_PRELOAD");
    ck_assert(preload && strstr(preload, "/libkvmm_shim.so") && access(preload, R_OK) == 0);
    ck_assert_int_eq(run_count_lines(run.out), run_count_lines(before.out) + (int)(sizeof set / sizeof set[0]));
    run_free(&before);
    run_free(&run);
    unsetenv("KVMM_SWAP_SIZE");
}
END_TEST

START_TEST(keeps_what_is_preloaded)
{
    struct run run;
    setenv("LD_PRELOAD", "libm.so.6", 1);
    run_tool(&run, 0, "run /usr/bin/env");
    unsetenv("LD_PRELOAD");
    ck_assert_int_eq(run.status, 0);
    const char *preload = value_in(run.out, "LD_PRELOAD");
    ck_assert_msg(preload && strstr(preload, "/libkvmm_shim.so:libm.so.6"), "%s", preload ? preload : "(unset)");
    run_free(&run);
}
END_TEST

START_TEST(becomes_the_command)
{
    struct run run;
    char parent[20];
    write_script("script", "#!/bin/sh\necho $PPID \"$@\"\nexit 7\n");
    snprintf(parent, sizeof parent, "%d ", (int)getpid());
    run_tool(&run, 0, "run -- %s a --select=x -- b", in_folder("script"));
    ck_assert_int_eq(run.status, 7);
    ck_assert_msg(strncmp(run.out, parent, strlen(parent)) == 0, "%s", run.out); /* no process between */
    ck_assert_str_eq(run.out + strlen(parent), "a --select=x -- b\n");
    ck_assert_str_eq(run.err, "");
    run_free(&run);
    write_script("dying", "#!/bin/sh\nkill -KILL $$\n");
    run_tool(&run, 0, "run %s", in_folder("dying"));
    ck_assert_int_eq(run.status, -1);
    run_free(&run);
}
END_TEST

START_TEST(the_engine_has_a_cache)
{
    struct run run;
    run_tool(&run, 0, "run --select=size:8M --verbose -- %s", engine());
    if (getuid() == 0)
        ck_assert_msg(strcmp(run.out, "a cache\n") == 0 && run_count_lines(run.err) == 1, "%s%s", run.out, run.err);
    ck_assert_int_eq(run.status, 3);
    run_free(&run);
    run_tool(&run, 0, "run -- %s", engine());
    ck_assert_str_eq(run.out, "no cache\n");
    ck_assert_str_eq(run.err, "");
    run_free(&run);
    run_tool(&run, 0, "run --select=order:9 -- %s", engine());
    ck_assert_str_eq(run.out, "no cache\n");
    ck_assert_msg(strstr(run.err, "the rule order:9 selected nothing; the largest of 1 allocations was 8388608 bytes"),
                  "%s", run.err);
    run_free(&run);
}
END_TEST

/* Where the kernel doesn't let this user handle faults, the engine runs all the same, and one line says why. */
START_TEST(without_the_right_to_handle_faults)
{
    char shim[4096];
    struct run run;
    run_tool(&run, 0, "run /usr/bin/env");
    snprintf(shim, sizeof shim, "%s", value_in(run.out, "LD_PRELOAD"));
    run_free(&run);
    char setting = '1';
    int fd = open("/proc/sys/vm/unprivileged_userfaultfd", O_RDONLY | O_CLOEXEC);
    if (getuid() != 0 || fd < 0 || read(fd, &setting, 1) != 1 || setting != '0')
        return; /* this user, or any, may */
    close(fd);
    pid_t pid = fork();
    if (pid == 0)
        _exit(setuid(NOBODY) != 0 || access(shim, R_OK) != 0 || access(engine(), X_OK) != 0);
    int status;
    ck_assert(waitpid(pid, &status, 0) == pid);
    if (status != 0)
        return; /* the build folder is closed to others */
    run_tool(&run, NOBODY, "run --select=size:8M -- %s", engine());
    ck_assert_int_eq(run.status, 3);
    ck_assert_str_eq(run.out, "no cache\n");
    ck_assert_msg(strstr(run.err, "stays with the engine"), "%s", run.err);
    run_free(&run);
}
END_TEST

/* ---- What it says -------------------------------------------------------------------------------------------- */

static const struct {
    const char *arguments, *said;
    int status;
} mistakes[] = {
    {"run", "a command to run is needed", 2},
    {"run --", "a command to run is needed", 2},
    {"run --no-such-option true", "--no-such-option", 2},
    {"run --select", "select", 2},
    {"run --select= true", "--select: a value is missing", 2},
    {"run --select=llama true", "rule 'llama'", 2},
    {"run --select=auto,order:0 true", "rule 'order:0'", 2},
    {"run --device-memory=lots true", "--device-memory=lots: not a number of bytes", 2},
    {"run --swap-size=-1 true", "--swap-size=-1", 2},
    {"run --chunk=3K true", "--chunk=3K: not a power of two", 2},
    {"run --suspended=maybe true", "--suspended=maybe", 2},
    {"run -- no-such-command-anywhere", "no-such-command-anywhere: No such file", 127},
    {"run -- /no/such/command", "/no/such/command: No such file", 127},
    {"run -- /etc/passwd", "/etc/passwd: Permission denied", 126},
    {"run -- /tmp", "/tmp: Permission denied", 126},
};

START_TEST(mistakes_are_named)
{
    struct run run;
    run_tool(&run, 0, "%s", mistakes[_i].arguments);
    ck_assert_msg(run.status == mistakes[_i].status && strstr(run.err, mistakes[_i].said), "%s: status %d: %s",
                  mistakes[_i].arguments, run.status, run.err);
    ck_assert_int_eq(run_count_lines(run.err), 1);
    ck_assert_str_eq(run.out, "");
    run_free(&run);
}
END_TEST

START_TEST(bad_variables_are_named)
{
    struct run run;
    setenv("KVMM_CHUNK", "7", 1);
    run_tool(&run, 0, "run true");
    ck_assert_msg(run.status == 2 && strstr(run.err, "KVMM_CHUNK=7: "), "%s", run.err);
    run_free(&run);
    run_tool(&run, 0, "run --chunk=8K true");
    ck_assert_int_eq(run.status, 0);
    run_free(&run);
    unsetenv("KVMM_CHUNK");
}
END_TEST

/* ---- Programs under which nothing can be preloaded, made of one under which it can --------------------------------- */

static unsigned char image[1 << 20];
static size_t n_image;

static void read_image(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ssize_t n = read(fd, image, sizeof image);
    close(fd);
    ck_assert(n > 0 && (size_t)n < sizeof image);
    n_image = (size_t)n;
}

static ElfW(Phdr) * interpreter(void)
{
    ElfW(Ehdr) *header = (ElfW(Ehdr) *)image;
    ElfW(Phdr) *segments = (ElfW(Phdr) *)(image + header->e_phoff);
    for (size_t i = 0; i < header->e_phnum; i++) {
        if (segments[i].p_type == PT_INTERP)
            return &segments[i];
    }
    ck_abort_msg("the engine has no interpreter");
    return NULL;
}

static void refused(const char *command, const char *said)
{
    struct run run;
    run_tool(&run, 0, "run %s", command);
    ck_assert_msg(run.status == 1 && strstr(run.err, said) != NULL, "%s: status %d: %s%s", command, run.status, run.err,
                  run.out);
    ck_assert_int_eq(run_count_lines(run.err), 1);
    run_free(&run);
}

START_TEST(a_program_of_32_bits)
{
    read_image(engine());
    image[EI_CLASS] = ELFCLASS32;
    write_file("small", image, n_image, 0755);
    refused(in_folder("small"), "small is a 32-bit program");
}
END_TEST

START_TEST(a_program_for_another_machine)
{
    read_image(engine());
    ((ElfW(Ehdr) *)image)->e_machine = EM_S390;
    write_file("other", image, n_image, 0755);
    refused(in_folder("other"), "other is a program for another kind of machine");
}
END_TEST

START_TEST(a_static_program)
{
    char script[200];
    read_image(engine());
    interpreter()->p_type = PT_NULL;
    write_file("static", image, n_image, 0755);
    refused(in_folder("static"), "static is linked statically");
    /* Through a script, through env, and through a script of a script. */
    snprintf(script, sizeof script, "#! %s -x\n", in_folder("static"));
    write_script("script", script);
    refused(in_folder("script"), "static is linked statically");
    snprintf(script, sizeof script, "#!/usr/bin/env -S A=1 %s\n", in_folder("static"));
    write_script("by-env", script);
    refused(in_folder("by-env"), "static is linked statically");
    snprintf(script, sizeof script, "#!%s\n", in_folder("script"));
    write_script("twice", script);
    refused(in_folder("twice"), "static is linked statically");
    /* Found in PATH. */
    char path[100];
    snprintf(path, sizeof path, "/no/such/folder:%s:/usr/bin", folder);
    const char *folders = getenv("PATH");
    char *before = strdup(folders ? folders : "/bin:/usr/bin");
    setenv("PATH", path, 1);
    refused("twice", "static is linked statically");
    write_script("by-env", "#!/usr/bin/env static\n");
    refused("by-env", "static is linked statically");
    setenv("PATH", before, 1);
    free(before);
}
END_TEST

START_TEST(a_program_of_musl)
{
    read_image(engine());
    char *name = (char *)image + interpreter()->p_offset;
    ck_assert_uint_gt(interpreter()->p_filesz, sizeof "/lib/ld-musl.so");
    memcpy(name, "/lib/ld-musl.so", sizeof "/lib/ld-musl.so");
    write_file("musl", image, n_image, 0755);
    refused(in_folder("musl"), "musl is built for musl");
}
END_TEST

START_TEST(a_setuid_program)
{
    read_image(engine());
    write_file("setuid", image, n_image, 04755);
    struct run run;
    run_tool(&run, 0, "run %s", in_folder("setuid")); /* its own user's */
    ck_assert_int_eq(run.status, 3);
    run_free(&run);
    if (getuid() != 0)
        return; /* can't give files away */
    ck_assert_int_eq(chown(in_folder("setuid"), NOBODY, NOBODY), 0);
    ck_assert_int_eq(chmod(in_folder("setuid"), 04755), 0);
    refused(in_folder("setuid"), "setuid is setuid");
    ck_assert_int_eq(chown(in_folder("setuid"), 0, NOBODY), 0);
    ck_assert_int_eq(chmod(in_folder("setuid"), 02755), 0);
    refused(in_folder("setuid"), "setuid is setgid");
}
END_TEST

START_TEST(damaged_programs_are_left_to_the_kernel)
{
    read_image(engine());
    for (size_t n = 0; n < 200; n += 3) { /* truncated */
        write_file("damaged", image, n, 0755);
        struct run run;
        run_tool(&run, 0, "run %s", in_folder("damaged"));
        ck_assert_int_ge(run.status, 0);
        run_free(&run);
    }
    ((ElfW(Ehdr) *)image)->e_phoff = n_image - 1;
    write_file("damaged", image, n_image, 0755);
    struct run run;
    run_tool(&run, 0, "run %s", in_folder("damaged"));
    ck_assert_int_gt(run.status, 0);
    run_free(&run);
}
END_TEST

START_TEST(a_program_with_a_sanitizer)
{
    const char *marked = getenv("SHIM_TEST_SANITIZED");
    ck_assert_msg(marked != NULL, "SHIM_TEST_SANITIZED must name the program");
    refused(marked, "is built with AddressSanitizer");
    /* Preloaded by hand: it says so, and the program runs without. */
    struct run run;
    run_tool(&run, 0, "run /usr/bin/env");
    char shim[4096], command[8192];
    snprintf(shim, sizeof shim, "%s", value_in(run.out, "LD_PRELOAD"));
    run_free(&run);
    snprintf(command, sizeof command, "KVMM_SELECT=size:1M LD_PRELOAD=%s %s >%s 2>&1", shim, marked, in_folder("said"));
    int status = system(command);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    char said[1000] = "";
    FILE *file = fopen(in_folder("said"), "re");
    ck_assert(file && fread(said, 1, sizeof said - 1, file) > 0);
    fclose(file);
    ck_assert_msg(strstr(said, "is built with AddressSanitizer") && strstr(said, "no cache"), "%s", said);
}
END_TEST

/* The real thing, where the compiler has it. */
START_TEST(a_program_with_address_sanitizer)
{
    const char *real = getenv("SHIM_TEST_ASAN");
    if (real)
        refused(real, "is built with AddressSanitizer");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("kvmm run");
    TCase *run = tcase_create("run");
    tcase_set_timeout(run, 60);
    tcase_add_unchecked_fixture(run, make_folder, remove_folder);
    tcase_add_test(run, sets_the_variables_and_nothing_else);
    tcase_add_test(run, keeps_what_is_preloaded);
    tcase_add_test(run, becomes_the_command);
    tcase_add_test(run, the_engine_has_a_cache);
    tcase_add_test(run, without_the_right_to_handle_faults);
    tcase_add_loop_test(run, mistakes_are_named, 0, sizeof mistakes / sizeof mistakes[0]);
    tcase_add_test(run, bad_variables_are_named);
    tcase_add_test(run, a_program_of_32_bits);
    tcase_add_test(run, a_program_for_another_machine);
    tcase_add_test(run, a_static_program);
    tcase_add_test(run, a_program_of_musl);
    tcase_add_test(run, a_setuid_program);
    tcase_add_test(run, damaged_programs_are_left_to_the_kernel);
    tcase_add_test(run, a_program_with_a_sanitizer);
    tcase_add_test(run, a_program_with_address_sanitizer);
    suite_add_tcase(s, run);
    return s;
}

int main(void)
{
    for (char **at = environ; *at;) { /* the settings of whoever runs the tests */
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(*at, "="), *at);
        if (strncmp(name, "KVMM_", 5) == 0 && strcmp(name, "KVMM_TOOL") != 0)
            unsetenv(name);
        else
            at++;
    }
    SRunner *runner = srunner_create(suite());
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
