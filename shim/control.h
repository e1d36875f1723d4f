/* SPDX-License-Identifier: Apache-2.0
 *
 * The control socket: how `kvmm suspend PID`, `kvmm resume PID` and engines in other languages reach a process under the
 * shim. An abstract Unix-domain socket (unix(7)) of type SOCK_SEQPACKET; it vanishes with the process. There is one for
 * each process that has a cache, and for each whose rule was given (KVMM_SELECT) from the first allocation on that the rule
 * is asked about: so `kvmm ls` can say that the rule has selected nothing.
 *
 * Its name is "\0kvmm-shim/PID", PID being the process's id as it sees itself. Abstract names belong to a network
 * namespace, ids to a PID namespace, and anybody may take any name: where that one is taken, it is
 * "\0kvmm-shim/PID/XXXXXXXXXXXXXXXX", 16 random hexadecimal digits, to be found in /proc/net/unix. So a client asks the
 * kernel whom it has reached: SO_PEERCRED gives the id, in the client's PID namespace, of the process that listens.
 *
 * Only a peer of the same effective user (SO_PEERCRED) or root is answered; others get "error not permitted" and the end of
 * the connection. A connection takes any number of requests and is closed by the client; when SHIM_CONTROL_CLIENTS are
 * open and another one waits, the one that was silent for longest, a second at least, is closed.
 *
 * A request is one packet of text, a command and its arguments with single spaces between them, at most
 * SHIM_CONTROL_MAX bytes of printable ASCII, without a newline or NUL at its end; an answer is one packet, "ok", "ok TEXT"
 * or "error REASON" (one line):
 *
 *   suspend [MILLISECONDS]        everything to host memory and the swap file, memory given back; 60000 if unsaid
 *   resume
 *   advise ADDRESS LENGTH ADVICE  hexadecimal 0x…, decimal bytes, "willneed", "cold" or "free"
 *   info                          "ok " and name=value pairs with single spaces between them
 *
 * Requests are served one at a time, in turn. A client that goes away doesn't undo its request.
 *
 * Pairs of info; all are optional, a reader passes over those it doesn't know. Sizes in bytes; of limits, 0 is none:
 *
 *   device=cpu|cuda:N           what the caches are memory of
 *   state=running|suspended     or "suspending", "resuming" when it came to a halt in between
 *   caches=N bytes=N            selected allocations that live now, and their size together
 *   memory=N memory_limit=N     of them in RAM (cpu) or in device memory (cuda); KVMM_DEVICE_MEMORY
 *   host=N host_limit=N         in pinned host memory; KVMM_HOST_MEMORY
 *   swapped=N swap_limit=N      in the swap file; KVMM_SWAP_SIZE
 *   rule=TEXT                   KVMM_SELECT
 *   seen=N selected=N           allocations that the rule was asked about since the start, and those it selected
 *   started=N                   since when the shim works, nanoseconds of CLOCK_REALTIME
 */
#ifndef SHIM_CONTROL_H
#define SHIM_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHIM_CONTROL_MAX     4096
#define SHIM_CONTROL_CLIENTS 16
#define SHIM_CONTROL_NAME    "kvmm-shim/" /* behind the NUL */

/* What requests become. Called on the socket's thread, one at a time; each returns 0 or -errno, with a reason in
 * reason[size] for the error answer if it has more to say than the errno. */
struct shim_control_ops {
    int (*suspend)(void *user, uint32_t wait_ms, char *reason, size_t size);
    int (*resume)(void *user, char *reason, size_t size);
    int (*advise)(void *user, void *address, size_t bytes, int advice, char *reason,
                  size_t size);                       /* enum kvmm_advice */
    int (*info)(void *user, char *text, size_t size); /* fills the pairs, by shim_control_pair */
};

struct shim_control;

/* Starts the socket and its thread, "kvmm-control" (all signals blocked; no memory is allocated after this). *ops is
 * copied. Returns 0 or -errno with nothing left behind; *control is written on success only. Not to be called under a lock
 * that an operation takes. */
int shim_control_open(const struct shim_control_ops *ops, void *user, struct shim_control **control);

/* Waits for the request that is being served, if any: at most as long as its operation takes. Sets *control to NULL; NULL
 * in it already is nothing. */
void shim_control_close(struct shim_control **control);

/* For pthread_atfork's child handler: the child gives up its copies of the descriptors, or it would keep the name and the
 * connections alive. The parent's socket goes on. control is gone then, in the child. NULL is nothing. */
void shim_control_forget_in_child(struct shim_control *control);

/* The name in use, without the NUL before it: "kvmm-shim/1234". Valid until the close. */
const char *shim_control_name(const struct shim_control *control);

/* One request to one answer, apart from any socket: what the fuzz target calls. request need not end in a NUL and may hold
 * any bytes. Returns the answer's length; the answer is cut to size - 1 bytes and ends in a NUL (for size 0, nothing is
 * done). Allocates nothing. */
size_t shim_control_answer(const struct shim_control_ops *ops, void *user, const char *request, size_t bytes,
                           char *answer, size_t size);

/* For info: appends "name=value" to the string in text[size], behind a space if it isn't the first. In the value, spaces,
 * '%' and what isn't printable ASCII become %XX. Returns 0, or -ENOSPC with the text as it was. */
int shim_control_pair(char *text, size_t size, const char *name, const char *value);
int shim_control_pair_number(char *text, size_t size, const char *name, uint64_t value);

#endif
