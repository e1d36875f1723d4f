/* SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>
#include <stddef.h>

#include "tile.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* State components that the operating system saves (Intel SDM vol. 1, 13.3): SSE and AVX; with AVX-512's three. */
#define XCR0_AVX    0x06u
#define XCR0_AVX512 0xe6u

static uint32_t xcr0(void)
{
    uint32_t eax, edx;

    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax;
}

static enum kern_isa detect(void)
{
    const uint32_t avx2_needs = bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C;
    const uint32_t avx512_needs = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    uint32_t eax, ebx, ecx, edx, ebx7, edx7, n_sub;

    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & avx2_needs) != avx2_needs)
        return KERN_ISA_SCALAR;
    const uint32_t saved = xcr0();
    if ((saved & XCR0_AVX) != XCR0_AVX || !__get_cpuid_count(7, 0, &n_sub, &ebx7, &ecx, &edx7) || !(ebx7 & bit_AVX2))
        return KERN_ISA_SCALAR;
    if ((saved & XCR0_AVX512) != XCR0_AVX512 || (ebx7 & avx512_needs) != avx512_needs)
        return KERN_ISA_AVX2;
    if (n_sub < 1 || !__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) || !(eax & 1u << 5)) /* AVX512_BF16 */
        return KERN_ISA_AVX512;
    return edx7 & 1u << 23 ? KERN_ISA_AVX512_FP16 : KERN_ISA_AVX512_BF16;
}
#else
static enum kern_isa detect(void)
{
    return KERN_ISA_SCALAR;
}
#endif

enum kern_isa kern_isa_best(void)
{
    /* The level + 1, 0 before the first call. Kept because cpuid leaves a virtual machine each time. */
    static atomic_int known;
    int level = atomic_load_explicit(&known, memory_order_relaxed);

    if (level == 0) {
        level = (int)detect() + 1;
        atomic_store_explicit(&known, level, memory_order_relaxed);
    }
    return (enum kern_isa)(level - 1);
}

const char *kern_isa_name(enum kern_isa isa)
{
    switch (isa) {
    case KERN_ISA_SCALAR:
        return "scalar";
    case KERN_ISA_AVX2:
        return "avx2";
    case KERN_ISA_AVX512:
        return "avx512";
    case KERN_ISA_AVX512_BF16:
        return "avx512_bf16";
    case KERN_ISA_AVX512_FP16:
        return "avx512_fp16";
    }
    return "unknown";
}

const struct kern_tile_ops *kern_tile_ops(enum kern_isa isa, enum kern_dtype dtype)
{
#if defined(__x86_64__)
    switch (isa) {
    case KERN_ISA_SCALAR:
        return &kern_tile_scalar;
    case KERN_ISA_AVX2:
        return &kern_tile_avx2;
    case KERN_ISA_AVX512:
        return &kern_tile_avx512;
    case KERN_ISA_AVX512_BF16:
    case KERN_ISA_AVX512_FP16:
        return dtype == KERN_BF16 ? &kern_tile_avx512_bf16 : &kern_tile_avx512;
    }
#endif
    (void)dtype;
    return &kern_tile_scalar;
}
