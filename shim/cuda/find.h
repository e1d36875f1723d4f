/* SPDX-License-Identifier: Apache-2.0
 *
 * The real driver behind the hooks. Two tables: of the functions that are hooked, by their numbers below, and the one of
 * vmm/driver for the calls that kvmm makes itself. Neither lookup sees the hooks. */
#ifndef SHIM_CUDA_FIND_H
#define SHIM_CUDA_FIND_H

#include "shim/cuda/hooks.h"
#include "vmm/driver/driver.h"

enum shim_cuda_hook {
#define ONE_FORM(symbol, ...)          SHIM_##symbol,
#define TWO_FORMS(symbol, suffix, ...) SHIM_##symbol, SHIM_##symbol##suffix,
    SHIM_CUDA_HOOKS(ONE_FORM, TWO_FORMS, ONE_FORM, TWO_FORMS)
#undef ONE_FORM
#undef TWO_FORMS
        SHIM_N_CUDA_HOOKS
};

struct shim_cuda_hook_info {
    const char *symbol, *name;
    int version;
    uint64_t form; /* CU_GET_PROC_ADDRESS_LEGACY_STREAM or …_PER_THREAD_DEFAULT_STREAM */
    void (*hook)(void);
};
extern const struct shim_cuda_hook_info shim_cuda_hooks[SHIM_N_CUDA_HOOKS]; /* hooks.c */

/* The driver's own function; NULL: there is no driver in this process, or it is older than the function. The first call
 * loads the driver, which is there already where a hook was called. Never waits for anything but another first call. */
void (*shim_cuda_real(enum shim_cuda_hook hook))(void);

/* shim_cuda_real() with its type; `symbol` is the hook's. */
#define SHIM_CUDA_REAL(symbol) ((__typeof__(&symbol))shim_cuda_real(SHIM_##symbol))

/* dlsym, past the hooks. */
void *shim_cuda_find_symbol(void *library, const char *symbol);

/* The table of vmm/driver; NULL with a reason: it can't be had (older than CUDA 11.4, say). */
const struct cuda_driver *shim_cuda_driver(char reason[CUDA_DRIVER_REASON]);

/* The prototypes of the hooks. */
#define ONE_FORM(symbol, name, version, params, ...) __attribute__((visibility("default"))) CUresult symbol params;
#define TWO_FORMS(symbol, suffix, name, version, thread_version, params, ...)                                          \
    __attribute__((visibility("default"))) CUresult symbol params;                                                     \
    __attribute__((visibility("default"))) CUresult symbol##suffix params;
SHIM_CUDA_HOOKS(ONE_FORM, TWO_FORMS, ONE_FORM, TWO_FORMS)
#undef ONE_FORM
#undef TWO_FORMS

#endif
