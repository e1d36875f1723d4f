/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/driver/driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define SYSTEM_LIBRARY "libcuda.so.1"

typedef CUresult (*get_proc_v1)(const char *symbol, void **function, int version, uint64_t flags);
typedef CUresult (*get_proc_v2)(const char *symbol, void **function, int version, uint64_t flags,
                                CUdriverProcAddressQueryResult *found);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cuda_driver table; /* under lock until `ready`, then immutable */
static bool ready;

/* The two forms of cuGetProcAddress: that of CUDA 11.3, and that of 12, which says why it found nothing. */
struct finder {
    get_proc_v1 v1;
    get_proc_v2 v2;
};

static bool find(const struct finder *finder, const char *name, int version, void **function)
{
    CUdriverProcAddressQueryResult found = CU_GET_PROC_ADDRESS_SUCCESS;
    CUresult rc = finder->v2 ? finder->v2(name, function, version, CU_GET_PROC_ADDRESS_DEFAULT, &found)
                             : finder->v1(name, function, version, CU_GET_PROC_ADDRESS_DEFAULT);
    return rc == CUDA_SUCCESS && found == CU_GET_PROC_ADDRESS_SUCCESS && *function;
}

/* The name of the first function that is missing; NULL: none is. */
static const char *fill(const struct finder *finder, struct cuda_driver *driver)
{
    static const struct {
        const char *name;
        int version;
        size_t offset;
    } functions[] = {
#define X(name, version, params) {"cu" #name, version, offsetof(struct cuda_driver, name)},
        CUDA_DRIVER_FUNCTIONS(X)
#undef X
    };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void **at = (void **)(void *)((char *)driver + functions[i].offset);
        if (!find(finder, functions[i].name, functions[i].version, at))
            return functions[i].name;
    }
    return NULL;
}

static enum cuda_driver_status load(const char *name, char *reason)
{
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(reason, CUDA_DRIVER_REASON, "no CUDA driver: %s", dlerror());
        return CUDA_DRIVER_ABSENT;
    }
    struct finder finder;
    *(void **)&finder.v1 = dlsym(library, "cuGetProcAddress");
    *(void **)&finder.v2 = dlsym(library, "cuGetProcAddress_v2");
    const char *missing = finder.v1 || finder.v2 ? fill(&finder, &table) : "cuGetProcAddress";
    if (missing) {
        snprintf(reason, CUDA_DRIVER_REASON, "CUDA driver %s is too old: it has no %s; CUDA 11.4 or later is needed",
                 name, missing);
        dlclose(library);
        return CUDA_DRIVER_TOO_OLD;
    }
    CUresult rc = table.Init(0);
    if (rc != CUDA_SUCCESS) {
        snprintf(reason, CUDA_DRIVER_REASON, "CUDA driver %s: cuInit: %s", name, cuda_error_name(&table, rc));
        dlclose(library);
        return CUDA_DRIVER_NO_DEVICE;
    }
    return CUDA_DRIVER_OK; /* never closed: its threads may outlive us */
}

enum cuda_driver_status cuda_driver_get(const struct cuda_driver **driver, char reason[CUDA_DRIVER_REASON])
{
    enum cuda_driver_status status = CUDA_DRIVER_OK;
    pthread_mutex_lock(&lock);
    if (!ready) {
        const char *name = getenv("KVMM_LIBCUDA");
        status = load(name && *name ? name : SYSTEM_LIBRARY, reason);
        ready = status == CUDA_DRIVER_OK;
    }
    if (ready)
        *driver = &table;
    pthread_mutex_unlock(&lock);
    return status;
}

const char *cuda_error_name(const struct cuda_driver *driver, CUresult error)
{
    const char *name = NULL;
    if (driver->GetErrorName(error, &name) != CUDA_SUCCESS || !name)
        return "CUDA_ERROR_UNKNOWN";
    return name;
}
