/* SPDX-License-Identifier: Apache-2.0
 *
 * A step that finds everything resident makes no system call: it runs here under a seccomp filter that kills the process
 * at any but exit_group. */
#include "fixture.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void forbid_system_calls(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        _exit(77);
}

/* In a child: 1000 steps of three sequences after `warm_up` tokens each; exits 0 if all began. */
static int steps_under_filter(uint32_t start, uint32_t grow_by, enum kvmm_layout_kind layout)
{
    pid_t child = fork();
    if (child == 0) {
        struct kvmm_config cfg = small_config(400, 4, "/tmp");
        cfg.geometry.layout = layout;
        kvmm *mm;
        kvmm_step *step;
        struct kvmm_want wants[3];
        if (kvmm_open(&cfg, &mm))
            _exit(2);
        for (size_t i = 0; i < 3; i++) {
            wants[i] = (struct kvmm_want){.n_tokens = start};
            if (kvmm_seq_create(mm, 4000, &wants[i].seq))
                _exit(2);
        }
        if (kvmm_step_begin(mm, wants, 3, 0, &step) || kvmm_step_end(&step, NULL))
            _exit(2);
        forbid_system_calls();
        for (int n = 0; n < 1000; n++) {
            for (size_t i = 0; i < 3; i++)
                wants[i].n_tokens += grow_by;
            if (kvmm_step_begin(mm, wants, 3, 0, &step) || kvmm_step_end(&step, NULL))
                _exit(3);
        }
        _exit(0);
    }
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return status;
}

START_TEST(no_system_call)
{
    for (int layout = KVMM_PAGE_MAJOR; layout <= KVMM_LAYER_MAJOR; layout++) {
        int status = steps_under_filter(100, 0, (enum kvmm_layout_kind)layout);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
            printf("skipped: seccomp filters are not to be had here\n");
            exit(77);
        }
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x", status);
    }
}
END_TEST

START_TEST(the_filter_notices_one)
{
    int status = steps_under_filter(100, 1, KVMM_PAGE_MAJOR); /* grows beyond its frames: must map */
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}
END_TEST

int main(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    printf("skipped: a sanitizer makes system calls of its own\n");
    return 77;
#endif
    const TTest *tests[] = {no_system_call, the_filter_notices_one, NULL};
    return run_suite("resident steps", tests);
}
