/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls of inlined functions whose first argument must be a constant. */
#ifndef KERN_DISPATCH_H
#define KERN_DISPATCH_H

/* f(n, …) for n in 1 … 6; nothing for 0. */
#define BY_COUNT(n, f, ...)                                                                                            \
    do {                                                                                                               \
        switch (n) {                                                                                                   \
        case 1:                                                                                                        \
            f(1, __VA_ARGS__);                                                                                         \
            break;                                                                                                     \
        case 2:                                                                                                        \
            f(2, __VA_ARGS__);                                                                                         \
            break;                                                                                                     \
        case 3:                                                                                                        \
            f(3, __VA_ARGS__);                                                                                         \
            break;                                                                                                     \
        case 4:                                                                                                        \
            f(4, __VA_ARGS__);                                                                                         \
            break;                                                                                                     \
        case 5:                                                                                                        \
            f(5, __VA_ARGS__);                                                                                         \
            break;                                                                                                     \
        case 6:                                                                                                        \
            f(6, __VA_ARGS__);                                                                                         \
            break;                                                                                                     \
        default:                                                                                                       \
            break;                                                                                                     \
        }                                                                                                              \
    } while (0)

/* f(dtype, …); ONE_DTYPE is defined where all code is for one. */
#if defined(ONE_DTYPE)
#define BY_DTYPE(dtype, f, ...) f(ONE_DTYPE, __VA_ARGS__)
#else
#define BY_DTYPE(dtype, f, ...)                                                                                        \
    do {                                                                                                               \
        switch (dtype) {                                                                                               \
        case KERN_F16:                                                                                                 \
            f(KERN_F16, __VA_ARGS__);                                                                                  \
            break;                                                                                                     \
        case KERN_BF16:                                                                                                \
            f(KERN_BF16, __VA_ARGS__);                                                                                 \
            break;                                                                                                     \
        case KERN_F32:                                                                                                 \
            f(KERN_F32, __VA_ARGS__);                                                                                  \
            break;                                                                                                     \
        }                                                                                                              \
    } while (0)
#endif

#endif
