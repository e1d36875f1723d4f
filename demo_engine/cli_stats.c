/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "size_text.h"

static void print_speed(const char *what, uint64_t tokens, uint64_t ns)
{
    double seconds = (double)ns * 1e-9;
    (void)fprintf(stderr, "%-10s %9" PRIu64 " tokens %9.3f s %11.1f tokens/s\n", what, tokens, seconds,
                  seconds > 0 ? (double)tokens / seconds : 0);
}

static void print_tier(const char *what, uint64_t used, uint64_t capacity, uint64_t in, uint64_t out)
{
    char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX], c[SIZE_TEXT_MAX], d[SIZE_TEXT_MAX];
    (void)fprintf(stderr, "%-10s %10s used of %10s; %10s written, %10s read back\n", what, size_format(used, a),
                  capacity ? size_format(capacity, b) : "no limit", size_format(in, c), size_format(out, d));
}

uint64_t cli_status_bytes(const char *key)
{
    FILE *f = fopen("/proc/self/status", "re");
    char line[128];
    uint64_t kb = 0;
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) == 0) {
            (void)sscanf(line + strlen(key), "%" SCNu64, &kb);
            break;
        }
    }
    if (f)
        (void)fclose(f);
    return kb * 1024;
}

void cli_print_stats(const struct engine *engine)
{
    struct engine_stats e;
    engine_get_stats(engine, &e);
    print_speed("prefill", e.prefill_tokens, e.prefill_ns);
    print_speed("decode", e.decode_tokens, e.decode_ns);
    if (e.captures || e.replays)
        (void)fprintf(stderr, "%-10s %9" PRIu64 " captured, %" PRIu64 " passes replayed\n", "graphs", e.captures,
                      e.replays);
    if (e.data_losses)
        (void)fprintf(stderr, "%-10s %9" PRIu64 " tokens, after %" PRIu64 " losses of cached data\n", "recomputed",
                      e.recomputed_tokens, e.data_losses);

    struct kvmm_stats s;
    char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX];
    kvmm_get_stats(engine_kvmm(engine), &s);
    (void)fprintf(stderr, "%-10s %10s used of %10s; frames of %s\n", "device", size_format(s.device_used, a),
                  size_format(s.device_capacity, b), size_format(s.frame_bytes, (char[SIZE_TEXT_MAX]){0}));
    if (s.host_capacity)
        print_tier("host", s.host_used, s.host_capacity, s.bytes_to_host, s.bytes_from_host);
    const char *backend = kvmm_swap_backend(engine_kvmm(engine));
    if (strcmp(backend, "none") != 0) {
        print_tier("nvme", s.nvme_used, s.nvme_capacity, s.bytes_to_nvme, s.bytes_from_nvme);
        (void)fprintf(stderr, "%-10s by %s, %" PRIu64 " transfers tried again, %" PRIu64 " frames lost\n", "", backend,
                      s.io_retries, s.frames_lost);
    }
    (void)fprintf(stderr, "%-10s %9" PRIu64 ", of which %" PRIu64 " waited, %.3f s in all\n", "steps", s.n_steps,
                  s.n_steps_waited, (double)s.wait_ns * 1e-9);
    const uint64_t wanted = s.frames_hit + s.frames_from_host + s.frames_from_nvme;
    (void)fprintf(stderr,
                  "%-10s %9" PRIu64 " wanted: %.2f %% on the device, %" PRIu64 " from host, %" PRIu64
                  " from nvme; %" PRIu64 " new\n",
                  "frames", wanted, wanted ? 100.0 * (double)s.frames_hit / (double)wanted : 100.0, s.frames_from_host,
                  s.frames_from_nvme, s.frames_new);
    (void)fprintf(stderr, "%-10s %10s at most resident, %s of it shared now\n", "memory",
                  size_format(cli_status_bytes("VmHWM:"), a), size_format(cli_status_bytes("RssShmem:"), b));
}
