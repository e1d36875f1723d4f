/* SPDX-License-Identifier: Apache-2.0
 *
 * What the control socket's requests and kvmm_advise() become: calls of the pager and of the GPU side, whichever has the
 * cache. */
#ifndef SHIM_OPERATIONS_H
#define SHIM_OPERATIONS_H

#include <stddef.h>

#include "shim/control.h"

/* user: the struct shim_config. */
extern const struct shim_control_ops shim_operations;

/* kvmm_advise() with a reason. */
int shim_operation_advise(void *user, void *address, size_t bytes, int advice, char *reason, size_t size);

#endif
