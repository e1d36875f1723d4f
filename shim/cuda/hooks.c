/* SPDX-License-Identifier: Apache-2.0
 *
 * The hooks that pass a call on, and the table of all hooks, from the list in hooks.h. */
#include "shim/cuda/find.h"
#include "shim/cuda/touch.h"

#define LEGACY     CU_GET_PROC_ADDRESS_LEGACY_STREAM
#define PER_THREAD CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM

const struct shim_cuda_hook_info shim_cuda_hooks[SHIM_N_CUDA_HOOKS] = {
#define ROW(symbol, name, version, form)     [SHIM_##symbol] = {#symbol, #name, version, form, (void (*)(void))symbol},
#define ONE_FORM(symbol, name, version, ...) ROW(symbol, name, version, LEGACY)
#define TWO_FORMS(symbol, suffix, name, version, thread_version, ...)                                                  \
    ROW(symbol, name, version, LEGACY) ROW(symbol##suffix, name, thread_version, PER_THREAD)
    SHIM_CUDA_HOOKS(ONE_FORM, TWO_FORMS, ONE_FORM, TWO_FORMS)
#undef ONE_FORM
#undef TWO_FORMS
#undef ROW
};

#define SPAN_LIST(...)                                                                                                 \
    shim_cuda_enter_spans(&inside, (const struct shim_cuda_span[]){__VA_ARGS__},                                       \
                          sizeof((const struct shim_cuda_span[]){__VA_ARGS__}) / sizeof(struct shim_cuda_span))

#define ANY                            shim_cuda_enter_any(&inside)
#define ONE(at, bytes)                 SPAN_LIST({at, bytes})
#define TWO(a, a_bytes, b, b_bytes)    SPAN_LIST({a, a_bytes}, {b, b_bytes})
#define MANY(to, from, bytes, n)       shim_cuda_enter_many(&inside, to, from, bytes, n)
#define ROWS(at, pitch, width, height) SPAN_LIST(shim_cuda_span_rows(at, pitch, width, height))
#define SPANS(kind)                    shim_cuda_enter_spans(&inside, shim_cuda_spans_##kind(copy).of, 2)

#define PASS(symbol, name, version, params, args, touch)                                                               \
    CUresult symbol params                                                                                             \
    {                                                                                                                  \
        __typeof__(&symbol) real = SHIM_CUDA_REAL(symbol);                                                             \
        bool inside;                                                                                                   \
        if (!real)                                                                                                     \
            return CUDA_ERROR_NOT_INITIALIZED;                                                                         \
        CUresult rc = touch;                                                                                           \
        if (rc != CUDA_SUCCESS)                                                                                        \
            return rc;                                                                                                 \
        rc = real args;                                                                                                \
        shim_cuda_leave(inside);                                                                                       \
        return rc;                                                                                                     \
    }
#define PASS2(symbol, suffix, name, version, thread_version, params, args, touch)                                      \
    PASS(symbol, name, version, params, args, touch)                                                                   \
    PASS(symbol##suffix, name, thread_version, params, args, touch)
#define OWN(...)
SHIM_CUDA_HOOKS(PASS, PASS2, OWN, OWN)
