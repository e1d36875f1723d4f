/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernels/cuda_emulation/fiber.hpp"

#include <cstdint>

namespace emulation
{

#ifdef __x86_64__
extern "C" void emulation_switch(void **save, void *go);
/* System V ABI, 3.2.1: a callee preserves rbx, rbp, r12 to r15. */
__asm__(R"(
    .text
    .type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulation_switch, . - emulation_switch
)");
#endif

void fiber::start(void *stack, size_t bytes, void (*entry)())
{
#ifdef __x86_64__
    /* entry() must find the stack as behind a call: 8 bytes off a multiple of 16. */
    uintptr_t *top = reinterpret_cast<uintptr_t *>(static_cast<char *>(stack) + bytes) - 2;
    *top = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < 6; i++)
        *--top = 0;
    stack_pointer = top;
#else
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
#endif
}

void fiber::resume(fiber &from)
{
#ifdef __x86_64__
    emulation_switch(&from.stack_pointer, stack_pointer);
#else
    swapcontext(&from.context, &context);
#endif
}

} // namespace emulation
