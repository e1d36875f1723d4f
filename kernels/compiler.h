/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KERN_COMPILER_H
#define KERN_COMPILER_H

/* The inner loops keep arrays in registers: that takes inlining with constant bounds and whole unrolling. */
#define INLINE       inline __attribute__((always_inline))
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define UNROLL(n) PRAGMA(clang loop unroll(full))
#else
#define UNROLL(n) PRAGMA(GCC unroll n)
#endif

#endif
