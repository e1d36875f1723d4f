/* SPDX-License-Identifier: Apache-2.0
 *
 * The way into the driver: the table of its functions, cuGetProcAddress, and what is checked before each call. */
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "tests/simcuda/sim.h"
#include "vmm/driver/functions.h"

struct sim sim = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

const struct sim_function_info sim_functions[SIM_N_FUNCTIONS] = {
#define X(id, symbol, name, version, rules, params) [SIM_##id] = {#name, version, rules, (void (*)(void))symbol},
    SIMCUDA_EXPORTS(X)
#undef X
};

static void (*const per_thread[SIM_N_FUNCTIONS])(void) = {
#define P(id, symbol, params) [SIM_##id] = (void (*)(void))symbol,
    SIMCUDA_PER_THREAD_EXPORTS(P)
#undef P
};

/* All that kvmm calls is here, in the version and with the parameters that it expects. */
#define X(id, symbol, name, version, rules, params)                                                                    \
    enum { VERSION_##id = version };                                                                                   \
    typedef __typeof__(symbol) type_##id;
SIMCUDA_EXPORTS(X)
#undef X
#define X(name, version, params)                                                                                       \
    _Static_assert(VERSION_##name == (version), "version of " #name);                                                  \
    _Static_assert(__builtin_types_compatible_p(type_##name, CUresult params), "parameters of " #name);
CUDA_DRIVER_FUNCTIONS(X)
#undef X

void sim_lock(void)
{
    pthread_mutex_lock(&sim.lock);
    if (!sim.settings.read)
        sim_settings_read();
}

void sim_unlock(void)
{
    pthread_mutex_unlock(&sim.lock);
}

static CUresult check_rules(enum sim_rules rules)
{
    if (rules == SIM_ANY_TIME)
        return CUDA_SUCCESS;
    if (sim_in_host_function()) {
        sim_violation("a host function called the driver");
        return CUDA_ERROR_NOT_PERMITTED;
    }
    if (!sim.initialised || sim.pid != getpid())
        return CUDA_ERROR_NOT_INITIALIZED;
    if (sim.lost != CUDA_SUCCESS)
        return sim.lost;
    if (rules == SIM_AFTER_INIT)
        return CUDA_SUCCESS;
    uint64_t context = sim_current_context();
    if (!context)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!sim_context_alive(context)) {
        sim_violation("the thread's current context was destroyed");
        return SIM_ERROR_CONTEXT_IS_DESTROYED;
    }
    return rules == SIM_UNSAFE ? sim_capture_forbids_unsafe() : CUDA_SUCCESS;
}

CUresult sim_enter(enum sim_function function)
{
    sim_lock();
    sim.calls[function]++;
    CUresult result = sim_fault(function);
    if (result == CUDA_SUCCESS)
        result = check_rules(sim_functions[function].rules);
    if (result != CUDA_SUCCESS)
        sim_unlock();
    return result;
}

CUresult sim_leave(CUresult result)
{
    sim_unlock();
    return result;
}

/* Names are equal or not: no prefix, no suffix. Of several forms, the newest that is not newer than `version`. */
static CUdriverProcAddressQueryResult find(const char *symbol, int version, uint64_t flags, void **function)
{
    CUdriverProcAddressQueryResult found = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    int best = -1;
    *function = NULL;
    for (int i = 0; i < SIM_N_FUNCTIONS; i++) {
        const struct sim_function_info *info = &sim_functions[i];
        if (strcmp(info->name, symbol) != 0 || info->version > sim.settings.version)
            continue;
        if (info->version > version) {
            if (best < 0)
                found = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
        } else if (best < 0 || info->version > sim_functions[best].version) {
            best = i;
        }
    }
    if (best < 0)
        return found;
    bool own = flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM && per_thread[best];
    void (*const address)(void) = own ? per_thread[best] : sim_functions[best].function;
    memcpy(function, &address, sizeof address);
    return CU_GET_PROC_ADDRESS_SUCCESS;
}

static bool bad_query(const char *symbol, void *const *function, int version, uint64_t flags)
{
    uint64_t known = CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
    return !symbol || !function || flags & ~known || version > sim.settings.version;
}

CUresult cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags)
{
    CUresult rc = sim_enter(SIM_GetProcAddress);
    if (rc)
        return rc;
    if (bad_query(symbol, function, version, flags))
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    CUdriverProcAddressQueryResult found = find(symbol, version, flags, function);
    return sim_leave(found == CU_GET_PROC_ADDRESS_SUCCESS ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND);
}

/* Unlike the older form, this one calls it a success to find nothing, and says so in *found. */
CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags,
                             CUdriverProcAddressQueryResult *found)
{
    CUresult rc = sim_enter(SIM_GetProcAddress_v2);
    if (rc)
        return rc;
    if (bad_query(symbol, function, version, flags))
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    CUdriverProcAddressQueryResult result = find(symbol, version, flags, function);
    if (found)
        *found = result;
    return sim_leave(CUDA_SUCCESS);
}
