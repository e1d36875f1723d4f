/* SPDX-License-Identifier: Apache-2.0
 *
 * How an engine comes to a hook instead of the driver's function: the linker, dlsym, or cuGetProcAddress. The last one is
 * asked by name, version and flags, and only the driver knows which of several forms that means. So the driver answers
 * first, and its answer is exchanged if it is the function behind a hook of exactly that name: versions that are not in
 * the list, and drivers newer than it, pass. */
#include "shim/cuda/find.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "shim/cuda/cuda.h"
#include "shim/hook.h"

#define SYSTEM_LIBRARY "libcuda.so.1"

typedef void *dlsym_function(void *handle, const char *name);
typedef CUresult get_proc_v1(const char *symbol, void **function, int version, uint64_t flags);
typedef CUresult get_proc_v2(const char *symbol, void **function, int version, uint64_t flags,
                             CUdriverProcAddressQueryResult *found);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void (*real[SHIM_N_CUDA_HOOKS])(void); /* written under lock before `loaded` is set */
static atomic_bool loaded;

/* dlsym is interposed by the shim; the C library's own, by the oldest version that each architecture has. */
static dlsym_function *real_dlsym(void)
{
    static _Atomic(dlsym_function *) found;
    dlsym_function *function = atomic_load_explicit(&found, memory_order_acquire);
    static const char *const versions[] = {"GLIBC_2.2.5", "GLIBC_2.17", "GLIBC_2.34", "GLIBC_2.27"};
    for (size_t i = 0; !function && i < sizeof versions / sizeof *versions; i++)
        *(void **)&function = dlvsym(RTLD_NEXT, "dlsym", versions[i]);
    atomic_store_explicit(&found, function, memory_order_release);
    return function;
}

void *shim_cuda_find_symbol(void *library, const char *symbol)
{
    dlsym_function *look = real_dlsym();
    return look ? look(library, symbol) : NULL;
}

static const char *library_name(void)
{
    const char *name = getenv("KVMM_LIBCUDA");
    return name && *name ? name : SYSTEM_LIBRARY;
}

static void *as_pointer(void (*function)(void))
{
    void *pointer;
    memcpy(&pointer, &function, sizeof pointer);
    return pointer;
}

/* By cuGetProcAddress, whose answers the engine's are compared with; by the symbol where the driver is older than that, or
 * where its table is bound to the hooks (a stand-in that was linked without -Bsymbolic). */
static void *find_function(void *library, get_proc_v1 *v1, get_proc_v2 *v2, const struct shim_cuda_hook_info *hook)
{
    void *function = NULL;
    CUdriverProcAddressQueryResult found = CU_GET_PROC_ADDRESS_SUCCESS;
    CUresult rc = CUDA_ERROR_NOT_FOUND;
    if (v2)
        rc = v2(hook->name, &function, hook->version, hook->form, &found);
    else if (v1)
        rc = v1(hook->name, &function, hook->version, hook->form);
    bool good =
        rc == CUDA_SUCCESS && found == CU_GET_PROC_ADDRESS_SUCCESS && function && function != as_pointer(hook->hook);
    return good ? function : shim_cuda_find_symbol(library, hook->symbol);
}

static void load(void)
{
    void *library = dlopen(library_name(), RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return; /* tried again at the next call: a library that is linked may not have been loaded yet */
    get_proc_v1 *v1;
    get_proc_v2 *v2;
    *(void **)&v1 = shim_cuda_find_symbol(library, "cuGetProcAddress");
    *(void **)&v2 = shim_cuda_find_symbol(library, "cuGetProcAddress_v2");
    for (int i = 0; i < SHIM_N_CUDA_HOOKS; i++) {
        void *function = find_function(library, v1, v2, &shim_cuda_hooks[i]);
        memcpy(&real[i], &function, sizeof function);
    }
    atomic_store_explicit(&loaded, true, memory_order_release);
}

void (*shim_cuda_real(enum shim_cuda_hook hook))(void)
{
    if (!atomic_load_explicit(&loaded, memory_order_acquire)) {
        shim_inside++;
        pthread_mutex_lock(&lock);
        if (!atomic_load_explicit(&loaded, memory_order_relaxed))
            load();
        pthread_mutex_unlock(&lock);
        shim_inside--;
    }
    return atomic_load_explicit(&loaded, memory_order_acquire) ? real[hook] : NULL;
}

const struct cuda_driver *shim_cuda_driver(char reason[CUDA_DRIVER_REASON])
{
    const struct cuda_driver *driver = NULL;
    shim_inside++; /* its dlsym is not the engine's */
    enum cuda_driver_status status = cuda_driver_get(&driver, reason);
    shim_inside--;
    return status == CUDA_DRIVER_OK ? driver : NULL;
}

/* ---- what the engine is answered ---- */

void *shim_cuda_dlsym(void *handle, const char *name)
{
    if (shim_inside || !name || name[0] != 'c' || name[1] != 'u' || handle == RTLD_NEXT)
        return NULL;
    for (int i = 0; i < SHIM_N_CUDA_HOOKS; i++) {
        if (strcmp(shim_cuda_hooks[i].symbol, name) == 0)
            return shim_cuda_find_symbol(handle, name) ? as_pointer(shim_cuda_hooks[i].hook) : NULL;
    }
    return NULL;
}

/* Exchanges what the driver answered to a query for `name`. */
static void exchange(const char *name, void **function)
{
    for (int i = 0; i < SHIM_N_CUDA_HOOKS; i++) {
        const struct shim_cuda_hook_info *hook = &shim_cuda_hooks[i];
        void (*behind)(void) = shim_cuda_real(i);
        if (behind && *function == as_pointer(behind) && strcmp(hook->name, name) == 0) {
            *function = as_pointer(hook->hook);
            return;
        }
    }
}

CUresult cuGetProcAddress(const char *symbol, void **function, int version, cuuint64_t flags)
{
    get_proc_v1 *get = SHIM_CUDA_REAL(cuGetProcAddress);
    if (!get)
        return CUDA_ERROR_NOT_INITIALIZED;
    CUresult rc = get(symbol, function, version, flags);
    if (rc == CUDA_SUCCESS && symbol && function && *function)
        exchange(symbol, function);
    return rc;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *found)
{
    get_proc_v2 *get = SHIM_CUDA_REAL(cuGetProcAddress_v2);
    if (!get)
        return CUDA_ERROR_NOT_INITIALIZED;
    CUresult rc = get(symbol, function, version, flags, found);
    if (rc == CUDA_SUCCESS && symbol && function && *function)
        exchange(symbol, function);
    return rc;
}
