/* SPDX-License-Identifier: Apache-2.0
 *
 * Modules and launches: an image is one or is refused, a kernel runs with the parameters of its launch. */
#include "support.h"

struct scale {
    CUdeviceptr values; /* u32 [n] */
    uint32_t n, factor;
};

static void scale(const void *params, const struct simcuda_launch *launch)
{
    const struct scale *p = params;
    uint32_t *values = simcuda_host_address(p->values);
    for (uint32_t i = 0; i < p->n; i++)
        values[i] = values[i] * p->factor + launch->grid[0] * launch->block[0];
}

static CUmodule load(const void *image)
{
    CUmodule module = NULL;
    OK(cuModuleLoadData(&module, image));
    return module;
}

START_TEST(images_are_told_from_other_data)
{
    static const uint32_t fatbin[4] = {0xba55ed50}, other[4] = {0x12345678};
    static const char *const good[] = {"\177ELF...", ".version 8.0\n.target sm_80", "// a comment\n", "\n/* c */"};
    CUmodule module = NULL;
    OK(cuModuleUnload(load(fatbin)));
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        OK(cuModuleUnload(load(good[i])));
    FAILS(cuModuleLoadData(&module, other), CUDA_ERROR_INVALID_IMAGE);
    FAILS(cuModuleLoadData(&module, "text"), CUDA_ERROR_INVALID_IMAGE);
    FAILS(cuModuleLoadData(&module, ""), CUDA_ERROR_INVALID_IMAGE);
    FAILS(cuModuleLoadData(&module, NULL), CUDA_ERROR_INVALID_VALUE);
    ck_assert_ptr_null(module);
}
END_TEST

START_TEST(a_kernel_runs_with_its_parameters)
{
    CUdeviceptr device;
    CUfunction function, again;
    CUstream stream = make_stream(0);
    CUmodule module = load(".version 8.0");
    uint32_t values[8];
    OK(cuMemAlloc_v2(&device, sizeof values));
    OK(simcuda_add_kernel("scale", sizeof(struct scale), scale));
    FAILS(cuModuleGetFunction(&function, module, "scal"), CUDA_ERROR_NOT_FOUND);
    FAILS(cuModuleGetFunction(&function, module, "scale2"), CUDA_ERROR_NOT_FOUND);
    OK(cuModuleGetFunction(&function, module, "scale"));
    OK(cuModuleGetFunction(&again, module, "scale"));
    ck_assert_ptr_eq(function, again);
    for (uint32_t i = 0; i < 8; i++)
        values[i] = i;
    OK(cuMemcpyHtoD_v2(device, values, sizeof values));
    struct scale p = {device, 8, 3};
    void *params[] = {&p};
    simcuda_hold(stream);
    OK(cuLaunchKernel(function, 4, 1, 1, 32, 1, 1, 0, stream, params, NULL));
    memset(&p, 0, sizeof p); /* the launch has taken a copy */
    FAILS(cuModuleUnload(module), CUDA_ERROR_INVALID_VALUE);
    expect_violation("scale is queued");
    simcuda_release(stream);
    OK(cuStreamSynchronize(stream));
    OK(cuMemcpyDtoH_v2(values, device, sizeof values));
    for (uint32_t i = 0; i < 8; i++)
        ck_assert_uint_eq(values[i], i * 3 + 128);
    OK(cuModuleUnload(module));
    FAILS(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL), CUDA_ERROR_INVALID_HANDLE);
    expect_violation("destroyed before");
    FAILS(cuModuleUnload(module), CUDA_ERROR_INVALID_HANDLE);
    expect_violation("destroyed before");
    OK(cuMemFree_v2(device));
    OK(cuStreamDestroy_v2(stream));
}
END_TEST

START_TEST(launches_have_bounds)
{
    CUfunction f;
    CUmodule module = load(".version 8.0");
    struct scale p = {0};
    void *params[] = {&p};
    int blocks = 0;
    OK(simcuda_add_kernel("bounded", sizeof p, scale));
    OK(cuModuleGetFunction(&f, module, "bounded"));
    FAILS(cuLaunchKernel(f, 0, 1, 1, 32, 1, 1, 0, NULL, params, NULL), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuLaunchKernel(f, 1, 65536, 1, 32, 1, 1, 0, NULL, params, NULL), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuLaunchKernel(f, 1, 1, 1, 0, 1, 1, 0, NULL, params, NULL), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuLaunchKernel(f, 1, 1, 1, 1025, 1, 1, 0, NULL, params, NULL), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuLaunchKernel(f, 1, 1, 1, 512, 4, 1, 0, NULL, params, NULL), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuLaunchKernel(f, 1, 1, 1, 1, 1, 65, 0, NULL, params, NULL), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 49153, NULL, params, NULL), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL), CUDA_ERROR_INVALID_VALUE);
    FAILS(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (227 << 10) + 1),
          CUDA_ERROR_INVALID_VALUE);
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f, 256, 40 << 10));
    ck_assert_int_eq(blocks, 5);
    OK(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 227 << 10));
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f, 1024, 0));
    ck_assert_int_eq(blocks, 2);
    OK(cuLaunchKernel(f, 1, 1, 1, 1024, 1, 1, 227 << 10, NULL, params, NULL));
    OK(cuStreamSynchronize(NULL));
    OK(cuModuleUnload(module));
}
END_TEST

START_TEST(kernels_have_names_of_their_own)
{
    char name[65];
    memset(name, 'n', 64);
    name[64] = '\0';
    FAILS(simcuda_add_kernel(name, 8, scale), CUDA_ERROR_INVALID_VALUE);
    FAILS(simcuda_add_kernel(NULL, 8, scale), CUDA_ERROR_INVALID_VALUE);
    FAILS(simcuda_add_kernel("large", 5000, scale), CUDA_ERROR_INVALID_VALUE);
    FAILS(simcuda_launch(NULL, "none", NULL, NULL, 0), CUDA_ERROR_INVALID_VALUE);
    FAILS(simcuda_launch(NULL, "none", scale, NULL, 8), CUDA_ERROR_INVALID_VALUE);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {images_are_told_from_other_data, a_kernel_runs_with_its_parameters,
                                  launches_have_bounds, kernels_have_names_of_their_own, NULL};
    return run_suite("simcuda modules", tests);
}
