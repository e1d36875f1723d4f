/* SPDX-License-Identifier: Apache-2.0
 *
 * The control socket: how `kvmm suspend PID`, `kvmm resume PID` and engines in other languages reach a process under the
 * shim. An abstract Unix-domain socket (unix(7)) of type SOCK_SEQPACKET named "\0kvmm-shim/PID": it vanishes with the process,
 * and there is one for each process that has a cache. Only a peer of the same effective user (SO_PEERCRED) or root is
 * answered.
 *
 * A request is one packet of text, a command and its arguments with single spaces between them, at most
 * SHIM_CONTROL_MAX bytes; an answer is one packet, "ok", "ok TEXT" or "error REASON" (one line):
 *
 *   suspend [MILLISECONDS]        everything to host memory and the swap file, memory given back; 60000 if unsaid
 *   resume
 *   advise ADDRESS LENGTH ADVICE  hexadecimal 0x…, bytes, "willneed", "cold" or "free"
 *   info                          "ok " and name=value pairs with single spaces between them
 */
#ifndef SHIM_CONTROL_H
#define SHIM_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHIM_CONTROL_MAX 4096

/* What requests become. Called on the socket's thread, one at a time; each returns 0 or -errno, with a reason in
 * reason[size] for the error answer if it has more to say than the errno. */
struct shim_control_ops {
    int (*suspend)(void *user, uint32_t wait_ms, char *reason, size_t size);
    int (*resume)(void *user, char *reason, size_t size);
    int (*advise)(void *user, void *address, size_t bytes, int advice, char *reason,
                  size_t size);                       /* enum kvmm_advice */
    int (*info)(void *user, char *text, size_t size); /* fills the pairs */
};

struct shim_control;

/* Starts the socket and its thread (all signals blocked; no memory is allocated after this). Returns 0 or -errno with
 * nothing left behind. */
int shim_control_open(const struct shim_control_ops *ops, void *user, struct shim_control **control);
void shim_control_close(struct shim_control **control);
void shim_control_forget_in_child(struct shim_control *control);

/* One request to one answer, apart from any socket: what the fuzz target calls. request need not end in a NUL and may hold
 * any bytes. Returns the answer's length. */
size_t shim_control_answer(const struct shim_control_ops *ops, void *user, const char *request, size_t bytes,
                           char *answer, size_t size);

#endif
