/* SPDX-License-Identifier: Apache-2.0
 *
 * cuInit, the devices, their primary contexts, and each thread's stack of current contexts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/simcuda/sim.h"

#define MAX_STACK 32

static _Thread_local uint64_t stack[MAX_STACK];
static _Thread_local unsigned depth;

/* Handles are numbers (objects.c) in the interface's pointer types. */
static CUcontext as_context(uint64_t id)
{
    return (CUcontext)(uintptr_t)id; /* NOLINT(performance-no-int-to-ptr) */
}

CUresult cuInit(unsigned flags)
{
    CUresult rc = sim_enter(SIM_Init);
    if (rc)
        return rc;
    if (flags)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    if (sim.initialised)
        return sim_leave(sim.pid == getpid() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED);
    if (sim.settings.n_devices == 0)
        return sim_leave(CUDA_ERROR_NO_DEVICE);
    if (!sim_arena_open())
        return sim_leave(CUDA_ERROR_OUT_OF_MEMORY);
    sim_kernels_register();
    sim.initialised = true;
    sim.pid = getpid();
    return sim_leave(CUDA_SUCCESS);
}

CUresult cuDriverGetVersion(int *version)
{
    CUresult rc = sim_enter(SIM_DriverGetVersion);
    if (rc)
        return rc;
    if (!version)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    *version = sim.settings.version;
    return sim_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGetCount(int *count)
{
    CUresult rc = sim_enter(SIM_DeviceGetCount);
    if (rc)
        return rc;
    if (!count)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    *count = (int)sim.settings.n_devices;
    return sim_leave(CUDA_SUCCESS);
}

static CUresult check_device(int device, const void *output)
{
    if (!output)
        return CUDA_ERROR_INVALID_VALUE;
    return device >= 0 && device < (int)sim.settings.n_devices ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    CUresult rc = sim_enter(SIM_DeviceGet);
    if (rc)
        return rc;
    rc = check_device(ordinal, device);
    if (rc == CUDA_SUCCESS)
        *device = ordinal;
    return sim_leave(rc);
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    CUresult rc = sim_enter(SIM_DeviceGetName);
    if (rc)
        return rc;
    rc = length > 0 ? check_device(device, name) : CUDA_ERROR_INVALID_VALUE;
    if (rc == CUDA_SUCCESS)
        snprintf(name, (size_t)length, "simcuda %d", device);
    return sim_leave(rc);
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    CUresult rc = sim_enter(SIM_DeviceTotalMem);
    if (rc)
        return rc;
    rc = check_device(device, bytes);
    if (rc == CUDA_SUCCESS)
        *bytes = sim.settings.memory;
    return sim_leave(rc);
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
    CUresult rc = sim_enter(SIM_DeviceGetAttribute);
    if (rc)
        return rc;
    const struct {
        int attribute, value;
    } values[] = {
        {1, 1024}, /* threads of a block */
        {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, sim.settings.multiprocessors},
        {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3},
        {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, sim.settings.capability / 10},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, sim.settings.capability % 10},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, SIM_SHARED_OPT_IN},
        {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, sim.settings.vmm},
    };
    rc = check_device(device, value);
    size_t i = 0, n = sizeof values / sizeof *values;
    while (i < n && values[i].attribute != (int)attribute)
        i++;
    if (rc == CUDA_SUCCESS && i == n)
        rc = CUDA_ERROR_INVALID_VALUE;
    if (rc == CUDA_SUCCESS)
        *value = values[i].value;
    return sim_leave(rc);
}

uint64_t sim_current_context(void)
{
    return depth ? stack[depth - 1] : 0;
}

struct sim_device *sim_context_device(uint64_t id)
{
    for (unsigned i = 0; i < sim.settings.n_devices; i++)
        if (sim.devices[i].context && sim.devices[i].context->id == id)
            return &sim.devices[i];
    return NULL;
}

bool sim_context_alive(uint64_t id)
{
    return sim_context_device(id) != NULL;
}

int sim_device_number(const struct sim_device *device)
{
    return (int)(device - sim.devices);
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice number)
{
    CUresult rc = sim_enter(SIM_DevicePrimaryCtxRetain);
    if (rc)
        return rc;
    rc = check_device(number, context);
    if (rc)
        return sim_leave(rc);
    struct sim_device *device = &sim.devices[number];
    if (!device->context) {
        struct sim_object *object = calloc(1, sizeof *object);
        if (!object)
            return sim_leave(CUDA_ERROR_OUT_OF_MEMORY);
        sim_object_add(object, SIM_CONTEXT, 0);
        device->context = object;
    }
    device->retained++;
    sim.usage.contexts++;
    *context = as_context(device->context->id);
    return sim_leave(CUDA_SUCCESS);
}

/* From here on a retain makes a new context, of another handle. */
static void destroy_context(struct sim_device *device)
{
    struct sim_object *context = device->context;
    device->context = NULL;
    device->legacy = NULL;
    sim_object_remove(context);
    sim_captures_end(context->id);
    sim_streams_end(context->id);
    free(context);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice number)
{
    static const char nothing;
    CUresult rc = sim_enter(SIM_DevicePrimaryCtxRelease);
    if (rc)
        return rc;
    rc = check_device(number, &nothing);
    if (rc)
        return sim_leave(rc);
    struct sim_device *device = &sim.devices[number];
    if (!device->retained) {
        sim_violation("a primary context was released more often than retained");
        return sim_leave(CUDA_ERROR_INVALID_CONTEXT);
    }
    if (device->retained == 1)
        rc = sim_streams_drain(device->context->id);
    if (rc)
        return sim_leave(rc);
    sim.usage.contexts--;
    if (--device->retained == 0) /* still: the lock was given back for a while */
        destroy_context(device);
    return sim_leave(CUDA_SUCCESS);
}

/* NULL is fine where the caller says so. A context that is not retained is invalid. */
static CUresult check_context(CUcontext context)
{
    struct sim_object *object;
    if (!context)
        return CUDA_SUCCESS;
    return sim_object_find(SIM_CONTEXT, (uintptr_t)context, &object) ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    CUresult rc = sim_enter(SIM_CtxPushCurrent);
    if (rc)
        return rc;
    rc = context && depth < MAX_STACK ? check_context(context) : CUDA_ERROR_INVALID_CONTEXT;
    if (rc == CUDA_SUCCESS)
        stack[depth++] = (uintptr_t)context;
    return sim_leave(rc);
}

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    CUresult rc = sim_enter(SIM_CtxPopCurrent);
    if (rc)
        return rc;
    if (!depth)
        return sim_leave(CUDA_ERROR_INVALID_CONTEXT);
    depth--;
    if (context)
        *context = as_context(stack[depth]);
    return sim_leave(CUDA_SUCCESS);
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    CUresult rc = sim_enter(SIM_CtxGetCurrent);
    if (rc)
        return rc;
    if (!context)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    *context = as_context(sim_current_context());
    return sim_leave(CUDA_SUCCESS);
}

/* Replaces the top of the stack; NULL takes it away. */
CUresult cuCtxSetCurrent(CUcontext context)
{
    CUresult rc = sim_enter(SIM_CtxSetCurrent);
    if (rc)
        return rc;
    rc = check_context(context);
    if (rc)
        return sim_leave(rc);
    if (depth)
        depth--;
    if (context)
        stack[depth++] = (uintptr_t)context;
    return sim_leave(CUDA_SUCCESS);
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    CUresult rc = sim_enter(SIM_CtxGetDevice);
    if (rc)
        return rc;
    if (!device)
        return sim_leave(CUDA_ERROR_INVALID_VALUE);
    *device = sim_device_number(sim_context_device(sim_current_context()));
    return sim_leave(CUDA_SUCCESS);
}

CUresult cuCtxSynchronize(void)
{
    CUresult rc = sim_enter(SIM_CtxSynchronize);
    if (rc)
        return rc;
    rc = sim_capture_forbids_context(sim_current_context());
    return sim_leave(rc ? rc : sim_streams_drain(sim_current_context()));
}
