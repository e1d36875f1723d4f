/* SPDX-License-Identifier: Apache-2.0
 *
 * Modules, their functions, and launches. An image is only looked at as far as to tell that it is one: what runs is the C
 * form of the kernel of that name (kernels.c). */
#include <stdlib.h>
#include <string.h>

#include "tests/simcuda/sim.h"

#define FATBIN_MAGIC    "\x50\xed\x55\xba" /* 0xba55ed50 */
#define ELF_MAGIC       "\177ELF"
#define MAX_THREADS     1024u
#define MAX_GRID_X      0x7fffffffu
#define MAX_GRID_YZ     65535u
#define SM_THREADS      2048u
#define SM_BLOCKS       32u
#define SM_SHARED       (228u << 10)
#define RESERVED_SHARED (1u << 10) /* of each block, by the driver */
#define MAX_BLOCK_Z     64u

struct function {
    struct sim_object object;
    uint64_t module;
    const struct sim_kernel *kernel;
    unsigned shared_limit;
};

/* The text of a PTX image begins with a comment or with its version. */
static bool is_ptx(const char *text)
{
    text += strspn(text, " \t\r\n");
    return strncmp(text, "//", 2) == 0 || strncmp(text, "/*", 2) == 0 || strncmp(text, ".version", 8) == 0;
}

/* Compared as text, so that a short text is not read past its end. */
static bool is_image(const char *image)
{
    return strncmp(image, FATBIN_MAGIC, 4) == 0 || strncmp(image, ELF_MAGIC, 4) == 0 || is_ptx(image);
}

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    CUresult rc = sim_enter(SIM_ModuleLoadData);
    if (rc)
        return rc;
    if (!module || !image)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    if (!is_image(image))
        return sim_leave(CUDA_ERROR_INVALID_IMAGE);
    struct sim_object *object = calloc(1, sizeof *object);
    if (!object)
        return sim_leave(CUDA_ERROR_OUT_OF_MEMORY);
    sim_object_add(object, SIM_MODULE, sim_current_context());
    sim.usage.modules++;
    *module = (CUmodule)(uintptr_t)object->id; /* NOLINT(performance-no-int-to-ptr): a number */
    return sim_leave(CUDA_SUCCESS);
}

static void drop_function_of(struct sim_object *object, void *module)
{
    if (((struct function *)object)->module != *(const uint64_t *)module)
        return;
    sim_object_remove(object);
    free(object);
}

CUresult cuModuleUnload(CUmodule handle)
{
    CUresult rc = sim_enter(SIM_ModuleUnload);
    if (rc)
        return rc;
    struct sim_object *object;
    rc = sim_object_find(SIM_MODULE, (uintptr_t)handle, &object);
    if (rc)
        return sim_leave(rc);
    const char *user = sim_streams_any(sim_op_uses_module, object->id, 0);
    if (user) {
        sim_violation("cuModuleUnload while %s is queued", user);
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    }
    sim_object_each(SIM_FUNCTION, drop_function_of, &object->id);
    sim_object_remove(object);
    free(object);
    sim.usage.modules--;
    return sim_leave(CUDA_SUCCESS);
}

struct wanted {
    uint64_t module;
    const struct sim_kernel *kernel;
    struct sim_object *found;
};

static void find_function(struct sim_object *object, void *arg)
{
    struct wanted *wanted = arg;
    const struct function *function = (const struct function *)object;
    if (function->module == wanted->module && function->kernel == wanted->kernel)
        wanted->found = object;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule handle, const char *name)
{
    CUresult rc = sim_enter(SIM_ModuleGetFunction);
    if (rc)
        return rc;
    struct sim_object *module;
    rc = function && name ? sim_object_find(SIM_MODULE, (uintptr_t)handle, &module) : CUDA_ERROR_INVALID_VALUE;
    if (rc)
        return sim_leave(rc);
    struct wanted wanted = {module->id, sim_kernel_find(name), NULL};
    if (!wanted.kernel)
        return sim_leave(CUDA_ERROR_NOT_FOUND);
    sim_object_each(SIM_FUNCTION, find_function, &wanted); /* the same name gives the same handle */
    if (!wanted.found) {
        struct function *made = calloc(1, sizeof *made);
        if (!made)
            return sim_leave(CUDA_ERROR_OUT_OF_MEMORY);
        made->module = wanted.module;
        made->kernel = wanted.kernel;
        made->shared_limit = SIM_SHARED_USUAL;
        sim_object_add(&made->object, SIM_FUNCTION, module->context);
        wanted.found = &made->object;
    }
    *function = (CUfunction)(uintptr_t)wanted.found->id; /* NOLINT(performance-no-int-to-ptr): a number */
    return sim_leave(CUDA_SUCCESS);
}

static CUresult find(CUfunction handle, struct function **function)
{
    struct sim_object *object;
    CUresult rc = sim_object_find(SIM_FUNCTION, (uintptr_t)handle, &object);
    if (rc == CUDA_SUCCESS)
        *function = (struct function *)object;
    return rc;
}

CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value)
{
    CUresult rc = sim_enter(SIM_FuncSetAttribute);
    if (rc)
        return rc;
    struct function *function;
    rc = find(handle, &function);
    if (rc)
        return sim_leave(rc);
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > (int)SIM_SHARED_OPT_IN)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    function->shared_limit = (unsigned)value;
    return sim_leave(CUDA_SUCCESS);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction handle, int block_size,
                                                     size_t shared_bytes)
{
    CUresult rc = sim_enter(SIM_OccupancyMaxActiveBlocksPerMultiprocessor);
    if (rc)
        return rc;
    struct function *function;
    rc = blocks && block_size > 0 ? find(handle, &function) : CUDA_ERROR_INVALID_VALUE;
    if (rc)
        return sim_leave(rc);
    size_t n = (unsigned)block_size <= MAX_THREADS ? SM_THREADS / (unsigned)block_size : 0;
    size_t by_shared = shared_bytes <= function->shared_limit ? SM_SHARED / (shared_bytes + RESERVED_SHARED) : 0;
    n = n < SM_BLOCKS ? n : SM_BLOCKS;
    *blocks = (int)(n < by_shared ? n : by_shared);
    return sim_leave(CUDA_SUCCESS);
}

static CUresult check_launch(const struct function *function, const struct simcuda_launch *launch)
{
    const unsigned *grid = launch->grid, *block = launch->block;
    uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] > MAX_GRID_X || grid[1] > MAX_GRID_YZ || grid[2] > MAX_GRID_YZ)
        return CUDA_ERROR_INVALID_VALUE;
    if (threads == 0 || block[0] > MAX_THREADS || block[1] > MAX_THREADS || block[2] > MAX_BLOCK_Z ||
        threads > MAX_THREADS)
        return CUDA_ERROR_INVALID_VALUE;
    return launch->shared_bytes > function->shared_limit ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

static struct sim_op *kernel_op(const char *name, const void *params, size_t bytes)
{
    struct sim_op *op = sim_op_new(SIM_OP_KERNEL, name);
    void *copy = op && bytes ? malloc(bytes) : NULL;
    if (op && bytes && !copy) {
        sim_op_free(op);
        return NULL;
    }
    if (copy) {
        memcpy(copy, params, bytes);
        op->params = copy;
        op->param_bytes = bytes;
    }
    return op;
}

static CUresult launch_function(CUfunction handle, const struct simcuda_launch *launch, CUstream stream_handle,
                                void **params, void **extra)
{
    struct function *function;
    struct sim_stream *stream;
    CUresult rc = find(handle, &function);
    if (rc == CUDA_SUCCESS)
        rc = sim_stream_find(stream_handle, &stream);
    if (rc == CUDA_SUCCESS && function->object.context != stream->object.context)
        rc = CUDA_ERROR_INVALID_HANDLE;
    if (rc == CUDA_SUCCESS)
        rc = check_launch(function, launch);
    if (rc)
        return rc;
    const struct sim_kernel *kernel = function->kernel;
    if (extra || (kernel->param_bytes && (!params || !params[0])))
        return CUDA_ERROR_INVALID_VALUE;
    struct sim_op *op = kernel_op(kernel->name, kernel->param_bytes ? params[0] : NULL, kernel->param_bytes);
    if (op) {
        op->run = kernel->run;
        op->reference = kernel->reference;
        op->launch = *launch;
        op->module = function->module;
    }
    return sim_stream_put(stream, op);
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void **params,
                        void **extra)
{
    CUresult rc = sim_enter(SIM_LaunchKernel);
    struct simcuda_launch launch = {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes};
    return rc ? rc : sim_leave(launch_function(function, &launch, stream, params, extra));
}

static CUresult launch_run(CUstream handle, const char *name, simcuda_run *run, const void *params, size_t bytes)
{
    struct sim_stream *stream;
    if (!sim.initialised || sim.lost != CUDA_SUCCESS)
        return sim.initialised ? sim.lost : CUDA_ERROR_NOT_INITIALIZED;
    if (!sim_context_alive(sim_current_context()))
        return CUDA_ERROR_INVALID_CONTEXT;
    CUresult rc = name && run && bytes <= SIM_MAX_PARAMS && (params || !bytes) ? sim_stream_find(handle, &stream)
                                                                               : CUDA_ERROR_INVALID_VALUE;
    if (rc)
        return rc;
    struct sim_op *op = kernel_op(name, params, bytes);
    if (op) {
        op->run = run;
        op->launch = (struct simcuda_launch){{1, 1, 1}, {1, 1, 1}, 0};
    }
    return sim_stream_put(stream, op);
}

CUresult simcuda_launch(CUstream stream, const char *name, simcuda_run *run, const void *params, size_t bytes)
{
    sim_lock();
    CUresult rc = launch_run(stream, name, run, params, bytes);
    sim_unlock();
    return rc;
}
