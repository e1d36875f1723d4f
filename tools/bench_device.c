/* SPDX-License-Identifier: Apache-2.0
 *
 * `kvmm bench device`: what the CUDA driver's calls cost, one by one and as kvmm makes them, and what a step costs that maps
 * on demand. In each round everything once, in turn. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>
#include <kvmm/kvmm.h>

#include "tools/bench.h"
#include "tools/bench_spread.h"
#include "tools/command.h"
#include "vmm/driver/driver.h"

#define NAME "kvmm bench device"

enum { MOST_ROUNDS = 1000, BATCH = 16 };

enum call {
    CREATE,
    MAP,
    SET_ACCESS,
    SET_ACCESS_BATCH, /* one call for BATCH frames */
    UNMAP,
    UNMAP_BATCH,
    RELEASE,
    RESERVE,
    ADDRESS_FREE,
    EVENT_RECORD,
    EVENT_QUERY,
    COPY_OUT, /* of a frame to pinned memory, until its event is seen */
    COPY_IN,
    CLEAR,
    STEP_RESIDENT, /* kvmm_step_begin + kvmm_step_end, all in place */
    STEP_NEW,      /* grows by a frame that nobody had mapped */
    STEP_AHEAD,    /* grows by one that the keeper had */
    N_CALLS
};
static const char *const call_names[] = {
    "cuMemCreate",
    "cuMemMap",
    "cuMemSetAccess",
    "cuMemSetAccess, 16 frames",
    "cuMemUnmap",
    "cuMemUnmap, 16 frames",
    "cuMemRelease",
    "cuMemAddressReserve",
    "cuMemAddressFree",
    "cuEventRecord",
    "cuEventQuery",
    "copy a frame out, and its event",
    "copy a frame in, and its event",
    "clear a frame, and its event",
    "step, all resident",
    "step, one new frame",
    "step, one frame mapped ahead",
};
static const char *const call_keys[] = {
    "create",  "map",     "set_access",    "set_access_16",  "unmap",           "unmap_16",
    "release", "reserve", "address_free",  "event_record",   "event_query",     "copy_out",
    "copy_in", "clear",   "step_resident", "step_new_frame", "step_frame_ahead"};

struct options {
    uint64_t ordinal, n_rounds;
    bool json;
};

struct bench {
    struct options options;
    const struct cuda_driver *cu;
    CUdevice device;
    CUcontext context;
    char device_name[128];
    int driver_version;
    size_t frame;
    CUmemAllocationProp prop;
    CUmemAccessDesc access;
    CUdeviceptr window; /* BATCH frames */
    CUstream stream;
    CUevent event;
    void *pinned;
    double us[N_CALLS][MOST_ROUNDS];
    const char *failed_call; /* with failure: the first that failed */
    CUresult failure;
};

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e6 * (double)now.tv_sec + 1e-3 * (double)now.tv_nsec;
}

/* Times a driver call into us[which]; on failure the function returns false. */
#define TIMED(which, name, ...)                                                                                        \
    do {                                                                                                               \
        double start_ = now_us();                                                                                      \
        CUresult rc_ = bench->cu->name(__VA_ARGS__);                                                                   \
        bench->us[which][round] = now_us() - start_;                                                                   \
        if (rc_ != CUDA_SUCCESS)                                                                                       \
            return failed(bench, "cu" #name, rc_);                                                                     \
    } while (0)

#define CALL(name, ...)                                                                                                \
    do {                                                                                                               \
        CUresult rc_ = bench->cu->name(__VA_ARGS__);                                                                   \
        if (rc_ != CUDA_SUCCESS)                                                                                       \
            return failed(bench, "cu" #name, rc_);                                                                     \
    } while (0)

static bool failed(struct bench *bench, const char *call, CUresult rc)
{
    bench->failed_call = call;
    bench->failure = rc;
    return false;
}

/* ---- the driver ---- */

/* A frame's life, call by call. */
static bool time_one(struct bench *bench, uint64_t round)
{
    CUdeviceptr at;
    CUmemGenericAllocationHandle handle;
    TIMED(RESERVE, MemAddressReserve, &at, bench->frame, bench->frame, 0, 0);
    TIMED(CREATE, MemCreate, &handle, bench->frame, &bench->prop, 0);
    TIMED(MAP, MemMap, at, bench->frame, 0, handle, 0);
    TIMED(SET_ACCESS, MemSetAccess, at, bench->frame, &bench->access, 1);
    CALL(MemsetD8Async, at, 0, bench->frame, bench->stream);
    TIMED(EVENT_RECORD, EventRecord, bench->event, bench->stream);
    CALL(EventSynchronize, bench->event);
    TIMED(EVENT_QUERY, EventQuery, bench->event);
    TIMED(UNMAP, MemUnmap, at, bench->frame);
    TIMED(RELEASE, MemRelease, handle);
    TIMED(ADDRESS_FREE, MemAddressFree, at, bench->frame);
    return true;
}

/* BATCH frames, with their access and their end in one call each. */
static bool time_batch(struct bench *bench, uint64_t round)
{
    CUmemGenericAllocationHandle handles[BATCH];
    for (size_t i = 0; i < BATCH; i++) {
        CALL(MemCreate, &handles[i], bench->frame, &bench->prop, 0);
        CALL(MemMap, bench->window + i * bench->frame, bench->frame, 0, handles[i], 0);
    }
    TIMED(SET_ACCESS_BATCH, MemSetAccess, bench->window, BATCH * bench->frame, &bench->access, 1);
    for (int way = 0; way < 3; way++) {
        double start = now_us();
        if (way == 0)
            CALL(MemsetD8Async, bench->window, 0, bench->frame, bench->stream);
        else if (way == 1)
            CALL(MemcpyDtoHAsync, bench->pinned, bench->window, bench->frame, bench->stream);
        else
            CALL(MemcpyHtoDAsync, bench->window, bench->pinned, bench->frame, bench->stream);
        CALL(EventRecord, bench->event, bench->stream);
        CALL(EventSynchronize, bench->event);
        bench->us[way == 0 ? CLEAR : way == 1 ? COPY_OUT : COPY_IN][round] = now_us() - start;
    }
    TIMED(UNMAP_BATCH, MemUnmap, bench->window, BATCH * bench->frame);
    for (size_t i = 0; i < BATCH; i++)
        CALL(MemRelease, handles[i]);
    return true;
}

static bool open_driver(struct bench *bench)
{
    CALL(DriverGetVersion, &bench->driver_version);
    CALL(DeviceGet, &bench->device, (int)bench->options.ordinal);
    CALL(DeviceGetName, bench->device_name, sizeof bench->device_name, bench->device);
    CALL(DevicePrimaryCtxRetain, &bench->context, bench->device);
    CALL(CtxSetCurrent, bench->context);
    bench->prop = (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                        .location = {CU_MEM_LOCATION_TYPE_DEVICE, bench->device}};
    bench->access = (CUmemAccessDesc){bench->prop.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CALL(MemGetAllocationGranularity, &bench->frame, &bench->prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    CALL(MemAddressReserve, &bench->window, BATCH * bench->frame, bench->frame, 0, 0);
    CALL(StreamCreateWithPriority, &bench->stream, CU_STREAM_NON_BLOCKING, 0);
    CALL(EventCreate, &bench->event, CU_EVENT_DISABLE_TIMING);
    CALL(MemHostAlloc, &bench->pinned, bench->frame, 0);
    return true;
}

static void close_driver(struct bench *bench)
{
    const struct cuda_driver *cu = bench->cu;
    if (bench->pinned)
        cu->MemFreeHost(bench->pinned);
    if (bench->event)
        cu->EventDestroy(bench->event);
    if (bench->stream)
        cu->StreamDestroy(bench->stream);
    if (bench->window)
        cu->MemAddressFree(bench->window, BATCH * bench->frame);
    if (bench->context) {
        cu->CtxSetCurrent(NULL);
        cu->DevicePrimaryCtxRelease(bench->device);
    }
}

/* ---- kvmm ---- */

/* A model whose page is one frame, so that each 16 tokens need a new one. */
static int open_kvmm(const struct bench *bench, uint32_t map_ahead, kvmm **mm)
{
    char device[16];
    struct kvmm_config cfg;
    kvmm_config_init(&cfg);
    snprintf(device, sizeof device, "cuda:%u", (unsigned)bench->options.ordinal);
    cfg.geometry.n_layers = (uint32_t)(bench->frame / (16u * 2 * 8 * 128 * 2));
    cfg.geometry.n_kv_heads = 8;
    cfg.geometry.head_dim = 128;
    cfg.geometry.dtype = KVMM_BF16;
    cfg.device = device;
    cfg.device_memory = 64 * bench->frame;
    cfg.frame_bytes = bench->frame;
    cfg.map_ahead_tokens = map_ahead;
    cfg.no_page_map = true;
    return kvmm_open(&cfg, mm);
}

static int timed_step(kvmm *mm, kvmm_seq *seq, uint32_t n_tokens, CUstream stream, double *us)
{
    struct kvmm_want want = {.seq = seq, .n_tokens = n_tokens};
    kvmm_step *step;
    double start = now_us();
    int rc = kvmm_step_begin(mm, &want, 1, 0, &step);
    if (rc == KVMM_OK)
        rc = kvmm_step_end(&step, stream);
    *us = now_us() - start;
    return rc;
}

/* Steps of one token over a frame's end: the first after it needs a new one. */
static int time_steps(struct bench *bench, kvmm *mm, bool ahead, uint64_t round)
{
    kvmm_seq *seq;
    double us;
    int rc = kvmm_seq_create(mm, 64, &seq);
    for (uint32_t n = 8; rc == KVMM_OK && n < 17; n++) {
        rc = timed_step(mm, seq, n, bench->stream, &us);
        if (n == 12 && !ahead)
            bench->us[STEP_RESIDENT][round] = us;
        if (n < 16) /* the time that a token takes to compute, in which the keeper works */
            nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    if (rc != KVMM_OK)
        return rc;
    rc = timed_step(mm, seq, 17, bench->stream, &us);
    bench->us[ahead ? STEP_AHEAD : STEP_NEW][round] = us;
    int destroyed = kvmm_seq_destroy(&seq);
    return rc ? rc : destroyed;
}

static int run_rounds(struct bench *bench)
{
    kvmm *on_demand = NULL, *ahead = NULL;
    int rc = open_kvmm(bench, 0, &on_demand);
    if (rc == KVMM_OK)
        rc = open_kvmm(bench, 16, &ahead);
    for (uint64_t round = 0; rc == KVMM_OK && round < bench->options.n_rounds; round++) {
        if (!time_one(bench, round) || !time_batch(bench, round))
            break;
        rc = time_steps(bench, on_demand, false, round);
        if (rc == KVMM_OK)
            rc = time_steps(bench, ahead, true, round);
    }
    if (rc)
        fprintf(stderr, NAME ": %s\n", kvmm_errmsg());
    (void)kvmm_close(&on_demand);
    (void)kvmm_close(&ahead);
    if (bench->failed_call)
        fprintf(stderr, NAME ": %s: %s\n", bench->failed_call, cuda_error_name(bench->cu, bench->failure));
    return rc || bench->failed_call ? COMMAND_FAILED : COMMAND_DONE;
}

/* ---- the result ---- */

static double p99_of_sorted(const double *values, uint64_t n)
{
    uint64_t i = n * 99 / 100;
    return values[i < n ? i : n - 1];
}

static int print_table(struct bench *bench)
{
    printf("%s, driver %d.%d, frames of %zu KiB, %lu rounds; microseconds\n\n", bench->device_name,
           bench->driver_version / 1000, bench->driver_version % 1000 / 10, bench->frame / 1024,
           (unsigned long)bench->options.n_rounds);
    printf("%-34s %10s %10s %10s\n", "call", "min", "median", "p99");
    for (int i = 0; i < N_CALLS; i++) {
        struct spread spread = spread_of(bench->us[i], bench->options.n_rounds);
        printf("%-34s %10.2f %10.2f %10.2f\n", call_names[i], spread.least, spread.median,
               p99_of_sorted(bench->us[i], bench->options.n_rounds));
    }
    return command_finish_output(NAME);
}

static int print_json(struct bench *bench)
{
    json_t *calls = json_object();
    for (int i = 0; i < N_CALLS; i++) {
        struct spread spread = spread_of(bench->us[i], bench->options.n_rounds);
        json_t *row = spread_json(spread);
        json_object_set_new(row, "p99", json_real(p99_of_sorted(bench->us[i], bench->options.n_rounds)));
        json_object_set_new(calls, call_keys[i], row);
    }
    json_t *root =
        json_pack("{s:s, s:i, s:I, s:I, s:o}", "device", bench->device_name, "driver_version", bench->driver_version,
                  "frame_bytes", (json_int_t)bench->frame, "rounds", (json_int_t)bench->options.n_rounds, "us", calls);
    if (!root || json_dumpf(root, stdout, JSON_INDENT(2)) != 0) {
        json_decref(root);
        return COMMAND_FAILED;
    }
    putchar('\n');
    json_decref(root);
    return command_finish_output(NAME);
}

/* ---- the command ---- */

enum { KEY_JSON = 'j', KEY_ROUNDS = 'n', KEY_DEVICE = 'd' };

static const struct argp_option option_list[] = {
    {"device", KEY_DEVICE, "cuda:N", 0, "the GPU (default: cuda:0)", 0},
    {"json", KEY_JSON, NULL, 0, "print JSON", 0},
    {"rounds", KEY_ROUNDS, "N", 0, "rounds in which all are measured in turn (default: 100)", 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct options *options = state->input;
    switch (key) {
    case KEY_JSON:
        options->json = true;
        return 0;
    case KEY_ROUNDS:
        if (!command_number(arg, 1, MOST_ROUNDS, &options->n_rounds))
            return command_complain(state, "--rounds takes a number from 1 to %d, not '%s'", MOST_ROUNDS, arg);
        return 0;
    case KEY_DEVICE:
        if (strcmp(arg, "cuda") == 0)
            return 0;
        if (strncmp(arg, "cuda:", 5) != 0 || !command_number(arg + 5, 0, 63, &options->ordinal))
            return command_complain(state, "--device takes cuda or cuda:N, not '%s'", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp parser = {
    .options = option_list,
    .parser = parse_option,
    .doc =
        "Measure what the CUDA driver's calls for virtual memory cost, one by one and in batches, and what a step of "
        "kvmm costs that finds all in place, that maps a frame, and that finds the frame mapped ahead.",
};

int bench_device(int argc, char **argv)
{
    struct options options = {.n_rounds = 100};
    if (!command_parse(&parser, argc, argv, 0, &options))
        return COMMAND_BAD_USAGE;
    struct bench *bench = calloc(1, sizeof *bench);
    if (!bench) {
        fprintf(stderr, NAME ": out of memory\n");
        return COMMAND_FAILED;
    }
    bench->options = options;
    int status = COMMAND_FAILED;
    char reason[CUDA_DRIVER_REASON];
    if (cuda_driver_get(&bench->cu, reason) != CUDA_DRIVER_OK)
        fprintf(stderr, NAME ": %s\n", reason);
    else if (!open_driver(bench))
        fprintf(stderr, NAME ": %s: %s\n", bench->failed_call, cuda_error_name(bench->cu, bench->failure));
    else
        status = run_rounds(bench);
    if (bench->cu)
        close_driver(bench);
    if (status == COMMAND_DONE)
        status = options.json ? print_json(bench) : print_table(bench);
    free(bench);
    return status;
}
