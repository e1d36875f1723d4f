/* SPDX-License-Identifier: Apache-2.0
 *
 * 1 GiB of KV under budgets of 64 MiB each for device and host: the peak of the process's resident memory, shared memory
 * included, stays under their sum plus CONSTANT_MIB, which covers the program, its libraries and threads, the page map,
 * the tables (20 bytes a frame) and the frames in flight. */
#include "fixture.h"

#include <stdio.h>

#define CONSTANT_MIB 24

static unsigned long peak_kib(void)
{
    unsigned long kib = 0;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %lu kB", &kib) == 1)
            break;
    fclose(status);
    return kib;
}

static void fill(kvmm *mm, kvmm_seq *seq, uint32_t from, uint32_t to, uint8_t tag)
{
    struct kvmm_want want = {.seq = seq, .n_tokens = to};
    kvmm_step *step = NULL;
    ck_assert_msg(kvmm_step_begin(mm, &want, 1, 0, &step) == KVMM_OK, "%s", kvmm_errmsg());
    struct kvmm_layout l;
    kvmm_seq_layout(seq, &l);
    for (size_t page = 0; page < to / 16; page++) {
        char *at = (char *)l.base + page * l.page_stride;
        if (page >= from / 16) {
            memset(at, tag + (int)page, l.page_stride);
        } else {
            ck_assert_int_eq(at[0], (char)(tag + page));
            ck_assert_int_eq(at[l.page_stride - 1], (char)(tag + page));
        }
    }
    ck_assert_int_eq(kvmm_step_end(&step, NULL), KVMM_OK);
}

static void one_gib_of_kv(size_t frame_bytes)
{
    struct kvmm_config cfg = small_config(1, 0, "/tmp");
    cfg.frame_bytes = frame_bytes;
    cfg.device_memory = 64 << 20;
    cfg.host_memory = 64 << 20;
    kvmm *mm = NULL;
    ck_assert_msg(kvmm_open(&cfg, &mm) == KVMM_OK, "%s", kvmm_errmsg());
    enum { N_SEQS = 32, TOKENS = 4096 }; /* 8 KiB a token: 32 MiB each */
    kvmm_seq *seqs[N_SEQS];
    for (size_t i = 0; i < N_SEQS; i++) {
        seqs[i] = make_seq(mm, TOKENS);
        for (uint32_t n = 0; n < TOKENS; n += 512)
            fill(mm, seqs[i], n, n + 512, (uint8_t)i);
    }
    for (size_t i = 0; i < N_SEQS; i++)
        fill(mm, seqs[i], TOKENS, TOKENS, (uint8_t)i);
    struct kvmm_stats stats;
    kvmm_get_stats(mm, &stats);
    ck_assert_uint_le(stats.device_used, 64 << 20);
    ck_assert_uint_gt(stats.bytes_to_nvme, 800 << 20);
    ck_assert_int_eq(kvmm_close(&mm), KVMM_OK);
    printf("frames of %zu KiB: peak %lu KiB\n", frame_bytes / 1024, peak_kib());
    ck_assert_uint_lt(peak_kib(), (128 + CONSTANT_MIB) * 1024);
}

START_TEST(small_frames)
{
    one_gib_of_kv(64 << 10);
}
END_TEST

START_TEST(large_frames)
{
    one_gib_of_kv(2 << 20);
}
END_TEST

int main(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    printf("skipped: a sanitizer's own memory would be counted\n");
    return 77;
#endif
    const TTest *tests[] = {small_frames, large_frames, NULL};
    return run_suite("bounded memory", tests);
}
