/* SPDX-License-Identifier: Apache-2.0
 *
 * How a test engine calls dlsym. Under a sanitizer, whose runtime itself looks functions up before anything else runs, no
 * library of instrumented code can stand before the C library's dlsym; there the engine asks the shim by name. Everywhere
 * else it is the preloaded dlsym. */
#ifndef TESTS_SHIM_CUDA_DLSYM_H
#define TESTS_SHIM_CUDA_DLSYM_H

#include <dlfcn.h>

#ifdef SHIM_TEST_LINKED
__attribute__((visibility("default"))) void *shim_test_dlsym(void *handle, const char *name);
#define dlsym shim_test_dlsym
#endif

#endif
