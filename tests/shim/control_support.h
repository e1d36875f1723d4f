/* SPDX-License-Identifier: Apache-2.0
 *
 * A control socket whose operations note what they are asked, and a client of it. */
#ifndef TESTS_SHIM_CONTROL_SUPPORT_H
#define TESTS_SHIM_CONTROL_SUPPORT_H

#include <stdatomic.h>
#include <stdint.h>

#include "shim/control.h"

/* What was asked, and what to answer. Written by the socket's thread between a request and its answer. */
struct control_calls {
    atomic_int n_suspend, n_resume, n_advise, n_info;
    uint32_t wait_ms;
    uintptr_t address;
    size_t bytes;
    int advice;

    int result;              /* of suspend, resume, advise */
    const char *reason;      /* NULL: none */
    const char *info;        /* the pairs; NULL: -EIO */
    atomic_int slow_suspend; /* suspend waits while it isn't 0 */
};

extern const struct shim_control_ops control_fake_ops; /* their user is a struct control_calls */

/* A fixture: a socket of this process, answered from control_calls. */
extern struct control_calls control_calls;
extern struct shim_control *control;
void control_start(void);
void control_stop(void);
int control_client(void); /* a new connection to it */

/* Connects to "\0NAME"; -1 with errno. */
int control_connect(const char *name);

/* Sends a request of so many bytes and returns the answer, good until the next call; "(gone)" if the connection ended
 * without one. */
const char *control_ask_bytes(int fd, const void *request, size_t bytes);
const char *control_ask(int fd, const char *request);

#endif
