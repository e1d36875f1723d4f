/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager: ranges of memory whose pages are in RAM up to a budget and else in a swap file, and come back when they are
 * touched. It knows addresses and bytes; which engine uses them and why is its caller's affair.
 *
 * A range is a memfd; its only mapping is the engine's *view*, registered with userfaultfd. It is divided into chunks. See
 * README.md for their states and the ways of their bytes.
 *
 * What reads of a range find is what was last written to it; what was never written, or was discarded, reads as zeros.
 *
 * All functions are thread-safe. None of them may be called while a lock is held that a thread of the engine may hold
 * while it touches a range (a fault waits for I/O). Errors are negative errno values. */
#ifndef SHIM_PAGER_PAGER_H
#define SHIM_PAGER_PAGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shim_pager;
struct swap_faults;

struct shim_pager_config {
    uint64_t memory;    /* bytes of RAM for all ranges together; 0: no limit. At least SHIM_PAGER_MIN_CHUNKS chunks */
    size_t chunk_bytes; /* a power of two, 4 KiB to 2 MiB; 0: shim_pager_chunk() */
    const char
        *swap_dir; /* NULL: no swap file; then only zeros can leave, and a page for which there is no room waits */
    uint64_t swap_bytes;      /* 0: until the file system is full */
    const char *swap_backend; /* "auto", "io_uring", "threads"; NULL: "auto" */
    uint64_t
        read_ahead_bytes; /* most that is fetched ahead of use at a time; 0: 8 MiB or a quarter of memory, the smaller */
    bool user_faults;     /* also where only faults from user mode can be handled (README.md) */
    void (*log)(void *user, bool warning, const char *line); /* never called with a lock held; may be NULL */
    void *log_user;
    const struct swap_faults *faults; /* tests */
};

#define SHIM_PAGER_MIN_CHUNKS 64

/* The chunk for so much memory and swap space (0: no limit). What a chunk costs hardly depends on its size, so a large one is
 * cheaper by the byte; of 256 or more there are enough to choose from. Without a limit nothing comes and goes, and a large one only
 * takes more than was touched. */
static inline size_t shim_pager_chunk(uint64_t memory, uint64_t swap_bytes)
{
    const uint64_t enough = (uint64_t)64 << 20;
    return memory >= enough && (swap_bytes == 0 || swap_bytes >= enough) ? (size_t)256 << 10 : (size_t)64 << 10;
}

/* Starts the pager's threads (all signals blocked). On failure nothing is left behind and reason[size] has one line that
 * says what is missing and what to change: -EPERM where the kernel allows this user no, or only user-mode, fault handling;
 * -ENOSYS without userfaultfd on shared memory (before Linux 5.13); -EINVAL for the numbers; what swap_file_open() says
 * (swap/swap.h) of the folder. */
int shim_pager_open(const struct shim_pager_config *config, struct shim_pager **pager, char *reason, size_t size);

/* Unmaps all ranges; no thread touches them any more. Sets *pager to NULL; NULL is ignored. */
void shim_pager_close(struct shim_pager **pager);

/* In a child after fork(): closes the descriptors that the child has of the parent's pager and makes every later call on it
 * do nothing and return -ECHILD. Ranges don't exist in a child (MADV_DONTFORK): touching one is SIGSEGV there.
 * Async-signal-safe. */
void shim_pager_forget_in_child(struct shim_pager *pager);

/* Makes a range of `bytes` (rounded up to whole pages) that reads as zeros. at: NULL, then its address is a multiple of
 * `alignment` (a power of two; 0: a page); or an address of the caller's, a multiple of the page size, where whatever is
 * mapped is replaced. No memory is taken until it is touched. -ENOMEM, -ENOSPC (too many ranges or chunks). */
int shim_pager_map(struct shim_pager *pager, void *at, size_t bytes, size_t alignment, void **base);

/* Forgets the range that begins at base. replace: anonymous zero pages are mapped in its place (what `at` replaced belongs
 * to an allocator); else the addresses are free. -ENOENT: no range begins there. */
int shim_pager_unmap(struct shim_pager *pager, void *base, bool replace);

/* The range that holds address: its base and size. False: none does. Lock-free and async-signal-safe; two loads when no
 * range is anywhere near. */
bool shim_pager_find(struct shim_pager *pager, const void *address, void **base, size_t *bytes);

/* Makes [address, address + bytes) read as zeros: memset(0) and MADV_DONTNEED. Whole chunks give up memory and swap space
 * without being read; the edges are written. -EINVAL: not within one range. */
int shim_pager_discard(struct shim_pager *pager, void *address, size_t bytes);

enum shim_advice { SHIM_WILL_NEED, /* fetch, as far as the budget allows */ SHIM_COLD /* may leave first */ };
int shim_pager_advise(struct shim_pager *pager, const void *address, size_t bytes, enum shim_advice advice);

/* Suspend: moves everything to the swap file and gives the memory back; then a touch waits until resume. wait_ms bounds
 * how long suspend itself waits (-ETIMEDOUT: it goes on suspending in the background). -ENOSPC: the swap file can't take
 * it; the pager is as it was before. Resume fetches what was in memory, as far as the budget goes, in the background.
 * Both succeed at once if that is the state already. */
int shim_pager_suspend(struct shim_pager *pager, uint32_t wait_ms);
int shim_pager_resume(struct shim_pager *pager);

struct shim_pager_info {
    uint64_t range_bytes;    /* of all ranges */
    uint64_t memory_bytes;   /* the budget; 0: none */
    uint64_t resident_bytes; /* now */
    uint64_t peak_bytes;
    uint64_t swapped_bytes;                             /* in the swap file alone */
    uint64_t lost_bytes;                                /* could not be read back: a touch is SIGBUS */
    uint64_t n_faults;                                  /* from the kernel, all kinds */
    uint64_t n_loads;                                   /* chunks read back because they were touched */
    uint64_t n_loads_ahead;                             /* chunks read ahead */
    uint64_t n_ahead_used;                              /* of those, touched before they left again */
    uint64_t n_writes, n_dropped_clean, n_dropped_zero; /* how chunks left */
    uint64_t fault_wait_ns; /* sum of the time from a touch of a chunk that was away until it was there */
    bool suspended;
    bool swap_failed;
    bool waiting; /* touches wait for room that can't be made now */
};
void shim_pager_get_info(struct shim_pager *pager, struct shim_pager_info *info);

#endif
