/* SPDX-License-Identifier: Apache-2.0 */
#include "cublas.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define OLDEST_MAJOR 11

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cublas table; /* under lock until `ready`, then immutable */
static bool ready;

/* The name of the first function that is missing; NULL: none is. */
static const char *fill(void *library, struct cublas *blas)
{
    static const struct {
        const char *name;
        size_t offset;
    } functions[] = {
#define X(name, params) {#name, offsetof(struct cublas, name)},
        CUBLAS_FUNCTIONS(X)
#undef X
    };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *function = dlsym(library, functions[i].name);
        if (!function)
            return functions[i].name;
        *(void **)(void *)((char *)blas + functions[i].offset) = function;
    }
    return NULL;
}

/* A library of a newer major version than the driver's does not run on it; an older one does. */
static void *open_newest(const struct cuda_driver *driver, char *reason)
{
    int version = 0;
    (void)driver->DriverGetVersion(&version);
    const int newest = version / 1000 > OLDEST_MAJOR ? version / 1000 : OLDEST_MAJOR;
    for (int major = newest; major >= OLDEST_MAJOR; major--) {
        char name[32];
        (void)snprintf(name, sizeof name, "libcublas.so.%d", major);
        void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
        if (library)
            return library;
    }
    (void)snprintf(reason, CUBLAS_REASON,
                   "cuBLAS is not there: no libcublas.so.%d to .%d that loads; KVMM_LIBCUBLAS can name one", newest,
                   OLDEST_MAJOR);
    return NULL;
}

static int load(const struct cuda_driver *driver, char *reason)
{
    const char *name = getenv("KVMM_LIBCUBLAS");
    void *library;
    if (name && *name) {
        library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
        if (!library)
            (void)snprintf(reason, CUBLAS_REASON, "cuBLAS is not there: %s", dlerror());
    } else {
        name = "libcublas.so";
        library = open_newest(driver, reason);
    }
    if (!library)
        return -1;
    const char *missing = fill(library, &table);
    if (missing) {
        (void)snprintf(reason, CUBLAS_REASON, "%s is too old: it has no %s", name, missing);
        (void)dlclose(library);
        return -1;
    }
    return 0; /* never closed: the driver may call back into it until the process ends */
}

int cublas_get(const struct cuda_driver *driver, const struct cublas **blas, char reason[CUBLAS_REASON])
{
    (void)pthread_mutex_lock(&lock);
    if (!ready)
        ready = load(driver, reason) == 0;
    const int rc = ready ? 0 : -1;
    if (ready)
        *blas = &table;
    (void)pthread_mutex_unlock(&lock);
    return rc;
}

const char *cublas_status_name(cublasStatus_t status)
{
    static const char *const names[] = {
        [CUBLAS_STATUS_SUCCESS] = "CUBLAS_STATUS_SUCCESS",
        [CUBLAS_STATUS_NOT_INITIALIZED] = "CUBLAS_STATUS_NOT_INITIALIZED",
        [CUBLAS_STATUS_ALLOC_FAILED] = "CUBLAS_STATUS_ALLOC_FAILED",
        [CUBLAS_STATUS_INVALID_VALUE] = "CUBLAS_STATUS_INVALID_VALUE",
        [CUBLAS_STATUS_ARCH_MISMATCH] = "CUBLAS_STATUS_ARCH_MISMATCH",
        [CUBLAS_STATUS_MAPPING_ERROR] = "CUBLAS_STATUS_MAPPING_ERROR",
        [CUBLAS_STATUS_EXECUTION_FAILED] = "CUBLAS_STATUS_EXECUTION_FAILED",
        [CUBLAS_STATUS_INTERNAL_ERROR] = "CUBLAS_STATUS_INTERNAL_ERROR",
        [CUBLAS_STATUS_NOT_SUPPORTED] = "CUBLAS_STATUS_NOT_SUPPORTED",
        [CUBLAS_STATUS_LICENSE_ERROR] = "CUBLAS_STATUS_LICENSE_ERROR",
    };
    const char *name = (size_t)status < sizeof names / sizeof *names ? names[status] : NULL;
    return name ? name : "an unknown status of cuBLAS";
}
