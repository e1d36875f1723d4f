/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels' own sources, compiled for the emulation, behind a driver's functions. */
#include "tests/kernels/cuda_emulation/kernels.hpp"

#include <cstring>

#include "kernels/cuda/functions.h"
#include "kernels/cuda/kernels.cu"
extern "C" {
#include "kernels/cuda/reference.h"
}
#include "tests/kernels/cuda_emulation/emulation.hpp"

emulated_device device;

struct entry {
    const char *name;
    uint32_t shared_limit; /* dynamic bytes that a launch may ask for */
    void (*run)(const void *params);
};

static entry entries[] = {
#define X(name, parameters, form)                                                                                      \
    {"kern_cu_" #name, 48u << 10,                                                                                      \
     [](const void *params) { kern_cu_##name(*static_cast<const struct kern_cu_##parameters *>(params)); }},
    KERN_CU_FUNCTIONS(X)
#undef X
};

static CUresult attribute(int *value, CUdevice_attribute which, CUdevice)
{
    *value = which == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? device.n_multiprocessors : device.major;
    return CUDA_SUCCESS;
}

static CUresult load_data(CUmodule *module, const void *image)
{
    *module = reinterpret_cast<CUmodule>(const_cast<void *>(image));
    return CUDA_SUCCESS;
}

static CUresult unload(CUmodule)
{
    return CUDA_SUCCESS;
}

static CUresult get_function(CUfunction *function, CUmodule, const char *name)
{
    for (entry &e : entries)
        if (strcmp(e.name, name) == 0) {
            *function = reinterpret_cast<CUfunction>(&e);
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}

static CUresult set_attribute(CUfunction function, CUfunction_attribute which, int value)
{
    if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > 227 << 10)
        return CUDA_ERROR_INVALID_VALUE;
    reinterpret_cast<entry *>(function)->shared_limit = static_cast<uint32_t>(value);
    return CUDA_SUCCESS;
}

static void *same_address(uint64_t address)
{
    return reinterpret_cast<void *>(address);
}

static CUresult run_plain(const char *name, const void *params)
{
    for (size_t i = 0; i < kern_cu_n_references; i++)
        if (strcmp(kern_cu_references[i].name, name) == 0) {
            kern_cu_references[i].run(params, same_address);
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}

static CUresult launch_kernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned block_x,
                              unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream, void **params,
                              void **extra)
{
    const entry *e = reinterpret_cast<const entry *>(function);

    if (device.fails != CUDA_SUCCESS)
        return device.fails;
    if (block_y != 1 || block_z != 1 || extra || shared_bytes > e->shared_limit || y > 65535 || z > 65535)
        return CUDA_ERROR_INVALID_VALUE;
    device.launched.push_back(e->name);
    if (device.plain_c)
        return run_plain(e->name, params[0]);
    emulation::launch l;
    l.kernel = [&] { e->run(params[0]); };
    l.grid[0] = x;
    l.grid[1] = y;
    l.grid[2] = z;
    l.threads = block_x;
    l.shared_bytes = shared_bytes;
    l.seed = device.seed;
    l.may_read = device.may_read;
    const std::string error = emulation::run(l);
    if (device.error.empty() && !error.empty())
        device.error = std::string(e->name) + ": " + error;
    return CUDA_SUCCESS;
}

const struct cuda_driver *emulated_driver()
{
    static struct cuda_driver driver;

    driver.DeviceGetAttribute = attribute;
    driver.ModuleLoadData = load_data;
    driver.ModuleUnload = unload;
    driver.ModuleGetFunction = get_function;
    driver.FuncSetAttribute = set_attribute;
    driver.LaunchKernel = launch_kernel;
    return &driver;
}
