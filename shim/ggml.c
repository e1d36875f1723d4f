/* SPDX-License-Identifier: Apache-2.0
 *
 * llama.cpp: the buffer that holds tensors named cache_k* or cache_v* is the cache. Its allocation follows on the same thread,
 * within this call. Names and signatures: ggml-backend.h, ggml.h of ggml. */
#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <string.h>

#include "shim/elf_objects.h"
#include "shim/hook.h"
#include "shim/log.h"
#include "shim/real.h"
#include "shim/select.h"
#include "shim/start.h"

struct ggml_context;
struct ggml_tensor;
struct ggml_backend_buffer;
struct ggml_backend_buffer_type;

struct ggml_backend_buffer *ggml_backend_alloc_ctx_tensors_from_buft(struct ggml_context *ctx,
                                                                     struct ggml_backend_buffer_type *buft);

typedef struct ggml_backend_buffer *(*alloc_function)(struct ggml_context *, struct ggml_backend_buffer_type *);

static const char hooked[] = "ggml_backend_alloc_ctx_tensors_from_buft";

/* What the caller would have got. An object that was loaded RTLD_LOCAL finds it among its own libraries, and there may be
 * several ggml in a process. */
static alloc_function find_real(const void *caller)
{
    struct shim_object object = {0};
    void *found = NULL;
    if (shim_elf_at(caller, &object) && !object.is_program) {
        found = shim_elf_symbol(&object, hooked);
        void *handle = found ? NULL : dlopen(object.path, RTLD_LAZY | RTLD_NOLOAD);
        if (handle) {
            found = shim_real.dlsym(handle, hooked);
            dlclose(handle);
        }
    }
    if (object.is_program)
        found = shim_elf_next(hooked);
    return (alloc_function)(found ? found : shim_elf_any(hooked));
}

/* A function of the same ggml as `real`. */
static void *find_beside(alloc_function real, const char *name)
{
    struct shim_object object;
    void *found = shim_elf_at((const void *)real, &object) ? shim_elf_symbol(&object, name) : NULL;
    return found ? found : shim_elf_any(name);
}

/* The size of the smallest tensor if they are of a cache, else 0. The buffer is at least that large; an allocation that the
 * call makes for itself, before, is hardly. */
static size_t least_of_cache(alloc_function real, struct ggml_context *ctx)
{
    struct ggml_tensor *(*first)(const struct ggml_context *) = find_beside(real, "ggml_get_first_tensor");
    struct ggml_tensor *(*next)(const struct ggml_context *, struct ggml_tensor *) =
        find_beside(real, "ggml_get_next_tensor");
    const char *(*name_of)(const struct ggml_tensor *) = find_beside(real, "ggml_get_name");
    size_t (*size_of)(const struct ggml_tensor *) = find_beside(real, "ggml_nbytes");
    struct ggml_tensor *tensor = first && name_of ? first(ctx) : NULL;
    const char *name = tensor ? name_of(tensor) : NULL;
    if (!name || (strncmp(name, "cache_k", 7) != 0 && strncmp(name, "cache_v", 7) != 0))
        return 0;
    size_t least = SHIM_THRESHOLD;
    for (; next && size_of && tensor; tensor = next(ctx, tensor)) {
        size_t bytes = size_of(tensor);
        least = bytes && bytes < least ? bytes : least;
    }
    return least;
}

SHIM_EXPORT struct ggml_backend_buffer *ggml_backend_alloc_ctx_tensors_from_buft(struct ggml_context *ctx,
                                                                                 struct ggml_backend_buffer_type *buft)
{
    shim_enter();
    alloc_function real = find_real(__builtin_return_address(0));
    shim_leave();
    if (!real) {
        shim_log("no library of this process has %s", hooked);
        return NULL;
    }
    if (!shim_is_on())
        return real(ctx, buft);
    shim_select_expect(least_of_cache(real, ctx));
    struct ggml_backend_buffer *buffer = real(ctx, buft);
    shim_select_expect(0);
    return buffer;
}
