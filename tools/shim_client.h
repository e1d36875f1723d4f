/* SPDX-License-Identifier: Apache-2.0
 *
 * Asks processes under the shim by their control sockets (shim/control.h). The kernel says which process a socket is of,
 * whatever its name; what the process answers is made safe to print and not trusted otherwise. Every call ends in the time
 * it is given. */
#ifndef TOOLS_SHIM_CLIENT_H
#define TOOLS_SHIM_CLIENT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "shim/control.h"

enum shim_client_answer {
    SHIM_CLIENT_OK = 0,
    SHIM_CLIENT_NO_PROCESS, /* no such process, or it has just ended */
    SHIM_CLIENT_NO_SOCKET,  /* it isn't under the shim, or has nothing to control: the text says which */
    SHIM_CLIENT_DENIED,     /* it belongs to another user */
    SHIM_CLIENT_TIMED_OUT,  /* it is busy with another request, stopped, or needs longer for this one */
    SHIM_CLIENT_ERROR,      /* it couldn't: the text is its reason */
    SHIM_CLIENT_FAILED      /* this process couldn't, or the answer is none: the text says why */
};

#define SHIM_CLIENT_TEXT (SHIM_CONTROL_MAX + 1)

/* The answer to one request within wait_ms. text[SHIM_CLIENT_TEXT]: what followed "ok", or why not; one line, without a
 * newline at its end. */
enum shim_client_answer shim_client_ask(pid_t pid, const char *request, uint64_t wait_ms, char *text);

/* "NAME: …" on stderr, in one line: why process pid gave no good answer. */
void shim_client_explain(const char *command, pid_t pid, enum shim_client_answer answer, const char *text);

struct shim_client_process {
    pid_t pid;
    enum shim_client_answer answer; /* OK, DENIED, TIMED_OUT, ERROR or FAILED */
    char text[SHIM_CLIENT_TEXT];
};

/* Asks each process that has a control socket and an id in our PID namespace; all of them within wait_ms together.
 * *processes is in ascending order of pid and the caller's to free. Returns OK or FAILED, with a reason in
 * text[SHIM_CLIENT_TEXT]. */
enum shim_client_answer shim_client_ask_all(const char *request, uint64_t wait_ms,
                                            struct shim_client_process **processes, size_t *n_processes, char *text);

#endif
