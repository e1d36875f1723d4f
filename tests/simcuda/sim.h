/* SPDX-License-Identifier: Apache-2.0
 *
 * simcuda's state and what its parts offer each other. One lock guards all of it (sim.lock); one condition variable tells
 * of every change. Copies, fills, kernels and host functions run outside the lock, on their stream's thread. Unless said
 * otherwise, a function here is called with the lock held. */
#ifndef SIMCUDA_SIM_H
#define SIMCUDA_SIM_H

#include <pthread.h>
#include <stdarg.h>
#include <sys/types.h>

#include "tests/simcuda/exports.h"
#include "tests/simcuda/simcuda.h"

#define SIM_GRANULARITY   ((size_t)2 << 20)
#define SIM_MAX_DEVICES   8
#define SIM_MAX_RULES     64
#define SIM_MAX_KERNELS   64
#define SIM_MAX_PARAMS    4096
#define SIM_SHARED_USUAL  (48u << 10)
#define SIM_SHARED_OPT_IN (227u << 10)

/* Errors that kvmm does not name. */
#define SIM_ERROR_ILLEGAL_STATE        ((CUresult)401)
#define SIM_ERROR_CONTEXT_IS_DESTROYED ((CUresult)709)
#define SIM_ERROR_CAPTURE_ISOLATION    ((CUresult)905)
#define SIM_ERROR_CAPTURE_WRONG_THREAD ((CUresult)908)

enum sim_rules {
    SIM_ANY_TIME,   /* before cuInit too */
    SIM_AFTER_INIT, /* needs no current context */
    SIM_IN_CONTEXT,
    SIM_UNSAFE /* in a context, and not while a capture forbids it */
};

enum sim_function {
#define X(id, symbol, name, version, rules, params) SIM_##id,
    SIMCUDA_EXPORTS(X)
#undef X
        SIM_N_FUNCTIONS
};

struct sim_function_info {
    const char *name;
    int version;
    enum sim_rules rules;
    void (*function)(void);
};
extern const struct sim_function_info sim_functions[SIM_N_FUNCTIONS];

/* ---- entry.c: around each call ---- */

/* Takes the lock; the environment is read at the first time. */
void sim_lock(void);
void sim_unlock(void);

/* Takes the lock, counts the call, and decides whether it may go on. CUDA_SUCCESS: the lock is held, and sim_leave() gives
 * it back. Any other result: the lock is not held, and the caller returns it. Called without the lock. */
CUresult sim_enter(enum sim_function function);
CUresult sim_leave(CUresult result);

/* ---- objects.c: handles ---- */

enum sim_kind { SIM_CONTEXT = 1, SIM_STREAM, SIM_EVENT, SIM_MEMORY, SIM_MODULE, SIM_FUNCTION, SIM_GRAPH, SIM_EXEC };

/* First member of everything that a handle names. Handles are numbers that are never used again, so that a stale one is
 * told from one that never was. */
struct sim_object {
    struct sim_object *next;
    uint64_t id;
    uint64_t context; /* that it lives in; 0: in none */
    enum sim_kind kind;
};

void sim_object_add(struct sim_object *object, enum sim_kind kind, uint64_t context);
void sim_object_remove(struct sim_object *object);
/* The live object of a handle. On failure: INVALID_HANDLE, or CONTEXT_IS_DESTROYED; a stale handle is a violation. */
CUresult sim_object_find(enum sim_kind kind, uint64_t id, struct sim_object **object);
/* Calls visit for all objects of one kind. */
void sim_object_each(enum sim_kind kind, void (*visit)(struct sim_object *object, void *user), void *user);

/* ---- faults.c: violations, failures on purpose, delays ---- */

void sim_violation(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The result that a rule gives for this call, or CUDA_SUCCESS. */
CUresult sim_fault(enum sim_function function);
void sim_faults_from_environment(const char *text);
/* Microseconds to wait before an operation; state is a stream's own. */
unsigned sim_delay_us(uint64_t *state);

/* ---- settings.c ---- */

void sim_settings_read(void);

struct sim_settings {
    bool read;
    unsigned n_devices;
    size_t memory;
    size_t granularity; /* of cuMemCreate and cuMemMap: a power of two, SIM_GRANULARITY as a rule */
    int version;
    bool vmm, abort_on_violation, quiet;
    int capability, multiprocessors;
    uint64_t seed;
    unsigned delay_us;
};

/* ---- arena.c: addresses and the bytes behind them ---- */

/* A set of used intervals, sorted. */
struct sim_extent {
    struct sim_extent *next;
    uint64_t start, end;
};
struct sim_space {
    uint64_t start, end; /* all of it */
    uint64_t cursor;     /* the search starts here: what was given back is not used again soon */
    struct sim_extent *used;
};

bool sim_arena_open(void); /* once, at cuInit */
bool sim_arena_contains(uint64_t address, size_t bytes);
/* Called without the lock. */
void *sim_arena_host(uint64_t address);
/* The device address of a backing byte; 0: it is none. Async-signal-safe, without the lock. */
uint64_t sim_arena_device(const void *host);

/* Addresses; hint 0: anywhere. 0: there are none. */
uint64_t sim_addresses_take(uint64_t bytes, uint64_t alignment, uint64_t hint);
void sim_addresses_give(uint64_t start);
/* Physical memory, counted by the caller: an offset in the arena's file, filled with a pattern that is NaN in every float
 * type, because nothing promises zeros. False: the system has no room. */
bool sim_physical_take(uint64_t bytes, uint64_t *offset);
void sim_physical_give(uint64_t offset, uint64_t bytes);
bool sim_arena_map(uint64_t address, uint64_t bytes, uint64_t offset, bool accessible);
void sim_arena_unmap(uint64_t address, uint64_t bytes);
bool sim_arena_protect(uint64_t address, uint64_t bytes, CUmemAccess_flags access);

/* ---- memory.c: what is at which device address ---- */

struct sim_memory { /* physical memory behind a handle */
    struct sim_object object;
    uint64_t offset, bytes;
    int device;
    unsigned n_mappings;
    bool released;
};

struct sim_mapping {
    struct sim_mapping *next; /* by address */
    uint64_t start, bytes;
    struct sim_memory *memory;
    CUmemAccess_flags access;
};

struct sim_region { /* one cuMemAlloc, or one reservation */
    struct sim_region *next;
    uint64_t start, bytes;
    uint64_t taken; /* start of its addresses */
    bool reservation;
    uint64_t context;           /* of a cuMemAlloc; 0 otherwise */
    uint64_t offset, physical;  /* of a cuMemAlloc */
    int device;                 /* of a cuMemAlloc */
    struct sim_mapping *mapped; /* of a reservation */
};

struct sim_region *sim_region_at(uint64_t address);
void sim_region_add(struct sim_region *region);
void sim_region_remove(struct sim_region *region);
/* NULL: all of the span may be read, or written. Otherwise a static text that says what is wrong. */
const char *sim_span_trouble(uint64_t start, uint64_t bytes, bool write);
/* Takes `bytes` from the device's budget. */
bool sim_memory_charge(int device, uint64_t bytes);
void sim_memory_refund(int device, uint64_t bytes);

/* ---- host.c: pinned host memory ---- */

bool sim_host_is_pinned(const void *start, size_t bytes);
/* 0: not pinned, 1: registered, 2: allocated. */
int sim_host_range(const void *at, uint64_t *start, uint64_t *bytes);

/* ---- context.c ---- */

struct sim_device {
    struct sim_object *context; /* NULL while it is not retained */
    unsigned retained;
    uint64_t used; /* bytes of its memory */
    struct sim_stream *legacy;
};

/* The calling thread's; 0 if it has none. */
uint64_t sim_current_context(void);
bool sim_context_alive(uint64_t id);
struct sim_device *sim_context_device(uint64_t id);
int sim_device_number(const struct sim_device *device);

/* ---- ops.c: queued operations ---- */

struct sim_span {
    uint64_t start, bytes;
};

/* One recording of an event: what a wait holds on to while the event is recorded anew. */
struct sim_record {
    unsigned references;
    bool done;
    uint64_t done_ns;
};
struct sim_record *sim_record_new(void); /* NULL: no memory */
struct sim_record *sim_record_keep(struct sim_record *record);
void sim_record_drop(struct sim_record *record); /* NULL is ignored */

/* A kernel's plain C form in the project: `at` finds the bytes of a device address. */
typedef void sim_reference(const void *params, void *(*at)(uint64_t address));

enum sim_op_kind { SIM_OP_COPY, SIM_OP_FILL, SIM_OP_KERNEL, SIM_OP_HOST, SIM_OP_RECORD, SIM_OP_WAIT };

struct sim_op {
    struct sim_op *next;
    uint64_t seq; /* order of all operations of all streams */
    enum sim_op_kind kind;
    char name[32];                 /* for messages */
    struct sim_span writes, reads; /* device memory of copies and fills; bytes 0: none */
    struct sim_span host;          /* host memory of copies; bytes 0: none */
    bool pageable;                 /* the caller waits: host memory need not be pinned */
    uint32_t word;                 /* of fills: repeated from the start on */
    simcuda_run *run;              /* KERNEL: this one, or reference */
    sim_reference *reference;
    struct simcuda_launch launch;
    void *params; /* owned; param_bytes of them */
    size_t param_bytes;
    uint64_t module; /* of the kernel; 0: none */
    CUhostFn host_function;
    void *user;
    struct sim_record *record; /* RECORD, WAIT: a reference */
};

struct sim_op *sim_op_new(enum sim_op_kind kind, const char *name); /* NULL: no memory */
struct sim_op *sim_op_clone(const struct sim_op *op);
void sim_op_free(struct sim_op *op); /* NULL is ignored */
void sim_ops_free(struct sim_op *first);
/* Called without the lock. */
void sim_op_run(void *op);
/* Whether it may be queued now: its device memory has the rights, its host memory is pinned. */
CUresult sim_op_check(const struct sim_op *op);
/* Whether it uses the device span, the host span, or the module (b is ignored). */
bool sim_op_uses(const struct sim_op *op, uint64_t start, uint64_t bytes);
bool sim_op_uses_host(const struct sim_op *op, uint64_t start, uint64_t bytes);
bool sim_op_uses_module(const struct sim_op *op, uint64_t module, uint64_t b);

/* ---- stream.c ---- */

struct sim_stream {
    struct sim_object object; /* id 0: stream 0, or a thread's own */
    struct sim_stream *next;  /* of all streams whose thread lives */
    struct sim_op *first, *last;
    pthread_t thread;
    bool joinable;
    bool blocking; /* against stream 0 */
    bool legacy;   /* is stream 0 */
    bool dying;    /* its thread ends when the queue is empty */
    bool orphan;   /* no handle is left: its thread frees it */
    uint64_t number, delay_state;
    unsigned holds;
    struct sim_capture *capture; /* NULL: none */
};

/* The stream of a handle, stream 0, or the calling thread's own. */
CUresult sim_stream_find(CUstream handle, struct sim_stream **stream);
/* Queues the operation, or puts it into the stream's capture; takes it over in any case. NULL: OUT_OF_MEMORY. */
CUresult sim_stream_put(struct sim_stream *stream, struct sim_op *op);
/* Waits until all that is queued now is done; for stream 0, in the other blocking streams too. Gives the lock back
 * meanwhile. */
CUresult sim_stream_drain(struct sim_stream *stream);
/* Likewise, for all streams of a context. */
CUresult sim_streams_drain(uint64_t context);
/* Ends the threads of a context's streams. Precondition: it is dead, their queues are empty. */
void sim_streams_end(uint64_t context);
/* The name of an operation, queued or running, for which `uses` is true; NULL: none. */
const char *sim_streams_any(bool (*uses)(const struct sim_op *, uint64_t, uint64_t), uint64_t a, uint64_t b);
/* Whether the calling thread runs a host function for a stream. */
bool sim_in_host_function(void);
void sim_set_in_host_function(bool inside);

/* ---- guard.c: touches of device memory without access ---- */

/* Runs the function. False: it touched device memory that it may not, at *address, and was cut short. Called without the
 * lock. */
bool sim_guard_run(void (*run)(void *), void *user, uint64_t *address);
void sim_guard_install(void);

/* ---- event.c ---- */

struct sim_event {
    struct sim_object object;
    unsigned flags;
    struct sim_record *record; /* NULL: never recorded, or captured */
    uint64_t captured_in;      /* number of the capture that it was last recorded in; 0: none */
};

/* ---- capture.c ---- */

struct sim_capture {
    uint64_t number;
    CUstreamCaptureMode mode;
    pthread_t owner;
    bool spoiled;
    struct sim_op *first, *last;
};

/* Puts an operation into the stream's capture; takes it over. */
CUresult sim_capture_put(struct sim_stream *stream, struct sim_op *op);
/* Whether a capture forbids the calling thread an unsafe call; if so, that capture is spoiled. */
CUresult sim_capture_forbids_unsafe(void);
/* Stream 0 would wait for the captured work of a blocking stream: spoils that capture. */
CUresult sim_capture_forbids_legacy(uint64_t context);
/* A wait for the whole context, captured work included: spoils its captures. */
CUresult sim_capture_forbids_context(uint64_t context);
/* Spoils the capture with that number, if it still goes on. */
void sim_capture_spoil(uint64_t number);
void sim_capture_drop(struct sim_stream *stream);
void sim_captures_end(uint64_t context);

/* ---- module.c, kernels.c ---- */

struct sim_kernel {
    char name[64];
    size_t param_bytes;
    simcuda_run *run; /* this one, or reference */
    sim_reference *reference;
};
const struct sim_kernel *sim_kernel_find(const char *name);
void sim_kernels_register(void); /* the project's own */

/* ---- all of it ---- */

struct sim {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool initialised;
    pid_t pid; /* of cuInit: a child of fork has no driver */
    CUresult lost;
    struct sim_settings settings;
    struct sim_device devices[SIM_MAX_DEVICES];
    struct sim_region *regions; /* by address */
    struct sim_stream *streams;
    unsigned holds;     /* of all streams */
    uint64_t n_streams; /* ever created: their numbers */
    uint64_t next_seq;
    uint64_t calls[SIM_N_FUNCTIONS];
    struct simcuda_usage usage; /* queued and contexts are counted when asked for */
};
extern struct sim sim;

#endif
