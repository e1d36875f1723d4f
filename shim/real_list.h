/* SPDX-License-Identifier: Apache-2.0
 *
 * The C library's functions that the shim interposes, once: hooks, the table of real functions, what the linker is told
 * (meson.build reads the names in the lines that begin with X) and the test of what is exported follow from these lists.
 *
 * X(type, name, parameters, arguments, what it returns where no library has it)
 *
 * The first list: functions that hand memory from one to another; within a process all must be of one allocator. */
#ifndef SHIM_REAL_LIST_H
#define SHIM_REAL_LIST_H

#define SHIM_REAL_ALLOCATOR(X)                                                                                         \
    X(void *, malloc, (size_t bytes), (bytes), NULL)                                                                   \
    X(void *, calloc, (size_t n, size_t bytes), (n, bytes), NULL)                                                      \
    X(void *, realloc, (void *address, size_t bytes), (address, bytes), NULL)                                          \
    X(void, free, (void *address), (address), )                                                                        \
    X(int, posix_memalign, (void **address, size_t alignment, size_t bytes), (address, alignment, bytes), ENOSYS)      \
    X(void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes), NULL)                               \
    X(void *, memalign, (size_t alignment, size_t bytes), (alignment, bytes), NULL)                                    \
    X(void *, valloc, (size_t bytes), (bytes), NULL)                                                                   \
    X(void *, pvalloc, (size_t bytes), (bytes), NULL)                                                                  \
    X(size_t, malloc_usable_size, (void *address), (address), 0)

#define SHIM_REAL_SYSTEM(X)                                                                                            \
    X(void *, memset, (void *address, int byte, size_t bytes), (address, byte, bytes), address)                        \
    X(void *, __memset_chk, (void *address, int byte, size_t bytes, size_t room), (address, byte, bytes, room),        \
      address)                                                                                                         \
    X(void, bzero, (void *address, size_t bytes), (address, bytes), )                                                  \
    X(void *, mmap, (void *address, size_t bytes, int access, int flags, int fd, off_t offset),                        \
      (address, bytes, access, flags, fd, offset), MAP_FAILED)                                                         \
    X(void *, mmap64, (void *address, size_t bytes, int access, int flags, int fd, off64_t offset),                    \
      (address, bytes, access, flags, fd, offset), MAP_FAILED)                                                         \
    X(int, munmap, (void *address, size_t bytes), (address, bytes), -1)                                                \
    X(void *, mremap, (void *address, size_t bytes, size_t new_bytes, int flags, void *to),                            \
      (address, bytes, new_bytes, flags, to), MAP_FAILED)                                                              \
    X(int, madvise, (void *address, size_t bytes, int advice), (address, bytes, advice), -1)                           \
    X(int, mlock, (const void *address, size_t bytes), (address, bytes), -1)                                           \
    X(int, mlock2, (const void *address, size_t bytes, unsigned flags), (address, bytes, flags), -1)                   \
    X(int, munlock, (const void *address, size_t bytes), (address, bytes), -1)                                         \
    X(int, mlockall, (int flags), (flags), -1)                                                                         \
    X(int, munlockall, (void), (), -1)                                                                                 \
    X(void *, dlsym, (void *handle, const char *name), (handle, name), NULL)

#endif
