/* SPDX-License-Identifier: Apache-2.0
 *
 * Stacks that take turns on one thread: a kernel's threads. On x86-64 a switch saves the registers that a call preserves,
 * which is a hundred times faster than swapcontext() and its system calls; elsewhere it is swapcontext(). Code that runs on
 * them is compiled without sanitizers, which would have to be told of each switch. */
#ifndef TESTS_CUDA_EMULATION_FIBER_H
#define TESTS_CUDA_EMULATION_FIBER_H

#include <cstddef>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace emulation
{

class fiber
{
  public:
    /* The main stack, or one of its own that starts in entry(), which must not return. */
    fiber() = default;
    void start(void *stack, size_t bytes, void (*entry)());
    /* Goes on with this fiber until it switches back. `from` is the running one. */
    void resume(fiber &from);

  private:
#ifdef __x86_64__
    void *stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
};

} // namespace emulation

#endif
