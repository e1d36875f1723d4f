/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels that cuModuleGetFunction finds: the project's plain C forms (kernels/cuda/reference.h) as far as they are
 * built in, and those that a test adds. */
#include <stdio.h>
#include <string.h>

#include "tests/simcuda/sim.h"

#ifdef SIMCUDA_REFERENCES
#include "kernels/cuda/reference.h"
#endif

static struct sim_kernel kernels[SIM_MAX_KERNELS]; /* under sim.lock; entries stay */
static size_t n_kernels;

static CUresult add(const struct sim_kernel *kernel)
{
    if (n_kernels == SIM_MAX_KERNELS || kernel->param_bytes > SIM_MAX_PARAMS)
        return CUDA_ERROR_INVALID_VALUE;
    kernels[n_kernels++] = *kernel;
    return CUDA_SUCCESS;
}

/* The latest of that name. */
const struct sim_kernel *sim_kernel_find(const char *name)
{
    for (size_t i = n_kernels; i-- > 0;)
        if (strcmp(kernels[i].name, name) == 0)
            return &kernels[i];
    return NULL;
}

void sim_kernels_register(void)
{
#ifdef SIMCUDA_REFERENCES
    for (size_t i = 0; i < kern_cu_n_references; i++) {
        const struct kern_cu_reference *reference = &kern_cu_references[i];
        struct sim_kernel kernel = {.param_bytes = reference->param_bytes, .reference = reference->run};
        snprintf(kernel.name, sizeof kernel.name, "%s", reference->name);
        add(&kernel);
    }
#endif
}

CUresult simcuda_add_kernel(const char *name, size_t param_bytes, simcuda_run *run)
{
    struct sim_kernel kernel = {.param_bytes = param_bytes, .run = run};
    if (!name || !run || strlen(name) >= sizeof kernel.name)
        return CUDA_ERROR_INVALID_VALUE;
    snprintf(kernel.name, sizeof kernel.name, "%s", name);
    sim_lock();
    CUresult rc = add(&kernel);
    sim_unlock();
    return rc;
}
