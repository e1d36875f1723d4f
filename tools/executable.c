/* SPDX-License-Identifier: Apache-2.0
 *
 * Sources: elf(5), ld.so(8) on secure-execution mode, execve(2) on interpreter scripts. */
#include "tools/executable.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#elif defined(__aarch64__)
#define MACHINE EM_AARCH64
#else
#define MACHINE EM_NONE
#endif

#define MOST_SCRIPTS 5   /* scripts that run scripts; the kernel's own bound */
#define LINE_BYTES   256 /* of the first line of a script; the kernel's own bound */

static bool is_program(const char *path)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return false;
    if (S_ISREG(status.st_mode) && access(path, X_OK) == 0)
        return true;
    errno = EACCES;
    return false;
}

bool executable_find(const char *command, char *path, size_t size)
{
    if (strchr(command, '/')) {
        snprintf(path, size, "%s", command);
        return is_program(path);
    }
    const char *folders = getenv("PATH");
    int error = ENOENT;
    for (const char *at = folders ? folders : "/bin:/usr/bin";; at++) {
        size_t n = strcspn(at, ":");
        int written = snprintf(path, size, "%.*s%s%s", (int)n, at, n ? "/" : "", command);
        if (written > 0 && (size_t)written < size && is_program(path))
            return true;
        if (errno == EACCES)
            error = EACCES;
        at += n;
        if (!*at)
            break;
    }
    errno = error;
    return false;
}

struct image {
    const char *path;
    const unsigned char *bytes;
    size_t n_bytes;
    char *reason;
    size_t size;
};

static bool refuse(const struct image *image, const char *why)
{
    snprintf(image->reason, image->size, "%s %s", image->path, why);
    return false;
}

static bool within(const struct image *image, uint64_t offset, uint64_t bytes)
{
    return offset <= image->n_bytes && bytes <= image->n_bytes - offset;
}

/* ---- ELF ----------------------------------------------------------------------------------------------------- */

static const ElfW(Phdr) * segment_of(const struct image *image, unsigned type)
{
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)image->bytes;
    if (header->e_phentsize != sizeof(ElfW(Phdr)) || header->e_phoff % sizeof(uint64_t) != 0 ||
        !within(image, header->e_phoff, header->e_phnum * sizeof(ElfW(Phdr))))
        return NULL;
    const ElfW(Phdr) *segments = (const ElfW(Phdr) *)(image->bytes + header->e_phoff);
    for (size_t i = 0; i < header->e_phnum; i++) {
        if (segments[i].p_type == type && within(image, segments[i].p_offset, segments[i].p_filesz))
            return &segments[i];
    }
    return NULL;
}

/* The bytes of the file that are at an address in memory, and how many; NULL: none. */
static const unsigned char *at_address(const struct image *image, uint64_t address, size_t *n)
{
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)image->bytes;
    const ElfW(Phdr) *segments = (const ElfW(Phdr) *)(image->bytes + header->e_phoff);
    for (size_t i = 0; i < header->e_phnum; i++) {
        const ElfW(Phdr) *segment = &segments[i];
        if (segment->p_type != PT_LOAD || address < segment->p_vaddr ||
            address - segment->p_vaddr >= segment->p_filesz || !within(image, segment->p_offset, segment->p_filesz))
            continue;
        *n = segment->p_filesz - (address - segment->p_vaddr);
        return image->bytes + segment->p_offset + (address - segment->p_vaddr);
    }
    return NULL;
}

/* The sanitizer that the program is built with: the runtime is a library it needs, or is in it. NULL: none. */
static const char *sanitizer_of(const struct image *image)
{
    static const char *const marks[][2] = {
        {"libasan.so", "AddressSanitizer"},     {"__asan_init", "AddressSanitizer"},
        {"libtsan.so", "ThreadSanitizer"},      {"__tsan_init", "ThreadSanitizer"},
        {"__msan_init", "MemorySanitizer"},     {"libhwasan.so", "HWAddressSanitizer"},
        {"__hwasan_init", "HWAddressSanitizer"}};
    const ElfW(Phdr) *dynamic = segment_of(image, PT_DYNAMIC);
    if (!dynamic || dynamic->p_offset % sizeof(uint64_t) != 0)
        return NULL;
    const ElfW(Dyn) *entries = (const ElfW(Dyn) *)(image->bytes + dynamic->p_offset);
    uint64_t strings = 0, bytes = 0;
    for (size_t i = 0; i < dynamic->p_filesz / sizeof *entries && entries[i].d_tag != DT_NULL; i++) {
        if (entries[i].d_tag == DT_STRTAB)
            strings = entries[i].d_un.d_ptr;
        if (entries[i].d_tag == DT_STRSZ)
            bytes = entries[i].d_un.d_val;
    }
    size_t n;
    const unsigned char *text = at_address(image, strings, &n);
    if (!text || bytes > n)
        return NULL;
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        if (memmem(text, bytes, marks[i][0], strlen(marks[i][0])))
            return marks[i][1];
    }
    return NULL;
}

static bool elf_takes_preload(const struct image *image)
{
    if (image->n_bytes < EI_NIDENT || image->bytes[EI_CLASS] != ELFCLASS64)
        return refuse(image, "is a 32-bit program: kvmm works with 64-bit ones only");
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)image->bytes;
    if (image->n_bytes < sizeof *header || header->e_machine != MACHINE)
        return refuse(image, "is a program for another kind of machine");
    const ElfW(Phdr) *interpreter = segment_of(image, PT_INTERP);
    if (!interpreter)
        return refuse(image, "is linked statically: there is no loader that could preload a library");
    const char *loader = (const char *)image->bytes + interpreter->p_offset;
    if (memmem(loader, interpreter->p_filesz, "ld-musl", 7))
        return refuse(image, "is built for musl: the shim needs the GNU C library");
    const char *sanitizer = sanitizer_of(image);
    if (sanitizer) {
        char why[100];
        snprintf(why, sizeof why, "is built with %s, which can't be used together with kvmm", sanitizer);
        return refuse(image, why);
    }
    return true;
}

/* ---- Programs that run with another user's rights ------------------------------------------------------------ */

static bool is_trusted(const struct image *image, const struct stat *status)
{
    if ((status->st_mode & S_ISUID) && status->st_uid != getuid())
        return refuse(image, "is setuid: the loader preloads nothing under it");
    if ((status->st_mode & S_ISGID) && (status->st_mode & S_IXGRP) && status->st_gid != getgid())
        return refuse(image, "is setgid: the loader preloads nothing under it");
    if (getuid() != 0 && getxattr(image->path, "security.capability", NULL, 0) > 0)
        return refuse(image, "has file capabilities: the loader preloads nothing under it");
    return true;
}

/* ---- Scripts ------------------------------------------------------------------------------------------------- */

/* What the first line names: the interpreter, or what env is to run. False: nothing that could be looked at. */
static bool interpreter_of(const struct image *image, char *path, size_t size)
{
    char line[LINE_BYTES];
    size_t n = image->n_bytes - 2 < sizeof line - 1 ? image->n_bytes - 2 : sizeof line - 1;
    memcpy(line, image->bytes + 2, n);
    line[n] = '\0';
    line[strcspn(line, "\n")] = '\0';
    char *rest;
    const char *word = strtok_r(line, " \t", &rest);
    if (!word)
        return false;
    const char *name = strrchr(word, '/');
    if (strcmp(name ? name + 1 : word, "env") == 0) {
        do
            word = strtok_r(NULL, " \t", &rest);
        while (word && (word[0] == '-' || strchr(word, '=')));
        if (!word)
            return false;
    }
    return executable_find(word, path, size);
}

static bool image_takes_preload(const struct image *image, const struct stat *status, char *next, size_t size)
{
    next[0] = '\0';
    if (image->n_bytes >= SELFMAG && memcmp(image->bytes, ELFMAG, SELFMAG) == 0)
        return is_trusted(image, status) && elf_takes_preload(image);
    if (image->n_bytes > 2 && image->bytes[0] == '#' && image->bytes[1] == '!' && !interpreter_of(image, next, size))
        next[0] = '\0'; /* execve will say what is wrong with it */
    return true;
}

/* next: the interpreter to look at, or "". */
static bool file_takes_preload(const char *path, char *next, size_t next_size, char *reason, size_t size)
{
    next[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return true; /* it may be run, but not read */
    struct stat status;
    struct image image = {.path = path, .size = size};
    image.reason = reason;
    void *bytes = MAP_FAILED;
    if (fstat(fd, &status) == 0 && status.st_size > 0)
        bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (bytes == MAP_FAILED)
        return true;
    image.bytes = bytes;
    image.n_bytes = (size_t)status.st_size;
    bool takes = image_takes_preload(&image, &status, next, next_size);
    munmap(bytes, image.n_bytes);
    return takes;
}

bool executable_takes_preload(const char *path, char *reason, size_t size)
{
    char at[PATH_MAX], next[PATH_MAX];
    snprintf(at, sizeof at, "%s", path);
    for (int i = 0; i < MOST_SCRIPTS; i++) {
        if (!file_takes_preload(at, next, sizeof next, reason, size))
            return false;
        if (!next[0])
            return true;
        memcpy(at, next, sizeof at);
    }
    return true;
}
