/* SPDX-License-Identifier: Apache-2.0
 *
 * The hook of dlsym. The C library's dlsym looks at its return address to know whose RTLD_NEXT and RTLD_DEFAULT are meant, so
 * it must be entered as if by the caller itself: a jump with the stack as it was. */
#include <dlfcn.h>
#include <stddef.h>

#include "shim/hook.h"
#include "shim/real.h"
#include "shim/start.h"
#include "shim/cuda/cuda.h"

/* What dlsym is to give, or NULL: what the real one gives. */
__attribute__((used)) void *shim_dlsym_filter(void *handle, const char *name);
void *shim_dlsym_filter(void *handle, const char *name)
{
    if (shim_inside || !name || name[0] != 'c' || name[1] != 'u')
        return NULL;
    void *hook = shim_cuda_dlsym(handle, name);
    if (hook)
        shim_say_gpu_refusal();
    return hook;
}

/* Where the trampoline jumps to. Not to the table's first entry: that one finds the real function, and calls it. */
__attribute__((used)) void *shim_dlsym_real(void);
void *shim_dlsym_real(void)
{
    static bool is_found;
    if (!__atomic_load_n(&is_found, __ATOMIC_RELAXED)) {
        shim_real_find();
        __atomic_store_n(&is_found, true, __ATOMIC_RELAXED);
    }
    return (void *)shim_real.dlsym;
}

#if defined(__x86_64__)
__asm__(".text\n"
        ".globl dlsym\n"
        ".type dlsym, @function\n"
        ".p2align 4\n"
        "dlsym:\n"
        "    .cfi_startproc\n"
        "    endbr64\n"
        "    pushq %rdi\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    pushq %rsi\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    subq $8, %rsp\n" /* calls are made with the stack at a multiple of 16 */
        "    .cfi_adjust_cfa_offset 8\n"
        "    call shim_dlsym_filter\n"
        "    testq %rax, %rax\n"
        "    jne 1f\n"
        "    call shim_dlsym_real\n"
        "    movq %rax, %r11\n"
        "    addq $8, %rsp\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    popq %rsi\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    popq %rdi\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    jmp *%r11\n"
        "1:\n"
        "    .cfi_adjust_cfa_offset 24\n"
        "    addq $24, %rsp\n"
        "    .cfi_adjust_cfa_offset -24\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size dlsym, . - dlsym\n");
#elif defined(__aarch64__)
__asm__(".text\n"
        ".globl dlsym\n"
        ".type dlsym, %function\n"
        ".p2align 4\n"
        "dlsym:\n"
        "    .cfi_startproc\n"
        "    stp x29, x30, [sp, -32]!\n"
        "    .cfi_def_cfa_offset 32\n"
        "    .cfi_offset 29, -32\n"
        "    .cfi_offset 30, -24\n"
        "    mov x29, sp\n"
        "    stp x0, x1, [sp, 16]\n"
        "    bl shim_dlsym_filter\n"
        "    cbnz x0, 1f\n"
        "    bl shim_dlsym_real\n"
        "    mov x16, x0\n"
        "    ldp x0, x1, [sp, 16]\n"
        "    ldp x29, x30, [sp], 32\n"
        "    .cfi_remember_state\n"
        "    .cfi_restore 29\n"
        "    .cfi_restore 30\n"
        "    .cfi_def_cfa_offset 0\n"
        "    br x16\n"
        "1:\n"
        "    .cfi_restore_state\n"
        "    ldp x29, x30, [sp], 32\n"
        "    .cfi_restore 29\n"
        "    .cfi_restore 30\n"
        "    .cfi_def_cfa_offset 0\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size dlsym, . - dlsym\n");
#else
#error "the shim's dlsym is written for x86-64 and aarch64"
#endif
